//! Heads and losses.
//!
//! A task turns the features of a backbone into predictions and a loss. Classification: features
//! `[N, F]`, or `[N, C, H, W]` averaged over space, then a dense layer to `[N, classes]` logits and
//! the mean cross-entropy against target distributions `[N, classes]`. Without labels: a projector
//! and the contrast of two views of each example.

mod contrast;

pub use self::contrast::{PROJECTOR, TEMPERATURE_MIN, new_projector, nt_xent, projector};
use crate::error::{Error, Result};
use crate::graph::{Graph, MatMul, ValueId};
use crate::tensor::Shape;

/// Name of the head's weight `[classes, F]`.
pub const HEAD_WEIGHT: &str = "priorfit.head.weight";
/// Name of the head's bias `[classes]`.
pub const HEAD_BIAS: &str = "priorfit.head.bias";
/// Name of the input that holds the target distributions `[N, classes]`.
pub const TARGETS: &str = "priorfit.targets";
/// Name of the output that holds the logits `[N, classes]`.
pub const LOGITS: &str = "logits";
/// Name of the output that holds the features `[N, F]`.
pub const FEATURES: &str = "features";
/// Name of the output that holds the mean negative log-likelihood `[1]`.
pub const LOSS: &str = "loss";

/// Features as `[N, F]`, whatever shape the backbone gives them.
///
/// # Errors
/// When they have fewer than two or more than four dimensions, or none of the batch's.
pub fn flat_features(graph: &mut Graph, features: ValueId) -> Result<ValueId> {
    let shape = graph.shape(features).clone();
    match shape[..] {
        [_, _] => Ok(features),
        [n, c, _, _] => {
            let mean = graph.mean(features, &[2, 3])?;
            graph.reshape(mean, &[n, c].into())
        }
        [n, _, f] => {
            let mean = graph.mean(features, &[1])?;
            graph.reshape(mean, &[n, f].into())
        }
        _ => Err(Error::unsupported(format!(
            "features of shape {shape}; expected [N, F], [N, tokens, F] or [N, C, H, W]"
        ))
        .hint("choose another value with --features NAME")),
    }
}

/// A dense layer on features `[N, F]`: logits `[N, classes]`.
///
/// # Errors
/// When the features are not `[N, F]`.
pub fn linear_head(graph: &mut Graph, features: ValueId, classes: usize) -> Result<ValueId> {
    let origin = graph.set_origin("head");
    let [n, f] = graph.shape(features)[..] else {
        return Err(Error::internal("the head takes flat features"));
    };
    let weight = graph.param(HEAD_WEIGHT, &[classes, f].into())?;
    let bias = graph.param(HEAD_BIAS, &[classes].into())?;
    let product = MatMul { transpose_a: false, transpose_b: true };
    let product = graph.matmul(features, weight, product)?;
    let bias = graph.reshape(bias, &[1, classes].into())?;
    let bias = graph.broadcast(bias, &[n, classes].into())?;
    let logits = graph.add(product, bias)?;
    graph.set_origin(origin);
    Ok(logits)
}

/// Mean over the batch of the cross-entropy of softmax(`logits`) against [`TARGETS`]: `[1]`.
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
