//! Slice: every `step`-th index of a range of one axis.

use super::strided::{View, copy};
use super::transpose::row_major;
use crate::graph::Slice;
use crate::threads::Threads;

/// Writes the part of `x`, of `shape`, that `slice` takes to `out`.
///
/// # Panics
/// When the slice does not lie within `shape`, which has at most eight axes.
pub fn slice(threads: &Threads, shape: &[usize], slice: &Slice, x: &[f32], out: &mut [f32]) {
    let strides = row_major(shape);
    let axes = shape.iter().zip(strides).enumerate().map(|(axis, (&extent, stride))| {
        let taken = (slice.count(), stride * slice.step);
        if axis == slice.axis { taken } else { (extent, stride) }
    });
    // Nothing is read when nothing is taken, and `start` may then lie past the end.
    let start = if out.is_empty() { 0 } else { slice.start * strides[slice.axis] };
    copy(threads, &View::new(start, axes), x, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{check, noise};

    #[test]
    fn ranges_of_every_axis() {
        let cases: [(&[usize], [usize; 4]); 11] = [
            (&[10], [0, 0, 10, 1]),
            (&[10], [0, 3, 3, 1]),
            (&[10], [0, 10, 10, 1]),
            (&[10], [0, 1, 10, 4]),
            (&[5, 7], [1, 2, 3, 1]),
            (&[5, 1037], [1, 2, 1037, 3]),
            (&[5, 1037], [0, 1, 5, 2]),
            (&[2, 8, 17, 19], [1, 4, 8, 1]),
            (&[2, 8, 17, 19], [2, 1, 17, 2]),
            (&[2, 8, 17, 19], [3, 0, 19, 2]),
            (&[2, 0, 3], [2, 1, 2, 1]),
        ];
        for (shape, [axis, start, end, step]) in cases {
            let part = Slice { axis, start, end, step };
            check(Op::Slice(part.clone()), &[noise(shape, 2)], 0.0, |threads, x, out| {
                slice(threads, shape, &part, &x[0], out);
            });
        }
    }
}
