//! Log-softmax: y = x - ln Σ eˣ along each row.

use super::math::{exp, ln};
use super::rows::split_rows;
use super::softmax::{max, sum};
use super::vectorised::{Vectorised, widest};
use crate::threads::Threads;

/// Writes the log-softmax of each row of `x: [rows, columns]` to `out`.
///
/// # Panics
/// When `x` and `out` have different lengths, or no whole number of rows.
pub fn log_softmax(threads: &Threads, columns: usize, x: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len(), "the result has the operand's shape");
    split_rows(threads, out, columns, |first, out| {
        let x = &x[first * columns..][..out.len()];
        widest(LogSoftmax { columns, x, out });
    });
}

/// Some rows.
struct LogSoftmax<'a> {
    columns: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for LogSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.x.chunks_exact(self.columns);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(self.columns)) {
            let max = max(x);
            let log_sum = ln(sum(x, |x| exp::<FUSED>(x - max)));
            for (y, x) in out.iter_mut().zip(x) {
                *y = x - max - log_sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{ROUNDING, check, noise};
    use crate::kernel::softmax::tests::extreme_rows;

    #[test]
    fn rows_of_awkward_lengths() {
        for shape in [[0, 3], [3, 0], [1, 1], [5, 10], [7, 197], [3, 32], [1009, 33], [2, 20_011]] {
            check(Op::LogSoftmax, &[noise(&shape, 9)], ROUNDING, |threads, x, out| {
                log_softmax(threads, shape[1], &x[0], out);
            });
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_vanish() {
        check(Op::LogSoftmax, &[extreme_rows()], ROUNDING, |threads, x, out| {
            log_softmax(threads, 3, &x[0], out);
        });
    }
}
