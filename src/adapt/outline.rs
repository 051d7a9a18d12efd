//! What a run will do: what it holds out, the stages that it goes through, and how much of
//! everything that is.

use super::memory::Extent;
use super::path::Path;
use super::settings::{PriorKind, Settings};
use super::{Adapter, select, state};
use crate::data::Dataset;
use crate::error::Result;

impl Adapter {
    /// Whether whole runs are cross-validated, or at most the head.
    pub(super) fn cross_validates_runs(&self) -> bool {
        let has_choice = self.settings.strength.is_none() && self.settings.prior != PriorKind::None;
        has_choice || self.settings.gate
    }

    /// The examples to hold out in turn, if anything is to be chosen.
    pub(super) fn folds(&self, train: &Dataset) -> Result<Vec<Vec<usize>>> {
        if self.choice.is_some() {
            return Ok(Vec::new());
        }
        match self.cross_validates_runs() || self.settings.head_variance.is_none() {
            true => select::folds(self.settings.seed, train),
            false => Ok(Vec::new()),
        }
    }

    /// The stages of the run.
    pub(super) fn path(&self, prior: Option<&state::ActivePrior>, folds: usize) -> Path {
        let Settings { strength, steps, schedule, .. } = self.settings;
        let scales = match (prior, strength) {
            (None, _) => vec![1.0],
            (Some(prior), Some(strength)) => vec![prior.scale_of_strength(strength)],
            (Some(prior), None) if folds == 0 => {
                vec![prior.scale_of_variance(prior.usual_variance())]
            }
            (Some(prior), None) => prior.variances().map(|v| prior.scale_of_variance(v)).to_vec(),
        };
        // Cross-validation may take as long as one run, so that more folds make shorter runs.
        // Chains follow no path, and keep their length.
        let posterior = &self.settings.posterior;
        let steps = match self.cross_validates_runs() && folds > 0 {
            true if posterior.has_chains() => {
                (posterior.chains.saturating_mul(steps) / folds).max(1)
            }
            true => 2 * steps / (folds + 1),
            false => steps,
        };
        Path::new(scales, steps.min(self.settings.steps), schedule)
    }

    /// The sizes of all that it will do.
    pub(super) fn extent(
        &self,
        train: &Dataset,
        validation: Option<&Dataset>,
        folds: &[Vec<usize>],
        path: &Path,
    ) -> Extent {
        let rests = folds.iter().map(|fold| train.len() - fold.len());
        let rests: Vec<_> = rests.filter(|_| self.cross_validates_runs()).collect();
        let all = rests.iter().copied().chain([train.len()]);
        let mut runs: Vec<_> = all.clone().map(|examples| [examples, path.steps()]).collect();
        if self.settings.posterior.has_chains() {
            let shorter = select::chain_steps(&self.settings, folds.len());
            runs.extend(rests.iter().map(|&examples| [examples, shorter]));
            runs.push([train.len(), self.settings.steps]);
        }
        let held_out = folds.iter().map(Vec::len);
        let passes = held_out.chain(all).chain([validation.map_or(0, Dataset::len)]).collect();
        Extent { runs, passes }
    }
}
