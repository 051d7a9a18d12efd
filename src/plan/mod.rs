//! From a graph to an inert schedule of dispatches.
//!
//! [`Plan::compile`] does everything that can fail or allocate before the first step runs: it picks
//! the order (`schedule`), fuses element-wise chains into tapes and tapes into the products before
//! them (`lower`, `fuse`), assigns memory (`memory`) and proves the result sound (`check`). A plan
//! holds no device type: both backends and the text form read the same list.
//! [`Plan::compile_recomputing`] does the same to variants of the graph that keep less of the
//! forward pass (`recompute`).

mod check;
mod fuse;
mod lower;
mod memory;
mod recompute;
mod schedule;
mod tape;
mod text;

#[cfg(test)]
mod tests;

#[cfg(feature = "gpu")]
pub(crate) use self::memory::Life;
use crate::error::Result;
use crate::graph::{Graph, Leaf, Stage};
use crate::kernel::Kernel;
use crate::tensor::{Shape, Tensor};

/// The name of a buffer within its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub(crate) u32);

impl BufferId {
    /// Position in [`Plan::buffers`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a buffer's memory comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In the arena, shared over time with others, at this offset in elements.
    Arena(usize),
    /// A resident leaf, shared by all plans of a backend.
    Resident(Leaf),
    /// A constant, uploaded when the plan is loaded.
    Constant(Tensor),
}

/// A piece of memory of `len` elements.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Buffer {
    pub len: usize,
    pub place: Place,
}

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// What runs, with its geometry.
    pub kernel: Kernel,
    /// Operands, in the kernel's order.
    pub reads: Vec<BufferId>,
    /// Results, in the kernel's order. An [`Kernel::Update`] works on its first operands in place:
    /// its results are the same buffers.
    pub writes: Vec<BufferId>,
    /// Where it comes from, for listings.
    pub origin: String,
    /// Which part of a step it belongs to.
    pub stage: Stage,
}

/// A named way in or out of a plan.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Port {
    pub name: String,
    pub shape: Shape,
    pub buffer: BufferId,
}

/// An ordered list of dispatches with their memory.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    buffers: Vec<Buffer>,
    dispatches: Vec<Dispatch>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    arena_len: usize,
}

impl Plan {
    /// Compiles a graph.
    ///
    /// # Errors
    /// When the graph does not check, or holds something no kernel can do; the error names the
    /// node.
    pub fn compile(graph: &Graph) -> Result<Plan> {
        graph.check()?;
        let mut plan = lower::lower(graph, &schedule::order(graph))?;
        fuse::fuse_epilogues(&mut plan);
        schedule::hoist_updates(&mut plan);
        memory::assign(&mut plan);
        check::check(&plan)?;
        Ok(plan)
    }

    /// Compiles a graph to a plan with a shorter arena that computes parts of the forward pass a
    /// second time, when there is one; its results are those of [`Plan::compile`].
    ///
    /// # Errors
    /// Those of [`Plan::compile`].
    pub fn compile_recomputing(graph: &Graph) -> Result<Plan> {
        let mut best = Plan::compile(graph)?;
        for variant in recompute::variants(graph)? {
            let plan = Plan::compile(&variant)?;
            if plan.arena_len < best.arena_len {
                best = plan;
            }
        }
        Ok(best)
    }

    /// All buffers.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// The dispatches in order.
    pub fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// What the caller writes before each run.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What the caller may read after a run.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Elements of the arena.
    pub fn arena_len(&self) -> usize {
        self.arena_len
    }

    /// The life of every arena buffer that is used.
    #[cfg(feature = "gpu")]
    pub(crate) fn lives(&self) -> Vec<Option<Life>> {
        memory::lives(self)
    }

    /// Elements of scratch the largest dispatch needs with this many workers.
    pub fn scratch_len(&self, workers: usize) -> usize {
        self.dispatches.iter().map(|d| d.kernel.scratch_len(workers)).max().unwrap_or(0)
    }

    /// Bytes the plan keeps while it runs with this many workers: arena, scratch, residents and
    /// constants.
    pub fn bytes(&self, workers: usize) -> usize {
        let outside = |b: &Buffer| if matches!(b.place, Place::Arena(_)) { 0 } else { b.len };
        let outside: usize = self.buffers.iter().map(outside).sum();
        4 * (self.arena_len + self.scratch_len(workers) + outside)
    }

    /// Elements that the dispatches of one run read and write.
    pub fn traffic(&self) -> u64 {
        let bindings = |d: &Dispatch| d.reads.iter().chain(&d.writes).copied().collect::<Vec<_>>();
        let len = |buffer: BufferId| self.buffers[buffer.index()].len as u64;
        self.dispatches.iter().flat_map(bindings).map(len).sum()
    }

    /// Floating-point operations of one run, multiply-adds counted as two.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|d| d.kernel.flops()).sum()
    }
}
