//! Graphs on a GPU with options of its own, against the interpreter.

use priorfit::Result;
use priorfit::backend::gpu::{Device, Gpu, Options};
use priorfit::backend::{Backend, PlanId};
use priorfit::graph::eval::{self, Env};
use priorfit::graph::{Graph, ValueId};
use priorfit::plan::Plan;
use priorfit::tensor::Shape;

use super::gpu::adapter;
use super::{array, leaves, normal, relative_error};

/// Relative error of short sums in single precision.
pub const ROUNDING: f64 = 2e-5;

/// A backend with these options; none without an adapter.
pub fn open(options: Options) -> Option<Gpu> {
    let device = adapter().map(|adapter| Device::open(&adapter, options).expect("a device"));
    device.map(|device| Gpu::new(&device))
}

/// A graph, its inputs, and what the interpreter makes of them.
pub struct Case {
    pub graph: Graph,
    pub inputs: Vec<(String, Vec<f32>)>,
    pub expected: Vec<(String, Vec<f64>)>,
}

impl Case {
    pub fn new(
        shapes: &[Shape],
        build: impl Fn(&mut Graph, &[ValueId]) -> Result<ValueId>,
    ) -> Self {
        let mut graph = Graph::new();
        let inputs = shapes.iter().enumerate();
        let operands: Vec<ValueId> = inputs
            .map(|(i, shape)| graph.input(&format!("x{i}"), shape).expect("a leaf"))
            .collect();
        let y = build(&mut graph, &operands).expect("a graph");
        graph.set_output("y", y);
        Self::of(graph)
    }

    pub fn of(graph: Graph) -> Self {
        let (mut env, mut inputs) = (Env::new(), Vec::new());
        for (lane, (leaf, shape)) in leaves(&graph).into_iter().enumerate() {
            let data = normal(&shape, lane as u64);
            env.set(leaf.kind, &leaf.name, array(&shape, &data));
            inputs.push((leaf.name, data));
        }
        let outputs = eval::outputs(&graph, &env).expect("the oracle");
        let expected = outputs.into_iter().map(|(name, y)| (name, y.iter().copied().collect()));
        let expected = expected.collect();
        Case { graph, inputs, expected }
    }

    pub fn load(&self, gpu: &mut Gpu) -> PlanId {
        gpu.load(Plan::compile(&self.graph).expect("a plan")).expect("a loaded plan")
    }

    pub fn run(&self, gpu: &mut Gpu, plan: PlanId) -> Result<Vec<Vec<f32>>> {
        for (name, data) in &self.inputs {
            gpu.write(plan, name, data)?;
        }
        gpu.run(plan)?;
        let read = |(name, expected): &(String, Vec<f64>)| {
            let mut y = vec![f32::NAN; expected.len()];
            gpu.read(plan, name, &mut y)?;
            Ok(y)
        };
        self.expected.iter().map(read).collect()
    }

    pub fn check(&self, gpu: &mut Gpu, scene: &str) {
        let plan = self.load(gpu);
        let got = self.run(gpu, plan).unwrap_or_else(|e| panic!("{scene}: {e}"));
        for (got, (name, expected)) in got.iter().zip(&self.expected) {
            let error = relative_error(got, expected);
            assert!(error < ROUNDING, "{scene}: {name} is off by {error:.1e}");
        }
    }
}
