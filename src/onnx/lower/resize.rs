//! Resampling: a fixed linear map along each resized axis.
//!
//! tract's own op says what the map is: it is applied to the unit vectors of each axis, on an
//! input without batch and channels. So every mode (nearest, linear, cubic, antialiased) and
//! every convention for coordinates is covered. Where each result copies one element the map is
//! a gather, otherwise a matrix product.

use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering, shape_of};
use crate::error::{Error, Result};
use crate::graph::{Indices, MatMul, ValueId};
use crate::onnx::typed;
use crate::tensor::{Shape, tensor};

pub(super) fn resize(l: &mut Lowering<'_>, node: &TypedNode) -> Lowered {
    let mut x = l.operand(node, 0)?;
    let from = l.graph.shape(x).clone();
    let to = shape_of(&node.outputs[0].fact)?;
    if from.ndim() < 3 || from[..2] != to[..2] || from.is_empty() || to.is_empty() {
        return Ok(None);
    }
    let Some(settings) = settings(l, node, from.ndim())? else { return Ok(None) };
    for axis in 2..from.ndim() {
        let Some(map) = probe(node, &settings, &from, &to, axis)? else { return Ok(None) };
        x = resample(l, x, axis, &map, from[axis])?;
    }
    Ok(Some(x))
}

/// The constant operands, with sizes of batch and channels set to 1.
fn settings(l: &Lowering<'_>, node: &TypedNode, ndim: usize) -> Result<Option<TVec<TValue>>> {
    let mut settings = TVec::new();
    for &input in &node.inputs[1..] {
        let Some(constant) = l.known(input) else { return Ok(None) };
        let mut constant = constant.as_ref().clone();
        let is_sizes = !constant.datum_type().is_float() && constant.len() == ndim;
        if is_sizes {
            constant = typed::guarded("reading sizes", || {
                let mut sizes = constant.cast_to::<i64>()?.into_owned();
                let mut view = sizes.to_plain_array_view_mut::<i64>()?;
                view.iter_mut().take(2).for_each(|size| *size = 1);
                Ok(sizes)
            })?;
        }
        settings.push(constant.into_tvalue());
    }
    Ok(Some(settings))
}

/// The map along `axis`, row-major `[to, from]`; nothing if it is not linear.
fn probe(
    node: &TypedNode,
    settings: &TVec<TValue>,
    from: &Shape,
    to: &Shape,
    axis: usize,
) -> Result<Option<Vec<f32>>> {
    let inner: usize = from[axis + 1..].iter().product();
    let mut small = from.to_vec();
    small[..2].fill(1);
    let result = Shape::from(&to[2..]);
    let stride = result.strides()[axis - 2];
    let mut map = vec![0.0; to[axis] * from[axis]];
    for unit in 0..=from[axis] {
        let len: usize = small.iter().product();
        let basis = |index: usize| if index / inner % from[axis] == unit { 1.0 } else { 0.0 };
        let basis: Vec<f32> = (0..len).map(basis).collect();
        let resized = typed::guarded("resizing", || {
            let mut operands: TVec<TValue> =
                tvec!(Tensor::from_shape(&small, &basis)?.into_tvalue());
            operands.extend(settings.iter().cloned());
            let results = node.op.eval_out_of_plan(operands)?;
            results.and_then(|r| r.into_iter().next()).context("no result")
        })?;
        let resized = typed::to_host(&resized)?;
        if resized.len() != result.len() {
            return Err(Error::malformed("its sizes and its result disagree"));
        }
        let values: Vec<f32> = resized.iter().copied().collect();
        let column = (0..to[axis]).map(|row| values[row * stride]);
        if unit == from[axis] {
            // The zero input must give zero, or the map extrapolates with some other number.
            return Ok(values.iter().all(|&x| x == 0.0).then_some(map));
        }
        for (row, value) in column.enumerate() {
            map[row * from[axis] + unit] = value;
        }
    }
    Ok(None)
}

fn resample(
    l: &mut Lowering<'_>,
    x: ValueId,
    axis: usize,
    map: &[f32],
    from: usize,
) -> Result<ValueId> {
    let single = |row: &[f32]| {
        let (at, _) = row.iter().enumerate().find(|(_, weight)| **weight != 0.0)?;
        let copies = row.iter().enumerate().all(|(i, &w)| w == if i == at { 1.0 } else { 0.0 });
        copies.then_some(at as u32)
    };
    let rows: Option<Vec<u32>> = map.chunks_exact(from).map(single).collect();
    if let Some(rows) = rows {
        if rows.iter().copied().eq(0..from as u32) {
            return Ok(x);
        }
        return l.graph.gather(x, Indices { axis, rows: rows.into() });
    }
    let to = map.len() / from;
    let map = l.graph.constant(tensor(&[to, from], map.to_vec())?)?;
    let ndim = l.graph.shape(x).ndim();
    let mut perm: Vec<usize> = (0..ndim).collect();
    perm.swap(axis, ndim - 1);
    let turned = l.graph.transpose(x, &perm)?;
    let shape = l.graph.shape(turned).clone();
    let flat = l.graph.reshape(turned, &[shape.len() / from, from].into())?;
    let product = l.graph.matmul(flat, map, MatMul { transpose_a: false, transpose_b: true })?;
    let resized = l.graph.reshape(product, &shape.with(ndim - 1, to))?;
    l.graph.transpose(resized, &perm)
}
