//! The order of the nodes: the graph's own, without dead ones, and each parameter's update as soon
//! as its gradient is complete and the old value has no reader left, so that gradients do not pile
//! up.

use crate::graph::{Graph, NodeId, Op, ValueId};

/// The live nodes of `graph` in the order in which they run.
pub(super) fn order(graph: &Graph) -> Vec<NodeId> {
    let live = live(graph);
    let (eager, rest): (Vec<usize>, Vec<usize>) = (0..graph.nodes().len())
        .filter(|&node| live[node])
        .partition(|&node| matches!(graph.nodes()[node].op, Op::Update(_)));
    let mut waiting: Vec<usize> = eager;
    let mut remaining = readers(graph, &rest);
    let mut done = vec![false; graph.nodes().len()];
    let mut order = Vec::with_capacity(rest.len() + waiting.len());
    for node in rest {
        done[node] = true;
        order.push(node);
        for input in &graph.nodes()[node].inputs {
            remaining[input.index()] -= 1;
        }
        waiting.retain(|&update| {
            let ready = is_ready(graph, update, &done, &remaining);
            if ready {
                done[update] = true;
                order.push(update);
            }
            !ready
        });
    }
    // What is left waits for nothing that is still to come, or a chain of updates: graph order.
    order.extend(waiting);
    order
        .into_iter()
        .map(|node| graph.values()[graph.nodes()[node].outputs[0].index()].node)
        .collect()
}

/// For each value, how many operands of `nodes` it is.
fn readers(graph: &Graph, nodes: &[usize]) -> Vec<usize> {
    let mut count = vec![0; graph.values().len()];
    for &node in nodes {
        for input in &graph.nodes()[node].inputs {
            count[input.index()] += 1;
        }
    }
    count
}

/// Whether an update's operands exist and nothing else will still read the parameter's old value,
/// directly or under another shape.
fn is_ready(graph: &Graph, update: usize, done: &[bool], remaining: &[usize]) -> bool {
    let node = &graph.nodes()[update];
    let produced = |value: &ValueId| done[graph.values()[value.index()].node.index()];
    let theta = node.inputs[0];
    node.inputs.iter().all(produced) && unread(graph, theta, remaining)
}

fn unread(graph: &Graph, value: ValueId, remaining: &[usize]) -> bool {
    if remaining[value.index()] > 0 {
        return false;
    }
    // A reshape is the same memory: its readers read the old value too.
    graph.nodes().iter().all(|node| {
        !matches!(node.op, Op::Reshape(_) | Op::Broadcast(_))
            || node.inputs[0] != value
            || unread(graph, node.outputs[0], remaining)
    })
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
