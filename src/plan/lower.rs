//! Nodes to dispatches.
//!
//! Element-wise values are either *materialised* (they have memory, and a `map` dispatch fills it)
//! or *virtual* (every reader computes them again inside its own tape). A value must have memory
//! when something other than a tape reads it; it gets memory when computing it again would cost
//! more memory traffic than reading it back.

use std::collections::{BTreeSet, HashMap};

use super::tape::Expression;
use super::{Buffer, BufferId, Dispatch, Place, Plan, Port};
use crate::error::{Context, Error, Result};
use crate::graph::{Graph, LeafKind, Node, NodeId, Op, PriorTerm, Unary, Update, ValueId};
use crate::kernel::tape::{EXTENTS_MAX, View};
use crate::kernel::{Kernel, matmul::Product, reduce::Reduce};
use crate::tensor::Shape;

/// Most operands of a tape that has a result to write within eight bindings.
const OPERANDS_MAX: usize = 7;

/// Cost above which a value read by several tapes is stored, in units of an addition.
const RECOMPUTE_MAX: usize = 32;

/// The dispatches of `graph`'s nodes in `order`, each result in memory of its own.
pub(super) fn lower(graph: &Graph, order: &[NodeId]) -> Result<Plan> {
    let has_memory = materialise(graph, order);
    let mut lowering =
        Lowering { graph, has_memory, plan: Plan::default(), buffers: HashMap::new() };
    for &id in order {
        let node = graph.node(id);
        lowering.node(node).context(|| format!("planning node '{}' ({})", node.origin, node.op))?;
    }
    lowering.outputs()?;
    lowering.transitions()?;
    Ok(lowering.plan)
}

/// The value whose memory `value` shares: itself, or what it is a reshape of.
pub(super) fn root(graph: &Graph, value: ValueId) -> ValueId {
    match graph.producer(value) {
        Node { op: Op::Reshape(_), inputs, .. } => root(graph, inputs[0]),
        _ => value,
    }
}

fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Broadcast(_))
}

/// What computing a virtual value again costs.
#[derive(Clone, Default)]
struct Cost {
    operands: BTreeSet<ValueId>,
    /// Operands as large as the value itself.
    full: usize,
    work: usize,
}

/// Decides for every value whether it has memory of its own.
fn materialise(graph: &Graph, order: &[NodeId]) -> Vec<bool> {
    let mut has_memory = vec![true; graph.values().len()];
    let demand = demand(graph, order);
    let mut costs: HashMap<ValueId, Cost> = HashMap::new();
    for &id in order {
        let node = graph.node(id);
        if !is_elementwise(&node.op) {
            continue;
        }
        let value = node.outputs[0];
        if graph.splat_value(value).is_some() {
            has_memory[value.index()] = demand[value.index()].memory;
            continue;
        }
        let mut cost = cost_of(graph, node, &costs);
        if cost.operands.len() > OPERANDS_MAX {
            // Store the widest operand; the rest then fits.
            let widest = node.inputs.iter().copied().filter(|v| costs.contains_key(v));
            if let Some(widest) = widest.max_by_key(|v| costs[v].operands.len()) {
                has_memory[widest.index()] = true;
                costs.remove(&widest);
                cost = cost_of(graph, node, &costs);
            }
        }
        let demand = demand[value.index()];
        let again = demand.tapes > 1 && (cost.full > 1 || cost.work > RECOMPUTE_MAX);
        has_memory[value.index()] = demand.memory || again;
        if !has_memory[value.index()] {
            costs.insert(value, cost);
        }
    }
    has_memory
}

fn cost_of(graph: &Graph, node: &Node, costs: &HashMap<ValueId, Cost>) -> Cost {
    let mut cost = Cost { work: work(&node.op), ..Cost::default() };
    let len = graph.shape(node.outputs[0]).len();
    for &input in &node.inputs {
        match costs.get(&input) {
            Some(inner) => {
                cost.operands.extend(&inner.operands);
                cost.work += inner.work;
            }
            None if graph.splat_value(input).is_none() => {
                cost.operands.insert(root(graph, input));
            }
            None => {}
        }
    }
    cost.full = cost.operands.iter().filter(|&&v| graph.shape(v).len() == len).count();
    cost
}

/// Rough cost of one element, an addition being 1.
fn work(op: &Op) -> usize {
    match op {
        Op::Unary(Unary::Exp | Unary::Log | Unary::Sigmoid) => 8,
        Op::Unary(Unary::Tanh | Unary::Erf | Unary::Gelu) => 12,
        Op::Unary(Unary::Powf(_) | Unary::GeluSlope) => 20,
        Op::Unary(Unary::Sqrt | Unary::Rsqrt | Unary::Recip) => 4,
        _ => 1,
    }
}

/// How a value is read.
#[derive(Clone, Copy, Default)]
struct Demand {
    /// Something other than a tape reads it.
    memory: bool,
    /// Number of nodes that read it within a tape.
    tapes: usize,
}

fn demand(graph: &Graph, order: &[NodeId]) -> Vec<Demand> {
    let mut demand = vec![Demand::default(); graph.values().len()];
    for &id in order {
        let node = graph.node(id);
        for &input in &node.inputs {
            let demand = &mut demand[input.index()];
            match node.op {
                // A broadcast reads one element many times: its operand is not computed again.
                Op::Broadcast(_) | Op::Reshape(_) => demand.memory = true,
                Op::Reduce(..) => demand.tapes += 1,
                _ if is_elementwise(&node.op) => demand.tapes += 1,
                _ => demand.memory = true,
            }
        }
    }
    let targets = graph.outputs().iter().map(|&(_, value)| value);
    for value in targets.chain(graph.transitions().iter().map(|t| t.next)) {
        demand[root(graph, value).index()].memory = true;
    }
    demand
}

struct Lowering<'a> {
    graph: &'a Graph,
    has_memory: Vec<bool>,
    plan: Plan,
    /// Memory of each root value.
    buffers: HashMap<ValueId, BufferId>,
}

impl Lowering<'_> {
    fn node(&mut self, node: &Node) -> Result<()> {
        match &node.op {
            Op::Reshape(_) => Ok(()),
            Op::Leaf(leaf) => {
                let value = node.outputs[0];
                let place = match leaf.kind {
                    LeafKind::Input => Place::Arena(0),
                    LeafKind::Param | LeafKind::State => Place::Resident(leaf.clone()),
                };
                let buffer = self.new_buffer(value, place);
                if leaf.kind == LeafKind::Input {
                    let shape = self.graph.shape(value).clone();
                    self.plan.inputs.push(Port { name: leaf.name.clone(), shape, buffer });
                }
                Ok(())
            }
            Op::Const(tensor) => {
                // A splat is written into the tapes that use it, and stored only if asked for.
                let place = Place::Constant(tensor.clone());
                self.new_buffer(node.outputs[0], place);
                Ok(())
            }
            op if is_elementwise(op) => self.map(node),
            Op::Reduce(how, axes) => self.reduce(node, *how, axes),
            _ => self.direct(node),
        }
    }

    fn new_buffer(&mut self, value: ValueId, place: Place) -> BufferId {
        let id = BufferId(self.plan.buffers.len() as u32);
        self.plan.buffers.push(Buffer { len: self.graph.shape(value).len(), place });
        self.buffers.insert(value, id);
        id
    }

    fn buffer(&self, value: ValueId) -> Result<BufferId> {
        let root = root(self.graph, value);
        self.buffers
            .get(&root)
            .copied()
            .ok_or_else(|| Error::internal(format!("value {value} has no memory")))
    }

    fn dispatch(&mut self, node: &Node, kernel: Kernel, operands: &[ValueId]) -> Result<()> {
        let reads = operands.iter().map(|&v| self.buffer(v)).collect::<Result<Vec<_>>>()?;
        let writes = node.outputs.iter().map(|&v| self.new_buffer(v, Place::Arena(0))).collect();
        let origin = node.origin.clone();
        self.plan.dispatches.push(Dispatch { kernel, reads, writes, origin, stage: node.stage });
        Ok(())
    }

    fn map(&mut self, node: &Node) -> Result<()> {
        let value = node.outputs[0];
        if !self.has_memory[value.index()] {
            return Ok(());
        }
        let graph = self.graph;
        let has_memory = std::mem::take(&mut self.has_memory);
        let lookup = |v: ValueId| has_memory[v.index()];
        let expression = Expression::of(graph, value, &lookup);
        let (tape, _) = expression.tape(None);
        let operands: Vec<ValueId> = expression.operands().collect();
        self.has_memory = has_memory;
        check_extents(&tape.extents)?;
        self.dispatch(node, Kernel::Map(tape), &operands)
    }

    fn reduce(&mut self, node: &Node, how: crate::graph::Reduction, axes: &[usize]) -> Result<()> {
        let graph = self.graph;
        let operand = node.inputs[0];
        let has_memory = std::mem::take(&mut self.has_memory);
        let lookup = |v: ValueId| has_memory[v.index()];
        let output = graph.shape(node.outputs[0]);
        let mut strides = output.strides();
        axes.iter().for_each(|&axis| strides[axis] = 0);
        let expression = Expression::read(graph, operand, &lookup);
        let (tape, output) = expression.tape(Some(View(strides)));
        let operands: Vec<ValueId> = expression.operands().collect();
        self.has_memory = has_memory;
        check_extents(&tape.extents)?;
        let output = output.ok_or_else(|| Error::internal("a reduction has an output view"))?;
        self.dispatch(node, Kernel::Reduce(Reduce { tape, output, how }), &operands)
    }

    /// Nodes that are one kernel as they are.
    fn direct(&mut self, node: &Node) -> Result<()> {
        let shapes: Vec<&Shape> = node.inputs.iter().map(|&v| self.graph.shape(v)).collect();
        let kernel = kernel_of(&node.op, &shapes, self.graph.shape(node.outputs[0]))?;
        self.dispatch(node, kernel, &node.inputs)
    }

    fn outputs(&mut self) -> Result<()> {
        for (name, value) in self.graph.outputs() {
            let buffer = self.buffer(*value)?;
            let shape = self.graph.shape(*value).clone();
            self.plan.outputs.push(Port { name: name.clone(), shape, buffer });
        }
        Ok(())
    }

    /// Lets each next value be written where its leaf lives, or copies it there at the end.
    fn transitions(&mut self) -> Result<()> {
        for transition in self.graph.transitions() {
            let leaf = self.buffer(transition.leaf)?;
            let next = self.buffer(transition.next)?;
            if leaf == next {
                continue;
            }
            if !self.can_write_in_place(leaf, next) {
                self.copy(transition.leaf, leaf, next);
                continue;
            }
            let rename = |id: &mut BufferId| *id = if *id == next { leaf } else { *id };
            for dispatch in &mut self.plan.dispatches {
                dispatch.reads.iter_mut().chain(&mut dispatch.writes).for_each(rename);
            }
            self.plan.outputs.iter_mut().for_each(|port| rename(&mut port.buffer));
        }
        Ok(())
    }

    fn can_write_in_place(&self, leaf: BufferId, next: BufferId) -> bool {
        let is_arena = matches!(self.plan.buffers[next.index()].place, Place::Arena(_));
        let dispatches = &self.plan.dispatches;
        let Some(writer) = dispatches.iter().position(|d| d.writes.contains(&next)) else {
            return false;
        };
        let updates = matches!(dispatches[writer].kernel, Kernel::Update { .. });
        let read_by = |d: &Dispatch| d.reads.contains(&leaf);
        let read_from = if updates { writer + 1 } else { writer };
        let written = dispatches.iter().any(|d| d.writes.contains(&leaf));
        let is_output = self.plan.outputs.iter().any(|port| port.buffer == leaf);
        is_arena && !written && !is_output && !dispatches[read_from..].iter().any(read_by)
    }

    fn copy(&mut self, value: ValueId, leaf: BufferId, next: BufferId) {
        let graph = self.graph;
        let in_memory = |_: ValueId| true;
        let (tape, _) = Expression::read(graph, value, &in_memory).tape(None);
        self.plan.dispatches.push(Dispatch {
            kernel: Kernel::Map(tape),
            reads: vec![next],
            writes: vec![leaf],
            origin: "copy".to_string(),
            stage: crate::graph::Stage::Update,
        });
    }
}

fn check_extents(extents: &[usize]) -> Result<()> {
    if extents.len() > EXTENTS_MAX {
        let message = format!("an element-wise op over {} separate axes", extents.len());
        return Err(Error::unsupported(message));
    }
    Ok(())
}

fn kernel_of(op: &Op, shapes: &[&Shape], output: &Shape) -> Result<Kernel> {
    let shape = || (*shapes[0]).clone();
    Ok(match op {
        Op::Transpose(perm) => Kernel::Transpose { shape: shape(), perm: perm.clone() },
        Op::Slice(slice) => Kernel::Slice { shape: shape(), slice: slice.clone() },
        Op::Pad(axes) => Kernel::Pad { shape: shape(), axes: axes.clone() },
        Op::Concat(axis) => {
            let shapes = shapes.iter().map(|&s| s.clone()).collect();
            Kernel::Concat { shapes, axis: *axis }
        }
        Op::Gather(indices) => Kernel::Gather { shape: shape(), indices: indices.clone() },
        Op::ScatterAdd(indices, _) => {
            Kernel::ScatterAdd { shape: output.clone(), indices: indices.clone() }
        }
        Op::MatMul(how) => {
            let ndim = output.ndim();
            let batch = output[..ndim - 2].iter().product();
            let k = shapes[0][if how.transpose_a { ndim - 2 } else { ndim - 1 }];
            let (m, n) = (output[ndim - 2], output[ndim - 1]);
            Kernel::MatMul(Product { batch, m, n, k, how: *how }, None)
        }
        Op::Conv2d(g) => Kernel::Conv2d(*g, None),
        Op::Conv2dInputGrad(g) => Kernel::Conv2dInputGrad(*g, None),
        Op::Conv2dFilterGrad(g) => Kernel::Conv2dFilterGrad(*g),
        Op::MaxPool(g) => Kernel::MaxPool(*g),
        Op::MaxPoolGrad(g) => Kernel::MaxPoolGrad(*g),
        Op::SumPool(g) => Kernel::SumPool(*g),
        Op::SumPoolGrad(g) => Kernel::SumPoolGrad(*g),
        Op::Softmax | Op::LogSoftmax => {
            let columns = output.last().copied().unwrap_or(1);
            let rows = output[..output.ndim() - 1].iter().product();
            match op {
                Op::Softmax => Kernel::Softmax { rows, columns },
                _ => Kernel::LogSoftmax { rows, columns },
            }
        }
        Op::Update(update) => update_kernel(*update, output),
        _ => return Err(Error::internal(format!("{} is not one kernel", op.name()))),
    })
}

fn update_kernel(update: Update, theta: &Shape) -> Kernel {
    let rank = match update.prior {
        PriorTerm::LowRank { rank } => rank,
        _ => 0,
    };
    Kernel::Update { update, len: theta.len(), rank }
}
