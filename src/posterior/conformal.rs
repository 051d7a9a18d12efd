//! Split-conformal prediction: thresholds with a promise that needs no model to be right.
//!
//! If n scores and one more are exchangeable, the new one is at most the ⌈(n+1) q⌉-th smallest of
//! the n with probability at least q (Vovk et al. 2005), whatever their distribution. The promise
//! holds for an average new example, over the choice of held-out examples too; not for each class,
//! and not once data come from elsewhere.

use ndarray::ArrayView1;
use serde::{Deserialize, Serialize};

use super::predictive::likeliest;
use crate::error::{Error, Result};

/// Absorbs the rounding of (n+1) q where it is a whole number.
const WHOLE: f64 = 1e-9;

/// The ⌈(n+1) `share`⌉-th smallest score, or none where n are too few for the promise.
pub fn quantile(scores: &[f64], share: f64) -> Option<f64> {
    let mut scores = scores.to_vec();
    scores.sort_unstable_by(f64::total_cmp);
    let rank = ((scores.len() + 1) as f64 * share - WHOLE).ceil().max(1.0) as usize;
    scores.get(rank - 1).copied()
}

/// Sets of classes that hold the true one with a promised probability.
///
/// A set has every class whose probability is at least a threshold (the least ambiguous sets of
/// Sadinle et al. 2019: on average, none that keep the promise are smaller) and always the
/// likeliest, so that none is empty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictionSets {
    /// The promised probability.
    pub coverage: f64,
    /// The least probability of a class in the set; 0, so that sets hold everything, where there
    /// were too few examples for the promise.
    pub probability_min: f64,
}

impl PredictionSets {
    /// From the probabilities that held-out examples gave their labels.
    ///
    /// # Errors
    /// When `coverage` is not between 0 and 1.
    pub fn fit(of_labels: &[f64], coverage: f64) -> Result<Self> {
        check_share("coverage of prediction sets", coverage)?;
        let scores: Vec<f64> = of_labels.iter().map(|p| -p).collect();
        let probability_min = quantile(&scores, coverage).map_or(0.0, |score| -score);
        Ok(PredictionSets { coverage, probability_min })
    }

    /// The classes in the set of an example, in their order.
    pub fn set(&self, probabilities: ArrayView1<'_, f64>) -> Vec<usize> {
        let (first, _) = likeliest(probabilities);
        let belongs = |&(class, &p): &(usize, &f64)| p >= self.probability_min || class == first;
        probabilities.iter().enumerate().filter(belongs).map(|(class, _)| class).collect()
    }
}

/// Checks that a share lies strictly between 0 and 1.
pub(super) fn check_share(what: &str, share: f64) -> Result<()> {
    match share > 0.0 && share < 1.0 {
        true => Ok(()),
        false => Err(Error::invalid(format!("the {what} is {share}"))
            .hint("expected a number between 0 and 1")),
    }
}

#[cfg(test)]
mod tests;
