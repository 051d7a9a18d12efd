//! A network under test: its outputs and gradient from the engine that users train on, and its
//! projected outputs at other weights from that engine or from the interpreter.

use priorfit::autodiff::vjp;
use priorfit::backend::{Backend, PlanId};
use priorfit::error::{Error, Result};
use priorfit::graph::eval::{self, Array, Env};
use priorfit::graph::{Graph, Leaf, LeafKind, ValueId};
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::rng::{Key, Stream};
use priorfit::tensor::{Tensor, contiguous, tensor};

/// Random numbers of one kind are this many lanes from those of the next.
pub const LANES: u64 = 1 << 20;

/// How far weights are moved off kinks, relative to their tensor's scale.
const NUDGE: f32 = 1e-2;
/// Scale of a vector that is zero.
const ZERO_SCALE: f64 = 0.1;

/// One trainable tensor.
pub struct Weight {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Tensor,
    /// The gradient of the projected outputs, once it was computed.
    pub gradient: Vec<f32>,
}

impl Weight {
    /// σ, the root mean square of the tensor, or what it usually is where the tensor is zero.
    pub fn scale(&self) -> f64 {
        let value = contiguous(&self.value);
        let squares = dot(&value, &value);
        let fan_in: usize = self.value.shape().iter().skip(1).product();
        match (squares == 0.0, self.value.ndim()) {
            (false, _) => (squares / value.len() as f64).sqrt(),
            (true, 0 | 1) => ZERO_SCALE,
            (true, _) => (fan_in.max(1) as f64).sqrt().recip(),
        }
    }
}

/// What some weights, by index, are moved by for a step of 1.
pub type Moves = Vec<(usize, Vec<f32>)>;

/// The network with an input and a projection of its outputs.
pub struct Engine {
    backend: Box<dyn Backend>,
    forward: PlanId,
    gradient: PlanId,
    input: (String, Vec<f32>),
    /// The same network in the interpreter.
    pub oracle: Oracle,
    /// The trainable tensors.
    pub weights: Vec<Weight>,
}

/// The network in the interpreter.
pub struct Oracle {
    graph: Graph,
    env: Env,
    projections: Vec<Projection>,
}

/// An output's name and its cotangent.
type Projection = (String, Vec<f32>);

impl Engine {
    /// The network `graph` of `model` at `input`, projected as `seed` says.
    pub fn new(
        model: &Model,
        graph: Graph,
        input: &Tensor,
        seed: u64,
        on: &priorfit::backend::Engine,
    ) -> Result<Self> {
        let project = |(lane, (name, value)): (usize, &(String, ValueId))| {
            let len = graph.shape(*value).len();
            (name.clone(), normal(seed, LANES + lane as u64, len))
        };
        let projections = graph.outputs().iter().enumerate().map(project).collect();
        let weight = |(name, value): (&str, &Tensor)| Weight {
            name: name.to_string(),
            value: value.clone(),
            gradient: vec![0.0; value.len()],
        };
        let in_use = |(name, _): &(&str, &Tensor)| graph.leaf(LeafKind::Param, name).is_some();
        let weights: Vec<Weight> = model.weights().filter(in_use).map(weight).collect();
        let mut backend = on.open()?;
        let gradient = backend.load(Plan::compile(&differentiated(graph.clone(), &weights)?)?)?;
        let forward = backend.load(Plan::compile(&graph)?)?;
        let port = model.inputs().first().map_or("", |port| port.name.as_str()).to_string();
        let mut env = Env::new();
        env.set(LeafKind::Input, &port, Array::from(input));
        let input = (port, contiguous(input).to_vec());
        let oracle = Oracle { graph, env, projections };
        let mut engine = Engine { backend, forward, gradient, input, oracle, weights };
        for index in 0..engine.weights.len() {
            let value = engine.weights[index].value.clone();
            engine.set(index, &contiguous(&value))?;
        }
        Ok(engine)
    }

    /// Multiply-adds of one forward pass, roughly.
    pub fn multiply_adds(&self) -> u64 {
        self.backend.plan(self.forward).flops() / 2
    }

    /// The outputs.
    pub fn outputs(&mut self) -> Result<Vec<Vec<f32>>> {
        write_if_used(&mut *self.backend, self.forward, &self.input.0, &self.input.1)?;
        self.backend.run(self.forward)?;
        let read = |(name, cotangent): &Projection| {
            let mut output = vec![0.0; cotangent.len()];
            self.backend.read(self.forward, name, &mut output)?;
            Ok(output)
        };
        self.oracle.projections.iter().map(read).collect()
    }

    /// Moves all weights a little, for good. A file may sit exactly on kinks, for instance with
    /// blocks that were initialised to zero and never trained; a random point does not.
    pub fn leave_kinks(&mut self, seed: u64) -> Result<()> {
        for index in 0..self.weights.len() {
            let weight = &self.weights[index];
            let noise = normal(seed, 2 * LANES + index as u64, weight.value.len());
            let value = contiguous(&weight.value);
            let is_zero = value.iter().all(|&x| x == 0.0);
            let scale = weight.scale() as f32 * if is_zero { 1.0 } else { NUDGE };
            let moved: Vec<f32> = value.iter().zip(noise).map(|(w, x)| w + scale * x).collect();
            let moved = tensor(weight.value.shape(), moved)?;
            self.set(index, &contiguous(&moved))?;
            self.weights[index].value = moved;
        }
        Ok(())
    }

    /// Fills in the gradients of the weights.
    pub fn differentiate(&mut self) -> Result<()> {
        write_if_used(&mut *self.backend, self.gradient, &self.input.0, &self.input.1)?;
        for (name, cotangent) in &self.oracle.projections {
            write_if_used(&mut *self.backend, self.gradient, &cotangent_port(name), cotangent)?;
        }
        self.backend.run(self.gradient)?;
        for weight in &mut self.weights {
            let port = gradient_port(&weight.name);
            if self.backend.plan(self.gradient).outputs().iter().any(|p| p.name == port) {
                self.backend.read(self.gradient, &port, &mut weight.gradient)?;
            }
        }
        Ok(())
    }

    /// Σ cotangent · output with the weights moved by `step` times `moves`.
    pub fn projected(&mut self, step: f64, moves: &Moves) -> Result<f64> {
        for (index, by) in moves {
            let value = contiguous(&self.weights[*index].value).into_owned();
            let step = step as f32;
            let moved: Vec<f32> = value.iter().zip(by).map(|(w, d)| w + step * d).collect();
            self.set(*index, &moved)?;
        }
        let outputs = self.outputs()?;
        for (index, _) in moves {
            let value = self.weights[*index].value.clone();
            self.set(*index, &contiguous(&value))?;
        }
        let pairs = outputs.iter().zip(&self.oracle.projections);
        Ok(pairs.map(|(output, (_, cotangent))| dot(output, cotangent)).sum())
    }

    fn set(&mut self, index: usize, value: &[f32]) -> Result<()> {
        let name = self.weights[index].name.clone();
        self.backend.set(&Leaf { kind: LeafKind::Param, name }, value)
    }
}

impl Oracle {
    /// Σ cotangent · output with `weights` moved by `step` times `moves`.
    pub fn projected(&self, weights: &[Weight], step: f64, moves: &Moves) -> Result<f64> {
        let mut env = self.env.clone();
        for weight in weights {
            env.set(LeafKind::Param, &weight.name, Array::from(&weight.value));
        }
        for (index, by) in moves {
            let Weight { name, value, .. } = &weights[*index];
            let (shape, value) = (value.shape().into(), contiguous(value));
            let moved = |i: usize| f64::from(value[i]) + step * f64::from(by[i]);
            env.set(LeafKind::Param, name, Array::from_fn(&shape, moved));
        }
        let outputs = eval::outputs(&self.graph, &env)?;
        let project = |(name, cotangent): &Projection| {
            let output =
                outputs.get(name).ok_or_else(|| Error::internal("an output is missing"))?;
            Ok(output.iter().zip(cotangent).map(|(x, &c)| x * f64::from(c)).sum::<f64>())
        };
        self.projections.iter().map(project).sum()
    }
}

/// `graph` with the gradients of its projected outputs as further outputs.
fn differentiated(mut graph: Graph, weights: &[Weight]) -> Result<Graph> {
    let outputs = graph.outputs().to_vec();
    let mut seeds = Vec::new();
    for (name, value) in outputs {
        let shape = graph.shape(value).clone();
        seeds.push((value, graph.input(&cotangent_port(&name), &shape)?));
    }
    let leaf = |weight: &Weight| {
        graph
            .leaf(LeafKind::Param, &weight.name)
            .ok_or_else(|| Error::internal(format!("the graph has no '{}'", weight.name)))
    };
    let wrt = weights.iter().map(leaf).collect::<Result<Vec<_>>>()?;
    for (weight, gradient) in weights.iter().zip(vjp(&mut graph, &seeds, &wrt)?) {
        if let Some(gradient) = gradient {
            graph.set_output(&gradient_port(&weight.name), gradient);
        }
    }
    Ok(graph)
}

fn cotangent_port(output: &str) -> String {
    format!("cotangent of {output}")
}

fn gradient_port(name: &str) -> String {
    format!("gradient of {name}")
}

/// Writes an input unless the plan has no use for it.
fn write_if_used(backend: &mut dyn Backend, plan: PlanId, port: &str, value: &[f32]) -> Result<()> {
    match backend.plan(plan).inputs().iter().any(|input| input.name == port) {
        true => backend.write(plan, port, value),
        false => Ok(()),
    }
}

/// Σ a b in `f64`.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// `len` standard normals of their own for each lane.
pub fn normal(seed: u64, lane: u64, len: usize) -> Vec<f32> {
    let mut sequence = Key::new(seed, Stream::Probe).at(lane);
    (0..len).map(|_| sequence.normal()).collect()
}
