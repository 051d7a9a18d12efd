//! Ops that move elements without choosing among them.

use tract_onnx::tract_core::ops::array::{Pad, PadMode, Tile, TypedConcat};
use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering, shape_of};
use crate::error::{Error, Result};
use crate::graph::{Indices, PadAxis, ValueId};
use crate::tensor::{Shape, tensor};

/// Adding, removing, moving and reshaping axes.
pub(super) fn axis_op(l: &mut Lowering<'_>, node: &TypedNode, op: &AxisOp) -> Lowered {
    let x = l.operand(node, 0)?;
    let value = match op {
        AxisOp::Move(from, to) => {
            let mut perm: Vec<usize> = (0..l.graph.shape(x).ndim()).collect();
            let moved = perm.remove(*from);
            perm.insert(*to, moved);
            l.graph.transpose(x, &perm)?
        }
        AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..) => {
            let shape = shape_of(&node.outputs[0].fact)?;
            l.graph.reshape(x, &shape)?
        }
    };
    Ok(Some(value))
}

/// Repetition to the result's shape, axes aligned at the end.
pub(super) fn broadcast(l: &mut Lowering<'_>, node: &TypedNode) -> Lowered {
    let x = l.operand(node, 0)?;
    let to = shape_of(&node.outputs[0].fact)?;
    let shape = l.graph.shape(x).clone();
    let missing = to.ndim().checked_sub(shape.ndim());
    let missing = missing.ok_or_else(|| Error::malformed("broadcast to fewer axes"))?;
    let mut extents = vec![1; missing];
    extents.extend_from_slice(&shape);
    let x = l.graph.reshape(x, &extents.into())?;
    l.graph.broadcast(x, &to).map(Some)
}

pub(super) fn concat(l: &mut Lowering<'_>, node: &TypedNode, op: &TypedConcat) -> Lowered {
    let mut parts = Vec::with_capacity(node.inputs.len());
    for at in 0..node.inputs.len() {
        let part = l.operand(node, at)?;
        if l.graph.shape(part).get(op.axis) != Some(&0) {
            parts.push(part);
        }
    }
    l.graph.concat(&parts, op.axis).map(Some)
}

/// Whole copies side by side: the axis becomes (copies, extent), is broadcast, and merged again.
pub(super) fn tile(l: &mut Lowering<'_>, node: &TypedNode, op: &Tile) -> Lowered {
    let mut x = l.operand(node, 0)?;
    for (axis, copies) in op.multipliers.iter().enumerate() {
        let Some(copies) = copies.as_usize() else { return Ok(None) };
        if copies != 1 {
            let shape = l.graph.shape(x).clone();
            let mut split = shape.to_vec();
            split.insert(axis, 1);
            let single = l.graph.reshape(x, &split.clone().into())?;
            split[axis] = copies;
            let copied = l.graph.broadcast(single, &split.into())?;
            x = l.graph.reshape(copied, &shape.with(axis, shape[axis] * copies))?;
        }
    }
    Ok(Some(x))
}

pub(super) fn pad(l: &mut Lowering<'_>, node: &TypedNode, op: &Pad) -> Lowered {
    let x = l.operand(node, 0)?;
    match &op.mode {
        PadMode::Constant(value) => {
            let value = super::typed::to_host(value)?.first().copied().unwrap_or(0.0);
            pad_with(l, x, &op.pads, value).map(Some)
        }
        mode => pad_by_rows(l, x, &op.pads, matches!(mode, PadMode::Reflect)),
    }
}

/// Zeros around `x`, plus `value` there and 0 inside.
fn pad_with(
    l: &mut Lowering<'_>,
    x: ValueId,
    pads: &[(usize, usize)],
    value: f32,
) -> Result<ValueId> {
    let axes: Vec<PadAxis> =
        pads.iter().map(|&(low, high)| PadAxis { low, high, interior: 0 }).collect();
    if axes.iter().all(|axis| axis.low + axis.high == 0) {
        return Ok(x);
    }
    let inner = l.graph.shape(x).clone();
    let padded = l.graph.pad(x, &axes)?;
    if value == 0.0 {
        return Ok(padded);
    }
    let shape: Shape = axes
        .iter()
        .zip(inner.iter())
        .map(|(axis, &extent)| if axis.low + axis.high == 0 { 1 } else { axis.padded(extent) })
        .collect::<Vec<_>>()
        .into();
    let strides = shape.strides();
    let around = |index: usize| {
        (0..axes.len()).any(|axis| {
            let at = index / strides[axis] % shape[axis];
            shape[axis] > 1 && (at < axes[axis].low || at >= axes[axis].low + inner[axis])
        })
    };
    let frame = (0..shape.len()).map(|index| if around(index) { value } else { 0.0 }).collect();
    let frame = l.graph.constant(tensor(&shape, frame)?)?;
    let to = l.graph.shape(padded).clone();
    let frame = l.graph.broadcast(frame, &to)?;
    l.graph.add(padded, frame)
}

/// Padding with rows of `x` itself: mirrored, or the edge again and again.
fn pad_by_rows(
    l: &mut Lowering<'_>,
    mut x: ValueId,
    pads: &[(usize, usize)],
    mirrored: bool,
) -> Lowered {
    for (axis, &(low, high)) in pads.iter().enumerate().filter(|(_, (low, high))| low + high > 0) {
        let extent = l.graph.shape(x)[axis];
        if extent == 0 || (mirrored && low.max(high) >= extent) {
            return Ok(None);
        }
        let last = extent as i64 - 1;
        let row = |at: i64| match (at < 0, at > last) {
            (true, _) if mirrored => -at,
            (_, true) if mirrored => 2 * last - at,
            _ => at.clamp(0, last),
        };
        let rows = (-(low as i64)..extent as i64 + high as i64).map(|at| row(at) as u32);
        x = l.graph.gather(x, Indices { axis, rows: rows.collect() })?;
    }
    Ok(Some(x))
}
