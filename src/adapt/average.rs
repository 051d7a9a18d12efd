//! The average of a run along its path: the mean of the weights it starts from and those at the end
//! of each of its stages so far.
//!
//! Stages go on from one another, so that the mean of the weights predicts about as the mean of the
//! logits would, which is better than its parts (stochastic weight averaging, Izmailov et al. 2018;
//! averages with the weights before fine-tuning, Wortsman et al. 2022). It also varies less from
//! one stage to the next than the ends do, so that a choice among averages by few held-out examples
//! misleads less.

use super::archive::{Archive, Array, Arrays, put_weights};
use super::path::Path;
use super::trainer::Collect;
use crate::error::Result;
use crate::posterior::Network;
use crate::prior::Weights;
use crate::tensor::Tensor;

/// Where a checkpoint has the mean's weights, and of how many it is.
const MEAN: &str = "average/";
const COUNT: &str = "averaged";

/// The mean of what was added to it.
pub(super) struct Average {
    now: Mean,
    /// As it was at the last shadow.
    marked: Mean,
}

#[derive(Clone)]
struct Mean {
    weights: Weights,
    count: usize,
}

impl Average {
    /// That of the weights `names` among those that a run starts from.
    pub(super) fn of<'a>(start: &Weights, names: impl IntoIterator<Item = &'a str>) -> Self {
        let trained = names.into_iter().filter_map(|name| start.get_key_value(name));
        let weights = trained.map(|(name, w)| (name.clone(), w.clone())).collect();
        let now = Mean { weights, count: 1 };
        Average { marked: now.clone(), now }
    }

    /// Adds the network's present weights, and returns them.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn add(&mut self, network: &Network) -> Result<Weights> {
        let weights = network.weights(self.now.weights.keys().map(String::as_str))?;
        self.add_weights(&weights);
        Ok(weights)
    }

    fn add_weights(&mut self, weights: &Weights) {
        self.now.count += 1;
        let share = (self.now.count as f32).recip();
        for (name, mean) in &mut self.now.weights {
            if let Some(weight) = weights.get(name) {
                *mean = moved(mean, weight, share);
            }
        }
    }

    /// A shadow was taken.
    pub(super) fn mark(&mut self) {
        self.marked.clone_from(&self.now);
    }

    /// Steps go on from the last mark, or from the start if there was none.
    pub(super) fn restore(&mut self) {
        self.now.clone_from(&self.marked);
    }

    /// What it consists of.
    pub(super) fn arrays(&self) -> Arrays<'_> {
        let count = Array::number(self.now.count as f64);
        let mut arrays = Arrays::from([(COUNT.to_string(), count)]);
        put_weights(&mut arrays, MEAN, &self.now.weights);
        arrays
    }

    /// Becomes that of the same run that was kept, and is marked.
    ///
    /// # Errors
    /// When there is none of the same weights; it is then as before.
    pub(super) fn recall(&mut self, kept: &Archive) -> Result<()> {
        let count = kept.number(COUNT)?;
        self.now = Mean { weights: kept.weights(MEAN, &self.now.weights)?, count };
        self.mark();
        Ok(())
    }

    /// The mean.
    pub(super) fn mean(&self) -> &Weights {
        &self.now.weights
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
}

impl<'a> Averaging<'a> {
    /// That of a run along `path` which begins with `average`.
    pub(super) fn new(path: &'a Path, average: Average) -> Self {
        Averaging { path, average }
    }

    /// The weights `end` that the run came to, with the average in place of those that were
    /// trained. Where it was stopped, they count as the end of their stage.
    pub(super) fn finish(mut self, mut end: Weights, is_stopped: bool) -> Weights {
        if is_stopped {
            self.average.add_weights(&end);
        }
        end.extend(self.average.now.weights);
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

    fn mark(&mut self) {
        self.average.mark();
    }

    fn restore(&mut self) {
        self.average.restore();
    }

    fn arrays(&self) -> Arrays<'_> {
        self.average.arrays()
    }

    fn recall(
        &mut self,
        kept: &Archive,
        _draws: &mut dyn Iterator<Item = Result<Archive>>,
        _like: &Weights,
    ) -> Result<()> {
        self.average.recall(kept)
    }
}
