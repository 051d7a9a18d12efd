//! Which engine predicts: the fastest of those that compute what our own does.
//!
//! Every engine predicts the same few images of the real data with the same draws. First its raw
//! outputs are compared with those of our own engine: one that is off by more than [`AGREEMENT`],
//! fails, or cannot be opened is out, with its reason. The others are timed, each as it would be
//! used: where draws differ in the head alone, one pass through the backbone serves all of them.

use std::fmt;
use std::time::Duration;

use ndarray::Array2;
use serde::Serialize;

use super::draws::head_logits;
use super::parts::somewhere;
use super::runtime::{Output, Runtime, RuntimeChoice, rows};
use super::{Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use crate::prior::Weights;
use crate::task::Task;

/// How far raw outputs may be from our own engine's, relative to the largest of these. Sums in
/// another order, or of other algorithms, differ by 1e-5 to 1e-4 in a deep network of single
/// precision. A tenfold of that changes a probability in its third digit at most; products in a
/// shorter format are further off.
pub(crate) const AGREEMENT: f64 = 1e-3;

/// Draws that a race asks: two show what a change of weights costs.
const DRAWS: usize = 2;
/// Passes that are timed, of which the fastest counts: others were held up.
const PASSES: usize = 3;
/// Another engine's time has to be below this share of our own: a smaller gain may be noise, and
/// our own engine repeats its results.
const GAIN: f64 = 0.9;

/// Opens an engine.
type Opener<'a> = Box<dyn FnOnce(&Posterior) -> Result<Box<dyn Runtime>> + 'a>;

/// An engine that takes part.
pub struct Entrant<'a> {
    name: String,
    /// Nothing for our own.
    open: Option<Opener<'a>>,
}

impl<'a> Entrant<'a> {
    /// An engine of the host's, called `name` until it is open.
    pub fn new(
        name: impl Into<String>,
        open: impl FnOnce(&Posterior) -> Result<Box<dyn Runtime>> + 'a,
    ) -> Self {
        Entrant { name: name.into(), open: Some(Box::new(open)) }
    }

    /// One of this crate's.
    pub fn of(choice: RuntimeChoice, engine: &Engine) -> Self {
        let name = match &choice {
            RuntimeChoice::Own => return Entrant { name: "own".to_string(), open: None },
            RuntimeChoice::Tract => "tract".to_string(),
            RuntimeChoice::Ort(settings) => match &settings.provider {
                None => "ort".to_string(),
                Some(provider) => format!("ort ({})", provider.name),
            },
        };
        let engine = engine.clone();
        Entrant::new(name, move |posterior| posterior.open(&choice, engine))
    }
}

/// How an engine fared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ran {
    /// Its name.
    pub engine: String,
    /// Seconds for all images of the race by its draws.
    pub seconds: Option<f64>,
    /// The largest difference from our own engine's raw outputs, relative to the largest of these.
    pub deviation: Option<f64>,
    /// Why it is not used.
    pub refused: Option<String>,
}

/// A race: which engine was chosen, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Race {
    /// The name of the engine that predicts.
    pub engine: String,
    /// Images of the race.
    pub examples: usize,
    /// Draws that predicted them.
    pub draws: usize,
    /// All that took part.
    pub entrants: Vec<Ran>,
}

/// The fastest so far.
struct Leader {
    /// As they count beside others'.
    seconds: f64,
    /// Among those that ran.
    number: usize,
    /// None is our own.
    runtime: Option<Box<dyn Runtime>>,
}

impl Posterior {
    /// Whether a race over `data` costs little beside its prediction: with so many entrants, about
    /// a sixteenth or less.
    pub fn is_worth_a_race(&self, data: &Dataset, entrants: usize) -> bool {
        let shares = self.passes_once(data.len());
        let passes = |draws: usize| if shares { 1 } else { draws };
        let [all, few] = [self.draws.len(), self.draws.len().min(DRAWS)].map(passes);
        let raced = self.raced(data) * few * (1 + PASSES) * entrants;
        data.len().saturating_mul(all) >= 16 * raced.max(1)
    }

    /// Whether all draws are predicted by one pass through the backbone.
    fn passes_once(&self, examples: usize) -> bool {
        let is_classes = matches!(self.description.task, Task::Classification { .. });
        is_classes && self.shares_features(examples)
    }

    /// The same, predicting with the fastest of `entrants` on a few images of `data`. All are
    /// compared with our own engine on `engine`, which is one of them only if it is named. `now`
    /// tells the time since any moment; what it says decides which engine predicts, and nothing
    /// else. `observe` is told of progress, and may stop.
    ///
    /// # Errors
    /// When there are no data, our own engine fails, `observe` stops, or no entrant is left: the
    /// error has their reasons.
    pub fn race(
        self,
        entrants: Vec<Entrant<'_>>,
        data: &Dataset,
        engine: impl Into<Engine>,
        now: &mut dyn FnMut() -> Duration,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<(Self, Race)> {
        let examples: Vec<usize> = (0..self.raced(data)).collect();
        if examples.is_empty() {
            return Err(Error::invalid("engines race over images, and there are none"));
        }
        let data = data.subset(&examples)?;
        let draws = self.draws.len().min(DRAWS);
        let mut own = self.open(&RuntimeChoice::Own, engine)?;
        let expected = self.run_on(&mut *own, &data)?;
        let mut track = Track { now, expected: &expected, data: &data };
        let total = entrants.len();
        let mut ran = Vec::new();
        let mut best: Option<Leader> = None;
        for (done, entrant) in entrants.into_iter().enumerate() {
            let (outcome, runtime) = match entrant.open {
                None => (track.time(&self, &mut *own), None),
                Some(open) => track.enter(&self, &entrant.name, open),
            };
            if let Some(seconds) = outcome.seconds {
                let counted = seconds * if runtime.is_some() { 1.0 } else { GAIN };
                if best.as_ref().is_none_or(|best| counted < best.seconds) {
                    best = Some(Leader { seconds: counted, number: done, runtime });
                }
            }
            ran.push(outcome);
            if !observe(Progress { done: done + 1, total }) {
                return Err(Error::new(Kind::Cancelled, "stopped by the caller"));
            }
        }
        let Some(Leader { number, runtime, .. }) = best else { return Err(none_left(&ran)) };
        let engine = ran[number].engine.clone();
        let race = Race { engine, examples: data.len(), draws, entrants: ran };
        let chosen = match runtime {
            Some(runtime) => self.with_runtime(runtime),
            None => Posterior { runtime: None, ..self },
        };
        Ok((chosen, race))
    }

    /// Images of a race: one pass.
    fn raced(&self, data: &Dataset) -> usize {
        data.len().min(self.forward_batch.max(1))
    }

    /// The raw outputs of `data` by the first draws, as a prediction would have them.
    fn run_on(&self, runtime: &mut dyn Runtime, data: &Dataset) -> Result<Vec<Array2<f32>>> {
        let draws = &self.draws[..self.draws.len().min(DRAWS)];
        let pass = |runtime: &mut dyn Runtime, draw: &Weights, output: Output| {
            runtime.set_weights(draw)?;
            somewhere(runtime, Some(draw), &mut |runtime| {
                rows(runtime, data, output, &mut |_| true)
            })
        };
        if self.passes_once(data.len()) {
            let features = pass(runtime, &draws[0], Output::Features)?;
            return draws.iter().map(|draw| head_logits(draw, &features)).collect();
        }
        draws.iter().map(|draw| pass(runtime, draw, Output::Logits)).collect()
    }
}

/// What all entrants have before them.
struct Track<'a> {
    now: &'a mut dyn FnMut() -> Duration,
    expected: &'a [Array2<f32>],
    data: &'a Dataset,
}

impl Track<'_> {
    /// Opens an engine, compares and times it; the engine, unless it is out.
    fn enter(
        &mut self,
        posterior: &Posterior,
        name: &str,
        open: Opener<'_>,
    ) -> (Ran, Option<Box<dyn Runtime>>) {
        let out = |engine: String, deviation, error: Error| {
            let refused = Some(error.to_string());
            (Ran { engine, seconds: None, deviation, refused }, None)
        };
        let mut runtime = match open(posterior) {
            Ok(runtime) => runtime,
            Err(error) => return out(name.to_string(), None, error),
        };
        let found = posterior.run_on(&mut *runtime, self.data);
        let compared = found.and_then(|found| deviation(&found, self.expected));
        let deviation = match compared {
            Ok(deviation) => deviation,
            Err(error) => return out(runtime.name(), None, error),
        };
        if deviation > AGREEMENT {
            let message = format!(
                "its outputs differ by {deviation:.1e} from our own engine's; rounding explains \
                 {AGREEMENT:.0e}"
            );
            return out(runtime.name(), Some(deviation), Error::mismatch(message));
        }
        let ran = Ran { deviation: Some(deviation), ..self.time(posterior, &mut *runtime) };
        let stays = ran.seconds.is_some();
        (ran, stays.then_some(runtime))
    }

    /// Times an engine that has run before.
    fn time(&mut self, posterior: &Posterior, runtime: &mut dyn Runtime) -> Ran {
        let mut ran = Ran { engine: runtime.name(), seconds: None, deviation: None, refused: None };
        for _ in 0..PASSES {
            let started = (self.now)();
            if let Err(error) = posterior.run_on(runtime, self.data) {
                return Ran { seconds: None, refused: Some(error.to_string()), ..ran };
            }
            let seconds = (self.now)().saturating_sub(started).as_secs_f64();
            ran.seconds = Some(ran.seconds.map_or(seconds, |least| seconds.min(least)));
        }
        ran
    }
}

/// The largest difference, relative to the largest of the expected outputs; infinite where it is no
/// number.
fn deviation(found: &[Array2<f32>], expected: &[Array2<f32>]) -> Result<f64> {
    let mut worst = 0.0f64;
    for (found, expected) in found.iter().zip(expected) {
        if found.dim() != expected.dim() {
            let (found, expected) = (found.dim(), expected.dim());
            return Err(Error::mismatch(format!("its outputs are {found:?}"))
                .hint(format!("expected {expected:?}")));
        }
        let scale = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let off = f64::from(found - expected).abs() / f64::from(scale);
            worst = worst.max(if off.is_nan() { f64::INFINITY } else { off });
        }
    }
    Ok(worst)
}

fn none_left(ran: &[Ran]) -> Error {
    let reason = |ran: &Ran| {
        let refused = ran.refused.as_deref().unwrap_or("it was not timed");
        format!("{}: {refused}", ran.engine)
    };
    let reasons: Vec<String> = ran.iter().map(reason).collect();
    let message = format!("no engine can predict this: {}", reasons.join("; "));
    Error::unsupported(message).hint("our own engine always can")
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Race { engine, examples, draws, entrants } = self;
        writeln!(f, "engine   {engine}, by {examples} images and {draws} draws")?;
        for Ran { engine, seconds, deviation, refused } in entrants {
            write!(f, "         {engine}: ")?;
            match (seconds, refused) {
                (_, Some(refused)) => write!(f, "{refused}")?,
                (Some(seconds), None) => write!(f, "{:.1} ms", 1e3 * seconds)?,
                (None, None) => write!(f, "not timed")?,
            }
            match (deviation, refused) {
                (Some(deviation), None) => writeln!(f, ", differs by {deviation:.1e}")?,
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
