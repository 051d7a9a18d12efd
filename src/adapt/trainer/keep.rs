//! How a trainer leaves checkpoints and goes on from them.

use std::collections::HashMap;
use std::path::Path;

use ndarray::Array2;

use super::{Course, Shadow, Tally, Trainer};
use crate::adapt::Ending;
use crate::adapt::archive::{Array, Arrays, put_weights};
use crate::adapt::checkpoint::{Journal, State};
use crate::error::{Error, Kind, Result};
use crate::graph::{Leaf, LeafKind};
use crate::plan::Place;
use crate::prior::Weights;
use crate::tensor::{Shape, tensor};

/// The file of features, and the array in it.
const FEATURES: &str = "features";

/// Where the last weights of a leg are.
const END: &str = "end/";

/// How a leg ended, and the weights then, as [`Trainer::run`] gives it.
type Outcome = Result<(Ending, Weights)>;

impl Trainer {
    /// Keeps checkpoints from now on, and goes on from those that are there.
    pub(in crate::adapt) fn set_journal(&mut self, journal: Option<Journal>) {
        self.journal = journal;
    }

    /// Keeps no checkpoints any more: what follows is not what the run would do if nobody had
    /// stopped it.
    pub(in crate::adapt) fn close_journal(&mut self) {
        self.journal = None;
    }

    /// Features of the examples that an earlier process computed.
    pub(in crate::adapt) fn kept_features(&self) -> Option<Array2<f32>> {
        self.journal.as_ref()?.get(FEATURES)?.matrix(FEATURES).ok()
    }

    /// Keeps the features of the examples.
    pub(in crate::adapt) fn keep_features(&mut self, features: &Array2<f32>) {
        let ran_on = self.runs_on();
        if let Some(journal) = &mut self.journal {
            let arrays = Arrays::from([(FEATURES.to_string(), Array::matrix(features))]);
            journal.put(FEATURES, &arrays, &ran_on);
        }
    }

    /// What this leg came to in an earlier process, if it ended there; the network stays where it
    /// is. Else, if it was begun there, the trainer is where it was. A file that does not serve is
    /// passed over: what it held is made again.
    pub(super) fn recall(&mut self, course: &mut Course<'_, '_>) -> Result<Option<Outcome>> {
        let files = match &self.journal {
            Some(journal) => journal.of_leg(self.legs)?,
            None => return Ok(None),
        };
        for path in files {
            match self.take_up(&path, course) {
                Ok(outcome) => return Ok(outcome),
                Err(error) => log::warn!("{}: {error}; it is not used", path.display()),
            }
        }
        Ok(None)
    }

    fn take_up(&mut self, path: &Path, course: &mut Course<'_, '_>) -> Result<Option<Outcome>> {
        let (ran_on, leaves) = (self.runs_on(), self.changing());
        let Some(journal) = &mut self.journal else { return Ok(None) };
        let (entry, archive) = journal.read(path, &ran_on)?;
        let end = match (&entry.state, course.collect.needs_end()) {
            (State::Ended { diverged: None }, true) => archive.weights(END, course.start)?,
            _ => Weights::new(),
        };
        let value = |leaf: Leaf| Ok((leaf.clone(), archive.singles(&name_of(&leaf))?));
        let values = match entry.state {
            State::Going { .. } => leaves.into_iter().map(value).collect::<Result<_>>()?,
            State::Ended { .. } => Vec::new(),
        };
        let (done, tally, loss_limit) = match entry.state {
            State::Going { done, tally, loss_limit } => (done, tally, loss_limit),
            State::Ended { .. } => Default::default(),
        };
        if done > self.leg.path.steps() || tally.steps > done {
            return Err(Error::malformed("it is of a step that the run has not"));
        }
        let mut draws = journal.draws(entry.leg, entry.draws);
        course.collect.recall(&archive, &mut draws, course.start)?;
        drop(draws);
        course.history.extend(entry.epochs);
        if let State::Ended { diverged } = entry.state {
            return Ok(Some(match diverged {
                Some(reason) => Err(Error::new(Kind::Diverged, reason)),
                None => Ok((Ending::Completed, end)),
            }));
        }
        log::info!("going on from step {done} of part {} of the run", entry.leg + 1);
        journal.set_draws(entry.draws);
        self.loss_limit = loss_limit;
        self.shadow = Shadow { done, tally, epochs: course.history.len(), values };
        let set = match self.plans.is_empty() {
            // There may be no step left, but a validation.
            true => self.weights_of_shadow(course.start).and_then(|w| self.network.set_weights(&w)),
            false => self.set_shadow(),
        };
        if let Err(error) = set {
            self.recover(error, course.start)?;
        }
        Ok(None)
    }

    /// The weights in the shadow, and those of `start` where it has none.
    pub(super) fn weights_of_shadow(&self, start: &Weights) -> Result<Weights> {
        let mut weights = start.clone();
        let values = self.shadow.values.iter().filter(|(leaf, _)| leaf.kind == LeafKind::Param);
        for (Leaf { name, .. }, value) in values {
            let known = start.get(name).or_else(|| self.network.model().weight(name));
            let shape = known.map_or([value.len()].into(), |weight| Shape::from(weight.shape()));
            weights.insert(name.clone(), tensor(&shape, value.clone())?);
        }
        Ok(weights)
    }

    /// Keeps where the leg is: before step `done`, in an epoch of which `tally` was made.
    pub(super) fn keep_position(&mut self, done: usize, tally: Tally, course: &Course<'_, '_>) {
        let Some(mut journal) = self.journal.take() else { return };
        let state = State::Going { done, tally, loss_limit: self.loss_limit };
        let (lens, backend) = (self.lens(), self.network.residents());
        let array = |leaf: Leaf| {
            let len = lens.get(&leaf).copied().unwrap_or_default();
            (name_of(&leaf), Array::later(len, move || backend.get(&leaf)))
        };
        let arrays: Arrays<'_> = self.changing().into_iter().map(array).collect();
        self.keep(&mut journal, state, course, arrays);
        self.journal = Some(journal);
    }

    /// Keeps what the leg came to, if it was not stopped.
    pub(super) fn keep_outcome(&mut self, outcome: &Outcome, course: &Course<'_, '_>) {
        let mut arrays = Arrays::new();
        let diverged = match outcome {
            Ok((Ending::Completed, end)) => {
                if course.collect.needs_end() {
                    put_weights(&mut arrays, END, end);
                }
                None
            }
            Err(error) if error.kind() == Kind::Diverged => Some(error.to_string()),
            _ => return,
        };
        let Some(mut journal) = self.journal.take() else { return };
        self.keep(&mut journal, State::Ended { diverged }, course, arrays);
        self.journal = Some(journal);
    }

    fn keep<'a>(
        &self,
        journal: &mut Journal,
        state: State,
        course: &'a Course<'_, '_>,
        arrays: Arrays<'a>,
    ) {
        let (leg, epochs) = ((self.legs, state), &course.history[course.earlier..]);
        journal.keep(leg, epochs, &*course.collect, arrays, &self.runs_on());
    }

    /// Lengths of what is resident.
    fn lens(&self) -> HashMap<Leaf, usize> {
        let backend = self.network.residents();
        let plans = self.plans.values().chain(&self.apply);
        let buffers = plans.flat_map(|&plan| backend.plan(plan).buffers());
        let residents = buffers.filter_map(|buffer| match &buffer.place {
            Place::Resident(leaf) => Some((leaf.clone(), buffer.len)),
            _ => None,
        });
        residents.collect()
    }

    /// The device, which rounding depends on; on the number of threads it does not.
    fn runs_on(&self) -> String {
        match self.network.engine().can_fail() {
            true => self.network.residents().name(),
            false => "the processor".to_string(),
        }
    }
}

fn name_of(leaf: &Leaf) -> String {
    let kind = match leaf.kind {
        LeafKind::Param => "param",
        LeafKind::State | LeafKind::Input => "state",
    };
    format!("{kind}/{}", leaf.name)
}
