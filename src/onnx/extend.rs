//! Layers appended to a network, and weights put into it. What the file says of itself (nodes,
//! names, metadata, operator sets) stays.

use std::collections::HashSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::Dimension;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto,
    type_proto,
};

use super::{Model, graph_of, proto};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, contiguous, tensor};

/// The first version of the format in which initialisers need not be inputs.
const IR_VERSION_MIN: i64 = 4;
/// The first operator set whose softmax is over one axis, and not over it and all that follow.
const OPSET_SOFTMAX: i64 = 13;
/// The first operator set whose mean takes its axes as an operand.
const OPSET_MEAN: i64 = 18;

/// What follows the features of a network; each layer reads the one before it.
#[derive(Clone, Debug)]
pub enum Layer {
    /// The mean over these axes, which disappear.
    Mean(Vec<usize>),
    /// All axes after the batch as one; rows `[N, F]` stay as they are.
    Flatten,
    /// `factor · (x Wᵀ + b)` of rows `[N, F]`.
    Dense(Linear),
    /// The same of the channels of maps `[N, F, h, w]`, at each place. The factor is multiplied
    /// into the weights.
    Pointwise(Linear),
    /// Maps `[N, C, h, w]` resampled to `[N, C, H, W]` by linear maps `[H, h]` and `[W, w]`.
    Resample([Tensor; 2]),
    /// Maps `[N, C, H, W]` as `[N, H, W, C]`.
    ChannelsLast,
    /// `scale · x + shift` of rows `[N, D]`, with a number of each for each column.
    Affine {
        /// `[D]`
        scale: Tensor,
        /// `[D]`
        shift: Tensor,
    },
    /// Softmax over the classes of rows `[N, C]`.
    Softmax,
    /// Softmax over the classes of maps `[N, C, H, W]`, at each place.
    PixelSoftmax,
    /// The logistic function of each number.
    Sigmoid,
}

/// A linear map.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Name and elements of the weight `[C, F]`; the name changes if the file has it already.
    pub weight: (&'static str, Tensor),
    /// Name and elements of the bias `[C]`.
    pub bias: (&'static str, Tensor),
    /// What multiplies the result.
    pub factor: f32,
}

/// A layer, and whether its result is an output.
#[derive(Clone, Debug)]
pub struct Appended {
    /// What it computes.
    pub layer: Layer,
    /// The output's name, which changes if the file has it already, and its extents after the
    /// batch.
    pub output: Option<(&'static str, Vec<usize>)>,
}

impl Model {
    /// The same file with these weights in the place of its own of their names.
    ///
    /// # Errors
    /// When it has no weight of a name and shape.
    pub fn with_weights<'a>(
        &self,
        weights: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    ) -> Result<Model> {
        let mut model = self.clone();
        for (name, weight) in weights {
            let own = model.weights.get_mut(name);
            let own = own.filter(|own| own.shape() == weight.shape()).ok_or_else(|| {
                let shape = weight.shape();
                Error::mismatch(format!("the backbone has no weight '{name}' of shape {shape:?}"))
            })?;
            *own = weight.clone();
        }
        Ok(model)
    }

    /// The network with `layers` after its first output, in whose place those come that the layers
    /// name.
    ///
    /// # Errors
    /// When it has no output, or a layer does not suit what it reads.
    pub fn extended(&self, layers: &[Appended]) -> Result<Model> {
        let mut proto = self.restored();
        // Initialisers that are no inputs.
        proto.ir_version = proto.ir_version.max(IR_VERSION_MIN);
        let opset = opset(&proto);
        let graph = graph_of(&mut proto)?;
        let batch = batch(graph);
        let output = graph.output.first().map(|output| output.name.clone());
        let value = output.ok_or_else(|| Error::unsupported("the model has no output"))?;
        let mut tail = Tail { taken: names(graph), graph, opset, value };
        let mut outputs = Vec::new();
        for Appended { layer, output } in layers {
            let name = tail.fresh(output.as_ref().map_or("priorfit.head", |(name, _)| name));
            tail.append(layer, &name)?;
            if let Some((_, extents)) = output {
                let mut declared = proto::declare(&name, &[&[1], &extents[..]].concat());
                set_batch(&mut declared, &batch);
                outputs.push(declared);
            }
        }
        tail.graph.output = outputs;
        Model::assemble(proto, Vec::new())
    }

    /// The same for images of exactly this size: what was declared of others is left out.
    ///
    /// # Errors
    /// Internal: a model has a graph.
    pub fn with_image_size(&self, size: [usize; 2]) -> Result<Model> {
        let mut proto = self.restored();
        let graph = graph_of(&mut proto)?;
        let inputs: Vec<&str> = self.inputs.iter().map(|port| port.name.as_str()).collect();
        for input in graph.input.iter_mut().filter(|i| inputs.contains(&i.name.as_str())) {
            let Some([_, _, sides @ ..]) = dims(input) else { continue };
            for (dim, side) in sides.iter_mut().zip(size) {
                *dim = proto::extent(side);
            }
        }
        graph.value_info.clear();
        Model::assemble(proto, Vec::new())
    }

    /// The same with `value` as the metadata `key`.
    pub fn with_metadata(mut self, key: &str, value: String) -> Model {
        self.proto.metadata_props.retain(|entry| entry.key != key);
        self.proto.metadata_props.push(StringStringEntryProto { key: key.to_string(), value });
        self
    }

    /// The metadata `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let mut entries = self.proto.metadata_props.iter();
        entries.find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// A graph that grows at its end.
struct Tail<'a> {
    graph: &'a mut GraphProto,
    opset: i64,
    taken: HashSet<String>,
    /// What the next layer reads.
    value: String,
}

impl Tail<'_> {
    /// `name`, or what nothing in the graph is called.
    fn fresh(&mut self, name: &str) -> String {
        let mut fresh = name.to_string();
        while !self.taken.insert(fresh.clone()) {
            fresh.push('\'');
        }
        fresh
    }

    fn append(&mut self, layer: &Layer, name: &str) -> Result<()> {
        match layer {
            Layer::Mean(axes) => self.mean(axes, name),
            Layer::Flatten => {
                let read = self.value.clone();
                self.node("Flatten", &[&read], name, vec![int("axis", 1)]);
            }
            Layer::Dense(linear) => self.dense(linear, name),
            Layer::Pointwise(linear) => self.pointwise(linear, name)?,
            Layer::Resample([rows, columns]) => self.resample(rows, columns, name)?,
            Layer::ChannelsLast => {
                let read = self.value.clone();
                self.node("Transpose", &[&read], name, vec![ints("perm", vec![0, 2, 3, 1])]);
            }
            Layer::Affine { scale, shift } => {
                let [scale, shift] = [scale, shift].map(|value| self.constant(value));
                let inner = self.fresh(&format!("{name}.scaled"));
                let read = self.value.clone();
                self.node("Mul", &[&read, &scale], &inner, Vec::new());
                self.node("Add", &[&inner, &shift], name, Vec::new());
            }
            Layer::Softmax => self.softmax(name),
            Layer::PixelSoftmax if self.opset >= OPSET_SOFTMAX => self.softmax(name),
            Layer::PixelSoftmax => self.transposed_softmax(name),
            Layer::Sigmoid => {
                let read = self.value.clone();
                self.node("Sigmoid", &[&read], name, Vec::new());
            }
        }
        self.value = name.to_string();
        Ok(())
    }

    fn mean(&mut self, axes: &[usize], name: &str) {
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let (read, keep) = (self.value.clone(), int("keepdims", 0));
        if self.opset < OPSET_MEAN {
            return self.node("ReduceMean", &[&read], name, vec![ints("axes", axes), keep]);
        }
        let operand = self.fresh(&format!("{name}.axes"));
        self.graph.initializer.push(proto::from_integers(&operand, &axes));
        self.node("ReduceMean", &[&read, &operand], name, vec![keep]);
    }

    fn dense(&mut self, linear: &Linear, name: &str) {
        let Linear { weight, bias, factor } = linear;
        let [weight, bias] = [weight, bias].map(|(name, value)| self.initialiser(name, value));
        let factors = ["alpha", "beta"].map(|name| float(name, *factor));
        let attributes = [&factors[..], &[int("transB", 1)]].concat();
        let read = self.value.clone();
        self.node("Gemm", &[&read, &weight, &bias], name, attributes);
    }

    fn pointwise(&mut self, linear: &Linear, name: &str) -> Result<()> {
        let Linear { weight: (weight, elements), bias: (bias, shift), factor } = linear;
        let [classes, features] = elements.shape()[..] else {
            return Err(Error::internal("a head's weight is a matrix"));
        };
        let scaled = contiguous(elements).iter().map(|x| x * factor).collect();
        let filters = tensor(&[classes, features, 1, 1], scaled)?;
        let weight = self.initialiser(weight, &filters);
        let bias = self.initialiser(bias, &shift.mapv(|x| x * factor).into_shared());
        let read = self.value.clone();
        let kernel = vec![ints("kernel_shape", vec![1, 1])];
        self.node("Conv", &[&read, &weight, &bias], name, kernel);
        Ok(())
    }

    /// R x Cᵀ for each map x.
    fn resample(&mut self, rows: &Tensor, columns: &Tensor, name: &str) -> Result<()> {
        let columns = columns.view().reversed_axes();
        let columns = tensor(columns.shape(), columns.iter().copied().collect())?;
        let [rows, columns] = [rows, &columns].map(|value| self.constant(value));
        let inner = self.fresh(&format!("{name}.rows"));
        let read = self.value.clone();
        self.node("MatMul", &[&rows, &read], &inner, Vec::new());
        self.node("MatMul", &[&inner, &columns], name, Vec::new());
        Ok(())
    }

    /// Over axis 1.
    fn softmax(&mut self, name: &str) {
        let read = self.value.clone();
        self.node("Softmax", &[&read], name, vec![int("axis", 1)]);
    }

    /// Over axis 1 of `[N, C, H, W]`, where only the last axis is alone.
    fn transposed_softmax(&mut self, name: &str) {
        let read = self.value.clone();
        let [last, classes] = ["last", "classes"].map(|part| self.fresh(&format!("{name}.{part}")));
        self.node("Transpose", &[&read], &last, vec![ints("perm", vec![0, 2, 3, 1])]);
        self.node("Softmax", &[&last], &classes, vec![int("axis", 3)]);
        self.node("Transpose", &[&classes], name, vec![ints("perm", vec![0, 3, 1, 2])]);
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        let name = self.fresh(&format!("{output}.{op}"));
        self.graph.node.push(NodeProto {
            op_type: op.to_string(),
            name,
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![output.to_string()],
            attribute,
            ..NodeProto::default()
        });
    }

    fn initialiser(&mut self, name: &str, value: &Tensor) -> String {
        let name = self.fresh(name);
        self.graph.initializer.push(proto::from_tensor(&name, value));
        name
    }

    /// A constant that no reader takes for a weight.
    fn constant(&mut self, value: &Tensor) -> String {
        let name = self.fresh("priorfit.constant");
        let tensor = AttributeProto {
            r#type: AttributeType::Tensor as i32,
            t: Some(proto::from_tensor("", value)),
            ..named("value")
        };
        self.node("Constant", &[], &name, vec![tensor]);
        name
    }
}

fn named(name: &str) -> AttributeProto {
    AttributeProto { name: name.to_string(), ..AttributeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { r#type: AttributeType::Int as i32, i, ..named(name) }
}

fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { r#type: AttributeType::Ints as i32, ints, ..named(name) }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { r#type: AttributeType::Float as i32, f, ..named(name) }
}

/// The version of ONNX's own operators.
fn opset(proto: &ModelProto) -> i64 {
    let own =
        proto.opset_import.iter().filter(|set| set.domain.is_empty() || set.domain == "ai.onnx");
    own.map(|set| set.version).max().unwrap_or(1)
}

/// All names of nodes, values and initialisers.
fn names(graph: &GraphProto) -> HashSet<String> {
    let nodes = graph.node.iter().flat_map(|n| n.output.iter().chain([&n.name]));
    let values = graph.input.iter().chain(&graph.value_info).map(|value| &value.name);
    let initialisers = graph.initializer.iter().map(|initialiser| &initialiser.name);
    nodes.chain(values).chain(initialisers).cloned().collect()
}

/// The declared extents of a value.
fn dims(value: &mut ValueInfoProto) -> Option<&mut [Dimension]> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_mut()?.value.as_mut()?;
    Some(&mut tensor.shape.as_mut()?.dim)
}

/// What the file says of the number of examples.
fn batch(graph: &mut GraphProto) -> Option<Dimension> {
    let initialisers: HashSet<&str> = graph.initializer.iter().map(|i| i.name.as_str()).collect();
    let mut inputs = graph.input.iter_mut().filter(|i| !initialisers.contains(i.name.as_str()));
    dims(inputs.next()?)?.first().cloned()
}

fn set_batch(value: &mut ValueInfoProto, batch: &Option<Dimension>) {
    if let Some([first, ..]) = dims(value) {
        *first = batch.clone().unwrap_or_default();
    }
}
