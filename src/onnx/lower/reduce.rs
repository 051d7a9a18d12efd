//! Reductions and softmax.

use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind};
use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering};
use crate::error::{Error, Result};
use crate::graph::{Reduction, Unary, ValueId};
use crate::onnx::typed;
use crate::tensor::Shape;

pub(super) fn reduce(l: &mut Lowering<'_>, node: &TypedNode, op: &Reduce) -> Lowered {
    let x = l.operand(node, 0)?;
    let axes = &op.axes;
    let value = match op.reducer {
        Reducer::Sum => l.graph.sum(x, axes)?,
        Reducer::Max => l.graph.reduce(Reduction::Max, x, axes)?,
        Reducer::Min => {
            let negative = l.graph.unary(Unary::Neg, x)?;
            let largest = l.graph.reduce(Reduction::Max, negative, axes)?;
            l.graph.unary(Unary::Neg, largest)?
        }
        Reducer::MeanOfSquares => mean_of_squares(l, x, axes)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn mean_of_squares(l: &mut Lowering<'_>, x: ValueId, axes: &[usize]) -> Result<ValueId> {
    let square = l.graph.mul(x, x)?;
    l.graph.mean(square, axes)
}

/// x / √(mean x² + ε)
pub(super) fn rms_norm(l: &mut Lowering<'_>, node: &TypedNode, op: &RmsNorm) -> Lowered {
    let x = l.operand(node, 0)?;
    let epsilon = typed::to_host(&op.eps)?.first().copied().unwrap_or(0.0);
    let mean = mean_of_squares(l, x, &[op.axis])?;
    let shifted = l.graph.shift(mean, epsilon)?;
    let inverse = l.graph.unary(Unary::Rsqrt, shifted)?;
    let shape = l.graph.shape(x).clone();
    let inverse = l.graph.broadcast(inverse, &shape)?;
    l.graph.mul(x, inverse).map(Some)
}

/// Softmax over any axes, which are brought to the end and merged for it.
pub(super) fn softmax(l: &mut Lowering<'_>, node: &TypedNode, op: &Softmax) -> Lowered {
    if op.quant_output_dt.is_some() || op.axes.is_empty() {
        return Ok(None);
    }
    let x = l.operand(node, 0)?;
    let shape = l.graph.shape(x).clone();
    if let Some(axis) = op.axes.iter().find(|&&axis| axis >= shape.ndim()) {
        return Err(Error::malformed(format!("softmax over axis {axis} of shape {shape}")));
    }
    let mut perm: Vec<usize> = (0..shape.ndim()).filter(|axis| !op.axes.contains(axis)).collect();
    let kept = perm.len();
    perm.extend(op.axes.iter().copied());
    let mut inverse = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        inverse[from] = to;
    }
    let turned = l.graph.transpose(x, &perm)?;
    let turned_shape = l.graph.shape(turned).clone();
    let mut merged = turned_shape[..kept].to_vec();
    merged.push(turned_shape[kept..].iter().product());
    let flat = l.graph.reshape(turned, &Shape::new(merged))?;
    let soft = match op.kind {
        SoftmaxKind::Softmax => l.graph.softmax(flat)?,
        SoftmaxKind::LogSoftmax => l.graph.log_softmax(flat)?,
    };
    let soft = l.graph.reshape(soft, &turned_shape)?;
    l.graph.transpose(soft, &inverse).map(Some)
}
