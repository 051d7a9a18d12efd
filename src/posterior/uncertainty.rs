//! How unsure a prediction of any task is: one pair of numbers for each example.
//!
//! ```text
//! classes, masks   H[p] = -Σ_c p_c ln p_c, of masks the mean over the pixels
//! labels           Σ_c of the entropies of the marginals
//! numbers          ½ Σ ln(2πe (v + σ²)),  v between draws, σ² noise: that of a normal distribution
//! I = H[mean over the draws] - mean over the draws of H;  of numbers ½ Σ ln(1 + v/σ²)
//! ```
//!
//! Numbers of unknown noise are measured against a noise of their own spread.

use serde::Serialize;

use crate::task::Task;

/// How unsure one prediction is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Uncertainty {
    /// Entropy of the predictive distribution, in nats; of numbers that of a density, which may be
    /// below 0.
    pub entropy: f64,
    /// Mutual information of target and weights, in nats: the part that the draws' disagreement
    /// has in it; at least 0.
    pub mutual_information: f64,
}

/// The entropy of each of `examples` predictions by `values`, as [`Task::link`] leaves them; 0 of
/// numbers, whose width is no part of them.
pub(super) fn entropies(task: &Task, values: &[f64], examples: usize) -> Vec<f64> {
    let outputs = task.outputs().max(1);
    let of = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    let each = values.chunks_exact((values.len() / examples.max(1)).max(1));
    each.map(|values| match task {
        Task::Classification { .. } | Task::Segmentation { .. } => {
            let rows = (values.len() / outputs).max(1);
            values.iter().map(|&p| of(p)).sum::<f64>() / rows as f64
        }
        Task::MultiLabel { .. } => values.iter().map(|&p| of(p) + of(1.0 - p)).sum(),
        Task::Regression { .. } => 0.0,
    })
    .collect()
}

/// How unsure the predictions are with this mean over the draws and this variance between them,
/// when the draws' own entropies have the means `of_draws`.
pub(super) fn uncertainties(
    task: &Task,
    [mean, variance]: [&[f64]; 2],
    of_draws: &[f64],
) -> Vec<Uncertainty> {
    if let Task::Regression { standard, .. } = task {
        let noise: Vec<f64> = standard.iter().map(|s| s.noise.unwrap_or(s.std * s.std)).collect();
        return variance
            .chunks_exact(noise.len().max(1))
            .map(|row| of_numbers(row, &noise))
            .collect();
    }
    let of_mean = entropies(task, mean, of_draws.len());
    // It is never negative (Jensen), but for rounding.
    let pair = |(&entropy, of_draws): (&f64, &f64)| Uncertainty {
        entropy,
        mutual_information: (entropy - of_draws).max(0.0),
    };
    of_mean.iter().zip(of_draws).map(pair).collect()
}

fn of_numbers(variance: &[f64], noise: &[f64]) -> Uncertainty {
    let scale = 2.0 * std::f64::consts::PI * std::f64::consts::E;
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        variance.iter().zip(noise).map(|(&v, &noise)| 0.5 * of(v, noise).ln()).sum()
    };
    Uncertainty {
        entropy: sum(&|v, noise| scale * (v + noise)),
        mutual_information: sum(&|v, noise| 1.0 + v / noise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Standard;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| n.to_string()).collect()
    }

    #[test]
    fn entropy_and_information_are_as_by_hand() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} and {b}");
        // Two draws that are certain of different classes: all is disagreement.
        let task = Task::Segmentation { classes: names(2), ignore: 255 };
        let draws = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]];
        let of_draws: f64 = draws.iter().map(|d| entropies(&task, d, 1)[0]).sum::<f64>() / 2.0;
        close(of_draws, 0.0);
        let found = uncertainties(&task, [&[0.5, 0.5, 1.0, 0.0], &[0.0; 4]], &[of_draws]);
        close(found[0].entropy, 2f64.ln() / 2.0);
        close(found[0].mutual_information, 2f64.ln() / 2.0);
        let task = Task::MultiLabel { labels: names(2) };
        let found = entropies(&task, &[0.5, 0.25, 1.0, 0.0], 2);
        close(found[0], 2f64.ln() - 0.25 * 0.25f64.ln() - 0.75 * 0.75f64.ln());
        close(found[1], 0.0);
        // ½ ln(2πe) is the entropy of a standard normal.
        let standard = vec![Standard { mean: 0.0, std: 1.0, noise: Some(0.5) }];
        let task = Task::Regression { outputs: names(1), standard };
        let found = uncertainties(&task, [&[3.0, 3.0], &[0.5, 0.0]], &[0.0; 2]);
        close(found[0].entropy, 1.4189385332046727);
        close(found[0].mutual_information, 2f64.ln() / 2.0);
        close(found[1].mutual_information, 0.0);
    }
}
