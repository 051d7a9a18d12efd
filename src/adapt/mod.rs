//! Adaptation: from a backbone, a prior and labelled examples to a posterior.
//!
//! ```text
//! features of the frozen backbone → linear probe (the head alone, until its loss settles)
//!   → all trainable weights under the prior, by SGD or AdamW to a MAP, or by SGLD or SGHMC
//!   → posterior with its draws: the MAP alone, states of chains, or draws around a MAP
//! ```
//!
//! The façade adds no behaviour: all it does can be written with the lower levels' public calls. It
//! reads no clock and prints nothing; [`Observer`] is told of every step and may stop the run,
//! which then ends in its last good state. A device that fails costs the steps since the last
//! shadow of the weights: they are made again on a new device or on the processor.

mod glob;
mod memory;
mod posterior;
mod probe;
mod settings;
mod source;
mod state;
mod trainer;

use std::sync::Arc;

use ndarray::Array2;
use serde::Serialize;

pub use self::glob::matches as name_matches;
pub use self::memory::Footprint;
pub use self::posterior::{COLD, PosteriorKind, PosteriorSettings};
use self::posterior::{Drawn, Run};
pub use self::settings::{PriorKind, Settings, TYPICAL_VARIANCE};
pub use self::source::{SourceSettings, fit_prior};
use self::trainer::Trainer;
use crate::backend::Engine;
use crate::data::{Dataset, Preprocess};
use crate::error::{Kind, Result};
use crate::onnx::Model;
use crate::posterior::metrics::{Report, Scored};
use crate::posterior::{Description, Network, Posterior, VERSION, softmax};
use crate::prior::{Prior, Weights};
use crate::tensor::tensor;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Computing the features of the examples; steps are examples.
    Features,
    /// Training the head alone.
    Probe,
    /// Training all weights.
    Train,
    /// Predicting held-out examples; steps are examples.
    Validate,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Steps of this phase that are done, over all chains or members.
    pub step: usize,
    /// Steps of this phase in all.
    pub steps: usize,
    /// Mean loss of the last step's batch, when training.
    pub loss: Option<f32>,
    /// Penalty of the prior before the last step, when training.
    pub penalty: Option<f32>,
}

/// What the caller wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop now and keep the last good state.
    Stop,
}

/// Is told of progress and answers whether to go on.
pub type Observer<'a> = &'a mut dyn FnMut(Progress) -> Control;

/// One pass over the training examples.
#[derive(Clone, Debug, Serialize)]
pub struct Epoch {
    /// The chain, or the member of an ensemble, counted from 1.
    pub chain: usize,
    /// Of this chain, counted from 1.
    pub epoch: usize,
    /// Mean training loss over its examples.
    pub loss: f32,
    /// Penalty at its last step.
    pub penalty: f32,
    /// Metrics on the held-out examples, if any.
    pub validation: Option<Summary>,
}

/// The headline metrics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// Share of examples whose likeliest class is right.
    pub accuracy: f64,
    /// Mean negative log-likelihood, in nats.
    pub nll: f64,
    /// Expected calibration error.
    pub ece: f64,
}

impl From<&Report> for Summary {
    fn from(report: &Report) -> Self {
        Summary { accuracy: report.accuracy, nll: report.nll.mean, ece: report.ece }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All steps were made.
    Completed,
    /// The observer stopped it.
    Stopped,
    /// A chain or a member of an ensemble diverged; there is what was good before it.
    Diverged,
}

/// The result of an adaptation.
pub struct Adapted {
    /// The adapted network.
    pub posterior: Posterior,
    /// Where training of all weights began: the linear probe on the backbone at the prior's mean,
    /// or at the file's weights without a stored prior.
    pub probe: Posterior,
    /// The run, epoch by epoch.
    pub history: Vec<Epoch>,
    /// How it ended.
    pub ending: Ending,
    /// Why it diverged, if it did, which setting to change, and what was kept.
    pub notice: Option<String>,
    /// What the last step ran on.
    pub ran_on: String,
    /// The memory it took.
    pub memory: Footprint,
}

/// Adapts backbones.
pub struct Adapter {
    model: Arc<Model>,
    prior: Option<Prior>,
    preprocess: Preprocess,
    settings: Settings,
    engine: Engine,
}

impl Adapter {
    /// An adapter of `model`, which ends in features, with default settings and no stored prior.
    ///
    /// It runs on `engine`: threads of the processor, or a device, which another takes the place of
    /// when it fails.
    pub fn new(model: Arc<Model>, preprocess: Preprocess, engine: impl Into<Engine>) -> Self {
        let (prior, settings, engine) = (None, Settings::default(), engine.into());
        Adapter { model, prior, preprocess, settings, engine }
    }

    /// The same with a stored prior.
    ///
    /// # Errors
    /// When the prior was learned around another backbone, or names other parameters.
    pub fn with_prior(mut self, prior: Prior) -> Result<Self> {
        let shapes: Vec<_> =
            self.model.weights().map(|(name, w)| (name, w.shape().into())).collect();
        prior.matches(shapes.iter().map(|(n, s)| (*n, s)), &self.model.fingerprint())?;
        self.prior = Some(prior);
        Ok(self)
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// When a setting is out of its range, or asks for a prior that is not there.
    pub fn with_settings(mut self, settings: Settings) -> Result<Self> {
        settings.check(self.prior.is_some())?;
        self.settings = settings;
        Ok(self)
    }

    /// Adapts to `train`; `validation`, if given, is predicted after each epoch.
    ///
    /// # Errors
    /// When the data cannot be read, the model cannot be trained, a step is not finite, or the
    /// observer stops before there is anything to keep.
    pub fn fit(
        &self,
        train: &Dataset,
        validation: Option<&Dataset>,
        observe: Observer<'_>,
    ) -> Result<Adapted> {
        self.settings.check(self.prior.is_some())?;
        train.check_trainable()?;
        validation.map_or(Ok(()), Dataset::check_labelled)?;
        let classes = train.classes().len();
        let preprocess = self.preprocess.clone();
        let mut network =
            Network::new(Arc::clone(&self.model), preprocess, Some(classes), &self.engine)?;
        let prior = state::choose(&self.settings, self.prior.as_ref(), &self.model)?;
        let means = prior.as_ref().map_or(Ok(Weights::new()), state::means)?;
        network.set_weights(&means)?;
        let examples = [train.len(), validation.map_or(0, Dataset::len)];
        let mut trainer = Trainer::new(network, self.settings.clone(), prior, examples)?;
        let memory = trainer.footprint();
        let start = loop {
            match self.start(&mut trainer, train, observe) {
                Err(error) if error.kind() == Kind::Device => {
                    trainer.network_mut().fall_back(error, &means)?;
                }
                other => break other?,
            }
        };
        let mut history = Vec::new();
        let approximation = posterior::approximation(&self.settings.posterior);
        let Drawn { draws, ending, notice } = approximation.draw(&mut Run {
            trainer: &mut trainer,
            settings: &self.settings,
            train,
            validation,
            start: &start,
            history: &mut history,
            observe,
        })?;
        let posterior = self.posterior(train, draws, &history)?;
        let probe = self.posterior(train, vec![start], &[])?;
        Ok(Adapted {
            posterior: posterior.with_forward_batch(memory.forward_batch),
            probe: probe.with_forward_batch(memory.forward_batch),
            memory,
            history,
            ending,
            notice,
            ran_on: trainer.network_mut().backend().name(),
        })
    }

    /// Where training of all weights starts: the probe's head on the present backbone.
    fn start(
        &self,
        trainer: &mut Trainer,
        train: &Dataset,
        observe: Observer<'_>,
    ) -> Result<Weights> {
        let head = self.probe(trainer.network_mut(), train, observe)?;
        trainer.network_mut().set_weights(&head)?;
        trainer.weights()
    }

    /// The head, trained on features that do not change.
    fn probe(
        &self,
        network: &mut Network,
        train: &Dataset,
        observe: Observer<'_>,
    ) -> Result<Weights> {
        let features = network.features(train, &mut |p| {
            let step = Progress {
                phase: Phase::Features,
                step: p.done,
                steps: p.total,
                loss: None,
                penalty: None,
            };
            observe(step) == Control::Continue
        })?;
        let labels = train.labels(&(0..train.len()).collect::<Vec<_>>())?;
        let settings = probe::ProbeSettings {
            classes: train.classes().len(),
            head_variance: self.settings.head_variance,
            steps: self.settings.probe_steps,
        };
        probe::fit(&features, &labels, settings, self.engine.threads(), observe)
    }

    fn posterior(
        &self,
        train: &Dataset,
        draws: Vec<Weights>,
        history: &[Epoch],
    ) -> Result<Posterior> {
        let provenance = serde_json::json!({
            "settings": self.settings,
            "examples": train.len(),
            "prior": self.prior.as_ref().map(Prior::header),
            "history": history,
        });
        let description = Description {
            version: VERSION,
            backbone: self.model.fingerprint(),
            classes: train.classes().to_vec(),
            preprocess: self.preprocess.clone(),
            provenance,
        };
        Posterior::new(description, Arc::clone(&self.model), draws)
    }
}

/// Metrics of predicted logits against labels.
pub(crate) fn summarise(logits: &Array2<f32>, labels: &[usize]) -> Result<Summary> {
    score(&softmax(logits), labels).map(|report| Summary::from(&report))
}

/// All metrics of predicted distributions `[N, classes]` against labels.
///
/// # Errors
/// When they differ in number, or a label is no class.
pub fn score(probabilities: &Array2<f64>, labels: &[usize]) -> Result<Report> {
    let (rows, columns) = probabilities.dim();
    let p = tensor(&[rows, columns], probabilities.iter().map(|&p| p as f32).collect())?;
    Ok(Scored::new(&p, labels)?.report())
}
