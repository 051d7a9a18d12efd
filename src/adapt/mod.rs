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

mod archive;
mod average;
mod checkpoint;
mod forget;
mod glob;
mod input;
mod memory;
mod objective;
mod outline;
mod path;
mod posterior;
mod probe;
mod select;
mod settings;
mod source;
mod state;
mod trainer;

use std::sync::Arc;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use self::checkpoint::Journal;
pub use self::checkpoint::{Checkpoints, Existing};
pub use self::forget::{Data, Forget, Recipe, Record, Replay, Rest};
pub use self::glob::matches as name_matches;
pub use self::input::{InputSettings, Normalise};
pub use self::memory::Footprint;
pub use self::objective::ContrastSettings;
use self::objective::Objective;
use self::path::Path;
pub use self::posterior::{COLD, PosteriorKind, PosteriorSettings, SGHMC_RATE};
use self::posterior::{Drawn, Notice, Sampling};
pub use self::select::{Candidate, Choice};
use self::select::{Rows, Selection};
pub use self::settings::{DECAY_VARIANCE, PriorKind, Settings, TYPICAL_VARIANCE};
pub use self::source::{Centre, SourceObjective, SourceSettings, fit_prior, fit_prior_with};
use self::trainer::Trainer;
use crate::backend::Engine;
use crate::data::{Dataset, Preprocess};
use crate::error::{Kind, Result};
use crate::onnx::Model;
pub use crate::posterior::metrics::Summary;
use crate::posterior::metrics::{Report, Scored};
use crate::posterior::{Description, Network, Posterior, VERSION, check_prior, own_weights};
use crate::prior::{Prior, Weights};
use crate::task::Task;
use crate::tensor::tensor;
use crate::threads::Threads;

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
    /// Go on, and keep a checkpoint of the step that was made, if it was of training and
    /// [`Checkpoints`] are kept.
    Checkpoint,
    /// Stop now and keep the last good state.
    Stop,
}

/// Is told of progress and answers whether to go on.
pub type Observer<'a> = &'a mut dyn FnMut(Progress) -> Control;

/// One pass over the training examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// τ where it cannot be chosen.
const HEAD_VARIANCE: f64 = 1.0;

/// The result of an adaptation.
pub struct Adapted {
    /// The adapted network.
    pub posterior: Posterior,
    /// Where training of all weights began: the linear probe on the backbone at the prior's mean,
    /// or at the file's weights without a stored prior.
    pub probe: Posterior,
    /// What cross-validation found, if there was any.
    pub choice: Option<Choice>,
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

/// What decides the course of a run.
#[derive(Serialize)]
struct Course<'a> {
    backbone: String,
    prior: Option<String>,
    train: String,
    validation: Option<String>,
    preprocess: &'a Preprocess,
    settings: &'a Settings,
    choice: Option<&'a Choice>,
}

/// What a run is made from.
struct Run<'a> {
    train: &'a Dataset,
    validation: Option<&'a Dataset>,
    /// The examples to hold out in turn.
    folds: &'a [Vec<usize>],
    /// What is learned.
    task: &'a Task,
    /// Features of the backbone before training; none of masks where nothing is chosen.
    rows: Option<&'a Rows>,
    /// The prior's means, where there is a stored one.
    means: Weights,
    path: Path,
    /// What makes the result again, but for where it ran.
    record: Record,
}

/// Adapts backbones.
pub struct Adapter {
    model: Arc<Model>,
    prior: Option<Prior>,
    preprocess: Preprocess,
    settings: Settings,
    /// What was found before, if it was.
    choice: Option<Choice>,
    checkpoints: Option<Checkpoints>,
    recipe: Recipe,
    engine: Engine,
}

impl Adapter {
    /// An adapter of `model`, which ends in features, with default settings and no stored prior.
    ///
    /// It runs on `engine`: threads of the processor, or a device, which another takes the place of
    /// when it fails.
    pub fn new(model: Arc<Model>, preprocess: Preprocess, engine: impl Into<Engine>) -> Self {
        Adapter {
            model,
            prior: None,
            preprocess,
            settings: Settings::default(),
            choice: None,
            checkpoints: None,
            recipe: Recipe::default(),
            engine: engine.into(),
        }
    }

    /// The same with a stored prior.
    ///
    /// # Errors
    /// When the prior was learned around another backbone, or names other parameters.
    pub fn with_prior(mut self, prior: Prior) -> Result<Self> {
        check_prior(&prior, &self.model)?;
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

    /// The same with other threads for what the processor does.
    pub fn with_threads(mut self, threads: Arc<Threads>) -> Self {
        self.engine = self.engine.with_threads(threads);
        self
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where it runs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same with what cross-validation found before, on the same examples with the same prior
    /// and settings. A run then costs no cross-validation, and ends as if it had made its own. The
    /// choice of a MAP serves every other posterior, too; its draws are kept however they fare.
    pub fn with_choice(mut self, choice: Choice) -> Self {
        self.choice = Some(choice);
        self
    }

    /// The same with checkpoints. A run that goes on from one ends as if it had not stopped: bit
    /// for bit on the same device, within rounding on another.
    pub fn with_checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> Option<&Checkpoints> {
        self.checkpoints.as_ref()
    }

    /// Adapts to `train`; `validation`, if given, is predicted after each epoch.
    ///
    /// # Errors
    /// When the data cannot be read, the model cannot be trained, a step is not finite, the
    /// observer stops before there is anything to keep, or the checkpoints are another run's. A
    /// checkpoint that cannot be written is a warning: the run goes on.
    pub fn fit(
        &self,
        train: &Dataset,
        validation: Option<&Dataset>,
        observe: Observer<'_>,
    ) -> Result<Adapted> {
        self.settings.check(self.prior.is_some())?;
        let task = Task::of(train)?;
        self.settings.posterior.check_task(&task)?;
        let validation = validation.map(|data| task.align(data)).transpose()?;
        let validation = validation.as_ref();
        let journal = self.journal(train, validation)?;
        let record = self.record(train, validation)?;
        let folds = self.folds(train)?;
        let prior = state::choose(&self.settings, self.prior.as_ref(), &self.model)?;
        let means = prior.as_ref().map_or(Ok(Weights::new()), state::means)?;
        let known = self.choice.as_ref().map(|choice| choice.folds);
        let path = self.path(prior.as_ref(), known.unwrap_or(folds.len()));
        let extent = self.extent(train, validation, &folds, &path);
        let mut network = Network::new(
            Arc::clone(&self.model),
            self.preprocess.clone(),
            Some(task.clone()),
            &self.engine,
        )?;
        network.set_weights(&means)?;
        let settings = self.settings.clone();
        let mut trainer =
            Trainer::new(network, settings, Objective::Task, prior, path.clone(), &extent)?;
        trainer.set_journal(journal);
        let rows = match task.is_dense() && folds.is_empty() {
            true => None,
            false => {
                let (kept, seed) = (trainer.kept_features(), self.settings.seed);
                let is_new = kept.is_none();
                let network = trainer.network_mut();
                let rows = Rows::new(network, &means, train, (seed, kept), observe)?;
                if is_new {
                    trainer.keep_features(rows.all());
                }
                Some(rows)
            }
        };
        let (task, rows) = (&task, rows.as_ref());
        let run = Run { train, validation, folds: &folds, task, rows, means, path, record };
        self.fit_along(&mut trainer, run, observe)
    }

    /// Chooses what is to be chosen, and trains.
    fn fit_along(
        &self,
        trainer: &mut Trainer,
        run: Run<'_>,
        observe: Observer<'_>,
    ) -> Result<Adapted> {
        let path = &run.path;
        let mut start = own_weights(&self.model);
        start.extend(run.means.clone());
        let (choice, is_stopped) = match self.choose(trainer, &run, &start, observe) {
            Err(error) if error.kind() == Kind::Cancelled => (None, true),
            other => (other?, false),
        };
        let variance = match &choice {
            Some(choice) => choice.head_variance,
            None => self.settings.head_variance.unwrap_or(HEAD_VARIANCE),
        };
        trainer.set_head_variance(variance);
        // What was asked to stop ends with the probe, which takes no time.
        let mut patient = |_| Control::Continue;
        let observe: Observer<'_> = if is_stopped { &mut patient } else { observe };
        // Cross-validation has trained the network that maps are computed with.
        trainer.network_mut().set_weights(&start)?;
        start.extend(self.probe(trainer, &run, variance, is_stopped, observe)?);
        let path = match &choice {
            _ if is_stopped => path.until(0),
            Some(choice) if self.cross_validates_runs() => path.until(choice.kept),
            _ => path.clone(),
        };
        let mut history = Vec::new();
        let found = (choice.as_ref(), variance, &path);
        let drawn = self.draw(trainer, &run, (&start, found), &mut history, observe)?;
        let (draws, ending, notice) = self.told(drawn, choice.as_ref(), is_stopped);
        let kept = choice.as_ref().map(Choice::kept);
        let of_probe = choice.as_ref().map(|choice| &choice.candidates[0]);
        let memory = trainer.footprint();
        let ran_on = trainer.network_mut().backend().name();
        let record = run.record.made_on(&ran_on);
        let found = (&history[..], choice.as_ref(), Some(&record));
        Ok(Adapted {
            posterior: self.posterior(&run, draws, kept, found, memory)?,
            probe: self.posterior(&run, vec![start], of_probe, (&[], None, None), memory)?,
            choice,
            memory,
            history,
            ending,
            notice,
            ran_on,
        })
    }

    /// The draws at the end of `path`, from the weights `start` with a head of this variance.
    fn draw(
        &self,
        trainer: &mut Trainer,
        run: &Run<'_>,
        (start, (choice, head_variance, path)): (&Weights, (Option<&Choice>, f64, &Path)),
        history: &mut Vec<Epoch>,
        observe: Observer<'_>,
    ) -> Result<Drawn> {
        let selection = choice.and_then(|_| self.selection(run));
        let before = selection.map_or(0, |selection| selection.steps());
        let posterior = match choice {
            Some(choice) if !choice.keeps_draws => PosteriorSettings::default(),
            _ => self.settings.posterior,
        };
        posterior::approximation(&posterior, path).draw(&mut Sampling {
            trainer,
            settings: &self.settings,
            head_variance,
            train: run.train,
            validation: run.validation,
            start,
            path,
            before,
            steps: before + posterior.steps(path, self.settings.steps),
            history,
            observe,
        })
    }

    /// The draws, how the run ended, and what is told of it if it diverged.
    fn told(
        &self,
        drawn: Drawn,
        choice: Option<&Choice>,
        is_stopped: bool,
    ) -> (Vec<Weights>, Ending, Option<String>) {
        let notice = drawn.notice.map(|Notice { error, kept }| format!("{error}; {kept}"));
        // Without a gate the probe is no choice; it is what is left where every stage diverged.
        let fallen = choice.filter(|choice| choice.kept == 0 && !self.settings.gate);
        let fallen = fallen.and_then(|choice| choice.left_out.as_ref());
        let (ending, notice) = match (is_stopped, fallen) {
            (true, _) => (Ending::Stopped, notice),
            (_, Some(why)) => (Ending::Diverged, Some(format!("{why}; the linear probe is kept"))),
            _ => (drawn.ending, notice),
        };
        (drawn.draws, ending, notice)
    }

    /// The head on all examples. Where it was cut short, or what is before it was, no checkpoints
    /// are kept from then on.
    fn probe(
        &self,
        trainer: &mut Trainer,
        run: &Run<'_>,
        variance: f64,
        is_stopped: bool,
        observe: Observer<'_>,
    ) -> Result<Weights> {
        // Of what was stopped, the sample of pixels is good enough.
        let rows = run.rows.filter(|rows| is_stopped || rows.are_examples());
        let mut is_cut = is_stopped;
        let network = (trainer.network_mut(), &run.means);
        let head = self.head(network, rows, run.train, variance, &mut |progress| {
            let control = observe(progress);
            is_cut |= control == Control::Stop;
            control
        })?;
        if is_cut {
            trainer.close_journal();
        }
        Ok(head)
    }

    /// What cross-validation finds; nothing where there is nothing to hold out.
    fn choose(
        &self,
        trainer: &mut Trainer,
        run: &Run<'_>,
        base: &Weights,
        observe: Observer<'_>,
    ) -> Result<Option<Choice>> {
        let Some(selection) = self.selection(run) else { return Ok(self.choice.clone()) };
        let last = self.settings.posterior.steps(&run.path, self.settings.steps);
        selection.run(trainer, base, selection.steps() + last, observe).map(Some)
    }

    /// Cross-validation, unless there is nothing to hold out.
    fn selection<'a>(&'a self, run: &'a Run<'_>) -> Option<Selection<'a>> {
        let rows = run.rows.filter(|_| !run.folds.is_empty())?;
        let stages = if self.cross_validates_runs() { run.path.stages() } else { 0 };
        Some(Selection {
            settings: &self.settings,
            task: run.task,
            train: run.train,
            rows,
            folds: run.folds,
            path: run.path.until(stages),
        })
    }

    /// Where the checkpoints of this run go, if any are kept.
    fn journal(&self, train: &Dataset, validation: Option<&Dataset>) -> Result<Option<Journal>> {
        let Some(to) = &self.checkpoints else { return Ok(None) };
        let prior = self.prior.as_ref().map(Prior::fingerprint).transpose()?;
        Journal::open(
            to,
            &Course {
                backbone: self.model.fingerprint(),
                prior,
                train: train.fingerprint()?,
                validation: validation.map(Dataset::fingerprint).transpose()?,
                preprocess: &self.preprocess,
                settings: &self.settings,
                choice: self.choice.as_ref(),
            },
        )
        .map(Some)
    }

    /// The head, trained on features that do not change: those of the network at the weights
    /// `means`.
    fn head(
        &self,
        (network, means): (&mut Network, &Weights),
        rows: Option<&Rows>,
        train: &Dataset,
        head_variance: f64,
        observe: Observer<'_>,
    ) -> Result<Weights> {
        let Some(rows) = rows else {
            return loop {
                match probe::fit_dense(network, train, &self.settings, head_variance, observe) {
                    Err(error) if error.kind() == Kind::Device => {
                        network.fall_back(error, means)?;
                    }
                    other => break other,
                }
            };
        };
        let task = network.known_task()?;
        let (all, steps) = ((0..train.len()).collect::<Vec<_>>(), self.settings.probe_steps);
        let settings = probe::ProbeSettings { task, examples: all.len(), head_variance, steps };
        rows.head(train, &all, settings, None, self.engine.threads(), observe)
    }

    fn posterior(
        &self,
        run: &Run<'_>,
        draws: Vec<Weights>,
        found: Option<&Candidate>,
        (history, choice, record): (&[Epoch], Option<&Choice>, Option<&Record>),
        memory: Footprint,
    ) -> Result<Posterior> {
        let provenance = serde_json::json!({
            "settings": self.settings,
            "examples": run.train.len(),
            "prior": self.prior.as_ref().map(Prior::header),
            "history": history,
            "choice": choice,
            "record": record,
        });
        let description = Description {
            version: VERSION,
            backbone: self.model.fingerprint(),
            task: run.task.clone(),
            preprocess: self.preprocess.clone(),
            temperature: found.map_or(1.0, |candidate| candidate.temperature),
            provenance,
            calibration: None,
        };
        let posterior = Posterior::new(description, Arc::clone(&self.model), draws)?;
        let mut posterior = posterior.with_forward_batch(memory.forward_batch);
        // Numbers need the width of their noise, which no gradient gives: from examples that were
        // not trained on, if there are any.
        match (run.validation, found) {
            (None, Some(found)) => posterior.set_noise(&found.noise),
            (data, _) => {
                let data = data.unwrap_or(run.train);
                posterior = posterior.with_noise_of(data, &self.engine, &mut |_| true)?;
            }
        }
        Ok(posterior)
    }
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
