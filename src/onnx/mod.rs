//! Import of backbones from ONNX: the only room that knows ONNX and tract.
//!
//! A [`Model`] is a checked file with its weights taken out. [`Model::graph`] states its
//! computation in the crate's own language for one input shape: tract gives each ONNX op its
//! meaning and infers all shapes, and its few dozen core ops are lowered to ours (`lower`). The
//! weights are hidden from tract as graph inputs, since it would fold, merge and rename constants;
//! so each keeps its name, and becomes a parameter leaf of that name. Which initialisers are
//! weights is settled in `roles`.
//!
//! Files are hostile: every size is checked before use, and a failure of tract, even a panic, is
//! an error that names the file's node where it is known.

mod cut;
mod extend;
mod external;
mod lower;
mod norms;
mod proto;
mod rebatch;
mod rewrite;
mod roles;
mod runner;
mod typed;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb::{self, GraphProto, ModelProto, ValueInfoProto};

pub use extend::{Appended, Layer, Linear};
pub use roles::Frozen;
pub use runner::Runner;

use crate::error::{Context, Error, Result};
use crate::graph::Graph;
use crate::tensor::{Shape, Tensor, contiguous};

/// One extent of a [`Port`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Fixed(usize),
    /// A name the file gives to an extent it leaves open.
    Symbol(String),
    /// Nothing is said.
    Unknown,
}

impl Dim {
    /// The extent, if the file fixes it.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(extent) => Some(*extent),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the file.
    pub name: String,
    /// Its extents, or nothing when the file does not even say how many there are.
    pub dims: Option<Vec<Dim>>,
    /// Its element type, in ONNX's word.
    pub dtype: &'static str,
}

/// What a model says of one initialiser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The initialiser's name, exactly.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Why it is not trained, or nothing if it is.
    pub frozen: Option<Frozen>,
    /// The nodes that compute with it, by name; a weight with several is tied.
    pub nodes: Vec<String>,
}

impl Param {
    /// Whether it becomes a parameter leaf.
    pub fn is_trainable(&self) -> bool {
        self.frozen.is_none()
    }
}

/// A backbone: a checked ONNX file, its weights apart.
#[derive(Clone, Debug)]
pub struct Model {
    /// The file without the elements of its trainable weights.
    proto: ModelProto,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    params: Vec<Param>,
    weights: BTreeMap<String, Tensor>,
    notes: Vec<String>,
}

impl Model {
    /// Reads an ONNX file and the external data beside it.
    ///
    /// # Errors
    /// When a file cannot be read, or is not sound ONNX.
    pub fn load(path: &Path) -> Result<Model> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("reading", path, e))?;
        Model::from_bytes(&bytes, path.parent()).context(|| path.display().to_string())
    }

    /// Reads ONNX from memory; `external` is the folder of its external data, if it has any.
    ///
    /// # Errors
    /// When the bytes are not sound ONNX.
    pub fn from_bytes(bytes: &[u8], external: Option<&Path>) -> Result<Model> {
        Model::assemble(proto::decode(bytes, external)?, Vec::new())
    }

    /// Takes the weights out of a checked file and states its facts.
    fn assemble(mut proto: ModelProto, mut notes: Vec<String>) -> Result<Model> {
        let graph = graph_of(&mut proto)?;
        let params = params(graph)?;
        let is_input = |value: &&ValueInfoProto| !params.iter().any(|p| p.name == value.name);
        let is_weight: Vec<bool> = params.iter().map(Param::is_trainable).collect();
        let mut keep = is_weight.iter().copied();
        let trainable: Vec<_> =
            graph.initializer.iter().filter(|_| keep.next() == Some(true)).collect();
        notes.extend(roles::sharing_notes(graph, &trainable));
        notes.extend(roles::exported_note(&params));
        notes.extend(folded_note(graph));
        notes.extend(graph.input.iter().filter(is_input).find_map(batch_note));
        let mut weights = BTreeMap::new();
        for (initialiser, is_weight) in graph.initializer.iter_mut().zip(is_weight) {
            if is_weight {
                weights.insert(initialiser.name.clone(), proto::to_tensor(initialiser)?);
                initialiser.raw_data = Vec::new();
                initialiser.float_data = Vec::new();
            }
        }
        let inputs = graph.input.iter().filter(is_input).map(port).collect();
        let outputs = graph.output.iter().map(port).collect();
        Ok(Model { inputs, outputs, params, weights, notes, proto })
    }

    /// What the model reads.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What it computes.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// All its initialisers, trainable or not, in the file's order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The trainable weights in the order of their names.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.weights.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The trainable weight called `name`.
    pub fn weight(&self, name: &str) -> Option<&Tensor> {
        self.weights.get(name)
    }

    /// The kinds of its nodes and how many there are of each.
    pub fn ops(&self) -> BTreeMap<String, usize> {
        let mut ops = BTreeMap::new();
        for node in self.proto.graph.iter().flat_map(|graph| &graph.node) {
            *ops.entry(node.op_type.clone()).or_default() += 1;
        }
        ops
    }

    /// Sentences for people about what import found or did.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The same backbone with its classifier cut off.
    ///
    /// `features` names the value or node whose result becomes the output. Without a name, the
    /// input of the last dense layer does; a model that does not end in one is returned as it is.
    ///
    /// # Errors
    /// When nothing in the file has that name.
    pub fn cut_at_features(&self, features: Option<&str>) -> Result<Model> {
        self.cut(cut::find(self.proto_graph(), features)?)
    }

    /// The same backbone up to its last feature map `[N, C, h, w]`: without a classifier and the
    /// pooling before it. `features` names another value or node. Height and width of its input are
    /// open, whatever the file was exported for.
    ///
    /// # Errors
    /// When nothing in the file has that name.
    pub fn cut_at_map(&self, features: Option<&str>) -> Result<Model> {
        let model = self.cut(cut::find_map(self.proto_graph(), features)?)?;
        let mut proto = model.restored();
        cut::open_sizes(graph_of(&mut proto)?);
        Model::assemble(proto, model.notes)
    }

    fn cut(&self, point: Option<cut::Point>) -> Result<Model> {
        match point {
            None => {
                let mut notes = self.notes.clone();
                notes.push("no dense layer ends the model: its output is the features".into());
                Ok(Model { notes, ..self.clone() })
            }
            Some(point) => {
                let mut proto = self.restored();
                cut::apply(graph_of(&mut proto)?, &point);
                Model::assemble(proto, vec![point.note()])
            }
        }
    }

    /// The computation for an input of exactly this shape, batch included.
    ///
    /// Leaves: one input under the file's name, one parameter for each trainable weight. Outputs
    /// have the file's names.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::error::Kind::Unsupported) lists all ops that cannot be
    /// imported; a shape the model does not take is a mismatch.
    pub fn graph(&self, input_shape: &[usize]) -> Result<Graph> {
        let typed = typed::build(self, input_shape)?;
        lower::lower(self, &typed)
    }

    /// The outputs of the untouched file as tract computes them.
    ///
    /// # Errors
    /// When tract cannot run the file, or the inputs do not fit it.
    pub fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        typed::run(self, inputs)
    }

    /// The SHA-256 of the trainable weights, in hexadecimal digits.
    ///
    /// For each weight in the order of names: the name in UTF-8, a zero byte, the number of
    /// dimensions and each extent as little-endian 64-bit numbers, the elements as little-endian
    /// `f32`.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for (name, value) in &self.weights {
            digest.update(name.as_bytes());
            digest.update([0]);
            digest.update((value.ndim() as u64).to_le_bytes());
            for &extent in value.shape() {
                digest.update((extent as u64).to_le_bytes());
            }
            for element in contiguous(value).iter() {
                digest.update(element.to_le_bytes());
            }
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The model as one ONNX file, external data included.
    ///
    /// # Errors
    /// When it is larger than an ONNX file can be (2 GiB).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        encode(&self.restored())
    }

    /// The model as one ONNX file in which these weights are inputs, after its own and in this
    /// order: for programs that are given them with each run.
    ///
    /// # Errors
    /// When it has no weight of a name, or is larger than an ONNX file can be (2 GiB).
    pub fn to_bytes_with_inputs(&self, names: &[String]) -> Result<Vec<u8>> {
        let mut proto = self.restored();
        self.open(graph_of(&mut proto)?, names)?;
        encode(&proto)
    }

    /// Makes these weights inputs of `graph`, which is this model's, in this order.
    fn open(&self, graph: &mut GraphProto, names: &[String]) -> Result<()> {
        let is_open: HashSet<&str> = names.iter().map(String::as_str).collect();
        graph.initializer.retain(|initialiser| !is_open.contains(initialiser.name.as_str()));
        graph.input.retain(|input| !is_open.contains(input.name.as_str()));
        for name in names {
            let missing = || Error::mismatch(format!("the model has no weight '{name}'"));
            let weight = self.weight(name).ok_or_else(missing)?;
            graph.input.push(proto::declare(name, weight.shape()));
        }
        Ok(())
    }

    /// The model as an ONNX file without the elements of its large tensors, and these as the
    /// content of a second file in the same folder, whose name is what `location` makes of it.
    ///
    /// # Errors
    /// When the rest is larger than an ONNX file can be (2 GiB).
    pub fn to_bytes_apart(
        &self,
        location: impl FnOnce(&[u8]) -> String,
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut proto = self.restored();
        let data = external::detach(graph_of(&mut proto)?, location);
        Ok((encode(&proto)?, data))
    }

    fn proto_graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a model is assembled from a file with a graph")
    }

    /// The file with its weights put back.
    fn restored(&self) -> ModelProto {
        let mut proto = self.proto.clone();
        for initialiser in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            if let Some(value) = self.weights.get(&initialiser.name) {
                initialiser.raw_data = proto::raw(&contiguous(value));
            }
        }
        proto
    }
}

fn encode(proto: &ModelProto) -> Result<Vec<u8>> {
    if proto.encoded_len() > i32::MAX as usize {
        return Err(Error::unsupported("the model does not fit one ONNX file of 2 GiB")
            .hint("its weights can be written to a second file"));
    }
    Ok(proto.encode_to_vec())
}

fn graph_of(proto: &mut ModelProto) -> Result<&mut GraphProto> {
    proto.graph.as_mut().ok_or_else(|| Error::internal("a decoded model has a graph"))
}

fn params(graph: &GraphProto) -> Result<Vec<Param>> {
    let roles = roles::Roles::new(graph);
    let param = |initialiser: &pb::TensorProto| {
        let users = roles.users(&initialiser.name);
        Ok(Param {
            name: initialiser.name.clone(),
            shape: proto::shape(initialiser)?,
            frozen: roles.frozen(initialiser),
            nodes: users.into_iter().map(str::to_string).collect(),
        })
    };
    graph.initializer.iter().map(param).collect()
}

fn port(value: &ValueInfoProto) -> Port {
    let tensor = value.r#type.as_ref().and_then(|t| t.value.as_ref());
    let Some(pb::type_proto::Value::TensorType(tensor)) = tensor else {
        return Port { name: value.name.clone(), dims: None, dtype: "UNDEFINED" };
    };
    let dtype = pb::tensor_proto::DataType::try_from(tensor.elem_type)
        .map_or("UNDEFINED", |kind| kind.as_str_name());
    let dims = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(dim).collect());
    Port { name: value.name.clone(), dims, dtype }
}

fn dim(dim: &pb::tensor_shape_proto::Dimension) -> Dim {
    use pb::tensor_shape_proto::dimension::Value;
    match &dim.value {
        Some(Value::DimValue(extent)) => usize::try_from(*extent).map_or(Dim::Unknown, Dim::Fixed),
        Some(Value::DimParam(symbol)) if !symbol.is_empty() => Dim::Symbol(symbol.clone()),
        _ => Dim::Unknown,
    }
}

/// Says that a file was exported for one batch size.
fn batch_note(input: &ValueInfoProto) -> Option<String> {
    match port(input).dims?.first()? {
        Dim::Fixed(batch) => Some(format!(
            "the file was exported for a batch of exactly {batch}: for others its shapes are \
             rewritten where that can be done safely"
        )),
        _ => None,
    }
}

/// Says when an exporter has folded normalisation into convolutions.
fn folded_note(graph: &GraphProto) -> Option<String> {
    let convolutions: Vec<_> = graph.node.iter().filter(|n| n.op_type == "Conv").collect();
    let normalised = graph.node.iter().any(|node| node.op_type.ends_with("Normalization"));
    let folded = convolutions
        .iter()
        .filter_map(|node| node.input.get(2))
        .filter(|bias| bias.ends_with(".weight_bias"))
        .count();
    (folded > 0 && !normalised).then(|| {
        format!(
            "the exporter folded BatchNorm into {folded} of {} convolutions",
            convolutions.len()
        )
    })
}
