//! Tapes into the products before them.
//!
//! A `map` that reads the output of a product or convolution in place, element by element, becomes
//! that kernel's epilogue: it runs on finished tiles while they are in cache, and the intermediate
//! is written only if something else reads it.

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

/// The dispatch that the map at `index` can follow, and which operand of the map it produces.
fn target(plan: &Plan, index: usize) -> Option<(usize, usize)> {
    let map = &plan.dispatches[index];
    let Kernel::Map(tape) = &map.kernel else {
        return None;
    };
    let produced = map.reads.iter().enumerate().filter_map(|(operand, &buffer)| {
        let writer = plan.dispatches[..index].iter().rposition(|d| d.writes.contains(&buffer))?;
        Some((writer, operand))
    });
    let (producer, own) = produced.max()?;
    let dispatch = &plan.dispatches[producer];
    // The map may not write what is still read between its producer and itself.
    let overwrites = plan.dispatches[producer..index]
        .iter()
        .any(|d| d.reads.iter().chain(&d.writes).any(|buffer| map.writes.contains(buffer)));
    let bindings = dispatch.reads.len() + 1 + map.reads.len() + map.writes.len();
    let reads_of_product = map.reads.iter().filter(|&&b| b == dispatch.writes[0]).count();
    let fits = dispatch.kernel.takes_epilogue()
        && dispatch.writes[0] == map.reads[own]
        && reads_of_product == 1
        && tape.views[own].is_contiguous(&tape.extents)
        && plan.buffers[dispatch.writes[0].index()].len == tape.len()
        && bindings <= BINDINGS_MAX + 1
        && !overwrites;
    fits.then_some((producer, own))
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
