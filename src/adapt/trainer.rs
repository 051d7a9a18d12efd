//! The training loop: batches in, steps run, losses out.

use std::collections::HashMap;

use super::settings::Settings;
use super::state::{self, ActivePrior};
use super::{Control, Ending, Epoch, Observer, Phase, Progress, Summary, name_matches, summarise};
use crate::backend::PlanId;
use crate::data::{Batches, Dataset, one_hot};
use crate::error::{Error, Kind, Result};
use crate::plan::Plan;
use crate::posterior::Network;
use crate::step::{CLIP, Group, PENALTY, Recipe, Trainable, train_step};
use crate::task::{HEAD_BIAS, HEAD_WEIGHT, LOGITS, LOSS, TARGETS, cross_entropy};
use crate::update::Noise;

/// Trains a network with a head.
pub(super) struct Trainer {
    network: Network,
    settings: Settings,
    trainable: Vec<Trainable>,
    prior: Option<ActivePrior>,
    plans: HashMap<usize, PlanId>,
    images: Vec<f32>,
    targets: Vec<f32>,
}

/// Called after each step with its number.
type AfterStep<'a> = &'a mut dyn FnMut(usize, &mut Network) -> Result<()>;

impl Trainer {
    /// A trainer of `network` under `prior`.
    ///
    /// # Errors
    /// When a pattern freezes no parameter.
    pub(super) fn new(
        network: Network,
        settings: Settings,
        prior: Option<ActivePrior>,
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
        Ok(Trainer {
            network,
            settings,
            trainable,
            prior,
            plans: HashMap::new(),
            images: Vec::new(),
            targets: Vec::new(),
        })
    }

    /// The network in its present state.
    pub(super) fn network(&self) -> &Network {
        &self.network
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
        let plan = self.plan(batch.len())?;
        let s = &self.settings;
        let image_len = self.network.preprocess().image_len();
        self.images.resize(batch.len() * image_len, 0.0);
        let augmentation = s.augment.at(s.seed, step as u64);
        let threads = std::sync::Arc::clone(self.network.threads());
        let preprocess = self.network.preprocess().clone();
        train.fill(batch, &preprocess, Some(&augmentation), &mut self.images, &threads)?;
        let classes = train.classes().len();
        self.targets.resize(batch.len() * classes, 0.0);
        one_hot(&train.labels(batch)?, classes, &mut self.targets)?;
        let rate = s.learning_rate * s.schedule.factor(step, s.steps);
        let n = train.len() as f64;
        let scale = self.prior.as_ref().map_or(1.0, |prior| prior.scale);
        let backbone = (1.0 / (scale * n)) as f32;
        let head = (1.0 / (s.head_variance * n)) as f32;
        let noise = Noise { seed: s.seed, examples: train.len() };
        let inputs: [(&str, &[f32]); 3] = [
            (Group::Backbone.hyper(), &s.optimizer.hyper(step, rate, backbone, noise)),
            (Group::Head.hyper(), &s.optimizer.hyper(step, rate, head, noise)),
            (CLIP, &[s.clip.unwrap_or(f32::INFINITY)]),
        ];
        let image_input = self.network.input_name().to_string();
        let backend = self.network.backend();
        backend.write(plan, &image_input, &self.images)?;
        backend.write(plan, TARGETS, &self.targets)?;
        for (name, value) in inputs {
            // A step that trains only one group, or does not clip, has no such input.
            if backend.plan(plan).inputs().iter().any(|port| port.name == name) {
                backend.write(plan, name, value)?;
            }
        }
        backend.run(plan)?;
        let (mut loss, mut penalty) = ([0.0], [0.0]);
        backend.read(plan, LOSS, &mut loss)?;
        backend.read(plan, PENALTY, &mut penalty)?;
        if !(loss[0] + penalty[0]).is_finite() {
            let message = format!("step {}: loss {}, penalty {}", step + 1, loss[0], penalty[0]);
            return Err(Error::new(Kind::Diverged, message)
                .hint("lower --lr, or clip the gradient with --clip"));
        }
        Ok((loss[0], penalty[0]))
    }

    /// The plan of a step on `batch` examples, compiled when first asked for.
    fn plan(&mut self, batch: usize) -> Result<PlanId> {
        if let Some(&plan) = self.plans.get(&batch) {
            return Ok(plan);
        }
        let mut graph = self.network.graph(batch)?;
        let logits = graph
            .output(LOGITS)
            .ok_or_else(|| Error::internal("the network to train has a head"))?;
        let loss = cross_entropy(&mut graph, logits)?;
        graph.clear_outputs();
        graph.set_output(LOSS, loss);
        let recipe = Recipe {
            trainable: self.trainable.clone(),
            method: self.settings.optimizer.method(),
            clip: self.settings.clip.is_some(),
        };
        let plan = Plan::compile(&train_step(graph, &recipe)?)?;
        log::debug!("training step of {batch} examples:\n{plan}");
        let id = self.network.load(plan)?;
        if self.plans.is_empty() {
            self.install()?;
        }
        self.plans.insert(batch, id);
        Ok(id)
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
