//! From tract's typed graph to the crate's own.
//!
//! Nodes are visited in order. What only constants feed is computed by tract there and then and
//! stays a constant; so the arithmetic on shapes that exporters leave behind vanishes. Everything
//! else goes to one short function per op, which extends the graph. Ops without such a function
//! are collected, with a stand-in for their results, and reported in one error.

mod axes;
mod conv;
mod einsum;
mod elementwise;
mod gelu;
mod indexing;
mod pool;
mod reduce;
mod resize;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tract_onnx::tract_core::ops::array::{
    Gather, GatherNd, MultiBroadcastTo, Pad, ScatterNd, Slice, StridedSlice, Tile, TypedConcat,
};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::cnn::{Conv, Deconv, MaxPool, SumPool};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::identity::Identity;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::logic::Iff;
use tract_onnx::tract_core::ops::nn::{Reduce, RmsNorm, Softmax};
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::internal::*;

use super::{Model, typed};
use crate::error::{Error, Result};
use crate::graph::{Graph, LeafKind, Op, ValueId};
use crate::tensor::{Shape, Tensor as HostTensor};

/// The largest number of elements a value may have.
const LEN_MAX: usize = 1 << 31;

/// The largest number of elements a constant may have.
const CONSTANT_LEN_MAX: usize = 1 << 28;

/// What a lowering function gives: its op's first result, or nothing if it cannot lower it.
type Lowered = Result<Option<ValueId>>;

/// The value behind one of tract's outlets.
enum Bound {
    Known(Arc<Tensor>),
    Value(ValueId),
}

struct Lowering<'a> {
    typed: &'a TypedModel,
    graph: Graph,
    bound: HashMap<OutletId, Bound>,
    /// Constants that have become values of the graph.
    constants: HashMap<OutletId, ValueId>,
    unsupported: BTreeMap<String, Vec<String>>,
}

/// The graph of `typed`, its sources bound to the model's input and weights.
///
/// # Errors
/// Lists all ops that cannot be lowered.
pub(super) fn lower(model: &Model, typed: &TypedModel) -> Result<Graph> {
    let mut lowering = Lowering {
        typed,
        graph: Graph::new(),
        bound: HashMap::new(),
        constants: HashMap::new(),
        unsupported: BTreeMap::new(),
    };
    let order = typed::guarded("ordering the model", || typed.eval_order())?;
    for id in order {
        let node = &typed.nodes[id];
        lowering.graph.set_origin(node.name.clone());
        let scene = |error: Error| error.context(format!("node '{}'", node.name));
        lowering.node(model, node).map_err(scene)?;
    }
    if !lowering.unsupported.is_empty() {
        return Err(unsupported(&lowering.unsupported));
    }
    for (port, &outlet) in model.outputs.iter().zip(&typed.outputs) {
        let value = lowering.outlet(outlet)?;
        let shape = lowering.graph.shape(value);
        if shape.is_empty() {
            return Err(Error::mismatch(format!("output '{}' has shape {shape}", port.name))
                .hint("give a larger input: some window does not fit into it"));
        }
        lowering.graph.set_output(&port.name, value);
    }
    let graph = live_part(&lowering.graph)?.sink_transposes()?;
    live_part(&graph)
}

/// The nodes on which the results depend, and the input, in the same order.
fn live_part(graph: &Graph) -> Result<Graph> {
    let mut live = vec![false; graph.values().len()];
    for &(_, output) in graph.outputs() {
        live[output.index()] = true;
    }
    for node in graph.nodes().iter().rev() {
        if node.outputs.iter().any(|output| live[output.index()]) {
            node.inputs.iter().for_each(|input| live[input.index()] = true);
        }
    }
    let mut part = Graph::new();
    let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
    for node in graph.nodes() {
        let output = node.outputs[0];
        part.set_origin(node.origin.clone());
        let value = match &node.op {
            Op::Leaf(leaf) if live[output.index()] || leaf.kind == LeafKind::Input => {
                part.add_leaf(leaf.kind, &leaf.name, graph.shape(output))?
            }
            op if live[output.index()] => {
                let inputs: Vec<ValueId> = node.inputs.iter().map(|input| renamed[input]).collect();
                part.push(op.clone(), &inputs)?[0]
            }
            _ => continue,
        };
        renamed.insert(output, value);
    }
    for (name, output) in graph.outputs() {
        part.set_output(name, renamed[output]);
    }
    part.set_origin("");
    Ok(part)
}

/// One error for all ops that cannot be imported: kinds, counts, examples, and what remains.
#[cold]
pub(super) fn unsupported(kinds: &BTreeMap<String, Vec<String>>) -> Error {
    let listed: Vec<String> = kinds
        .iter()
        .map(|(kind, names)| {
            let example = names.first().map_or("", String::as_str);
            format!("{kind} ({} times, such as '{example}')", names.len())
        })
        .collect();
    Error::unsupported(format!("ops that cannot be imported: {}", listed.join(", "))).hint(
        "inference in another runtime still works; to adapt a head only, cut the model at \
         features before the first of these nodes",
    )
}

/// Checks that a value of this shape may be thought of at all.
pub(super) fn check_extents(shape: &Shape) -> Result<()> {
    match shape.checked_len() {
        Ok(len) if len <= LEN_MAX => Ok(()),
        _ => Err(Error::mismatch(format!(
            "a value of shape {shape} has more than {LEN_MAX} elements"
        ))),
    }
}

fn shape_of(fact: &TypedFact) -> Result<Shape> {
    let shape = fact.shape.as_concrete().map(Shape::from).ok_or_else(|| {
        Error::unsupported(format!("its shape {:?} depends on data", fact.shape))
            .hint("export the model with static extents")
    })?;
    check_extents(&shape)?;
    Ok(shape)
}

impl Lowering<'_> {
    fn node(&mut self, model: &Model, node: &TypedNode) -> Result<()> {
        if let Some(op) = node.op_as::<Const>() {
            let outlet = OutletId::new(node.id, 0);
            self.bound.insert(outlet, Bound::Known(op.val().clone()));
            return Ok(());
        }
        if node.op_is::<TypedSource>() {
            return self.source(model, node);
        }
        if self.fold(node)? {
            return Ok(());
        }
        let shape = shape_of(&node.outputs[0].fact)?;
        match self.dispatch(node)? {
            Some(value) if node.outputs.len() == 1 || self.only_first_used(node) => {
                if *self.graph.shape(value) != shape {
                    let found = self.graph.shape(value);
                    return Err(Error::internal(format!("lowered to {found}, not {shape}")));
                }
                self.bound.insert(OutletId::new(node.id, 0), Bound::Value(value));
                Ok(())
            }
            _ => self.stand_in(node),
        }
    }

    fn source(&mut self, model: &Model, node: &TypedNode) -> Result<()> {
        let shape = shape_of(&node.outputs[0].fact)?;
        let value = match model.weights.contains_key(&node.name) {
            true => self.graph.param(&node.name, &shape)?,
            false => self.graph.input(&node.name, &shape)?,
        };
        self.bound.insert(OutletId::new(node.id, 0), Bound::Value(value));
        Ok(())
    }

    /// Computes a node that only constants feed, or whose results tract knows already.
    fn fold(&mut self, node: &TypedNode) -> Result<bool> {
        let known: Option<TVec<Arc<Tensor>>> =
            node.outputs.iter().map(|output| output.fact.konst.clone()).collect();
        let results = match known {
            Some(known) => Some(known),
            None => self.evaluate(node)?,
        };
        let Some(results) = results else { return Ok(false) };
        for (slot, value) in results.into_iter().enumerate() {
            self.bound.insert(OutletId::new(node.id, slot), Bound::Known(value));
        }
        Ok(true)
    }

    fn evaluate(&self, node: &TypedNode) -> Result<Option<TVec<Arc<Tensor>>>> {
        let operands: Option<TVec<TValue>> = node
            .inputs
            .iter()
            .map(|&input| self.known(input).map(|value| value.clone().into_tvalue()))
            .collect();
        let Some(operands) = operands else { return Ok(None) };
        for output in &node.outputs {
            let shape = shape_of(&output.fact)?;
            if shape.len() > CONSTANT_LEN_MAX {
                return Err(Error::malformed(format!("a constant of shape {shape} is too large")));
            }
        }
        typed::guarded("computing a constant", || {
            let results = node.op.eval_out_of_plan(operands)?;
            Ok(results.map(|values| values.into_iter().map(|v| v.into_arc_tensor()).collect()))
        })
    }

    /// Notes an op that cannot be lowered, and goes on as if its results were inputs.
    fn stand_in(&mut self, node: &TypedNode) -> Result<()> {
        self.unsupported.entry(node.op.name().to_string()).or_default().push(node.name.clone());
        for (slot, output) in node.outputs.iter().enumerate() {
            let shape = shape_of(&output.fact)?;
            let value = self.graph.input(&format!("{}:{slot}", node.name), &shape)?;
            self.bound.insert(OutletId::new(node.id, slot), Bound::Value(value));
        }
        Ok(())
    }

    fn only_first_used(&self, node: &TypedNode) -> bool {
        (1..node.outputs.len()).all(|slot| {
            node.outputs[slot].successors.is_empty()
                && !self.typed.outputs.contains(&OutletId::new(node.id, slot))
        })
    }

    fn dispatch(&mut self, node: &TypedNode) -> Lowered {
        if let Some(op) = node.op_as::<EinSum>() {
            einsum::einsum(self, node, op)
        } else if let Some(op) = node.op_as::<Conv>() {
            conv::conv(self, node, op)
        } else if let Some(op) = node.op_as::<Deconv>() {
            conv::deconv(self, node, op)
        } else if let Some(op) = node.op_as::<MaxPool>() {
            pool::max_pool(self, node, op)
        } else if let Some(op) = node.op_as::<SumPool>() {
            pool::sum_pool(self, node, op)
        } else if let Some(op) = node.op_as::<Reduce>() {
            reduce::reduce(self, node, op)
        } else if let Some(op) = node.op_as::<Softmax>() {
            reduce::softmax(self, node, op)
        } else if let Some(op) = node.op_as::<RmsNorm>() {
            reduce::rms_norm(self, node, op)
        } else if let Some(op) = node.op_as::<TypedBinOp>() {
            elementwise::binary(self, node, op)
        } else if let Some(op) = node.op_as::<ElementWiseOp>() {
            elementwise::unary(self, node, op)
        } else {
            self.dispatch_movement(node)
        }
    }

    /// Ops that only move elements.
    fn dispatch_movement(&mut self, node: &TypedNode) -> Lowered {
        if let Some(op) = node.op_as::<AxisOp>() {
            axes::axis_op(self, node, op)
        } else if node.op_is::<MultiBroadcastTo>() {
            axes::broadcast(self, node)
        } else if let Some(op) = node.op_as::<TypedConcat>() {
            axes::concat(self, node, op)
        } else if let Some(op) = node.op_as::<Tile>() {
            axes::tile(self, node, op)
        } else if let Some(op) = node.op_as::<Pad>() {
            axes::pad(self, node, op)
        } else if let Some(op) = node.op_as::<Slice>() {
            indexing::slice(self, node, op)
        } else if let Some(op) = node.op_as::<StridedSlice>() {
            indexing::strided_slice(self, node, op)
        } else if let Some(op) = node.op_as::<Gather>() {
            indexing::gather(self, node, op)
        } else if let Some(op) = node.op_as::<GatherNd>() {
            indexing::gather_nd(self, node, op)
        } else if let Some(op) = node.op_as::<ScatterNd>() {
            indexing::scatter_nd(self, node, op)
        } else if let Some(op) = node.op_as::<Cast>() {
            elementwise::cast(self, node, op)
        } else if node.op_is::<Iff>() {
            elementwise::select(self, node)
        } else if node.op_is::<Identity>() {
            self.operand(node, 0).map(Some)
        } else if node.op.name() == "Resize" {
            resize::resize(self, node)
        } else {
            Ok(None)
        }
    }

    /// Operand `at` of `node` as a value of the graph.
    fn operand(&mut self, node: &TypedNode, at: usize) -> Result<ValueId> {
        let outlet = node.inputs.get(at).copied();
        self.outlet(outlet.ok_or_else(|| Error::malformed(format!("operand {at} is missing")))?)
    }

    fn outlet(&mut self, outlet: OutletId) -> Result<ValueId> {
        if let Some(&value) = self.constants.get(&outlet) {
            return Ok(value);
        }
        let constant = match self.bound.get(&outlet) {
            Some(Bound::Value(value)) => return Ok(*value),
            Some(Bound::Known(constant)) => typed::to_host(constant)?,
            None => return Err(Error::internal("an operand comes after its user")),
        };
        let value = self.graph.constant(constant)?;
        self.constants.insert(outlet, value);
        Ok(value)
    }

    /// The constant behind `outlet`, if it is one.
    fn known(&self, outlet: OutletId) -> Option<&Arc<Tensor>> {
        match self.bound.get(&outlet) {
            Some(Bound::Known(constant)) => Some(constant),
            _ => None,
        }
    }

    /// The constant operand `at` of `node` as `f32`, if it is one.
    fn known_floats(&self, node: &TypedNode, at: usize) -> Result<Option<HostTensor>> {
        let constant = node.inputs.get(at).and_then(|&input| self.known(input));
        constant.map(|constant| typed::to_host(constant)).transpose()
    }

    /// The number all elements of the constant operand `at` are equal to.
    fn known_splat(&self, node: &TypedNode, at: usize) -> Result<Option<f32>> {
        let Some(floats) = self.known_floats(node, at)? else { return Ok(None) };
        let first = floats.first().copied();
        Ok(first.filter(|first| floats.iter().all(|x| x == first)))
    }

    /// The constant operand `at` of `node` as integers, if it is one.
    fn known_integers(&self, node: &TypedNode, at: usize) -> Result<Option<Vec<i64>>> {
        let constant = node.inputs.get(at).and_then(|&input| self.known(input));
        let Some(constant) = constant else { return Ok(None) };
        typed::guarded("reading indices", || {
            let integers = constant.cast_to::<i64>()?;
            Ok(Some(integers.to_plain_array_view::<i64>()?.iter().copied().collect()))
        })
    }
}
