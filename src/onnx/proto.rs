//! From bytes to a checked protobuf: tensors whole, names sound, floats of 32 bits.
//!
//! Everything later may rely on what is proven here: each tensor holds exactly the elements its
//! dimensions say, each value has one producer that comes before its users, every floating point
//! type is `f32` (halves and doubles are converted), and integers fit 32 bits (exporters write
//! "to the end" as the largest 64-bit number, which tract truncates on some paths).

use std::collections::HashSet;
use std::path::Path;

use prost::Message;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{self, GraphProto, ModelProto, TensorProto, ValueInfoProto};

use super::external;
use crate::error::{Context, Error, Result};
use crate::tensor::{Shape, Tensor, contiguous, tensor};

/// Attributes that name an element type: `Cast` and its like.
const TYPE_ATTRIBUTES: [&str; 3] = ["to", "dtype", "output_dtype"];

/// The largest extent of a window, stride, dilation or padding.
const WINDOW_MAX: i64 = 1 << 20;

/// The largest number of an axis, from either end.
const AXIS_MAX: i64 = 64;

/// The largest number of elements that a constant target of Expand and its like may ask for.
const TARGET_LEN_MAX: i64 = 1 << 28;

/// Parses and checks a file's bytes; external data is read from `folder`.
///
/// # Errors
/// When the bytes are not ONNX, or break a promise of the module documentation.
pub(super) fn decode(bytes: &[u8], folder: Option<&Path>) -> Result<ModelProto> {
    let mut proto = ModelProto::decode(bytes).map_err(|error| {
        Error::malformed(format!("this is not an ONNX file: {error}"))
            .hint("check that the file is complete")
    })?;
    let graph =
        proto.graph.as_mut().ok_or_else(|| Error::malformed("this ONNX file holds no graph"))?;
    if !graph.sparse_initializer.is_empty() {
        return Err(Error::unsupported("sparse initialisers are not supported"));
    }
    complete(graph, folder)?;
    check_names(graph)?;
    check_targets(graph)?;
    widen_types(graph);
    Ok(proto)
}

/// Brings each tensor's elements into memory and checks their number.
fn complete(graph: &mut GraphProto, folder: Option<&Path>) -> Result<()> {
    for initialiser in &mut graph.initializer {
        complete_tensor(initialiser, folder)
            .context(|| format!("initialiser '{}'", initialiser.name))?;
    }
    for node in &mut graph.node {
        let tensors =
            node.attribute.iter_mut().flat_map(|a| a.t.iter_mut().chain(a.tensors.iter_mut()));
        for tensor in tensors {
            complete_tensor(tensor, folder).context(|| format!("constant in '{}'", node.name))?;
        }
        for attribute in &mut node.attribute {
            attribute.i = clamp(attribute.i);
            attribute.ints.iter_mut().for_each(|x| *x = clamp(*x));
            check_attribute(attribute).context(|| format!("node '{}'", node.name))?;
        }
        check_window(node).context(|| format!("node '{}'", node.name))?;
    }
    Ok(())
}

/// Checks what tract takes on trust: extents of windows, by which it divides, and axes.
fn check_attribute(attribute: &pb::AttributeProto) -> Result<()> {
    let all = |test: &dyn Fn(i64) -> bool| attribute.ints.iter().all(|&x| test(x));
    let (sound, expected) = match attribute.name.as_str() {
        "strides" | "dilations" | "kernel_shape" => {
            (all(&|x| (1..=WINDOW_MAX).contains(&x)), "small positive numbers")
        }
        "pads" => (all(&|x| x.abs() <= WINDOW_MAX), "small numbers"),
        "group" | "num_groups" | "blocksize" => {
            ((1..=WINDOW_MAX).contains(&attribute.i), "a small positive number")
        }
        "axis" | "axes" => (attribute.i.abs() <= AXIS_MAX && all(&|x| x.abs() <= AXIS_MAX), "axes"),
        "perm" => {
            let mut axes = attribute.ints.clone();
            axes.sort_unstable();
            ((0..).zip(&axes).all(|(at, &axis)| at == axis), "each axis once")
        }
        _ => (true, ""),
    };
    match sound {
        true => Ok(()),
        false => Err(Error::malformed(format!(
            "attribute '{}' is {:?}; expected {expected}",
            attribute.name,
            if attribute.ints.is_empty() { vec![attribute.i] } else { attribute.ints.clone() }
        ))),
    }
}

/// Checks that the attributes of a window speak of one number of axes, which tract takes on trust.
fn check_window(node: &pb::NodeProto) -> Result<()> {
    let mut windows = node.attribute.iter().filter_map(window_extents);
    let Some((first, per_axis, len)) = windows.next() else {
        return Ok(());
    };
    match windows.find(|&(_, other_per_axis, other)| other * per_axis != len * other_per_axis) {
        None if len.is_multiple_of(per_axis) => Ok(()),
        None => Err(Error::malformed(format!("attribute '{first}' has {len} numbers"))
            .hint("expected two for each axis")),
        Some((second, _, other)) => Err(Error::malformed(format!(
            "attributes '{first}' ({len} numbers) and '{second}' ({other}) are of different windows"
        ))
        .hint("expected one number for each axis, two for 'pads'")),
    }
}

/// The name of a window's attribute, how many numbers it has for each axis, and how many it has.
fn window_extents(attribute: &pb::AttributeProto) -> Option<(&str, usize, usize)> {
    let per_axis = match attribute.name.as_str() {
        "strides" | "dilations" | "kernel_shape" => 1,
        "pads" => 2,
        _ => return None,
    };
    let len = attribute.ints.len();
    (len > 0).then_some((&attribute.name, per_axis, len))
}

fn complete_tensor(proto: &mut TensorProto, folder: Option<&Path>) -> Result<()> {
    let len = shape(proto)?.checked_len()?;
    if proto.data_location == Some(DataLocation::External as i32) {
        let folder = folder.ok_or_else(|| {
            Error::malformed("its elements are in another file, but no folder was given")
        })?;
        proto.raw_data = external::read(proto, folder, byte_len(proto, len)?)?;
        proto.data_location = None;
        proto.external_data.clear();
    }
    check_elements(proto, len)?;
    if is_wide_float(proto.data_type) {
        let floats = floats(proto);
        *proto = float_proto(&proto.name, &shape(proto)?, &floats);
    }
    if let Some(integers) = integers(proto)
        && integers.iter().any(|&x| x != clamp(x))
    {
        proto.int64_data = integers.into_iter().map(clamp).collect();
        proto.raw_data = Vec::new();
    }
    Ok(())
}

/// The nearest number of 32 bits.
fn clamp(x: i64) -> i64 {
    x.clamp(-i64::from(i32::MAX), i64::from(i32::MAX))
}

/// The dimensions of a tensor, none of them negative.
pub(super) fn shape(proto: &TensorProto) -> Result<Shape> {
    let extents: Option<Vec<usize>> =
        proto.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    extents
        .map(Shape::new)
        .ok_or_else(|| Error::malformed(format!("dimensions {:?} are negative", proto.dims)))
}

fn data_type(proto: &TensorProto) -> Result<DataType> {
    DataType::try_from(proto.data_type)
        .map_err(|_| Error::malformed(format!("element type {} is unknown", proto.data_type)))
}

/// Bytes of one element, or nothing for those that are not stored as raw bytes.
fn element_bytes(data_type: DataType) -> Option<usize> {
    match data_type {
        DataType::Bool | DataType::Int8 | DataType::Uint8 => Some(1),
        DataType::Int16 | DataType::Uint16 | DataType::Float16 | DataType::Bfloat16 => Some(2),
        DataType::Int32 | DataType::Uint32 | DataType::Float => Some(4),
        DataType::Int64 | DataType::Uint64 | DataType::Double => Some(8),
        _ => None,
    }
}

fn byte_len(proto: &TensorProto, len: usize) -> Result<usize> {
    let kind = data_type(proto)?;
    let bytes = element_bytes(kind).ok_or_else(|| {
        Error::unsupported(format!("elements of type {} are not supported", kind.as_str_name()))
    })?;
    len.checked_mul(bytes).ok_or_else(|| Error::malformed("it is too large"))
}

fn check_elements(proto: &TensorProto, len: usize) -> Result<()> {
    let expected = byte_len(proto, len)?;
    if !proto.raw_data.is_empty() {
        return match proto.raw_data.len() == expected {
            true => Ok(()),
            false => Err(Error::malformed(format!(
                "{} bytes for shape {}; expected {expected}",
                proto.raw_data.len(),
                shape(proto)?
            ))),
        };
    }
    let found = match data_type(proto)? {
        DataType::Float => proto.float_data.len(),
        DataType::Double => proto.double_data.len(),
        DataType::Int64 => proto.int64_data.len(),
        DataType::Uint32 | DataType::Uint64 => {
            return match len {
                0 => Ok(()),
                _ => Err(Error::unsupported("unsigned integers must be stored as raw bytes")),
            };
        }
        _ => proto.int32_data.len(),
    };
    match found == len {
        true => Ok(()),
        false => Err(Error::malformed(format!(
            "{found} elements for shape {}; expected {len}",
            shape(proto)?
        ))),
    }
}

/// Whether elements of this type are floating point numbers.
pub(super) fn is_float(data_type: i32) -> bool {
    data_type == DataType::Float as i32 || is_wide_float(data_type)
}

fn is_wide_float(data_type: i32) -> bool {
    [DataType::Float16, DataType::Bfloat16, DataType::Double]
        .contains(&DataType::try_from(data_type).unwrap_or(DataType::Undefined))
}

/// The elements of a checked floating point tensor.
pub(super) fn floats(proto: &TensorProto) -> Vec<f32> {
    let raw = &proto.raw_data;
    match DataType::try_from(proto.data_type) {
        Ok(DataType::Float) if raw.is_empty() => proto.float_data.clone(),
        Ok(DataType::Float) => elements(raw, f32::from_le_bytes),
        Ok(DataType::Double) if raw.is_empty() => {
            proto.double_data.iter().map(|&x| x as f32).collect()
        }
        Ok(DataType::Double) => elements(raw, |bytes| f64::from_le_bytes(bytes) as f32),
        Ok(kind) => {
            let widen = if kind == DataType::Float16 { half_to_f32 } else { bfloat_to_f32 };
            match raw.is_empty() {
                true => proto.int32_data.iter().map(|&bits| widen(bits as u16)).collect(),
                false => elements(raw, |bytes| widen(u16::from_le_bytes(bytes))),
            }
        }
        Err(_) => Vec::new(),
    }
}

fn elements<const N: usize>(raw: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = raw.as_chunks::<N>();
    chunks.iter().map(|&bytes| convert(bytes)).collect()
}

fn bfloat_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE 754 binary16; subnormals are multiples of 2⁻²⁴.
fn half_to_f32(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f32::from(bits & 0x3ff);
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// A checked floating point tensor as a host tensor.
pub(super) fn to_tensor(proto: &TensorProto) -> Result<Tensor> {
    tensor(&shape(proto)?, floats(proto))
}

/// A host tensor as a protobuf.
pub(super) fn from_tensor(name: &str, value: &Tensor) -> TensorProto {
    float_proto(name, &value.shape().into(), &contiguous(value))
}

fn float_proto(name: &str, shape: &Shape, elements: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_string(),
        dims: shape.iter().map(|&extent| extent as i64).collect(),
        data_type: DataType::Float as i32,
        raw_data: raw(elements),
        ..TensorProto::default()
    }
}

/// Elements as a protobuf holds them.
pub(super) fn raw(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// What the file declares of the value `name`.
pub(super) fn value_info<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a ValueInfoProto> {
    graph.value_info.iter().chain(&graph.output).find(|value| value.name == name)
}

/// A declaration of an `f32` value of `shape`.
pub(super) fn declare(name: &str, shape: &[usize]) -> ValueInfoProto {
    let shape = pb::TensorShapeProto { dim: shape.iter().map(|&side| extent(side)).collect() };
    let tensor = pb::type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.to_string(),
        r#type: Some(pb::TypeProto { value, ..pb::TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// An extent that is a number.
pub(super) fn extent(extent: usize) -> Dimension {
    let value = Some(dimension::Value::DimValue(extent as i64));
    Dimension { value, ..Dimension::default() }
}

/// The elements of an integer tensor, when it is one.
pub(super) fn integers(proto: &TensorProto) -> Option<Vec<i64>> {
    if proto.data_type != DataType::Int64 as i32 {
        return None;
    }
    if proto.raw_data.is_empty() {
        return Some(proto.int64_data.clone());
    }
    let (chunks, _) = proto.raw_data.as_chunks::<8>();
    Some(chunks.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

/// An integer vector as a protobuf.
pub(super) fn from_integers(name: &str, elements: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_string(),
        dims: vec![elements.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: elements.to_vec(),
        ..TensorProto::default()
    }
}

/// Checks that each value has one producer, before all of its users.
fn check_names(graph: &mut GraphProto) -> Result<()> {
    let mut defined: HashSet<&str> = HashSet::new();
    for initialiser in &graph.initializer {
        if initialiser.name.is_empty() || !defined.insert(&initialiser.name) {
            return Err(duplicate("initialiser", &initialiser.name));
        }
    }
    let mut inputs: HashSet<&str> = HashSet::new();
    for input in &graph.input {
        if input.name.is_empty() || !inputs.insert(&input.name) {
            return Err(duplicate("input", &input.name));
        }
    }
    defined.extend(inputs);
    for node in &graph.node {
        check_node(node, &defined)?;
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !defined.insert(output) {
                return Err(duplicate("value", output));
            }
        }
    }
    if graph.output.is_empty() {
        return Err(Error::malformed("the graph has no output"));
    }
    match graph.output.iter().find(|output| !defined.contains(output.name.as_str())) {
        Some(output) => Err(Error::malformed(format!("nothing produces output '{}'", output.name))),
        None => Ok(()),
    }
}

fn check_node(node: &pb::NodeProto, defined: &HashSet<&str>) -> Result<()> {
    let missing =
        node.input.iter().find(|name| !name.is_empty() && !defined.contains(name.as_str()));
    if let Some(missing) = missing {
        return Err(Error::malformed(format!(
            "node '{}' ({}) uses '{missing}', which nothing before it produces",
            node.name, node.op_type
        ))
        .hint("nodes must come in order and without cycles"));
    }
    let subgraph = node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
    if subgraph || node.output.iter().all(|name| name.is_empty()) {
        let what = if subgraph { "control flow" } else { "a node without results" };
        return Err(Error::unsupported(format!(
            "node '{}' ({}) is {what}, which is not supported",
            node.name, node.op_type
        )));
    }
    Ok(())
}

/// Checks what constant targets ask for, since tract computes constants while it infers shapes.
fn check_targets(graph: &GraphProto) -> Result<()> {
    for node in &graph.node {
        let target = match node.op_type.as_str() {
            "ConstantOfShape" => node.input.first(),
            "Expand" | "Tile" | "OneHot" => node.input.get(1),
            "Resize" => node.input.get(3),
            _ => None,
        };
        let Some(target) = target.and_then(|name| constant(graph, name)).and_then(integers) else {
            continue;
        };
        let len = target.iter().try_fold(1i64, |len, extent| len.checked_mul(extent.abs().max(1)));
        if len.is_none_or(|len| len > TARGET_LEN_MAX) {
            return Err(Error::malformed(format!(
                "node '{}' ({}) asks for shape {target:?}, more than {TARGET_LEN_MAX} elements",
                node.name, node.op_type
            )));
        }
    }
    Ok(())
}

/// The tensor of the initialiser or Constant node behind `name`.
pub(super) fn constant<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a TensorProto> {
    let initialiser = graph.initializer.iter().find(|initialiser| initialiser.name == name);
    initialiser.or_else(|| {
        let node = graph.node.iter().find(|n| n.output.iter().any(|output| output == name))?;
        node.attribute.iter().find(|attribute| attribute.name == "value")?.t.as_ref()
    })
}

#[cold]
fn duplicate(what: &str, name: &str) -> Error {
    match name {
        "" => Error::malformed(format!("an {what} has no name")),
        _ => Error::malformed(format!("{what} '{name}' is defined twice")),
    }
}

/// Declares as `f32` whatever was declared as a half or a double.
fn widen_types(graph: &mut GraphProto) {
    let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    for value in values {
        let kind = value.r#type.as_mut().and_then(|t| t.value.as_mut());
        if let Some(pb::type_proto::Value::TensorType(tensor)) = kind
            && is_wide_float(tensor.elem_type)
        {
            tensor.elem_type = DataType::Float as i32;
        }
    }
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    for attribute in attributes {
        let names_type = TYPE_ATTRIBUTES.contains(&attribute.name.as_str());
        if names_type && i32::try_from(attribute.i).is_ok_and(is_wide_float) {
            attribute.i = DataType::Float as i64;
        }
    }
}
