//! Launches: what runs on a device for a dispatch, without the device.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytemuck::bytes_of;

use super::params::Uniform;

/// Threads of a workgroup.
pub(super) const WORKGROUP: usize = 256;

/// A pipeline: a shader, the text of its variant, an entry point, and numbers known when it is
/// made.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub shader: &'static str,
    pub variant: String,
    pub entry: &'static str,
    pub overrides: Vec<(&'static str, u32)>,
    /// Numbers and kinds of its bindings.
    pub layout: Vec<(u32, Access)>,
}

impl Program {
    fn key(&self) -> (&str, &str, &str, &[(&'static str, u32)]) {
        (self.shader, &self.variant, self.entry, &self.overrides)
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Program {}

impl Hash for Program {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// How a shader uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Uniform,
    Read,
    Write,
}

/// What a binding is bound to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bound {
    /// An operand of the dispatch.
    Operand(usize),
    /// A result of the dispatch.
    Result(usize),
    /// One shard of an operand that the device holds in shards.
    Shard(usize, usize),
    /// The scratch of the launch's dispatch.
    Scratch,
    /// Integers of the kernel's geometry.
    Table(Arc<[u32]>),
    /// The launch's uniforms.
    Params(Vec<u8>),
}

/// One binding.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binding {
    pub at: u32,
    pub access: Access,
    pub bound: Bound,
    /// First element and number of elements; the whole buffer if none is given.
    pub window: Option<(usize, usize)>,
}

/// One launch of a pipeline.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub program: Arc<Program>,
    pub bindings: Vec<Binding>,
    /// Workgroups, before they are folded into a grid.
    pub workgroups: usize,
    /// Elements of scratch it uses.
    pub scratch_len: usize,
}

/// Collects a launch.
pub(super) struct Builder {
    program: Program,
    bindings: Vec<Binding>,
}

impl Builder {
    /// A launch of `shader` with its uniforms at binding 0.
    pub(super) fn new(shader: &'static str, params: &impl Uniform) -> Self {
        let program = Program {
            shader,
            variant: String::new(),
            entry: "main",
            overrides: Vec::new(),
            layout: Vec::new(),
        };
        let bytes = bytes_of(params).to_vec();
        Builder { program, bindings: Vec::new() }.bind(0, Access::Uniform, Bound::Params(bytes))
    }

    pub(super) fn entry(mut self, entry: &'static str) -> Self {
        self.program.entry = entry;
        self
    }

    pub(super) fn variant(mut self, text: &str) -> Self {
        self.program.variant.push_str(text);
        self
    }

    pub(super) fn overrides(mut self, values: &[(&'static str, u32)]) -> Self {
        self.program.overrides.extend_from_slice(values);
        self
    }

    pub(super) fn bind(self, at: u32, access: Access, bound: Bound) -> Self {
        self.bind_window(at, access, bound, None)
    }

    pub(super) fn bind_window(
        mut self,
        at: u32,
        access: Access,
        bound: Bound,
        window: Option<(usize, usize)>,
    ) -> Self {
        self.program.layout.push((at, access));
        self.bindings.push(Binding { at, access, bound, window });
        self
    }

    pub(super) fn read(self, at: u32, operand: usize) -> Self {
        self.bind(at, Access::Read, Bound::Operand(operand))
    }

    /// The launch with so many workgroups, which write so much scratch.
    pub(super) fn launch(self, workgroups: usize, scratch_len: usize) -> Launch {
        let Builder { program, bindings } = self;
        Launch { program: Arc::new(program), bindings, workgroups, scratch_len }
    }

    /// The launch with a thread for each of `len` elements.
    pub(super) fn elements(self, len: usize) -> Launch {
        self.launch(len.div_ceil(WORKGROUP), 0)
    }
}

/// Folds a number of workgroups into a grid below the limit of a dimension.
pub(super) fn grid(workgroups: usize, limit: u32) -> [u32; 3] {
    let limit = limit as usize;
    if workgroups <= limit {
        return [workgroups as u32, 1, 1];
    }
    let rows = workgroups.div_ceil(limit);
    [workgroups.div_ceil(rows) as u32, rows as u32, 1]
}

/// The most of a number of workgroups whose grid holds none beside them.
pub(super) fn exact(workgroups: usize, limit: u32) -> usize {
    let limit = limit as usize;
    if workgroups <= limit { workgroups } else { workgroups / limit * limit }
}
