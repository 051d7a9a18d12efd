//! Running plans.
//!
//! A [`Backend`] holds the resident leaves (weights, moments, prior) and any number of loaded plans
//! that share them: the step for a full batch, the one for the last batch, the forward pass. Plans
//! run one at a time and share their working memory, so inputs are written and outputs read around
//! each run.

pub mod cpu;
mod engine;
#[cfg(feature = "gpu")]
pub mod gpu;

pub use self::engine::{Choice, Engine};
use crate::error::Result;
use crate::graph::Leaf;
use crate::plan::Plan;

/// The name of a plan within its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanId(usize);

/// Something that runs plans.
pub trait Backend: Send {
    /// What it runs on, for reports.
    fn name(&self) -> String;

    /// Makes a plan ready to run; residents it names and that are new are set to zero. Working
    /// memory may move, so inputs of other plans are written after this.
    ///
    /// # Errors
    /// When a resident of that name has another length, or memory cannot be had.
    fn load(&mut self, plan: Plan) -> Result<PlanId>;

    /// A loaded plan.
    fn plan(&self, id: PlanId) -> &Plan;

    /// Sets a resident leaf.
    ///
    /// # Errors
    /// When no loaded plan names it, or its length differs.
    fn set(&mut self, leaf: &Leaf, data: &[f32]) -> Result<()>;

    /// The present value of a resident leaf.
    ///
    /// # Errors
    /// When no loaded plan names it.
    fn get(&self, leaf: &Leaf) -> Result<Vec<f32>>;

    /// Writes an input of a plan for its next run.
    ///
    /// # Errors
    /// When the plan has no such input, or its length differs.
    fn write(&mut self, plan: PlanId, input: &str, data: &[f32]) -> Result<()>;

    /// Runs a plan once. A device that works on its own may still be at it when the call returns;
    /// reading an output waits for it.
    ///
    /// # Errors
    /// For reasons of the device only.
    fn run(&mut self, plan: PlanId) -> Result<()>;

    /// Runs a plan once and waits; `observe` is called with each dispatch's number when it is done,
    /// on a device that works on its own when its stage is.
    ///
    /// # Errors
    /// For reasons of the device only.
    fn run_observed(&mut self, plan: PlanId, observe: &mut dyn FnMut(usize)) -> Result<()>;

    /// Reads an output of the plan that ran last.
    ///
    /// # Errors
    /// When the plan has no such output, or `data` has another length.
    fn read(&mut self, plan: PlanId, output: &str, data: &mut [f32]) -> Result<()>;

    /// Bytes the backend holds for all loaded plans together.
    fn bytes(&self) -> usize;

    /// What [`bytes`](Backend::bytes) will be when these plans are loaded too: residents that plans
    /// share count once, working memory as the largest needs it.
    ///
    /// # Errors
    /// When a plan needs something that the backend does not offer at any amount of memory.
    fn bytes_with(&self, plans: &[&Plan]) -> Result<usize>;
}
