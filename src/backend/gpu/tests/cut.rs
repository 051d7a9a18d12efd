//! Tests of how launches are cut where a binding ends.

use super::{LIMITS, validated};
use crate::backend::gpu::launch::{Access, Bound, Launch};
use crate::backend::gpu::lower::{Limits, lower};
use crate::graph::{Conv2d, Indices, MatMul, PadAxis, Pool2d, Reduction, Slice};
use crate::kernel::Kernel;
use crate::kernel::matmul::Product;
use crate::kernel::reduce::Reduce;
use crate::kernel::tape::{Source, Tape, View};

/// A device that binds little.
const NARROW: Limits = Limits { binding: 1000, align: 64, ..LIMITS };

/// The largest elements along the middle axis of a sum with what is broadcast along the first.
fn reduction() -> Kernel {
    let tape = Tape {
        extents: vec![3, 7, 1009],
        views: vec![View(vec![7063, 1009, 1]), View(vec![0, 1009, 1])],
        results: vec![Source::Input(0)],
        ..Tape::default()
    };
    Kernel::Reduce(Reduce { tape, output: View(vec![1009, 0, 1]), how: Reduction::Max })
}

/// Kernels whose operands and results are larger than [`NARROW`] binds.
fn kernels() -> Vec<Kernel> {
    let indices = Indices { axis: 1, rows: [4, 0, 4, 2].into() };
    let pads = vec![PadAxis { low: 1100, high: 900, interior: 2 }, PadAxis::default()];
    let slice = Slice { axis: 1, start: 1, end: 700, step: 3 };
    let how = MatMul { transpose_a: true, transpose_b: false };
    let depthwise = Conv2d {
        batch: 9,
        in_channels: 4,
        out_channels: 4,
        groups: 4,
        input: [8, 8],
        output: [8, 8],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
    };
    // Images of which no few start where a window may.
    let odd = Conv2d {
        in_channels: 1,
        out_channels: 2,
        groups: 1,
        input: [15, 15],
        output: [15, 15],
        ..depthwise
    };
    let pool = Pool2d {
        batch: 9,
        channels: 1,
        input: [15, 15],
        output: [15, 15],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
    };
    let rows = Product { batch: 1, m: 13, n: 3, k: 301, how: MatMul::default() };
    vec![
        Kernel::Conv2d(odd, None),
        Kernel::Conv2dInputGrad(odd, None),
        Kernel::Conv2dFilterGrad(odd),
        Kernel::MaxPool(pool),
        Kernel::MaxPoolGrad(pool),
        Kernel::SumPoolGrad(pool),
        Kernel::LogSoftmax { rows: 9, columns: 225 },
        Kernel::MatMul(rows, None),
        reduction(),
        Kernel::Transpose { shape: [3, 41, 47].into(), perm: vec![2, 0, 1] },
        Kernel::Slice { shape: [30, 701, 2].into(), slice },
        Kernel::Pad { shape: [403, 3].into(), axes: pads },
        Kernel::Concat { shapes: vec![[3, 1100].into(), [3, 1].into()], axis: 1 },
        Kernel::Gather { shape: [3, 5, 701].into(), indices: indices.clone() },
        Kernel::ScatterAdd { shape: [3, 5, 701].into(), indices },
        Kernel::MatMul(Product { batch: 1, m: 28, n: 30, k: 301, how }, None),
        Kernel::Conv2dFilterGrad(depthwise),
    ]
}

/// The bound elements of operands and results: which, how, and from where to where.
fn windows(kernel: &Kernel, launch: &Launch) -> Vec<(usize, Access, std::ops::Range<usize>)> {
    let (reads, writes) = kernel.binding_lens();
    let bindings = launch.bindings.iter().filter_map(|binding| {
        let (number, len) = match binding.bound {
            Bound::Operand(operand) => (operand, reads[operand]),
            Bound::Result(result) => (result, writes[result]),
            _ => return None,
        };
        let len = len.expect("a length");
        let (start, bound) = binding.window.unwrap_or((0, len));
        assert!(start + bound <= len, "{}: the window is inside", kernel.name());
        Some((number, binding.access, start..start + bound))
    });
    bindings.collect()
}

#[test]
fn windows_start_aligned_fit_a_binding_and_cover_the_result() {
    for kernel in kernels() {
        let name = kernel.name();
        let launches = lower(&kernel, &NARROW).expect("launches");
        assert!(launches.len() > 2, "{name} is cut");
        let mut covered = vec![false; kernel.binding_lens().1[0].expect("a length")];
        for launch in &launches {
            validated(&launch.program);
            for (_, access, window) in windows(&kernel, launch) {
                assert!(window.start.is_multiple_of(NARROW.align), "{name}: {window:?}");
                assert!(window.len() <= NARROW.binding, "{name}: {window:?}");
                if access == Access::Write {
                    covered[window].fill(true);
                }
            }
        }
        assert!(covered.iter().all(|&covered| covered), "{name}: the whole result");
        // One launch for each operand where everything can be bound.
        let whole = lower(&kernel, &LIMITS).expect("launches");
        assert!(whole.len() <= 2 && whole.len() < launches.len(), "{name}: {}", whole.len());
        assert!(whole.iter().flat_map(|l| &l.bindings).all(|b| b.window.is_none()), "{name}");
    }
}

#[test]
fn what_cannot_be_cut_or_numbered_is_refused() {
    // An alignment beyond the binding, and more than 32 bits count.
    let limits = Limits { binding: 60, ..NARROW };
    for kernel in kernels() {
        let error = lower(&kernel, &limits).expect_err("no window starts aligned").to_string();
        assert!(error.contains("240 bytes"), "{}: {error}", kernel.name());
    }
    let long = Kernel::Transpose { shape: [1 << 17, 1 << 16].into(), perm: vec![1, 0] };
    let error = lower(&long, &LIMITS).expect_err("2^33 elements").to_string();
    assert!(error.contains("8589934592") && error.contains("4294967295"), "{error}");
}
