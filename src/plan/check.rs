//! The proof that a plan is sound, on which the backends' memory access rests.
//!
//! After this check every dispatch has as many operands and results as its kernel takes, of the
//! lengths its geometry says; every operand is written before it is read; buffers that are alive
//! together do not overlap; and no result shares memory with an operand but an update's own.

use super::{BufferId, Dispatch, Place, Plan};
use crate::error::{Context, Error, Result};
use crate::kernel::Kernel;

/// Checks the whole plan.
pub(super) fn check(plan: &Plan) -> Result<()> {
    let mut state = State { plan, owner: vec![], written: vec![false; plan.buffers.len()] };
    for (index, buffer) in plan.buffers.iter().enumerate() {
        state.written[index] = !matches!(buffer.place, Place::Arena(_));
    }
    for port in &plan.inputs {
        state.write(port.buffer)?;
    }
    for (index, dispatch) in plan.dispatches.iter().enumerate() {
        let scene =
            || format!("dispatch {index} ({}, {})", dispatch.kernel.name(), dispatch.origin);
        check_bindings(plan, dispatch).context(scene)?;
        state.step(dispatch).context(scene)?;
    }
    plan.outputs.iter().try_for_each(|port| state.read(port.buffer))
}

/// Who owns which part of the arena as the dispatches go by.
struct State<'a> {
    plan: &'a Plan,
    /// Live pieces of the arena: start, end, buffer.
    owner: Vec<(usize, usize, BufferId)>,
    written: Vec<bool>,
}

impl State<'_> {
    fn step(&mut self, dispatch: &Dispatch) -> Result<()> {
        dispatch.reads.iter().try_for_each(|&buffer| self.read(buffer))?;
        for (at, &result) in dispatch.writes.iter().enumerate() {
            if in_place_operand(&dispatch.kernel, at).map(|operand| dispatch.reads[operand])
                == Some(result)
            {
                continue;
            }
            self.write(result)?;
            // Writing takes the memory from its former owner; an operand must still own its own.
            dispatch.reads.iter().try_for_each(|&buffer| self.read(buffer))?;
            if dispatch.reads.contains(&result) || dispatch.writes[..at].contains(&result) {
                return Err(Error::internal("a result shares memory with an operand"));
            }
        }
        dispatch.writes.iter().try_for_each(|&buffer| self.read(buffer))
    }

    fn read(&self, buffer: BufferId) -> Result<()> {
        let piece = &self.plan.buffers[buffer.index()];
        let owned = match piece.place {
            Place::Arena(offset) => {
                piece.len == 0 || self.owner.contains(&(offset, offset + piece.len, buffer))
            }
            _ => true,
        };
        if !owned || !self.written[buffer.index()] {
            let message = format!("buffer {} is read but does not hold its value", buffer.0);
            return Err(Error::internal(message));
        }
        Ok(())
    }

    fn write(&mut self, buffer: BufferId) -> Result<()> {
        let piece = &self.plan.buffers[buffer.index()];
        self.written[buffer.index()] = true;
        if let Place::Arena(offset) = piece.place {
            let end = offset + piece.len;
            if end > self.plan.arena_len {
                return Err(Error::internal(format!("buffer {} leaves the arena", buffer.0)));
            }
            self.owner.retain(|&(from, to, _)| to <= offset || end <= from);
            self.owner.push((offset, end, buffer));
        }
        Ok(())
    }
}

/// The operand whose memory result `at` must be, for kernels that work in place.
fn in_place_operand(kernel: &Kernel, at: usize) -> Option<usize> {
    match kernel {
        Kernel::Update { update, .. } => match at {
            0 => Some(0),
            at if at <= update.method.moments().len() => Some(3 + at),
            _ => None,
        },
        _ => None,
    }
}

fn check_bindings(plan: &Plan, dispatch: &Dispatch) -> Result<()> {
    let (reads, writes) = dispatch.kernel.binding_lens();
    let len = |buffer: &BufferId| plan.buffers[buffer.index()].len;
    let fits = |buffers: &[BufferId], lens: &[Option<usize>]| {
        buffers.len() == lens.len()
            && buffers
                .iter()
                .zip(lens)
                .all(|(b, len_wanted)| len_wanted.is_none_or(|l| l == len(b)))
    };
    if !fits(&dispatch.reads, &reads) || !fits(&dispatch.writes, &writes) {
        return Err(Error::internal("the buffers do not fit the kernel's geometry"));
    }
    for (at, &result) in dispatch.writes.iter().enumerate() {
        if let Some(operand) = in_place_operand(&dispatch.kernel, at)
            && dispatch.reads[operand] != result
        {
            return Err(Error::internal("an update does not work on its parameter in place"));
        }
    }
    Ok(())
}
