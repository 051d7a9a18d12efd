//! The text form of a plan: one line a dispatch.

use std::fmt;

use super::{BufferId, Place, Plan};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "arena {} elements, {} dispatches", self.arena_len, self.dispatches.len())?;
        for port in &self.inputs {
            writeln!(f, "input {} {} = {}", port.name, port.shape, self.buffer_text(port.buffer))?;
        }
        for dispatch in &self.dispatches {
            let list = |buffers: &[BufferId]| {
                buffers.iter().map(|&b| self.buffer_text(b)).collect::<Vec<_>>().join(", ")
            };
            write!(f, "{} = {}", list(&dispatch.writes), dispatch.kernel)?;
            writeln!(f, "({})   # {}", list(&dispatch.reads), dispatch.origin)?;
        }
        for port in &self.outputs {
            writeln!(f, "output {} {} = {}", port.name, port.shape, self.buffer_text(port.buffer))?;
        }
        Ok(())
    }
}

impl Plan {
    fn buffer_text(&self, id: BufferId) -> String {
        let buffer = &self.buffers[id.index()];
        match &buffer.place {
            Place::Arena(offset) => format!("@{offset}+{}", buffer.len),
            Place::Resident(leaf) => format!("\"{}\"", leaf.name),
            Place::Constant(_) => format!("const+{}", buffer.len),
        }
    }
}
