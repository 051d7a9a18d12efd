//! The adapted network as other engines take it: an ONNX model, head included, in which the
//! weights that differ between draws are to be inputs.

use super::Output;
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::posterior::Posterior;
use crate::prior::Weights;
use crate::task::{HEAD_BIAS, HEAD_WEIGHT};
use crate::tensor::{Tensor, contiguous, tensor};

/// A network for another engine.
pub(super) struct Foreign {
    /// With the weights of the first draw. Its outputs are, but for masks, the features, and then
    /// the logits.
    pub(super) model: Model,
    /// Names of the weights that differ between draws.
    pub(super) open: Vec<String>,
    /// The first draw's other weights.
    fixed: Weights,
}

impl Posterior {
    /// The network for another engine.
    ///
    /// # Errors
    /// When the backbone cannot be imported, or has something of the head's names.
    pub(super) fn foreign(&self) -> Result<Foreign> {
        let draw = &self.draws[0];
        let model = self.moved(draw)?.extended(&self.raw_layers(draw)?)?;
        for name in [HEAD_WEIGHT, HEAD_BIAS] {
            // A name that the file has already would have become another.
            if self.model.weight(name).is_some() || model.weight(name).is_none() {
                let message = format!("the backbone has something called '{name}'");
                return Err(Error::unsupported(message).hint("rename it in the file"));
            }
        }
        let mut open = Vec::new();
        let mut fixed = Weights::new();
        let mut shared = Vec::new();
        for (name, weight) in draw.iter().filter(|(name, _)| model.weight(name).is_some()) {
            shared.push((name.as_str(), shaped(&model, name, weight)?));
            match self.is_shared(name) {
                true => drop(fixed.insert(name.clone(), weight.clone())),
                false => open.push(name.clone()),
            }
        }
        // The elements are the draw's own, not a copy.
        let model = model.with_weights(shared.iter().map(|(name, weight)| (*name, weight)))?;
        Ok(Foreign { model, open, fixed })
    }

    /// Whether all draws have the same weight of this name.
    pub(in crate::posterior) fn is_shared(&self, name: &str) -> bool {
        let [first, rest @ ..] = self.draws() else { return true };
        let Some(own) = first.get(name) else { return false };
        let is_own = |w: &Tensor| own.as_ptr() == w.as_ptr() || own == w;
        rest.iter().all(|draw| draw.get(name).is_some_and(is_own))
    }
}

impl Foreign {
    /// Which of the model's outputs it is.
    ///
    /// # Errors
    /// Of the features of masks: nothing needs them.
    pub(super) fn place(&self, output: Output) -> Result<usize> {
        match (self.model.outputs().len(), output) {
            (1, Output::Features) => Err(Error::unsupported("features of masks on another engine")),
            (count, Output::Logits) => Ok(count - 1),
            (_, Output::Features) => Ok(0),
        }
    }

    /// The open weights of a draw, by number, as the model has them.
    ///
    /// # Errors
    /// When a weight has another shape, or one that was taken for constant is another.
    pub(super) fn given(&self, draw: &Weights) -> Result<Vec<(usize, Tensor)>> {
        for (name, own) in &self.fixed {
            if let Some(other) = draw.get(name)
                && other.as_ptr() != own.as_ptr()
                && other != own
            {
                let message = format!("the weight '{name}' is not that of the posterior's draws");
                return Err(Error::mismatch(message).hint("open the engine for this posterior"));
            }
        }
        let mut given = Vec::new();
        for (number, name) in self.open.iter().enumerate() {
            if let Some(weight) = draw.get(name) {
                given.push((number, shaped(&self.model, name, weight)?));
            }
        }
        Ok(given)
    }
}

/// A draw's weight in the shape that the model has it in: a head's matrix may be filters there.
fn shaped(model: &Model, name: &str, weight: &Tensor) -> Result<Tensor> {
    match model.weight(name) {
        Some(own) if own.shape() != weight.shape() => {
            let shaped = tensor(own.shape(), contiguous(weight).into_owned());
            shaped.context(|| format!("the weight '{name}'"))
        }
        _ => Ok(weight.clone()),
    }
}
