//! Memory: one arena, shared over time.
//!
//! A buffer lives from the dispatch that writes it (inputs: from the start) to the last that reads
//! it (outputs: to the end). Offsets are given to the largest first, each at the lowest place that
//! is free for its whole life.

use super::{Place, Plan};

/// Offsets are multiples of this many elements, a cache line.
const ALIGN: usize = 16;

/// First and last dispatch of a buffer's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    first: usize,
    last: usize,
}

impl Life {
    /// Whether there is a dispatch at which both are alive.
    pub(crate) fn overlaps(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Gives every arena buffer that is used an offset, and the plan its arena length.
pub(super) fn assign(plan: &mut Plan) {
    let lives = lives(plan);
    let mut order: Vec<usize> = (0..plan.buffers.len()).filter(|&b| lives[b].is_some()).collect();
    order.sort_by_key(|&buffer| std::cmp::Reverse(plan.buffers[buffer].len));
    let mut placed: Vec<(Life, usize, usize)> = Vec::new();
    let mut arena_len = 0;
    for buffer in order {
        let (Some(life), len) = (lives[buffer], plan.buffers[buffer].len) else {
            continue;
        };
        let len = len.next_multiple_of(ALIGN);
        let offset = lowest_free(&placed, life, len);
        placed.push((life, offset, offset + len));
        // Kept in order of offset, so that the search walks upward.
        placed.sort_unstable_by_key(|&(_, start, _)| start);
        arena_len = arena_len.max(offset + len);
        plan.buffers[buffer].place = Place::Arena(offset);
    }
    plan.arena_len = arena_len;
}

/// The lowest offset where `len` elements are free during `life`.
fn lowest_free(placed: &[(Life, usize, usize)], life: Life, len: usize) -> usize {
    let mut offset = 0;
    for &(other, start, end) in placed {
        if other.overlaps(&life) && start < offset + len {
            offset = offset.max(end);
        }
    }
    offset
}

/// The life of every arena buffer that is used.
pub(super) fn lives(plan: &Plan) -> Vec<Option<Life>> {
    let mut lives: Vec<Option<Life>> = vec![None; plan.buffers.len()];
    let mut touch = |buffer: usize, at: usize| {
        let life = lives[buffer].get_or_insert(Life { first: at, last: at });
        life.first = life.first.min(at);
        life.last = life.last.max(at);
    };
    for port in &plan.inputs {
        touch(port.buffer.index(), 0);
    }
    for (at, dispatch) in plan.dispatches.iter().enumerate() {
        for buffer in dispatch.reads.iter().chain(&dispatch.writes) {
            touch(buffer.index(), at);
        }
    }
    for port in &plan.outputs {
        touch(port.buffer.index(), plan.dispatches.len());
    }
    for (buffer, life) in lives.iter_mut().enumerate() {
        if !matches!(plan.buffers[buffer].place, Place::Arena(_)) {
            *life = None;
        }
    }
    lives
}
