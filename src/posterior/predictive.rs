//! Predictions: what the draws say together, and how far they disagree.
//!
//! ```text
//! p = 1/S Σ_s p_s,  p_s = softmax(logits_s / T)      the predictive distribution
//! H[p]                                               its entropy: all uncertainty, in nats
//! I = H[p] − 1/S Σ_s H[p_s]                          what knowing the weights would take away
//! ```
//!
//! I is the mutual information of the label and the weights (Houlsby et al. 2011), 0 where all
//! draws agree. Everything is summed draw by draw: no more than one draw's outputs are held.

use ndarray::{Array2, ArrayView1};

use super::{EarlyExit, Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::Result;

/// What is predicted of N examples of C classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// The predictive distributions `[N, C]`.
    pub probabilities: Array2<f64>,
    /// The entropy of each, in nats: 0 is certain, ln C a guess.
    pub entropy: Vec<f64>,
    /// The mutual information of each example's label and the weights, in nats; at least 0.
    pub mutual_information: Vec<f64>,
    /// How many draws each example was predicted by.
    pub draws: Vec<usize>,
}

impl Predictions {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.entropy.len()
    }

    /// True when nothing was predicted.
    pub fn is_empty(&self) -> bool {
        self.entropy.is_empty()
    }

    /// The likeliest class of an example; of equally likely ones the first.
    ///
    /// # Panics
    /// When there is no such example.
    pub fn class(&self, example: usize) -> usize {
        likeliest(self.probabilities.row(example)).0
    }

    /// The likeliest class of each example.
    pub fn classes(&self) -> Vec<usize> {
        (0..self.len()).map(|example| self.class(example)).collect()
    }

    /// The probability of each example's likeliest class.
    pub fn confidence(&self) -> Vec<f64> {
        self.probabilities.rows().into_iter().map(|row| likeliest(row).1).collect()
    }
}

impl Posterior {
    /// The predictive distribution `[N, classes]` for every example, over all draws.
    ///
    /// # Errors
    /// Those of [`Posterior::predictions`].
    pub fn predict(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Array2<f64>> {
        Ok(self.predictions(data, engine, EarlyExit::Never, observe)?.probabilities)
    }

    /// Predictions with their uncertainty, at [`Posterior::temperature`].
    /// Examples leave when `exit` says that their class is settled. `observe` is told of progress
    /// and may stop; where the device fails, the draw at hand is predicted again elsewhere.
    ///
    /// # Errors
    /// When `exit` is out of its range, an image cannot be read, the network cannot run, or
    /// `observe` stops.
    pub fn predictions(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        exit: EarlyExit,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Predictions> {
        exit.check()?;
        self.predictions_at(self.temperature(), data, engine, exit, observe)
    }

    /// Predictions at another temperature than the calibration's.
    pub(super) fn predictions_at(
        &self,
        temperature: f64,
        data: &Dataset,
        engine: impl Into<Engine>,
        exit: EarlyExit,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Predictions> {
        let classes = self.description().classes.len();
        let mut average = Average::new(data.len(), classes);
        let total = self.draws().len();
        self.visit_draws(data, engine, observe, &mut |examples, logits| {
            average.add(examples, &tempered(logits, temperature));
            let is_open = |&&example: &&usize| {
                !exit.is_settled(average.sums(example), average.draws[example], total)
            };
            examples.iter().filter(is_open).copied().collect()
        })?;
        Ok(average.finish())
    }

    /// What logits are divided by: the calibration's temperature, or else the description's.
    pub fn temperature(&self) -> f64 {
        let description = self.description();
        description.calibration.as_ref().map_or(description.temperature, |c| c.temperature)
    }
}

/// Sums over draws.
struct Average {
    sum: Array2<f64>,
    entropy: Vec<f64>,
    draws: Vec<usize>,
}

impl Average {
    fn new(examples: usize, classes: usize) -> Self {
        let (sum, entropy) = (Array2::zeros((examples, classes)), vec![0.0; examples]);
        Average { sum, entropy, draws: vec![0; examples] }
    }

    /// Adds one draw's distributions, a row for each of `examples`.
    fn add(&mut self, examples: &[usize], distributions: &Array2<f64>) {
        for (&example, distribution) in examples.iter().zip(distributions.rows()) {
            let mut sum = self.sum.row_mut(example);
            sum += &distribution;
            self.entropy[example] += entropy(distribution);
            self.draws[example] += 1;
        }
    }

    /// An example's sums of probabilities.
    fn sums(&self, example: usize) -> ArrayView1<'_, f64> {
        self.sum.row(example)
    }

    fn finish(self) -> Predictions {
        let Average { sum: mut probabilities, entropy: mut of_draws, draws } = self;
        for (mut row, &count) in probabilities.rows_mut().into_iter().zip(&draws) {
            row /= count as f64;
        }
        for (entropy, &count) in of_draws.iter_mut().zip(&draws) {
            *entropy /= count as f64;
        }
        let entropy: Vec<f64> = probabilities.rows().into_iter().map(entropy).collect();
        // It is never negative (Jensen), but for rounding.
        let information = |(all, draws): (&f64, f64)| (all - draws).max(0.0);
        let mutual_information = entropy.iter().zip(of_draws).map(information).collect();
        Predictions { probabilities, entropy, mutual_information, draws }
    }
}

/// The first class of the largest probability, and that probability.
pub(super) fn likeliest(row: ArrayView1<'_, f64>) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (class, &p) in row.iter().enumerate() {
        if p > best.1 {
            best = (class, p);
        }
    }
    best
}

/// −Σ p ln p, in nats.
pub fn entropy(distribution: ArrayView1<'_, f64>) -> f64 {
    distribution.iter().map(|&p| if p > 0.0 { -p * p.ln() } else { 0.0 }).sum()
}

/// Softmax of each row, in `f64`.
pub fn softmax(logits: &Array2<f32>) -> Array2<f64> {
    tempered(logits, 1.0)
}

/// Softmax of each row divided by `temperature`, in `f64`.
pub fn tempered(logits: &Array2<f32>, temperature: f64) -> Array2<f64> {
    let mut p = logits.mapv(|x| f64::from(x) / temperature);
    for mut row in p.rows_mut() {
        let largest = row.fold(f64::NEG_INFINITY, |m, &x| m.max(x));
        row.mapv_inplace(|x| (x - largest).exp());
        let sum = row.sum();
        row /= sum;
    }
    p
}

#[cfg(test)]
mod tests;
