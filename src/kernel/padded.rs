//! The input of a convolution with zeros around it, as its taps read it.

use crate::graph::Conv2d;
use crate::kernel::gemm::Padded;

/// Each tap of a filter is a constant offset in it, from any position of the output: planes are
/// split by the stride, and have zero rows above and below and room between their rows.
pub(super) struct PaddedInput {
    pub padded: Padded,
    g: Conv2d,
    /// How far down the first row of taps looks.
    top: isize,
}

impl PaddedInput {
    /// With so many zeros between rows that taps read what is there.
    pub fn new(g: &Conv2d) -> Self {
        let ends = [0, 1].map(|axis| [0, g.kernel[axis] - 1].map(|tap| place(g, axis, tap).1));
        let [[top, bottom], [left, right]] = ends;
        let [before, after] = [(-left).max(0) as usize, right.max(0) as usize];
        let columns = g.input[1].div_ceil(g.stride[1]);
        let width = (g.output[1] + after).max(columns + before);
        let padded = Padded {
            plane: g.input,
            stride: g.stride,
            origin: top * g.stride[0] as isize,
            extent: [g.output[0] + (bottom - top) as usize, width],
            before,
            after,
        };
        PaddedInput { padded, g: *g, top }
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.padded.extent[1]
    }

    /// Where tap (i, j) reads for the first position, and how far right of it.
    pub fn tap(&self, [i, j]: [usize; 2]) -> (usize, isize) {
        let ((row, down), (column, right)) = (place(&self.g, 0, i), place(&self.g, 1, j));
        let phase = row * self.g.stride[1] + column;
        (self.padded.offset(phase, (down - self.top) as usize, right), right)
    }
}

/// The phase of the stride that a tap reads, and its distance from the output's position.
pub(super) fn place(g: &Conv2d, axis: usize, tap: usize) -> (usize, isize) {
    let at = (tap * g.dilation[axis]) as isize - g.pad[axis] as isize;
    let stride = g.stride[axis] as isize;
    (at.rem_euclid(stride) as usize, at.div_euclid(stride))
}
