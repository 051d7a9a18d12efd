//! The reference interpreter: what each op means, in `f64`, as plainly as possible.
//!
//! It is the oracle for rewrites, derivatives, kernels and plans, so it is written to be read:
//! every op is a small function next to its formula, and none is fast. NaN propagates through
//! every op that looks at its operand's value. Speed, memory plans and `f32` are other modules'
//! matters; the only economy here is that an intermediate value is dropped after its last use.

mod conv;
mod layout;
mod map;
mod reduce;
mod update;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use super::{Graph, Leaf, LeafKind, Node, Op, ValueId};
use crate::error::{Context, Error, Result};
use crate::tensor::{Shape, Tensor};

/// A row-major `f64` array whose clones share their data; it derefs to its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Shape,
    data: Arc<Vec<f64>>,
}

impl Array {
    /// The array of `shape` with the elements `data` in row-major order.
    ///
    /// # Errors
    /// When the number of elements differs from the shape's.
    pub fn new(shape: &Shape, data: Vec<f64>) -> Result<Self> {
        if data.len() != shape.len() {
            let message = format!("{} elements do not fill shape {shape}", data.len());
            return Err(Error::mismatch(message));
        }
        Ok(Array { shape: shape.clone(), data: Arc::new(data) })
    }

    /// The array of `shape` whose element `i`, in row-major order, is `f(i)`.
    pub fn from_fn(shape: &Shape, f: impl FnMut(usize) -> f64) -> Self {
        Array { shape: shape.clone(), data: Arc::new((0..shape.len()).map(f).collect()) }
    }

    /// Its extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The same array rounded to `f32`.
    pub fn to_tensor(&self) -> Tensor {
        let rounded = self.iter().map(|&x| x as f32);
        Tensor::from_shape_vec(&self.shape[..], rounded.collect())
            .expect("an array has as many elements as its shape says")
    }
}

impl From<&Tensor> for Array {
    fn from(tensor: &Tensor) -> Self {
        let data = tensor.iter().copied().map(f64::from).collect();
        Array { shape: tensor.shape().into(), data: Arc::new(data) }
    }
}

impl Deref for Array {
    type Target = [f64];
    fn deref(&self) -> &[f64] {
        &self.data
    }
}

/// The values of leaves.
#[derive(Clone, Debug, Default)]
pub struct Env(HashMap<Leaf, Array>);

impl Env {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the leaf of `kind` called `name` a value, and returns the one before.
    pub fn set(&mut self, kind: LeafKind, name: &str, value: Array) -> Option<Array> {
        self.0.insert(Leaf { kind, name: name.to_string() }, value)
    }

    /// The value of the leaf of `kind` called `name`.
    pub fn get(&self, kind: LeafKind, name: &str) -> Option<&Array> {
        self.0.get(&Leaf { kind, name: name.to_string() })
    }

    /// The value of `leaf`, which must have `shape`.
    fn read(&self, leaf: &Leaf, shape: &Shape) -> Result<&Array> {
        let name = &leaf.name;
        match self.0.get(leaf) {
            None => Err(Error::invalid(format!("leaf '{name}' has no value"))),
            Some(value) if value.shape() != shape => {
                let given = value.shape();
                Err(Error::mismatch(format!("leaf '{name}' is {given}; expected {shape}")))
            }
            Some(value) => Ok(value),
        }
    }
}

/// All values of `graph`, by [`ValueId::index`].
///
/// # Errors
/// Names a leaf that has no value in `env`, or one of another shape.
pub fn eval(graph: &Graph, env: &Env) -> Result<Vec<Array>> {
    let mut values: Vec<Array> = Vec::with_capacity(graph.values().len());
    for node in graph.nodes() {
        let operands: Vec<&Array> = node.inputs.iter().map(|id| &values[id.index()]).collect();
        let results = apply(graph, node, &operands, env)?;
        values.extend(results);
    }
    Ok(values)
}

/// The results of one op on these operands: what a kernel for `op` must compute.
///
/// # Errors
/// When the operands do not fit the op's shape rule.
pub fn eval_op(op: Op, operands: &[Array]) -> Result<Vec<Array>> {
    let (mut graph, mut env) = (Graph::new(), Env::new());
    let mut inputs = Vec::with_capacity(operands.len());
    for (i, operand) in operands.iter().enumerate() {
        let name = i.to_string();
        inputs.push(graph.input(&name, operand.shape())?);
        env.set(LeafKind::Input, &name, operand.clone());
    }
    let results = graph.push(op, &inputs)?;
    let mut values = eval(&graph, &env)?;
    Ok(values.split_off(values.len() - results.len()))
}

/// The declared results of `graph`, by name.
///
/// # Errors
/// Like [`eval`], for the leaves that the results depend on.
pub fn outputs(graph: &Graph, env: &Env) -> Result<HashMap<String, Array>> {
    let wanted: Vec<ValueId> = graph.outputs().iter().map(|&(_, value)| value).collect();
    let values = eval_only(graph, env, &wanted)?;
    Ok(name_outputs(graph, values))
}

/// The declared results of `graph`, by name; then every resident leaf in `env` takes its next
/// value. Calling it again is the next training step.
///
/// # Errors
/// Like [`outputs`]; `env` is then as before.
pub fn step(graph: &Graph, env: &mut Env) -> Result<HashMap<String, Array>> {
    let mut wanted: Vec<ValueId> = graph.outputs().iter().map(|&(_, value)| value).collect();
    wanted.extend(graph.transitions().iter().map(|transition| transition.next));
    let mut values = eval_only(graph, env, &wanted)?;
    let next = values.split_off(graph.outputs().len());
    for (transition, value) in graph.transitions().iter().zip(next) {
        if let Op::Leaf(leaf) = &graph.producer(transition.leaf).op {
            env.0.insert(leaf.clone(), value);
        }
    }
    Ok(name_outputs(graph, values))
}

fn name_outputs(graph: &Graph, values: Vec<Array>) -> HashMap<String, Array> {
    graph.outputs().iter().map(|(name, _)| name.clone()).zip(values).collect()
}

/// The values `wanted`, in that order; computes only what they need, and drops what it no longer
/// needs.
fn eval_only(graph: &Graph, env: &Env, wanted: &[ValueId]) -> Result<Vec<Array>> {
    let last_use = last_uses(graph, wanted);
    let mut values: Vec<Option<Array>> = vec![None; graph.values().len()];
    for (position, node) in graph.nodes().iter().enumerate() {
        if node.outputs.iter().all(|id| last_use[id.index()].is_none()) {
            continue;
        }
        let operands: Vec<&Array> =
            node.inputs.iter().filter_map(|id| values[id.index()].as_ref()).collect();
        let results = apply(graph, node, &operands, env)?;
        for (id, result) in node.outputs.iter().zip(results) {
            values[id.index()] = last_use[id.index()].map(|_| result);
        }
        for id in &node.inputs {
            if last_use[id.index()] == Some(position) {
                values[id.index()] = None;
            }
        }
    }
    let missing = || Error::internal("a wanted value was dropped before its last use");
    wanted.iter().map(|id| values[id.index()].clone().ok_or_else(missing)).collect()
}

/// For each value that `wanted` depends on, the position of the last node that reads it;
/// `usize::MAX` for `wanted` itself.
fn last_uses(graph: &Graph, wanted: &[ValueId]) -> Vec<Option<usize>> {
    let mut last_use = vec![None; graph.values().len()];
    for id in wanted {
        last_use[id.index()] = Some(usize::MAX);
    }
    for (position, node) in graph.nodes().iter().enumerate().rev() {
        if node.outputs.iter().any(|id| last_use[id.index()].is_some()) {
            for id in &node.inputs {
                last_use[id.index()].get_or_insert(position);
            }
        }
    }
    last_use
}

/// The results of `node` on operands of the shapes its rule demands.
fn apply(graph: &Graph, node: &Node, x: &[&Array], env: &Env) -> Result<Vec<Array>> {
    let to = graph.shape(node.outputs[0]);
    let data = match &node.op {
        Op::Leaf(leaf) => return env.read(leaf, to).map(|value| vec![value.clone()]),
        Op::Const(tensor) => return Ok(vec![tensor.into()]),
        Op::Reshape(_) => return Ok(vec![Array { shape: to.clone(), data: x[0].data.clone() }]),
        Op::Update(how) => {
            let results = update::update(how, x).into_iter().zip(&node.outputs);
            return results.map(|(data, &id)| Array::new(graph.shape(id), data)).collect();
        }

        Op::Unary(f) => map::unary(*f, x[0]),
        Op::Binary(f) => map::binary(*f, x[0], x[1]),
        Op::Select => map::select(x[0], x[1], x[2]),

        Op::Broadcast(_) => layout::broadcast(x[0], to),
        Op::Transpose(perm) => layout::transpose(x[0], perm),
        Op::Slice(slice) => layout::slice(x[0], slice, to),
        Op::Pad(axes) => layout::pad(x[0], axes, to),
        Op::Concat(axis) => layout::concat(x, *axis, to),
        Op::Gather(indices) => layout::gather(x[0], indices),
        Op::ScatterAdd(indices, _) => layout::scatter_add(x[0], indices, to),

        Op::Reduce(how, axes) => reduce::reduce(*how, x[0], axes, to),
        Op::MatMul(how) => reduce::matmul(*how, x[0], x[1], to),
        Op::Softmax => reduce::softmax(x[0]),
        Op::LogSoftmax => reduce::log_softmax(x[0]),

        Op::Conv2d(g) => conv::conv2d(g, x[0], x[1]),
        Op::Conv2dInputGrad(g) => conv::input_grad(g, x[0], x[1]),
        Op::Conv2dFilterGrad(g) => conv::filter_grad(g, x[0], x[1]),
        Op::MaxPool(g) => conv::max_pool(g, x[0]),
        Op::MaxPoolGrad(g) => conv::max_pool_grad(g, x[0], x[1]),
        Op::SumPool(g) => conv::sum_pool(g, x[0]),
        Op::SumPoolGrad(g) => conv::sum_pool_grad(g, x[0]),
    };
    let array = Array::new(to, data).context(|| format!("node '{}'", node.origin))?;
    Ok(vec![array])
}

#[cfg(test)]
mod tests;
