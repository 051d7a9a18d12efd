//! Ops that tract does not know, as others that it does.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto};

use super::proto;

/// The largest number of parts of a sequence.
const PARTS_MAX: i64 = 1 << 12;

/// Turns each SplitToSequence that only SequenceAt at constant places read into one Split.
///
/// `torch.export` writes `split` and `chunk` so when it does not optimise.
pub(super) fn sequences_to_splits(graph: &mut GraphProto) {
    let places = places(graph);
    let sequences: Vec<Parts> =
        graph.node.iter().filter_map(|node| parts(graph, &places, node)).collect();
    for Parts { sequence, sizes } in sequences {
        let name = |at: usize| format!("{sequence}#{at}");
        let sizes_name = format!("{sequence}#sizes");
        for node in &mut graph.node {
            if node.op_type == "SplitToSequence" && node.output[0] == sequence {
                node.op_type = "Split".to_string();
                node.input[1] = sizes_name.clone();
                node.output = (0..sizes.len()).map(name).collect();
            } else if reads(node, &sequence) {
                let place = places[&node.input[1]] as usize;
                node.op_type = "Identity".to_string();
                node.input = vec![name(place)];
            }
        }
        graph.initializer.push(proto::from_integers(&sizes_name, &sizes));
    }
}

/// A sequence that can be made by a Split, and the extents of its parts.
struct Parts {
    sequence: String,
    sizes: Vec<i64>,
}

fn parts(graph: &GraphProto, places: &HashMap<String, i64>, node: &NodeProto) -> Option<Parts> {
    if node.op_type != "SplitToSequence" {
        return None;
    }
    let sequence = node.output.first()?;
    let split = proto::constant(graph, node.input.get(1)?)?;
    let mut sizes = proto::integers(split)?;
    let mut count = 0;
    for user in graph.node.iter().filter(|user| user.input.contains(sequence)) {
        let place = *places.get(user.input.get(1)?)?;
        if !reads(user, sequence) || !(0..PARTS_MAX).contains(&place) {
            return None;
        }
        count = count.max(place as usize + 1);
    }
    if split.dims.is_empty() {
        // One extent for all parts; as many as are read.
        sizes = vec![*sizes.first()?; count];
    }
    (count > 0 && count <= sizes.len()).then(|| Parts { sequence: sequence.clone(), sizes })
}

fn reads(node: &NodeProto, sequence: &str) -> bool {
    node.op_type == "SequenceAt" && node.input.first().is_some_and(|input| input == sequence)
}

/// Constant numbers by name.
fn places(graph: &GraphProto) -> HashMap<String, i64> {
    let number = |name: &String| match proto::constant(graph, name).and_then(proto::integers)?[..] {
        [number] => Some((name.clone(), number)),
        _ => None,
    };
    graph.node.iter().filter_map(|node| number(node.input.get(1)?)).collect()
}
