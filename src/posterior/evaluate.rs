//! Predictions of any task compared with what is true.

use std::fmt;

use serde::Serialize;

use super::metrics::{self, LabelReport, MaskReport, MaskScores, NumberReport, Scored, Summary};
use super::parts::{Part, each_part};
use super::runtime::{Frame, Runtime};
use super::{Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::prior::Weights;
use crate::task::{Standard, Task};
use crate::tensor::tensor;

/// Least variance of the noise of a number, as a share of the variance of its targets: a model that
/// fits a few examples exactly has not shown that there is no noise.
const NOISE_MIN: f64 = 1e-6;

/// All measures of a task's predictions; prints as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Evaluation {
    /// Of classes.
    Classes(metrics::Report),
    /// Of sets of labels.
    Labels(LabelReport),
    /// Of numbers.
    Numbers(NumberReport),
    /// Of masks.
    Masks(MaskReport),
}

impl Evaluation {
    /// The headline.
    pub fn summary(&self) -> Summary {
        match self {
            Evaluation::Classes(report) => report.summary(),
            Evaluation::Labels(report) => report.summary(),
            Evaluation::Numbers(report) => report.summary(),
            Evaluation::Masks(report) => report.summary(),
        }
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evaluation::Classes(report) => report.fmt(f),
            Evaluation::Labels(report) => report.fmt(f),
            Evaluation::Numbers(report) => report.fmt(f),
            Evaluation::Masks(report) => report.fmt(f),
        }
    }
}

impl Posterior {
    /// Measures the predictions, averaged over the draws, for labelled `data`. Numbers whose noise
    /// is not known are given that of `data` itself.
    ///
    /// # Errors
    /// When the data do not suit the task, and those of [`Posterior::predict_parts`].
    pub fn evaluate(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Evaluation> {
        self.evaluate_parts(data, engine, observe, &mut |_| Ok(()))
    }

    /// The same, showing `visit` the predictions part by part.
    ///
    /// # Errors
    /// Those of [`Posterior::evaluate`] and of `visit`.
    pub fn evaluate_parts(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
        visit: &mut dyn FnMut(&Part) -> Result<()>,
    ) -> Result<Evaluation> {
        let data = self.description.task.align(data)?;
        measure(&mut *self.predictor(engine)?, self.weights(), &data, observe, visit)
    }

    /// The same with the noise of its numbers, the variance that is left around the predictions of
    /// labelled `data`: what the draws' disagreement does not explain of the squared errors.
    /// Examples that were not trained on give an honest number; those that were, too small a one.
    /// Nothing happens to other tasks.
    ///
    /// # Errors
    /// Those of [`Posterior::evaluate`].
    pub fn with_noise_of(
        mut self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Self> {
        if !matches!(self.description.task, Task::Regression { .. }) {
            return Ok(self);
        }
        let data = self.description.task.align(data)?;
        let mut predictor = self.predictor(engine)?;
        let rows = Rows::predict(&mut *predictor, self.weights(), &data, observe, &mut |_| Ok(()))?;
        drop(predictor);
        let noise = rows.noises(&self.description.task);
        self.set_noise(&noise);
        Ok(self)
    }

    /// Sets the variance of the noise of each of its numbers.
    pub(crate) fn set_noise(&mut self, noise: &[f64]) {
        if let Task::Regression { standard, .. } = &mut self.description.task {
            let known = standard.iter_mut().zip(noise);
            known.for_each(|(standard, &noise)| standard.noise = Some(noise));
        }
    }

    pub(super) fn weights(&self) -> WeightsAt<'_> {
        (Some(&self.draws), self.temperature())
    }
}

/// Measures the predictions of the network's present weights for `data`, whose targets are the
/// task's.
pub(crate) fn evaluate(
    runtime: &mut dyn Runtime,
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
) -> Result<Evaluation> {
    measure(runtime, (None, 1.0), data, observe, &mut |_| Ok(()))
}

/// Measures the `mean` and `variance` of predictions, each `[N, outputs]`, for `data`, whose
/// targets are the task's; not of masks.
pub(crate) fn evaluate_mean(
    task: &Task,
    [mean, variance]: [Vec<f64>; 2],
    data: &Dataset,
) -> Result<Evaluation> {
    Rows::new(task, mean, variance, data)?.evaluate(task, data)
}

/// The variance that such predictions leave around the numbers of `data`; none of other tasks.
pub(crate) fn noise_of(
    task: &Task,
    [mean, variance]: [Vec<f64>; 2],
    data: &Dataset,
) -> Result<Vec<f64>> {
    match task {
        Task::Regression { .. } => Ok(Rows::new(task, mean, variance, data)?.noises(task)),
        _ => Ok(Vec::new()),
    }
}

/// Draws, or the network's present weights, and a temperature.
pub(super) type WeightsAt<'a> = (Option<&'a [Weights]>, f64);

fn measure(
    runtime: &mut dyn Runtime,
    weights: WeightsAt<'_>,
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
    visit: &mut dyn FnMut(&Part) -> Result<()>,
) -> Result<Evaluation> {
    let task = runtime.frame().known_task()?.clone();
    if task.is_dense() {
        return masks(runtime, weights, data, observe, visit).map(Evaluation::Masks);
    }
    Rows::predict(runtime, weights, data, observe, visit)?.evaluate(&task, data)
}

fn masks(
    runtime: &mut dyn Runtime,
    weights: WeightsAt<'_>,
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
    visit: &mut dyn FnMut(&Part) -> Result<()>,
) -> Result<MaskReport> {
    let Frame { preprocess, threads, .. } = runtime.frame().clone();
    let pixels = preprocess.height * preprocess.width;
    let mut scores = MaskScores::new(runtime.frame().known_task()?.names());
    let mut truth = Vec::new();
    each_part(runtime, weights, data, observe, &mut |part| {
        visit(&part)?;
        truth.resize(part.examples.len() * pixels, 0.0);
        let indices: Vec<usize> = part.examples.collect();
        data.fill_masks(&indices, &preprocess, None, &mut truth, &threads)?;
        scores.add(&part.mean, &truth)
    })?;
    scores.report()
}

/// Predictions and truth of all examples, `[N, outputs]`.
pub(super) struct Rows {
    mean: Vec<f64>,
    variance: Vec<f64>,
    /// Labels or numbers; empty for classes.
    truth: Vec<f32>,
    outputs: usize,
}

impl Rows {
    fn new(task: &Task, mean: Vec<f64>, variance: Vec<f64>, data: &Dataset) -> Result<Self> {
        let outputs = task.outputs();
        let is_classes = matches!(task, Task::Classification { .. });
        let mut truth = vec![0.0; if is_classes { 0 } else { data.len() * outputs }];
        if !is_classes {
            data.fill_rows(&(0..data.len()).collect::<Vec<_>>(), &mut truth)?;
        }
        Ok(Rows { mean, variance, truth, outputs })
    }

    pub(super) fn predict(
        runtime: &mut dyn Runtime,
        weights: WeightsAt<'_>,
        data: &Dataset,
        observe: &mut dyn FnMut(Progress) -> bool,
        visit: &mut dyn FnMut(&Part) -> Result<()>,
    ) -> Result<Self> {
        let (mut mean, mut variance) = (Vec::new(), Vec::new());
        each_part(runtime, weights, data, observe, &mut |part: Part| {
            visit(&part)?;
            mean.extend(part.mean);
            variance.extend(part.variance);
            Ok(())
        })?;
        Rows::new(runtime.frame().known_task()?, mean, variance, data)
    }

    fn evaluate(&self, task: &Task, data: &Dataset) -> Result<Evaluation> {
        let names = task.names();
        Ok(match task {
            Task::Classification { .. } => {
                let p = self.mean.iter().map(|&p| p as f32).collect();
                let p = tensor(&[data.len(), names.len()], p)?;
                let labels = data.labels(&(0..data.len()).collect::<Vec<_>>())?;
                Evaluation::Classes(Scored::new(&p, &labels)?.report())
            }
            Task::MultiLabel { .. } => {
                Evaluation::Labels(LabelReport::new(&self.mean, &self.truth, names)?)
            }
            Task::Regression { standard, .. } => {
                let known = |(column, s): (usize, &Standard)| {
                    s.noise.unwrap_or_else(|| self.noise(column, s.std))
                };
                let noise: Vec<f64> = standard.iter().enumerate().map(known).collect();
                let total = |(at, v): (usize, &f64)| v + noise[at % noise.len()];
                let variance: Vec<f64> = self.variance.iter().enumerate().map(total).collect();
                Evaluation::Numbers(NumberReport::new(&self.mean, &variance, &self.truth, names)?)
            }
            Task::Segmentation { .. } => return Err(Error::internal("masks are measured apart")),
        })
    }

    /// The noise of each number; none of other tasks.
    pub(super) fn noises(&self, task: &Task) -> Vec<f64> {
        let Task::Regression { standard, .. } = task else { return Vec::new() };
        standard.iter().enumerate().map(|(column, s)| self.noise(column, s.std)).collect()
    }

    /// The mean squared error of a column that the draws' disagreement does not explain.
    fn noise(&self, column: usize, std: f64) -> f64 {
        let rows = self.mean.iter().zip(&self.variance).zip(&self.truth);
        let (mut sum, mut count) = (0.0, 0);
        for ((mean, variance), &y) in rows.skip(column).step_by(self.outputs) {
            sum += (f64::from(y) - mean).powi(2) - variance;
            count += 1;
        }
        (sum / f64::from(count.max(1))).max(NOISE_MIN * std * std)
    }
}
