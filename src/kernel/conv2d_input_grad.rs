//! The cotangent of a convolution's input:
//! `dx[c, (n, y, x)] = Σ w[o, c, i, j] · ct[n, o, (y + pad - i·dilation) / stride, ...]`, per
//! group, over the taps for which the division leaves no remainder.
//!
//! Positions that are equal modulo the stride meet the same taps, so each such phase is a product
//! of its own, with a part of the filter and without multiplications by zero.

use crate::graph::Conv2d;
use crate::kernel::gemm::{self, Extents, Gemm, Isa, Layout, Matrix, Operand, Target, Windows};
use crate::kernel::{Epilogue, depthwise, thinned, winograd};
use crate::threads::{Parts, Threads};

/// Elements that one task passes through the epilogue when it is a pass of its own.
const RUN: usize = 4096;

/// One axis of a phase: input positions `first, first + stride, ..` and the taps they meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// First input position.
    pub first: usize,
    /// Number of input positions.
    pub positions: usize,
    /// First tap.
    pub tap: usize,
    /// From one tap to the next.
    pub tap_stride: usize,
    /// Number of taps.
    pub taps: usize,
    /// Where the first tap meets the output for the first position.
    pub origin: isize,
    /// From one tap to the next in the output.
    pub step: isize,
}

impl Axis {
    pub fn new(g: &Conv2d, axis: usize, first: usize) -> Self {
        let (stride, dilation) = (g.stride[axis], g.dilation[axis]);
        let offset = |tap: usize| (first + g.pad[axis]) as isize - (tap * dilation) as isize;
        let tap_stride = stride / gcd(stride, dilation);
        let tap = (0..tap_stride.min(g.kernel[axis]))
            .find(|&tap| offset(tap).rem_euclid(stride as isize) == 0)
            .unwrap_or(g.kernel[axis]);
        Axis {
            first,
            positions: g.input[axis].saturating_sub(first).div_ceil(stride),
            tap,
            tap_stride,
            taps: (g.kernel[axis] - tap).div_ceil(tap_stride),
            origin: offset(tap).div_euclid(stride as isize),
            step: -((dilation * tap_stride / stride) as isize),
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn phases(g: &Conv2d) -> impl Iterator<Item = [Axis; 2]> {
    (0..g.stride[0] * g.stride[1])
        .map(|phase| [Axis::new(g, 0, phase / g.stride[1]), Axis::new(g, 1, phase % g.stride[1])])
}

/// The rows are input channels, the columns positions of one phase in all images.
fn extents(g: &Conv2d, [y, x]: &[Axis; 2]) -> Extents {
    Extents {
        groups: g.groups,
        segments: 1,
        m: g.in_channels / g.groups,
        n: g.batch * y.positions * x.positions,
        k: g.out_channels / g.groups * y.taps * x.taps,
    }
}

/// Elements of scratch that [`conv2d_input_grad`] needs.
pub fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    scratch_len_on(Isa::best(), g, workers)
}

/// [`scratch_len`] on a chosen instruction set.
pub(crate) fn scratch_len_on(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    if depthwise::applies(g) {
        return depthwise::input_grad_scratch_len(g, workers);
    }
    if winograd::applies(g) {
        return winograd::input_grad_scratch_len(isa, g, workers);
    }
    if let Some(thinned) = thinned::geometry(g) {
        return thinned::scratch_len(&thinned) + scratch_len_on(isa, &thinned, workers);
    }
    let len = |phase| gemm::scratch_len(isa, &extents(g, &phase), workers);
    phases(g).map(len).max().unwrap_or(0)
}

/// Overwrites `out: [N, C, H, W]` with the cotangent of the input, from the result's cotangent
/// `ct: [N, O, OH, OW]` and `w: [O, C/groups, KH, KW]`, each element passed through the epilogue
/// once.
///
/// # Panics
/// When a slice does not have the length that `g` says.
pub fn conv2d_input_grad(
    threads: &Threads,
    g: &Conv2d,
    ct: &[f32],
    w: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    conv2d_input_grad_on(Isa::best(), threads, g, (ct, w), out, scratch, epilogue);
}

/// [`conv2d_input_grad`] on a chosen instruction set.
pub(crate) fn conv2d_input_grad_on(
    isa: &'static Isa,
    threads: &Threads,
    g: &Conv2d,
    (ct, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    assert_eq!(ct.len(), g.output_shape().len(), "length of ct");
    assert_eq!(w.len(), g.filter_shape().len(), "length of w");
    assert_eq!(out.len(), g.input_shape().len(), "length of out");
    if depthwise::applies(g) {
        return depthwise::input_grad(isa, threads, g, (ct, w), out, scratch, epilogue);
    }
    if winograd::applies(g) {
        return winograd::input_grad(isa, threads, g, (ct, w), out, scratch, epilogue);
    }
    if let Some(thinned) = thinned::geometry(g) {
        let [planes, scratch] = thinned::split(&thinned, scratch);
        conv2d_input_grad_on(isa, threads, &thinned, (ct, w), planes, scratch, None);
        thinned::spread(threads, g, planes, out);
        return epilogue.into_iter().for_each(|epilogue| finish(threads, out, epilogue));
    }
    let one_phase = g.stride == [1, 1];
    for phase in phases(g) {
        let product = Gemm {
            isa,
            extents: extents(g, &phase),
            a: Operand::Matrix(filter(g, &phase, w)),
            b: Operand::Windows(windows(g, &phase, ct)),
        };
        let epilogue = epilogue.filter(|_| one_phase);
        gemm::gemm(threads, &product, &target(g, &phase, out, epilogue), scratch);
    }
    if let (Some(epilogue), false) = (epilogue, one_phase) {
        finish(threads, out, epilogue);
    }
}

/// The part of the filter that a phase meets, `[c, (o, i, j)]`.
fn filter<'a>(g: &Conv2d, [y, x]: &[Axis; 2], w: &'a [f32]) -> Matrix<'a> {
    let taps = g.kernel[0] * g.kernel[1];
    let in_channels = g.in_channels / g.groups;
    Matrix {
        data: w,
        start: y.tap * g.kernel[1] + x.tap,
        group_stride: g.out_channels / g.groups * in_channels * taps,
        lane_stride: taps,
        k_extents: [y.taps, x.taps],
        k_strides: [in_channels * taps, y.tap_stride * g.kernel[1], x.tap_stride],
    }
}

/// The windows of the result's cotangent that a phase meets.
fn windows<'a>(g: &Conv2d, [y, x]: &[Axis; 2], ct: &'a [f32]) -> Windows<'a> {
    let plane = g.output[0] * g.output[1];
    Windows {
        data: ct,
        group_stride: g.out_channels / g.groups * plane,
        image_stride: g.out_channels * plane,
        plane: g.output,
        grid: [y.positions, x.positions],
        stride: [1, 1],
        origin: [y.origin, x.origin],
        taps: [y.taps, x.taps],
        tap_step: [y.step, x.step],
    }
}

fn target<'a>(
    g: &Conv2d,
    [y, x]: &[Axis; 2],
    out: &'a mut [f32],
    epilogue: Option<&'a dyn Epilogue>,
) -> Target<'a> {
    let plane = g.input[0] * g.input[1];
    let layout = match g.stride {
        [1, 1] => Layout::Dense,
        [rows, columns] => Layout::Grid {
            width: x.positions,
            start: y.first * g.input[1] + x.first,
            rows: rows * g.input[1],
            columns,
        },
    };
    Target {
        out: Parts::new(out),
        batch_stride: g.in_channels / g.groups * plane,
        row_stride: plane,
        image_len: y.positions * x.positions,
        image_stride: g.in_channels * plane,
        layout,
        epilogue,
    }
}

/// Passes all of `out` through the epilogue.
fn finish(threads: &Threads, out: &mut [f32], epilogue: &dyn Epilogue) {
    let len = out.len();
    let out = Parts::new(out);
    threads.run(len.div_ceil(RUN), |task, worker| {
        let start = task * RUN;
        // SAFETY: each task has its own run.
        let run = unsafe { out.part(start, RUN.min(len - start)) };
        epilogue.apply_in_place(start, run, worker);
    });
}
