//! Temperature scaling (Guo et al. 2017): one number that makes probabilities as sure as they are
//! right.
//!
//! Each draw's logits are divided by T before the softmax, or the sigmoid of labels, and the draws
//! averaged. T minimises
//!
//! ```text
//! −Σ_i ln( 1/S Σ_s p_s(y_i; T) ) + (ln T)² / 2
//! ```
//!
//! over held-out examples, or each label of each of them. The last term is a standard normal prior
//! on ln T, worth less than a few examples; where every label is the likeliest class, as it often
//! is among few examples, the likelihood alone would have T fall to 0. The minimum is sought on a
//! grid of ln T, so that one pass over the draws is enough and memory is that of the grid for each
//! likelihood, however many draws and classes there are.

use ndarray::{Array2, ArrayView1};

use super::metrics::PROBABILITY_MIN;

/// ln T is between −`LIMIT` and `LIMIT`: T between 1/20 and 20.
const LIMIT: f64 = 3.0;
/// Points of the grid; a parabola through the best three leaves an error far below its step of 0.1.
const POINTS: usize = 61;

/// What is true, for each likelihood that temperature changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// The class of each row of logits `[N, C]`.
    Classes(Vec<usize>),
    /// Whether each label is there, 1 or 0, `[N, C]` row by row.
    Labels(Vec<f32>),
}

impl Truth {
    /// Number of likelihoods.
    fn len(&self) -> usize {
        match self {
            Truth::Classes(classes) => classes.len(),
            Truth::Labels(labels) => labels.len(),
        }
    }

    /// Gives `add` each likelihood by its number, of the logits times `factor`.
    fn each(&self, logits: &Array2<f32>, factor: f64, mut add: impl FnMut(usize, f64)) {
        match self {
            Truth::Classes(classes) => {
                let rows = logits.rows().into_iter().zip(classes).enumerate();
                rows.for_each(|(at, (row, &class))| add(at, of_label(row, class, factor)));
            }
            Truth::Labels(labels) => {
                for (at, (&x, &label)) in logits.iter().zip(labels).enumerate() {
                    let towards = if label > 0.5 { -f64::from(x) } else { f64::from(x) };
                    add(at, 1.0 / (1.0 + (factor * towards).exp()));
                }
            }
        }
    }
}

/// Sums, over draws, of the likelihood at each temperature.
pub(super) struct Search {
    /// `[N, POINTS]`
    likelihoods: Array2<f64>,
    truth: Truth,
}

impl Search {
    pub(super) fn new(truth: Truth) -> Self {
        Search { likelihoods: Array2::zeros((truth.len(), POINTS)), truth }
    }

    /// Adds a draw's logits `[N, C]`.
    pub(super) fn add(&mut self, logits: &Array2<f32>) {
        for point in 0..POINTS {
            let mut sums = self.likelihoods.column_mut(point);
            self.truth.each(logits, (-log_temperature(point)).exp(), |at, p| sums[at] += p);
        }
    }

    /// -Σ ln of the mean over `draws` draws, at each temperature.
    pub(super) fn nll(&self, draws: usize) -> Vec<f64> {
        let of = |sum: &f64| -(sum / draws as f64).max(PROBABILITY_MIN).ln();
        (0..POINTS).map(|point| self.likelihoods.column(point).iter().map(of).sum()).collect()
    }
}

/// The temperature of the least cost, from the likelihoods at each; see [`Search::nll`].
pub(super) fn best(nll: &[f64]) -> f64 {
    let prior = |point: usize| log_temperature(point).powi(2) / 2.0;
    let cost: Vec<f64> = (0..POINTS).map(|point| nll[point] + prior(point)).collect();
    let least = (0..POINTS).min_by(|&a, &b| cost[a].total_cmp(&cost[b])).unwrap_or(POINTS / 2);
    let inner = least.clamp(1, POINTS - 2);
    let step = if inner == least { vertex(&cost[inner - 1..=inner + 1]) } else { 0.0 };
    (log_temperature(least) + step * 2.0 * LIMIT / (POINTS - 1) as f64).exp()
}

/// The temperature of the average over draws, from the logits `[N, C]` of each, for what is true of
/// them. `weight` is what a row counts: 1 of examples, less of the pixels of one image, which count
/// as one together.
///
/// # Panics
/// When a class is no column.
pub fn best_temperature(draws: &[Array2<f32>], truth: Truth, weight: f64) -> f64 {
    let mut search = Search::new(truth);
    draws.iter().for_each(|logits| search.add(logits));
    let nll: Vec<f64> = search.nll(draws.len()).iter().map(|nll| weight * nll).collect();
    best(&nll)
}

fn log_temperature(point: usize) -> f64 {
    LIMIT * (2.0 * point as f64 / (POINTS - 1) as f64 - 1.0)
}

/// Where the parabola through three equidistant points is least, in steps from the middle one.
fn vertex(cost: &[f64]) -> f64 {
    let [left, middle, right] = cost[..] else { return 0.0 };
    let curvature = left - 2.0 * middle + right;
    if curvature > 0.0 { (left - right) / (2.0 * curvature) } else { 0.0 }
}

/// softmax(`factor` · `logits`) of `label`.
fn of_label(logits: ArrayView1<'_, f32>, label: usize, factor: f64) -> f64 {
    let own = f64::from(logits[label]);
    1.0 / logits.iter().map(|&x| (factor * (f64::from(x) - own)).exp()).sum::<f64>()
}

#[cfg(test)]
mod tests;
