//! Learning a prior on the source task: SWAG (Maddox et al. 2019), the moments of the snapshots
//! that an optimiser passes through.
//!
//! ```text
//! mean ← mean + (w - mean)/n     M2 ← M2 + (w - mean_before)(w - mean_after)     v = M2/n
//! dev  ← w - mean_after          of the last K snapshots
//! ```
//!
//! Welford's recurrence keeps a variance of 1e-8 beside a weight of 0.1, which E[w²] - E[w]² in
//! `f32` does not. A weight costs 16 bytes for its moments in `f64` and 4 for each deviation kept.
//!
//! **The first deviation is zero**, because the first snapshot is its own mean. While it is among
//! the last K it counts in the divisor K - 1 but adds nothing, so it is left out and the others are
//! multiplied by √((K-2)/(K-1)), which leaves QᵀQ/(K-1) as it was. Of two deviations it is kept,
//! since a rank of 1 has no divisor.

use std::collections::VecDeque;

use super::{Header, Parameter, Prior, Weights, deviations_shape};
use crate::error::{Context, Error, Kind, Result};
use crate::tensor::{Shape, contiguous, tensor};

/// The moments of the snapshots collected so far.
#[derive(Clone, Debug)]
pub struct Moments {
    max_rank: usize,
    count: u64,
    parameters: Vec<Running>,
}

/// The moments of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// The mean, an element for each weight.
    pub(crate) mean: Vec<f64>,
    /// The sum of squares around it.
    pub(crate) m2: Vec<f64>,
    /// Newest last.
    pub(crate) deviations: VecDeque<Vec<f32>>,
}

impl Moments {
    /// No snapshots yet; the last `max_rank` deviations will be kept, none for a diagonal prior.
    ///
    /// # Errors
    /// When `max_rank` is 1, which is too few for a covariance, or too large for a prior file.
    pub fn new(max_rank: usize) -> Result<Self> {
        if max_rank == 1 || max_rank > super::MAX_RANK {
            let message = format!("cannot keep {max_rank} deviations");
            let hint = format!("expected 0 or a number from 2 to {}", super::MAX_RANK);
            return Err(Error::invalid(message).hint(hint));
        }
        Ok(Moments { max_rank, count: 0, parameters: Vec::new() })
    }

    /// Number of snapshots collected.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Deviations that are kept at most.
    pub(crate) fn max_rank(&self) -> usize {
        self.max_rank
    }

    /// The moments of each parameter, to keep them.
    pub(crate) fn running(&self) -> &[Running] {
        &self.parameters
    }

    /// Moments that were kept.
    ///
    /// # Errors
    /// When a parameter has other numbers than its shape and the number of snapshots ask for, or
    /// one that no snapshots give.
    pub(crate) fn restore(max_rank: usize, count: u64, parameters: Vec<Running>) -> Result<Self> {
        let rank = max_rank.min(count.try_into().unwrap_or(usize::MAX));
        for running in &parameters {
            let Running { name, shape, mean, m2, deviations } = running;
            let len = shape.checked_len()?;
            let fits = mean.len() == len
                && m2.len() == len
                && deviations.len() == rank
                && deviations.iter().all(|row| row.len() == len);
            let sound = mean.iter().all(|x| x.is_finite())
                && m2.iter().all(|&x| x.is_finite() && x >= 0.0)
                && deviations.iter().flatten().all(|x| x.is_finite());
            if !(fits && sound) {
                let message = format!("these are no moments of {count} snapshots of '{name}'");
                return Err(Error::malformed(message));
            }
        }
        Ok(Moments { count, parameters, ..Moments::new(max_rank)? })
    }

    /// Takes a snapshot of the weights. The first one fixes names and shapes.
    ///
    /// # Errors
    /// When names or shapes differ from the first snapshot's, or a weight has no finite square; the
    /// moments are then as before.
    pub fn collect(&mut self, weights: &Weights) -> Result<()> {
        if self.count == 0 {
            self.parameters = weights
                .iter()
                .map(|(name, weight)| Running::new(name, weight.shape().into()))
                .collect();
        }
        self.check(weights).context(|| format!("snapshot {}", self.count + 1))?;
        self.count += 1;
        for (running, weight) in self.parameters.iter_mut().zip(weights.values()) {
            running.update(&contiguous(weight), self.count, self.max_rank);
        }
        Ok(())
    }

    fn check(&self, weights: &Weights) -> Result<()> {
        let known = self.parameters.iter().map(|running| &running.name);
        if !known.eq(weights.keys()) {
            let message = format!(
                "{} weights do not bear the names of the first snapshot's {}",
                weights.len(),
                self.parameters.len()
            );
            return Err(Error::mismatch(message));
        }
        for (running, (name, weight)) in self.parameters.iter().zip(weights) {
            let shape = Shape::from(weight.shape());
            if shape != running.shape {
                let message = format!("parameter '{name}' has shape {shape}");
                let hint = format!("expected {} as in the first snapshot", running.shape);
                return Err(Error::mismatch(message).hint(hint));
            }
            if let Some(x) = weight.iter().find(|&x| !(x * x).is_finite()) {
                let message = format!("parameter '{name}' holds {x}");
                return Err(Error::new(Kind::Diverged, message).hint("lower the learning rate"));
            }
        }
        Ok(())
    }

    /// The prior of these snapshots. `header` gives the backbone, ε and what is known of the
    /// training; its rank, method and number of snapshots are filled in here.
    ///
    /// # Errors
    /// When fewer than two snapshots were taken, or they give no valid prior (a weight that never
    /// moved needs ε > 0).
    pub fn finish(self, mut header: Header) -> Result<Prior> {
        if self.count < 2 {
            let message = format!("{} snapshots have no variance", self.count);
            return Err(Error::invalid(message).hint("collect at least 2"));
        }
        let kept = self.max_rank.min(self.count.try_into().unwrap_or(usize::MAX));
        let first_is_kept = kept as u64 == self.count;
        let (skip, scale) = match first_is_kept && kept > 2 {
            true => (1, ((kept as f64 - 2.0) / (kept as f64 - 1.0)).sqrt()),
            false => (0, 1.0),
        };
        header.rank = kept - skip;
        header.learned.snapshots = self.count;
        if header.learned.method.is_empty() {
            header.learned.method = "SWAG".to_string();
        }
        let finish = |running: Running| running.finish(self.count, skip, scale);
        Prior::new(header, self.parameters.into_iter().map(finish).collect::<Result<_>>()?)
    }
}

impl Running {
    fn new(name: &str, shape: Shape) -> Self {
        let zeros = vec![0.0; shape.len()];
        Running {
            name: name.to_string(),
            shape,
            mean: zeros.clone(),
            m2: zeros,
            deviations: VecDeque::new(),
        }
    }

    /// Adds snapshot number `count`, counted from 1.
    fn update(&mut self, weights: &[f32], count: u64, max_rank: usize) {
        let oldest = (self.deviations.len() == max_rank).then(|| self.deviations.pop_front());
        let mut deviation = oldest.flatten().unwrap_or_default();
        deviation.clear();
        let moments = self.mean.iter_mut().zip(&mut self.m2);
        for (&w, (mean, m2)) in weights.iter().zip(moments) {
            let before = f64::from(w) - *mean;
            *mean += before / count as f64;
            let after = f64::from(w) - *mean;
            *m2 += before * after;
            if max_rank > 0 {
                deviation.push(after as f32);
            }
        }
        if max_rank > 0 {
            self.deviations.push_back(deviation);
        }
    }

    fn finish(self, count: u64, skip: usize, scale: f64) -> Result<Parameter> {
        let Running { name, shape, mean, m2, deviations } = self;
        let mean = tensor(&shape, mean.into_iter().map(|x| x as f32).collect())?;
        let var = m2.into_iter().map(|x| (x / count as f64) as f32).collect();
        let rank = deviations.len() - skip;
        let mut dev = Vec::with_capacity(rank * shape.len());
        for row in deviations.into_iter().skip(skip) {
            dev.extend(row.into_iter().map(|x| (scale * f64::from(x)) as f32));
        }
        let dev = match rank {
            0 => None,
            _ => Some(tensor(&deviations_shape(rank, &shape), dev)?),
        };
        Ok(Parameter::new(name, mean, tensor(&shape, var)?, dev))
    }
}

#[cfg(test)]
mod tests;
