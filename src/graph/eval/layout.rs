//! Ops that move elements without computing.

use super::Array;
use crate::graph::{Indices, PadAxis, Slice};
use crate::tensor::Shape;

/// Calls `visit` with Σ index·stride for every index of `extents`, in row-major order.
pub(super) fn walk(extents: &[usize], strides: &[usize], mut visit: impl FnMut(usize)) {
    walk_from(0, extents, strides, &mut visit);
}

fn walk_from(start: usize, extents: &[usize], strides: &[usize], visit: &mut impl FnMut(usize)) {
    match (extents, strides) {
        ([extent, extents @ ..], [stride, strides @ ..]) => {
            (0..*extent).for_each(|i| walk_from(start + i * stride, extents, strides, visit));
        }
        _ => visit(start),
    }
}

/// The elements of `x` that a walk from `start` meets.
fn read(x: &[f64], start: usize, extents: &[usize], strides: &[usize]) -> Vec<f64> {
    let mut y = Vec::with_capacity(extents.iter().product());
    walk(extents, strides, |offset| y.push(x[start + offset]));
    y
}

/// Puts the elements of `x`, in order, where a walk from `start` leads in `y`.
fn write(x: &Array, y: &mut [f64], start: usize, strides: &[usize]) {
    let mut elements = x.iter();
    walk(x.shape(), strides, |offset| {
        y[start + offset] = *elements.next().expect("a walk visits each element once");
    });
}

/// y[i, ..] = x[i or 0, ..], index 0 along axes of extent 1.
pub(super) fn broadcast(x: &Array, to: &Shape) -> Vec<f64> {
    read(x, 0, to, &broadcast_strides(x.shape()))
}

/// The strides of `shape` with 0 along axes of extent 1: where an element of the broadcast
/// result comes from, or where an element of a reduction's operand goes.
pub(super) fn broadcast_strides(shape: &Shape) -> Vec<usize> {
    let pairs = shape.strides().into_iter().zip(shape.iter());
    pairs.map(|(stride, &extent)| if extent == 1 { 0 } else { stride }).collect()
}

/// y[i₀, i₁, ..] = x[j] with j[perm[a]] = i[a].
pub(super) fn transpose(x: &Array, perm: &[usize]) -> Vec<f64> {
    let strides = x.shape().strides();
    let extents: Vec<usize> = perm.iter().map(|&axis| x.shape()[axis]).collect();
    let strides: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
    read(x, 0, &extents, &strides)
}

/// y[.., i, ..] = x[.., start + i·step, ..].
pub(super) fn slice(x: &Array, slice: &Slice, to: &Shape) -> Vec<f64> {
    let mut strides = x.shape().strides();
    let start = slice.start * strides[slice.axis];
    strides[slice.axis] *= slice.step;
    read(x, start, to, &strides)
}

/// y[.., low + i·(interior + 1), ..] = x[.., i, ..], 0 elsewhere.
pub(super) fn pad(x: &Array, axes: &[PadAxis], to: &Shape) -> Vec<f64> {
    let mut strides = to.strides();
    let start = axes.iter().zip(&strides).map(|(pad, stride)| pad.low * stride).sum();
    for (stride, pad) in strides.iter_mut().zip(axes) {
        *stride *= pad.interior + 1;
    }
    let mut y = vec![0.0; to.len()];
    write(x, &mut y, start, &strides);
    y
}

/// y[.., offset of part + i, ..] = part[.., i, ..].
pub(super) fn concat(parts: &[&Array], axis: usize, to: &Shape) -> Vec<f64> {
    let strides = to.strides();
    let mut y = vec![0.0; to.len()];
    let mut start = 0;
    for part in parts {
        write(part, &mut y, start, &strides);
        start += part.shape()[axis] * strides[axis];
    }
    y
}

/// The extents before, along and after `axis`.
fn around(shape: &Shape, axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

/// y[o, i, ..] = x[o, rows[i], ..].
pub(super) fn gather(x: &Array, indices: &Indices) -> Vec<f64> {
    let [outer, extent, inner] = around(x.shape(), indices.axis);
    let mut y = Vec::with_capacity(outer * indices.rows.len() * inner);
    for o in 0..outer {
        for &row in indices.rows.iter() {
            let start = (o * extent + row as usize) * inner;
            y.extend_from_slice(&x[start..start + inner]);
        }
    }
    y
}

/// y[o, rows[i], ..] += x[o, i, ..], from y = 0.
pub(super) fn scatter_add(x: &Array, indices: &Indices, to: &Shape) -> Vec<f64> {
    let [outer, extent, inner] = around(to, indices.axis);
    let mut y = vec![0.0; to.len()];
    let count = indices.rows.len();
    for o in 0..outer {
        for (i, &row) in indices.rows.iter().enumerate() {
            for j in 0..inner {
                y[(o * extent + row as usize) * inner + j] += x[(o * count + i) * inner + j];
            }
        }
    }
    y
}
