//! Scatter-add: rows added into a zero tensor at given places of one axis.

use crate::graph::Indices;
use crate::threads::{Parts, Threads};

/// Columns that one task owns; rows may collide, columns never do.
const COLUMNS: usize = 256;

/// Writes Σ of the rows `x[.., i, ..]` with `rows[i] = r`, in order of `i`, to `out[.., r, ..]`,
/// of `shape`.
///
/// # Panics
/// When a row number is not below the axis's extent.
pub fn scatter_add(
    threads: &Threads,
    shape: &[usize],
    indices: &Indices,
    x: &[f32],
    out: &mut [f32],
) {
    let outer: usize = shape[..indices.axis].iter().product();
    let extent = shape[indices.axis];
    let inner: usize = shape[indices.axis + 1..].iter().product();
    let count = indices.rows.len();
    let across = inner.div_ceil(COLUMNS);
    let out = Parts::new(out);
    threads.run(outer * across, |task, _| {
        let (outer, column) = (task / across, task % across * COLUMNS);
        let len = COLUMNS.min(inner - column);
        let part = |row: usize| {
            assert!(row < extent, "a row number is below its axis's extent");
            // SAFETY: the task owns these columns of this outer index; one part lives at a time.
            unsafe { out.part((outer * extent + row) * inner + column, len) }
        };
        (0..extent).for_each(|row| part(row).fill(0.0));
        for (i, &row) in indices.rows.iter().enumerate() {
            let run = &x[(outer * count + i) * inner + column..][..len];
            part(row as usize).iter_mut().zip(run).for_each(|(out, x)| *out += x);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{ROUNDING, check, noise};

    #[test]
    fn rows_add_up_where_they_meet() {
        let cases: [(&[usize], usize, usize); 6] = [
            (&[7], 0, 11),
            (&[7, 3], 0, 0),
            (&[7, 513], 0, 13),
            (&[3, 7, 5], 1, 9),
            (&[2000, 7], 1, 3),
            (&[2, 0, 7], 2, 3),
        ];
        for (shape, axis, count) in cases {
            let rows = (0..count).map(|i| (i * i % 7) as u32).collect();
            let indices = Indices { axis, rows };
            let mut from = shape.to_vec();
            from[axis] = count;
            let op = Op::ScatterAdd(indices.clone(), shape[axis]);
            check(op, &[noise(&from, 5)], ROUNDING, |threads, x, out| {
                scatter_add(threads, shape, &indices, &x[0], out);
            });
        }
    }
}
