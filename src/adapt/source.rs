//! Learning a prior on the source task: SWAG (Maddox et al. 2019).
//!
//! A head is fitted to the backbone's features, then all weights are trained on from where they are
//! and snapshots are taken along the way; their mean, variance and deviations are the prior. The
//! head has no part in it.

use std::sync::Arc;

use serde::Serialize;

use super::memory::Extent;
use super::path::Path;
use super::settings::{PriorKind, Settings};
use super::trainer::Trainer;
use super::{Adapter, Ending, Observer};
use crate::backend::Engine;
use crate::data::{Augment, Dataset, Preprocess};
use crate::error::{Error, Kind, Result};
use crate::onnx::Model;
use crate::posterior::Network;
use crate::prior::{Header, Learned, Moments, Prior, Weights};
use crate::update::{Optimizer, Schedule};

/// Settings of a prior fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceSettings {
    /// Passes over the data while snapshots are taken.
    pub epochs: usize,
    /// Passes before the first snapshot.
    pub burn_in: usize,
    /// Snapshots in all.
    pub snapshots: usize,
    /// Deviations kept, the K of the prior; 0 for a diagonal prior.
    pub rank: usize,
    /// ε, the least variance of a weight.
    pub epsilon: f32,
    /// Learning rate of SGD with Nesterov's momentum.
    pub learning_rate: f32,
    /// Its momentum.
    pub momentum: f32,
    /// Constant or cyclical.
    pub schedule: Schedule,
    /// Largest norm of the loss's gradient; none does not clip.
    pub clip: Option<f32>,
    /// Examples of a step.
    pub batch_size: usize,
    /// How images vary.
    pub augment: Augment,
    /// Decides every random choice.
    pub seed: u64,
}

impl Default for SourceSettings {
    fn default() -> Self {
        SourceSettings {
            epochs: 5,
            burn_in: 1,
            snapshots: 20,
            rank: 10,
            epsilon: 1e-6,
            learning_rate: 0.02,
            momentum: 0.9,
            schedule: Schedule::Constant,
            clip: Some(2.0),
            batch_size: 64,
            augment: Augment::default(),
            seed: 0,
        }
    }
}

impl SourceSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the one that is out of its range.
    pub fn check(&self) -> Result<()> {
        let positive = |name: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} is {value}; expected a positive number"))),
        };
        let at_least = |name: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} is {value}; expected at least {least}"))),
        };
        at_least("the number of epochs", self.epochs, 1)?;
        at_least("the number of snapshots", self.snapshots, 2)?;
        at_least("batch size", self.batch_size, 1)?;
        positive("learning rate", self.learning_rate)?;
        self.clip.map_or(Ok(()), |clip| positive("clip", clip))?;
        Optimizer::Sgd { momentum: self.momentum }.check()?;
        if !self.epsilon.is_finite() || self.epsilon < 0.0 {
            let message = format!("epsilon is {}; expected a number of at least 0", self.epsilon);
            return Err(Error::invalid(message));
        }
        match self.schedule {
            Schedule::Cyclical { cycles } if !(1..=self.snapshots).contains(&cycles) => {
                let message = format!("the number of cycles is {cycles}");
                let expected = format!("expected 1 to the number of snapshots, {}", self.snapshots);
                Err(Error::invalid(message).hint(expected))
            }
            _ => Ok(()),
        }
    }

    /// Steps before the first snapshot, and in all, of passes of `per_epoch` steps.
    fn steps(&self, per_epoch: usize) -> Result<(usize, usize)> {
        let steps = |epochs: usize| epochs.checked_mul(per_epoch);
        let all = self.burn_in.checked_add(self.epochs).and_then(steps);
        let within = |all: &usize| all.checked_mul(self.snapshots).is_some();
        steps(self.burn_in).zip(all.filter(within)).ok_or_else(|| {
            Error::invalid("there are more steps than can be counted").hint("lower the epochs")
        })
    }
}

/// Learns the prior of `model` (which ends in features) on labelled source data.
///
/// # Errors
/// When a setting is out of its range, the data cannot be read, the model cannot be trained,
/// training diverges, or the observer stops before two snapshots are taken.
pub fn fit_prior(
    model: &Arc<Model>,
    data: &Dataset,
    preprocess: &Preprocess,
    settings: &SourceSettings,
    engine: impl Into<Engine>,
    observe: Observer<'_>,
) -> Result<Prior> {
    settings.check()?;
    data.check_trainable()?;
    let per_epoch = data.len().div_ceil(settings.batch_size);
    let (burn_in, steps) = settings.steps(per_epoch)?;
    let mut moments = Moments::new(settings.rank)?;
    let classes = data.classes().len();
    let engine = engine.into();
    let network = Network::new(Arc::clone(model), preprocess.clone(), Some(classes), &engine)?;
    let mut trainer = {
        let training = training(settings, steps);
        let path = Path::new(vec![1.0], steps, settings.schedule);
        let extent = Extent { runs: vec![[data.len(), steps]], passes: vec![data.len()] };
        Trainer::new(network, training, None, path, &extent)?
    };
    let adapter = Adapter::new(Arc::clone(model), preprocess.clone(), engine);
    let features = adapter.features(trainer.network_mut(), &Weights::new(), data, observe)?;
    let head = adapter.head(&features, data, 1.0, observe)?;
    trainer.network_mut().set_weights(&head)?;
    let names: Vec<String> = model.weights().map(|(name, _)| name.to_string()).collect();
    for epoch in 0..settings.burn_in + settings.epochs {
        let range = epoch * per_epoch..(epoch + 1) * per_epoch;
        let mut collect = |step: usize, network: &mut Network| {
            let due = step >= burn_in
                && settings.schedule.snapshot_due(
                    step - burn_in,
                    steps - burn_in,
                    settings.snapshots,
                );
            match due {
                true => moments.collect(&network.weights(names.iter().map(String::as_str))?),
                false => Ok(()),
            }
        };
        let (record, ending) = trainer.epoch(data, epoch, range, observe, &mut collect)?;
        log::info!("epoch {}: loss {}", record.epoch, record.loss);
        if ending == Ending::Stopped {
            break;
        }
    }
    if moments.count() < 2 {
        return Err(Error::new(Kind::Cancelled, "stopped before two snapshots were taken"));
    }
    moments.finish(header(model, data, settings))
}

/// The same settings in an adaptation's terms.
fn training(settings: &SourceSettings, steps: usize) -> Settings {
    Settings {
        prior: PriorKind::None,
        optimizer: Optimizer::Sgd { momentum: settings.momentum },
        learning_rate: settings.learning_rate,
        schedule: settings.schedule,
        steps,
        batch_size: settings.batch_size,
        clip: settings.clip,
        augment: settings.augment,
        seed: settings.seed,
        ..Settings::default()
    }
}

fn header(model: &Model, data: &Dataset, settings: &SourceSettings) -> Header {
    Header {
        learned: Learned {
            epochs: Some(settings.epochs as f32),
            learning_rate: Some(settings.learning_rate),
            method: "SWAG".to_string(),
            schedule: match settings.schedule {
                Schedule::Cyclical { cycles } => format!("cyclical, {cycles} cycles"),
                _ => "constant".to_string(),
            },
            snapshots: settings.snapshots as u64,
        },
        num_data: data.len() as u64,
        ..Header::new(model.fingerprint(), settings.epsilon)
    }
}
