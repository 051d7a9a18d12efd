//! Whole training steps on the processor against the interpreter.

use std::sync::Arc;

use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::graph::eval::{self, Env};
use priorfit::graph::{Graph, Hyper, Leaf, LeafKind, Method, PriorTerm};
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::rng::{Key, Stream};
use priorfit::step::{
    CLIP, Group, LOSS_SUM, PENALTY, Recipe, Trainable, capacitance_state, train_step,
};
use priorfit::task::{
    HEAD_BIAS, HEAD_WEIGHT, LOSS, TARGETS, cross_entropy, flat_features, linear_head,
};
use priorfit::tensor::{Shape, contiguous};
use priorfit::threads::Threads;
use priorfit::update::{Noise, Optimizer};

use crate::support::gpu::gpu;
use crate::support::{
    array, golden_names, leaves, normal, relative_error, relative_error_above, repository,
};

/// Steps over which the two may drift apart.
const STEPS: usize = 4;
/// Relative drift of a weight over [`STEPS`] steps: single-precision gradients, some of them sums
/// of ten thousand terms, through four updates.
const DRIFT: f64 = 2e-4;
/// The same on a GPU, whose transcendental functions are a little less exact.
const GPU_DRIFT: f64 = 5e-4;
pub const CLASSES: usize = 3;
const BATCH: usize = 2;
const NOISE: Noise = Noise { mean_variance: 0.7, ..Noise::new(0x1_2345_6789, 50) };

/// A golden network with a head and a loss for `batch` examples, and its parameters.
pub fn classifier(name: &str, batch: usize, prior: PriorTerm) -> (Graph, Model, Vec<Trainable>) {
    let path = repository(&format!("models/golden/{name}.onnx"));
    let model = Model::load(&path).expect("a golden network");
    let input = crate::support::tensors(&format!("models/golden/{name}.safetensors"));
    let mut shape = input["input"].shape().to_vec();
    shape[0] = batch;
    let mut graph = model.graph(&shape).expect("its graph");
    let output = graph.outputs()[0].1;
    graph.clear_outputs();
    let features = flat_features(&mut graph, output).expect("features");
    let logits = linear_head(&mut graph, features, CLASSES).expect("a head");
    let loss = cross_entropy(&mut graph, logits).expect("a loss");
    graph.set_output(LOSS, loss);
    let mut trainable: Vec<Trainable> = model
        .weights()
        .map(|(name, _)| Trainable {
            name: name.to_string(),
            group: Group::Backbone,
            block: 0,
            prior,
        })
        .collect();
    for name in [HEAD_WEIGHT, HEAD_BIAS] {
        let prior = PriorTerm::Isotropic { centred: false };
        trainable.push(Trainable { name: name.to_string(), group: Group::Head, block: 0, prior });
    }
    (graph, model, trainable)
}

fn step_graph(name: &str, optimizer: Optimizer, prior: PriorTerm, clip: bool) -> (Graph, Model) {
    step_in_blocks(name, optimizer, prior, clip, 1)
}

/// The backbone's parameters are dealt out to so many blocks, of ranks that differ.
fn step_in_blocks(
    name: &str,
    optimizer: Optimizer,
    prior: PriorTerm,
    clip: bool,
    blocks: usize,
) -> (Graph, Model) {
    let (graph, model, mut trainable) = classifier(name, BATCH, prior);
    for (number, t) in trainable.iter_mut().enumerate() {
        if let PriorTerm::LowRank { rank } = t.prior {
            t.block = number % blocks;
            t.prior = PriorTerm::LowRank { rank: rank + t.block };
        }
    }
    let recipe = Recipe { trainable, method: optimizer.method(), clip };
    (train_step(graph, &recipe).expect("a step"), model)
}

/// The first value of a leaf: small, of the right sign, and different for each.
pub fn initial(
    model: &Model,
    optimizer: Optimizer,
    kind: LeafKind,
    name: &str,
    s: &Shape,
) -> Vec<f32> {
    let lane = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let noise = normal(s, lane);
    let scaled = |scale: f32| noise.iter().map(|x| x * scale).collect::<Vec<_>>();
    match (kind, name) {
        (LeafKind::Param, _) if model.weight(name).is_some() => {
            model.weight(name).map(|w| contiguous(w).to_vec()).expect("a weight")
        }
        (LeafKind::Input, n) if n == Group::Backbone.hyper() || n == Group::Head.hyper() => {
            optimizer.hyper(70_000, 0.003, 0.01, NOISE).to_vec()
        }
        (LeafKind::Input, TARGETS) => {
            (0..s.len()).map(|i| f32::from(i % CLASSES == i / CLASSES)).collect()
        }
        (LeafKind::Input, CLIP) => vec![0.5],
        (LeafKind::State, n) if n.starts_with("prior.capacitance_inverse/") => {
            let rank = s[0];
            (0..s.len()).map(|i| if i / rank == i % rank { 0.5 } else { 0.05 }).collect()
        }
        (LeafKind::State, n) if n.starts_with("m/") || n.starts_with("v/") => vec![0.0; s.len()],
        (LeafKind::State, n) if n.starts_with("gradient/") || n == LOSS_SUM => vec![0.0; s.len()],
        (LeafKind::State, n) if n.starts_with("prior.precision/") => {
            noise.iter().map(|x| x.abs() + 0.5).collect()
        }
        (LeafKind::State, n) if n.starts_with("prior.mean/") => {
            let param = &n["prior.mean/".len()..];
            let weight = contiguous(model.weight(param).expect("a weight")).to_vec();
            weight.iter().zip(&noise).map(|(w, x)| w + 0.1 * x).collect()
        }
        _ => scaled(0.1),
    }
}

/// A step with the first values of its leaves.
struct Case {
    scene: String,
    graph: Graph,
    inputs: Vec<(String, Vec<f32>)>,
    residents: Vec<(Leaf, Vec<f32>)>,
    env: Env,
}

impl Case {
    fn new(name: &str, optimizer: Optimizer, prior: PriorTerm, clip: bool) -> Self {
        Self::in_blocks(name, optimizer, prior, clip, 1)
    }

    fn in_blocks(
        name: &str,
        optimizer: Optimizer,
        prior: PriorTerm,
        clip: bool,
        blocks: usize,
    ) -> Self {
        let (graph, model) = step_in_blocks(name, optimizer, prior, clip, blocks);
        let scene = format!("{name} {optimizer:?} {prior:?}");
        let mut env = Env::new();
        let (mut inputs, mut residents) = (Vec::new(), Vec::new());
        for (leaf, shape) in leaves(&graph) {
            let value = initial(&model, optimizer, leaf.kind, &leaf.name, &shape);
            env.set(leaf.kind, &leaf.name, array(&shape, &value));
            match leaf.kind {
                LeafKind::Input => inputs.push((leaf.name, value)),
                _ => residents.push((leaf, value)),
            }
        }
        Case { scene, graph, inputs, residents, env }
    }

    /// Makes [`STEPS`] steps and checks every output of each, and all residents in the end.
    fn check(mut self, backend: &mut dyn Backend, drift: f64) {
        let scene = format!("{} on {}", self.scene, backend.name());
        let plan = Plan::compile(&self.graph).expect("a plan");
        let plan = backend.load(plan).expect("a loaded plan");
        // A leaf that only dead nodes read is not in the plan.
        self.residents.retain(|(leaf, value)| backend.set(leaf, value).is_ok());
        for step in 0..STEPS {
            for (input, value) in &self.inputs {
                let _ = backend.write(plan, input, value);
            }
            backend.run(plan).expect("a step");
            let expected = eval::step(&self.graph, &mut self.env).expect("the oracle's step");
            for (port, expected) in &expected {
                let mut got = vec![0.0; expected.len()];
                backend.read(plan, port, &mut got).expect("an output");
                let error = relative_error(&got, expected);
                assert!(error < drift, "{scene}: step {step}, {port}: {error:.1e}");
            }
        }
        for (leaf, _) in &self.residents {
            let got = backend.get(leaf).expect("a resident");
            let expected = self.env.get(leaf.kind, &leaf.name).expect("the oracle's");
            let error = relative_error_above(&got, expected, self.floor(&leaf.name));
            assert!(error < drift, "{scene}: {}: {error:.1e}", leaf.name);
        }
    }
}

/// A value by its name: as it is, and as an oracle's.
type Named<T> = (String, Vec<T>);

impl Case {
    /// The outputs of the last of [`STEPS`] steps and all residents in the end.
    fn run<T: From<f32>>(&self, backend: &mut dyn Backend) -> Vec<Named<T>> {
        let plan = Plan::compile(&self.graph).expect("a plan");
        let ports = plan.outputs().to_vec();
        let plan = backend.load(plan).expect("a loaded plan");
        let residents = self.residents.iter();
        let set: Vec<_> =
            residents.filter(|(leaf, value)| backend.set(leaf, value).is_ok()).collect();
        for _ in 0..STEPS {
            for (input, value) in &self.inputs {
                let _ = backend.write(plan, input, value);
            }
            backend.run(plan).expect("a step");
        }
        let own = |values: Vec<f32>| values.into_iter().map(T::from).collect();
        let mut named = Vec::new();
        for port in ports {
            let mut value = vec![0.0; port.shape.len()];
            backend.read(plan, &port.name, &mut value).expect("an output");
            named.push((port.name, own(value)));
        }
        for (leaf, _) in set {
            named.push((leaf.name.clone(), own(backend.get(leaf).expect("a resident"))));
        }
        named
    }
}

/// Share of the largest element of its kind below which a resident is rounding: a gradient that is
/// zero by symmetry is so only to the rounding of the others.
const RESIDENT_ROUNDING: f64 = 1e-3;

impl Case {
    /// Below this, elements of a resident count as zero.
    fn floor(&self, name: &str) -> f64 {
        let kind = |name: &str| name.split_once('/').map(|(kind, _)| kind.to_string());
        let alike = self.residents.iter().filter(|(leaf, _)| kind(&leaf.name) == kind(name));
        let values = alike.filter_map(|(leaf, _)| self.env.get(leaf.kind, &leaf.name));
        let largest = values.flat_map(|value| value.iter()).fold(0.0f64, |m, x| m.max(x.abs()));
        largest * RESIDENT_ROUNDING
    }
}

/// Follows the interpreter on the processor and, where there is one, on a GPU.
fn check(name: &str, optimizer: Optimizer, prior: PriorTerm, clip: bool) {
    let case = || Case::new(name, optimizer, prior, clip);
    case().check(&mut Cpu::new(Arc::new(Threads::new(2))), DRIFT);
    if let Some(mut gpu) = gpu() {
        case().check(&mut *gpu, GPU_DRIFT);
    }
}

const PRIORS: [PriorTerm; 4] = [
    PriorTerm::None,
    PriorTerm::Isotropic { centred: true },
    PriorTerm::Diagonal,
    PriorTerm::LowRank { rank: 3 },
];

#[test]
fn steps_of_every_method_follow_the_interpreter_under_every_prior() {
    for prior in PRIORS {
        // With a large ε a gradient that is zero to rounding does not become a step of full size.
        let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 0.01, weight_decay: 0.1 };
        for optimizer in [Optimizer::Sgd { momentum: 0.9 }, adamw] {
            check("resnet_basic_folded", optimizer, prior, true);
        }
        for preconditioned in [false, true] {
            let sgld = Optimizer::Sgld { temperature: 1.0, preconditioned };
            let sghmc = Optimizer::Sghmc { temperature: 1.0, friction: 0.1, preconditioned };
            check("resnet_basic_folded", sgld, prior, false);
            check("resnet_basic_folded", sghmc, prior, false);
        }
    }
}

#[test]
fn steps_under_a_prior_of_blocks_follow_the_interpreter() {
    let sghmc = Optimizer::Sghmc { temperature: 1.0, friction: 0.1, preconditioned: true };
    let sgd = Optimizer::Sgd { momentum: 0.9 };
    let low_rank = PriorTerm::LowRank { rank: 2 };
    for (name, optimizer, clip) in
        [("resnet_basic_folded", sgd, true), ("resnet_basic_folded", sghmc, false)]
    {
        let case = || Case::in_blocks(name, optimizer, low_rank, clip, 3);
        case().check(&mut Cpu::new(Arc::new(Threads::new(2))), DRIFT);
        if let Some(mut gpu) = gpu() {
            case().check(&mut *gpu, GPU_DRIFT);
        }
    }
}

#[test]
fn steps_of_other_families_follow_the_interpreter() {
    let low_rank = PriorTerm::LowRank { rank: 2 };
    for (name, prior) in [
        ("mobilenetv2_bn", low_rank),
        ("vit_default", low_rank),
        ("convnext_default", PriorTerm::Diagonal),
        ("densenet_folded", PriorTerm::Isotropic { centred: true }),
        ("resnet_basic_folded", PriorTerm::Isotropic { centred: false }),
    ] {
        check(name, Optimizer::Sgd { momentum: 0.9 }, prior, false);
    }
}

/// A GPU against the processor: near a kink both may leave the interpreter's path together.
#[test]
fn steps_of_all_golden_networks_agree_on_processor_and_gpu() {
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 0.01, weight_decay: 0.1 };
    let sgd = Optimizer::Sgd { momentum: 0.9 };
    for (number, name) in golden_names().into_iter().enumerate() {
        let optimizer = if number % 2 == 0 { sgd } else { adamw };
        let case = Case::new(&name, optimizer, PriorTerm::LowRank { rank: 3 }, true);
        // All networks share names of weights, so each has a backend of its own.
        let Some(mut gpu) = gpu() else { return };
        let on_gpu = case.run::<f32>(&mut *gpu);
        let on_cpu = case.run::<f64>(&mut Cpu::new(Arc::new(Threads::new(2))));
        for ((what, got), (_, expected)) in on_gpu.iter().zip(&on_cpu) {
            let kind = |name: &str| name.split_once('/').map(|(kind, _)| kind.to_string());
            let alike = on_cpu.iter().filter(|(other, _)| kind(other) == kind(what));
            let largest = alike.flat_map(|(_, v)| v).fold(0.0f64, |m, x| m.max(x.abs()));
            let error = relative_error_above(got, expected, largest * RESIDENT_ROUNDING);
            assert!(error < GPU_DRIFT, "{}: {what}: {error:.1e}", case.scene);
        }
    }
}

#[test]
fn a_step_is_the_same_bit_for_bit_on_any_number_of_threads() {
    for name in ["vit_default", "mobilenetv2_bn", "resnet_basic_folded", "regnet_folded"] {
        check_bits(name);
    }
}

fn check_bits(name: &str) {
    let optimizer = Optimizer::Sgd { momentum: 0.9 };
    let (graph, model) = step_graph(name, optimizer, PriorTerm::Diagonal, true);
    let run = |threads: usize| {
        let mut cpu = Cpu::new(Arc::new(Threads::new(threads)));
        let plan = cpu.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
        for _ in 0..2 {
            for (leaf, shape) in leaves(&graph) {
                let value = initial(&model, optimizer, leaf.kind, &leaf.name, &shape);
                let _ = match leaf.kind {
                    LeafKind::Input => cpu.write(plan, &leaf.name, &value),
                    _ => cpu.set(&leaf, &value),
                };
            }
            cpu.run(plan).expect("a step");
        }
        let params = leaves(&graph).into_iter().filter(|(leaf, _)| leaf.kind == LeafKind::Param);
        params.map(|(leaf, _)| cpu.get(&leaf).expect("a weight")).collect::<Vec<_>>()
    };
    let once = run(2);
    for threads in [1, 2, 3] {
        assert!(run(threads) == once, "{name} on {threads} threads");
    }
}

/// The step text is stable: equal inputs give byte-equal plans.
#[test]
fn equal_graphs_give_equal_plans() {
    let text = || {
        let optimizer = Optimizer::adamw();
        let (graph, _) = step_graph("resnet_basic_bn", optimizer, PriorTerm::Diagonal, true);
        format!("{graph}\n{}", Plan::compile(&graph).expect("a plan"))
    };
    assert_eq!(text(), text());
}

/// A step of `theta: [n]` on the loss |θ - b|²/2.
fn quadratic_step(n: usize, method: Method, prior: PriorTerm) -> Graph {
    quadratic_blocks(&[("theta", 0)], n, method, prior)
}

/// A step of parameters `[n]`, each with the number of its block, on the sum of such losses.
fn quadratic_blocks(parts: &[(&str, usize)], n: usize, method: Method, prior: PriorTerm) -> Graph {
    let mut graph = Graph::new();
    let (mut total, mut trainable) = (None, Vec::new());
    for &(name, block) in parts {
        let theta = graph.param(name, &[n].into()).expect("a leaf");
        let b = graph.input(&format!("b/{name}"), &[n].into()).expect("a leaf");
        let difference = graph.sub(theta, b).expect("a node");
        let square = graph.mul(difference, difference).expect("a node");
        let sum = graph.sum_all(square).expect("a node");
        let loss = graph.scale(sum, 0.5).expect("a node");
        total = Some(match total {
            Some(total) => graph.add(total, loss).expect("a node"),
            None => loss,
        });
        trainable.push(Trainable { name: name.to_string(), group: Group::Backbone, block, prior });
    }
    graph.set_output(LOSS, total.expect("a parameter"));
    train_step(graph, &Recipe { trainable, method, clip: false }).expect("a step")
}

/// The weights and the penalty after some steps from the mean; what a parameter's leaves hold
/// depends on its name, and a block's matrix on its number.
fn after_steps(parts: &[(&str, usize)], method: Method) -> (Vec<Vec<f64>>, f64) {
    const N: usize = 6;
    let graph = quadratic_blocks(parts, N, method, PriorTerm::LowRank { rank: 2 });
    let mut env = Env::new();
    for (leaf, shape) in leaves(&graph) {
        let (what, of) = leaf.name.rsplit_once('/').unwrap_or(("prior.mean", &leaf.name));
        let mut random = Key::new(of.bytes().map(u64::from).sum(), Stream::Probe).at(0);
        let mut normals = || -> Vec<f32> { (0..shape.len()).map(|_| random.normal()).collect() };
        let values = match what {
            "prior.mean" => normals(),
            // Small enough for the form to be positive with the matrices below.
            "prior.factor" => normals().iter().map(|x| 0.15 * x).collect(),
            "b" => normals().iter().map(|x| 3.0 * x).collect(),
            "prior.precision" => normals().iter().map(|x| 1.0 + x.abs()).collect(),
            "prior.capacitance_inverse" => {
                let own = 0.3 + 0.1 * of.parse::<f32>().expect("a number");
                vec![own, 0.05, 0.05, own]
            }
            _ => vec![0.0; shape.len()],
        };
        env.set(leaf.kind, &leaf.name, array(&shape, &values));
    }
    let optimizer = match method {
        Method::AdamW => Optimizer::adamw(),
        _ => Optimizer::Sgd { momentum: 0.9 },
    };
    let mut penalty = 0.0;
    for step in 0..20 {
        let hyper = array(&[Hyper::COUNT].into(), &optimizer.hyper(step, 0.05, 0.5, NOISE));
        env.set(LeafKind::Input, Group::Backbone.hyper(), hyper);
        penalty = eval::step(&graph, &mut env).expect("a step")[PENALTY][0];
    }
    let weights = parts.iter().map(|(name, _)| {
        let theta = env.get(LeafKind::Param, name).expect("a parameter");
        (0..N).map(|i| theta[i]).collect()
    });
    (weights.collect(), penalty)
}

/// Two blocks step as each does alone, to the last bit, and their penalties add up; within one
/// block parameters pull at each other.
#[test]
fn blocks_do_not_feel_each_other() {
    for method in [Method::Sgd { nesterov: true }, Method::AdamW] {
        let (both, penalty) = after_steps(&[("x", 0), ("y", 1)], method);
        let (x, of_x) = after_steps(&[("x", 0)], method);
        let (y, of_y) = after_steps(&[("y", 1)], method);
        assert_eq!(both, [x, y].concat(), "{method:?}");
        assert!(penalty > 0.0 && (penalty - of_x - of_y).abs() < 1e-12 * penalty, "{penalty}");
        let (coupled, _) = after_steps(&[("x", 0), ("y", 0)], method);
        let pulls = coupled[0].iter().zip(&both[0]).map(|(a, b)| (a - b).abs());
        assert!(pulls.fold(0.0, f64::max) > 1e-4, "{method:?}: {coupled:?} {both:?}");
    }
}

/// On one parameter and a quadratic loss the step must find the closed-form MAP:
/// θ* = (a + w p)⁻¹ (a b + w p μ) for loss a(θ-b)²/2 and penalty w p (θ-μ)²/2.
#[test]
fn the_fixed_point_is_the_map_however_stiff_the_prior() {
    for method in [Method::Sgd { nesterov: true }, Method::AdamW] {
        for stiffness in [1e-3f32, 1.0, 1e4, 1e8] {
            let n = 5;
            let graph = quadratic_step(n, method, PriorTerm::Diagonal);
            let mut env = Env::new();
            let shape: Shape = [n].into();
            let mut random = Key::new(1, Stream::Probe).at(0);
            let b: Vec<f32> = (0..n).map(|_| random.normal()).collect();
            let mean: Vec<f32> = (0..n).map(|_| random.normal()).collect();
            for (leaf, shape) in leaves(&graph) {
                env.set(leaf.kind, &leaf.name, array(&shape, &vec![0.0; shape.len()]));
            }
            env.set(LeafKind::Input, "b/theta", array(&shape, &b));
            env.set(LeafKind::State, "prior.mean/theta", array(&shape, &mean));
            let precision = array(&shape, &vec![stiffness; n]);
            env.set(LeafKind::State, "prior.precision/theta", precision);
            for step in 0..3000 {
                let optimizer = match method {
                    Method::AdamW => Optimizer::adamw(),
                    _ => Optimizer::Sgd { momentum: 0.9 },
                };
                let rate = if step < 1500 { 0.02 } else { 0.002 };
                let hyper = array(&[Hyper::COUNT].into(), &optimizer.hyper(step, rate, 0.5, NOISE));
                env.set(LeafKind::Input, Group::Backbone.hyper(), hyper);
                eval::step(&graph, &mut env).expect("a step");
            }
            let theta = env.get(LeafKind::Param, "theta").expect("theta").to_tensor();
            let weight = 0.5 * f64::from(stiffness);
            for (i, &got) in theta.iter().enumerate() {
                let map = (f64::from(b[i]) + weight * f64::from(mean[i])) / (1.0 + weight);
                assert!(
                    (f64::from(got) - map).abs() < 1e-3,
                    "{method:?}, stiffness {stiffness}: {got} is not {map}"
                );
            }
        }
    }
}

/// With a low-rank prior the fixed point must be where the gradients cancel:
/// θ - b + w d⁻¹(x - W C⁻¹Wᵀd⁻¹x) = 0 for loss |θ-b|²/2, x = θ - μ, C = I + Wᵀd⁻¹W.
#[test]
fn the_fixed_point_under_a_low_rank_prior_has_no_gradient_left() {
    for method in [Method::Sgd { nesterov: true }, Method::AdamW] {
        for stiffness in [0.1f64, 10.0, 1e4] {
            check_low_rank(method, stiffness);
        }
    }
}

fn check_low_rank(method: Method, stiffness: f64) {
    const N: usize = 4;
    let b = [0.5, -1.0, 2.0, 0.25];
    let mean = [1.0, 1.0, -1.0, 0.0];
    let precision = [1.0, 2.0, 0.5, 4.0].map(|p| p * stiffness);
    // Two factors, scaled so that they explain much of the covariance at any stiffness.
    let factor = [[1.0, -1.0, 0.5, 0.0], [0.0, 1.0, 1.0, -0.5]];
    let factor = factor.map(|row| row.map(|f: f64| f / stiffness.sqrt()));
    let project =
        |x: &[f64; N]| factor.map(|row| (0..N).map(|i| row[i] * precision[i] * x[i]).sum::<f64>());
    let mut c = [[1.0, 0.0], [0.0, 1.0]];
    for (i, row) in factor.iter().enumerate() {
        let column = project(row);
        c[0][i] += column[0];
        c[1][i] += column[1];
    }
    let det = c[0][0] * c[1][1] - c[0][1] * c[1][0];
    let inverse = [c[1][1] / det, -c[0][1] / det, -c[1][0] / det, c[0][0] / det];

    let graph = quadratic_step(N, method, PriorTerm::LowRank { rank: 2 });
    let mut env = Env::new();
    for (leaf, shape) in leaves(&graph) {
        env.set(leaf.kind, &leaf.name, array(&shape, &vec![0.0; shape.len()]));
    }
    let set = |env: &mut Env, kind, name: &str, shape: Shape, values: &[f64]| {
        env.set(kind, name, eval::Array::from_fn(&shape, |i| values[i]));
    };
    let start = mean.map(|m| -m);
    let [u0, u1] = project(&start);
    let form = (0..N).map(|i| precision[i] * start[i] * start[i]).sum();
    set(&mut env, LeafKind::Input, "b/theta", [N].into(), &b);
    set(&mut env, LeafKind::State, "prior.mean/theta", [N].into(), &mean);
    set(&mut env, LeafKind::State, "prior.precision/theta", [N].into(), &precision);
    set(&mut env, LeafKind::State, "prior.factor/theta", [2, N].into(), &factor.concat());
    set(&mut env, LeafKind::State, "prior.sums/theta", [3].into(), &[u0, u1, form]);
    set(&mut env, LeafKind::State, &capacitance_state(0), [2, 2].into(), &inverse);
    let optimizer = match method {
        Method::AdamW => Optimizer::adamw(),
        _ => Optimizer::Sgd { momentum: 0.9 },
    };
    let weight = 0.5;
    for step in 0..20_000 {
        let rate = if step < 10_000 { 0.02 } else { 0.002 };
        let hyper = array(&[Hyper::COUNT].into(), &optimizer.hyper(step, rate, weight, NOISE));
        env.set(LeafKind::Input, Group::Backbone.hyper(), hyper);
        eval::step(&graph, &mut env).expect("a step");
    }
    let theta = env.get(LeafKind::Param, "theta").expect("theta");
    let x: [f64; N] = std::array::from_fn(|i| theta[i] - mean[i]);
    let [u0, u1] = project(&x);
    let s = [inverse[0] * u0 + inverse[1] * u1, inverse[2] * u0 + inverse[3] * u1];
    for i in 0..N {
        let explained = factor[0][i] * s[0] + factor[1][i] * s[1];
        let pull = f64::from(weight) * precision[i] * (x[i] - explained);
        let left = theta[i] - b[i] + pull;
        // The parts that cancel are of order 1; AdamW circles the point by a part of its rate.
        assert!(left.abs() < 1e-2, "{method:?}, stiffness {stiffness}, weight {i}: {left} is left");
    }
}
