//! The cotangent of a convolution's filter:
//! `dw[o, (c, i, j)] = Σ ct[o, (n, y, x)] · x[n, c, y·stride + i·dilation - pad, ...]`, per group.

mod shifted;

use crate::graph::Conv2d;
use crate::kernel::conv2d::windows;
use crate::kernel::gemm::dots::{Dots, Rows, Sum};
use crate::kernel::gemm::{self, Extents, Gemm, Isa, Layout, Operand, Target, Windows};
use crate::kernel::{depthwise, thinned, winograd};
use crate::threads::{Parts, Threads};

/// Products wanted; few small filters are summed in segments to get as many.
const TASKS_WANTED: usize = 32;
/// Rows or columns of a filter that make a task of their own.
const TASK_EXTENT: usize = 64;
/// Shortest segment of the sum.
const SEGMENT_MIN: usize = 2048;

/// The rows are output channels, the columns filter elements, the sum is over positions.
fn extents(g: &Conv2d) -> Extents {
    let m = g.out_channels / g.groups;
    let n = g.in_channels / g.groups * g.kernel[0] * g.kernel[1];
    let k = g.batch * g.output[0] * g.output[1];
    let tasks = g.groups * m.div_ceil(TASK_EXTENT) * n.div_ceil(TASK_EXTENT);
    let segments = (TASKS_WANTED / tasks.max(1)).min(k / SEGMENT_MIN).max(1);
    Extents { groups: g.groups, segments, m, n, k }
}

/// Whether both sides are rows of neighbouring positions.
fn has_plain_rows(g: &Conv2d) -> bool {
    g.groups == 1 && windows(g, &[]).is_plain()
}

/// Elements of partial sums.
fn partial_len(extents: &Extents) -> usize {
    match extents.segments {
        1 => 0,
        _ => extents.batch() * extents.m * extents.n,
    }
}

/// Elements of scratch that [`conv2d_filter_grad`] needs.
pub fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    scratch_len_on(Isa::best(), g, workers)
}

/// [`scratch_len`] on a chosen instruction set.
pub(crate) fn scratch_len_on(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    if depthwise::applies(g) {
        return depthwise::filter_grad_scratch_len(g, workers);
    }
    if winograd::applies(g) {
        return winograd::filter_grad_scratch_len(isa, g, workers);
    }
    if let Some(thinned) = thinned::geometry(g) {
        return thinned::scratch_len(&thinned) + scratch_len_on(isa, &thinned, workers);
    }
    if has_plain_rows(g) {
        let rows = [g.out_channels, g.in_channels];
        return Sum::scratch_len(rows, g.batch, g.output[0] * g.output[1], workers);
    }
    if shifted::applies(g) {
        return shifted::scratch_len(g, workers);
    }
    let extents = extents(g);
    partial_len(&extents) + gemm::scratch_len(isa, &extents, workers)
}

/// Overwrites `out: [O, C/groups, KH, KW]` with the cotangent of the filter, from
/// `x: [N, C, H, W]` and the result's cotangent `ct: [N, O, OH, OW]`.
///
/// # Panics
/// When a slice does not have the length that `g` says.
pub fn conv2d_filter_grad(
    threads: &Threads,
    g: &Conv2d,
    x: &[f32],
    ct: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    conv2d_filter_grad_on(Isa::best(), threads, g, (x, ct), out, scratch);
}

/// [`conv2d_filter_grad`] on a chosen instruction set.
pub(crate) fn conv2d_filter_grad_on(
    isa: &'static Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, ct): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    assert_eq!(x.len(), g.input_shape().len(), "length of x");
    assert_eq!(ct.len(), g.output_shape().len(), "length of ct");
    assert_eq!(out.len(), g.filter_shape().len(), "length of out");
    if depthwise::applies(g) {
        return depthwise::filter_grad(isa, threads, g, (x, ct), out, scratch);
    }
    if winograd::applies(g) {
        return winograd::filter_grad(isa, threads, g, (x, ct), out, scratch);
    }
    if let Some(thinned) = thinned::geometry(g) {
        let [planes, scratch] = thinned::split(&thinned, scratch);
        thinned::gather(threads, g, x, planes);
        return conv2d_filter_grad_on(isa, threads, &thinned, (planes, ct), out, scratch);
    }
    if has_plain_rows(g) {
        let (rows, len) = ([g.out_channels, g.in_channels], g.output[0] * g.output[1]);
        let (a, b) = (Rows::dense(ct, rows[0], len), Rows::dense(x, rows[1], len));
        let mut sum = Sum::new(threads, rows, [g.batch, len], out, scratch);
        sum.add(&Dots { isa, a, b, images: g.batch, len });
        return sum.finish();
    }
    if shifted::applies(g) {
        return shifted::filter_grad(isa, threads, g, (x, ct), out, scratch);
    }
    let extents = extents(g);
    let plane = g.output[0] * g.output[1];
    let positions = Windows {
        data: ct,
        group_stride: extents.m * plane,
        image_stride: g.out_channels * plane,
        plane: g.output,
        grid: g.output,
        stride: [1, 1],
        origin: [0, 0],
        taps: [1, 1],
        tap_step: [0, 0],
    };
    let product = Gemm {
        isa,
        extents,
        a: Operand::WindowsTransposed(positions),
        b: Operand::WindowsTransposed(windows(g, x)),
    };
    let (partial, scratch) = scratch.split_at_mut(partial_len(&extents));
    let one_segment = extents.segments == 1;
    let target = Target {
        out: Parts::new(if one_segment { &mut *out } else { &mut *partial }),
        batch_stride: extents.m * extents.n,
        row_stride: extents.n,
        image_len: extents.n,
        image_stride: 0,
        layout: Layout::Dense,
        epilogue: None,
    };
    gemm::gemm(threads, &product, &target, scratch);
    if !one_segment {
        gemm::add_segments(threads, extents.segments, extents.m * extents.n, partial, out);
    }
}
