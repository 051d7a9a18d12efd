//! The linear probe: the head alone on features that do not change.
//!
//! The objective (the task's mean loss plus |head|²/(2τN)) is convex. Its curvature is at most that
//! of the loss in an output times the largest eigenvalue of the features' second moment, which
//! gives the learning rate: nothing is left to tune. The whole data set is one batch, but for
//! masks, whose pixels are too many.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array2, Axis};

use super::settings::Settings;
use super::{Control, Observer, Phase, Progress};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, PlanId};
use crate::data::{Batches, Dataset};
use crate::error::{Error, Kind, Result};
use crate::graph::{Graph, Hyper, Leaf, LeafKind, PriorTerm};
use crate::plan::Plan;
use crate::posterior::Network;
use crate::prior::Weights;
use crate::step::{Group, Recipe, Trainable, train_step};
use crate::task::{COUNTED, FEATURES, HEAD_BIAS, HEAD_WEIGHT, LOSS, TARGETS, Task};
use crate::tensor::{contiguous, tensor};
use crate::threads::Threads;
use crate::update::{Noise, Optimizer, Schedule};

/// Momentum of the probe's descent.
const MOMENTUM: f32 = 0.95;
/// The probe has converged when its loss falls by less than this share over [`WINDOW`] steps.
const SETTLED: f32 = 1e-5;
/// Steps between two looks at the loss.
const WINDOW: usize = 25;
/// Most bytes of feature maps that are kept, unless a memory cap says less.
const MAPS_BYTES_MAX: usize = 1 << 30;
/// Bytes of the feature maps that the rate is chosen by, at least those of one image.
const RATE_BYTES: usize = 1 << 26;

#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSettings<'a> {
    pub(super) task: &'a Task,
    /// What the prior is weighed against: the rows, or the images that they are pixels of.
    pub(super) examples: usize,
    /// τ
    pub(super) head_variance: f64,
    /// Most steps.
    pub(super) steps: usize,
}

/// The head that minimises the objective on rows of `features: [R, F]` with these `targets`, sought
/// from `start` if given.
pub(super) fn fit(
    features: &Array2<f32>,
    targets: &[f32],
    settings: ProbeSettings<'_>,
    start: Option<&Weights>,
    threads: &Arc<Threads>,
    observe: Observer<'_>,
) -> Result<Weights> {
    check_finite(features)?;
    let (task, (n, f)) = (settings.task, features.dim());
    let mut backend = Cpu::new(Arc::clone(threads));
    let plan = backend.load(Plan::compile(&graph(task, &[n, f], [1; 2])?)?)?;
    for (name, weight) in start.into_iter().flatten() {
        let leaf = Leaf { kind: LeafKind::Param, name: name.clone() };
        backend.set(&leaf, &contiguous(weight))?;
    }
    let x: Vec<f32> = features.iter().copied().collect();
    let rate = 1.0 / (task.curvature() * second_moment(n, f, |row| x[row * f..].iter().copied()));
    let hyper = hyper(settings.head_variance, settings.examples, rate);
    let mut before = f32::INFINITY;
    for step in 0..settings.steps {
        backend.write(plan, FEATURES, &x)?;
        backend.write(plan, TARGETS, targets)?;
        backend.write(plan, Group::Head.hyper(), &hyper)?;
        backend.run(plan)?;
        let mut loss = [0.0];
        backend.read(plan, LOSS, &mut loss)?;
        if tell(observe, step, settings.steps, loss[0]) == Control::Stop {
            break;
        }
        if step % WINDOW == 0 {
            if before - loss[0] < SETTLED * before {
                break;
            }
            before = loss[0];
        }
    }
    head(&backend, task.outputs())
}

/// The head that minimises the objective on the features of `train` and the masks of its images.
///
/// Batches instead of everything at once: the logits of all pixels would not fit in memory. The
/// rate falls from the one that cannot diverge to 0, so that the noise of the batches dies away.
pub(super) fn fit_dense(
    network: &mut Network,
    train: &Dataset,
    settings: &Settings,
    head_variance: f64,
    observe: Observer<'_>,
) -> Result<Weights> {
    let task = network.known_task()?.clone();
    let preprocess = network.preprocess().clone();
    let threads = Arc::clone(network.threads());
    let maps = Maps::new(network, train, settings, observe)?;
    let mut backend = Cpu::new(Arc::clone(&threads));
    let size = settings.batch_size.min(train.len());
    let (len, image) = (task.target_len(&preprocess), [preprocess.height, preprocess.width]);
    let mut plans: HashMap<usize, PlanId> = HashMap::new();
    for examples in [size, train.len() % size].into_iter().filter(|&examples| examples > 0) {
        let [f, h, w] = maps.shape;
        let plan = Plan::compile(&graph(&task, &[examples, f, h, w], image)?)?;
        plans.insert(examples, backend.load(plan)?);
    }
    let per_epoch = train.len().div_ceil(size).max(1);
    let mut batches = Batches::shuffled(train.len(), size, settings.seed, 0)?;
    let schedule = Schedule::Cosine { warmup: 0 };
    for step in 0..settings.probe_steps {
        if step % per_epoch == 0 {
            let epoch = (step / per_epoch) as u64;
            batches = Batches::shuffled(train.len(), size, settings.seed, epoch)?;
        }
        let batch = batches.get(step % per_epoch).unwrap_or_default();
        let plan = plans[&batch.len()];
        let mut targets = vec![0.0; batch.len() * len];
        task.fill_targets(train, batch, &preprocess, None, &mut targets, &threads)?;
        let rate = maps.rate * f64::from(schedule.factor(step, settings.probe_steps));
        backend.write(plan, FEATURES, &maps.of(network, train, batch)?)?;
        backend.write(plan, TARGETS, &targets)?;
        backend.write(plan, COUNTED, &[task.counted(&targets, len)])?;
        backend.write(plan, Group::Head.hyper(), &hyper(head_variance, train.len(), rate))?;
        backend.run(plan)?;
        let mut loss = [0.0];
        backend.read(plan, LOSS, &mut loss)?;
        if tell(observe, step, settings.probe_steps, loss[0]) == Control::Stop {
            break;
        }
    }
    head(&backend, task.outputs())
}

/// The feature maps of the training images.
struct Maps {
    /// `[N, C·h·w]`, when that takes little memory; else they are computed for each batch.
    kept: Option<Array2<f32>>,
    /// `[C, h, w]`
    shape: [usize; 3],
    /// The largest learning rate that cannot diverge.
    rate: f64,
}

impl Maps {
    fn new(
        network: &mut Network,
        train: &Dataset,
        settings: &Settings,
        observe: Observer<'_>,
    ) -> Result<Self> {
        let shape = map_shape(network)?;
        let [f, h, w] = shape;
        let image = 4 * f * h * w;
        let most = settings.memory_cap.map_or(MAPS_BYTES_MAX, |cap| cap as usize);
        let are_kept = train.len().saturating_mul(image) <= most;
        // A part of the images is enough for the rate, the same whatever is kept.
        let count = train.len().min((RATE_BYTES / image.max(1)).max(1));
        let some = train.subset(&(0..count).collect::<Vec<_>>())?;
        let maps = features(network, if are_kept { train } else { &some }, observe)?;
        let task = network.known_task()?;
        let preprocess = network.preprocess();
        let mut targets = vec![0.0; task.target_len(preprocess)];
        let mut counted = 0.0;
        for index in 0..count {
            task.fill_targets(&some, &[index], preprocess, None, &mut targets, network.threads())?;
            counted += f64::from(task.counted(&targets, targets.len()));
        }
        let x = maps.as_slice().ok_or_else(|| Error::internal("features are row-major"))?;
        let cells = h * w;
        let at = |row: usize| x[row / cells * f * cells + row % cells..].iter().step_by(cells);
        let moment = second_moment(count * cells, f, |row| at(row).take(f).copied());
        // The features of a pixel are a mean of those of its neighbours, whose second moment is no
        // larger; pixels that are ignored leave more weight to the others.
        let share = (counted / (count * targets.len()) as f64).max(f64::MIN_POSITIVE);
        let rate = share / (task.curvature() * moment);
        Ok(Maps { kept: are_kept.then_some(maps), shape, rate })
    }

    /// Those of `batch`.
    fn of(&self, network: &mut Network, train: &Dataset, batch: &[usize]) -> Result<Vec<f32>> {
        let maps = match &self.kept {
            Some(maps) => maps.select(Axis(0), batch),
            None => network.features(&train.subset(batch)?, &mut |_| true)?,
        };
        Ok(maps.into_iter().collect())
    }
}

/// The targets of all examples as a task without masks has them.
pub(super) fn targets(task: &Task, train: &Dataset) -> Result<Vec<f32>> {
    let mut targets = vec![0.0; train.len() * task.outputs()];
    let all: Vec<usize> = (0..train.len()).collect();
    task.fill_rows(train, &all, &mut targets)?;
    Ok(targets)
}

/// `[C, h, w]` of the network's feature maps.
pub(super) fn map_shape(network: &Network) -> Result<[usize; 3]> {
    let graph = network.graph(1)?;
    let features = graph.output(FEATURES).map(|features| graph.shape(features).to_vec());
    match features.as_deref() {
        Some(&[_, f, h, w]) => Ok([f, h, w]),
        _ => Err(Error::internal("a dense task has feature maps")),
    }
}

/// Features of all examples, which are finite.
fn features(network: &mut Network, train: &Dataset, observe: Observer<'_>) -> Result<Array2<f32>> {
    let features = network.features(train, &mut |p| {
        let (phase, step, steps) = (Phase::Features, p.done, p.total);
        let progress = Progress { phase, step, steps, loss: None, penalty: None };
        observe(progress) != Control::Stop
    })?;
    check_finite(&features)?;
    Ok(features)
}

fn check_finite(features: &Array2<f32>) -> Result<()> {
    match features.indexed_iter().find(|(_, x)| !x.is_finite()) {
        None => Ok(()),
        Some(((example, feature), x)) => {
            let message = format!("feature {feature} of example {example} is {x}");
            Err(Error::new(Kind::Diverged, message).hint("check the images' normalisation"))
        }
    }
}

fn tell(observe: Observer<'_>, step: usize, steps: usize, loss: f32) -> Control {
    let (phase, step) = (Phase::Probe, step + 1);
    observe(Progress { phase, step, steps, loss: Some(loss), penalty: None })
}

/// The numbers of a step on some of `n` examples.
fn hyper(head_variance: f64, n: usize, rate: f64) -> [f32; Hyper::COUNT] {
    let weight = (1.0 / (head_variance * n as f64)) as f32;
    let noise = Noise::new(0, n);
    Optimizer::Sgd { momentum: MOMENTUM }.hyper(0, rate as f32, weight, noise)
}

/// The head's present weights.
fn head(backend: &Cpu, outputs: usize) -> Result<Weights> {
    let get = |name: &str| backend.get(&Leaf { kind: LeafKind::Param, name: name.to_string() });
    let (weight, bias) = (get(HEAD_WEIGHT)?, get(HEAD_BIAS)?);
    let shape = [outputs, weight.len() / outputs.max(1)];
    Ok(Weights::from([
        (HEAD_WEIGHT.to_string(), tensor(&shape, weight)?),
        (HEAD_BIAS.to_string(), tensor(&[outputs], bias)?),
    ]))
}

/// One step of the head on features of `shape`, for images of `size`.
fn graph(task: &Task, shape: &[usize], size: [usize; 2]) -> Result<Graph> {
    let mut graph = Graph::new();
    let features = graph.input(FEATURES, &shape.into())?;
    let outputs = task.head(&mut graph, features, size)?;
    let loss = task.loss(&mut graph, outputs)?;
    graph.set_output(LOSS, loss);
    let prior = PriorTerm::Isotropic { centred: false };
    let trainable = [HEAD_WEIGHT, HEAD_BIAS].map(|name| Trainable {
        name: name.to_string(),
        group: Group::Head,
        block: 0,
        prior,
    });
    let method = Optimizer::Sgd { momentum: MOMENTUM }.method();
    train_step(graph, &Recipe { trainable: trainable.to_vec(), method, clip: false })
}

/// An upper bound of the largest eigenvalue of the second moment of `n` rows of `f` features with a
/// constant 1 beside them for the bias, by power iteration.
fn second_moment<I: Iterator<Item = f32>>(n: usize, f: usize, row: impl Fn(usize) -> I) -> f64 {
    const ITERATIONS: usize = 30;
    /// The iteration approaches the eigenvalue from below.
    const ROOM: f64 = 1.1;
    let mut v = vec![1.0 / ((f + 1) as f64).sqrt(); f + 1];
    let mut largest = 0.0;
    for _ in 0..ITERATIONS {
        let mut next = vec![0.0; f + 1];
        for at in 0..n {
            let product: f64 =
                v[f] + row(at).zip(&v[..f]).map(|(x, v)| f64::from(x) * v).sum::<f64>();
            row(at).zip(&mut next[..f]).for_each(|(x, next)| *next += f64::from(x) * product);
            next[f] += product;
        }
        largest = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = next.iter().map(|x| x / largest).collect();
    }
    ROOM * largest / n.max(1) as f64
}
