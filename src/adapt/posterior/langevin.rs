//! Chains of SGLD or SGHMC: each from the start of training, with a seed of its own, in cycles with
//! burn-in (Zhang et al. 2020) or at a constant rate.
//!
//! The first quarter of a cycle, or of a chain without cycles, is noise-free: a descent to a mode.

use super::{Approximation, Drawn, Outcome, PosteriorSettings, Sampling, check_finite};
use crate::adapt::Ending;
use crate::adapt::archive::{Archive, Arrays, put_weights};
use crate::adapt::trainer::Collect;
use crate::error::Result;
use crate::posterior::Network;
use crate::prior::Weights;
use crate::update::Schedule;

pub(super) struct Langevin {
    pub(super) settings: PosteriorSettings,
}

impl Approximation for Langevin {
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn> {
        let chains = self.settings.chains;
        let mut draws = Vec::new();
        for number in 0..chains {
            let names = run.start.keys().cloned().collect();
            let settings = PosteriorSettings {
                draws: Some(self.settings.draws_of(number)),
                chains: 1,
                ..self.settings
            };
            let steps = run.settings.steps;
            let mut states = States { settings, steps, names, taken: Vec::new(), marked: 0 };
            let path = run.constant_strength(schedule(&settings));
            let leg = run.leg(number, path, run.start, true, &mut states);
            draws.append(&mut states.finish());
            match leg? {
                Outcome::Diverged(error) => return Ok(Drawn::diverged(draws, run.start, error)),
                Outcome::Ended(Ending::Completed, _) => {}
                Outcome::Ended(ending, end) => {
                    if draws.is_empty() {
                        draws.push(end);
                    }
                    return Ok(Drawn::new(draws, ending));
                }
            }
        }
        Ok(Drawn::new(draws, Ending::Completed))
    }
}

fn schedule(settings: &PosteriorSettings) -> Schedule {
    match settings.cycles {
        0 => Schedule::Constant,
        cycles => Schedule::Cyclical { cycles },
    }
}

/// Whether the state after `step` of `steps` is a draw of the first chain.
pub(super) fn is_due(settings: &PosteriorSettings, step: usize, steps: usize) -> bool {
    let draws = settings.draws_of(0);
    match schedule(settings) {
        Schedule::Constant => {
            let burn_in = steps / 2;
            let constant = Schedule::Constant;
            step >= burn_in && constant.snapshot_due(step - burn_in, steps - burn_in, draws)
        }
        cyclical => cyclical.snapshot_due(step, steps, draws),
    }
}

/// The states of a chain that are draws.
struct States {
    /// Of this chain alone.
    settings: PosteriorSettings,
    steps: usize,
    names: Vec<String>,
    taken: Vec<Weights>,
    /// How many had been taken at the last shadow.
    marked: usize,
}

impl States {
    /// The draws: cycles have equally many, so there may be more than were asked for; the first,
    /// which have settled least, are left out.
    fn finish(mut self) -> Vec<Weights> {
        let surplus = self.taken.len().saturating_sub(self.settings.draws());
        self.taken.drain(..surplus);
        self.taken
    }
}

impl Collect for States {
    fn after(&mut self, step: usize, network: &mut Network) -> Result<()> {
        if is_due(&self.settings, step, self.steps) {
            let weights = network.weights(self.names.iter().map(String::as_str))?;
            check_finite(&weights, step)?;
            self.taken.push(weights);
        }
        Ok(())
    }

    fn mark(&mut self) {
        self.marked = self.taken.len();
    }

    fn restore(&mut self) {
        self.taken.truncate(self.marked);
    }

    fn draws(&self) -> usize {
        self.taken.len()
    }

    fn draw(&self, number: usize) -> Arrays<'_> {
        let mut arrays = Arrays::new();
        put_weights(&mut arrays, "", &self.taken[number]);
        arrays
    }

    fn recall(
        &mut self,
        _kept: &Archive,
        draws: &mut dyn Iterator<Item = Result<Archive>>,
        like: &Weights,
    ) -> Result<()> {
        self.taken = draws.map(|draw| draw?.weights("", like)).collect::<Result<_>>()?;
        self.mark();
        Ok(())
    }

    fn needs_end(&self) -> bool {
        false
    }
}
