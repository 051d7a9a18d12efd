//! One of several classes: softmax and cross-entropy.

use super::TARGETS;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::tensor::Shape;

/// Mean over the batch of the cross-entropy of softmax(`logits`) against the distributions in
/// [`TARGETS`]: `[1]`.
///
/// # Errors
/// When the logits are not `[N, classes]`.
pub fn cross_entropy(graph: &mut Graph, logits: ValueId) -> Result<ValueId> {
    let origin = graph.set_origin("loss");
    let shape: Shape = graph.shape(logits).clone();
    let targets = graph.input(TARGETS, &shape)?;
    let log_p = graph.log_softmax(logits)?;
    let product = graph.mul(targets, log_p)?;
    let sum = graph.sum_all(product)?;
    let loss = graph.scale(sum, -1.0 / shape[0] as f32)?;
    graph.set_origin(origin);
    Ok(loss)
}

/// Softmax, in place.
pub(super) fn softmax(logits: &mut [f64]) {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    logits.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let sum: f64 = logits.iter().sum();
    logits.iter_mut().for_each(|x| *x /= sum);
}
