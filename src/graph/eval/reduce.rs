//! Reductions, matrix products, and softmax.

use std::borrow::Cow;

use super::Array;
use super::layout::{broadcast_strides, transpose, walk};
use super::map::larger;
use crate::graph::{MatMul, Reduction};
use crate::tensor::Shape;

/// y[.., 0, ..] = Σᵢ x[.., i, ..], or the largest, along `axes`.
pub(super) fn reduce(how: Reduction, x: &Array, axes: &[usize], to: &Shape) -> Vec<f64> {
    let (start, combine): (f64, fn(f64, f64) -> f64) = match how {
        Reduction::Sum => (0.0, |y, x| y + x),
        Reduction::Max => (f64::NEG_INFINITY, larger),
    };
    let mut strides = broadcast_strides(to);
    axes.iter().for_each(|&axis| strides[axis] = 0);
    let mut y = vec![start; to.len()];
    let mut elements = x.iter();
    walk(x.shape(), &strides, |offset| {
        let x = *elements.next().expect("a walk visits each element once");
        y[offset] = combine(y[offset], x);
    });
    y
}

/// y[.., m, n] = Σₖ a[.., m, k] b[.., k, n].
pub(super) fn matmul(how: MatMul, a: &Array, b: &Array, to: &Shape) -> Vec<f64> {
    let a_shape = a.shape();
    let [m, n] = [to[to.ndim() - 2], to[to.ndim() - 1]];
    let k = a_shape[a_shape.ndim() - if how.transpose_a { 2 } else { 1 }];
    let (a, b) = (plain(a, how.transpose_a), plain(b, how.transpose_b));
    let mut y = vec![0.0; to.len()];
    for batch in 0..to[..to.ndim() - 2].iter().product() {
        let b = &b[batch * k * n..][..k * n];
        for row in batch * m..(batch + 1) * m {
            let y = &mut y[row * n..][..n];
            for (inner, &a) in a[row * k..][..k].iter().enumerate() {
                let terms = b[inner * n..][..n].iter();
                y.iter_mut().zip(terms).for_each(|(y, b)| *y += a * b);
            }
        }
    }
    y
}

/// The elements of `x` with its last two axes exchanged if it is stored transposed.
fn plain(x: &Array, transposed: bool) -> Cow<'_, [f64]> {
    if !transposed {
        return Cow::Borrowed(x);
    }
    let ndim = x.shape().ndim();
    let mut perm: Vec<usize> = (0..ndim).collect();
    perm.swap(ndim - 2, ndim - 1);
    Cow::Owned(transpose(x, &perm))
}

/// y = eˣ / Σ eˣ over the last axis.
pub(super) fn softmax(x: &Array) -> Vec<f64> {
    rows(x, |row| {
        let sum = subtract_max(row);
        row.iter_mut().for_each(|x| *x = x.exp() / sum);
    })
}

/// y = x - ln Σ eˣ over the last axis.
pub(super) fn log_softmax(x: &Array) -> Vec<f64> {
    rows(x, |row| {
        let sum = subtract_max(row);
        row.iter_mut().for_each(|x| *x -= sum.ln());
    })
}

/// `x` with `f` applied to each run along the last axis.
fn rows(x: &Array, f: impl Fn(&mut [f64])) -> Vec<f64> {
    let mut y = x.to_vec();
    let columns = x.shape().last().copied().unwrap_or(1);
    y.chunks_exact_mut(columns.max(1)).for_each(f);
    y
}

/// Subtracts the largest x from all, which changes no softmax but keeps it in range, and returns
/// Σ eˣ of what is left.
fn subtract_max(x: &mut [f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, larger);
    x.iter_mut().for_each(|x| *x -= max);
    x.iter().map(|x| x.exp()).sum()
}
