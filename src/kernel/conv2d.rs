//! Convolution (cross-correlation) as a product without an im2col matrix:
//! `out[o, (n, y, x)] = Σ w[o, (c, i, j)] · x[n, c, y·stride + i·dilation - pad, ...]`, per group.

use crate::graph::Conv2d;
use crate::kernel::gemm::{self, Extents, Gemm, Isa, Layout, Matrix, Operand, Target, Windows};
use crate::kernel::{Epilogue, depthwise, winograd};
use crate::threads::{Parts, Threads};

/// The rows are output channels, the columns positions of all images.
fn extents(g: &Conv2d) -> Extents {
    Extents {
        groups: g.groups,
        segments: 1,
        m: g.out_channels / g.groups,
        n: g.batch * g.output[0] * g.output[1],
        k: g.in_channels / g.groups * g.kernel[0] * g.kernel[1],
    }
}

/// Elements of scratch that [`conv2d`] needs.
pub fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    scratch_len_on(Isa::best(), g, workers)
}

/// [`scratch_len`] on a chosen instruction set.
pub(crate) fn scratch_len_on(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    if depthwise::applies(g) {
        return depthwise::scratch_len(g, workers);
    }
    if winograd::applies(g) {
        return winograd::scratch_len(isa, g, workers);
    }
    gemm::scratch_len(isa, &extents(g), workers)
}

/// Overwrites `out: [N, O, OH, OW]` with the convolution of `x: [N, C, H, W]` and
/// `w: [O, C/groups, KH, KW]`, each element passed through the epilogue once.
///
/// # Panics
/// When a slice does not have the length that `g` says.
pub fn conv2d(
    threads: &Threads,
    g: &Conv2d,
    x: &[f32],
    w: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    conv2d_on(Isa::best(), threads, g, (x, w), out, scratch, epilogue);
}

/// [`conv2d`] on a chosen instruction set.
pub(crate) fn conv2d_on(
    isa: &'static Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    assert_eq!(x.len(), g.input_shape().len(), "length of x");
    assert_eq!(w.len(), g.filter_shape().len(), "length of w");
    assert_eq!(out.len(), g.output_shape().len(), "length of out");
    if depthwise::applies(g) {
        return depthwise::forward(isa, threads, g, (x, w), out, scratch, epilogue);
    }
    if winograd::applies(g) {
        return winograd::forward(isa, threads, g, (x, w), out, scratch, epilogue);
    }
    let extents = extents(g);
    let filter = Matrix {
        data: w,
        start: 0,
        group_stride: extents.m * extents.k,
        lane_stride: extents.k,
        k_extents: [1, extents.k],
        k_strides: [0, 0, 1],
    };
    let product =
        Gemm { isa, extents, a: Operand::Matrix(filter), b: Operand::Windows(windows(g, x)) };
    let out_plane = g.output[0] * g.output[1];
    let target = Target {
        out: Parts::new(out),
        batch_stride: extents.m * out_plane,
        row_stride: out_plane,
        image_len: out_plane,
        image_stride: g.out_channels * out_plane,
        layout: Layout::Dense,
        epilogue,
    };
    gemm::gemm(threads, &product, &target, scratch);
}

/// The windows that the filter is laid over.
pub(super) fn windows<'a>(g: &Conv2d, x: &'a [f32]) -> Windows<'a> {
    let plane = g.input[0] * g.input[1];
    Windows {
        data: x,
        group_stride: g.in_channels / g.groups * plane,
        image_stride: g.in_channels * plane,
        plane: g.input,
        grid: g.output,
        stride: g.stride,
        origin: g.pad.map(|pad| -(pad as isize)),
        taps: g.kernel,
        tap_step: g.dilation.map(|dilation| dilation as isize),
    }
}
