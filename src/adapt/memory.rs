//! How a run keeps within its memory.
//!
//! All plans of a run are compiled before it starts, and the backend tells what they take together,
//! to the byte. Under a cap, a step that takes too much is planned in other ways that make the same
//! update: with activations computed again, in micro-batches whose gradients add up, or both. Of
//! those that fit, the one with the least work is taken. If none fits, the run is refused.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::objective::Objective;
use super::settings::Settings;
use crate::error::{Error, Kind, Result};
use crate::plan::Plan;
use crate::posterior::{FORWARD_BATCH, Network};
use crate::step::{Recipe, apply_step, gradient_step, train_step};

/// Floating-point operations that take as long as moving one element to or from memory.
const TRAFFIC: u64 = 16;

/// The memory of a run, and what was done to keep it small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Bytes that the backend holds at most: weights, gradients, moments, prior, activations and
    /// scratch. Images and the host's copies of weights are not among them.
    pub bytes: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Examples that a step computes at once: those of a batch, or fewer.
    pub micro_batch: usize,
    /// Whether activations are computed a second time instead of kept.
    pub recomputes: bool,
    /// Examples of a forward pass without training.
    pub forward_batch: usize,
}

/// What decides the memory of a run.
pub(super) struct Job<'a> {
    pub(super) settings: &'a Settings,
    pub(super) objective: Objective,
    pub(super) recipe: Recipe,
    pub(super) extent: &'a Extent,
}

/// The sizes of everything that a trainer will do.
#[derive(Clone, Debug, Default)]
pub(super) struct Extent {
    /// Number of examples, and of steps, of each training run.
    pub(super) runs: Vec<[usize; 2]>,
    /// Number of examples of each pass without training.
    pub(super) passes: Vec<usize>,
}

/// The compiled steps of a run.
pub(super) struct Steps {
    pub(super) footprint: Footprint,
    /// Whole steps, or those that add up gradients, by their number of examples.
    pub(super) plans: BTreeMap<usize, Plan>,
    /// What follows the last micro-batch of a batch; none if a step is one plan.
    pub(super) apply: Option<Plan>,
}

/// The steps with the least work among those that the cap has room for.
///
/// # Errors
/// When none fits, with what the smallest takes; when the network cannot be trained.
pub(super) fn choose(network: &mut Network, job: &Job<'_>) -> Result<Steps> {
    let cap =
        job.settings.memory_cap.map_or(usize::MAX, |cap| cap.try_into().unwrap_or(usize::MAX));
    let mut forward = Forward::default();
    let mut best: Option<(u64, Steps)> = None;
    let (mut micro, mut smallest) = (job.largest_batch(), usize::MAX);
    let mut refused = None;
    loop {
        let mut as_it_is = false;
        for recomputes in [false, true] {
            let mut steps = compile(network, job, micro, recomputes)?;
            let least = match forward.fit(network, job, &mut steps, cap) {
                // A device that cannot bind an activation of many images may bind one of fewer.
                Err(error) if error.kind() == Kind::Unsupported => {
                    refused = Some(error);
                    continue;
                }
                other => other?,
            };
            smallest = smallest.min(least);
            if least > cap {
                continue;
            }
            as_it_is = !recomputes;
            let work = steps.work(job.largest_batch());
            if best.as_ref().is_none_or(|&(least, _)| work < least) {
                best = Some((work, steps));
            }
            // Computing again what fits is work for nothing.
            break;
        }
        // So are smaller micro-batches.
        if as_it_is || micro <= 1 || !job.objective.is_separable() {
            break;
        }
        micro = micro.div_ceil(2);
    }
    let (_, steps) = best.ok_or_else(|| match refused {
        Some(error) if smallest == usize::MAX => error,
        _ => too_small(cap, smallest, job.objective),
    })?;
    log::info!("the run takes {:?}", steps.footprint);
    Ok(steps)
}

fn too_small(cap: usize, smallest: usize, objective: Objective) -> Error {
    let message = format!(
        "the memory cap is {cap} bytes; with everything done to save memory the run takes \
         {smallest}"
    );
    let mebibytes = smallest.div_ceil(1 << 20);
    let expected =
        format!("expected a cap of at least {smallest} bytes (--memory-cap {mebibytes}M)");
    let less = match objective.is_separable() {
        true => {
            "frozen parameters (--freeze), smaller images, a prior of lower rank, sgd instead of \
             adamw, and sgld instead of sghmc take less"
        }
        false => {
            "a contrastive loss compares all examples of a batch, so that it cannot be split; a \
             smaller --batch takes less"
        }
    };
    Error::invalid(message).hint(format!("{expected}; {less}"))
}

impl Job<'_> {
    /// The numbers of examples that batches have, the largest first; none without steps.
    fn batches(&self) -> BTreeSet<usize> {
        let batch_size = self.settings.batch_size;
        let runs = self.extent.runs.iter().filter(|[_, steps]| *steps > 0);
        let of = |&[examples, steps]: &[usize; 2]| {
            let mut sizes = batch_sizes(examples, batch_size);
            // A run shorter than an epoch does not come to its last batch.
            if steps < examples.div_ceil(batch_size) {
                sizes.remove(&(examples % batch_size));
            }
            sizes
        };
        runs.flat_map(of).collect()
    }

    fn largest_batch(&self) -> usize {
        let examples = self.extent.runs.iter().map(|[examples, _]| *examples).max().unwrap_or(0);
        self.settings.batch_size.min(examples).max(1)
    }
}

/// The numbers of examples of the batches of at most `size` that `total` examples make.
fn batch_sizes(total: usize, size: usize) -> BTreeSet<usize> {
    [total.min(size), total % size].into_iter().filter(|&size| size > 0).collect()
}

/// The steps in micro-batches of `micro` examples.
fn compile(network: &Network, job: &Job<'_>, micro: usize, recomputes: bool) -> Result<Steps> {
    let is_whole = micro >= job.largest_batch();
    let sizes = job.batches().into_iter().flat_map(|batch| batch_sizes(batch, micro));
    let batch = job.largest_batch();
    let footprint = Footprint { bytes: 0, batch, micro_batch: micro, recomputes, forward_batch: 0 };
    let mut steps = Steps { footprint, plans: BTreeMap::new(), apply: None };
    for size in sizes.collect::<BTreeSet<usize>>() {
        let graph = job.objective.graph(network, size)?;
        let graph = match is_whole {
            true => train_step(graph, &job.recipe)?,
            false => gradient_step(graph, &job.recipe)?,
        };
        if !is_whole && steps.apply.is_none() {
            steps.apply = Some(Plan::compile(&apply_step(&graph, &job.recipe)?)?);
        }
        let plan = match recomputes {
            true => Plan::compile_recomputing(&graph)?,
            false => Plan::compile(&graph)?,
        };
        steps.plans.insert(size, plan);
    }
    Ok(steps)
}

impl Steps {
    /// What a batch of `batch` examples costs, in floating-point operations.
    fn work(&self, batch: usize) -> u64 {
        let micro = self.footprint.micro_batch;
        let cost = |plan: &Plan| plan.flops() + TRAFFIC * plan.traffic();
        let of = |size: usize| self.plans.get(&size).map_or(0, cost);
        let whole = (batch / micro) as u64 * of(micro);
        whole + of(batch % micro) + self.apply.as_ref().map_or(0, cost)
    }
}

/// The forward passes without training that were compiled so far, by number of examples.
#[derive(Default)]
struct Forward(BTreeMap<usize, Plan>);

impl Forward {
    /// Gives `steps` the largest batch of the forward pass that the cap has room for; returns what
    /// the run takes with it, or with the smallest if none fits.
    fn fit(
        &mut self,
        network: &mut Network,
        job: &Job<'_>,
        steps: &mut Steps,
        cap: usize,
    ) -> Result<usize> {
        let mut batch = FORWARD_BATCH;
        loop {
            let bytes = self.bytes(network, job, steps, batch)?;
            if bytes <= cap || batch == 1 {
                steps.footprint.bytes = bytes;
                steps.footprint.forward_batch = batch;
                return Ok(bytes);
            }
            batch /= 2;
        }
    }

    fn bytes(
        &mut self,
        network: &mut Network,
        job: &Job<'_>,
        steps: &Steps,
        batch: usize,
    ) -> Result<usize> {
        let sizes: BTreeSet<usize> =
            job.extent.passes.iter().flat_map(|&n| batch_sizes(n, batch)).collect();
        for &size in &sizes {
            if let Entry::Vacant(entry) = self.0.entry(size) {
                entry.insert(Plan::compile(&network.graph(size)?)?);
            }
        }
        let forward = sizes.iter().filter_map(|size| self.0.get(size));
        let plans: Vec<&Plan> = steps.plans.values().chain(&steps.apply).chain(forward).collect();
        network.backend().bytes_with(&plans)
    }
}
