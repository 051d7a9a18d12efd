//! Gradients of convolutions with 1x1 filters and a stride, as those with stride 1 of planes that
//! hold only the elements under a filter.

use super::vectorised::{Vectorised, widest};
use super::{Epilogue, gemm::LINE};
use crate::graph::Conv2d;
use crate::threads::{Parts, Threads};

/// The convolution of thinned planes, if one is of this kind and has a result for each element that
/// its stride comes upon, and for no others.
pub(super) fn geometry(g: &Conv2d) -> Option<Conv2d> {
    let points = g.kernel == [1, 1] && g.stride != [1, 1] && g.pad == [0, 0] && g.groups == 1;
    let all = (0..2)
        .all(|axis| g.input[axis] > 0 && g.output[axis] == g.input[axis].div_ceil(g.stride[axis]));
    (points && all).then_some(Conv2d { input: g.output, stride: [1, 1], ..*g })
}

/// Elements of scratch for thinned planes.
pub(super) fn scratch_len(thinned: &Conv2d) -> usize {
    thinned.input_shape().len().next_multiple_of(LINE)
}

/// Copies the elements of `x` that are under a filter to scratch; returns them and the rest of it.
pub(super) fn gather<'a>(
    threads: &Threads,
    g: &Conv2d,
    thinned: &Conv2d,
    x: &[f32],
    scratch: &'a mut [f32],
) -> (&'a [f32], &'a mut [f32]) {
    let (to, rest) = scratch.split_at_mut(scratch_len(thinned));
    let to = &mut to[..thinned.input_shape().len()];
    let planes = [g.input, thinned.input].map(|plane| plane[0] * plane[1]);
    let parts = Parts::new(&mut *to);
    threads.run(g.batch * g.in_channels, |plane, _| {
        let from = &x[plane * planes[0]..][..planes[0]];
        // SAFETY: each task has its own plane.
        let to = unsafe { parts.part(plane * planes[1], planes[1]) };
        widest(Gather { g, from, to });
    });
    (to, rest)
}

/// Overwrites `out` with the elements of thinned planes and zeros between them, each element passed
/// through the epilogue once.
pub(super) fn spread(
    threads: &Threads,
    g: &Conv2d,
    thinned: &Conv2d,
    from: &[f32],
    out: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let planes = [g.input, thinned.input].map(|plane| plane[0] * plane[1]);
    let parts = Parts::new(out);
    threads.run(g.batch * g.in_channels, |plane, worker| {
        let from = &from[plane * planes[1]..][..planes[1]];
        let start = plane * planes[0];
        // SAFETY: each task has its own plane.
        let to = unsafe { parts.part(start, planes[0]) };
        widest(Spread { g, from, to });
        if let Some(epilogue) = epilogue {
            epilogue.apply_in_place(start, to, worker);
        }
    });
}

/// Thins a plane. Of the usual stride compilers know the loop's, and write shuffles.
struct Gather<'a> {
    g: &'a Conv2d,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Vectorised for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Gather { g, from, to } = self;
        let rows = from.chunks(g.input[1] * g.stride[0]);
        for (from, to) in rows.zip(to.chunks_exact_mut(g.output[1])) {
            match g.stride[1] {
                2 => gather_row(&from[..g.input[1]], to, 2),
                stride => gather_row(&from[..g.input[1]], to, stride),
            }
        }
    }
}

#[inline(always)]
fn gather_row(from: &[f32], to: &mut [f32], stride: usize) {
    for (to, from) in to.iter_mut().zip(from.chunks(stride)) {
        *to = from[0];
    }
}

/// The reverse, with zeros between.
struct Spread<'a> {
    g: &'a Conv2d,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Vectorised for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Spread { g, from, to } = self;
        let rows = to.chunks_mut(g.input[1] * g.stride[0]);
        for (to, from) in rows.zip(from.chunks_exact(g.output[1])) {
            let (row, between) = to.split_at_mut(g.input[1]);
            between.fill(0.0);
            match g.stride[1] {
                2 => spread_row(from, row, 2),
                stride => spread_row(from, row, stride),
            }
        }
    }
}

#[inline(always)]
fn spread_row(from: &[f32], to: &mut [f32], stride: usize) {
    for (to, from) in to.chunks_mut(stride).zip(from) {
        to.fill(0.0);
        to[0] = *from;
    }
}
