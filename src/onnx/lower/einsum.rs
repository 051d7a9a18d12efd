//! Einstein sums of two operands, as one batched matrix product.
//!
//! Axes of extent 1 are dropped first and restored last. What is left falls into batch axes (in
//! both operands and the result), K (in both, summed), M (only in `a`), N (only in `b`). So a
//! batch of rows times a weight becomes one `[rows, K] × [K, N]` product, not a product for each
//! example with a repeated weight. Axes that are already in a fitting order cost no transpose.

use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering, shape_of};
use crate::error::Result;
use crate::graph::{MatMul, ValueId};
use crate::tensor::Shape;

/// An operand and the letters of its axes.
#[derive(Clone)]
struct Operand {
    value: ValueId,
    axes: Vec<char>,
}

pub(super) fn einsum(l: &mut Lowering<'_>, node: &TypedNode, op: &EinSum) -> Lowered {
    if op.q_params.is_some() || node.inputs.len() > 2 || repeats_axis(op) {
        return Ok(None);
    }
    let shape = shape_of(&node.outputs[0].fact)?;
    let result: Vec<char> = op
        .axes
        .axes(InOut::Out(0))
        .zip(shape.iter())
        .filter(|(_, extent)| **extent != 1)
        .map(|(axis, _)| axis.repr)
        .collect();
    let mut operands = Vec::new();
    for at in 0..node.inputs.len() {
        operands.push(squeezed(l, node, op, at)?);
    }
    for at in 0..operands.len() {
        let others: Vec<char> = operands
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .flat_map(|(_, o)| o.axes.clone())
            .collect();
        let lone = |axis: &char| !result.contains(axis) && !others.contains(axis);
        operands[at] = sum_out(l, &operands[at], lone)?;
    }
    let product = match &operands[..] {
        [x] => x.clone(),
        [a, b] => multiply(l, a, b, &result)?,
        _ => return Ok(None),
    };
    let ordered = permuted(l, &product, &result)?;
    l.graph.reshape(ordered, &shape).map(Some)
}

/// Whether some operand or the result has one letter twice.
fn repeats_axis(op: &EinSum) -> bool {
    op.axes
        .iter_all_axes()
        .any(|axis| axis.inputs.iter().chain(&axis.outputs).any(|positions| positions.len() > 1))
}

/// Operand `at` without its axes of extent 1.
fn squeezed(l: &mut Lowering<'_>, node: &TypedNode, op: &EinSum, at: usize) -> Result<Operand> {
    let value = l.operand(node, at)?;
    let shape = l.graph.shape(value).clone();
    let long = |(_, extent): &(&Axis, &usize)| **extent != 1;
    let kept: Vec<(char, usize)> = op
        .axes
        .axes(InOut::In(at))
        .zip(shape.iter())
        .filter(long)
        .map(|(axis, &extent)| (axis.repr, extent))
        .collect();
    let (axes, extents): (Vec<char>, Vec<usize>) = kept.into_iter().unzip();
    Ok(Operand { value: l.graph.reshape(value, &extents.into())?, axes })
}

/// The sum over the axes of which `lone` holds, which are dropped.
fn sum_out(
    l: &mut Lowering<'_>,
    operand: &Operand,
    lone: impl Fn(&char) -> bool,
) -> Result<Operand> {
    let positions: Vec<usize> =
        (0..operand.axes.len()).filter(|&axis| lone(&operand.axes[axis])).collect();
    if positions.is_empty() {
        return Ok(operand.clone());
    }
    let sum = l.graph.sum(operand.value, &positions)?;
    let axes: Vec<char> = operand.axes.iter().copied().filter(|axis| !lone(axis)).collect();
    let shape = l.graph.shape(operand.value);
    let kept = (0..shape.ndim()).filter(|axis| !positions.contains(axis));
    let extents: Vec<usize> = kept.map(|axis| shape[axis]).collect();
    Ok(Operand { value: l.graph.reshape(sum, &extents.into())?, axes })
}

/// The product of two operands, its axes in the order of `result` as far as possible.
fn multiply(l: &mut Lowering<'_>, a: &Operand, b: &Operand, result: &[char]) -> Result<Operand> {
    let shared = |axis: &char| a.axes.contains(axis) && b.axes.contains(axis);
    let contracted: Vec<char> =
        b.axes.iter().copied().filter(|axis| shared(axis) && !result.contains(axis)).collect();
    if contracted.is_empty() {
        return outer(l, a, b, result);
    }
    let batch: Vec<char> = result.iter().copied().filter(shared).collect();
    let only = |x: &Operand| -> Vec<char> {
        result.iter().copied().filter(|axis| x.axes.contains(axis) && !shared(axis)).collect()
    };
    let (rows, columns) = (only(a), only(b));
    let swapped = [batch.clone(), columns.clone(), rows.clone()].concat() == result;
    match swapped && [batch.clone(), rows.clone(), columns.clone()].concat() != result {
        true => product(l, b, a, [&batch, &columns, &contracted, &rows]),
        false => product(l, a, b, [&batch, &rows, &contracted, &columns]),
    }
}

/// `a: [batch, M, K] · b: [batch, K, N]`, each group of axes merged into one.
fn product(
    l: &mut Lowering<'_>,
    a: &Operand,
    b: &Operand,
    [batch, rows, contracted, columns]: [&[char]; 4],
) -> Result<Operand> {
    let (left, transpose_a) = matrix(l, a, batch, rows, contracted)?;
    let (right, transpose_b) = matrix(l, b, batch, contracted, columns)?;
    let product = l.graph.matmul(left, right, MatMul { transpose_a, transpose_b })?;
    let axes = [batch, rows, columns].concat();
    let extent = |axis: &char| extent(l, a, *axis).or_else(|| extent(l, b, *axis)).unwrap_or(1);
    let extents: Vec<usize> = axes.iter().map(extent).collect();
    Ok(Operand { value: l.graph.reshape(product, &extents.into())?, axes })
}

fn extent(l: &Lowering<'_>, operand: &Operand, axis: char) -> Option<usize> {
    let position = operand.axes.iter().position(|&own| own == axis)?;
    Some(l.graph.shape(operand.value)[position])
}

/// The operand as `[batch, first, second]` or, where that saves a transpose, as
/// `[batch, second, first]`; no batch axes, no batch dimension.
fn matrix(
    l: &mut Lowering<'_>,
    operand: &Operand,
    batch: &[char],
    first: &[char],
    second: &[char],
) -> Result<(ValueId, bool)> {
    let turned = [batch, second, first].concat() == operand.axes
        && [batch, first, second].concat() != operand.axes;
    let groups = if turned { [batch, second, first] } else { [batch, first, second] };
    let value = permuted(l, operand, &groups.concat())?;
    let len = |group: &[char]| {
        group.iter().map(|&axis| extent(l, operand, axis).unwrap_or(1)).product::<usize>()
    };
    let mut extents: Vec<usize> = groups.iter().map(|group| len(group)).collect();
    if batch.is_empty() {
        extents.remove(0);
    }
    Ok((l.graph.reshape(value, &extents.into())?, turned))
}

/// The element-wise product where nothing is summed.
fn outer(l: &mut Lowering<'_>, a: &Operand, b: &Operand, result: &[char]) -> Result<Operand> {
    let extents: Vec<usize> = result
        .iter()
        .map(|&axis| extent(l, a, axis).or_else(|| extent(l, b, axis)).unwrap_or(1))
        .collect();
    let to = Shape::new(extents);
    let mut spread = Vec::new();
    for operand in [a, b] {
        let own: Vec<char> =
            result.iter().copied().filter(|axis| operand.axes.contains(axis)).collect();
        let value = permuted(l, operand, &own)?;
        let extents: Vec<usize> =
            result.iter().map(|&axis| extent(l, operand, axis).unwrap_or(1)).collect();
        let value = l.graph.reshape(value, &extents.into())?;
        spread.push(l.graph.broadcast(value, &to)?);
    }
    Ok(Operand { value: l.graph.mul(spread[0], spread[1])?, axes: result.to_vec() })
}

/// The operand with its axes in this order; axes it lacks are repeated later by a broadcast.
fn permuted(l: &mut Lowering<'_>, operand: &Operand, order: &[char]) -> Result<ValueId> {
    let perm: Vec<usize> =
        order.iter().filter_map(|axis| operand.axes.iter().position(|own| own == axis)).collect();
    l.graph.transpose(operand.value, &perm)
}
