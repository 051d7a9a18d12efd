//! Cutting the classifier off a published model.
//!
//! Published files end in the scores of their source task. The features are what the last dense
//! layer reads: a Gemm, or a MatMul with an optional Add, whose matrix is an initialiser, followed
//! by nothing but softmaxes and reshapes.

use std::collections::HashSet;

use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, NodeProto, ValueInfoProto, type_proto};

use super::proto::value_info;
use crate::error::{Error, Result};

/// Ops that may follow the dense layer.
const TRAILING: [&str; 9] = [
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "Identity",
    "Cast",
    "Dropout",
    "Flatten",
    "Reshape",
    "Squeeze",
];

/// Where to cut.
pub(super) struct Point {
    value: String,
    dense: Option<String>,
}

impl Point {
    /// What was done, for people.
    pub(super) fn note(&self) -> String {
        match &self.dense {
            Some(dense) => {
                format!("the classifier '{dense}' was cut off: '{}' is the features", self.value)
            }
            None => format!("the model was cut at '{}'", self.value),
        }
    }
}

/// The point called `name`, or before the last dense layer; nothing if there is no such layer.
pub(super) fn find(graph: &GraphProto, name: Option<&str>) -> Result<Option<Point>> {
    let Some(name) = name else { return Ok(before_last_dense(graph)) };
    let produced = graph.node.iter().flat_map(|node| &node.output).any(|value| value == name);
    let of_node = graph.node.iter().find(|node| node.name == name).and_then(|n| n.output.first());
    match (produced, of_node) {
        (true, _) => Ok(Some(Point { value: name.to_string(), dense: None })),
        (false, Some(value)) => Ok(Some(Point { value: value.clone(), dense: None })),
        (false, None) => Err(Error::invalid(format!("the model has no value or node '{name}'"))
            .hint("give the name of a node or of its result")),
    }
}

/// What may stand between the last feature map and the dense layer.
const POOLING: [&str; 10] = [
    "GlobalAveragePool",
    "GlobalMaxPool",
    "AveragePool",
    "ReduceMean",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Identity",
    "Cast",
    "Dropout",
];

/// The point called `name`, or else the last value before the model pools over space.
pub(super) fn find_map(graph: &GraphProto, name: Option<&str>) -> Result<Option<Point>> {
    if name.is_some() {
        return find(graph, name);
    }
    let end = || graph.output.first().map(|output| output.name.clone());
    let Some(mut value) = before_last_dense(graph).map(|point| point.value).or_else(end) else {
        return Ok(None);
    };
    while let Some(node) = producer(graph, &value) {
        match (POOLING.contains(&node.op_type.as_str()), node.input.first()) {
            (true, Some(input)) => value.clone_from(input),
            _ => break,
        }
    }
    Ok(Some(Point { value, dense: None }))
}

fn producer<'a>(graph: &'a GraphProto, value: &str) -> Option<&'a NodeProto> {
    graph.node.iter().find(|node| node.output.iter().any(|output| output == value))
}

fn before_last_dense(graph: &GraphProto) -> Option<Point> {
    let mut node = producer(graph, &graph.output.first()?.name)?;
    while TRAILING.contains(&node.op_type.as_str()) {
        node = producer(graph, node.input.first()?)?;
    }
    let product = match node.op_type.as_str() {
        "Add" => node.input.iter().find_map(|value| {
            let other = node.input.iter().find(|v| *v != value)?;
            producer(graph, value).filter(|_| weight_rank(graph, other).is_some_and(|r| r <= 1))
        })?,
        _ => node,
    };
    let dense = matches!(product.op_type.as_str(), "Gemm" | "MatMul");
    let matrix = product.input.get(1)?;
    (dense && weight_rank(graph, matrix) == Some(2))
        .then(|| Point { value: product.input[0].clone(), dense: Some(product.name.clone()) })
}

/// The number of dimensions of the initialiser behind `value`, through transpositions.
fn weight_rank(graph: &GraphProto, value: &str) -> Option<usize> {
    if let Some(initialiser) = graph.initializer.iter().find(|i| i.name == value) {
        return Some(initialiser.dims.len());
    }
    let node = producer(graph, value)?;
    match node.op_type.as_str() {
        "Transpose" | "Identity" | "Cast" => weight_rank(graph, node.input.first()?),
        _ => None,
    }
}

/// Makes the point the only output and drops what it does not depend on.
pub(super) fn apply(graph: &mut GraphProto, point: &Point) {
    let output = value_info(graph, &point.value).cloned().unwrap_or_else(|| ValueInfoProto {
        name: point.value.clone(),
        r#type: graph.output.first().and_then(|output| untyped(output.r#type.clone())),
        ..ValueInfoProto::default()
    });
    graph.output = vec![output];
    let mut needed: HashSet<String> = HashSet::from([point.value.clone()]);
    let mut keep = vec![false; graph.node.len()];
    for (index, node) in graph.node.iter().enumerate().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            keep[index] = true;
            needed.extend(node.input.iter().cloned());
        }
    }
    let mut kept = keep.into_iter();
    graph.node.retain(|_| kept.next() == Some(true));
    graph.initializer.retain(|initialiser| needed.contains(&initialiser.name));
    let produced: HashSet<&String> = graph.node.iter().flat_map(|node| &node.output).collect();
    graph.value_info.retain(|value| produced.contains(&value.name));
}

/// Leaves height and width of images open: before its dense layers, a convolutional network takes
/// images of any size, though files are mostly exported for one. What is not so after all fails
/// when the shapes are inferred.
pub(super) fn open_sizes(graph: &mut GraphProto) {
    for input in &mut graph.input {
        let tensor = input.r#type.as_mut().and_then(|proto| proto.value.as_mut());
        let Some(type_proto::Value::TensorType(tensor)) = tensor else { continue };
        let dims = tensor.shape.as_mut().map(|shape| &mut shape.dim[..]);
        if let Some([_, _, height, width]) = dims {
            for (dim, name) in [(height, "height"), (width, "width")] {
                dim.value = Some(dimension::Value::DimParam(name.to_string()));
            }
        }
    }
    for output in &mut graph.output {
        output.r#type = untyped(output.r#type.take());
    }
}

/// The element type of an output whose shape is not known.
fn untyped(mut proto: Option<tract_onnx::pb::TypeProto>) -> Option<tract_onnx::pb::TypeProto> {
    if let Some(type_proto::Value::TensorType(tensor)) = proto.as_mut()?.value.as_mut() {
        tensor.shape = None;
    }
    proto
}
