//! Import, checked on small files made here: against tract's own run, and against hostility.

mod cutting;
mod extending;
mod files;
mod golden;
mod hostile;
mod ops;
mod weights;

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

use super::{Model, proto};
use crate::graph::LeafKind;
use crate::graph::eval::{self, Array, Env};
use crate::tensor::{Tensor, tensor};

/// Largest error relative to the largest element: tract computes in `f32`, the oracle in `f64`,
/// through at most a few hundred products a result.
const TOLERANCE: f64 = 1e-5;

/// A file under construction; its input is called `x`, its output `y`.
struct File {
    graph: GraphProto,
    nodes: usize,
}

/// An attribute's value.
enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Text(&'a str),
}

impl File {
    fn new(input: &[usize]) -> Self {
        let graph = GraphProto {
            name: "test".to_string(),
            input: vec![proto::declare("x", input)],
            output: vec![proto::declare("y", &[])],
            ..GraphProto::default()
        };
        let mut file = File { graph, nodes: 0 };
        file.graph.output[0].r#type = None;
        file
    }

    fn node(self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.node_with(op, inputs, output, &[])
    }

    fn node_with(
        mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute<'_>)],
    ) -> Self {
        self.nodes += 1;
        self.graph.node.push(NodeProto {
            op_type: op.to_string(),
            name: format!("{op}_{}", self.nodes),
            input: inputs.iter().map(|name| name.to_string()).collect(),
            output: vec![output.to_string()],
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..NodeProto::default()
        });
        self
    }

    /// A weight with elements that look random but are always the same.
    fn weight(self, name: &str, shape: &[usize]) -> Self {
        let value = wave(shape, name.len() as f32);
        self.floats(name, &value)
    }

    fn floats(mut self, name: &str, value: &Tensor) -> Self {
        self.graph.initializer.push(proto::from_tensor(name, value));
        self
    }

    fn scalar(self, name: &str, value: f32) -> Self {
        let value = tensor(&[], vec![value]).expect("a scalar has one element");
        self.floats(name, &value)
    }

    fn ints(mut self, name: &str, elements: &[i64]) -> Self {
        self.graph.initializer.push(proto::from_integers(name, elements));
        self
    }

    fn proto(&self) -> ModelProto {
        ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 18 }],
            graph: Some(self.graph.clone()),
            ..ModelProto::default()
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.proto().encode_to_vec()
    }

    fn model(&self) -> Model {
        Model::from_bytes(&self.bytes(), None).expect("the file is sound")
    }

    fn error(&self) -> String {
        match Model::from_bytes(&self.bytes(), None) {
            Ok(_) => panic!("the file must be refused"),
            Err(error) => error.to_string(),
        }
    }
}

fn attribute(name: &str, value: &Attribute<'_>) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_string(), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(value) => {
            attribute.i = *value;
            AttributeType::Int
        }
        Attribute::Float(value) => {
            attribute.f = *value;
            AttributeType::Float
        }
        Attribute::Ints(values) => {
            attribute.ints = values.to_vec();
            AttributeType::Ints
        }
        Attribute::Text(text) => {
            attribute.s = text.as_bytes().to_vec();
            AttributeType::String
        }
    };
    attribute.r#type = kind as i32;
    attribute
}

fn wave(shape: &[usize], phase: f32) -> Tensor {
    let len: usize = shape.iter().product();
    let elements = (0..len).map(|i| (i as f32 * 1.37 + phase).sin() * 0.7);
    tensor(shape, elements.collect()).expect("as many elements as the shape says")
}

/// The model's outputs on `x` by the graph and the `f64` interpreter.
fn evaluate(model: &Model, x: &Tensor) -> Vec<Tensor> {
    let graph = model.graph(x.shape()).expect("the model can be lowered");
    graph.check().expect("the graph is well formed");
    let mut env = Env::new();
    env.set(LeafKind::Input, &model.inputs()[0].name, Array::from(x));
    for (name, value) in model.weights() {
        env.set(LeafKind::Param, name, Array::from(value));
    }
    let mut outputs = eval::outputs(&graph, &env).expect("all leaves have values");
    let take = |port: &super::Port| {
        outputs.remove(&port.name).expect("the graph has the file's outputs").to_tensor()
    };
    model.outputs().iter().map(take).collect()
}

fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let largest = expected.iter().fold(0f64, |m, &x| m.max(f64::from(x.abs())));
    let distance = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
    distance.fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE)
}

/// Checks that graph and tract agree on an input of `shape`.
fn check(what: &str, model: &Model, shape: &[usize]) {
    let x = wave(shape, 0.3);
    let expected = model.reference(std::slice::from_ref(&x)).expect("tract runs the file");
    for (found, expected) in evaluate(model, &x).iter().zip(&expected) {
        let error = relative_error(found, expected);
        assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
        assert!(expected.iter().any(|&x| x != 0.0), "{what}: the result says nothing");
    }
}
