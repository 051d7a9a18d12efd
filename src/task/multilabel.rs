//! Any number of labels: a sigmoid and a binary cross-entropy for each.

use super::TARGETS;
use crate::error::Result;
use crate::graph::{Graph, Unary, ValueId};
use crate::tensor::Shape;

/// Mean over the batch of Σ over the labels of the cross-entropy of σ(`logits`) against
/// [`TARGETS`], which are in [0, 1]: `[1]`.
///
/// ```text
/// -y ln σ(z) - (1-y) ln σ(-z) = softplus(z) - y z
/// softplus(z) = z/2 + |z|/2 + ln(1 + e^-|z|)
/// ```
///
/// Nothing overflows, and with sign(0) = 0 the derivative is ½ at 0, where a new head begins; with
/// max(z, 0) for the first two terms it would be 0 there.
///
/// # Errors
/// When the logits have no batch.
pub fn binary_cross_entropy(graph: &mut Graph, logits: ValueId) -> Result<ValueId> {
    let shape: Shape = graph.shape(logits).clone();
    let targets = graph.input(TARGETS, &shape)?;
    let size = graph.unary(Unary::Abs, logits)?;
    let minus = graph.unary(Unary::Neg, size)?;
    let small = graph.unary(Unary::Exp, minus)?;
    let small = graph.shift(small, 1.0)?;
    let rest = graph.unary(Unary::Log, small)?;
    let twice = graph.add(logits, size)?;
    let half = graph.scale(twice, 0.5)?;
    let softplus = graph.add(half, rest)?;
    let gain = graph.mul(targets, logits)?;
    let each = graph.sub(softplus, gain)?;
    let sum = graph.sum_all(each)?;
    graph.scale(sum, 1.0 / shape[0] as f32)
}

/// 1/(1 + e⁻ˣ)
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
