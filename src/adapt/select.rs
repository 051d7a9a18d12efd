//! Cross-validation on the training examples: how strong the priors are, whether training all
//! weights is worth it, and how sure the predictions may be.
//!
//! The examples are held out in turn. On the others the head is fitted, then all weights are
//! trained along a [`Path`] of loosening priors, and what is held out is predicted at the end of
//! each stage, by the [`Average`] along the path up to there. The stage with the best likelihood is
//! where the run on all examples ends; where that is the linear probe's, there is no such run.
//! Likelihoods are compared at the temperature that suits each (Guo et al. 2017), so that a better
//! classifier is not passed over for being too sure of itself; the final one predicts at the
//! temperature found here.
//!
//! Where the posterior is to have several draws and there is a gate, draws are made on the others
//! too, around the best stage of the path, and have to predict as well as the linear probe.
//!
//! Of masks an example is an image, and its likelihood the mean over its pixels, of which a sample
//! is looked at.

mod draws;
mod rows;

use ndarray::{Array2, Axis, concatenate};
use serde::Serialize;

pub(super) use self::draws::chain_steps;
pub(super) use self::rows::Rows;
use super::archive::{Archive, Array, Arrays};
use super::average::Average;
use super::path::Path;
use super::probe::ProbeSettings;
use super::settings::Settings;
use super::trainer::{Collect, Leg, Trainer};
use super::{Control, Ending, Observer, Progress, Summary};
use crate::data::{Dataset, TargetKind};
use crate::error::{Error, Kind, Result};
use crate::posterior::{Network, best_temperature, head_logits, mean_of_draws, noise_of};
use crate::prior::Weights;
use crate::task::Task;

/// Parts that the examples are dealt into.
const PARTS: usize = 4;
/// The fewest held-out examples that decide anything, and how many are enough: parts are held out
/// in turn until these have been.
const HELD_OUT: [usize; 2] = [10, 100];
/// The same of masks: an image has many pixels to be wrong in.
const HELD_OUT_MASKS: [usize; 2] = [4, 25];
/// The head's variances that are tried, from strong to weak.
const HEAD_VARIANCES: [f64; 7] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// What cross-validation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Number of sets that were held out in turn.
    pub folds: usize,
    /// Number of examples that were held out, each once.
    pub held_out: usize,
    /// τ, the variance of the head's prior.
    pub head_variance: f64,
    /// Where a run could end: at the linear probe, or after a stage of training all weights.
    pub candidates: Vec<Candidate>,
    /// The one that was kept: that with the best likelihood, not the probe without a gate; where
    /// draws are kept, that which they are around.
    pub kept: usize,
    /// How the average over draws would fare, where it was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<Candidate>,
    /// Whether predictions are averaged over draws, where the settings ask for them: unless they
    /// were compared, and fared worse than the linear probe or diverged.
    pub keeps_draws: bool,
    /// Why the path has fewer stages than it might, or no draws, if a run diverged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// Where a run could end, and how it would fare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Steps of training all weights; none for the linear probe.
    pub steps: usize,
    /// λ of its last stage, if it has a prior.
    pub strength: Option<f64>,
    /// The temperature of the best likelihood; 1 of numbers.
    pub temperature: f64,
    /// Variance of the held-out numbers around their predictions; empty of other tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<f64>,
    /// Metrics of the held-out predictions at this temperature.
    pub held_out: Summary,
}

impl Choice {
    /// The candidate that was kept: the average over draws where that was.
    pub fn kept(&self) -> &Candidate {
        match &self.draws {
            Some(draws) if self.keeps_draws => draws,
            _ => &self.candidates[self.kept],
        }
    }
}

/// The sets to hold out in turn; none when the examples are too few to choose by.
pub(super) fn folds(seed: u64, train: &Dataset) -> Result<Vec<Vec<usize>>> {
    let [least, most] = match train.target_kind() {
        Some(TargetKind::Mask) => HELD_OUT_MASKS,
        _ => HELD_OUT,
    };
    let mut folds = train.folds(seed, PARTS)?;
    let mut held_out = 0;
    let enough = folds.iter().position(|fold| {
        held_out += fold.len();
        held_out >= most
    });
    folds.truncate(enough.map_or(PARTS, |last| last + 1));
    folds.retain(|fold| !fold.is_empty());
    if folds.iter().map(Vec::len).sum::<usize>() < least {
        folds.clear();
    }
    Ok(folds)
}

/// Cross-validation of one run.
pub(super) struct Selection<'a> {
    pub(super) settings: &'a Settings,
    pub(super) task: &'a Task,
    pub(super) train: &'a Dataset,
    pub(super) rows: &'a Rows,
    pub(super) folds: &'a [Vec<usize>],
    /// What each fold's run follows; no step where only the head is to be chosen.
    pub(super) path: Path,
}

/// Held-out logits of one candidate, fold after fold.
type Logits = Vec<Array2<f32>>;

/// The heads of all folds with one variance, and how they fare.
struct Heads {
    variance: f64,
    heads: Vec<Weights>,
    logits: Logits,
    nll: f64,
}

impl Selection<'_> {
    /// The most steps that it takes.
    pub(super) fn steps(&self) -> usize {
        self.folds.len() * self.path.steps() + self.steps_of_draws()
    }

    /// Cross-validates; `base` holds the backbone's weights before training. `steps` is the number
    /// of steps of all runs, this one's and the final.
    ///
    /// # Errors
    /// Of kind [`Kind::Cancelled`] when the observer stops, and those of training.
    pub(super) fn run(
        &self,
        trainer: &mut Trainer,
        base: &Weights,
        steps: usize,
        observe: Observer<'_>,
    ) -> Result<Choice> {
        let Heads { variance, heads, logits, .. } = self.best_heads(trainer, observe)?;
        trainer.set_head_variance(variance);
        let logits = [logits];
        let mut candidates = vec![self.candidate(0, None, &logits)?];
        let mut left_out = None;
        if self.path.steps() > 0 {
            let probes = (&heads[..], &logits[0][..]);
            let (ends, diverged) = self.ends(trainer, (base, probes), steps, observe)?;
            if let Some(error) = diverged {
                let all = self.path.stages();
                let message = format!("{error}; of {all} stages {} remain", ends.len());
                log::warn!("a run of the cross-validation diverged: {message}");
                left_out = Some(message);
            }
            for (stage, logits) in ends.into_iter().enumerate() {
                let strength = trainer.strength(self.path.scale_of(stage));
                let steps = self.path.until(stage + 1).steps();
                candidates.push(self.candidate(steps, strength, &[logits])?);
            }
        }
        let mut choice = Choice {
            folds: self.folds.len(),
            held_out: self.folds.iter().map(Vec::len).sum(),
            head_variance: variance,
            kept: best(&candidates, self.settings.gate),
            candidates,
            draws: None,
            keeps_draws: true,
            left_out,
        };
        let done = self.folds.len() * self.path.steps();
        self.compare_draws(trainer, (base, &heads), &mut choice, [done, steps], observe)?;
        Ok(choice)
    }

    /// Trains on all but each fold in turn; what is predicted of it at the end of each stage that
    /// all folds came to, and why the last stages are missing, if they are.
    fn ends(
        &self,
        trainer: &mut Trainer,
        (base, (heads, probed)): (&Weights, (&[Weights], &[Array2<f32>])),
        steps: usize,
        observe: Observer<'_>,
    ) -> Result<(Vec<Logits>, Option<Error>)> {
        let mut ends = vec![Logits::new(); self.path.stages()];
        let mut diverged = None;
        for (number, head) in heads.iter().enumerate() {
            if ends.is_empty() {
                break;
            }
            let mut start = base.clone();
            start.extend(head.iter().map(|(name, w)| (name.clone(), w.clone())));
            let (path, before) = (self.path.until(ends.len()), number * self.path.steps());
            let seed = self.settings.seed;
            let leg = Leg { number: 0, seed, path: path.clone(), is_noisy: false, before, steps };
            trainer.begin(&start, leg)?;
            let average = self.settings.averages().then(|| Average::of(&start, trainer.trained()));
            let fold = Ends {
                selection: self,
                fold: number,
                path: &path,
                shape: probed[number].dim().into(),
                ends: vec![None; path.stages()],
                average,
            };
            let (predicted, error) = self.follow(trainer, fold, &start, observe)?;
            ends.truncate(predicted.len());
            ends.iter_mut().zip(predicted).for_each(|(end, logits)| end.push(logits));
            diverged = error.or(diverged);
        }
        Ok((ends, diverged))
    }

    /// Trains on all but one fold and predicts that fold at the end of each stage, until the run
    /// diverges, if it does.
    fn follow(
        &self,
        trainer: &mut Trainer,
        mut fold: Ends<'_>,
        start: &Weights,
        observe: Observer<'_>,
    ) -> Result<(Logits, Option<Error>)> {
        let rest = self.train.subset(&self.rest(fold.fold))?;
        let ending = trainer.run(&rest, None, start, &mut Vec::new(), observe, &mut fold);
        let predicted = fold.ends.into_iter().map_while(|end| end).collect();
        match ending {
            Ok((Ending::Stopped, _)) => Err(stopped()),
            Ok(_) => Ok((predicted, None)),
            Err(error) if error.kind() == Kind::Diverged => Ok((predicted, Some(error))),
            Err(error) => Err(error),
        }
    }

    /// The examples that are not in `fold`.
    fn rest(&self, fold: usize) -> Vec<usize> {
        let held_out = &self.folds[fold];
        (0..self.train.len()).filter(|index| held_out.binary_search(index).is_err()).collect()
    }

    /// The heads with the variance of the best held-out likelihood. It has one maximum, so that the
    /// search ends where the likelihood falls.
    fn best_heads(&self, trainer: &mut Trainer, observe: Observer<'_>) -> Result<Heads> {
        let given = self.settings.head_variance.map(|variance| vec![variance]);
        let mut best: Option<Heads> = None;
        let mut latest = vec![None; self.folds.len()];
        for variance in given.unwrap_or(HEAD_VARIANCES.to_vec()) {
            let heads = self.heads(trainer, variance, &latest, observe)?;
            latest = heads.heads.iter().cloned().map(Some).collect();
            if best.as_ref().is_some_and(|best| best.nll <= heads.nll) {
                break;
            }
            best = Some(heads);
        }
        best.ok_or_else(|| Error::internal("at least one variance is tried"))
    }

    /// The linear probe of each fold's rest, from the heads `start` where there are any.
    fn heads(
        &self,
        trainer: &mut Trainer,
        variance: f64,
        start: &[Option<Weights>],
        observe: Observer<'_>,
    ) -> Result<Heads> {
        let mut is_stopped = false;
        let mut observe = |progress: Progress| {
            let control = observe(progress);
            is_stopped |= control == Control::Stop;
            control
        };
        let threads = trainer.network_mut().threads().clone();
        let (mut heads, mut logits) = (Vec::new(), Vec::new());
        for (fold, held_out) in self.folds.iter().enumerate() {
            let rest = self.rest(fold);
            let settings = ProbeSettings {
                task: self.task,
                examples: rest.len(),
                head_variance: variance,
                steps: self.settings.probe_steps,
            };
            let (rows, start) = (self.rows, start[fold].as_ref());
            let head = rows.head(self.train, &rest, settings, start, &threads, &mut observe)?;
            logits.push(head_logits(&head, &self.rows.features(held_out))?);
            heads.push(head);
        }
        if is_stopped {
            return Err(stopped());
        }
        let nll = self.candidate_at(1.0, (0, None), &[stacked(&logits)?])?.held_out.nll;
        Ok(Heads { variance, heads, logits, nll })
    }

    /// What one or more draws, each with its logits, come to at the temperature that suits their
    /// average.
    fn candidate(
        &self,
        steps: usize,
        strength: Option<f64>,
        draws: &[Logits],
    ) -> Result<Candidate> {
        let draws = draws.iter().map(stacked).collect::<Result<Vec<_>>>()?;
        let temperature = match self.rows.truth(self.task, self.train, &self.folds.concat())? {
            Some((truth, weight)) => best_temperature(&draws, truth, weight),
            None => 1.0,
        };
        self.candidate_at(temperature, (steps, strength), &draws)
    }

    /// The same at this temperature, from logits of all folds.
    fn candidate_at(
        &self,
        temperature: f64,
        (steps, strength): (usize, Option<f64>),
        draws: &[Array2<f32>],
    ) -> Result<Candidate> {
        let examples = self.folds.concat();
        let outputs = mean_of_draws(self.task, draws, temperature);
        let noise = noise_of(self.task, outputs.clone(), &self.train.subset(&examples)?)?;
        let held_out = self.rows.measure(self.task, outputs, self.train, &examples)?;
        Ok(Candidate { steps, strength, temperature, noise, held_out })
    }
}

/// What is predicted of a fold at the end of each stage of a run on the others: by the average up
/// to there, if a run ends at one.
struct Ends<'a> {
    selection: &'a Selection<'a>,
    fold: usize,
    path: &'a Path,
    /// Of the predictions.
    shape: [usize; 2],
    ends: Vec<Option<Array2<f32>>>,
    average: Option<Average>,
}

impl Ends<'_> {
    fn predict(&mut self, network: &mut Network) -> Result<Array2<f32>> {
        let Selection { rows, train, folds, .. } = self.selection;
        let held_out = &folds[self.fold];
        let Some(average) = &mut self.average else {
            return rows.outputs(network, train, held_out);
        };
        let weights = average.add(network)?;
        network.set_weights(average.mean())?;
        let logits = rows.outputs(network, train, held_out)?;
        network.set_weights(&weights)?;
        Ok(logits)
    }
}

impl Collect for Ends<'_> {
    fn after(&mut self, step: usize, network: &mut Network) -> Result<()> {
        if let Some(stage) = self.path.ended(step) {
            let logits = self.predict(network)?;
            check_finite(&logits, step)?;
            self.ends[stage] = Some(logits);
        }
        Ok(())
    }

    fn mark(&mut self) {
        self.average.iter_mut().for_each(Average::mark);
    }

    fn restore(&mut self) {
        self.average.iter_mut().for_each(Average::restore);
    }

    fn arrays(&self) -> Arrays<'_> {
        let ends = self.ends.iter().enumerate();
        let made = ends.filter_map(|(stage, end)| Some((stage, end.as_ref()?)));
        let ends = made.map(|(stage, logits)| (stage.to_string(), Array::matrix(logits)));
        ends.chain(self.average.iter().flat_map(Average::arrays)).collect()
    }

    fn recall(
        &mut self,
        kept: &Archive,
        _draws: &mut dyn Iterator<Item = Result<Archive>>,
        _like: &Weights,
    ) -> Result<()> {
        let end = |stage: usize| {
            let name = stage.to_string();
            let logits = kept.has(&name).then(|| kept.matrix(&name)).transpose()?;
            match logits.as_ref().is_none_or(|logits| logits.shape() == self.shape) {
                true => Ok(logits),
                false => Err(Error::malformed("it has predictions of something else")),
            }
        };
        let ends = (0..self.ends.len()).map(end).collect::<Result<_>>()?;
        if let Some(average) = &mut self.average {
            average.recall(kept)?;
        }
        self.ends = ends;
        Ok(())
    }

    fn needs_end(&self) -> bool {
        false
    }
}

/// The candidate with the best likelihood, of equal ones the first; not the probe without a gate,
/// if there is another.
fn best(candidates: &[Candidate], gate: bool) -> usize {
    let first = usize::from(!gate && candidates.len() > 1);
    let nll = |at: usize| candidates[at].held_out.nll;
    (first..candidates.len()).fold(first, |best, at| if nll(at) < nll(best) { at } else { best })
}

/// The last step of a run can leave the numbers without any loss being computed from them.
fn check_finite(logits: &Array2<f32>, step: usize) -> Result<()> {
    match logits.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Diverged,
            format!("after step {} predictions are no numbers", step + 1),
        )
        .hint("lower --lr, or clip the gradient with --clip")),
    }
}

fn stopped() -> Error {
    Error::new(Kind::Cancelled, "stopped by the caller")
}

fn stacked(logits: &Logits) -> Result<Array2<f32>> {
    let views: Vec<_> = logits.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).map_err(|_| Error::internal("all folds have the same classes"))
}
