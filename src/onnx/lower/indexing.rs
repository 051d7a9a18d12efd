//! Ops that choose elements by constant positions.

use tract_onnx::tract_core::ops::array::{
    Gather, GatherNd, ScatterNd, ScatterReduction, Slice as TypedSlice, StridedSlice,
};
use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering, shape_of};
use crate::error::{Error, Result};
use crate::graph::{Indices, Slice, ValueId};
use crate::onnx::typed;
use crate::tensor::{Shape, tensor};

pub(super) fn slice(l: &mut Lowering<'_>, node: &TypedNode, op: &TypedSlice) -> Lowered {
    let x = l.operand(node, 0)?;
    let (Some(start), Some(end)) = (op.start.as_usize(), op.end.as_usize()) else {
        return Ok(None);
    };
    l.graph.slice(x, Slice { axis: op.axis, start, end, step: 1 }).map(Some)
}

/// Slices with steps along several axes; a negative step is a gather.
pub(super) fn strided_slice(l: &mut Lowering<'_>, node: &TypedNode, op: &StridedSlice) -> Lowered {
    let mut x = l.operand(node, 0)?;
    let known = |at: usize| node.inputs.get(at).and_then(|&input| l.known(input)).cloned();
    let (Some(begin), Some(end)) = (known(1), known(2)) else { return Ok(None) };
    let steps = match op.optional_steps_input {
        Some(at) => l.known_integers(node, at)?,
        None => Some(vec![1; begin.len()]),
    };
    let axes = match op.optional_axes_input {
        Some(at) => l.known_integers(node, at)?,
        None => Some((0..begin.len() as i64).collect()),
    };
    let (Some(steps), Some(axes)) = (steps, axes) else { return Ok(None) };
    let steps: Vec<i32> = steps.iter().map(|&step| clamp_step(step)).collect();
    for (position, &axis) in axes.iter().enumerate() {
        let shape = l.graph.shape(x).clone();
        let axis = absolute(axis, shape.ndim())?;
        if steps.get(position) == Some(&0) {
            return Err(Error::malformed("a slice with step 0"));
        }
        let dim = typed::guarded("reading a slice", || {
            op.prepare_one_dim(position, &shape[axis].to_dim(), &begin, &end, &steps)
        })?;
        let (Some(begin), Some(end)) = (dim.begin.as_i64(), dim.end.as_i64()) else {
            return Ok(None);
        };
        x = range(l, x, axis, [begin, end, i64::from(dim.stride)])?;
    }
    let shape = shape_of(&node.outputs[0].fact)?;
    l.graph.reshape(x, &shape).map(Some)
}

/// Steps beyond `i32` take one element, as does the largest step.
fn clamp_step(step: i64) -> i32 {
    step.clamp(-i64::from(i32::MAX), i64::from(i32::MAX)) as i32
}

fn absolute(axis: i64, ndim: usize) -> Result<usize> {
    let absolute = if axis < 0 { axis + ndim as i64 } else { axis };
    usize::try_from(absolute)
        .ok()
        .filter(|&axis| axis < ndim)
        .ok_or_else(|| Error::malformed(format!("axis {axis} of {ndim} dimensions")))
}

fn range(l: &mut Lowering<'_>, x: ValueId, axis: usize, range: [i64; 3]) -> Result<ValueId> {
    let [begin, end, step] = range;
    let extent = l.graph.shape(x)[axis];
    if step > 0 {
        let start = begin.max(0) as usize;
        let end = (end.max(0) as usize).clamp(start, extent.max(start));
        if (start, end, step) == (0, extent, 1) {
            return Ok(x);
        }
        return l.graph.slice(x, Slice { axis, start, end, step: step as usize });
    }
    let mut rows = Vec::new();
    let mut at = begin;
    while at > end && at >= 0 {
        rows.push(at as u32);
        at += step;
    }
    l.graph.gather(x, Indices { axis, rows: rows.into() })
}

/// Rows of one axis at constant indices of any shape.
pub(super) fn gather(l: &mut Lowering<'_>, node: &TypedNode, op: &Gather) -> Lowered {
    let Some(indices) = l.known_integers(node, 1)? else { return Ok(None) };
    let x = l.operand(node, 0)?;
    let extent = l.graph.shape(x)[op.axis];
    let rows = rows(&indices, extent)?;
    let gathered = take(l, x, op.axis, rows)?;
    let shape = shape_of(&node.outputs[0].fact)?;
    l.graph.reshape(gathered, &shape).map(Some)
}

/// Indices as row numbers; negative ones count from the end.
fn rows(indices: &[i64], extent: usize) -> Result<Vec<u32>> {
    let row = |&index: &i64| {
        let row = if index < 0 { index + extent as i64 } else { index };
        u32::try_from(row)
            .ok()
            .filter(|&row| (row as usize) < extent)
            .ok_or_else(|| Error::malformed(format!("index {index} of an axis of {extent}")))
    };
    indices.iter().map(row).collect()
}

/// Gathers, or slices where the rows follow one another.
fn take(l: &mut Lowering<'_>, x: ValueId, axis: usize, rows: Vec<u32>) -> Result<ValueId> {
    let consecutive = rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    match rows.first() {
        Some(&first) if consecutive => {
            let start = first as usize;
            range(l, x, axis, [start as i64, (start + rows.len()) as i64, 1])
        }
        _ => l.graph.gather(x, Indices { axis, rows: rows.into() }),
    }
}

/// Elements or blocks at constant coordinates: the indexed axes are merged and gathered.
pub(super) fn gather_nd(l: &mut Lowering<'_>, node: &TypedNode, op: &GatherNd) -> Lowered {
    let x = l.operand(node, 0)?;
    if op.batch_dims != 0 {
        return Ok(None);
    }
    let Some((rows, merged)) = coordinates(l, node, x)? else { return Ok(None) };
    let merged = l.graph.reshape(x, &merged)?;
    let taken = take(l, merged, 0, rows)?;
    let shape = shape_of(&node.outputs[0].fact)?;
    l.graph.reshape(taken, &shape).map(Some)
}

/// `x` with other elements or blocks at constant coordinates: x · keep + scatter(updates).
pub(super) fn scatter_nd(l: &mut Lowering<'_>, node: &TypedNode, op: &ScatterNd) -> Lowered {
    let (x, updates) = (l.operand(node, 0)?, l.operand(node, 2)?);
    let Some((rows, merged)) = coordinates(l, node, x)? else { return Ok(None) };
    let mut keep = vec![1.0; merged[0]];
    for &row in &rows {
        if std::mem::replace(&mut keep[row as usize], 0.0) == 0.0 {
            return Ok(None);
        }
    }
    if op.reduction != ScatterReduction::None {
        return Ok(None);
    }
    let shape = l.graph.shape(x).clone();
    let updates = l.graph.reshape(updates, &merged.with(0, rows.len()))?;
    let indices = Indices { axis: 0, rows: rows.into() };
    let mut result = l.graph.scatter_add(updates, indices, merged[0])?;
    if keep.iter().any(|&kept| kept != 0.0) {
        let mut extents = vec![1; merged.ndim()];
        extents[0] = merged[0];
        let keep = l.graph.constant(tensor(&extents, keep)?)?;
        let keep = l.graph.broadcast(keep, &merged)?;
        let x = l.graph.reshape(x, &merged)?;
        let kept = l.graph.mul(x, keep)?;
        result = l.graph.add(kept, result)?;
    }
    l.graph.reshape(result, &shape).map(Some)
}

/// Operand 1, constant coordinates into the leading axes of `x`, as rows of those axes merged
/// into one, and the shape of `x` with them merged.
fn coordinates(
    l: &Lowering<'_>,
    node: &TypedNode,
    x: ValueId,
) -> Result<Option<(Vec<u32>, Shape)>> {
    let Some(indices) = l.known_integers(node, 1)? else { return Ok(None) };
    let depth = l.known(node.inputs[1]).and_then(|t| t.shape().last().copied()).unwrap_or(0);
    let shape = l.graph.shape(x);
    if depth == 0 || depth > shape.ndim() {
        return Ok(None);
    }
    let mut flat = Vec::with_capacity(indices.len() / depth);
    for coordinates in indices.chunks_exact(depth) {
        let mut row = 0usize;
        for (&index, &extent) in coordinates.iter().zip(shape.iter()) {
            row = row * extent + rows(&[index], extent)?[0] as usize;
        }
        flat.push(row as u32);
    }
    let mut merged = vec![shape[..depth].iter().product::<usize>()];
    merged.extend_from_slice(&shape[depth..]);
    Ok(Some((flat, merged.into())))
}
