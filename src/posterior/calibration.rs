//! What held-out examples teach about predictions: temperature, prediction sets, when to abstain,
//! and when an example looks like none of them. Of labels and masks: temperature and familiarity;
//! of numbers: noise, intervals and familiarity.
//!
//! Held-out examples are divided at random: one half sets the temperature, the other the
//! thresholds. Thresholds found on examples that had shaped the probabilities would promise too
//! much.

mod tasks;

use serde::{Deserialize, Serialize};

pub use self::tasks::Intervals;
use super::conformal::{PredictionSets, check_share, quantile};
use super::predictive::{Predictions, likeliest};
use super::selective::{Abstention, Target};
use super::temperature::{Search, Truth, best};
use super::{EarlyExit, Posterior, Progress, Uncertainty};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::rng::{Key, Stream};
use crate::task::Task;

/// The fewest held-out examples: ten for the temperature, and ten for thresholds, of which the
/// largest can just promise a coverage of 0.9.
pub const EXAMPLES_MIN: usize = 20;

/// The step of [`Stream::Split`] that divides held-out examples; others are numbers of classes.
const HALVES: u64 = u32::MAX as u64;

/// What is to be fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationSettings {
    /// The promised coverage of prediction sets, in (0, 1).
    pub coverage: f64,
    /// What abstention is to achieve; without it no prediction abstains.
    pub abstention: Option<Target>,
    /// The promised largest share of familiar examples that are called unfamiliar, in (0, 1).
    pub false_alarms: f64,
    /// Decides which examples are in which half.
    pub seed: u64,
}

impl Default for CalibrationSettings {
    fn default() -> Self {
        CalibrationSettings { coverage: 0.9, abstention: None, false_alarms: 0.05, seed: 0 }
    }
}

/// What was fitted; stored in the description of a posterior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// What logits are divided by; 1 of numbers.
    pub temperature: f64,
    /// How many examples it, or the noise of numbers, was fitted to.
    pub temperature_examples: usize,
    /// How many other examples the thresholds rest on.
    pub threshold_examples: usize,
    /// Which classes a prediction set has; only of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<PredictionSets>,
    /// How far numbers lie from their predictions; only of numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Intervals>,
    /// When to abstain.
    pub abstention: Option<Abstention>,
    /// When an example is unfamiliar.
    pub familiarity: Familiarity,
}

/// What tells that an example is unfamiliar: a number that is higher for those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The entropy of the prediction: all there is with a single draw.
    Entropy,
    /// The mutual information of label and weights. A hard example of a known kind makes every draw
    /// unsure; one of another kind has the draws contradict each other.
    MutualInformation,
}

impl Score {
    /// The better one for a posterior of so many draws.
    pub fn for_draws(draws: usize) -> Self {
        if draws > 1 { Score::MutualInformation } else { Score::Entropy }
    }

    /// The score of each example, in nats.
    pub fn of(self, predictions: &Predictions) -> &[f64] {
        match self {
            Score::Entropy => &predictions.entropy,
            Score::MutualInformation => &predictions.mutual_information,
        }
    }
}

/// Which examples look like none that were held out: those of a higher score. At most a promised
/// share of examples like those held out is called unfamiliar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Familiarity {
    /// What is compared.
    pub score: Score,
    /// The promised share.
    pub false_alarms: f64,
    /// The highest score of a familiar example, in nats; none where there were too few examples for
    /// the promise, and every example counts as familiar.
    pub highest: Option<f64>,
}

/// What calibration makes of one prediction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The classes of its prediction set.
    pub set: Vec<usize>,
    /// Whether it is too unsure to be an answer.
    pub abstains: bool,
    /// Whether the example is unlike those that were held out.
    pub unfamiliar: bool,
}

impl Calibration {
    /// The thresholds for predictions at a temperature that was fitted to so many other examples.
    fn fit(
        (temperature, temperature_examples): (f64, usize),
        predictions: &Predictions,
        labels: &[usize],
        settings: &CalibrationSettings,
    ) -> Result<Self> {
        let rows = predictions.probabilities.rows();
        let of_labels: Vec<f64> =
            rows.into_iter().zip(labels).map(|(row, &label)| row[label]).collect();
        let is_right: Vec<bool> =
            predictions.classes().iter().zip(labels).map(|(class, label)| class == label).collect();
        let confidence = predictions.confidence();
        let abstention = settings
            .abstention
            .map(|target| Abstention::fit(&confidence, &is_right, target))
            .transpose()?;
        let false_alarms = settings.false_alarms;
        let score = Score::for_draws(predictions.draws.iter().copied().max().unwrap_or(1));
        let highest = quantile(score.of(predictions), 1.0 - false_alarms);
        Ok(Calibration {
            temperature,
            temperature_examples,
            threshold_examples: labels.len(),
            sets: Some(PredictionSets::fit(&of_labels, settings.coverage)?),
            intervals: None,
            abstention,
            familiarity: Familiarity { score, false_alarms, highest },
        })
    }

    /// Checks what a file says of the predictions of `task`.
    ///
    /// # Errors
    /// Names the number that is out of its range, or missing.
    pub fn check(&self, task: &Task) -> Result<()> {
        let within =
            |what: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
                true => Ok(()),
                false => Err(Error::malformed(format!("the calibration's {what} is {value}"))
                    .hint(format!("expected a number from {low} to {high}"))),
            };
        within("temperature", self.temperature, f64::MIN_POSITIVE, f64::MAX)?;
        if let Some(sets) = &self.sets {
            within("coverage", sets.coverage, 0.0, 1.0)?;
            within("threshold of prediction sets", sets.probability_min, 0.0, 1.0)?;
        }
        if let Some(intervals) = &self.intervals {
            within("coverage", intervals.coverage, 0.0, 1.0)?;
            for &noise in &intervals.noise {
                within("noise", noise, f64::MIN_POSITIVE, f64::MAX)?;
            }
            for &half in intervals.half_widths.iter().flatten() {
                within("half width of intervals", half, 0.0, f64::MAX)?;
            }
        }
        let answer = self.abstention.map_or(0.0, |abstention| abstention.confidence_min);
        within("threshold of answers", answer, 0.0, 1.0)?;
        let highest = self.familiarity.highest.unwrap_or(0.0);
        within("threshold of familiar examples", highest, f64::MIN, f64::MAX)?;
        self.check_parts(task)
    }

    /// It has what the task's predictions need, and nothing else.
    fn check_parts(&self, task: &Task) -> Result<()> {
        let is_classes = matches!(task, Task::Classification { .. });
        let numbers = if let Task::Regression { .. } = task { Some(task.outputs()) } else { None };
        let noises = self.intervals.as_ref().map(|intervals| intervals.noise.len());
        let half_widths = self
            .intervals
            .as_ref()
            .and_then(|intervals| Some(intervals.half_widths.as_ref()?.len()));
        let fits = self.sets.is_some() == is_classes
            && noises == numbers
            && half_widths.is_none_or(|count| Some(count) == numbers);
        match fits {
            true => Ok(()),
            false => Err(Error::malformed("the calibration is that of another task")),
        }
    }

    /// Whether a prediction is less sure than almost all of those held out.
    pub fn is_unfamiliar(&self, uncertainty: &Uncertainty) -> bool {
        let Familiarity { score, highest, .. } = self.familiarity;
        highest.is_some_and(|highest| score.of_one(uncertainty) > highest)
    }

    /// What it makes of the predicted classes of `example`.
    ///
    /// # Panics
    /// When there is no such example.
    pub fn verdict(&self, predictions: &Predictions, example: usize) -> Verdict {
        let row = predictions.probabilities.row(example);
        let confidence = likeliest(row).1;
        let Familiarity { score, highest, .. } = self.familiarity;
        Verdict {
            set: self.sets.map_or_else(Vec::new, |sets| sets.set(row)),
            abstains: self.abstention.is_some_and(|abstention| !abstention.answers(confidence)),
            unfamiliar: highest.is_some_and(|highest| score.of(predictions)[example] > highest),
        }
    }
}

impl Posterior {
    /// Fits a calibration to held-out examples, which MUST NOT have been trained on. One that the
    /// posterior already has plays no part.
    ///
    /// # Errors
    /// When a setting is out of its range or has no meaning for the task, there are fewer than
    /// [`EXAMPLES_MIN`] examples or their targets are not the task's, no threshold promises the
    /// wanted risk, and those of [`Posterior::predictions`].
    pub fn calibrate(
        &self,
        held_out: &Dataset,
        engine: impl Into<Engine>,
        settings: &CalibrationSettings,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Calibration> {
        settings.check()?;
        held_out.check_labelled()?;
        let task = &self.description().task;
        let held_out = &task.align(held_out)?;
        if held_out.len() < EXAMPLES_MIN {
            let message = format!("{} held-out examples calibrate nothing", held_out.len());
            return Err(Error::invalid(message).hint(format!("expected {EXAMPLES_MIN} or more")));
        }
        let engine = engine.into();
        let mut order: Vec<usize> = (0..held_out.len()).collect();
        Key::new(settings.seed, Stream::Split).at(HALVES).shuffle(&mut order);
        let (first, second) = order.split_at(order.len() / 2);
        let (first, second) = (held_out.subset(first)?, held_out.subset(second)?);
        if !matches!(task, Task::Classification { .. }) {
            return self.calibrate_task([&first, &second], &engine, settings, observe);
        }
        let labels = |data: &Dataset| data.labels(&(0..data.len()).collect::<Vec<_>>());
        let mut search = Search::new(Truth::Classes(labels(&first)?));
        self.visit_draws(&first, &engine, observe, &mut |examples, logits| {
            search.add(logits);
            examples.to_vec()
        })?;
        let temperature = best(&search.nll(self.draws().len()));
        let labels = labels(&second)?;
        let exit = EarlyExit::Never;
        let predictions = self.predictions_at(temperature, &second, &engine, exit, observe)?;
        Calibration::fit((temperature, first.len()), &predictions, &labels, settings)
    }
}

impl CalibrationSettings {
    fn check(&self) -> Result<()> {
        check_share("coverage of prediction sets", self.coverage)?;
        check_share("share of false alarms", self.false_alarms)
    }
}

#[cfg(test)]
mod tests;
