//! Transpose: axis `i` of the result is axis `perm[i]` of the operand.

use super::strided::{AXES, View, copy};
use crate::threads::Threads;

/// Writes `x`, of `shape`, to `out` with its axes in the order `perm`.
///
/// # Panics
/// When `perm` is no permutation of the axes, of which there are at most eight.
pub fn transpose(threads: &Threads, shape: &[usize], perm: &[usize], x: &[f32], out: &mut [f32]) {
    let strides = row_major(shape);
    let axes = perm.iter().map(|&axis| (shape[axis], strides[axis]));
    copy(threads, &View::new(0, axes), x, out);
}

/// The strides of `shape` in elements.
pub(super) fn row_major(shape: &[usize]) -> [usize; AXES] {
    let mut strides = [1; AXES];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{check, noise};

    #[test]
    fn every_permutation_moves_every_element() {
        let cases: [(&[usize], &[usize]); 18] = [
            (&[], &[]),
            (&[7], &[0]),
            (&[0, 3], &[1, 0]),
            (&[1, 5], &[1, 0]),
            (&[15, 17], &[1, 0]),
            (&[16, 16], &[1, 0]),
            (&[33, 513], &[1, 0]),
            (&[1031, 65], &[1, 0]),
            (&[2, 31, 1, 5], &[2, 1, 0, 3]),
            (&[2, 3, 19, 23], &[0, 2, 3, 1]),
            (&[2, 19, 23, 3], &[0, 3, 1, 2]),
            (&[2, 37, 3, 16], &[2, 0, 1, 3]),
            (&[2, 37, 3, 16], &[0, 2, 3, 1]),
            (&[3, 4, 5], &[2, 1, 0]),
            (&[3, 4, 5], &[1, 2, 0]),
            (&[2, 3, 2, 3, 2, 3], &[4, 0, 5, 2, 1, 3]),
            (&[2, 3, 2, 1, 2, 3, 2, 2], &[7, 6, 5, 4, 3, 2, 1, 0]),
            (&[2, 3, 4, 5, 6], &[3, 1, 4, 0, 2]),
        ];
        for (shape, perm) in cases {
            let op = Op::Transpose(perm.to_vec());
            check(op, &[noise(shape, 1)], 0.0, |threads, x, out| {
                transpose(threads, shape, perm, &x[0], out);
            });
        }
    }
}
