//! One leg of a run: what it follows, where it is, and what is kept of it.

use serde::{Deserialize, Serialize};

use crate::adapt::archive::{Archive, Arrays};
use crate::adapt::path::Path;
use crate::adapt::{Epoch, Observer};
use crate::data::Dataset;
use crate::error::Result;
use crate::graph::Leaf;
use crate::posterior::Network;
use crate::prior::Weights;

/// One pass along a path, of several in a run: a fold of a cross-validation, a chain, or a member
/// of an ensemble.
#[derive(Clone, Debug)]
pub(in crate::adapt) struct Leg {
    /// The chain or member, counted from 0.
    pub(in crate::adapt) number: usize,
    /// Decides its batches, augmentation and noise.
    pub(in crate::adapt) seed: u64,
    pub(in crate::adapt) path: Path,
    /// Whether a sampler adds its noise.
    pub(in crate::adapt) is_noisy: bool,
    /// Steps that the observer was told of before.
    pub(in crate::adapt) before: usize,
    /// Steps that it will have been told of after all legs.
    pub(in crate::adapt) steps: usize,
}

impl Leg {
    /// The only one.
    pub(super) fn only(seed: u64, path: Path) -> Self {
        Leg { number: 0, seed, is_noisy: true, before: 0, steps: path.steps(), path }
    }
}

/// What the steps of one leg read, tell and fill.
pub(super) struct Course<'a, 'o> {
    pub(super) train: &'a Dataset,
    pub(super) validation: Option<&'a Dataset>,
    /// Where it starts.
    pub(super) start: &'a Weights,
    /// Epochs of all legs, this one's from the entry `earlier` on.
    pub(super) history: &'a mut Vec<Epoch>,
    pub(super) earlier: usize,
    pub(super) observe: Observer<'o>,
    pub(super) collect: &'a mut dyn Collect,
}

/// The part of an epoch that was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::adapt) struct Tally {
    pub(super) steps: usize,
    pub(super) examples: usize,
    /// Of the losses of its examples.
    pub(super) loss: f64,
    /// At its last step.
    pub(super) penalty: f32,
}

impl Tally {
    pub(super) fn add(&mut self, examples: usize, loss: f32, penalty: f32) {
        self.steps += 1;
        self.examples += examples;
        self.loss += f64::from(loss) * examples as f64;
        self.penalty = penalty;
    }

    /// Mean loss of its examples.
    pub(super) fn mean_loss(&self) -> f32 {
        (self.loss / f64::from(self.examples.max(1) as u32)) as f32
    }
}

/// A copy of everything that steps change, as it was before step `done`.
#[derive(Default)]
pub(in crate::adapt) struct Shadow {
    pub(super) done: usize,
    /// The part of the epoch before it.
    pub(super) tally: Tally,
    /// Entries of the run's history at that time.
    pub(super) epochs: usize,
    /// Empty before the first: then the run starts again.
    pub(super) values: Vec<(Leaf, Vec<f32>)>,
}

/// What is kept of a run besides its last weights; by default nothing. Where a device fails, steps
/// are made again from the last shadow on, and so are these calls.
pub(in crate::adapt) trait Collect {
    /// Looks at the network after step number `step`.
    fn after(&mut self, _step: usize, _network: &mut Network) -> Result<()> {
        Ok(())
    }

    /// A shadow was taken before the next step.
    fn mark(&mut self) {}

    /// Steps go on from the last mark, or from the first step if there was none.
    fn restore(&mut self) {}

    /// What it holds, for a checkpoint, but for its draws.
    fn arrays(&self) -> Arrays<'_> {
        Arrays::new()
    }

    /// Draws that were taken. They change no more, and are kept one by one.
    fn draws(&self) -> usize {
        0
    }

    /// What draw number `number` consists of.
    fn draw(&self, _number: usize) -> Arrays<'_> {
        Arrays::new()
    }

    /// Holds what a checkpoint kept, all of it or, where that fails, what it held before; `like`
    /// has weights of the names and shapes of all draws.
    fn recall(
        &mut self,
        _kept: &Archive,
        _draws: &mut dyn Iterator<Item = Result<Archive>>,
        _like: &Weights,
    ) -> Result<()> {
        Ok(())
    }

    /// Whether the weights at the end of the leg are of use.
    fn needs_end(&self) -> bool {
        true
    }
}

impl Collect for () {}
