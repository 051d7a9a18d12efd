//! How well a score tells two kinds of examples apart: familiar and foreign, right and wrong.

use serde::Serialize;

/// How well a score separates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Separation {
    /// The probability that a high case scores above a low one, equal scores counting half: the
    /// area under the receiver operating characteristic (Mann and Whitney 1947). 0.5 is chance.
    pub auroc: f64,
    /// The share of low cases that score no less than the threshold which 95 % of high cases reach.
    pub fpr95: f64,
}

impl Separation {
    /// Of cases that should score `low` from those that should score `high`; none where one of
    /// them is empty.
    pub fn of(low: &[f64], high: &[f64]) -> Option<Self> {
        (!low.is_empty() && !high.is_empty())
            .then(|| Separation { auroc: auroc(low, high), fpr95: fpr95(low, high) })
    }
}

/// From the ranks of the high cases, shared by equal scores: (Σ ranks − n(n+1)/2) / (n m).
fn auroc(low: &[f64], high: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = low.iter().map(|&score| (score, false)).collect();
    all.extend(high.iter().map(|&score| (score, true)));
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut before) = (0.0, 0);
    for equal in all.chunk_by(|a, b| a.0 == b.0) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        ranks += rank * equal.iter().filter(|(_, is_high)| *is_high).count() as f64;
        before += equal.len();
    }
    let (n, m) = (high.len() as f64, low.len() as f64);
    (ranks - n * (n + 1.0) / 2.0) / (n * m)
}

fn fpr95(low: &[f64], high: &[f64]) -> f64 {
    let mut high = high.to_vec();
    high.sort_unstable_by(|a, b| b.total_cmp(a));
    let threshold = high[(high.len() * 95).div_ceil(100) - 1];
    low.iter().filter(|&&score| score >= threshold).count() as f64 / low.len() as f64
}

#[cfg(test)]
mod tests;
