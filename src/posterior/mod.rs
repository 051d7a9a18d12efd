//! What is believed after the data: predictions, metrics, files.
//!
//! A [`Posterior`] is a set of draws of the weights (one, for a MAP estimate) with everything
//! needed to predict: the backbone, the preprocessing, the class names. The predictive distribution
//! is the mean over the draws of the softmax, or of what else the task makes of the outputs;
//! held-out examples calibrate it.

mod calibration;
mod conformal;
mod draws;
mod evaluate;
mod export;
mod file;
mod folder;
pub mod metrics;
mod network;
mod next;
mod ood;
mod parts;
mod pixels;
mod predictive;
mod race;
mod runtime;
mod selective;
mod settle;
mod temperature;
mod uncertainty;

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

pub use self::calibration::{
    Calibration, CalibrationSettings, EXAMPLES_MIN, Familiarity, Intervals, Score, Verdict,
};
pub use self::conformal::{PredictionSets, quantile};
pub use self::draws::Visitor;
pub(crate) use self::draws::head_logits;
pub use self::evaluate::Evaluation;
pub(crate) use self::evaluate::{evaluate, evaluate_mean, noise_of};
pub use self::export::{About, ExportSettings, Exported, METADATA, NUMBERS, PROBABILITIES};
pub(crate) use self::file::DRAWS_MAX;
pub use self::file::DrawPrecision;
use self::folder::Files;
pub(crate) use self::network::own_weights;
pub use self::network::{FORWARD_BATCH, Network, Progress};
pub(crate) use self::next::check_prior;
pub use self::ood::Separation;
pub use self::parts::Part;
pub(crate) use self::parts::mean_of_draws;
pub(crate) use self::pixels::{PIXELS_MAX, Pixels, truth};
pub use self::predictive::{Predictions, entropy, softmax, tempered};
pub use self::race::{Entrant, Race, Ran};
pub use self::runtime::{
    Frame, OrtSettings, Output, Provider, Runtime, RuntimeChoice, ort_providers, ort_reference,
};
pub use self::selective::{Abstention, CERTAINTY, RiskCoverage, Target};
pub use self::settle::EarlyExit;
pub use self::temperature::{Truth, best_temperature};
pub use self::uncertainty::Uncertainty;
use crate::data::Preprocess;
use crate::error::{Error, Kind, Result};
use crate::onnx::Model;
use crate::prior::Weights;
use crate::task::Task;

/// The version of the folder's format that this crate reads and writes.
pub const VERSION: u32 = 3;

/// What is known of a posterior besides its weights; stored as JSON beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`VERSION`]
    pub version: u32,
    /// SHA-256 of the backbone's weights before adaptation.
    pub backbone: String,
    /// What it predicts.
    pub task: Task,
    /// How images become the network's input.
    pub preprocess: Preprocess,
    /// What logits are divided by before the softmax, above 0: what cross-validation found, or 1. A
    /// calibration's takes its place.
    pub temperature: f64,
    /// How the weights came about: settings and history, for people, and what
    /// `adapt::Replay` needs to make them again.
    pub provenance: serde_json::Value,
    /// What held-out examples taught, if any were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// Draws of the weights with everything needed to predict.
pub struct Posterior {
    description: Description,
    model: Arc<Model>,
    draws: Vec<Weights>,
    forward_batch: usize,
    /// Those of the folder it was read from.
    files: Option<Files>,
    /// What the differences between its draws were read from.
    precision: DrawPrecision,
    /// What predicts in the place of our own engine.
    runtime: Option<Mutex<Box<dyn Runtime>>>,
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
        description.task.check()?;
        let temperature = description.temperature;
        if !(temperature.is_finite() && temperature > 0.0) {
            let message = format!("the temperature is {temperature}; expected a number above 0");
            return Err(Error::malformed(message));
        }
        let task = &description.task;
        description.calibration.as_ref().map_or(Ok(()), |c| c.check(task))?;
        draws.iter().try_for_each(check_finite)?;
        Ok(Posterior {
            description,
            model,
            draws,
            forward_batch: FORWARD_BATCH,
            files: None,
            precision: DrawPrecision::F32,
            runtime: None,
        })
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

    /// What it predicts; numbers with the noise that a calibration found.
    pub fn task(&self) -> Task {
        let mut task = self.description.task.clone();
        let calibration = self.description.calibration.as_ref();
        let intervals = calibration.and_then(|calibration| calibration.intervals.as_ref());
        if let (Task::Regression { standard, .. }, Some(intervals)) = (&mut task, intervals) {
            let known = standard.iter_mut().zip(&intervals.noise);
            known.for_each(|(standard, &noise)| standard.noise = Some(noise));
        }
        task
    }

    /// The backbone as it was before adaptation, to the last bit.
    pub fn backbone(&self) -> &Model {
        &self.model
    }

    /// The same, to be shared.
    pub fn shared_backbone(&self) -> Arc<Model> {
        Arc::clone(&self.model)
    }

    /// The precision that the differences between its draws were stored in, where it was read from
    /// a folder.
    pub fn precision(&self) -> DrawPrecision {
        self.precision
    }

    /// The draws.
    pub fn draws(&self) -> &[Weights] {
        &self.draws
    }

    /// The same with another calibration, or none.
    ///
    /// # Errors
    /// When a number of it is out of its range.
    pub fn with_calibration(mut self, calibration: Option<Calibration>) -> Result<Self> {
        let task = &self.description.task;
        calibration.as_ref().map_or(Ok(()), |c| c.check(task))?;
        self.description.calibration = calibration;
        Ok(self)
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
