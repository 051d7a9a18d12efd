//! Real numbers: standardised targets and a squared error.

use serde::{Deserialize, Serialize};

use super::TARGETS;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::tensor::Shape;

/// How one number to learn is standardised, and how far from its prediction it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standard {
    /// Mean of the training targets.
    pub mean: f64,
    /// Their standard deviation, positive; 1 where they are all equal.
    pub std: f64,
    /// Variance of the target around its prediction, in the target's units squared; none until it
    /// is estimated.
    pub noise: Option<f64>,
}

impl Standard {
    /// Those of the targets of `data`.
    pub(super) fn of(data: &Dataset) -> Result<Vec<Self>> {
        let width = data.classes().len();
        let mut rows = vec![0.0; data.len() * width];
        data.fill_rows(&(0..data.len()).collect::<Vec<_>>(), &mut rows)?;
        let n = data.len().max(1) as f64;
        let column = |column: usize| {
            let values = || rows.iter().skip(column).step_by(width).map(|&x| f64::from(x));
            let mean = values().sum::<f64>() / n;
            let std = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            // What varies less than `f32` can tell is constant.
            let is_constant = std <= f64::from(f32::EPSILON) * mean.abs().max(1e-30);
            Standard { mean, std: if is_constant { 1.0 } else { std }, noise: None }
        };
        Ok((0..width).map(column).collect())
    }

    /// Checks numbers that were read from a file.
    pub(super) fn check(&self) -> Result<()> {
        let Standard { mean, std, noise } = *self;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        match mean.is_finite() && positive(std) && noise.is_none_or(positive) {
            true => Ok(()),
            false => Err(Error::malformed(format!(
                "an output has mean {mean}, deviation {std} and noise {noise:?}; expected finite, \
                 positive numbers"
            ))),
        }
    }
}

/// Rows of targets to zero mean and unit deviation.
pub(super) fn standardise(standard: &[Standard], rows: &mut [f32]) {
    for row in rows.chunks_exact_mut(standard.len().max(1)) {
        for (x, s) in row.iter_mut().zip(standard) {
            *x = ((f64::from(*x) - s.mean) / s.std) as f32;
        }
    }
}

/// Rows of outputs to the targets' units.
pub(super) fn restore(standard: &[Standard], rows: &mut [f64]) {
    for row in rows.chunks_exact_mut(standard.len().max(1)) {
        row.iter_mut().zip(standard).for_each(|(x, s)| *x = *x * s.std + s.mean);
    }
}

/// Mean over the batch of half the squared distance of `outputs` from [`TARGETS`]: `[1]`. It is
/// -log N(target; output, 1) but for a constant.
///
/// # Errors
/// When the outputs have no batch.
pub fn squared_error(graph: &mut Graph, outputs: ValueId) -> Result<ValueId> {
    let shape: Shape = graph.shape(outputs).clone();
    let targets = graph.input(TARGETS, &shape)?;
    let error = graph.sub(outputs, targets)?;
    let square = graph.mul(error, error)?;
    let sum = graph.sum_all(square)?;
    graph.scale(sum, 0.5 / shape[0] as f32)
}
