//! Gather: rows of one axis by number.

use super::rows::split_rows;
use crate::graph::Indices;
use crate::threads::Threads;

/// Writes `x[.., rows[i], ..]`, of `shape`, to `out[.., i, ..]`.
///
/// # Panics
/// When a row number is not below the axis's extent.
pub fn gather(threads: &Threads, shape: &[usize], indices: &Indices, x: &[f32], out: &mut [f32]) {
    let extent = shape[indices.axis];
    let inner: usize = shape[indices.axis + 1..].iter().product();
    let count = indices.rows.len();
    split_rows(threads, out, inner, |first, runs| {
        let (mut outer, mut i) = (first / count, first % count);
        for run in runs.chunks_exact_mut(inner) {
            let row = indices.rows[i] as usize;
            assert!(row < extent, "a row number is below its axis's extent");
            run.copy_from_slice(&x[(outer * extent + row) * inner..][..inner]);
            i += 1;
            if i == count {
                (outer, i) = (outer + 1, 0);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{check, noise};

    #[test]
    fn rows_of_every_axis() {
        let cases: [(&[usize], usize, usize); 6] = [
            (&[7], 0, 11),
            (&[7, 3], 0, 0),
            (&[7, 5000], 0, 13),
            (&[3, 7, 5], 1, 4),
            (&[20_000, 7], 1, 3),
            (&[2, 0, 7], 2, 3),
        ];
        for (shape, axis, count) in cases {
            let rows = (0..count).map(|i| (i * 5 % 7) as u32).collect();
            let indices = Indices { axis, rows };
            check(Op::Gather(indices.clone()), &[noise(shape, 4)], 0.0, |threads, x, out| {
                gather(threads, shape, &indices, &x[0], out);
            });
        }
    }
}
