//! Concat: one operand put in its place; a concatenation is one call for each operand.

use super::rows::GRAIN;
use crate::threads::{Parts, Threads};

/// Where an operand goes: `rows` runs of `run` elements each, at `start` in rows of `row_len`.
///
/// For operands joined along an axis, `rows` is the product of the extents before it, `run` that
/// of the operand's extents from it on, `row_len` that of the result's, and `start` the sum of the
/// runs of the operands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Place {
    pub rows: usize,
    pub run: usize,
    pub start: usize,
    pub row_len: usize,
}

/// Copies `x` to its `place` in `out` and leaves the rest of `out` as it is.
///
/// # Panics
/// When the place does not lie within `out`.
pub fn concat(threads: &Threads, place: Place, x: &[f32], out: &mut [f32]) {
    let Place { rows, run, start, row_len } = place;
    assert!(x.len() == rows * run && start + run <= row_len, "a run fits its row");
    let across = run.div_ceil(GRAIN);
    let per_task = (GRAIN / run.max(1)).max(1);
    let out = Parts::new(out);
    threads.run(rows.div_ceil(per_task) * across, |task, _| {
        let first = task / across * per_task;
        let column = task % across * GRAIN;
        let len = GRAIN.min(run - column);
        for row in first..(first + per_task).min(rows) {
            // SAFETY: runs of different rows are disjoint, and so are pieces of one run.
            let part = unsafe { out.part(row * row_len + start + column, len) };
            part.copy_from_slice(&x[row * run + column..][..len]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::graph::eval::Array;
    use crate::kernel::oracle::{check, noise};

    fn check_join(shape: &[usize], axis: usize, extents: &[usize]) {
        let part = |(i, &extent): (usize, &usize)| {
            let mut shape = shape.to_vec();
            shape[axis] = extent;
            noise(&shape, i as u64)
        };
        let parts: Vec<Array> = extents.iter().enumerate().map(part).collect();
        let rows = shape[..axis].iter().product();
        let inner: usize = shape[axis + 1..].iter().product();
        let row_len = extents.iter().sum::<usize>() * inner;
        check(Op::Concat(axis), &parts, 0.0, |threads, x, out| {
            let mut start = 0;
            for (x, extent) in x.iter().zip(extents) {
                let run = extent * inner;
                concat(threads, Place { rows, run, start, row_len }, x, out);
                start += run;
            }
        });
    }

    #[test]
    fn operands_are_joined_along_any_axis() {
        check_join(&[0], 0, &[3, 0, 4]);
        check_join(&[0], 0, &[40_000, 1]);
        check_join(&[5, 0], 1, &[1, 7]);
        check_join(&[2, 0, 13, 17], 1, &[8, 3, 5]);
        check_join(&[0, 3], 0, &[1, 2, 3]);
        check_join(&[3, 0], 1, &[16_384, 16_385]);
        check_join(&[20_000, 0], 1, &[1, 2]);
    }
}
