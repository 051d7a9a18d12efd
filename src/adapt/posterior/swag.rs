//! SWAG on the target (Maddox et al. 2019): SGD at a constant rate passes around a mode, and draws
//! are from the Gaussian with the moments of its second half,
//!
//! ```text
//! N(mean, T (diag(v)/2 + QᵀQ/(2(K-1)))),
//! ```
//!
//! which is what [`Prior::sample`] draws from the moments of a prior fit.

use super::{Approximation, Drawn, Outcome, PosteriorSettings, Sampling, check_finite};
use crate::adapt::Ending;
use crate::adapt::archive::{Archive, Arrays, arrays_of};
use crate::adapt::trainer::Collect;
use crate::error::Result;
use crate::posterior::Network;
use crate::prior::{Header, Moments, Prior, Weights};
use crate::rng::{Key, Stream};
use crate::update::Schedule;

/// States of a run that its moments are taken over.
const STATES: usize = 20;
/// Deviations kept.
const RANK: usize = 10;
/// Variance of a weight that never moved, far below what a prediction notices.
const EPSILON: f32 = 1e-12;

pub(super) struct Swag {
    pub(super) settings: PosteriorSettings,
}

impl Approximation for Swag {
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn> {
        let chains = self.settings.chains;
        let mut draws = Vec::new();
        for number in 0..chains {
            let names = run.trainer.trained().map(str::to_string).collect();
            let mut passed = Passed::new(run.settings.steps, names)?;
            let path = run.constant_strength(Schedule::Constant);
            let leg = run.leg(number, path, run.start, true, &mut passed)?;
            let (ending, end) = match leg {
                Outcome::Diverged(error) => return Ok(Drawn::diverged(draws, run.start, error)),
                Outcome::Ended(ending, end) => (ending, end),
            };
            let key = Key::new(run.settings.seed, Stream::Draw);
            let first = draws.len();
            if passed.moments.count() > 1 {
                let fingerprint = run.trainer.network_mut().model().fingerprint();
                let fitted = passed.moments.finish(Header::new(fingerprint, EPSILON))?;
                for draw in first..first + self.settings.draws_of(number) {
                    let sampled = sample(&fitted, &key, draw, self.settings.temperature())?;
                    let mut weights = end.clone();
                    weights.extend(sampled);
                    draws.push(weights);
                }
            } else if draws.is_empty() {
                // Too short, or stopped too early, to have a variance.
                draws.push(end);
            }
            if ending != Ending::Completed {
                return Ok(Drawn::new(draws, ending));
            }
        }
        Ok(Drawn::new(draws, Ending::Completed))
    }
}

/// Draw number `draw`, at temperature 0 the mean.
fn sample(fitted: &Prior, key: &Key, draw: usize, temperature: f32) -> Result<Weights> {
    if temperature > 0.0 {
        return fitted.sample(key, draw as u64, f64::from(temperature));
    }
    Ok(fitted.parameters().iter().map(|p| (p.name().to_string(), p.mean().clone())).collect())
}

/// The moments of the second half of a run.
struct Passed {
    steps: usize,
    names: Vec<String>,
    moments: Moments,
    /// As they were at the last shadow.
    marked: Moments,
}

impl Passed {
    fn new(steps: usize, names: Vec<String>) -> Result<Self> {
        let moments = Moments::new(RANK)?;
        Ok(Passed { steps, names, marked: moments.clone(), moments })
    }
}

impl Collect for Passed {
    fn after(&mut self, step: usize, network: &mut Network) -> Result<()> {
        let burn_in = self.steps / 2;
        let rest = self.steps - burn_in;
        if step >= burn_in && Schedule::Constant.snapshot_due(step - burn_in, rest, STATES) {
            let weights = network.weights(self.names.iter().map(String::as_str))?;
            check_finite(&weights, step)?;
            self.moments.collect(&weights)?;
        }
        Ok(())
    }

    fn mark(&mut self) {
        self.marked.clone_from(&self.moments);
    }

    fn restore(&mut self) {
        self.moments.clone_from(&self.marked);
    }

    fn arrays(&self) -> Arrays<'_> {
        arrays_of(&self.moments)
    }

    fn recall(
        &mut self,
        kept: &Archive,
        _draws: &mut dyn Iterator<Item = Result<Archive>>,
        like: &Weights,
    ) -> Result<()> {
        let trained = like.iter().filter(|(name, _)| self.names.contains(name));
        let shapes = trained.map(|(name, w)| (name.as_str(), w.shape()));
        self.moments = kept.moments(RANK, shapes)?;
        self.mark();
        Ok(())
    }
}
