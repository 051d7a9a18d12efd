//! Temperature scaling (Guo et al. 2017): one number that makes probabilities as sure as they are
//! right.
//!
//! Each draw's logits are divided by T before the softmax, and the draws averaged. T minimises
//!
//! ```text
//! −Σ_i ln( 1/S Σ_s p_s(y_i; T) ) + (ln T)² / 2
//! ```
//!
//! over held-out examples. The last term is a standard normal prior on ln T, worth less than a
//! few examples; where every label is the likeliest class, as it often is among few examples, the
//! likelihood alone would have T fall to 0. The minimum is sought on a grid of ln T, so that one
//! pass over the draws is enough and memory is that of the grid for each example, however many
//! draws and classes there are.

use ndarray::{Array2, ArrayView1};

use super::metrics::PROBABILITY_MIN;

/// ln T is between −`LIMIT` and `LIMIT`: T between 1/20 and 20.
const LIMIT: f64 = 3.0;
/// Points of the grid; a parabola through the best three leaves an error far below its step of 0.1.
const POINTS: usize = 61;

/// Sums, over draws, of the label's probability at each temperature.
pub(super) struct Search {
    /// `[N, POINTS]`
    of_labels: Array2<f64>,
    labels: Vec<usize>,
}

impl Search {
    pub(super) fn new(labels: Vec<usize>) -> Self {
        Search { of_labels: Array2::zeros((labels.len(), POINTS)), labels }
    }

    /// Adds a draw's logits `[N, C]`.
    pub(super) fn add(&mut self, logits: &Array2<f32>) {
        for ((mut sums, row), &label) in
            self.of_labels.rows_mut().into_iter().zip(logits.rows()).zip(&self.labels)
        {
            for (point, sum) in sums.iter_mut().enumerate() {
                *sum += of_label(row, label, (-log_temperature(point)).exp());
            }
        }
    }

    /// The best temperature after `draws` draws.
    pub(super) fn best(&self, draws: usize) -> f64 {
        let cost: Vec<f64> = (0..POINTS)
            .map(|point| {
                let nll = |sum: &f64| -(sum / draws as f64).max(PROBABILITY_MIN).ln();
                let prior = log_temperature(point).powi(2) / 2.0;
                self.of_labels.column(point).iter().map(nll).sum::<f64>() + prior
            })
            .collect();
        let least = (0..POINTS).min_by(|&a, &b| cost[a].total_cmp(&cost[b])).unwrap_or(POINTS / 2);
        let inner = least.clamp(1, POINTS - 2);
        let step = if inner == least { vertex(&cost[inner - 1..=inner + 1]) } else { 0.0 };
        (log_temperature(least) + step * 2.0 * LIMIT / (POINTS - 1) as f64).exp()
    }
}

/// The temperature of one draw's logits `[N, C]` for these labels.
///
/// # Panics
/// When a label is no column.
pub fn best_temperature(logits: &Array2<f32>, labels: &[usize]) -> f64 {
    let mut search = Search::new(labels.to_vec());
    search.add(logits);
    search.best(1)
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
