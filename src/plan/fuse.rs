//! Tapes into the products before them.
//!
//! A `map` that reads the output of a product or convolution in place, element by element, becomes
//! that kernel's epilogue: it runs on finished tiles while they are in cache, and the intermediate
//! is written only if something else reads it.

use super::schedule::conflict;
use super::{BufferId, Dispatch, Place, Plan};
use crate::kernel::{Fused, Kernel};

/// Most buffers one dispatch may touch: what every GPU offers.
const BINDINGS_MAX: usize = 8;

/// Moves every `map` it can into the dispatch that produces its latest operand.
pub(super) fn fuse_epilogues(plan: &mut Plan) {
    let mut index = 0;
    while index < plan.dispatches.len() {
        match target(plan, index) {
            Some((producer, own)) => {
                let map = plan.dispatches.remove(index);
                let keep = is_read(plan, plan.dispatches[producer].writes[0]);
                merge(&mut plan.dispatches[producer], map, own, keep);
            }
            None => index += 1,
        }
    }
}

/// The dispatch that the map at `index` can follow, and which operand of the map it produces. What
/// makes the map's other operands, such as a bias from those of a normalisation, may stand between
/// the two: it is moved before the former where that changes nothing.
fn target(plan: &mut Plan, index: usize) -> Option<(usize, usize)> {
    let map = &plan.dispatches[index];
    if !matches!(map.kernel, Kernel::Map(_)) {
        return None;
    }
    let produced = map.reads.iter().enumerate().filter_map(|(operand, &buffer)| {
        let writer = plan.dispatches[..index].iter().rposition(|d| d.writes.contains(&buffer))?;
        Some((writer, operand))
    });
    let mut produced: Vec<(usize, usize)> = produced.collect();
    produced.sort_unstable();
    let mut later = Vec::new();
    let (producer, own) = loop {
        let (writer, operand) = produced.pop()?;
        if takes(plan, writer, index, operand) {
            break (writer, operand);
        }
        later.push(writer);
    };
    let moved = with_operands(plan, producer, later)?;
    for (count, &at) in moved.iter().enumerate() {
        plan.dispatches[producer + count..=at].rotate_right(1);
    }
    Some((producer + moved.len(), own))
}

/// The dispatches at `wanted` with all after `producer` that they need, in their order; none where
/// one needs the producer, or makes as much as it.
fn with_operands(plan: &Plan, producer: usize, mut wanted: Vec<usize>) -> Option<Vec<usize>> {
    let dispatches = &plan.dispatches;
    let last = wanted.iter().copied().max().unwrap_or(producer);
    for at in (producer + 1..last).rev() {
        let needed = |&later: &usize| later > at && conflict(&dispatches[at], &dispatches[later]);
        if wanted.iter().any(needed) {
            wanted.push(at);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let len = |at: usize| -> usize {
        dispatches[at].writes.iter().map(|buffer| plan.buffers[buffer.index()].len).sum()
    };
    let may_move =
        |&at: &usize| len(at) < len(producer) && !conflict(&dispatches[producer], &dispatches[at]);
    wanted.iter().all(may_move).then_some(wanted)
}

/// Whether the map at `index` can follow the dispatch at `producer`, which makes its operand `own`.
fn takes(plan: &Plan, producer: usize, index: usize, own: usize) -> bool {
    let (map, dispatch) = (&plan.dispatches[index], &plan.dispatches[producer]);
    let Kernel::Map(tape) = &map.kernel else {
        return false;
    };
    // The map may not write what is still read between its producer and itself.
    let overwrites = plan.dispatches[producer..index]
        .iter()
        .any(|d| d.reads.iter().chain(&d.writes).any(|buffer| map.writes.contains(buffer)));
    let bindings = dispatch.reads.len() + 1 + map.reads.len() + map.writes.len();
    let reads_of_product = map.reads.iter().filter(|&&b| b == dispatch.writes[0]).count();
    dispatch.kernel.takes_epilogue()
        && dispatch.writes[0] == map.reads[own]
        && reads_of_product == 1
        && tape.views[own].is_contiguous(&tape.extents)
        && plan.buffers[dispatch.writes[0].index()].len == tape.len()
        && bindings <= BINDINGS_MAX + 1
        && !overwrites
}

/// Whether a dispatch, an output or the next run reads the buffer.
fn is_read(plan: &Plan, buffer: BufferId) -> bool {
    let resident = matches!(plan.buffers[buffer.index()].place, Place::Resident(_));
    resident
        || plan.dispatches.iter().any(|d| d.reads.contains(&buffer))
        || plan.outputs.iter().any(|port| port.buffer == buffer)
}

/// Makes `map` the epilogue of `producer`; `keep` says whether the product itself is still read.
fn merge(producer: &mut Dispatch, map: Dispatch, own: usize, keep: bool) {
    let Kernel::Map(tape) = map.kernel else {
        return;
    };
    let others = map.reads.iter().enumerate().filter(|&(operand, _)| operand != own);
    producer.reads.extend(others.map(|(_, &buffer)| buffer));
    let replaces = if keep { None } else { Some(0) };
    if keep {
        producer.writes.extend(map.writes);
    } else {
        producer.writes = map.writes;
    }
    producer.kernel.set_epilogue(Fused { tape, own, replaces });
    producer.origin = format!("{} + {}", producer.origin, map.origin);
}
