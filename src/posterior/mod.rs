//! What is believed after the data: predictions, metrics, files.
//!
//! A [`Posterior`] is a set of draws of the weights (one, for a MAP estimate) with everything
//! needed to predict: the backbone, the preprocessing, the class names. The predictive distribution
//! is the mean over the draws of the softmax.

mod file;
pub mod metrics;
mod network;

use std::sync::Arc;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

pub(crate) use self::file::DRAWS_MAX;
pub use self::file::DrawPrecision;
pub use self::network::{FORWARD_BATCH, Network, Progress};
use crate::backend::Engine;
use crate::data::{Dataset, Preprocess};
use crate::error::{Error, Kind, Result};
use crate::onnx::Model;
use crate::prior::Weights;

/// The version of the folder's format that this crate reads and writes.
pub const VERSION: u32 = 2;

/// What is known of a posterior besides its weights; stored as JSON beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`VERSION`]
    pub version: u32,
    /// SHA-256 of the backbone's weights before adaptation.
    pub backbone: String,
    /// Names of the classes; a prediction is an index into them.
    pub classes: Vec<String>,
    /// How images become the network's input.
    pub preprocess: Preprocess,
    /// How the weights came about: settings and history, for people.
    pub provenance: serde_json::Value,
}

/// Draws of the weights with everything needed to predict.
pub struct Posterior {
    description: Description,
    model: Arc<Model>,
    draws: Vec<Weights>,
    forward_batch: usize,
}

impl Posterior {
    /// A posterior of these draws; each holds the trainable weights of the backbone and the head.
    ///
    /// # Errors
    /// When there is no draw, or a weight is not finite.
    pub fn new(description: Description, model: Arc<Model>, draws: Vec<Weights>) -> Result<Self> {
        if draws.is_empty() {
            return Err(Error::invalid("a posterior has at least one draw"));
        }
        description.preprocess.check()?;
        draws.iter().try_for_each(check_finite)?;
        Ok(Posterior { description, model, draws, forward_batch: FORWARD_BATCH })
    }

    /// The same, predicting this many examples at once, at least 1: fewer take less memory.
    pub fn with_forward_batch(mut self, examples: usize) -> Self {
        self.forward_batch = examples;
        self
    }

    /// What is known besides the weights.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The draws.
    pub fn draws(&self) -> &[Weights] {
        &self.draws
    }

    /// The predictive distribution `[N, classes]` for every example: the mean over draws of the
    /// softmax of the logits. `observe` is told of progress and may stop; where the device fails,
    /// the draw at hand is predicted again elsewhere.
    ///
    /// # Errors
    /// When an image cannot be read, the network cannot run, or `observe` stops.
    pub fn predict(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Array2<f64>> {
        let classes = self.description.classes.len();
        if data.is_empty() {
            return Ok(Array2::zeros((0, classes)));
        }
        let mut network = Network::new(
            Arc::clone(&self.model),
            self.description.preprocess.clone(),
            Some(classes),
            engine,
        )?;
        network.set_forward_batch(self.forward_batch);
        let mut mean = Array2::zeros((data.len(), classes));
        for draw in &self.draws {
            network.set_weights(draw)?;
            let logits = loop {
                match network.logits(data, observe) {
                    Err(error) if error.kind() == Kind::Device => {
                        network.fall_back(error, draw)?;
                    }
                    other => break other?,
                }
            };
            mean += &softmax(&logits);
        }
        mean /= self.draws.len() as f64;
        Ok(mean)
    }
}

/// The last step of a run can leave the numbers without any loss being computed from them.
fn check_finite(draw: &Weights) -> Result<()> {
    for (name, weight) in draw {
        if let Some(x) = weight.iter().find(|x| !x.is_finite()) {
            let message = format!("parameter '{name}' holds {x}; expected finite numbers");
            return Err(Error::new(Kind::Diverged, message)
                .hint("lower --lr, or clip the gradient with --clip"));
        }
    }
    Ok(())
}

/// Softmax of each row, in `f64`.
pub fn softmax(logits: &Array2<f32>) -> Array2<f64> {
    let mut p = logits.mapv(f64::from);
    for mut row in p.rows_mut() {
        let largest = row.fold(f64::NEG_INFINITY, |m, &x| m.max(x));
        row.mapv_inplace(|x| (x - largest).exp());
        let sum = row.sum();
        row /= sum;
    }
    p
}
