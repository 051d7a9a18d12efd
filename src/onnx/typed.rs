//! From the protobuf to tract's typed graph, with the weights hidden as inputs.
//!
//! tract folds, merges and renames constants, so trainable initialisers are given to it as graph
//! inputs of their exact shape. Two things follow: normalisations get lowerings of our own
//! (`norms`); and the graph must never be optimised or decluttered, since only the plain core
//! ops are lowered.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::Onnx;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::tract_hir::internal::*;

use super::{Dim, Model, lower, norms, proto, rebatch, rewrite};
use crate::error::{Error, Kind, Result};
use crate::tensor::{Shape, Tensor as HostTensor, contiguous, tensor};

/// tract's typed graph of `model` for an input of `input_shape`, all its weights being inputs.
pub(super) fn build(model: &Model, input_shape: &[usize]) -> Result<TypedModel> {
    let trainable = model.params.iter().filter(|param| param.is_trainable());
    let all: Vec<String> = trainable.map(|param| param.name.clone()).collect();
    with_inputs(model, model.proto.clone(), input_shape, &all)
}

/// tract's typed graph of `file`, which is that of `model`, for an input of `input_shape`. The
/// weights `open` are inputs after it; the others are constants, and `file` has their elements.
pub(super) fn with_inputs(
    model: &Model,
    mut file: ModelProto,
    input_shape: &[usize],
    open: &[String],
) -> Result<TypedModel> {
    let shape = Shape::from(input_shape);
    let graph = super::graph_of(&mut file)?;
    let input = single_input(model)?;
    let baked = check_input(&input.dims, &shape)?;
    strip_input_initialisers(graph);
    graph.input.retain(|value| value.name != input.name);
    graph.input.insert(0, proto::declare(&input.name, input_shape));
    if let Some(baked) = baked {
        rebatch::rebatch(graph, &input.name, baked, input_shape[0])?;
    }
    model.open(graph, open)?;
    rewrite::sequences_to_splits(graph);
    name_nodes(graph);
    let framework = framework();
    check_known(graph, &framework)?;
    let typed = guarded("typing the model", || framework.parse(&file, None)?.model.into_typed());
    match baked {
        None => typed,
        Some(baked) => typed.map_err(|error| {
            error
                .context(format!("a batch of {} for a file exported for {baked}", input_shape[0]))
                .hint("export the model with a dynamic batch")
        }),
    }
}

/// The outputs of the file for `inputs`, as tract optimises and runs it.
pub(super) fn run(model: &Model, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
    if inputs.len() != model.inputs.len() {
        return Err(Error::mismatch(format!(
            "{} inputs given; the model reads {}",
            inputs.len(),
            model.inputs.len()
        )));
    }
    let mut baked = None;
    for (port, input) in model.inputs.iter().zip(inputs) {
        baked = baked.max(check_input(&port.dims, &input.shape().into())?);
    }
    let Some(baked) = baked else { return run_whole(model, inputs) };
    let batch = inputs[0].shape()[0];
    if baked == 0 || batch == 0 || !batch.is_multiple_of(baked) {
        return Err(Error::mismatch(format!("a batch of {batch} for a file made for {baked}")));
    }
    let mut parts: Vec<Vec<HostTensor>> = Vec::new();
    for start in (0..batch).step_by(baked) {
        let rows = ndarray::Slice::from(start..start + baked);
        let part: Vec<HostTensor> =
            inputs.iter().map(|x| x.slice_axis(ndarray::Axis(0), rows).to_shared()).collect();
        parts.push(run_whole(model, &part)?);
    }
    (0..model.outputs.len()).map(|output| stack(&parts, output)).collect()
}

/// Output number `output` of all parts, joined along the batch.
fn stack(parts: &[Vec<HostTensor>], output: usize) -> Result<HostTensor> {
    let views: Vec<_> = parts.iter().map(|part| part[output].view()).collect();
    ndarray::concatenate(ndarray::Axis(0), &views)
        .map(|joined| joined.into_shared())
        .map_err(|_| Error::mismatch("outputs of single examples do not join"))
}

fn run_whole(model: &Model, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
    let mut file = model.restored();
    let graph = super::graph_of(&mut file)?;
    strip_input_initialisers(graph);
    for (port, input) in model.inputs.iter().zip(inputs) {
        if let Some(value) = graph.input.iter_mut().find(|value| value.name == port.name) {
            *value = proto::declare(&port.name, input.shape());
        }
    }
    rewrite::sequences_to_splits(graph);
    name_nodes(graph);
    let mut framework = tract_onnx::onnx();
    framework.ignore_value_info = true;
    let outputs = guarded("running the model with tract", || {
        let plan = runnable(framework.parse(&file, None)?.model.into_typed()?)?;
        let inputs = inputs
            .iter()
            .map(|x| Ok(Tensor::from_shape(x.shape(), &contiguous(x))?.into_tvalue()))
            .collect::<TractResult<TVec<TValue>>>()?;
        plan.run(inputs)
    })?;
    outputs.iter().map(|output| to_host(output)).collect()
}

/// A plan of tract's, as fast as it can make it.
pub(super) fn runnable(typed: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
    // Some rewrites of tract's fail on sound models; the plain graph then runs as well.
    match typed.clone().into_optimized() {
        Ok(optimised) => optimised.into_runnable(),
        Err(_) => typed.into_runnable(),
    }
}

/// Any numeric tensor of tract's as `f32`; truth values become 0 and 1.
pub(super) fn to_host(value: &Tensor) -> Result<HostTensor> {
    let floats = guarded("converting a constant", || {
        let floats = value.cast_to::<f32>()?;
        Ok(floats.to_plain_array_view::<f32>()?.iter().copied().collect::<Vec<f32>>())
    })?;
    tensor(value.shape(), floats)
}

/// Runs `work` in tract; its errors and even its panics become ours.
pub(super) fn guarded<T>(doing: &str, work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::new(Kind::Unsupported, format!("{doing}: {error:#}"))),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Error::malformed(format!("{doing}: tract gave up: {message}")))
        }
    }
}

fn single_input(model: &Model) -> Result<&super::Port> {
    match model.inputs.as_slice() {
        [input] if input.dtype == "FLOAT" => Ok(input),
        [input] => Err(Error::unsupported(format!(
            "input '{}' holds {}; only floating point inputs can be adapted",
            input.name, input.dtype
        ))),
        inputs => Err(Error::unsupported(format!(
            "the model has {} inputs; a backbone must have one",
            inputs.len()
        ))),
    }
}

/// Checks a shape against what the file declares; gives the file's batch when it is another one.
fn check_input(dims: &Option<Vec<Dim>>, shape: &Shape) -> Result<Option<usize>> {
    lower::check_extents(shape)?;
    let Some(dims) = dims else { return Ok(None) };
    let fits = |(axis, (dim, extent)): (usize, (&Dim, &usize))| match dim {
        Dim::Fixed(fixed) => fixed == extent || axis == 0,
        Dim::Symbol(_) | Dim::Unknown => true,
    };
    if dims.len() != shape.ndim() || !dims.iter().zip(shape.iter()).enumerate().all(fits) {
        let declared: Vec<String> = dims.iter().map(dim_text).collect();
        return Err(Error::mismatch(format!(
            "an input of shape {shape}; the model takes [{}]",
            declared.join(",")
        )));
    }
    Ok(match dims.first() {
        Some(Dim::Fixed(baked)) if *baked != shape[0] => Some(*baked),
        _ => None,
    })
}

fn dim_text(dim: &Dim) -> String {
    match dim {
        Dim::Fixed(extent) => extent.to_string(),
        Dim::Symbol(symbol) => symbol.clone(),
        Dim::Unknown => "?".to_string(),
    }
}

/// Old files list initialisers among the inputs.
fn strip_input_initialisers(graph: &mut GraphProto) {
    let initialisers: HashSet<&str> = graph.initializer.iter().map(|i| i.name.as_str()).collect();
    graph.input.retain(|value| !initialisers.contains(value.name.as_str()));
}

/// Gives each node a name no other node or value has, since tract knows values by node names.
fn name_nodes(graph: &mut GraphProto) {
    let mut taken: HashSet<String> = graph.input.iter().map(|value| value.name.clone()).collect();
    taken.extend(graph.initializer.iter().map(|initialiser| initialiser.name.clone()));
    for (index, node) in graph.node.iter_mut().enumerate() {
        let base = if node.name.is_empty() { &node.op_type } else { &node.name };
        let mut name = base.clone();
        if node.name.is_empty() || taken.contains(&name) {
            name = format!("{base}#{index}");
        }
        while taken.contains(&name) {
            name.push('\'');
        }
        taken.insert(name.clone());
        node.name = name;
    }
}

/// One error for all kinds of ops that tract does not know.
fn check_known(graph: &GraphProto, framework: &Onnx) -> Result<()> {
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let known = &framework.op_register.0;
    for node in graph.node.iter().filter(|node| !known.contains_key(&node.op_type)) {
        unknown.entry(node.op_type.clone()).or_default().push(node.name.clone());
    }
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(lower::unsupported(&unknown)
            .hint("cut the model before the first of these nodes, or export it with standard ops")),
    }
}

fn framework() -> Onnx {
    let mut framework = tract_onnx::onnx();
    framework.ignore_value_info = true;
    norms::register(&mut framework.op_register);
    framework
}
