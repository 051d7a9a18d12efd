//! Deviations as others store them, and as a prior file wants them.
//!
//! The covariance of K deviations Q is QᵀQ/(K-1). Some files hold Q, others Q/√(K-1), and nothing
//! in them says which. Their size does, beside the variance v of the same snapshots:
//!
//! ```text
//! r = Σ Q² / Σ v
//! ```
//!
//! A deviation from the running mean of t independent snapshots has the expected square
//! σ²(t-1)/t, and v estimates σ²(n-1)/n. So when all n = K are kept, raw ones have
//! r = Σ(t-1)/t · K/(K-1): 3.4, 7.9 and 17.3 for K of 5, 10 and 20; and when only the last K of
//! many are, r is about K. Normalised ones have a (K-1)th of it: near 1 for every K.

use serde::Serialize;

use super::part::Part;
use crate::error::{Error, Result};
use crate::prior::MAX_RANK;

/// How a file scales its deviations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    /// The file holds Q.
    Raw,
    /// The file holds Q/√(K-1).
    Normalised,
}

/// What was found out about the deviations of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deviations {
    /// K of the file, zero rows included.
    pub stored: usize,
    /// Rows that were all zero, such as the first snapshot's, and were dropped.
    pub zero: usize,
    /// How they are scaled.
    pub scaling: Scaling,
    /// Σ Q²/Σ v over the weights whose variance the file did not clamp, if there are any.
    pub ratio: Option<f64>,
    /// What the ratio of raw deviations would be.
    pub raw_ratio: f64,
    /// What the ratio of normalised deviations would be.
    pub normalised_ratio: f64,
}

/// A row below this part of the largest row's sum of squares is zero: rounding of zero at most.
const ZERO: f64 = 1e-12;
/// A ratio says how deviations are scaled if it is not further from what one scaling gives than by
/// this part of the way, in logarithms, to what the other gives.
const CLEAR: f64 = 0.35;
/// The reference sets smaller variances to this.
pub(super) const CLAMPED: f32 = 1e-6;

/// Drops the zero rows of `stored` and scales the others so that QᵀQ/(rows - 1) is the covariance
/// that the file means; gives the number of rows left. Without `scaling` it is inferred.
///
/// # Errors
/// When there is one row only or far too many, or the scaling is to be inferred but does not show.
pub(super) fn settle(
    parts: &mut [Part],
    stored: usize,
    scaling: Option<Scaling>,
) -> Result<(usize, Deviations)> {
    if stored > MAX_RANK {
        let message = format!("there are {stored} deviations");
        return Err(Error::unsupported(message).hint(format!("expected {MAX_RANK} at most")));
    }
    if stored == 1 {
        return Err(Error::unsupported("there is one deviation, which has no covariance")
            .hint("leave the deviations out for a diagonal prior"));
    }
    let sizes: Vec<f64> = (0..stored).map(|row| sum_of_squares(parts, row)).collect();
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    let mut keep: Vec<usize> = (0..stored).filter(|&row| sizes[row] > ZERO * largest).collect();
    let zero = stored - keep.len();
    let raw_ratio = raw_ratio(stored, zero > 0);
    let normalised_ratio = raw_ratio / (stored as f64 - 1.0);
    let ratio = ratio(parts, stored);
    let scaling = match scaling {
        Some(scaling) => scaling,
        None => infer(ratio, raw_ratio, normalised_ratio)?,
    };
    if keep.len() == 1 {
        // One row has no divisor: a zero row beside it makes two.
        keep.insert(0, if keep[0] == 0 { 1 } else { 0 });
    }
    let kept = keep.len();
    let scale = match scaling {
        Scaling::Raw => ((kept as f64 - 1.0) / (stored as f64 - 1.0)).sqrt(),
        Scaling::Normalised => (kept as f64 - 1.0).sqrt(),
    };
    for part in parts {
        let len = part.shape.len();
        let rows = keep.iter().flat_map(|row| &part.dev[row * len..(row + 1) * len]);
        part.dev = rows.map(|&q| (scale * f64::from(q)) as f32).collect();
    }
    let found = Deviations { stored, zero, scaling, ratio, raw_ratio, normalised_ratio };
    Ok((kept, found))
}

fn row(part: &Part, row: usize) -> &[f32] {
    let len = part.shape.len();
    &part.dev[row * len..(row + 1) * len]
}

fn sum_of_squares(parts: &[Part], index: usize) -> f64 {
    let squares = parts.iter().flat_map(|part| row(part, index)).map(|&q| f64::from(q).powi(2));
    squares.sum()
}

/// Σ Q²/Σ v, weights with a clamped variance left out.
fn ratio(parts: &[Part], stored: usize) -> Option<f64> {
    let (mut squares, mut variances) = (0.0, 0.0);
    for part in parts {
        let counts = |v: f32| if v > CLAMPED { 1.0 } else { 0.0 };
        variances += part.var.iter().map(|&v| counts(v) * f64::from(v)).sum::<f64>();
        for k in 0..stored {
            let counted = row(part, k).iter().zip(&part.var);
            squares += counted.map(|(&q, &v)| counts(v) * f64::from(q).powi(2)).sum::<f64>();
        }
    }
    (variances > 0.0).then(|| squares / variances)
}

/// What Σ Q²/Σ v is expected to be for raw deviations of independent snapshots.
fn raw_ratio(stored: usize, all_are_kept: bool) -> f64 {
    let k = stored as f64;
    match all_are_kept {
        true => (2..=stored).map(|t| 1.0 - 1.0 / t as f64).sum::<f64>() * k / (k - 1.0),
        false => k,
    }
}

fn infer(ratio: Option<f64>, raw: f64, normalised: f64) -> Result<Scaling> {
    let way = (raw / normalised).ln();
    if way == 0.0 {
        // Of two deviations, both scalings are the same.
        return Ok(Scaling::Raw);
    }
    // 0 at normalised, 1 at raw.
    let place = ratio.map(|ratio| (ratio / normalised).ln() / way);
    match place {
        Some(place) if place.abs() <= CLEAR => Ok(Scaling::Normalised),
        Some(place) if (place - 1.0).abs() <= CLEAR => Ok(Scaling::Raw),
        _ => {
            let found = ratio.map_or("no variance to compare with".into(), |r| format!("{r:.3}"));
            let message = format!(
                "the scaling of the deviations does not show: their squares over the variances \
                 are {found}; expected {raw:.3} if raw, {normalised:.3} if divided by √(K-1)"
            );
            Err(Error::unsupported(message)
                .hint("say which with --deviations raw or --deviations normalised"))
        }
    }
}
