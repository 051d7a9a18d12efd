//! Learning a prior on the source task: SWAG (Maddox et al. 2019).
//!
//! A head is fitted to the backbone's features, then all weights are trained on from where they are
//! and snapshots are taken along the way; their mean, variance and deviations are the prior. The
//! head has no part in it. Without labels a projector and a contrastive loss take its place.

use std::sync::Arc;

use serde::Serialize;

use super::archive::{Archive, Array, Arrays, arrays_of};
use super::checkpoint::{Checkpoints, Journal};
use super::memory::Extent;
use super::objective::{ContrastSettings, Objective};
use super::path::Path;
use super::select::Rows;
use super::settings::{PriorKind, Settings};
use super::trainer::{Collect, Trainer};
use super::{Adapter, Control, HEAD_VARIANCE, Observer, own_weights};
use crate::backend::Engine;
use crate::data::{Augment, Dataset, Preprocess};
use crate::error::{Error, Kind, Result};
use crate::onnx::Model;
use crate::posterior::Network;
use crate::prior::{Grouping, Header, Learned, Moments, Prior, Weights, check_share};
use crate::task::{FEATURES, Task, new_projector};
use crate::update::{Optimizer, Schedule};

/// What the weights learn from the source data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceObjective {
    /// The task that its targets make: to tell its classes apart, say.
    #[default]
    Supervised,
    /// To tell its examples apart, without labels (SimCLR).
    Contrast(ContrastSettings),
}

impl SourceObjective {
    fn objective(self) -> Objective {
        match self {
            SourceObjective::Supervised => Objective::Task,
            SourceObjective::Contrast(settings) => Objective::Contrast(settings),
        }
    }

    /// Checks that something can be learned from `data`.
    fn check(self, data: &Dataset) -> Result<()> {
        match self {
            SourceObjective::Supervised => data.check_trainable(),
            SourceObjective::Contrast(_) if data.len() < 2 => {
                Err(Error::invalid("one example has nothing to be told from"))
            }
            SourceObjective::Contrast(_) => Ok(()),
        }
    }
}

/// Where the prior is centred: its mean, where adapting starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Centre {
    /// The backbone's own weights. Snapshots tell in which directions these may move, which a few
    /// epochs on a part of the source data do; they do not make better features of them.
    #[default]
    Backbone,
    /// The snapshots' mean, as in SWAG (Maddox et al. 2019): of a run that goes on with the
    /// backbone's own training for long.
    Snapshots,
}

/// Settings of a prior fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceSettings {
    /// What is learned.
    pub objective: SourceObjective,
    /// Passes over the data while snapshots are taken.
    pub epochs: usize,
    /// Passes before the first snapshot, at the base rate.
    pub burn_in: usize,
    /// Snapshots in all.
    pub snapshots: usize,
    /// The prior's mean.
    pub centre: Centre,
    /// Deviations kept, the K of the prior; 0 for a diagonal prior.
    pub rank: usize,
    /// ε, the least variance of a weight.
    pub epsilon: f32,
    /// Learning rate of SGD with Nesterov's momentum.
    pub learning_rate: f32,
    /// Its momentum.
    pub momentum: f32,
    /// Constant or cyclical, after the burn-in.
    pub schedule: Schedule,
    /// Largest norm of the loss's gradient; none does not clip.
    pub clip: Option<f32>,
    /// Examples of a step.
    pub batch_size: usize,
    /// How images vary.
    pub augment: Augment,
    /// Which weights vary together under the prior; see [`Prior::block_diagonal`].
    pub blocks: Grouping,
    /// Keeps, of at most `rank` deviations, the directions that explain this share of their
    /// variance; see [`Prior::compress`]. None keeps them all.
    pub explained: Option<f64>,
    /// Most bytes that the backend may hold; see [`Footprint`](super::Footprint). Snapshots are not
    /// among them: their sums are kept on the host, with 16 bytes for each weight and 4 more for
    /// each deviation.
    pub memory_cap: Option<u64>,
    /// Decides every random choice.
    pub seed: u64,
}

impl Default for SourceSettings {
    fn default() -> Self {
        SourceSettings {
            objective: SourceObjective::Supervised,
            epochs: 5,
            burn_in: 1,
            snapshots: 20,
            centre: Centre::Backbone,
            rank: 10,
            epsilon: 1e-6,
            learning_rate: 0.02,
            momentum: 0.9,
            schedule: Schedule::Constant,
            clip: Some(2.0),
            batch_size: 64,
            augment: Augment::default(),
            blocks: Grouping::Whole,
            explained: None,
            memory_cap: None,
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
        if let Some(share) = self.explained {
            check_share(share)?;
        }
        if let SourceObjective::Contrast(contrast) = self.objective {
            contrast.check()?;
            at_least("batch size", self.batch_size, 2)?;
        }
        match self.schedule {
            Schedule::Cyclical { cycles } if !self.snapshots.is_multiple_of(cycles) => {
                let message = format!("the number of cycles is {cycles}");
                let expected = "expected a divisor of the number of snapshots";
                Err(Error::invalid(message).hint(format!("{expected}, {}", self.snapshots)))
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

/// Learns the prior of `model` (which ends in features, or for masks in feature maps) on source
/// data, with targets of any kind unless the objective needs none.
///
/// A device that fails costs the steps since the last copy of the weights, as in an adaptation;
/// snapshots that were taken stay.
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
    fit_prior_with(model, data, preprocess, settings, engine, None, observe)
}

/// [`fit_prior`] with checkpoints, from which it can be resumed.
///
/// # Errors
/// As there, and when the checkpoint to resume from is another fit's or malformed. One that cannot
/// be written is a warning: the fit goes on.
pub fn fit_prior_with(
    model: &Arc<Model>,
    data: &Dataset,
    preprocess: &Preprocess,
    settings: &SourceSettings,
    engine: impl Into<Engine>,
    checkpoints: Option<&Checkpoints>,
    observe: Observer<'_>,
) -> Result<Prior> {
    settings.check()?;
    settings.objective.check(data)?;
    let per_epoch = data.len().div_ceil(settings.batch_size);
    let (burn_in, steps) = settings.steps(per_epoch)?;
    let journal = checkpoints.map(|to| {
        let (backbone, data) = (model.fingerprint(), data.fingerprint()?);
        Journal::open(to, &Course { backbone, data, preprocess, settings })
    });
    let journal = journal.transpose()?;
    let mut collector = Collector {
        moments: Moments::new(settings.rank)?,
        model,
        due: Snapshots { schedule: settings.schedule, count: settings.snapshots, burn_in, steps },
        next: 0,
    };
    let engine = engine.into();
    let task = match settings.objective {
        SourceObjective::Supervised => Some(Task::of(data)?),
        SourceObjective::Contrast(_) => None,
    };
    let network = Network::new(Arc::clone(model), preprocess.clone(), task, &engine)?;
    let (training, objective) = (training(settings, steps), settings.objective.objective());
    let adapter = Adapter::new(Arc::clone(model), preprocess.clone(), engine);
    let adapter = adapter.with_settings(training.clone())?;
    let path = collector.due.path();
    let extent = Extent { runs: vec![[data.len(), steps]], passes: vec![data.len()] };
    let mut trainer = Trainer::new(network, training, objective, None, path, &extent)?;
    let mut is_cut = false;
    let start = begin(&mut trainer, &adapter, data, settings, &mut |progress| {
        let control = observe(progress);
        is_cut |= control == Control::Stop;
        control
    })?;
    trainer.set_journal(journal.filter(|_| !is_cut));
    let mut history = Vec::new();
    trainer.run(data, None, &start, &mut history, observe, &mut collector)?;
    history.iter().for_each(|epoch| log::info!("epoch {}: loss {}", epoch.epoch, epoch.loss));
    let moments = collector.moments;
    if moments.count() < 2 {
        let message = "stopped before two snapshots were taken";
        let error = Error::new(Kind::Cancelled, message);
        return Err(match checkpoints.is_some_and(|to| to.path.exists()) {
            true => error.hint("the same command goes on from the checkpoint"),
            false => error,
        });
    }
    let prior = moments.finish(header(model, data, settings))?.block_diagonal(settings.blocks)?;
    let prior = match settings.centre {
        Centre::Backbone => prior.recentred(&own_weights(model))?,
        Centre::Snapshots => prior,
    };
    match settings.explained {
        Some(share) => prior.compress(share),
        None => Ok(prior),
    }
}

/// What decides the course of a fit.
#[derive(Serialize)]
struct Course<'a> {
    backbone: String,
    data: String,
    preprocess: &'a Preprocess,
    settings: &'a SourceSettings,
}

/// Makes ready for the first step; the weights then, as far as they are not the model's own.
fn begin(
    trainer: &mut Trainer,
    adapter: &Adapter,
    data: &Dataset,
    settings: &SourceSettings,
    observe: Observer<'_>,
) -> Result<Weights> {
    let SourceObjective::Contrast(contrast) = settings.objective else {
        let none = Weights::new();
        let network = trainer.network_mut();
        let rows = match network.known_task()?.is_dense() {
            true => None,
            false => Some(Rows::new(network, &none, data, (settings.seed, None), observe)?),
        };
        let head = adapter.head((network, &none), rows.as_ref(), data, HEAD_VARIANCE, observe)?;
        trainer.network_mut().set_weights(&head)?;
        return Ok(head);
    };
    let graph = trainer.network_mut().graph(1)?;
    let features = graph.output(FEATURES).map_or(0, |features| graph.shape(features)[1]);
    let projector = new_projector(features, contrast.projection, settings.seed)?;
    trainer.network_mut().set_weights(&projector)?;
    Ok(projector)
}

/// When snapshots are due.
struct Snapshots {
    schedule: Schedule,
    /// Of them.
    count: usize,
    /// Steps before the first.
    burn_in: usize,
    /// Steps in all.
    steps: usize,
}

impl Snapshots {
    /// What the steps follow.
    fn path(&self) -> Path {
        Path::after_burn_in(self.burn_in, self.steps - self.burn_in, self.schedule)
    }

    /// Whether one is due after step number `step`.
    fn after(&self, step: usize) -> bool {
        let (at, steps) = (step.checked_sub(self.burn_in), self.steps - self.burn_in);
        at.is_some_and(|at| self.schedule.snapshot_due(at, steps, self.count))
    }
}

/// Where a checkpoint has the first step that was not looked at.
const NEXT: &str = "next";

/// Takes snapshots beside the steps.
struct Collector<'a> {
    moments: Moments,
    model: &'a Model,
    due: Snapshots,
    /// The first step whose snapshot, if one is due, is not taken: steps that are made again after
    /// a device was lost are not counted again.
    next: usize,
}

impl Collect for Collector<'_> {
    fn after(&mut self, step: usize, network: &mut Network) -> Result<()> {
        if step < self.next {
            return Ok(());
        }
        if self.due.after(step) {
            let names = self.model.weights().map(|(name, _)| name);
            self.moments.collect(&network.weights(names)?)?;
        }
        self.next = step + 1;
        Ok(())
    }

    fn arrays(&self) -> Arrays<'_> {
        let mut arrays = arrays_of(&self.moments);
        arrays.insert(NEXT.to_string(), Array::number(self.next as f64));
        arrays
    }

    fn recall(
        &mut self,
        kept: &Archive,
        _draws: &mut dyn Iterator<Item = Result<Archive>>,
        _like: &Weights,
    ) -> Result<()> {
        let shapes = self.model.weights().map(|(name, w)| (name, w.shape()));
        let next = kept.number(NEXT)?;
        self.moments = kept.moments(self.moments.max_rank(), shapes)?;
        self.next = next;
        Ok(())
    }

    fn needs_end(&self) -> bool {
        false
    }
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
        memory_cap: settings.memory_cap,
        seed: settings.seed,
        ..Settings::default()
    }
}

fn header(model: &Model, data: &Dataset, settings: &SourceSettings) -> Header {
    Header {
        learned: Learned {
            epochs: Some(settings.epochs as f32),
            learning_rate: Some(settings.learning_rate),
            method: match settings.objective {
                SourceObjective::Supervised => "SWAG".to_string(),
                SourceObjective::Contrast(_) => "SWAG, SimCLR".to_string(),
            },
            schedule: match settings.schedule {
                Schedule::Cyclical { cycles } => format!("cyclical, {cycles} cycles"),
                _ => "constant".to_string(),
            },
            snapshots: settings.snapshots as u64,
        },
        notes: match settings.centre {
            Centre::Backbone => "around the backbone's own weights".to_string(),
            Centre::Snapshots => String::new(),
        },
        num_data: data.len() as u64,
        ..Header::new(model.fingerprint(), settings.epsilon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_of_cycles_are_taken_where_the_rate_is_low() {
        let schedule = Schedule::Cyclical { cycles: 2 };
        for burn_in in [0, 5, 8, 13] {
            let steps = burn_in + 40;
            let due = Snapshots { schedule, count: 2, burn_in, steps };
            let taken: Vec<usize> = (0..steps).filter(|&step| due.after(step)).collect();
            assert_eq!(taken, [burn_in + 19, burn_in + 39]);
            let path = due.path();
            assert!(taken.iter().all(|&step| path.rate(step) < 0.01), "{path:?}");
            assert!((0..=burn_in).all(|step| path.rate(step) == 1.0), "{path:?}");
        }
    }
}
