//! Softmax: y = eˣ / Σ eˣ along each row.

use super::math::exp;
use super::rows::split_rows;
use super::vectorised::{Vectorised, widest};
use crate::threads::Threads;

/// Numbers kept side by side in a reduction along a row.
const LANES: usize = 32;

/// Writes the softmax of each row of `x: [rows, columns]` to `out`.
///
/// # Panics
/// When `x` and `out` have different lengths, or no whole number of rows.
pub fn softmax(threads: &Threads, columns: usize, x: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len(), "the result has the operand's shape");
    split_rows(threads, out, columns, |first, out| {
        let x = &x[first * columns..][..out.len()];
        widest(Softmax { columns, x, out });
    });
}

/// Some rows.
struct Softmax<'a> {
    columns: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.x.chunks_exact(self.columns);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(self.columns)) {
            let max = max(x);
            for (y, x) in out.iter_mut().zip(x) {
                *y = exp::<FUSED>(x - max);
            }
            let scale = 1.0 / sum(out, |y| y);
            out.iter_mut().for_each(|y| *y *= scale);
        }
    }
}

/// The largest number of a row, NaN left out.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    let rest = rest.iter().copied().fold(f32::NEG_INFINITY, larger);
    lanes.into_iter().fold(rest, larger)
}

/// Σ f(x) along a row, as [`LANES`] sums side by side.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    let rest: f32 = rest.iter().map(|&x| f(x)).sum();
    lanes.into_iter().sum::<f32>() + rest
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::graph::eval::Array;
    use crate::kernel::oracle::{ROUNDING, check, noise};

    #[test]
    fn rows_of_awkward_lengths() {
        let shapes = [[0, 3], [3, 0], [1, 1], [5, 10], [7, 197], [3, LANES], [2, 20_011]];
        for shape in shapes.iter().chain(&[[1009, LANES + 1]]) {
            check(Op::Softmax, &[noise(shape, 9)], ROUNDING, |threads, x, out| {
                softmax(threads, shape[1], &x[0], out);
            });
        }
    }

    /// Rows with huge, infinite and undefined elements.
    pub(in crate::kernel) fn extreme_rows() -> Array {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = [
            [1e38, 1e38, -1e38],
            [-300.0, -200.0, -100.0],
            [-inf, 0.0, -inf],
            [-inf, -inf, -inf],
            [inf, 0.0, 1.0],
            [0.0, nan, 1.0],
        ];
        Array::from_fn(&[6, 3].into(), |i| f64::from(rows[i / 3][i % 3]))
    }

    #[test]
    fn extremes_neither_overflow_nor_vanish() {
        check(Op::Softmax, &[extreme_rows()], ROUNDING, |threads, x, out| {
            softmax(threads, 3, &x[0], out);
        });
    }
}
