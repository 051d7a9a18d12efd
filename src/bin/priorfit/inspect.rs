//! `inspect`: what is in an ONNX file and what can be done with it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use priorfit::autodiff::vjp;
use priorfit::error::Result;
use priorfit::graph::{Graph, LeafKind};
use priorfit::onnx::{Dim, Model, Param, Port};
use priorfit::plan::Plan;
use priorfit::tensor::Shape;
use serde::Serialize;
use serde_json::Value;

use crate::backbone;
use crate::globals::Globals;

/// List inputs, parameters and ops of an ONNX file, and whether it can be adapted
///
/// Nothing is run. A parameter that will not be trained is listed with the reason; an op that
/// cannot be imported or differentiated is listed with all others like it and with what remains
/// possible.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit inspect backbone.onnx
  priorfit inspect backbone.onnx --json | jq '.params[] | select(.trainable) | .name'")]
pub struct Inspect {
    /// The ONNX file
    model: PathBuf,
    /// Shape to import it at; from the file without it
    #[arg(long, value_delimiter = ',', value_name = "N,C,H,W")]
    input_shape: Option<Vec<usize>>,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    inputs: Vec<PortReport>,
    outputs: Vec<PortReport>,
    params: Vec<ParamReport>,
    /// Number of trainable weights.
    trainable: usize,
    /// Number of weights in all.
    total: usize,
    ops: BTreeMap<String, usize>,
    notes: Vec<String>,
    fingerprint: String,
    /// The shape of `adaptable`'s trial.
    input_shape: Option<Vec<usize>>,
    /// Whether the whole network can be trained.
    adaptable: bool,
    /// Why it cannot, and what remains possible.
    error: Option<String>,
}

#[derive(Serialize)]
struct PortReport {
    name: String,
    dtype: &'static str,
    /// Numbers, names of open extents, or null; null altogether if not even their number is known.
    dims: Option<Vec<Value>>,
}

#[derive(Serialize)]
struct ParamReport {
    name: String,
    shape: Vec<usize>,
    trainable: bool,
    /// Why it is not trained.
    reason: Option<String>,
    /// The nodes that compute with it.
    nodes: Vec<String>,
}

impl Inspect {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let model = Model::load(&self.model)?;
        let shape = match &self.input_shape {
            Some(shape) => Ok(shape.clone()),
            None => backbone::default_shape(&model),
        };
        let trial = shape.as_ref().map(|shape| trial(&model, shape));
        let error = match (&shape, trial) {
            (Err(error), _) => Some(error.to_string()),
            (_, Ok(Err(error))) => Some(error.to_string()),
            _ => None,
        };
        let params: Vec<ParamReport> = model.params().iter().map(ParamReport::from).collect();
        let count = |p: &ParamReport| Shape::from(&p.shape[..]).len();
        let mut notes = model.notes().to_vec();
        notes.extend(cut_notes(&model));
        globals.print(&Report {
            file: self.model.clone(),
            inputs: model.inputs().iter().map(PortReport::from).collect(),
            outputs: model.outputs().iter().map(PortReport::from).collect(),
            trainable: params.iter().filter(|p| p.trainable).map(count).sum(),
            total: params.iter().map(count).sum(),
            params,
            ops: model.ops(),
            notes,
            fingerprint: model.fingerprint(),
            input_shape: shape.ok(),
            adaptable: error.is_none(),
            error,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Imports the model, differentiates it by all its parameters and compiles the result.
fn trial(model: &Model, shape: &[usize]) -> Result<()> {
    let mut graph = model.graph(shape)?;
    let seeds = graph
        .outputs()
        .to_vec()
        .into_iter()
        .map(|(name, value)| {
            let shape = graph.shape(value).clone();
            Ok((value, graph.input(&format!("cotangent of {name}"), &shape)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let wrt: Vec<_> =
        model.weights().filter_map(|(name, _)| graph.leaf(LeafKind::Param, name)).collect();
    let cotangents = vjp(&mut graph, &seeds, &wrt)?;
    let cotangents: Vec<_> = cotangents.into_iter().flatten().collect();
    declare(&mut graph, &cotangents);
    Plan::compile(&graph).map(|_| ())
}

fn declare(graph: &mut Graph, values: &[priorfit::graph::ValueId]) {
    for (index, &value) in values.iter().enumerate() {
        graph.set_output(&format!("cotangent {index}"), value);
    }
}

/// What adaptation would cut off.
fn cut_notes(model: &Model) -> Vec<String> {
    let Ok(cut) = model.cut_at_features(None) else { return Vec::new() };
    let new = cut.notes().iter().filter(|note| !model.notes().contains(note));
    new.map(|note| format!("for adaptation: {note}")).collect()
}

impl From<&Port> for PortReport {
    fn from(port: &Port) -> Self {
        let dim = |dim: &Dim| match dim {
            Dim::Fixed(extent) => Value::from(*extent),
            Dim::Symbol(symbol) => Value::from(symbol.as_str()),
            Dim::Unknown => Value::Null,
        };
        let dims = port.dims.as_ref().map(|dims| dims.iter().map(dim).collect());
        PortReport { name: port.name.clone(), dtype: port.dtype, dims }
    }
}

impl From<&Param> for ParamReport {
    fn from(param: &Param) -> Self {
        ParamReport {
            name: param.name.clone(),
            shape: param.shape.to_vec(),
            trainable: param.is_trainable(),
            reason: param.frozen.map(|frozen| frozen.to_string()),
            nodes: param.nodes.clone(),
        }
    }
}

impl fmt::Display for PortReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dim = |dim: &Value| match dim {
            Value::Null => "?".to_string(),
            Value::String(symbol) => symbol.clone(),
            number => number.to_string(),
        };
        let dims = match &self.dims {
            Some(dims) => format!("[{}]", dims.iter().map(dim).collect::<Vec<_>>().join(",")),
            None => "of unknown shape".to_string(),
        };
        write!(f, "{} {dims} {}", self.name, self.dtype)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for port in &self.inputs {
            writeln!(f, "input   {port}")?;
        }
        for port in &self.outputs {
            writeln!(f, "output  {port}")?;
        }
        let tensors = self.params.iter().filter(|p| p.trainable).count();
        writeln!(
            f,
            "weights {} trainable in {tensors} tensors, of {}",
            self.trainable, self.total
        )?;
        writeln!(f, "sha256  {}", self.fingerprint)?;
        let ops: Vec<String> = self.ops.iter().map(|(op, count)| format!("{op} {count}")).collect();
        writeln!(f, "ops     {}", ops.join(", "))?;
        for note in &self.notes {
            writeln!(f, "note    {note}")?;
        }
        writeln!(f)?;
        let longest = self.params.iter().map(|p| p.name.chars().count()).max().unwrap_or(0);
        for p in &self.params {
            let shape = Shape::from(&p.shape[..]).to_string();
            let fate =
                p.reason.as_ref().map_or("trainable".to_string(), |r| format!("frozen: {r}"));
            writeln!(f, "{:longest$}  {shape:18} {fate}", p.name)?;
        }
        writeln!(f)?;
        match &self.error {
            None => writeln!(f, "This network can be adapted."),
            Some(error) => writeln!(f, "This network cannot be adapted as it is: {error}"),
        }
    }
}
