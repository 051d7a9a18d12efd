//! The graph: what is to be computed, in a small closed language.
//!
//! A [`Graph`] is a list of [`Node`]s in an order in which operands come first (static single
//! assignment). Every value has a static shape, computed by the one shape rule of its op when the
//! node is added, so a graph that exists is well formed; [`check`](Graph::check) proves it again
//! after a pass. A graph knows no file format and no device. Parameters are leaves with names; the
//! weights themselves live elsewhere.
//!
//! [`eval`](mod@eval) gives each op its meaning in `f64`: it is the oracle for all faster code.

mod build;
mod check;
pub mod eval;
mod fold;
mod op;
mod shape;
mod text;
mod transpose;

pub use op::{
    Binary, Conv2d, Hyper, Indices, Leaf, LeafKind, MatMul, Method, Op, PadAxis, Pool2d, PriorTerm,
    Reduction, Slice, Unary, Update,
};

use crate::tensor::Shape;

/// The name of a value within its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The name of a node within its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<ValueId>,
    /// Its results; one for every op but [`Op::Update`].
    pub outputs: Vec<ValueId>,
    /// Where it comes from, for messages: an ONNX node's name, or the node it is the vjp of.
    pub origin: String,
    /// Which part of a training step it belongs to.
    pub stage: Stage,
}

/// The parts of a training step, for listings and timings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the inputs to the loss.
    #[default]
    Forward,
    /// From the loss to the cotangents of the parameters.
    Backward,
    /// Penalty, clipping, optimiser.
    Update,
}

/// What is known of a value before it is computed.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its shape.
    pub shape: Shape,
    /// The node that produces it.
    pub node: NodeId,
}

/// A resident leaf and the value that replaces it after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// A [`LeafKind::Param`] or [`LeafKind::State`] leaf.
    pub leaf: ValueId,
    /// Its next value, of the same shape.
    pub next: ValueId,
}

/// A computation with named leaves, named outputs, and state that changes from run to run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    values: Vec<Value>,
    outputs: Vec<(String, ValueId)>,
    transitions: Vec<Transition>,
    origin: String,
    stage: Stage,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// All nodes, operands first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values, in the order of their nodes.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node that produces `value`.
    pub fn producer(&self, value: ValueId) -> &Node {
        self.node(self.values[value.index()].node)
    }

    /// The shape of `value`.
    pub fn shape(&self, value: ValueId) -> &Shape {
        &self.values[value.index()].shape
    }

    /// The named results, in the order they were declared.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The result called `name`.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|&(_, value)| value)
    }

    /// The state changes of a run.
    pub fn transitions(&self) -> &[Transition] {
        &self.transitions
    }

    /// Declares `value` a result called `name`; a result of that name is replaced.
    pub fn set_output(&mut self, name: &str, value: ValueId) {
        match self.outputs.iter_mut().find(|(n, _)| n == name) {
            Some(output) => output.1 = value,
            None => self.outputs.push((name.to_string(), value)),
        }
    }

    /// Removes all declared results.
    pub fn clear_outputs(&mut self) {
        self.outputs.clear();
    }

    /// Declares that `leaf` holds `next` after each run.
    pub fn set_next(&mut self, leaf: ValueId, next: ValueId) {
        self.transitions.push(Transition { leaf, next });
    }

    /// All leaves with their values, in order of declaration.
    pub fn leaves(&self) -> impl Iterator<Item = (&Leaf, ValueId)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Leaf(leaf) => Some((leaf, node.outputs[0])),
            _ => None,
        })
    }

    /// The leaf of `kind` called `name`.
    pub fn leaf(&self, kind: LeafKind, name: &str) -> Option<ValueId> {
        self.leaves().find(|(l, _)| l.kind == kind && l.name == name).map(|(_, value)| value)
    }

    /// Sets the stage given to nodes added from now on.
    pub fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// Sets the origin given to nodes added from now on, and returns the one before.
    pub fn set_origin(&mut self, origin: impl Into<String>) -> String {
        std::mem::replace(&mut self.origin, origin.into())
    }
}
