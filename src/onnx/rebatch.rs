//! Files exported for one batch size, made to take another.
//!
//! Exporters bake the batch into the targets of Reshape and Expand. Where a value depends on the
//! input, the leading extent of a constant target counts examples, so it is multiplied by the
//! ratio of the batches; where it does not, a leading extent equal to the baked batch is an
//! example's constant repeated, and so is an initialiser joined with a dependent value. What this
//! cannot recognise fails when the shapes are inferred.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::proto;
use crate::error::{Error, Result};

/// Rewrites `graph`, made for `baked` examples of `input`, for `batch` examples.
///
/// # Errors
/// When `batch` is no multiple of `baked`.
pub(super) fn rebatch(
    graph: &mut GraphProto,
    input: &str,
    baked: usize,
    batch: usize,
) -> Result<()> {
    if baked == 0 || !batch.is_multiple_of(baked) {
        return Err(Error::mismatch(format!(
            "a batch of {batch} for a file exported for exactly {baked}"
        ))
        .hint("export the model with a dynamic batch"));
    }
    let mut rewrite = Rewrite {
        baked: baked as i64,
        batch: batch as i64,
        integers: integers(graph),
        constants: constants(graph),
        joined: HashMap::new(),
        dependent: HashSet::from([input.to_string()]),
        nodes: Vec::with_capacity(graph.node.len()),
    };
    for node in std::mem::take(&mut graph.node) {
        rewrite.visit(node);
    }
    graph.node = rewrite.nodes;
    Ok(())
}

struct Rewrite {
    baked: i64,
    batch: i64,
    /// Constant integer vectors by name.
    integers: HashMap<String, Vec<i64>>,
    /// Numbers of dimensions of float constants with a leading extent of 1.
    constants: HashMap<String, usize>,
    /// Vectors joined of several, by name: the operands.
    joined: HashMap<String, Vec<String>>,
    /// Values that depend on the input's elements.
    dependent: HashSet<String>,
    /// The new nodes.
    nodes: Vec<NodeProto>,
}

impl Rewrite {
    fn visit(&mut self, mut node: NodeProto) {
        let depends = node.input.iter().any(|value| self.dependent.contains(value));
        if depends && node.op_type != "Shape" {
            self.dependent.extend(node.output.iter().cloned());
        }
        match node.op_type.as_str() {
            "Reshape" if depends => self.retarget(&mut node, 1),
            "Expand" => self.retarget(&mut node, 2),
            "Concat" if depends && axis(&node) != Some(0) => self.repeat_constants(&mut node),
            "Concat" if !depends => {
                if let Some(output) = node.output.first() {
                    self.joined.insert(output.clone(), node.input.clone());
                }
            }
            _ => {}
        }
        if matches!(node.op_type.as_str(), "Expand" | "Identity" | "Cast")
            && let Some(&ndim) = node.input.first().and_then(|name| self.constants.get(name))
            && let Some(output) = node.output.first()
        {
            self.constants.insert(output.clone(), ndim);
        }
        self.nodes.push(node);
    }

    /// Multiplies the leading extent of a constant target of at least `len_min` extents.
    fn retarget(&mut self, node: &mut NodeProto, len_min: usize) {
        let Some(name) = node.input.get(1).cloned() else { return };
        let new = format!("{name}#{}", self.nodes.len());
        if let Some(target) = self.integers.get(&name) {
            if let Some(target) = self.multiplied(target).filter(|t| t.len() >= len_min) {
                self.nodes.push(constant(&new, &target));
                node.input[1] = new;
            }
        } else if let Some(parts) = self.joined.get(&name).cloned()
            && let Some(target) = self.integers.get(&parts[0]).and_then(|t| self.multiplied(t))
        {
            let leading = format!("{new}.leading");
            self.nodes.push(constant(&leading, &target));
            let mut concat = NodeProto {
                op_type: "Concat".to_string(),
                name: new.clone(),
                input: parts,
                output: vec![new.clone()],
                attribute: vec![AttributeProto {
                    name: "axis".to_string(),
                    r#type: AttributeType::Int as i32,
                    ..AttributeProto::default()
                }],
                ..NodeProto::default()
            };
            concat.input[0] = leading;
            self.nodes.push(concat);
            node.input[1] = new;
        }
    }

    fn multiplied(&self, target: &[i64]) -> Option<Vec<i64>> {
        let first = *target.first()?;
        (first > 0 && first % self.baked == 0).then(|| {
            let mut target = target.to_vec();
            target[0] = (first / self.baked).saturating_mul(self.batch);
            target
        })
    }

    /// Repeats constants of one row that are joined with something of `batch` rows.
    fn repeat_constants(&mut self, node: &mut NodeProto) {
        for (operand, value) in node.input.iter_mut().enumerate() {
            if self.dependent.contains(value) {
                continue;
            }
            let Some(&ndim) = self.constants.get(value) else { continue };
            let mut target = vec![1; ndim];
            target[0] = self.batch;
            let name = format!("{}#repeat{operand}", node.name);
            let shape = format!("{name}.shape");
            self.nodes.push(constant(&shape, &target));
            self.nodes.push(NodeProto {
                op_type: "Expand".to_string(),
                name: name.clone(),
                input: vec![value.clone(), shape],
                output: vec![name.clone()],
                ..NodeProto::default()
            });
            *value = name;
        }
    }
}

/// The tensors of initialisers and Constant nodes, by the names of their values.
fn tensors(graph: &GraphProto) -> impl Iterator<Item = (&String, &TensorProto)> {
    let initialisers = graph.initializer.iter().map(|initialiser| (&initialiser.name, initialiser));
    let nodes = graph
        .node
        .iter()
        .filter(|node| node.op_type == "Constant")
        .filter_map(|node| Some((node.output.first()?, node.attribute.first()?.t.as_ref()?)));
    initialisers.chain(nodes)
}

fn integers(graph: &GraphProto) -> HashMap<String, Vec<i64>> {
    let listed = graph.node.iter().filter(|node| node.op_type == "Constant").filter_map(|node| {
        let attribute = node.attribute.first().filter(|attribute| !attribute.ints.is_empty())?;
        Some((node.output.first()?.clone(), attribute.ints.clone()))
    });
    let tensors = tensors(graph).filter_map(|(name, t)| Some((name.clone(), proto::integers(t)?)));
    tensors.chain(listed).collect()
}

fn constants(graph: &GraphProto) -> HashMap<String, usize> {
    tensors(graph)
        .filter(|(_, tensor)| proto::is_float(tensor.data_type) && tensor.dims.first() == Some(&1))
        .map(|(name, tensor)| (name.clone(), tensor.dims.len()))
        .collect()
}

fn constant(name: &str, elements: &[i64]) -> NodeProto {
    NodeProto {
        op_type: "Constant".to_string(),
        name: name.to_string(),
        output: vec![name.to_string()],
        attribute: vec![AttributeProto {
            name: "value".to_string(),
            r#type: AttributeType::Tensor as i32,
            t: Some(proto::from_integers(name, elements)),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

fn axis(node: &NodeProto) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == "axis").map(|attribute| attribute.i)
}
