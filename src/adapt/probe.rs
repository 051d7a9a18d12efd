//! The linear probe: the head alone on features that do not change.
//!
//! The objective (mean cross-entropy plus |head|²/(2τN)) is convex. Its curvature is at most half
//! the largest eigenvalue of the features' second moment, which gives the learning rate: nothing is
//! left to tune. The whole data set is one batch.

use std::sync::Arc;

use ndarray::Array2;

use super::{Control, Observer, Phase, Progress};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::data::one_hot;
use crate::error::{Error, Kind, Result};
use crate::graph::{Graph, Leaf, LeafKind, PriorTerm};
use crate::plan::Plan;
use crate::prior::Weights;
use crate::step::{Group, Recipe, Trainable, train_step};
use crate::task::{FEATURES, HEAD_BIAS, HEAD_WEIGHT, LOSS, TARGETS, cross_entropy, linear_head};
use crate::tensor::{contiguous, tensor};
use crate::threads::Threads;
use crate::update::{Noise, Optimizer};

/// Momentum of the probe's descent.
const MOMENTUM: f32 = 0.95;
/// The probe has converged when its loss falls by less than this share over [`WINDOW`] steps.
const SETTLED: f32 = 1e-5;
/// Steps between two looks at the loss.
const WINDOW: usize = 25;

#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSettings {
    pub(super) classes: usize,
    /// τ
    pub(super) head_variance: f64,
    /// Most steps.
    pub(super) steps: usize,
}

/// The head that minimises the objective on `features: [N, F]`, sought from `start` if given.
pub(super) fn fit(
    features: &Array2<f32>,
    labels: &[usize],
    settings: ProbeSettings,
    start: Option<&Weights>,
    threads: &Arc<Threads>,
    observe: Observer<'_>,
) -> Result<Weights> {
    let (n, f) = features.dim();
    let classes = settings.classes;
    let plan = Plan::compile(&graph(n, f, classes)?)?;
    let mut backend = Cpu::new(Arc::clone(threads));
    let plan = backend.load(plan)?;
    for (name, weight) in start.into_iter().flatten() {
        let leaf = Leaf { kind: LeafKind::Param, name: name.clone() };
        backend.set(&leaf, &contiguous(weight))?;
    }
    let x: Vec<f32> = features.iter().copied().collect();
    if let Some(at) = x.iter().position(|x| !x.is_finite()) {
        let message = format!("feature {} of example {} is {}", at % f, at / f, x[at]);
        return Err(Error::new(Kind::Diverged, message).hint("check the images' normalisation"));
    }
    let mut targets = vec![0.0; n * classes];
    one_hot(labels, classes, &mut targets)?;
    let rate = (1.0 / curvature(features)) as f32;
    let weight = (1.0 / (settings.head_variance * n as f64)) as f32;
    let noise = Noise::new(0, n);
    let hyper = Optimizer::Sgd { momentum: MOMENTUM }.hyper(0, rate, weight, noise);
    let mut before = f32::INFINITY;
    for step in 0..settings.steps {
        backend.write(plan, FEATURES, &x)?;
        backend.write(plan, TARGETS, &targets)?;
        backend.write(plan, Group::Head.hyper(), &hyper)?;
        backend.run(plan)?;
        let mut loss = [0.0];
        backend.read(plan, LOSS, &mut loss)?;
        let (phase, steps) = (Phase::Probe, settings.steps);
        let progress =
            Progress { phase, step: step + 1, steps, loss: Some(loss[0]), penalty: None };
        if observe(progress) == Control::Stop {
            break;
        }
        if step % WINDOW == 0 {
            if before - loss[0] < SETTLED * before {
                break;
            }
            before = loss[0];
        }
    }
    let get = |name: &str| backend.get(&Leaf { kind: LeafKind::Param, name: name.to_string() });
    Ok(Weights::from([
        (HEAD_WEIGHT.to_string(), tensor(&[classes, f], get(HEAD_WEIGHT)?)?),
        (HEAD_BIAS.to_string(), tensor(&[classes], get(HEAD_BIAS)?)?),
    ]))
}

/// One step of the head on `n` feature vectors.
fn graph(n: usize, f: usize, classes: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let features = graph.input(FEATURES, &[n, f].into())?;
    let logits = linear_head(&mut graph, features, classes)?;
    let loss = cross_entropy(&mut graph, logits)?;
    graph.set_output(LOSS, loss);
    let prior = PriorTerm::Isotropic { centred: false };
    let trainable = [HEAD_WEIGHT, HEAD_BIAS].map(|name| Trainable {
        name: name.to_string(),
        group: Group::Head,
        prior,
    });
    let method = Optimizer::Sgd { momentum: MOMENTUM }.method();
    train_step(graph, &Recipe { trainable: trainable.to_vec(), method, clip: false })
}

/// An upper bound of the loss's curvature: half the largest eigenvalue of the second moment of the
/// features with a constant 1 beside them for the bias (Böhning 1992), by power iteration.
fn curvature(features: &Array2<f32>) -> f64 {
    const ITERATIONS: usize = 30;
    /// The iteration approaches the eigenvalue from below.
    const ROOM: f64 = 1.1;
    let (n, f) = features.dim();
    let mut v = vec![1.0 / ((f + 1) as f64).sqrt(); f + 1];
    let mut largest = 0.0;
    for _ in 0..ITERATIONS {
        let mut next = vec![0.0; f + 1];
        for row in features.rows() {
            let product: f64 =
                v[f] + row.iter().zip(&v).map(|(&x, v)| f64::from(x) * v).sum::<f64>();
            row.iter().zip(&mut next).for_each(|(&x, next)| *next += f64::from(x) * product);
            next[f] += product;
        }
        largest = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = next.iter().map(|x| x / largest).collect();
    }
    ROOM * 0.5 * largest / n.max(1) as f64
}
