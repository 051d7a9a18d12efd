//! The training loop: batches in, steps run, losses out.

mod keep;
mod leg;

use std::collections::HashMap;

use self::leg::Course;
pub(super) use self::leg::{Collect, Leg, Shadow, Tally};
use super::checkpoint::Journal;
use super::memory::{self, Extent, Footprint, Job, Steps};
use super::objective::Objective;
use super::path::Path;
use super::settings::Settings;
use super::state::{self, ActivePrior};
use super::{
    Control, Ending, Epoch, HEAD_VARIANCE, Observer, Phase, Progress, Summary, name_matches,
};
use crate::backend::{Backend, PlanId};
use crate::data::{Batches, Dataset};
use crate::error::{Error, Kind, Result};
use crate::graph::Leaf;
use crate::posterior::{Network, evaluate};
use crate::prior::Weights;
use crate::step::{CLIP, Group, PENALTY, Recipe, SHARE, Trainable};
use crate::task::{COUNTED, LOSS, TARGETS};
use crate::update::{Noise, Optimizer};

/// Trains a network with a head.
pub(super) struct Trainer {
    network: Network,
    settings: Settings,
    objective: Objective,
    optimizer: Optimizer,
    trainable: Vec<Trainable>,
    prior: Option<ActivePrior>,
    /// Mean of the trainable backbone weights' variances under the prior, before its strength; 1
    /// where no step depends on it.
    mean_variance: f64,
    /// τ
    head_variance: f64,
    leg: Leg,
    /// What the loss may not exceed, once a sampler's first is known.
    loss_limit: Option<f32>,
    /// What is compiled and not loaded yet.
    steps: Steps,
    /// Loaded steps by their number of examples.
    plans: HashMap<usize, PlanId>,
    /// What follows the last micro-batch of a batch.
    apply: Option<PlanId>,
    images: Vec<f32>,
    targets: Vec<f32>,
    /// The step whose batch images and targets hold.
    filled: Option<usize>,
    shadow: Shadow,
    /// Legs that were run.
    legs: usize,
    /// Where checkpoints go, if any are kept.
    journal: Option<Journal>,
}

/// Steps between shadows at least: a shadow reads all weights and moments from the device.
const SHADOW_STEPS: usize = 50;

/// A sampler's loss has exploded when it exceeds this multiple of its first, plus one nat.
const EXPLODED: f32 = 10.0;

impl Trainer {
    /// A trainer of `network` under `prior`, for runs of this extent; the first follows `path`.
    ///
    /// # Errors
    /// When a pattern freezes no parameter, the network cannot be trained, or the memory cap is too
    /// small.
    pub(super) fn new(
        mut network: Network,
        settings: Settings,
        objective: Objective,
        prior: Option<ActivePrior>,
        path: Path,
        extent: &Extent,
    ) -> Result<Self> {
        let frozen = |name: &str| settings.freeze.iter().any(|p| name_matches(p, name));
        if let Some(unused) = settings
            .freeze
            .iter()
            .find(|p| !network.model().weights().any(|(name, _)| name_matches(p, name)))
        {
            return Err(Error::invalid(format!("the pattern '{unused}' freezes no parameter"))
                .hint("`priorfit inspect` lists the parameters' names"));
        }
        let trainable =
            state::trainable(network.model(), objective.head(), prior.as_ref(), frozen)?;
        let optimizer = settings.posterior.optimizer(settings.optimizer);
        let mean_variance = match optimizer.preconditions() {
            true => state::mean_variance(prior.as_ref(), &trainable)?,
            false => 1.0,
        };
        let recipe = Recipe {
            trainable: trainable.clone(),
            method: optimizer.method(),
            clip: settings.clip.is_some(),
        };
        let job = Job { settings: &settings, objective, recipe, extent };
        let steps = memory::choose(&mut network, &job)?;
        network.set_forward_batch(steps.footprint.forward_batch);
        Ok(Trainer {
            network,
            objective,
            optimizer,
            trainable,
            prior,
            mean_variance,
            head_variance: settings.head_variance.unwrap_or(HEAD_VARIANCE),
            leg: Leg::only(settings.seed, path),
            loss_limit: None,
            settings,
            steps,
            plans: HashMap::new(),
            apply: None,
            images: Vec::new(),
            targets: Vec::new(),
            filled: None,
            shadow: Shadow::default(),
            legs: 0,
            journal: None,
        })
    }

    /// Goes on elsewhere after `error`, with these weights until the next leg.
    ///
    /// # Errors
    /// When there is no other device.
    pub(super) fn fall_back(&mut self, error: Error, weights: &Weights) -> Result<()> {
        self.shadow = Shadow::default();
        self.recover(error, weights)
    }

    /// The network, to change it before the first step.
    pub(super) fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// Sets τ, the variance of the head's prior.
    pub(super) fn set_head_variance(&mut self, variance: f64) {
        self.head_variance = variance;
    }

    /// λ of a prior at this scale.
    pub(super) fn strength(&self, scale: f64) -> Option<f64> {
        self.prior.as_ref().map(|prior| prior.strength(scale))
    }

    /// What the run takes.
    pub(super) fn footprint(&self) -> Footprint {
        self.steps.footprint
    }

    /// Names of the parameters that steps change.
    pub(super) fn trained(&self) -> impl Iterator<Item = &str> {
        self.trainable.iter().map(|t| t.name.as_str())
    }

    /// All weights of the network in their present state.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn weights(&self) -> Result<Weights> {
        let backbone = self.network.model().weights().map(|(name, _)| name);
        self.network.weights(backbone.chain(self.objective.head().iter().copied()))
    }

    /// The leaves that steps change.
    pub(super) fn changing(&self) -> Vec<Leaf> {
        state::changing(&self.trainable, self.optimizer.method())
    }

    /// Goes back to the weights `start`, without momentum, for `leg` to be next.
    ///
    /// # Errors
    /// When the device fails and there is no other.
    pub(super) fn begin(&mut self, start: &Weights, leg: Leg) -> Result<()> {
        (self.leg, self.loss_limit) = (leg, None);
        (self.filled, self.shadow) = (None, Shadow::default());
        match self.reset(start) {
            Err(error) if error.kind() == Kind::Device => self.recover(error, start),
            other => other,
        }
    }

    /// Gives the backend the weights `start`, moments of zero, and the prior's sums.
    fn reset(&mut self, start: &Weights) -> Result<()> {
        if self.plans.is_empty() {
            return self.network.set_weights(start);
        }
        let (trainable, method) = (&self.trainable, self.optimizer.method());
        let backend = self.network.backend();
        state::reset(backend, trainable, self.prior.as_ref(), method, start)
    }

    /// Makes all steps, epoch after epoch, from the weights `start`, or from where a checkpoint has
    /// this leg; predicts `validation` after each epoch. Returns how it ended, and the weights
    /// then.
    ///
    /// # Errors
    /// Of kind [`Kind::Diverged`] when a loss is not finite, or a sampler's explodes; `history` and
    /// `collect` then hold what there was before.
    pub(super) fn run(
        &mut self,
        train: &Dataset,
        validation: Option<&Dataset>,
        start: &Weights,
        history: &mut Vec<Epoch>,
        observe: Observer<'_>,
        collect: &mut dyn Collect,
    ) -> Result<(Ending, Weights)> {
        let earlier = history.len();
        let mut course = Course { train, validation, start, history, earlier, observe, collect };
        // Without steps there is nothing to keep.
        let outcome = match self.leg.path.steps() {
            0 => self.run_on(&mut course),
            _ => match self.recall(&mut course)? {
                Some(outcome) => outcome,
                None => {
                    let outcome = self.run_on(&mut course);
                    self.keep_outcome(&outcome, &course);
                    outcome
                }
            },
        };
        self.legs += 1;
        outcome
    }

    /// Makes the steps that are left, on one device after the other.
    fn run_on(&mut self, course: &mut Course<'_, '_>) -> Result<(Ending, Weights)> {
        loop {
            match self.run_from(self.shadow.done, self.shadow.tally, course) {
                Err(error) if error.kind() == Kind::Device => {
                    self.recover(error, course.start)?;
                    course.history.truncate(self.shadow.epochs.max(course.earlier));
                    course.collect.restore();
                    if let Some(journal) = &mut self.journal {
                        journal.truncate_draws(course.collect.draws());
                    }
                }
                other => return other,
            }
        }
    }

    /// Makes all steps from step `done` on, in an epoch of which `tally` was made.
    fn run_from(
        &mut self,
        mut done: usize,
        mut tally: Tally,
        course: &mut Course<'_, '_>,
    ) -> Result<(Ending, Weights)> {
        let per_epoch = course.train.len().div_ceil(self.settings.batch_size).max(1);
        let steps = self.leg.path.steps();
        while done - tally.steps < steps {
            let first = done - tally.steps;
            self.take_shadow(done, tally, course)?;
            let range = first..steps.min(first + per_epoch);
            let ending = self.epoch(first / per_epoch, range, &mut tally, course)?;
            done = first + tally.steps;
            let (chain, epoch) = (self.leg.number + 1, first / per_epoch + 1);
            let (loss, penalty) = (tally.mean_loss(), tally.penalty);
            let mut record = Epoch { chain, epoch, loss, penalty, validation: None };
            if let (Ending::Completed, Some(validation)) = (ending, course.validation) {
                record.validation = self.validate(validation, course.observe)?;
                if record.validation.is_none() {
                    // It was asked to stop, and will be again; the validation is made then.
                    self.keep_position(done, tally, course);
                    self.close_journal();
                }
            }
            course.history.push(record);
            if ending == Ending::Stopped {
                return Ok((ending, self.weights()?));
            }
            tally = Tally::default();
        }
        Ok((Ending::Completed, self.weights()?))
    }

    /// Keeps a copy of everything that steps change, if the device can fail and the last is old.
    fn take_shadow(
        &mut self,
        done: usize,
        tally: Tally,
        course: &mut Course<'_, '_>,
    ) -> Result<()> {
        let is_old = done >= self.shadow.done + SHADOW_STEPS;
        if is_old && self.network.engine().can_fail() && !self.plans.is_empty() {
            let leaves = self.changing();
            let backend = self.network.residents();
            let copy = |leaf: Leaf| Ok((leaf.clone(), backend.get(&leaf)?));
            let values = leaves.into_iter().map(copy).collect::<Result<_>>()?;
            self.shadow = Shadow { done, tally, epochs: course.history.len(), values };
            course.collect.mark();
        }
        Ok(())
    }

    /// Goes on elsewhere after `error`, from the last shadow, or from the start without one; what
    /// is made again is the same, since batches and noise depend on the step's number alone.
    fn recover(&mut self, error: Error, start: &Weights) -> Result<()> {
        let backend = self.network.backend();
        for (size, plan) in self.plans.drain() {
            self.steps.plans.insert(size, backend.plan(plan).clone());
        }
        if let Some(plan) = self.apply.take() {
            self.steps.apply = Some(backend.plan(plan).clone());
        }
        self.network.fall_back(error, &self.weights_of_shadow(start)?)?;
        self.filled = None;
        log::warn!("going on from step {} on {}", self.shadow.done, self.network.backend().name());
        Ok(())
    }

    /// The steps `range` of one epoch but for those of `tally`, to which they are added.
    fn epoch(
        &mut self,
        epoch: usize,
        range: std::ops::Range<usize>,
        tally: &mut Tally,
        course: &mut Course<'_, '_>,
    ) -> Result<Ending> {
        let (train, size) = (course.train, self.settings.batch_size);
        let batches = Batches::shuffled(train.len(), size, self.leg.seed, epoch as u64)?;
        let mut upcoming = batches.iter().skip(tally.steps + 1);
        for (step, batch) in range.clone().zip(batches.iter()).skip(tally.steps) {
            let next = upcoming.next().filter(|_| step + 1 < range.end);
            let (loss, penalty) = self.step(train, batch, next, step)?;
            course.collect.after(step, &mut self.network)?;
            tally.add(batch.len(), loss, penalty);
            let control = (course.observe)(Progress {
                phase: Phase::Train,
                step: self.leg.before + step + 1,
                steps: self.leg.steps,
                loss: Some(loss),
                penalty: Some(penalty),
            });
            if control != Control::Continue {
                self.keep_position(step + 1, *tally, course);
            }
            if control == Control::Stop {
                return Ok(Ending::Stopped);
            }
        }
        Ok(Ending::Completed)
    }

    /// One step; the loss of its batch and the penalty, both before the update. While a device
    /// works on it, the `next` batch of the epoch is made ready.
    fn step(
        &mut self,
        train: &Dataset,
        batch: &[usize],
        next: Option<&[usize]>,
        step: usize,
    ) -> Result<(f32, f32)> {
        self.load(batch.len())?;
        if self.filled != Some(step) {
            self.fill(train, batch, step)?;
        }
        let last = self.launch(train, batch.len(), step)?;
        if let Some(next) = next {
            self.fill(train, next, step + 1)?;
        }
        let backend = self.network.backend();
        let (mut loss, mut penalty) = ([0.0], [0.0]);
        backend.read(last, LOSS, &mut loss)?;
        backend.read(last, PENALTY, &mut penalty)?;
        self.check_loss(step, loss[0], penalty[0])?;
        Ok((loss[0], penalty[0]))
    }

    fn check_loss(&mut self, step: usize, loss: f32, penalty: f32) -> Result<()> {
        let samples = self.optimizer.samples();
        let is_finite = (loss + penalty).is_finite();
        if is_finite && !samples {
            return Ok(());
        }
        let limit = *self.loss_limit.get_or_insert(EXPLODED * (loss + 1.0));
        if is_finite && loss <= limit {
            return Ok(());
        }
        let message = format!("step {}: loss {loss}, penalty {penalty}", step + 1);
        Err(Error::new(Kind::Diverged, message).hint(match samples {
            true => "lower --lr, the sampler's step of time, or --temperature",
            false => "lower --lr, or clip the gradient with --clip",
        }))
    }

    /// Hands a filled batch of `batch` examples to the backend; the plan that ends the step.
    fn launch(&mut self, train: &Dataset, batch: usize, step: usize) -> Result<PlanId> {
        let numbers = self.numbers(train.len(), step);
        let micro = self.footprint().micro_batch;
        let input = self.network.input_name().to_string();
        let [images_len, targets_len] = [self.images.len(), self.targets.len()].map(|n| n / batch);
        let task = self.network.task().cloned();
        // What the loss is a mean over.
        let counted = |targets: &[f32], size: usize| match &task {
            Some(task) => task.counted(targets, targets_len),
            None => size as f32,
        };
        let all = counted(&self.targets, batch).max(1.0);
        let backend = self.network.backend();
        let mut last = self.apply;
        for start in (0..batch).step_by(micro) {
            let size = micro.min(batch - start);
            let plan = self.plans[&size];
            backend.write(plan, &input, &self.images[start * images_len..][..size * images_len])?;
            let targets = &self.targets[start * targets_len..][..size * targets_len];
            let counted = counted(targets, size);
            write_known(backend, plan, TARGETS, targets)?;
            write_known(backend, plan, COUNTED, &[counted])?;
            write_known(backend, plan, SHARE, &[counted / all])?;
            for (name, value) in &numbers {
                write_known(backend, plan, name, value)?;
            }
            backend.run(plan)?;
            last = self.apply.or(Some(plan));
        }
        let last = last.ok_or_else(|| Error::internal("a batch has an example"))?;
        if self.apply.is_some() {
            for (name, value) in &numbers {
                write_known(backend, last, name, value)?;
            }
            backend.run(last)?;
        }
        Ok(last)
    }

    /// Fills images and targets of a batch.
    fn fill(&mut self, train: &Dataset, batch: &[usize], step: usize) -> Result<()> {
        self.filled = None;
        let augmentation = self.settings.augment.at(self.leg.seed, step as u64);
        let (objective, network) = (self.objective, &self.network);
        objective.fill_images(train, batch, network, augmentation, &mut self.images)?;
        objective.fill_targets(train, batch, network, augmentation, &mut self.targets)?;
        self.filled = Some(step);
        Ok(())
    }

    /// The numbers that a step on one of `examples` reads, by the names of their inputs.
    fn numbers(&self, examples: usize, step: usize) -> [(&'static str, Vec<f32>); 3] {
        let (s, leg) = (&self.settings, &self.leg);
        let rate = s.learning_rate * leg.path.rate(step);
        let n = examples as f64;
        let scale = leg.path.scale(step);
        let optimizer = match leg.is_noisy && !leg.path.explores(step) {
            true => self.optimizer,
            false => self.optimizer.without_noise(),
        };
        let head = Noise::new(leg.seed, examples);
        let backbone = Noise { mean_variance: self.mean_variance, ..head };
        let hyper = |weight: f64, noise| optimizer.hyper(step, rate, weight as f32, noise).to_vec();
        [
            (Group::Backbone.hyper(), hyper(1.0 / (scale * n), backbone)),
            (Group::Head.hyper(), hyper(1.0 / (self.head_variance * n), head)),
            (CLIP, vec![s.clip.unwrap_or(f32::INFINITY)]),
        ]
    }

    /// Loads the plans of a step on `batch` examples, unless they are.
    fn load(&mut self, batch: usize) -> Result<()> {
        let is_first = self.plans.is_empty();
        let micro = self.footprint().micro_batch;
        for size in [micro.min(batch), batch % micro] {
            if size == 0 || self.plans.contains_key(&size) {
                continue;
            }
            let plan = self.steps.plans.remove(&size).ok_or_else(|| {
                Error::internal(format!("no step of {size} examples has been compiled"))
            })?;
            log::debug!("training step of {size} examples:\n{plan}");
            self.plans.insert(size, self.network.load(plan)?);
        }
        if let Some(plan) = self.steps.apply.take() {
            log::debug!("update:\n{plan}");
            self.apply = Some(self.network.load(plan)?);
        }
        if is_first { self.install() } else { Ok(()) }
    }

    fn install(&mut self) -> Result<()> {
        let names = self.trainable.iter().map(|t| t.name.as_str());
        let weights = self.network.weights(names)?;
        let backend = self.network.backend();
        state::install(backend, &self.trainable, self.prior.as_ref(), &weights)?;
        self.set_shadow()
    }

    /// Gives the backend the shadow. A device that cannot fail will not need it again.
    fn set_shadow(&mut self) -> Result<()> {
        let backend = self.network.backend();
        self.shadow.values.iter().try_for_each(|(leaf, value)| backend.set(leaf, value))?;
        if !self.network.engine().can_fail() {
            self.shadow.values = Vec::new();
        }
        Ok(())
    }

    fn validate(&mut self, data: &Dataset, observe: Observer<'_>) -> Result<Option<Summary>> {
        let evaluation = evaluate(&mut self.network, data, &mut |p| {
            let phase = Phase::Validate;
            let progress =
                Progress { phase, step: p.done, steps: p.total, loss: None, penalty: None };
            observe(progress) != Control::Stop
        });
        match evaluation {
            // The weights are complete; only their score is missing.
            Err(error) if error.kind() == Kind::Cancelled => Ok(None),
            other => other.map(|evaluation| Some(evaluation.summary())),
        }
    }
}

/// Writes an input of a plan that has it: a step that trains only one group, or does not clip, or
/// is one of several, lacks some.
fn write_known(backend: &mut dyn Backend, plan: PlanId, name: &str, value: &[f32]) -> Result<()> {
    match backend.plan(plan).inputs().iter().any(|port| port.name == name) {
        true => backend.write(plan, name, value),
        false => Ok(()),
    }
}
