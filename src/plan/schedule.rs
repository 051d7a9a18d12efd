//! When things run: nodes in the graph's own order without dead ones, updates last; then, once all
//! reads and writes are known, each update as soon as its operands are complete and its parameter's
//! old value has no reader left, so that gradients do not pile up.

use super::{BufferId, Dispatch, Plan};
use crate::graph::{Graph, NodeId, Op, ValueId};
use crate::kernel::Kernel;

/// The live nodes of `graph` in the order in which they are lowered.
pub(super) fn order(graph: &Graph) -> Vec<NodeId> {
    let live = live(graph);
    let (updates, mut order): (Vec<usize>, Vec<usize>) = (0..graph.nodes().len())
        .filter(|&node| live[node])
        .partition(|&node| matches!(graph.nodes()[node].op, Op::Update(_)));
    order.extend(updates);
    order
        .into_iter()
        .map(|node| graph.values()[graph.nodes()[node].outputs[0].index()].node)
        .collect()
}

/// Moves every update to the first place where it computes the same.
pub(super) fn hoist_updates(plan: &mut Plan) {
    for at in 0..plan.dispatches.len() {
        let update = &plan.dispatches[at];
        if !matches!(update.kernel, Kernel::Update { .. }) {
            continue;
        }
        let mut earlier = plan.dispatches[..at].iter();
        let first = earlier.rposition(|other| conflict(other, update)).map_or(0, |last| last + 1);
        plan.dispatches[first..=at].rotate_right(1);
    }
}

/// Whether two dispatches may not change places.
pub(super) fn conflict(a: &Dispatch, b: &Dispatch) -> bool {
    let touches =
        |d: &Dispatch, buffer: &BufferId| d.reads.contains(buffer) || d.writes.contains(buffer);
    a.writes.iter().any(|buffer| touches(b, buffer))
        || b.writes.iter().any(|buffer| touches(a, buffer))
}

/// Marks the nodes that an output or a transition needs.
fn live(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.nodes().len()];
    let targets = graph.outputs().iter().map(|&(_, value)| value);
    let targets = targets.chain(graph.transitions().iter().flat_map(|t| [t.leaf, t.next]));
    let node_of = |value: ValueId| graph.values()[value.index()].node.index();
    for target in targets {
        live[node_of(target)] = true;
    }
    for index in (0..graph.nodes().len()).rev() {
        if live[index] {
            for &input in &graph.nodes()[index].inputs {
                live[node_of(input)] = true;
            }
        }
    }
    live
}
