//! The training loop: batches in, steps run, losses out.

use std::collections::HashMap;

use super::memory::{self, Footprint, Job, Steps};
use super::settings::Settings;
use super::state::{self, ActivePrior};
use super::{Control, Ending, Epoch, Observer, Phase, Progress, Summary, name_matches, summarise};
use crate::backend::{Backend, PlanId};
use crate::data::{Batches, Dataset, one_hot};
use crate::error::{Error, Kind, Result};
use crate::posterior::Network;
use crate::step::{CLIP, Group, PENALTY, Recipe, SHARE, Trainable};
use crate::task::{HEAD_BIAS, HEAD_WEIGHT, LOSS, TARGETS};
use crate::update::Noise;

/// Trains a network with a head.
pub(super) struct Trainer {
    network: Network,
    settings: Settings,
    trainable: Vec<Trainable>,
    prior: Option<ActivePrior>,
    /// What is compiled and not loaded yet.
    steps: Steps,
    /// Loaded steps by their number of examples.
    plans: HashMap<usize, PlanId>,
    /// What follows the last micro-batch of a batch.
    apply: Option<PlanId>,
    images: Vec<f32>,
    targets: Vec<f32>,
}

/// Called after each step with its number.
type AfterStep<'a> = &'a mut dyn FnMut(usize, &mut Network) -> Result<()>;

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
        let recipe = Recipe {
            trainable: trainable.clone(),
            method: settings.optimizer.method(),
            clip: settings.clip.is_some(),
        };
        let job = Job { settings: &settings, recipe, train, validation };
        let steps = memory::choose(&mut network, &job)?;
        network.set_forward_batch(steps.footprint.forward_batch);
        Ok(Trainer {
            network,
            settings,
            trainable,
            prior,
            steps,
            plans: HashMap::new(),
            apply: None,
            images: Vec::new(),
            targets: Vec::new(),
        })
    }

    /// The network in its present state.
    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// The same, to change it before the first step.
    pub(super) fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// What the run takes.
    pub(super) fn footprint(&self) -> Footprint {
        self.steps.footprint
    }

    /// Makes all steps, epoch after epoch; predicts `validation` after each.
    pub(super) fn run(
        &mut self,
        train: &Dataset,
        validation: Option<&Dataset>,
        history: &mut Vec<Epoch>,
        observe: Observer<'_>,
    ) -> Result<Ending> {
        let per_epoch = train.len().div_ceil(self.settings.batch_size);
        let mut done = 0;
        while done < self.settings.steps {
            let epoch = done / per_epoch.max(1);
            let count = per_epoch.min(self.settings.steps - done);
            let (mut record, ending) =
                self.epoch(train, epoch, done..done + count, observe, &mut |_, _| Ok(()))?;
            done += count;
            if ending == Ending::Stopped {
                history.push(record);
                return Ok(ending);
            }
            if let Some(validation) = validation {
                record.validation = self.validate(validation, observe)?;
            }
            history.push(record);
        }
        Ok(Ending::Completed)
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
        let batches = Batches::shuffled(train.len(), size, self.settings.seed, epoch as u64)?;
        let mut record = Epoch { epoch: epoch + 1, loss: 0.0, penalty: 0.0, validation: None };
        let (mut sum, mut examples) = (0.0, 0);
        let mut ending = Ending::Completed;
        for (step, batch) in range.zip(batches.iter()) {
            let (loss, penalty) = self.step(train, batch, step)?;
            after(step, &mut self.network)?;
            sum += f64::from(loss) * batch.len() as f64;
            examples += batch.len();
            record.penalty = penalty;
            let progress = Progress {
                phase: Phase::Train,
                step: step + 1,
                steps: self.settings.steps,
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

    /// One step; the loss of its batch and the penalty, both before the update.
    fn step(&mut self, train: &Dataset, batch: &[usize], step: usize) -> Result<(f32, f32)> {
        self.load(batch.len())?;
        self.fill(train, batch, step)?;
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
            write_known(backend, plan, SHARE, &[size as f32 / batch.len() as f32])?;
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
        let (mut loss, mut penalty) = ([0.0], [0.0]);
        backend.read(last, LOSS, &mut loss)?;
        backend.read(last, PENALTY, &mut penalty)?;
        if !(loss[0] + penalty[0]).is_finite() {
            let message = format!("step {}: loss {}, penalty {}", step + 1, loss[0], penalty[0]);
            return Err(Error::new(Kind::Diverged, message)
                .hint("lower --lr, or clip the gradient with --clip"));
        }
        Ok((loss[0], penalty[0]))
    }

    /// Fills images and targets of a batch.
    fn fill(&mut self, train: &Dataset, batch: &[usize], step: usize) -> Result<()> {
        let preprocess = self.network.preprocess();
        self.images.resize(batch.len() * preprocess.image_len(), 0.0);
        let augmentation = self.settings.augment.at(self.settings.seed, step as u64);
        let threads = self.network.threads();
        train.fill(batch, preprocess, Some(&augmentation), &mut self.images, threads)?;
        let classes = train.classes().len();
        self.targets.resize(batch.len() * classes, 0.0);
        one_hot(&train.labels(batch)?, classes, &mut self.targets)
    }

    /// The numbers that a step on one of `examples` reads, by the names of their inputs.
    fn numbers(&self, examples: usize, step: usize) -> [(&'static str, Vec<f32>); 3] {
        let s = &self.settings;
        let rate = s.learning_rate * s.schedule.factor(step, s.steps);
        let n = examples as f64;
        let scale = self.prior.as_ref().map_or(1.0, |prior| prior.scale);
        let noise = Noise { seed: s.seed, examples };
        let hyper = |weight: f64| s.optimizer.hyper(step, rate, weight as f32, noise).to_vec();
        [
            (Group::Backbone.hyper(), hyper(1.0 / (scale * n))),
            (Group::Head.hyper(), hyper(1.0 / (s.head_variance * n))),
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
        state::install(backend, &self.trainable, self.prior.as_ref(), &weights)
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
