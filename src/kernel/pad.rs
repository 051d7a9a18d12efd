//! Pad: zeros before, after and between the elements along each axis.

use super::rows::split_rows;
use super::strided::AXES;
use crate::graph::PadAxis;
use crate::threads::Threads;

/// An axis with its padding.
#[derive(Clone, Copy, Debug, Default)]
struct Axis {
    extent: usize,
    pad: PadAxis,
}

impl Axis {
    /// The operand's index at index `padded` of the result, if that is not padding.
    fn source(&self, padded: usize) -> Option<usize> {
        let step = self.pad.interior + 1;
        let distance = padded.checked_sub(self.pad.low)?;
        (distance.is_multiple_of(step) && distance / step < self.extent).then(|| distance / step)
    }
}

/// Writes `x`, of `shape`, to `out` with the zeros `pads` asks for.
///
/// # Panics
/// When `shape` and `pads` have different lengths or more than eight axes.
pub fn pad(threads: &Threads, shape: &[usize], pads: &[PadAxis], x: &[f32], out: &mut [f32]) {
    assert_eq!(shape.len(), pads.len(), "every axis has its padding");
    let (axes, ndim) = merge(shape, pads);
    let axes = &axes[..ndim];
    let (outer, last) = (&axes[..ndim - 1], axes[ndim - 1]);
    let row_len = last.pad.padded(last.extent);
    split_rows(threads, out, row_len, |first, rows| {
        for (row, out) in (first..).zip(rows.chunks_exact_mut(row_len)) {
            out.fill(0.0);
            let Some(source) = source_row(outer, row) else { continue };
            let run = &x[source * last.extent..][..last.extent];
            match last.pad.interior {
                0 => out[last.pad.low..][..last.extent].copy_from_slice(run),
                interior => {
                    let places = out[last.pad.low..].iter_mut().step_by(interior + 1);
                    places.zip(run).for_each(|(out, x)| *out = *x);
                }
            }
        }
    });
}

/// The axes, with each that is not padded taken into the one before where that has no gaps. There
/// is at least one.
fn merge(shape: &[usize], pads: &[PadAxis]) -> ([Axis; AXES], usize) {
    let mut axes = [Axis { extent: 1, pad: PadAxis::default() }; AXES];
    let mut ndim = 1;
    for (&extent, &pad) in shape.iter().zip(pads) {
        let before = &mut axes[ndim - 1];
        if pad == PadAxis::default() && before.pad.interior == 0 {
            before.extent *= extent;
            before.pad.low *= extent;
            before.pad.high *= extent;
        } else if ndim == 1 && before.extent == 1 && before.pad == PadAxis::default() {
            *before = Axis { extent, pad };
        } else {
            axes[ndim] = Axis { extent, pad };
            ndim += 1;
        }
    }
    (axes, ndim)
}

/// The operand's row for row number `row` of the result, if that is not padding.
fn source_row(outer: &[Axis], mut row: usize) -> Option<usize> {
    let (mut source, mut stride) = (0, 1);
    for axis in outer.iter().rev() {
        let padded = axis.pad.padded(axis.extent);
        source += axis.source(row % padded)? * stride;
        stride *= axis.extent;
        row /= padded;
    }
    Some(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{check, noise};

    #[test]
    fn zeros_around_and_between() {
        let cases: [(&[usize], &[[usize; 3]]); 10] = [
            (&[], &[]),
            (&[0], &[[2, 1, 3]]),
            (&[5], &[[2, 1, 3]]),
            (&[4, 6], &[[0, 0, 0], [0, 0, 0]]),
            (&[4, 6], &[[1, 2, 0], [0, 0, 0]]),
            (&[4, 6], &[[0, 0, 1], [0, 0, 0]]),
            (&[2, 3, 17, 19], &[[0, 0, 0], [0, 0, 0], [1, 1, 0], [2, 1, 0]]),
            (&[2, 3, 17, 19], &[[0, 0, 0], [0, 5, 0], [0, 0, 0], [0, 0, 0]]),
            (&[2, 3, 31, 29], &[[0, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]]),
            (&[1, 2, 1, 3, 2, 1, 2, 2], &[[1, 1, 1]; 8]),
        ];
        for (shape, pads) in cases {
            let pads: Vec<PadAxis> =
                pads.iter().map(|&[low, high, interior]| PadAxis { low, high, interior }).collect();
            check(Op::Pad(pads.clone()), &[noise(shape, 3)], 0.0, |threads, x, out| {
                pad(threads, shape, &pads, &x[0], out);
            });
        }
    }
}
