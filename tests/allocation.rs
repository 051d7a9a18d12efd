//! A training step allocates nothing: counted by the allocator itself.
//!
//! A binary of its own without the test harness, whose main thread may allocate at any moment while
//! a test runs: here nothing else does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::graph::PriorTerm;
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::step::{CLIP, Group, Recipe, Trainable, train_step};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT, LOSS, TARGETS, cross_entropy, linear_head};
use priorfit::threads::Threads;
use priorfit::update::{Noise, Optimizer};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A whole step of `model` with every kind of input set to something.
fn loaded(model: &Model, shape: &[usize]) -> (Cpu, priorfit::backend::PlanId) {
    let mut graph = model.graph(shape).expect("a graph");
    let features = graph.outputs()[0].1;
    graph.clear_outputs();
    let logits = linear_head(&mut graph, features, 3).expect("a head");
    let loss = cross_entropy(&mut graph, logits).expect("a loss");
    graph.set_output(LOSS, loss);
    let low_rank = PriorTerm::LowRank { rank: 2 };
    let backbone = model.weights().map(|(name, _)| (name, Group::Backbone, low_rank));
    let isotropic = PriorTerm::Isotropic { centred: false };
    let head = [HEAD_WEIGHT, HEAD_BIAS].map(|name| (name, Group::Head, isotropic));
    let trainable = backbone
        .chain(head)
        .map(|(name, group, prior)| Trainable { name: name.to_string(), group, block: 0, prior })
        .collect();
    let optimizer = Optimizer::default();
    let recipe = Recipe { trainable, method: optimizer.method(), clip: true };
    let step = train_step(graph, &recipe).expect("a step");
    let mut cpu = Cpu::new(Arc::new(started_threads()));
    let plan = cpu.load(Plan::compile(&step).expect("a plan")).expect("a loaded plan");
    let input = model.inputs()[0].name.clone();
    cpu.write(plan, &input, &vec![0.5; shape.iter().product()]).expect("images");
    cpu.write(plan, TARGETS, &vec![0.5; shape[0] * 3]).expect("targets");
    cpu.write(plan, CLIP, &[1.0]).expect("a norm");
    let noise = Noise::new(0, 1);
    for group in [Group::Backbone, Group::Head] {
        cpu.write(plan, group.hyper(), &optimizer.hyper(0, 0.0, 0.1, noise)).expect("numbers");
    }
    (cpu, plan)
}

/// Threads that have all begun to run: a thread's own beginning allocates, and the operating system
/// may put it off until somewhere in a later step.
fn started_threads() -> Threads {
    let threads = Threads::new(2);
    let barrier = Barrier::new(threads.count());
    threads.run(threads.count(), |_, _| {
        barrier.wait();
    });
    threads
}

fn main() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden");
    for (name, shape) in [
        ("resnet_basic_folded", [2, 3, 64, 64]),
        ("mobilenetv3_bn", [2, 3, 40, 40]),
        ("densenet_folded", [2, 3, 64, 64]),
        ("vit_default", [2, 3, 32, 32]),
        ("swin_default", [2, 3, 32, 32]),
    ] {
        let model = Model::load(&golden.join(format!("{name}.onnx"))).expect("a network");
        let (mut cpu, plan) = loaded(&model, &shape);
        // The first run starts the threads' lazily made state.
        cpu.run(plan).expect("a step");
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        cpu.run(plan).expect("a step");
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        assert_eq!(after - before, 0, "{name}: allocations in a step");
    }
    println!("a_step_allocates_nothing ... ok");
}
