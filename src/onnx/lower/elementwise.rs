//! Functions of single elements. Truth values are numbers here: 0 is false, 1 is true.

use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math;
use tract_onnx::tract_core::ops::nn::{GeluApproximate, LeakyRelu};
use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering, gelu};
use crate::error::Result;
use crate::graph::{Binary, Unary, ValueId};

/// A function of one operand.
pub(super) fn unary(l: &mut Lowering<'_>, node: &TypedNode, op: &ElementWiseOp) -> Lowered {
    let x = l.operand(node, 0)?;
    if let Some(leaky) = op.0.downcast_ref::<LeakyRelu>() {
        return leaky_relu(l, x, leaky.alpha).map(Some);
    }
    if let Some(power) = op.0.downcast_ref::<math::PowConst>() {
        return powf(l, x, power.exponent).map(Some);
    }
    if let Some(gelu) = op.0.downcast_ref::<GeluApproximate>() {
        let power = if gelu.fast_impl { 2.0 } else { 3.0 };
        return gelu_tanh(l, x, power).map(Some);
    }
    let f = match op.0.name().as_str() {
        "Neg" => Unary::Neg,
        "Abs" => Unary::Abs,
        "Sign" => Unary::Sign,
        "Exp" => Unary::Exp,
        "Ln" => Unary::Log,
        "Sqrt" => Unary::Sqrt,
        "Rsqrt" => Unary::Rsqrt,
        "Recip" => Unary::Recip,
        "Tanh" => Unary::Tanh,
        "Erf" => Unary::Erf,
        "Sigmoid" => Unary::Sigmoid,
        "GeluExact" => Unary::Gelu,
        "Square" => return l.graph.mul(x, x).map(Some),
        "HardSwish" => return hard_swish(l, x).map(Some),
        "Silu" => return silu(l, x).map(Some),
        "Not" => return not(l, x).map(Some),
        _ => return Ok(None),
    };
    l.graph.unary(f, x).map(Some)
}

/// max(x, 0) - α max(-x, 0)
fn leaky_relu(l: &mut Lowering<'_>, x: ValueId, alpha: f32) -> Result<ValueId> {
    let above = l.graph.unary(Unary::Relu, x)?;
    let negative = l.graph.unary(Unary::Neg, x)?;
    let below = l.graph.unary(Unary::Relu, negative)?;
    let below = l.graph.scale(below, alpha)?;
    l.graph.sub(above, below)
}

/// x · min(max(x/6 + 1/2, 0), 1)
fn hard_swish(l: &mut Lowering<'_>, x: ValueId) -> Result<ValueId> {
    let sixth = l.graph.scale(x, 1.0 / 6.0)?;
    let shifted = l.graph.shift(sixth, 0.5)?;
    let gate = l.graph.unary(Unary::Clamp(0.0, 1.0), shifted)?;
    l.graph.mul(x, gate)
}

/// x / (1 + e⁻ˣ)
fn silu(l: &mut Lowering<'_>, x: ValueId) -> Result<ValueId> {
    let gate = l.graph.unary(Unary::Sigmoid, x)?;
    l.graph.mul(x, gate)
}

/// x/2 · (1 + tanh(√(2/π) (x + 0.044715 xᵖ)))
fn gelu_tanh(l: &mut Lowering<'_>, x: ValueId, power: f32) -> Result<ValueId> {
    let raised = powf(l, x, power)?;
    let raised = l.graph.scale(raised, 0.044_715)?;
    let sum = l.graph.add(x, raised)?;
    let scaled = l.graph.scale(sum, (2.0 / std::f32::consts::PI).sqrt())?;
    let gate = l.graph.unary(Unary::Tanh, scaled)?;
    let shifted = l.graph.shift(gate, 1.0)?;
    let half = l.graph.scale(x, 0.5)?;
    l.graph.mul(half, shifted)
}

fn not(l: &mut Lowering<'_>, x: ValueId) -> Result<ValueId> {
    let negative = l.graph.unary(Unary::Neg, x)?;
    l.graph.shift(negative, 1.0)
}

/// xᵖ, by products where p is small and whole, since those hold for negative x too.
fn powf(l: &mut Lowering<'_>, x: ValueId, power: f32) -> Result<ValueId> {
    match power {
        1.0 => Ok(x),
        2.0 => l.graph.mul(x, x),
        3.0 => {
            let square = l.graph.mul(x, x)?;
            l.graph.mul(square, x)
        }
        0.5 => l.graph.unary(Unary::Sqrt, x),
        -1.0 => l.graph.unary(Unary::Recip, x),
        -0.5 => l.graph.unary(Unary::Rsqrt, x),
        _ => l.graph.unary(Unary::Powf(power), x),
    }
}

/// A function of two operands under their common shape.
pub(super) fn binary(l: &mut Lowering<'_>, node: &TypedNode, op: &TypedBinOp) -> Lowered {
    if let Some(value) = clamp(l, node, op)? {
        return Ok(Some(value));
    }
    if op.0.is::<math::Pow>() {
        let Some(power) = l.known_splat(node, 1)? else { return Ok(None) };
        let x = l.operand(node, 0)?;
        let raised = powf(l, x, power)?;
        let shape = super::shape_of(&node.outputs[0].fact)?;
        return l.graph.broadcast(raised, &shape).map(Some);
    }
    if !node.outputs[0].fact.datum_type.is_float() && is_integer_division(op) {
        return Ok(None);
    }
    let (a, b) = (l.operand(node, 0)?, l.operand(node, 1)?);
    let common = l.graph.broadcast_together(&[a, b])?;
    let (a, b) = (common[0], common[1]);
    let value = match op.0.name() {
        "Add" => l.graph.add(a, b)?,
        "Sub" => l.graph.sub(a, b)?,
        "SubF" => l.graph.sub(b, a)?,
        "Mul" | "And" => match gelu::argument(&l.graph, a, b) {
            Some(x) => l.graph.unary(Unary::Gelu, x)?,
            None => l.graph.mul(a, b)?,
        },
        "Div" => l.graph.div(a, b)?,
        "Max" | "Or" => l.graph.binary(Binary::Max, a, b)?,
        "Min" => l.graph.binary(Binary::Min, a, b)?,
        other => return compare(l, other, a, b),
    };
    Ok(Some(value))
}

/// Whole numbers divide towards zero, which the graph has no op for.
fn is_integer_division(op: &TypedBinOp) -> bool {
    op.0.is::<math::Div>()
}

fn compare(l: &mut Lowering<'_>, name: &str, a: ValueId, b: ValueId) -> Lowered {
    let value = match name {
        "LT" => l.graph.binary(Binary::Less, a, b)?,
        "GT" => l.graph.binary(Binary::Less, b, a)?,
        "GTE" => {
            let less = l.graph.binary(Binary::Less, a, b)?;
            not(l, less)?
        }
        "LTE" => {
            let greater = l.graph.binary(Binary::Less, b, a)?;
            not(l, greater)?
        }
        "Eq" | "NE" => {
            let less = l.graph.binary(Binary::Less, a, b)?;
            let greater = l.graph.binary(Binary::Less, b, a)?;
            let unequal = l.graph.add(less, greater)?;
            if name == "Eq" { not(l, unequal)? } else { unequal }
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Which end of a range a Max or Min with one number holds.
#[derive(Clone, Copy)]
struct Bound {
    /// The operand that is not the number.
    operand: usize,
    value: f32,
    is_max: bool,
}

/// max(x, 0), and the pairs of max and min that make a clamp, as single functions.
fn clamp(l: &mut Lowering<'_>, node: &TypedNode, op: &TypedBinOp) -> Lowered {
    let Some(bound) = bound(l, node, op)? else { return Ok(None) };
    let x = l.operand(node, bound.operand)?;
    if *l.graph.shape(x) != super::shape_of(&node.outputs[0].fact)? {
        return Ok(None);
    }
    if let crate::graph::Op::Unary(Unary::Clamp(lo, hi)) = l.graph.producer(x).op
        && bound.value == if bound.is_max { lo } else { hi }
    {
        return Ok(Some(x));
    }
    if let Some(next) = only_reader(l, node)
        && let Some(next_op) = next.op_as::<TypedBinOp>()
        && let Some(other) = bound_ahead(l, next, next_op)?
        && other.is_max != bound.is_max
    {
        let (lo, hi) = match bound.is_max {
            true => (bound.value, other.value),
            false => (other.value, bound.value),
        };
        if lo <= hi {
            return l.graph.unary(Unary::Clamp(lo, hi), x).map(Some);
        }
    }
    match bound {
        Bound { is_max: true, value: 0.0, .. } => l.graph.unary(Unary::Relu, x).map(Some),
        _ => Ok(None),
    }
}

fn bound(l: &Lowering<'_>, node: &TypedNode, op: &TypedBinOp) -> Result<Option<Bound>> {
    bound_by(op, |at| l.known_splat(node, at))
}

/// Like [`bound`] for a node not yet visited, whose constants tract may already know.
fn bound_ahead(l: &Lowering<'_>, node: &TypedNode, op: &TypedBinOp) -> Result<Option<Bound>> {
    bound_by(op, |at| {
        if let Some(value) = l.known_splat(node, at)? {
            return Ok(Some(value));
        }
        let fact = l.typed.outlet_fact(node.inputs[at]);
        let Some(constant) = fact.ok().and_then(|fact| fact.konst.clone()) else { return Ok(None) };
        let floats = crate::onnx::typed::to_host(&constant)?;
        Ok((floats.len() == 1).then(|| floats.first().copied()).flatten())
    })
}

fn bound_by(
    op: &TypedBinOp,
    splat: impl Fn(usize) -> Result<Option<f32>>,
) -> Result<Option<Bound>> {
    let is_max = op.0.is::<math::Max>();
    if !is_max && !op.0.is::<math::Min>() {
        return Ok(None);
    }
    Ok(match (splat(0)?, splat(1)?) {
        (None, Some(value)) => Some(Bound { operand: 0, value, is_max }),
        (Some(value), None) => Some(Bound { operand: 1, value, is_max }),
        _ => None,
    })
}

/// The one node that reads this node's result, if it is one and the result is not an output.
fn only_reader<'a>(l: &Lowering<'a>, node: &TypedNode) -> Option<&'a TypedNode> {
    let is_output = l.typed.outputs.contains(&OutletId::new(node.id, 0));
    match node.outputs[0].successors.as_slice() {
        [one] if !is_output => Some(&l.typed.nodes[one.node]),
        _ => None,
    }
}

/// Between floats, and from truth values, nothing changes; towards integers it would.
pub(super) fn cast(l: &mut Lowering<'_>, node: &TypedNode, op: &Cast) -> Lowered {
    let from = l.typed.outlet_fact(node.inputs[0]).map(|fact| fact.datum_type);
    let exact = from.is_ok_and(|from| from.is_float() == op.to.is_float() || op.to.is_float());
    match exact {
        true => l.operand(node, 0).map(Some),
        false => Ok(None),
    }
}

/// `a` where the condition holds, else `b`.
pub(super) fn select(l: &mut Lowering<'_>, node: &TypedNode) -> Lowered {
    let operands = [l.operand(node, 0)?, l.operand(node, 1)?, l.operand(node, 2)?];
    let common = l.graph.broadcast_together(&operands)?;
    l.graph.select(common[0], common[1], common[2]).map(Some)
}
