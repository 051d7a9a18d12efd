//! Selective prediction: answering where the model is sure, abstaining elsewhere.
//!
//! An example is answered when its largest probability reaches a threshold. Coverage is the share
//! that is answered, risk the share of wrong answers among them.

use serde::{Deserialize, Serialize};

use super::conformal::check_share;
use super::ood::Separation;
use crate::error::{Error, Result};

/// A promised risk is kept with this probability over the choice of held-out examples.
pub const CERTAINTY: f64 = 0.95;

/// How many thresholds are tried for a promised risk, answering 1/20, 2/20, .. of the examples.
const LOOKS: usize = 20;

/// Halvings of an interval that find a number in (0, 1) to the last bits of `f64`.
const HALVINGS: usize = 60;

/// The risk at every coverage, from the surest example to all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RiskCoverage {
    /// Coverage and risk, coverage increasing; examples of equal confidence enter together.
    pub points: Vec<[f64; 2]>,
    /// Area under the curve: the mean risk when 1, 2, .. N examples are answered, those of equal
    /// confidence in random order.
    pub aurc: f64,
    /// The same for the same errors in the best order, all wrong answers last.
    pub aurc_best: f64,
    /// How well confidence tells right answers from wrong ones; none where all are of a kind.
    pub right_from_wrong: Option<Separation>,
}

impl RiskCoverage {
    /// Of answers with this confidence, and whether each is right.
    pub fn of(confidence: &[f64], is_right: &[bool]) -> Self {
        let mut answers: Vec<(f64, bool)> =
            confidence.iter().copied().zip(is_right.iter().copied()).collect();
        answers.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let count = answers.len() as f64;
        let (mut points, mut area) = (Vec::new(), 0.0);
        let (mut seen, mut wrong) = (0.0, 0.0);
        for equal in answers.chunk_by(|a, b| a.0 == b.0) {
            let size = equal.len() as f64;
            let errors = equal.iter().filter(|(_, right)| !right).count() as f64;
            // Of equally sure answers, the expected number of errors among the first k.
            area += (1..=equal.len())
                .map(|k| (wrong + errors * k as f64 / size) / (seen + k as f64))
                .sum::<f64>();
            (seen, wrong) = (seen + size, wrong + errors);
            points.push([seen / count, wrong / seen]);
        }
        let of = |wanted: bool| -> Vec<f64> {
            answers.iter().filter(|(_, right)| *right == wanted).map(|(p, _)| *p).collect()
        };
        RiskCoverage {
            points,
            aurc: area / count.max(1.0),
            aurc_best: best_area(answers.len(), wrong as usize),
            right_from_wrong: Separation::of(&of(false), &of(true)),
        }
    }
}

/// Mean risk over coverages when `wrong` of `count` answers come last.
fn best_area(count: usize, wrong: usize) -> f64 {
    let right = count - wrong;
    (1..=wrong).map(|k| k as f64 / (right + k) as f64).sum::<f64>() / count.max(1) as f64
}

/// What abstention is to achieve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At most this share of answers are wrong, with a probability of [`CERTAINTY`].
    Risk(f64),
    /// About this share of examples are answered.
    Coverage(f64),
}

/// When to abstain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abstention {
    /// What it is to achieve.
    pub target: Target,
    /// The least largest probability of an answer.
    pub confidence_min: f64,
}

impl Abstention {
    /// From held-out answers. A risk is promised by a bound on the rate of errors above each of
    /// several thresholds (selection with guaranteed risk, Geifman and El-Yaniv 2017).
    ///
    /// # Errors
    /// When the target is not between 0 and 1, or no threshold can promise it.
    pub fn fit(confidence: &[f64], is_right: &[bool], target: Target) -> Result<Self> {
        let mut answers: Vec<(f64, bool)> =
            confidence.iter().copied().zip(is_right.iter().copied()).collect();
        answers.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let confidence_min = match target {
            Target::Coverage(share) => {
                check_share("share of answers", share)?;
                let answered = (share * answers.len() as f64).ceil() as usize;
                answers.get(answered.max(1) - 1).map_or(0.0, |(p, _)| *p)
            }
            Target::Risk(risk) => {
                check_share("share of wrong answers", risk)?;
                threshold_for(&answers, risk)?
            }
        };
        Ok(Abstention { target, confidence_min })
    }

    /// Whether an example is answered.
    pub fn answers(&self, confidence: f64) -> bool {
        confidence >= self.confidence_min
    }
}

/// The lowest of [`LOOKS`] thresholds that keeps the risk. Each may err with its part of the chance
/// that the promise is broken.
fn threshold_for(answers: &[(f64, bool)], risk: f64) -> Result<f64> {
    let mut least = 1.0f64;
    for look in (1..=LOOKS).rev() {
        let Some(&(threshold, _)) = answers.get((answers.len() * look / LOOKS).wrapping_sub(1))
        else {
            continue;
        };
        let answered = answers.partition_point(|(p, _)| *p >= threshold);
        let wrong = answers[..answered].iter().filter(|(_, right)| !right).count();
        let bound = rate_bound(wrong, answered, (1.0 - CERTAINTY) / LOOKS as f64);
        if bound <= risk {
            return Ok(threshold);
        }
        least = least.min(bound);
    }
    let message = format!("no threshold promises that at most {risk} of answers are wrong");
    Err(Error::invalid(message).hint(format!(
        "the least that could be promised is {least:.3}; allow more, or hold out more examples"
    )))
}

/// The largest rate of errors at which so few as `wrong` among `count` have this `chance` (Clopper
/// and Pearson 1934).
fn rate_bound(wrong: usize, count: usize, chance: f64) -> f64 {
    if wrong >= count {
        return 1.0;
    }
    let (mut low, mut high) = (wrong as f64 / count as f64, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        match at_most(wrong, count, middle) > chance {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

/// P(X ≤ `wrong`) of a binomial X; by logarithms, whose first terms may be too small for `f64`.
fn at_most(wrong: usize, count: usize, rate: f64) -> f64 {
    let odds = rate.ln() - (-rate).ln_1p();
    let mut term = count as f64 * (-rate).ln_1p();
    let mut sum = term.exp();
    for k in 0..wrong {
        term += ((count - k) as f64 / (k + 1) as f64).ln() + odds;
        sum += term.exp();
    }
    sum
}

#[cfg(test)]
mod tests;
