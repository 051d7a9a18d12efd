//! A posterior as the prior of the next task on the same backbone.
//!
//! The prior names the backbone by the fingerprint of the weights in its file, those before
//! adaptation, as every prior does; where the next run starts is the prior's own mean. So the next
//! run loads the same ONNX file (the posterior's folder has a copy), the fingerprints match, and
//! what was learned comes from the prior alone. The head is another task's and is left out.

use super::Posterior;
use super::file::mean;
use crate::error::Result;
use crate::onnx::Model;
use crate::prior::{DrawsFit, Header, Learned, Prior, Weights};
use crate::tensor::Shape;

/// Checks that a prior was learned around this backbone, and names its parameters.
///
/// # Errors
/// Those of [`Prior::matches`].
pub(crate) fn check_prior(prior: &Prior, model: &Model) -> Result<()> {
    let shapes: Vec<(&str, Shape)> =
        model.weights().map(|(name, w)| (name, w.shape().into())).collect();
    prior.matches(shapes.iter().map(|(n, s)| (*n, s)), &model.fingerprint())
}

impl Posterior {
    /// The Gaussian of the draws, with `epsilon` as the least variance of a weight; parameters that
    /// were frozen have no more than that. See [`Prior::from_draws`].
    ///
    /// # Errors
    /// When there is only one draw, or those of [`Prior::from_draws`].
    pub fn to_prior(&self, fit: DrawsFit, epsilon: f32) -> Result<Prior> {
        let method = format!("moments of {} draws from a posterior", self.draws().len());
        let header = Header {
            learned: Learned { method, ..Learned::default() },
            num_data: self.examples(),
            ..Header::new(self.model.fingerprint(), epsilon)
        };
        Prior::from_draws(&self.backbone_draws(), header, fit)
    }

    /// The covariance of `prior`, times `scale`, around the mean of the draws, of which there may
    /// be one. See [`Prior::moved_to`].
    ///
    /// # Errors
    /// When the prior is another backbone's, or those of [`Prior::moved_to`].
    pub fn to_prior_with(&self, prior: &Prior, scale: f64) -> Result<Prior> {
        check_prior(prior, &self.model)?;
        let draws = self.backbone_draws();
        let of = |name: &String| {
            let weights: Vec<_> = draws.iter().map(|draw| &draw[name]).collect();
            Ok((name.clone(), mean(&weights)?))
        };
        prior.moved_to(&draws[0].keys().map(of).collect::<Result<_>>()?, scale)
    }

    /// The draws without their heads.
    fn backbone_draws(&self) -> Vec<Weights> {
        let names: Vec<&str> = self.model.weights().map(|(name, _)| name).collect();
        let of = |draw: &Weights| {
            let weight = |name: &&str| Some((name.to_string(), draw.get(*name)?.clone()));
            names.iter().filter_map(weight).collect()
        };
        self.draws().iter().map(of).collect()
    }

    /// Number of examples that it was adapted to, as far as its provenance tells.
    fn examples(&self) -> u64 {
        self.description().provenance["examples"].as_u64().unwrap_or(0)
    }
}
