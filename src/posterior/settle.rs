//! When an example's class is settled before all draws have spoken.
//!
//! With Σ_c the sum of class c's probabilities over n of S draws, the class of the mean over all S
//! is known to be the leader's once
//!
//! ```text
//! Σ_leader − Σ_second > S − n                                         (certain)
//! Σ_leader / n > 1/2 + √(ln(C L / δ) (1 − (n−1)/S) / (2n))            (likely)
//! ```
//!
//! Certain: the second could not catch up even with probability 1 in every draw to come. Likely:
//! draws are visited in random order, so the n so far are a sample without replacement of S numbers
//! in [0, 1], and the bound of Hoeffding and Serfling (1974) holds. It is applied to each of C
//! classes at the L counts n that are powers of two, hence δ/(C L). If a class is settled wrongly,
//! its mean over all draws is at most 1/2 (another's is no less) and its mean so far exceeded the
//! bound: over the order of the draws, that happens to an example with probability at most δ.

use ndarray::ArrayView1;

use crate::error::{Error, Result};

/// Sums of the same draws in another order differ by less than this.
const ROUNDING: f64 = 1e-9;

/// When an example needs no more draws. Its probabilities are then the mean over those it had.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum EarlyExit {
    /// Never: every example is predicted by every draw.
    #[default]
    Never,
    /// When no draw to come could change its class.
    Certain,
    /// When its class is certain, or differs from that of all draws with at most this probability.
    Likely {
        /// δ, in (0, 1).
        error: f64,
    },
}

impl EarlyExit {
    /// Checks the rule.
    ///
    /// # Errors
    /// When the error is out of its range.
    pub fn check(&self) -> Result<()> {
        match *self {
            EarlyExit::Likely { error } if !(error > 0.0 && error < 1.0) => {
                let message = format!("the probability of a wrong early exit is {error}");
                Err(Error::invalid(message).hint("expected a number between 0 and 1"))
            }
            _ => Ok(()),
        }
    }

    /// Whether an example is settled whose classes have these sums over `seen` of `total` draws.
    pub(super) fn is_settled(&self, sums: ArrayView1<'_, f64>, seen: usize, total: usize) -> bool {
        let (leader, second) = first_two(sums);
        let is_certain = leader - second > (total - seen) as f64 + ROUNDING;
        match *self {
            EarlyExit::Never => false,
            EarlyExit::Certain => is_certain,
            EarlyExit::Likely { error } => {
                let is_likely = seen.is_power_of_two()
                    && leader / seen as f64 > 0.5 + deviation(sums.len(), error, seen, total);
                is_certain || is_likely
            }
        }
    }
}

/// How far the mean over `seen` of `total` draws may lie above the mean over all.
fn deviation(classes: usize, error: f64, seen: usize, total: usize) -> f64 {
    let looks = f64::from(total.ilog2() + 1);
    let (n, rest) = (seen as f64, 1.0 - (seen - 1) as f64 / total as f64);
    ((classes as f64 * looks / error).ln() * rest / (2.0 * n)).sqrt()
}

/// The two largest numbers; the second of a single one is 0.
fn first_two(sums: ArrayView1<'_, f64>) -> (f64, f64) {
    sums.iter().fold((0.0, 0.0), |(first, second), &sum| match sum > first {
        true => (sum, first),
        false => (first, sum.max(second)),
    })
}

#[cfg(test)]
mod tests;
