//! From a trained start to draws: one trait, and one file for each way of approximating the
//! posterior.
//!
//! | kind | what it costs | what its draws are |
//! |---|---|---|
//! | MAP | one run | its end, or the average along its path |
//! | SGLD, SGHMC | one run for each chain | states of the chains |
//! | SWAG | one run for each chain | from a Gaussian around the second half of the run |
//! | Laplace | one run, and a pass over the examples | the MAP with heads from a Gaussian |
//! | ensemble | one run for each draw | what each run ends with |

mod ensemble;
mod langevin;
mod laplace;
mod map;
mod swag;

use serde::{Deserialize, Serialize};

use self::ensemble::Ensemble;
use self::langevin::Langevin;
use self::laplace::Laplace;
use self::map::Map;
use self::swag::Swag;
use super::average::{Average, Averaging};
use super::path::Path;
use super::settings::Settings;
use super::trainer::{Collect, Leg, Trainer};
use super::{Ending, Epoch, Observer};
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use crate::posterior::DRAWS_MAX;
use crate::prior::Weights;
use crate::task::Task;
use crate::update::{Optimizer, Schedule};

/// The temperature of SGLD, SGHMC and Laplace unless another is set. A prior that is wide enough
/// for the mode to move, and a few examples, leave a posterior so wide that averages over it
/// predict worse than its mode; DESIGN.md has what was measured.
pub const COLD: f32 = 0.01;

/// A base learning rate that chains of SGHMC bear. At the 0.01 of a MAP, whose gradients are
/// clipped, a chain over a ResNet-14 and 1000 labels diverged in its first ten steps, and at 0.005
/// its loss rose; nothing may clip what samples.
pub const SGHMC_RATE: f32 = 0.002;

/// How the posterior is approximated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosteriorKind {
    /// Its mode: one draw.
    #[default]
    Map,
    /// Chains of stochastic gradient Langevin dynamics (Welling and Teh 2011).
    Sgld,
    /// Chains of stochastic gradient Hamiltonian Monte Carlo (Chen et al. 2014).
    Sghmc,
    /// A Gaussian, diagonal plus low rank, fitted to the states that SGD at a constant rate passes
    /// through (Maddox et al. 2019); a mixture of them with several chains.
    Swag,
    /// A Gaussian of the head's weights with the curvature at the MAP, the backbone's held there
    /// (Daxberger et al. 2021): exact, or Kronecker-factored where the head is large.
    Laplace,
    /// The MAP several times from different heads, in different orders (Lakshminarayanan et al.
    /// 2017).
    Ensemble,
}

/// Which approximation of the posterior, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PosteriorSettings {
    /// Which approximation.
    pub kind: PosteriorKind,
    /// Draws of all chains together; none takes the kind's own number: 1 for the MAP, 5 for an
    /// ensemble, 12 for chains, 20 for SWAG and Laplace.
    pub draws: Option<usize>,
    /// Runs of SGLD, SGHMC or SWAG, each of [`Settings::steps`] steps with a seed of its own.
    pub chains: usize,
    /// Cycles of a chain of SGLD or SGHMC: in each the rate falls from its base to 0, the first
    /// quarter adds no noise, and draws are spread over the rest (Zhang et al. 2020). 0 keeps the
    /// rate constant; then draws are spread over the second half of the chain.
    pub cycles: usize,
    /// T: draws of SGLD, SGHMC, SWAG and Laplace are from the posterior to the power 1/T. None
    /// takes the kind's own: 1 for SWAG, and else [`COLD`].
    pub temperature: Option<f32>,
    /// α in (0, 1], the share of the velocity that a step of SGHMC loses.
    pub friction: f32,
    /// Whether the step of SGLD or SGHMC is proportional to a weight's variance under the prior.
    pub precondition: bool,
}

impl Default for PosteriorSettings {
    fn default() -> Self {
        PosteriorSettings {
            kind: PosteriorKind::Map,
            draws: None,
            chains: 1,
            cycles: 1,
            temperature: None,
            friction: 0.1,
            precondition: false,
        }
    }
}

impl PosteriorSettings {
    /// The default settings of this kind.
    pub fn of(kind: PosteriorKind) -> Self {
        PosteriorSettings { kind, ..PosteriorSettings::default() }
    }

    /// Number of draws.
    pub fn draws(&self) -> usize {
        self.draws.unwrap_or(match self.kind {
            PosteriorKind::Map => 1,
            PosteriorKind::Ensemble => 5,
            PosteriorKind::Sgld | PosteriorKind::Sghmc => 12,
            PosteriorKind::Swag | PosteriorKind::Laplace => 20,
        })
    }

    /// The temperature.
    pub fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(match self.kind {
            PosteriorKind::Swag => 1.0,
            _ => COLD,
        })
    }

    /// What changes the weights: the sampler, or `optimizer` where none is wanted.
    pub fn optimizer(&self, optimizer: Optimizer) -> Optimizer {
        let Self { friction, precondition: preconditioned, .. } = *self;
        let temperature = self.temperature();
        match self.kind {
            PosteriorKind::Sgld => Optimizer::Sgld { temperature, preconditioned },
            PosteriorKind::Sghmc => Optimizer::Sghmc { temperature, friction, preconditioned },
            _ => optimizer,
        }
    }

    /// The draws of chain `number`: all chains together have [`PosteriorSettings::draws`].
    fn draws_of(&self, number: usize) -> usize {
        let (draws, chains) = (self.draws(), self.chains);
        draws / chains + usize::from(number < draws % chains)
    }

    /// Whether there are several draws at the end of `path`. Where no path leads away from the
    /// linear probe, nothing is left to sample but its head.
    pub(super) fn has_draws(&self, path: &Path) -> bool {
        match self.kind {
            PosteriorKind::Map => false,
            PosteriorKind::Laplace => true,
            _ => path.steps() > 0,
        }
    }

    /// Steps of all its legs at the end of `path`, where a chain has `chain` of them.
    pub(super) fn steps(&self, path: &Path, chain: usize) -> usize {
        match self.kind {
            PosteriorKind::Map | PosteriorKind::Laplace => path.steps(),
            PosteriorKind::Ensemble => self.draws() * path.steps(),
            _ if path.steps() == 0 => 0,
            _ => self.chains * chain,
        }
    }

    /// Whether its legs are chains under a prior of one strength.
    pub(super) fn has_chains(&self) -> bool {
        matches!(self.kind, PosteriorKind::Sgld | PosteriorKind::Sghmc | PosteriorKind::Swag)
    }

    /// Checks that the head of `task` can be sampled so.
    ///
    /// # Errors
    /// When it is a Laplace approximation of another head than a classifier's.
    pub(super) fn check_task(&self, task: &Task) -> Result<()> {
        match (self.kind, task) {
            (PosteriorKind::Laplace, Task::Classification { .. }) => Ok(()),
            (PosteriorKind::Laplace, _) => {
                let message = "a Laplace approximation is known for heads of classifiers only";
                Err(Error::unsupported(message).hint("choose another --posterior"))
            }
            _ => Ok(()),
        }
    }

    /// Checks every setting, for runs of `steps` steps.
    ///
    /// # Errors
    /// Names the one that is out of its range.
    pub fn check(&self, steps: usize) -> Result<()> {
        let expect = |holds: bool, message: String, expected: &str| match holds {
            true => Ok(()),
            false => Err(Error::invalid(message).hint(format!("expected {expected}"))),
        };
        let draws = self.draws();
        let is_one = self.kind != PosteriorKind::Map || draws == 1;
        expect(is_one, format!("a MAP of {draws} draws"), "1, or another --posterior")?;
        expect((1..=DRAWS_MAX).contains(&draws), format!("{draws} draws"), "1 to 10 000")?;
        self.check_use()?;
        let chains = format!("{} chains for {draws} draws", self.chains);
        expect((1..=draws).contains(&self.chains), chains, "1 to the number of draws")?;
        Optimizer::Sghmc {
            temperature: self.temperature(),
            friction: self.friction,
            preconditioned: self.precondition,
        }
        .check()?;
        match self.kind {
            PosteriorKind::Sgld | PosteriorKind::Sghmc => self.check_steps(steps),
            _ => Ok(()),
        }
    }

    /// Nothing is set that this kind has no use for.
    fn check_use(&self) -> Result<()> {
        let is_langevin = matches!(self.kind, PosteriorKind::Sgld | PosteriorKind::Sghmc);
        let has_temperature = self.has_chains() || self.kind == PosteriorKind::Laplace;
        let default = PosteriorSettings::default();
        let unused = [
            ("a temperature", self.temperature.is_some() && !has_temperature),
            ("several chains", self.chains > 1 && !self.has_chains()),
            ("cycles", self.cycles != default.cycles && !is_langevin),
            ("preconditioning", self.precondition && !is_langevin),
            ("friction", self.friction != default.friction && self.kind != PosteriorKind::Sghmc),
        ];
        match unused.iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((what, _)) => {
                let kind = self.kind;
                let message =
                    format!("{what} is set, which is of no use to a posterior of {kind:?}");
                Err(Error::invalid(message).hint("leave it out, or choose another --posterior"))
            }
        }
    }

    /// A chain of `steps` steps has room for its draws.
    fn check_steps(&self, steps: usize) -> Result<()> {
        let wanted = self.draws_of(0);
        let found = (0..steps).filter(|&step| langevin::is_due(self, step, steps)).count();
        if found >= wanted {
            return Ok(());
        }
        let message =
            format!("{steps} steps in {} cycles have room for {found} draws", self.cycles);
        Err(Error::invalid(format!("{message} of a chain, not {wanted}"))
            .hint("raise --steps, or lower --draws or --cycles"))
    }
}

/// A way to draw from the posterior.
pub(super) trait Approximation {
    /// Makes the draws, at least one.
    ///
    /// # Errors
    /// When the data cannot be read, the device fails, or training diverges before there is
    /// anything to keep.
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn>;
}

/// The approximation that the settings ask for, at the end of `path`.
pub(super) fn approximation(settings: &PosteriorSettings, path: &Path) -> Box<dyn Approximation> {
    let settings = *settings;
    match settings.kind {
        _ if !settings.has_draws(path) => Box::new(Map),
        PosteriorKind::Map => Box::new(Map),
        PosteriorKind::Laplace => Box::new(Laplace { settings }),
        PosteriorKind::Sgld | PosteriorKind::Sghmc => Box::new(Langevin { settings }),
        PosteriorKind::Swag => Box::new(Swag { settings }),
        PosteriorKind::Ensemble => Box::new(Ensemble { settings }),
    }
}

/// What an approximation works with.
pub(super) struct Sampling<'a, 'o> {
    pub(super) trainer: &'a mut Trainer,
    pub(super) settings: &'a Settings,
    /// τ
    pub(super) head_variance: f64,
    pub(super) train: &'a Dataset,
    pub(super) validation: Option<&'a Dataset>,
    /// Where training of all weights starts.
    pub(super) start: &'a Weights,
    /// What leads from there to the MAP, along loosening priors.
    pub(super) path: &'a Path,
    /// Steps that the observer was told of before.
    pub(super) before: usize,
    /// Steps that it will have been told of after all runs.
    pub(super) steps: usize,
    /// All legs so far.
    pub(super) history: &'a mut Vec<Epoch>,
    pub(super) observe: Observer<'o>,
}

/// What an approximation made.
pub(super) struct Drawn {
    pub(super) draws: Vec<Weights>,
    pub(super) ending: Ending,
    /// Why training ended early, if it diverged.
    pub(super) notice: Option<Notice>,
}

/// What is told of training that diverged.
#[derive(Default)]
pub(super) struct Notice {
    /// Why, and which setting to change.
    pub(super) error: String,
    /// What is left.
    pub(super) kept: String,
}

/// How one leg ended.
enum Outcome {
    /// With these weights, after all steps or because the observer stopped it.
    Ended(Ending, Weights),
    /// Its loss exploded; what was collected before stands.
    Diverged(Error),
}

impl Sampling<'_, '_> {
    /// Leg `number`, from `start` along `path`, a sampler's with noise if `is_noisy`. Each has a
    /// seed of its own; the first has that of the run.
    fn leg(
        &mut self,
        number: usize,
        path: Path,
        start: &Weights,
        is_noisy: bool,
        collect: &mut dyn Collect,
    ) -> Result<Outcome> {
        let seed = self.settings.seed.wrapping_add((number as u64) << 32);
        let (before, steps) = (self.before + number * path.steps(), self.steps);
        self.trainer.begin(start, Leg { number, seed, path, is_noisy, before, steps })?;
        let (train, validation, history) = (self.train, self.validation, &mut *self.history);
        match self.trainer.run(train, validation, start, history, &mut *self.observe, collect) {
            Ok((ending, end)) => Ok(Outcome::Ended(ending, end)),
            Err(error) if error.kind() == Kind::Diverged => Ok(Outcome::Diverged(error)),
            Err(error) => Err(error),
        }
    }

    /// Leg `number` along the run's own path: to its end, or to the average along it, which the
    /// linear probe begins wherever the leg starts. A sampler goes there without noise.
    fn mode(&mut self, number: usize, start: &Weights) -> Result<Outcome> {
        let path = self.path.clone();
        let outcome = if self.settings.averages() {
            let average = Average::of(self.start, self.trainer.trained());
            let mut averaging = Averaging::new(&path, average);
            match self.leg(number, path.clone(), start, false, &mut averaging)? {
                Outcome::Ended(ending, end) => {
                    Outcome::Ended(ending, averaging.finish(end, ending == Ending::Stopped))
                }
                diverged => diverged,
            }
        } else {
            self.leg(number, path.clone(), start, false, &mut ())?
        };
        Ok(match outcome {
            Outcome::Ended(ending, end) => match check_finite(&end, path.steps()) {
                Ok(()) => Outcome::Ended(ending, end),
                Err(error) => Outcome::Diverged(error),
            },
            diverged => diverged,
        })
    }

    /// All steps under the prior that the path ends with.
    fn constant_strength(&self, schedule: Schedule) -> Path {
        let last = self.path.stages().saturating_sub(1);
        Path::new(vec![self.path.scale_of(last)], self.settings.steps, schedule)
    }
}

impl Drawn {
    fn new(draws: Vec<Weights>, ending: Ending) -> Self {
        Drawn { draws, ending, notice: None }
    }

    /// What there is after `error`: the draws so far, or else `last_good`.
    fn diverged(mut draws: Vec<Weights>, last_good: &Weights, error: Error) -> Self {
        let kept = match draws.len() {
            0 => "the weights it started from are kept".to_string(),
            1 => "the draw before it is kept".to_string(),
            count => format!("the {count} draws before it are kept"),
        };
        if draws.is_empty() {
            draws.push(last_good.clone());
        }
        let notice = Some(Notice { error: error.to_string(), kept });
        Drawn { draws, ending: Ending::Diverged, notice }
    }
}

/// Whether all weights are finite: the last step can spoil them without a loss that tells.
fn check_finite(weights: &Weights, step: usize) -> Result<()> {
    match weights.iter().find(|(_, w)| w.iter().any(|x| !x.is_finite())) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("step {}: parameter '{name}' is not finite", step + 1);
            Err(Error::new(Kind::Diverged, message).hint("lower --lr, or --temperature"))
        }
    }
}

#[cfg(test)]
mod tests;
