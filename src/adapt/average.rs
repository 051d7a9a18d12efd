//! The average of a run along its path: the mean of the weights it starts from and those at the end
//! of each of its stages so far.
//!
//! Stages go on from one another, so that the mean of the weights predicts about as the mean of the
//! logits would, which is better than its parts (stochastic weight averaging, Izmailov et al. 2018;
//! averages with the weights before fine-tuning, Wortsman et al. 2022). It also varies less from
//! one stage to the next than the ends do, so that a choice among averages by few held-out examples
//! misleads less.

use super::path::Path;
use super::trainer::{Collect, Shadow};
use crate::error::Result;
use crate::posterior::Network;
use crate::prior::Weights;
use crate::tensor::Tensor;

/// The mean of what was added to it.
#[derive(Clone)]
pub(super) struct Average {
    mean: Weights,
    count: usize,
}

impl Average {
    /// That of the weights `names` among those that a run starts from.
    pub(super) fn of<'a>(start: &Weights, names: impl IntoIterator<Item = &'a str>) -> Self {
        let trained = names.into_iter().filter_map(|name| start.get_key_value(name));
        Average { mean: trained.map(|(name, w)| (name.clone(), w.clone())).collect(), count: 1 }
    }

    /// Adds the network's present weights, and returns them.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn add(&mut self, network: &Network) -> Result<Weights> {
        let weights = network.weights(self.mean.keys().map(String::as_str))?;
        self.add_weights(&weights);
        Ok(weights)
    }

    fn add_weights(&mut self, weights: &Weights) {
        self.count += 1;
        let share = (self.count as f32).recip();
        for (name, mean) in &mut self.mean {
            if let Some(weight) = weights.get(name) {
                *mean = moved(mean, weight, share);
            }
        }
    }

    /// The mean.
    pub(super) fn mean(&self) -> &Weights {
        &self.mean
    }
}

/// `mean` moved towards `weight` by `share` of the way.
fn moved(mean: &Tensor, weight: &Tensor, share: f32) -> Tensor {
    (mean + &((weight - mean) * share)).into_shared()
}

/// The average of one run.
pub(super) struct Averaging<'a> {
    path: &'a Path,
    average: Average,
    /// As it was at the last shadow.
    marked: Average,
}

impl<'a> Averaging<'a> {
    /// That of a run along `path` which begins with `average`.
    pub(super) fn new(path: &'a Path, average: Average) -> Self {
        Averaging { path, marked: average.clone(), average }
    }

    /// The weights `end` that the run came to, with the average in place of those that were
    /// trained. Where it was stopped, they count as the end of their stage.
    pub(super) fn finish(mut self, mut end: Weights, is_stopped: bool) -> Weights {
        if is_stopped {
            self.average.add_weights(&end);
        }
        end.extend(self.average.mean);
        end
    }
}

impl Collect for Averaging<'_> {
    fn after(&mut self, step: usize, network: &mut Network) -> Result<()> {
        if self.path.ended(step).is_some() {
            self.average.add(network)?;
        }
        Ok(())
    }

    fn mark(&mut self, _shadow: &Shadow) -> Result<()> {
        self.marked.clone_from(&self.average);
        Ok(())
    }

    fn restore(&mut self) {
        self.average.clone_from(&self.marked);
    }
}
