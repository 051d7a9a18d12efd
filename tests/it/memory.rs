//! Less memory for the same step: recomputed activations, accumulated gradients, and the cap.

use std::collections::BTreeMap;
use std::sync::Arc;

use priorfit::backend::cpu::Cpu;
use priorfit::backend::{Backend, PlanId};
use priorfit::graph::{Graph, Leaf, LeafKind, PriorTerm};
use priorfit::onnx::Model;
use priorfit::plan::{Place, Plan};
use priorfit::step::{
    GRADIENT_NORM, LOSS_SUM, PENALTY, Recipe, SHARE, Trainable, apply_step, gradient_step,
    train_step,
};
use priorfit::task::{LOSS, TARGETS};
use priorfit::tensor::Shape;
use priorfit::threads::Threads;
use priorfit::update::Optimizer;

use crate::steps::{CLASSES, classifier, initial};
use crate::support::gpu::gpu;
use crate::support::{leaves, networks, relative_error, resident};

/// Relative difference of a weight after [`STEPS`] steps whose gradients were summed in another
/// order.
const ANOTHER_ORDER: f64 = 1e-4;
const STEPS: usize = 3;
const LOW_RANK: PriorTerm = PriorTerm::LowRank { rank: 2 };
const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9 };
/// With a large ε a gradient that is zero to rounding does not become a step of full size.
const ADAMW: Optimizer =
    Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 0.01, weight_decay: 0.1 };
const SGLD: Optimizer = Optimizer::Sgld { temperature: 1.0, preconditioned: false };

fn recipe(trainable: Vec<Trainable>, optimizer: Optimizer, clip: bool) -> Recipe {
    Recipe { trainable, method: optimizer.method(), clip }
}

/// Arena lengths of the plan as it is and of the one that recomputes, and the share of work added.
fn arenas(graph: Graph, trainable: Vec<Trainable>) -> (usize, usize, f64) {
    let step = train_step(graph, &recipe(trainable, SGD, false)).expect("a step");
    let plain = Plan::compile(&step).expect("a plan");
    let less = Plan::compile_recomputing(&step).expect("a plan");
    let work = less.flops() as f64 / plain.flops() as f64 - 1.0;
    (plain.arena_len(), less.arena_len(), work)
}

/// Computing a forward pass twice adds at most a third to a step: forward and backward are one part
/// and two.
#[test]
fn recomputing_shortens_the_arena_for_less_than_a_forward_pass() {
    let mut rows = Vec::new();
    for (name, batch, share) in [
        ("mobilenetv2_bn", 32, 0.7),
        ("swin_default", 32, 0.5),
        ("vit_default", 32, 0.65),
        ("densenet_folded", 32, 0.75),
        ("convnext_default", 32, 0.8),
        ("resnet_basic_bn", 32, 0.92),
        ("vgg_folded", 32, 1.0),
    ] {
        let (graph, _, trainable) = classifier(name, batch, LOW_RANK);
        rows.push((name, share, graph, trainable));
    }
    for (name, share, graph) in
        [("resnet18", 0.78, networks::resnet18(16)), ("vit", 0.2, networks::vit(16))]
    {
        let trainable = networks::trainable(&graph, LOW_RANK);
        rows.push((name, share, graph, trainable));
    }
    let mut too_long = Vec::new();
    for (name, share, graph, trainable) in rows {
        let (plain, less, work) = arenas(graph, trainable);
        let shorter = less as f64 / plain as f64;
        println!("{name}: {plain} to {less} elements, {shorter:.2}; work +{work:.2}");
        assert!(work <= 0.4, "{name}: {work} more work");
        if shorter > share {
            too_long.push((name, shorter));
        }
    }
    assert!(too_long.is_empty(), "{too_long:?}");
}

/// Without clipping each gradient is used up before the next is there.
#[test]
fn gradients_do_not_pile_up() {
    let graph = networks::vit(1);
    let trainable = networks::trainable(&graph, PriorTerm::None);
    let params: usize = leaves(&graph)
        .iter()
        .filter(|(leaf, _)| leaf.kind == LeafKind::Param)
        .map(|(_, shape)| shape.len())
        .sum();
    let step = train_step(graph.clone(), &recipe(trainable.clone(), SGD, false)).expect("a step");
    let less = Plan::compile_recomputing(&step).expect("a plan");
    assert!(less.arena_len() < params, "{} for {params} parameters", less.arena_len());
    let add = gradient_step(graph, &recipe(trainable, SGD, true)).expect("a step");
    let add = Plan::compile_recomputing(&add).expect("a plan");
    assert!(add.arena_len() < params, "{} for {params} parameters", add.arena_len());
    assert!(add.dispatches().iter().all(|d| d.origin != "copy"), "sums grow where they are");
}

/// The leaves of a step on `batch` examples with their values.
struct Values {
    model: Model,
    optimizer: Optimizer,
    batch: usize,
}

impl Values {
    fn of(&self, leaf: &Leaf, shape: &Shape) -> Vec<f32> {
        match leaf.name.as_str() {
            TARGETS => (0..shape.len())
                .map(|i| f32::from(i % CLASSES == i / CLASSES * 2 % CLASSES))
                .collect(),
            _ => initial(&self.model, self.optimizer, leaf.kind, &leaf.name, shape),
        }
    }

    /// Sets the residents that `graph` names.
    fn set(&self, backend: &mut dyn Backend, graph: &Graph) {
        for (leaf, shape) in leaves(graph) {
            if leaf.kind != LeafKind::Input {
                // A leaf that only dead nodes read is not in the plan.
                let _ = backend.set(&leaf, &self.of(&leaf, &shape));
            }
        }
    }

    /// Writes the inputs for the examples `range` of the batch.
    fn write(&self, backend: &mut dyn Backend, plan: PlanId, range: std::ops::Range<usize>) {
        for port in backend.plan(plan).inputs().to_vec() {
            let value = match port.name.as_str() {
                SHARE => vec![range.len() as f32 / self.batch as f32],
                name => {
                    let leaf = Leaf { kind: LeafKind::Input, name: name.to_string() };
                    let per_example = port.shape.len() / port.shape[0];
                    let is_batch = name == TARGETS || name == self.model.inputs()[0].name;
                    let whole = if is_batch { self.batch } else { port.shape[0] };
                    let all = self.of(&leaf, &[whole, per_example].into());
                    let rows = if is_batch { range.clone() } else { 0..whole };
                    all[rows.start * per_example..rows.end * per_example].to_vec()
                }
            };
            backend.write(plan, &port.name, &value).expect("an input");
        }
    }
}

/// The outputs of the last step and all weights, moments and sums after it.
type Outcome = (Vec<f32>, BTreeMap<String, Vec<f32>>);

fn outcome(backend: &mut dyn Backend, plan: PlanId) -> Outcome {
    let outputs: Vec<String> =
        backend.plan(plan).outputs().iter().map(|port| port.name.clone()).collect();
    let known =
        [LOSS, PENALTY, GRADIENT_NORM].into_iter().filter(|n| outputs.iter().any(|o| o == n));
    let outputs = known.map(|name| {
        let mut value = [0.0];
        backend.read(plan, name, &mut value).expect("an output");
        value[0]
    });
    let outputs = outputs.collect();
    let residents: Vec<Leaf> = backend
        .plan(plan)
        .buffers()
        .iter()
        .filter_map(|buffer| match &buffer.place {
            Place::Resident(leaf) => Some(leaf.clone()),
            _ => None,
        })
        .filter(|leaf| !leaf.name.starts_with("gradient/") && leaf.name != LOSS_SUM)
        .collect();
    let values = residents.iter().map(|leaf| (leaf.name.clone(), backend.get(leaf).expect("one")));
    (outputs, values.collect())
}

fn cpu() -> Cpu {
    Cpu::new(Arc::new(Threads::new(2)))
}

/// Makes [`STEPS`] whole steps.
fn whole(
    name: &str,
    optimizer: Optimizer,
    prior: PriorTerm,
    clip: bool,
    recompute: bool,
) -> Outcome {
    const BATCH: usize = 5;
    let (graph, model, trainable) = classifier(name, BATCH, prior);
    let step = train_step(graph, &recipe(trainable, optimizer, clip)).expect("a step");
    let plan = match recompute {
        true => Plan::compile_recomputing(&step),
        false => Plan::compile(&step),
    };
    let mut cpu = cpu();
    let plan = cpu.load(plan.expect("a plan")).expect("a loaded plan");
    let values = Values { model, optimizer, batch: BATCH };
    values.set(&mut cpu, &step);
    for _ in 0..STEPS {
        values.write(&mut cpu, plan, 0..BATCH);
        cpu.run(plan).expect("a step");
    }
    outcome(&mut cpu, plan)
}

/// Makes the same steps in micro-batches of two, two and one.
fn parts(
    backend: &mut dyn Backend,
    name: &str,
    optimizer: Optimizer,
    prior: PriorTerm,
    clip: bool,
) -> Outcome {
    const BATCH: usize = 5;
    let mut plans = BTreeMap::new();
    let mut apply = None;
    for size in [2, 1] {
        let (graph, model, trainable) = classifier(name, size, prior);
        let recipe = recipe(trainable, optimizer, clip);
        let add = gradient_step(graph, &recipe).expect("a step");
        let values = Values { model, optimizer, batch: BATCH };
        let plan = Plan::compile_recomputing(&add).expect("a plan");
        plans.insert(size, backend.load(plan).expect("a loaded plan"));
        values.set(backend, &add);
        if apply.is_none() {
            let graph = apply_step(&add, &recipe).expect("a step");
            let plan = backend.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
            values.set(backend, &graph);
            apply = Some((plan, values));
        }
    }
    let (apply, values) = apply.expect("an update");
    for _ in 0..STEPS {
        for range in [0..2, 2..4, 4..5] {
            let plan = plans[&range.len()];
            values.write(backend, plan, range);
            backend.run(plan).expect("a part");
        }
        values.write(backend, apply, 0..BATCH);
        backend.run(apply).expect("an update");
    }
    let sum = backend.get(&resident(LeafKind::State, LOSS_SUM)).expect("a state");
    assert_eq!(sum, [0.0], "sums begin anew");
    outcome(backend, apply)
}

#[test]
fn recomputing_changes_no_bit() {
    for name in
        ["vit_default", "swin_default", "mobilenetv2_bn", "resnet_basic_bn", "densenet_folded"]
    {
        let [plain, less] = [false, true].map(|how| whole(name, SGD, LOW_RANK, true, how));
        assert!(plain == less, "{name}");
    }
}

#[test]
fn micro_batches_make_the_step_of_the_batch() {
    let centred = PriorTerm::Isotropic { centred: true };
    for (name, optimizer, prior, clip) in [
        ("resnet_basic_folded", SGD, LOW_RANK, true),
        ("resnet_basic_folded", ADAMW, PriorTerm::Diagonal, true),
        ("resnet_basic_folded", SGLD, LOW_RANK, false),
        ("vit_default", SGD, PriorTerm::None, true),
        ("vit_default", SGLD, centred, false),
        ("mobilenetv2_bn", ADAMW, centred, false),
        ("convnext_default", SGD, PriorTerm::Diagonal, false),
    ] {
        let scene = format!("{name} {optimizer:?} {prior:?}");
        let expected = whole(name, optimizer, prior, clip, false);
        let got = parts(&mut cpu(), name, optimizer, prior, clip);
        check_outcome(&scene, &got, &expected);
        if let Some(mut gpu) = gpu() {
            let got = parts(&mut *gpu, name, optimizer, prior, clip);
            check_outcome(&format!("{scene} on the GPU"), &got, &expected);
        }
    }
}

fn check_outcome(scene: &str, got: &Outcome, expected: &Outcome) {
    let ((got_outputs, got), (outputs, residents)) = (got, expected);
    assert_eq!(got_outputs.len(), outputs.len(), "{scene}");
    for (got, want) in got_outputs.iter().zip(outputs) {
        assert!((got - want).abs() <= 1e-4 * want.abs(), "{scene}: {got}, not {want}");
    }
    assert_eq!(
        got.keys().collect::<Vec<_>>(),
        residents.keys().filter(|name| got.contains_key(*name)).collect::<Vec<_>>()
    );
    for (name, got) in got {
        let want: Vec<f64> = residents[name].iter().map(|&x| f64::from(x)).collect();
        let error = relative_error(got, &want);
        assert!(error < ANOTHER_ORDER, "{scene}: {name}: {error:.1e}");
    }
}

#[test]
fn what_plans_will_take_is_known_before_they_are_loaded() {
    check_bytes(&mut cpu());
    #[cfg(feature = "gpu")]
    for half_factor in [false, true] {
        use priorfit::backend::gpu::{Device, Gpu, Options};
        let Some(adapter) = crate::support::gpu::adapter() else { return };
        let options = Options { half_factor, ..Options::default() };
        let device = Device::open(&adapter, options).expect("a device");
        check_bytes(&mut Gpu::new(&device));
    }
}

fn check_bytes(backend: &mut dyn Backend) {
    let plans = |batch: usize| {
        let (graph, _, trainable) = classifier("resnet_basic_bn", batch, LOW_RANK);
        let recipe = recipe(trainable, ADAMW, true);
        let add = gradient_step(graph.clone(), &recipe).expect("a step");
        let apply = apply_step(&add, &recipe).expect("a step");
        [graph, add, apply].map(|graph| Plan::compile(&graph).expect("a plan"))
    };
    for batch in [3, 1, 4] {
        let plans = plans(batch);
        let bytes = backend.bytes_with(&plans.each_ref()).expect("a number");
        for plan in plans {
            backend.load(plan).expect("a loaded plan");
        }
        assert_eq!(backend.bytes(), bytes, "{}: batches of {batch}", backend.name());
    }
}
