//! Whether an average over draws is worth having: what is held out is predicted by draws that were
//! made on the others, as the run on all examples would make them.
//!
//! Draws from a wide posterior of few examples can predict worse than its mode does, or than the
//! linear probe; they have to do at least as well as the probe. That the mode does better still is
//! no reason to leave them out: they tell how unsure the weights are, which it cannot. Chains are
//! made shorter by the number of folds, so that all of them together take as long as those of the
//! run; what follows the path takes as long as its cross-validation.

use ndarray::Array2;

use super::{Candidate, Choice, Logits, Selection, best, check_finite, stopped};
use crate::adapt::posterior::{self, Drawn, PosteriorKind, Sampling};
use crate::adapt::settings::Settings;
use crate::adapt::trainer::Trainer;
use crate::adapt::{Ending, Observer};
use crate::error::{Kind, Result};
use crate::prior::Weights;

/// Steps of a chain in cross-validation.
pub(in super::super) fn chain_steps(settings: &Settings, folds: usize) -> usize {
    (settings.steps / folds.max(1)).max(1)
}

impl Selection<'_> {
    /// The most steps that draws are made in.
    pub(super) fn steps_of_draws(&self) -> usize {
        let posterior = &self.settings.posterior;
        let chain = chain_steps(self.settings, self.folds.len());
        match self.settings.gate && posterior.has_draws(&self.path) {
            true => self.folds.len() * posterior.steps(&self.path, chain),
            false => 0,
        }
    }

    /// Compares draws with the linear probe, if the settings ask for both, and has `choice` keep
    /// them if they do as well. They are made around the end of the best stage of the path, those
    /// of Laplace around what is kept without them. The observer was told of `before` steps and
    /// will have been told of `steps`.
    pub(super) fn compare_draws(
        &self,
        trainer: &mut Trainer,
        (base, heads): (&Weights, &[Weights]),
        choice: &mut Choice,
        [before, steps]: [usize; 2],
        observe: Observer<'_>,
    ) -> Result<()> {
        let posterior = &self.settings.posterior;
        let stage = match posterior.kind {
            PosteriorKind::Laplace => choice.kept,
            _ => best(&choice.candidates, false),
        };
        let path = self.path.until(stage);
        if !self.settings.gate || !posterior.has_draws(&path) {
            return Ok(());
        }
        let chain = chain_steps(self.settings, self.folds.len());
        let settings = Settings { steps: chain, ..self.settings.clone() };
        let (mut draws, mut before) = (Vec::new(), before);
        for (fold, head) in heads.iter().enumerate() {
            let rest = self.train.subset(&self.rest(fold))?;
            let mut start = base.clone();
            start.extend(head.iter().map(|(name, w)| (name.clone(), w.clone())));
            let Drawn { draws: of_fold, ending, notice } =
                posterior::approximation(posterior, &path).draw(&mut Sampling {
                    trainer,
                    settings: &settings,
                    head_variance: choice.head_variance,
                    train: &rest,
                    validation: None,
                    start: &start,
                    path: &path,
                    before,
                    steps,
                    history: &mut Vec::new(),
                    observe,
                })?;
            before += posterior.steps(&path, chain);
            match ending {
                Ending::Completed => {}
                Ending::Stopped => return Err(stopped()),
                Ending::Diverged => {
                    choice.leave_out_draws(notice.unwrap_or_default().error);
                    return Ok(());
                }
            }
            match self.predict(trainer, fold, &of_fold, &mut draws) {
                Err(error) if error.kind() == Kind::Diverged => {
                    choice.leave_out_draws(error.to_string());
                    return Ok(());
                }
                other => other?,
            }
        }
        let Candidate { steps, strength, .. } = choice.candidates[stage];
        let draws = self.candidate(steps, strength, &draws)?;
        choice.keeps_draws = draws.held_out.nll <= choice.candidates[0].held_out.nll;
        if choice.keeps_draws {
            choice.kept = stage;
        }
        choice.draws = Some(draws);
        Ok(())
    }

    /// Adds what each of the draws predicts for a fold to that draw's logits of earlier folds.
    fn predict(
        &self,
        trainer: &mut Trainer,
        fold: usize,
        of_fold: &[Weights],
        draws: &mut Vec<Logits>,
    ) -> Result<()> {
        draws.resize(draws.len().max(of_fold.len()), Logits::new());
        for (weights, logits) in of_fold.iter().zip(draws) {
            logits.push(self.outputs(trainer, fold, weights)?);
        }
        Ok(())
    }

    /// What one draw predicts for a fold, on another device where its own fails.
    fn outputs(
        &self,
        trainer: &mut Trainer,
        fold: usize,
        weights: &Weights,
    ) -> Result<Array2<f32>> {
        loop {
            let network = trainer.network_mut();
            let set = network.set_weights(weights);
            match set.and_then(|()| self.rows.outputs(network, self.train, &self.folds[fold])) {
                Err(error) if error.kind() == Kind::Device => trainer.fall_back(error, weights)?,
                other => {
                    let logits = other?;
                    check_finite(&logits, self.settings.steps)?;
                    return Ok(logits);
                }
            }
        }
    }
}

impl Choice {
    /// Draws diverged, and the end of the path is kept.
    fn leave_out_draws(&mut self, reason: String) {
        log::warn!("draws of the cross-validation diverged: {reason}");
        self.keeps_draws = false;
        self.left_out = Some(match self.left_out.take() {
            Some(earlier) => format!("{earlier}; {reason}"),
            None => reason,
        });
    }
}
