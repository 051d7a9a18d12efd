//! Calibration of labels, numbers and masks.
//!
//! One half of the held-out examples sets the temperature, or the noise of numbers; the other half
//! the thresholds.

use std::ops::Range;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{Calibration, CalibrationSettings, Familiarity, Score};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::posterior::evaluate::Rows;
use crate::posterior::parts::{each_output, each_part};
use crate::posterior::runtime::{Frame, Runtime};
use crate::posterior::temperature::{Search, best};
use crate::posterior::{
    PIXELS_MAX, Part, Pixels, Posterior, Progress, Uncertainty, quantile, truth,
};
use crate::task::Task;

/// How far numbers lie from their predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// The promised share of numbers that lie within their interval, for each number by itself.
    pub coverage: f64,
    /// Variance of the noise of each number.
    pub noise: Vec<f64>,
    /// Half the width of each number's interval, in standard deviations of its prediction; none
    /// where there were too few examples for the promise.
    pub half_widths: Option<Vec<f64>>,
}

impl Score {
    /// The score of a prediction, in nats.
    pub fn of_one(self, uncertainty: &Uncertainty) -> f64 {
        match self {
            Score::Entropy => uncertainty.entropy,
            Score::MutualInformation => uncertainty.mutual_information,
        }
    }
}

impl Posterior {
    /// [`Posterior::calibrate`] of what are no classes, with held-out examples in two halves.
    pub(super) fn calibrate_task(
        &self,
        [first, second]: [&Dataset; 2],
        engine: &Engine,
        settings: &CalibrationSettings,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Calibration> {
        if settings.abstention.is_some() {
            return Err(Error::unsupported("abstaining is known of classes only")
                .hint("leave --risk and --answer out"));
        }
        let mut predictor = self.predictor(engine)?;
        let runtime = &mut *predictor;
        let mut task = runtime.frame().known_task()?.clone();
        let temperature = self.temperature_of(runtime, first, settings.seed, observe)?;
        let mut intervals = None;
        if let Task::Regression { standard, .. } = &mut task {
            let rows = Rows::predict(runtime, self.weights(), first, observe, &mut |_| Ok(()))?;
            let noise = rows.noises(&self.description.task);
            let known = standard.iter_mut().zip(&noise);
            known.for_each(|(standard, &noise)| standard.noise = Some(noise));
            let coverage = settings.coverage;
            intervals = Some(Intervals { coverage, noise, half_widths: None });
        }
        runtime.frame_mut().task = Some(task.clone());
        let (mut scores, mut misses) = (Vec::new(), Vec::new());
        let score = Score::for_draws(self.draws.len());
        let weights = (Some(&self.draws[..]), temperature);
        each_part(runtime, weights, second, observe, &mut |part| {
            scores.extend(part.uncertainty.iter().map(|one| score.of_one(one)));
            if let Some(intervals) = &intervals {
                misses.extend(deviations(&part, &intervals.noise, second)?);
            }
            Ok(())
        })?;
        if let Some(intervals) = &mut intervals {
            intervals.half_widths = half_widths(&misses, task.outputs(), settings.coverage);
        }
        let false_alarms = settings.false_alarms;
        let highest = quantile(&scores, 1.0 - false_alarms);
        Ok(Calibration {
            temperature,
            temperature_examples: first.len(),
            threshold_examples: second.len(),
            sets: None,
            intervals,
            abstention: None,
            familiarity: Familiarity { score, false_alarms, highest },
        })
    }

    /// The temperature that suits `data` best; 1 where none has a meaning.
    fn temperature_of(
        &self,
        runtime: &mut dyn Runtime,
        data: &Dataset,
        seed: u64,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<f64> {
        let Frame { preprocess, threads, .. } = runtime.frame().clone();
        let task = runtime.frame().known_task()?.clone();
        let pixels = match task.is_dense() {
            false => None,
            true => Some(Pixels::sample(data, &preprocess, PIXELS_MAX, seed, &threads)?),
        };
        let all: Vec<usize> = (0..data.len()).collect();
        let Some((_, weight)) = truth(&task, data, &all, pixels.as_ref())? else {
            return Ok(1.0);
        };
        let (mut search, mut nll) = (None, Vec::new());
        let (draws, pixels) = (&self.draws[..], pixels.as_ref());
        each_output(runtime, Some(draws), data, observe, &mut |examples, number, raw| {
            if number == 0 {
                let examples: Vec<usize> = examples.clone().collect();
                search =
                    truth(&task, data, &examples, pixels)?.map(|(truth, _)| Search::new(truth));
            }
            let Some(search) = &mut search else { return Ok(()) };
            search.add(&rows(raw, examples, pixels, task.outputs())?);
            if number + 1 == draws.len() {
                let of_part = search.nll(draws.len());
                nll.resize(of_part.len(), 0.0);
                nll.iter_mut().zip(of_part).for_each(|(sum, nll)| *sum += weight * nll);
            }
            Ok(())
        })?;
        Ok(best(&nll))
    }
}

/// What is compared of the raw outputs of some examples: all, or those of the chosen pixels.
fn rows(
    raw: Array2<f32>,
    examples: Range<usize>,
    pixels: Option<&Pixels>,
    width: usize,
) -> Result<Array2<f32>> {
    let Some(pixels) = pixels else { return Ok(raw) };
    let mut picked = Vec::new();
    for (image, outputs) in examples.zip(raw.rows()) {
        pixels.pick(image, outputs.as_slice().unwrap_or_default(), width, &mut picked);
    }
    Array2::from_shape_vec((picked.len() / width.max(1), width), picked)
        .map_err(|_| Error::internal("every pixel has all outputs"))
}

/// How far each number is from its prediction, in standard deviations of the prediction.
fn deviations(part: &Part, noise: &[f64], data: &Dataset) -> Result<Vec<f64>> {
    let examples: Vec<usize> = part.examples.clone().collect();
    let mut truth = vec![0.0; part.mean.len()];
    data.fill_rows(&examples, &mut truth)?;
    let each = part.mean.iter().zip(&part.variance).zip(&truth).zip(noise.iter().cycle());
    Ok(each.map(|(((m, v), &y), n)| (f64::from(y) - m).abs() / (v + n).sqrt()).collect())
}

/// The promised quantile of each column of `deviations: [N, columns]`, if all have one.
fn half_widths(deviations: &[f64], columns: usize, coverage: f64) -> Option<Vec<f64>> {
    let column = |at: usize| deviations.iter().skip(at).step_by(columns).copied();
    (0..columns).map(|at| quantile(&column(at).collect::<Vec<_>>(), coverage)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_own_width_if_there_are_enough_examples() {
        let deviations: Vec<f64> = (1..=10).flat_map(|n| [f64::from(n), f64::from(-n)]).collect();
        assert_eq!(half_widths(&deviations, 2, 0.5), Some(vec![6.0, -5.0]));
        assert_eq!(half_widths(&deviations, 2, 0.95), None);
    }
}
