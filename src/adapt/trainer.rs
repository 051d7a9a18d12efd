//! The training loop: batches in, steps run, losses out.

use std::collections::HashMap;

use super::memory::{self, Footprint, Job, Steps};
use super::settings::Settings;
use super::state::{self, ActivePrior};
use super::{Control, Ending, Epoch, Observer, Phase, Progress, Summary, name_matches, summarise};
use crate::backend::{Backend, PlanId};
use crate::data::{Batches, Dataset, one_hot};
use crate::error::{Error, Kind, Result};
use crate::graph::Leaf;
use crate::posterior::Network;
use crate::prior::Weights;
use crate::step::{CLIP, Group, PENALTY, Recipe, SHARE, Trainable};
use crate::task::{HEAD_BIAS, HEAD_WEIGHT, LOSS, TARGETS};
use crate::update::{Noise, Optimizer, Schedule};

/// Trains a network with a head.
pub(super) struct Trainer {
    network: Network,
    settings: Settings,
    optimizer: Optimizer,
    leg: Leg,
    trainable: Vec<Trainable>,
    prior: Option<ActivePrior>,
    /// Mean of the trainable backbone weights' variances under the prior, before its strength.
    mean_variance: f64,
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
}

/// A copy of everything that steps change, as it was before step `done`, which begins an epoch.
#[derive(Default)]
struct Shadow {
    done: usize,
    /// Epochs that were complete.
    epochs: usize,
    /// Empty before the first: then the run starts again.
    values: Vec<(Leaf, Vec<f32>)>,
}

/// Steps between shadows at least: a shadow reads all weights and moments from the device.
const SHADOW_STEPS: usize = 50;

/// A sampler's loss has exploded when it exceeds this multiple of its first, plus one nat.
const EXPLODED: f32 = 10.0;

/// Called after each step with its number.
type AfterStep<'a> = &'a mut dyn FnMut(usize, &mut Network) -> Result<()>;

/// One pass through all steps, of several in a run: a chain, or a member of an ensemble.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    /// Counted from 0.
    pub(super) number: usize,
    /// Of how many.
    pub(super) of: usize,
    /// Decides its batches, augmentation and noise.
    pub(super) seed: u64,
    pub(super) schedule: Schedule,
}

impl Leg {
    /// Leg `number` of `of`. Each has a seed of its own; the first has that of the run.
    pub(super) fn new(number: usize, of: usize, settings: &Settings, schedule: Schedule) -> Self {
        let seed = settings.seed.wrapping_add((number as u64) << 32);
        Leg { number, of, seed, schedule }
    }
}

/// What is kept of a leg besides its last weights. Where a device fails, steps are made again from
/// the last shadow on, and so is this.
pub(super) trait Collect {
    /// Looks at the network after a step.
    ///
    /// # Errors
    /// When its weights cannot be read or kept.
    fn after(&mut self, step: usize, network: &mut Network) -> Result<()>;
    /// A shadow is taken before the next step.
    fn mark(&mut self);
    /// Steps go on from the last mark, or from the first step if there was none.
    fn restore(&mut self);
}

/// Keeps nothing.
impl Collect for () {
    fn after(&mut self, _step: usize, _network: &mut Network) -> Result<()> {
        Ok(())
    }
    fn mark(&mut self) {}
    fn restore(&mut self) {}
}

impl Trainer {
    /// A trainer of `network` under `prior` on `train` examples, with `validation` held out.
    ///
    /// # Errors
    /// When a pattern freezes no parameter, the network cannot be trained, or the memory cap is too
    /// small.
    pub(super) fn new(
        mut network: Network,
        settings: Settings,
        prior: Option<ActivePrior>,
        [train, validation]: [usize; 2],
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
        let head = [HEAD_WEIGHT, HEAD_BIAS];
        let trainable = state::trainable(network.model(), &head, prior.as_ref(), frozen);
        let mean_variance = state::mean_variance(prior.as_ref(), &trainable)?;
        let optimizer = settings.posterior.optimizer(settings.optimizer);
        let recipe = Recipe {
            trainable: trainable.clone(),
            method: optimizer.method(),
            clip: settings.clip.is_some(),
        };
        let job = Job { settings: &settings, recipe, train, validation };
        let steps = memory::choose(&mut network, &job)?;
        network.set_forward_batch(steps.footprint.forward_batch);
        Ok(Trainer {
            network,
            leg: Leg::new(0, 1, &settings, settings.schedule),
            settings,
            optimizer,
            trainable,
            prior,
            mean_variance,
            loss_limit: None,
            steps,
            plans: HashMap::new(),
            apply: None,
            images: Vec::new(),
            targets: Vec::new(),
            filled: None,
            shadow: Shadow::default(),
        })
    }

    /// The network, to change it before the first step.
    pub(super) fn network_mut(&mut self) -> &mut Network {
        &mut self.network
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
        self.network.weights(backbone.chain([HEAD_WEIGHT, HEAD_BIAS]))
    }

    /// Makes all steps of `leg`, epoch after epoch, from the weights `start`; predicts `validation`
    /// after each epoch. Returns how it ended, and the weights then.
    ///
    /// # Errors
    /// Of kind [`Kind::Diverged`] when a loss is not finite, or a sampler's explodes; `history` and
    /// `collect` then hold what there was before.
    pub(super) fn run(
        &mut self,
        leg: Leg,
        data: (&Dataset, Option<&Dataset>),
        start: &Weights,
        history: &mut Vec<Epoch>,
        collect: &mut dyn Collect,
        observe: Observer<'_>,
    ) -> Result<(Ending, Weights)> {
        let earlier = history.len();
        let (mut done, mut is_new) = (0, true);
        loop {
            // A device may fail while a leg begins.
            let outcome = match std::mem::take(&mut is_new) {
                true => self.begin(leg, start),
                false => Ok(()),
            };
            match outcome.and_then(|()| self.run_from(&mut done, data, history, collect, observe)) {
                Err(error) if error.kind() == Kind::Device => {
                    done = self.recover(error, start)?;
                    history.truncate(earlier + self.shadow.epochs);
                    collect.restore();
                }
                other => return other,
            }
        }
    }

    /// Makes ready for the first step of `leg` from the weights `start`.
    fn begin(&mut self, leg: Leg, start: &Weights) -> Result<()> {
        (self.leg, self.filled, self.loss_limit) = (leg, None, None);
        self.shadow = Shadow::default();
        if self.plans.is_empty() {
            return self.network.set_weights(start);
        }
        let (trainable, method) = (&self.trainable, self.optimizer.method());
        let backend = self.network.backend();
        state::reset(backend, trainable, self.prior.as_ref(), method, start)
    }

    /// Makes all steps from step `done` on, which begins an epoch.
    fn run_from(
        &mut self,
        done: &mut usize,
        (train, validation): (&Dataset, Option<&Dataset>),
        history: &mut Vec<Epoch>,
        collect: &mut dyn Collect,
        observe: Observer<'_>,
    ) -> Result<(Ending, Weights)> {
        let per_epoch = train.len().div_ceil(self.settings.batch_size).max(1);
        while *done < self.settings.steps {
            let epoch = *done / per_epoch;
            self.take_shadow(*done, epoch, collect)?;
            let count = per_epoch.min(self.settings.steps - *done);
            let range = *done..*done + count;
            let after: AfterStep<'_> = &mut |step, network| collect.after(step, network);
            let (mut record, ending) = self.epoch(train, epoch, range, observe, after)?;
            if let (Ending::Completed, Some(validation)) = (ending, validation) {
                record.validation = self.validate(validation, observe)?;
            }
            *done += count;
            history.push(record);
            if ending == Ending::Stopped {
                return Ok((ending, self.weights()?));
            }
        }
        Ok((Ending::Completed, self.weights()?))
    }

    /// Keeps a copy of everything that steps change, if the device can fail and the last is old.
    fn take_shadow(&mut self, done: usize, epochs: usize, collect: &mut dyn Collect) -> Result<()> {
        let is_old = done >= self.shadow.done + SHADOW_STEPS;
        if self.network.engine().can_fail() && is_old && !self.plans.is_empty() {
            let leaves = state::changing(&self.trainable, self.optimizer.method());
            let backend = self.network.backend();
            let copy = |leaf: Leaf| Ok((leaf.clone(), backend.get(&leaf)?));
            let values = leaves.into_iter().map(copy).collect::<Result<_>>()?;
            self.shadow = Shadow { done, epochs, values };
            collect.mark();
        }
        Ok(())
    }

    /// Goes on elsewhere after `error`, from the last shadow, or from the start without one; what
    /// is made again is the same, since batches and noise depend on the step's number alone.
    /// Returns the number of the next step.
    fn recover(&mut self, error: Error, start: &Weights) -> Result<usize> {
        let backend = self.network.backend();
        for (size, plan) in self.plans.drain() {
            self.steps.plans.insert(size, backend.plan(plan).clone());
        }
        if let Some(plan) = self.apply.take() {
            self.steps.apply = Some(backend.plan(plan).clone());
        }
        self.network.fall_back(error, start)?;
        self.filled = None;
        log::warn!("going on from step {} on {}", self.shadow.done, self.network.backend().name());
        Ok(self.shadow.done)
    }

    /// The steps `range` of one epoch.
    pub(super) fn epoch(
        &mut self,
        train: &Dataset,
        epoch: usize,
        range: std::ops::Range<usize>,
        observe: Observer<'_>,
        after: AfterStep<'_>,
    ) -> Result<(Epoch, Ending)> {
        let size = self.settings.batch_size;
        let batches = Batches::shuffled(train.len(), size, self.leg.seed, epoch as u64)?;
        let chain = self.leg.number + 1;
        let mut record =
            Epoch { chain, epoch: epoch + 1, loss: 0.0, penalty: 0.0, validation: None };
        let (mut sum, mut examples) = (0.0, 0);
        let mut ending = Ending::Completed;
        let mut upcoming = batches.iter().skip(1);
        for (step, batch) in range.clone().zip(batches.iter()) {
            let next = upcoming.next().filter(|_| step + 1 < range.end);
            let (loss, penalty) = self.step(train, batch, next, step)?;
            after(step, &mut self.network)?;
            sum += f64::from(loss) * batch.len() as f64;
            examples += batch.len();
            record.penalty = penalty;
            let progress = Progress {
                phase: Phase::Train,
                step: self.leg.number * self.settings.steps + step + 1,
                steps: self.leg.of * self.settings.steps,
                loss: Some(loss),
                penalty: Some(penalty),
            };
            if observe(progress) == Control::Stop {
                ending = Ending::Stopped;
                break;
            }
        }
        record.loss = (sum / f64::from(examples.max(1) as u32)) as f32;
        Ok((record, ending))
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
        let image_len = self.network.preprocess().image_len();
        let input = self.network.input_name().to_string();
        let targets_len = train.classes().len();
        let images = self.images.chunks(micro * image_len);
        let backend = self.network.backend();
        let mut last = self.apply;
        for (images, targets) in images.zip(self.targets.chunks(micro * targets_len)) {
            let size = targets.len() / targets_len;
            let plan = self.plans[&size];
            backend.write(plan, &input, images)?;
            backend.write(plan, TARGETS, targets)?;
            write_known(backend, plan, SHARE, &[size as f32 / batch as f32])?;
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
        let preprocess = self.network.preprocess();
        self.images.resize(batch.len() * preprocess.image_len(), 0.0);
        let augmentation = self.settings.augment.at(self.leg.seed, step as u64);
        let threads = self.network.threads();
        train.fill(batch, preprocess, Some(&augmentation), &mut self.images, threads)?;
        let classes = train.classes().len();
        self.targets.resize(batch.len() * classes, 0.0);
        one_hot(&train.labels(batch)?, classes, &mut self.targets)?;
        self.filled = Some(step);
        Ok(())
    }

    /// The numbers that a step on one of `examples` reads, by the names of their inputs.
    fn numbers(&self, examples: usize, step: usize) -> [(&'static str, Vec<f32>); 3] {
        let (s, schedule) = (&self.settings, self.leg.schedule);
        let rate = s.learning_rate * schedule.factor(step, s.steps);
        let n = examples as f64;
        let scale = self.prior.as_ref().map_or(1.0, |prior| prior.scale);
        let optimizer = match schedule.explores(step, s.steps) {
            true => self.optimizer.without_noise(),
            false => self.optimizer,
        };
        let head = Noise::new(self.leg.seed, examples);
        let backbone = Noise { mean_variance: self.mean_variance, ..head };
        let hyper = |weight: f64, noise| optimizer.hyper(step, rate, weight as f32, noise).to_vec();
        [
            (Group::Backbone.hyper(), hyper(1.0 / (scale * n), backbone)),
            (Group::Head.hyper(), hyper(1.0 / (s.head_variance * n), head)),
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
        let mut shadow = self.shadow.values.iter();
        shadow.try_for_each(|(leaf, value)| backend.set(leaf, value))
    }

    fn validate(&mut self, data: &Dataset, observe: Observer<'_>) -> Result<Option<Summary>> {
        let logits = self.network.logits(data, &mut |p| {
            let phase = Phase::Validate;
            let progress =
                Progress { phase, step: p.done, steps: p.total, loss: None, penalty: None };
            observe(progress) == Control::Continue
        });
        let logits = match logits {
            // The weights are complete; only their score is missing.
            Err(error) if error.kind() == Kind::Cancelled => return Ok(None),
            other => other?,
        };
        let labels = data.labels(&(0..data.len()).collect::<Vec<_>>())?;
        summarise(&logits, &labels).map(Some)
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
