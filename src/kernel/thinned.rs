//! Gradients of convolutions with 1x1 filters and a stride, as those with stride 1 of planes that
//! hold only the elements under a filter.

use super::gemm::LINE;
use super::pad::pad;
use super::strided::{View, copy};
use crate::graph::{Conv2d, PadAxis};
use crate::threads::Threads;

/// The convolution of thinned planes, if one is of this kind and has a result for each element that
/// its stride comes upon, and for no others.
pub(super) fn geometry(g: &Conv2d) -> Option<Conv2d> {
    let points = g.kernel == [1, 1] && g.stride != [1, 1] && g.pad == [0, 0] && g.groups == 1;
    let all = (0..2)
        .all(|axis| g.input[axis] > 0 && g.output[axis] == g.input[axis].div_ceil(g.stride[axis]));
    (points && all).then_some(Conv2d { input: g.output, stride: [1, 1], ..*g })
}

/// Elements of scratch for thinned planes, those of the first part.
pub(super) fn scratch_len(thinned: &Conv2d) -> usize {
    thinned.input_shape().len().next_multiple_of(LINE)
}

/// The scratch for thinned planes, and the rest of it.
pub(super) fn split<'a>(thinned: &Conv2d, scratch: &'a mut [f32]) -> [&'a mut [f32]; 2] {
    let (planes, rest) = scratch.split_at_mut(scratch_len(thinned));
    [&mut planes[..thinned.input_shape().len()], rest]
}

/// Copies the elements of `x` that are under a filter.
pub(super) fn gather(threads: &Threads, g: &Conv2d, x: &[f32], thinned: &mut [f32]) {
    let planes = (g.batch * g.in_channels, g.input[0] * g.input[1]);
    let rows = (g.output[0], g.stride[0] * g.input[1]);
    let view = View::new(0, [planes, rows, (g.output[1], g.stride[1])].into_iter());
    copy(threads, &view, x, thinned);
}

/// Overwrites `out` with the elements of thinned planes and zeros between them.
pub(super) fn spread(threads: &Threads, g: &Conv2d, thinned: &[f32], out: &mut [f32]) {
    let shape = [g.batch * g.in_channels, g.output[0], g.output[1]];
    let between = [0, 1].map(|axis| {
        let high = (g.input[axis] - 1) % g.stride[axis];
        PadAxis { low: 0, high, interior: g.stride[axis] - 1 }
    });
    pad(threads, &shape, &[PadAxis::default(), between[0], between[1]], thinned, out);
}
