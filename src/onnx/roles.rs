//! Which initialisers are weights to train, and why the others are not.
//!
//! The rule, first match wins. An initialiser is
//!
//! 1. frozen if its elements are not floats ([`Frozen::NotFloat`]);
//! 2. frozen if an op reads it only as a setting: Clip bounds, Pow exponents, Resize scales,
//!    shapes ([`Frozen::Setting`]);
//! 3. frozen if no output depends on it through differentiable ops ([`Frozen::Unreached`]);
//! 4. frozen if a BatchNormalization reads it as a mean or variance, or its name says that it is
//!    one ([`Frozen::Statistics`]);
//! 5. trainable if an op reads it where only weights go: filter and bias of a convolution, matrix
//!    of a product, scale and shift of a normalisation, slope of a PRelu. The name does not
//!    matter here: exporters call transposed or folded weights `onnx::MatMul_12` or `val_3`;
//! 6. frozen if it is a scalar ([`Frozen::Scalar`]), or a mask: only 0 and one number far below
//!    ([`Frozen::Mask`]);
//! 7. trainable if the exporter only moved its elements: its name says so and it has more than two
//!    different elements, or it is `[C, 1, 1]` and the like, scaled or added channel by channel;
//! 8. frozen if it has another name that exporters give to constants they made: masks, folded
//!    expressions ([`Frozen::Exported`]);
//! 9. trainable.
//!
//! Identity, Cast, Reshape, Expand, Transpose and their like are looked through. Tensors inside
//! Constant nodes are constants.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::proto;

/// Why an initialiser is not trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Frozen {
    /// Its elements are integers or truth values.
    NotFloat,
    /// It is a setting of an op, such as a bound or an exponent.
    Setting,
    /// No output depends on it through differentiable ops.
    Unreached,
    /// It is a running mean or variance.
    Statistics,
    /// It is a single number.
    Scalar,
    /// It hides some elements from a softmax.
    Mask,
    /// The exporter made it: a mask or a folded expression.
    Exported,
}

impl std::fmt::Display for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Frozen::NotFloat => "not floating point",
            Frozen::Setting => "a setting of an op",
            Frozen::Unreached => "no output depends on it",
            Frozen::Statistics => "running statistics",
            Frozen::Scalar => "a scalar",
            Frozen::Mask => "a mask",
            Frozen::Exported => "exporter's constant",
        })
    }
}

/// Ops that give their first operand back, under another shape or type.
const TRANSPARENT: [&str; 10] = [
    "Identity",
    "Cast",
    "CastLike",
    "Reshape",
    "Expand",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
    "Dropout",
];

/// Ops whose operands after the first are settings.
const FIRST_ONLY: [&str; 21] = [
    "Cast",
    "CastLike",
    "Reshape",
    "Expand",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
    "Dropout",
    "Slice",
    "Gather",
    "GatherND",
    "GatherElements",
    "Split",
    "Clip",
    "Pad",
    "Resize",
    "Upsample",
    "Tile",
    "Pow",
    "TopK",
    "Trilu",
];

/// Ops through which no cotangent flows.
const OPAQUE: [&str; 24] = [
    "Shape",
    "Size",
    "ArgMax",
    "ArgMin",
    "NonZero",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Not",
    "And",
    "Or",
    "Xor",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "OneHot",
    "IsNaN",
    "IsInf",
    "Range",
    "ConstantOfShape",
    "Mod",
];

/// Names `torch.export` gives to values it computes, before an optional number.
const TORCH_VALUES: [&str; 34] = [
    "val",
    "_to_copy",
    "lifted_tensor",
    "unsqueeze",
    "squeeze",
    "view",
    "reshape",
    "permute",
    "transpose",
    "expand",
    "expand_as",
    "slice",
    "select",
    "cat",
    "stack",
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "sqrt",
    "exp",
    "pow",
    "clone",
    "index",
    "arange",
    "full",
    "ones",
    "zeros",
    "to",
    "getitem",
    "masked_fill",
    "where",
    "t",
];

/// The largest number that exporters add to hide an element from a softmax.
const MASKED_MAX: f32 = -10.0;

/// Names of weights whose elements the exporter only moved.
const MOVED: [&str; 15] = [
    "onnx::Add",
    "onnx::Mul",
    "unsqueeze",
    "squeeze",
    "view",
    "reshape",
    "permute",
    "transpose",
    "expand",
    "expand_as",
    "slice",
    "select",
    "cat",
    "stack",
    "clone",
];

/// Those that `torch.export` gives to constants in a program's text.
const COPIES: [&str; 2] = ["_to_copy", "lifted_tensor"];

/// Elements from which on a frozen constant of the exporter is worth a note.
const EXPORTED_LEN_MIN: usize = 16;

/// Where values are read: node and operand numbers by value name.
type Readers<'a> = HashMap<&'a str, Vec<(usize, usize)>>;

/// What a graph's initialisers are for.
pub(super) struct Roles<'a> {
    graph: &'a GraphProto,
    readers: Readers<'a>,
    reached: HashSet<&'a str>,
}

impl<'a> Roles<'a> {
    pub(super) fn new(graph: &'a GraphProto) -> Self {
        Roles { graph, readers: readers(graph), reached: reached(graph) }
    }

    /// The nodes that read `value` in the end, with operand numbers, in order.
    pub(super) fn uses(&self, value: &str) -> Vec<(&'a NodeProto, usize)> {
        let mut uses = Vec::new();
        let mut pending = vec![value];
        let mut seen = HashSet::new();
        while let Some(value) = pending.pop() {
            if !seen.insert(value) {
                continue;
            }
            for &(index, operand) in self.readers.get(value).into_iter().flatten() {
                let node = &self.graph.node[index];
                match operand == 0 && TRANSPARENT.contains(&node.op_type.as_str()) {
                    true => pending.extend(node.output.first().map(String::as_str)),
                    false => uses.push((index, operand)),
                }
            }
        }
        uses.sort_unstable();
        uses.into_iter().map(|(index, operand)| (&self.graph.node[index], operand)).collect()
    }

    /// The names of the nodes that compute with `value`, those that read only its shape left out.
    pub(super) fn users(&self, value: &str) -> Vec<&'a str> {
        let uses = self.uses(value).into_iter().filter(|(node, at)| !is_setting(node, *at));
        uses.map(|(node, _)| node.name.as_str()).collect()
    }

    /// Why `initialiser` is not trained, or nothing if it is.
    pub(super) fn frozen(&self, initialiser: &TensorProto) -> Option<Frozen> {
        let uses = self.uses(&initialiser.name);
        let rank = initialiser.dims.len();
        let elements = Elements::of(initialiser);
        let all_settings = uses.iter().all(|(node, at)| is_setting(node, *at));
        if !proto::is_float(initialiser.data_type) {
            Some(Frozen::NotFloat)
        } else if !uses.is_empty() && all_settings {
            Some(Frozen::Setting)
        } else if !self.reached.contains(initialiser.name.as_str()) {
            Some(Frozen::Unreached)
        } else if uses.iter().any(|(node, at)| is_statistic(node, *at))
            || names_statistic(&initialiser.name)
        {
            Some(Frozen::Statistics)
        } else if uses.iter().any(|(node, at)| is_weight(node, *at, rank)) {
            None
        } else if rank == 0 {
            Some(Frozen::Scalar)
        } else if elements == Elements::Mask {
            Some(Frozen::Mask)
        } else if is_moved_weight(initialiser, &uses, elements) {
            None
        } else {
            names_constant(&initialiser.name).then_some(Frozen::Exported)
        }
    }
}

fn readers(graph: &GraphProto) -> Readers<'_> {
    let mut readers = Readers::new();
    for (index, node) in graph.node.iter().enumerate() {
        for (operand, value) in node.input.iter().enumerate().filter(|(_, v)| !v.is_empty()) {
            readers.entry(value).or_default().push((index, operand));
        }
    }
    readers
}

/// Values on which some output depends through differentiable ops.
fn reached(graph: &GraphProto) -> HashSet<&str> {
    let mut reached: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    for node in graph.node.iter().rev() {
        let used = node.output.iter().any(|output| reached.contains(output.as_str()));
        if used && !OPAQUE.contains(&node.op_type.as_str()) {
            let operands = node.input.iter().enumerate().filter(|(at, _)| !is_setting(node, *at));
            reached.extend(operands.map(|(_, value)| value.as_str()));
        }
    }
    reached
}

fn is_setting(node: &NodeProto, operand: usize) -> bool {
    let kind = node.op_type.as_str();
    match operand {
        0 => kind == "Where" || OPAQUE.contains(&kind),
        _ => FIRST_ONLY.contains(&kind) || kind.starts_with("Reduce") || OPAQUE.contains(&kind),
    }
}

fn is_statistic(node: &NodeProto, operand: usize) -> bool {
    node.op_type == "BatchNormalization" && operand >= 3
}

/// Whether only a weight of `rank` dimensions goes here.
fn is_weight(node: &NodeProto, operand: usize, rank: usize) -> bool {
    match node.op_type.as_str() {
        "Conv" | "ConvTranspose" => operand >= 1,
        "BatchNormalization"
        | "LayerNormalization"
        | "GroupNormalization"
        | "InstanceNormalization"
        | "RMSNormalization" => operand == 1 || operand == 2,
        "PRelu" => operand == 1,
        "MatMul" => rank >= 2,
        "Gemm" => rank >= 2 || operand == 2,
        _ => false,
    }
}

fn names_statistic(name: &str) -> bool {
    ["running_mean", "running_var", "moving_mean", "moving_variance"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// A name without its number: `view` of `view_12`.
fn stem(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() < name.len() { stem.trim_end_matches('_') } else { stem }
}

/// Whether the exporter made this of a weight without changing its elements.
fn is_moved_weight(
    initialiser: &TensorProto,
    uses: &[(&NodeProto, usize)],
    elements: Elements,
) -> bool {
    let stem = stem(&initialiser.name);
    let long = initialiser.dims.iter().filter(|&&dim| dim > 1).count();
    let is_vector = long == 1
        && initialiser.dims.len() > 1
        && !COPIES.contains(&stem)
        && uses.iter().all(|(node, _)| matches!(node.op_type.as_str(), "Add" | "Mul"));
    is_vector || (MOVED.contains(&stem) && elements == Elements::Many)
}

/// What kind of numbers a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elements {
    /// 0 and one number not above [`MASKED_MAX`].
    Mask,
    /// At most two different ones that are no mask.
    Few,
    /// More than two different ones.
    Many,
}

impl Elements {
    fn of(initialiser: &TensorProto) -> Elements {
        let elements = proto::floats(initialiser);
        let first = elements.first().copied().unwrap_or(0.0);
        let Some(&second) = elements.iter().find(|&&x| x != first) else { return Elements::Few };
        if elements.iter().any(|&x| x != first && x != second) {
            return Elements::Many;
        }
        match first.max(second) == 0.0 && first.min(second) <= MASKED_MAX {
            true => Elements::Mask,
            false => Elements::Few,
        }
    }
}

/// Whether an exporter, not the author of the network, chose this name.
fn names_constant(name: &str) -> bool {
    let stem = stem(name);
    stem.is_empty()
        || TORCH_VALUES.contains(&stem)
        || name.starts_with("onnx::")
        || name.contains("Constant")
        || (name.starts_with('/') && name.ends_with("_output_0"))
}

/// Notes for people about weights that several nodes share, or that are equal.
pub(super) fn sharing_notes(graph: &GraphProto, trainable: &[&TensorProto]) -> Vec<String> {
    let roles = Roles::new(graph);
    let mut notes = Vec::new();
    for initialiser in trainable {
        let names = roles.users(&initialiser.name);
        if names.len() > 1 {
            notes.push(format!(
                "'{}' is shared by {} nodes [{}]: it is trained as one",
                initialiser.name,
                names.len(),
                names.join(", ")
            ));
        }
    }
    notes.extend(equal_note(trainable));
    notes
}

/// Says how many folded tensors stay as they are; small ones are not worth a word.
pub(super) fn exported_note(params: &[super::Param]) -> Option<String> {
    let is_large = |param: &&super::Param| {
        param.frozen == Some(Frozen::Exported) && param.shape.len() >= EXPORTED_LEN_MIN
    };
    let large: Vec<&str> =
        params.iter().filter(is_large).map(|param| param.name.as_str()).collect();
    let first = large.first()?;
    Some(format!(
        "constants that the exporter made stay frozen: {} of them, such as '{first}'; if there are \
         weights in them, export the model without optimisation",
        large.len()
    ))
}

fn equal_note(trainable: &[&TensorProto]) -> Option<String> {
    let mut groups: HashMap<(&[i64], &[u8]), Vec<&str>> = HashMap::new();
    for initialiser in trainable.iter().filter(|i| !i.raw_data.is_empty()) {
        let key = (initialiser.dims.as_slice(), initialiser.raw_data.as_slice());
        groups.entry(key).or_default().push(&initialiser.name);
    }
    let mut equal: Vec<&str> = groups.into_values().filter(|g| g.len() > 1).flatten().collect();
    equal.sort_unstable();
    let first = equal.first()?;
    Some(format!(
        "{} weights equal another at import, '{first}' among them: they are kept separate",
        equal.len()
    ))
}
