//! What only a GPU has: tiles, variants, a device that is shared, and one that is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use priorfit::Result;
use priorfit::adapt::{Adapted, Adapter, Control, Phase, Progress, Settings};
use priorfit::backend::gpu::{Device, Gpu, Options, requirements, wgpu};
use priorfit::backend::{Backend, Engine};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::error::Kind;
use priorfit::graph::eval::{self, Env};
use priorfit::graph::{
    Conv2d, Graph, Hyper, LeafKind, MatMul, Method, PriorTerm, Reduction, Unary, Update,
};
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::prior::Prior;
use priorfit::tensor::Shape;
use priorfit::threads::Threads;

use crate::support::case::{Case, ROUNDING, open};
use crate::support::gpu::adapter;
use crate::support::{array, leaves, normal, relative_error, repository};

/// Sizes at which products take tiles of 128 instead of 64, with partial tiles at the edges.
#[test]
fn large_tiles_agree() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for k in [17, 20] {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false)] {
            let how = MatMul { transpose_a, transpose_b };
            let (m, n) = (1537, 1540);
            let a: Shape = if transpose_a { [k, m].into() } else { [m, k].into() };
            let b: Shape = if transpose_b { [n, k].into() } else { [k, n].into() };
            let case = Case::new(&[a, b], |g, x| g.matmul(x[0], x[1], how));
            case.check(&mut gpu, &format!("matmul {how:?}, {k} steps"));
        }
    }
    let conv = Conv2d {
        batch: 4,
        in_channels: 5,
        out_channels: 100,
        groups: 1,
        input: [65, 64],
        output: [65, 64],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
    };
    let shapes = [conv.input_shape(), conv.filter_shape()];
    let case = Case::new(&shapes, |g, x| g.conv2d(x[0], x[1], conv));
    case.check(&mut gpu, "conv2d");
    let pointwise = Conv2d {
        in_channels: 100,
        input: [64, 64],
        output: [64, 64],
        kernel: [1, 1],
        pad: [0, 0],
        ..conv
    };
    let (x, w, y) = (pointwise.input_shape(), pointwise.filter_shape(), pointwise.output_shape());
    let case = Case::new(&[x, w.clone()], |g, x| g.conv2d(x[0], x[1], pointwise));
    case.check(&mut gpu, "conv2d without a window");
    let case = Case::new(&[y, w], |g, x| g.conv2d_input_grad(x[0], x[1], pointwise));
    case.check(&mut gpu, "conv2d_input_grad without a window");
    let turned = Conv2d { in_channels: 100, out_channels: 5, ..conv };
    let shapes = [turned.output_shape(), turned.filter_shape()];
    let case = Case::new(&shapes, |g, x| g.conv2d_input_grad(x[0], x[1], turned));
    case.check(&mut gpu, "conv2d_input_grad");
    let deep = Conv2d {
        batch: 2,
        in_channels: 512,
        out_channels: 510,
        input: [4, 4],
        output: [4, 4],
        ..conv
    };
    let shapes = [deep.input_shape(), deep.output_shape()];
    let case = Case::new(&shapes, |g, x| g.conv2d_filter_grad(x[0], x[1], deep));
    case.check(&mut gpu, "conv2d_filter_grad");
}

/// Operands that lie along the sum in whole vectors; rows, columns and steps are no whole tiles.
#[test]
fn products_of_rows_by_vectors_agree() {
    let Some(mut gpu) = open(Options::default()) else { return };
    for [batch, m, k, n] in [[1, 1, 4, 1], [3, 13, 36, 19], [2, 66, 100, 65], [1, 63, 8, 130]] {
        for transpose_b in [false, true] {
            let how = MatMul { transpose_a: false, transpose_b };
            let b = if transpose_b { [batch, n, k] } else { [batch, k, n] };
            let case =
                Case::new(&[[batch, m, k].into(), b.into()], |g, x| g.matmul(x[0], x[1], how));
            case.check(&mut gpu, &format!("{batch} products of {m} x {k} x {n}, {how:?}"));
        }
    }
}

/// Windows, strides, dilations, groups and sums of every kind, around the edges of tiles.
#[test]
fn convolutions_of_awkward_geometry_agree() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let cases = [
        // batch, in, out, groups, input, kernel, stride, pad, dilation
        (1, 1, 1, 1, [1, 1], [1, 1], [1, 1], [0, 0], [1, 1]),
        (2, 3, 65, 1, [9, 7], [1, 1], [1, 1], [0, 0], [1, 1]),
        (2, 64, 63, 1, [8, 8], [1, 1], [2, 2], [0, 0], [1, 1]),
        // Without a window, and as many positions as vectors want.
        (3, 3, 65, 1, [6, 6], [1, 1], [1, 1], [0, 0], [1, 1]),
        (5, 68, 7, 1, [2, 2], [1, 1], [1, 1], [0, 0], [3, 2]),
        (2, 24, 10, 2, [5, 4], [1, 1], [1, 1], [0, 0], [1, 1]),
        (2, 130, 129, 1, [12, 11], [1, 1], [1, 1], [0, 0], [1, 1]),
        (1, 6, 6, 6, [4, 4], [1, 1], [1, 1], [0, 0], [1, 1]),
        (2, 4, 4, 1, [4, 4], [1, 1], [1, 1], [1, 1], [1, 1]),
        (1, 3, 64, 1, [31, 29], [7, 7], [2, 2], [3, 3], [1, 1]),
        (3, 4, 6, 2, [11, 13], [3, 3], [2, 2], [1, 1], [1, 1]),
        (2, 4, 4, 1, [15, 14], [3, 5], [2, 3], [1, 2], [2, 1]),
        (2, 4, 4, 1, [15, 14], [3, 3], [2, 2], [2, 2], [2, 2]),
        (1, 2, 3, 1, [12, 12], [4, 4], [4, 4], [0, 0], [1, 1]),
        (2, 6, 12, 6, [10, 9], [3, 3], [2, 1], [1, 1], [1, 1]),
        (2, 6, 6, 6, [10, 9], [5, 5], [1, 1], [4, 4], [2, 2]),
        (4, 8, 8, 1, [20, 20], [3, 3], [1, 1], [1, 1], [1, 1]),
        // Windows that are read by vectors, of all shifts: rows that are no whole vectors, taps
        // beyond either edge, planes that start anywhere, images cut into segments.
        (2, 5, 7, 1, [14, 14], [3, 3], [1, 1], [1, 1], [1, 1]),
        (3, 3, 4, 1, [2, 6], [5, 3], [1, 1], [2, 1], [1, 1]),
        (3, 4, 6, 2, [5, 6], [2, 3], [1, 1], [0, 1], [1, 1]),
        (2, 3, 5, 1, [6, 6], [3, 3], [1, 1], [2, 1], [1, 1]),
        (2, 2, 3, 1, [4, 4], [1, 7], [1, 1], [0, 3], [1, 1]),
        (2, 6, 4, 2, [9, 8], [3, 3], [1, 1], [3, 2], [3, 2]),
        (1, 1, 1, 1, [4, 5], [3, 3], [1, 1], [1, 1], [1, 1]),
        (5, 20, 70, 1, [10, 12], [3, 3], [1, 1], [1, 1], [1, 1]),
    ];
    for (batch, in_channels, out_channels, groups, input, kernel, stride, pad, dilation) in cases {
        let output = [0, 1].map(|a: usize| {
            (input[a] + 2 * pad[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1
        });
        let g = Conv2d {
            batch,
            in_channels,
            out_channels,
            groups,
            input,
            output,
            kernel,
            stride,
            pad,
            dilation,
        };
        let (x, w, y) = (g.input_shape(), g.filter_shape(), g.output_shape());
        let scene = |what: &str| format!("{what} {g:?}");
        let case = Case::new(&[x.clone(), w.clone()], |b, v| b.conv2d(v[0], v[1], g));
        case.check(&mut gpu, &scene("conv2d"));
        let case = Case::new(&[y.clone(), w], |b, v| b.conv2d_input_grad(v[0], v[1], g));
        case.check(&mut gpu, &scene("conv2d_input_grad"));
        let case = Case::new(&[x, y], |b, v| b.conv2d_filter_grad(v[0], v[1], g));
        case.check(&mut gpu, &scene("conv2d_filter_grad"));
    }
}

/// One update of a parameter of `len` elements.
fn update_graph(len: usize, method: Method, rank: usize) -> Graph {
    let mut graph = Graph::new();
    let update = Update { method, prior: PriorTerm::LowRank { rank } };
    let shape: Shape = [len].into();
    let build = |g: &mut Graph| -> Result<()> {
        let theta = g.param("theta", &shape)?;
        let grad = g.input("grad", &shape)?;
        let hyper = g.input("hyper", &[Hyper::COUNT].into())?;
        let scale = g.input("scale", &[1].into())?;
        let mut operands = vec![theta, grad, hyper, scale];
        let mut leaves = vec![theta];
        for moment in method.moments() {
            let state = g.state(moment, &shape)?;
            operands.push(state);
            leaves.push(state);
        }
        operands.push(g.state("mean", &shape)?);
        operands.push(g.state("precision", &shape)?);
        operands.push(g.state("factor", &[rank, len].into())?);
        operands.push(g.input("solution", &[rank].into())?);
        leaves.push(g.state("sums", &[rank + 1].into())?);
        let results = g.update(update, &operands)?;
        leaves.into_iter().zip(results).for_each(|(leaf, next)| g.set_next(leaf, next));
        Ok(())
    };
    build(&mut graph).expect("a graph");
    graph
}

/// Relative error that factor columns in half precision cost: 2⁻¹¹ in each of their elements, of
/// which a sum sees less.
const HALF: f64 = 1e-3;

#[test]
fn updates_in_shards_and_in_half_precision_follow_the_interpreter() {
    // Three shards of a factor of rank 5 in bindings of 96 KiB, the last of them partial.
    for (half_factor, tolerance) in [(false, ROUNDING), (true, HALF)] {
        let binding_limit = Some(96 << 10);
        let options = Options { half_factor, binding_limit, ..Options::default() };
        let methods = [
            Method::Sgd { nesterov: true },
            Method::AdamW,
            Method::Sgld { lane: 2, preconditioned: false },
            Method::Sghmc { lane: 2, preconditioned: true },
        ];
        for method in methods {
            let Some(mut gpu) = open(options.clone()) else { return };
            check_update(&mut gpu, &update_graph(10_001, method, 5), tolerance);
        }
    }
}

fn check_update(gpu: &mut Gpu, graph: &Graph, tolerance: f64) {
    let plan = gpu.load(Plan::compile(graph).expect("a plan")).expect("a loaded plan");
    let mut env = Env::new();
    for (lane, (leaf, shape)) in leaves(graph).into_iter().enumerate() {
        let noise = normal(&shape, lane as u64);
        let positive = matches!(leaf.name.as_str(), "precision" | "v");
        let data: Vec<f32> = match leaf.name.as_str() {
            "hyper" => {
                vec![
                    0.1, 0.9, 0.99, 0.01, 0.1, 0.3, 0.2, 0.05, 0.5, 7.0, 60_000.0, 3.0, 0.0, 9.0,
                    1.0, 0.8,
                ]
            }
            "scale" => vec![0.7],
            _ if positive => noise.iter().map(|x| x.abs() + 0.5).collect(),
            _ => noise,
        };
        env.set(leaf.kind, &leaf.name, array(&shape, &data));
        match leaf.kind {
            LeafKind::Input => gpu.write(plan, &leaf.name, &data).expect("an input"),
            _ => gpu.set(&leaf, &data).expect("a resident"),
        }
    }
    eval::step(graph, &mut env).expect("the oracle's step");
    gpu.run(plan).expect("a step");
    for (leaf, _) in leaves(graph).into_iter().filter(|(l, _)| l.kind != LeafKind::Input) {
        let expected = env.get(leaf.kind, &leaf.name).expect("the oracle's");
        let error = relative_error(&gpu.get(&leaf).expect("a resident"), expected);
        assert!(error < tolerance, "{}: {error:.1e}", leaf.name);
    }
}

/// A chain that takes many launches.
fn long_case() -> Case {
    let shape: Shape = [40, 50].into();
    Case::new(&[shape.clone(), [50, 50].into()], |g, x| {
        let mut y = x[0];
        for _ in 0..20 {
            let product = g.matmul(y, x[1], MatMul::default())?;
            let scaled = g.scale(product, 0.1)?;
            y = g.softmax(scaled)?;
        }
        Ok(y)
    })
}

#[test]
fn cut_submissions_and_pauses_change_nothing_and_runs_repeat_bit_for_bit() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let case = long_case();
    case.check(&mut gpu, "whole");
    let bits = |gpu: &mut Gpu| {
        let plan = case.load(gpu);
        let outputs = case.run(gpu, plan).expect("a run");
        outputs.concat().iter().map(|y| y.to_bits()).collect::<Vec<_>>()
    };
    let whole = bits(&mut gpu);
    assert!(bits(&mut gpu) == whole, "a second plan in the same memory");
    let options = Options { budget: Duration::from_nanos(1), duty: 0.5, ..Options::default() };
    let Some(mut cut) = open(options) else { return };
    assert!(bits(&mut cut) == whole, "one launch a submission, with pauses");
}

/// A step's results, bit for bit, within a budget.
fn stepped(graph: &Graph, budget: Duration) -> Option<Vec<Vec<u32>>> {
    let mut gpu = open(Options { budget, ..Options::default() })?;
    let plan = gpu.load(Plan::compile(graph).expect("a plan")).expect("a loaded plan");
    for (lane, (leaf, shape)) in leaves(graph).into_iter().enumerate() {
        let data: Vec<f32> = normal(&shape, lane as u64).iter().map(|x| x.abs() + 0.1).collect();
        match leaf.kind {
            LeafKind::Input => gpu.write(plan, &leaf.name, &data).expect("an input"),
            _ => gpu.set(&leaf, &data).expect("a resident"),
        }
    }
    gpu.run(plan).expect("a step");
    let residents = leaves(graph).into_iter().filter(|(leaf, _)| leaf.kind != LeafKind::Input);
    let residents = residents.map(|(leaf, _)| gpu.get(&leaf).expect("a resident"));
    let mut results: Vec<Vec<f32>> = residents.collect();
    for port in gpu.plan(plan).outputs().to_vec() {
        let mut output = vec![0.0; port.shape.len()];
        gpu.read(plan, &port.name, &mut output).expect("an output");
        results.push(output);
    }
    Some(results.iter().map(|values| values.iter().map(|x| x.to_bits()).collect()).collect())
}

/// A launch that takes long is made in parts of its workgroups, each once: an update in place, sums
/// that a second launch joins, tiles of either size.
#[test]
fn parts_of_a_launch_give_the_bits_of_the_whole() {
    let product = |m: usize, k: usize, n: usize| {
        let mut g = Graph::new();
        let build = |g: &mut Graph| -> Result<()> {
            let (a, b) = (g.input("a", &[m, k].into())?, g.input("b", &[k, n].into())?);
            let product = g.matmul(a, b, MatMul::default())?;
            let largest = g.softmax(product)?;
            let sum = g.reduce(Reduction::Sum, largest, &[0])?;
            g.set_output("product", product);
            g.set_output("sum", sum);
            Ok(())
        };
        build(&mut g).expect("a graph");
        g
    };
    let update = update_graph(1_000_003, Method::Sgd { nesterov: true }, 1);
    for graph in [update, product(300, 700, 500), product(1537, 33, 1540)] {
        let Some(whole) = stepped(&graph, Duration::from_secs(10)) else { return };
        let parts = stepped(&graph, Duration::from_nanos(1)).expect("the same device");
        assert!(whole == parts, "other bits");
    }
}

#[test]
fn observers_hear_of_every_dispatch_once_and_in_order() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let case = long_case();
    let plan = case.load(&mut gpu);
    for (name, data) in &case.inputs {
        gpu.write(plan, name, data).expect("an input");
    }
    let mut seen = Vec::new();
    gpu.run_observed(plan, &mut |dispatch| seen.push(dispatch)).expect("a run");
    assert_eq!(seen, (0..gpu.plan(plan).dispatches().len()).collect::<Vec<_>>());
}

pub type Devices = Arc<Mutex<Vec<wgpu::Device>>>;

/// Options that note every device that is opened.
pub fn watched() -> (Options, Devices) {
    let devices = Devices::default();
    let list = Arc::clone(&devices);
    let note = move |device: &wgpu::Device| list.lock().expect("a list").push(device.clone());
    (Options { on_device: Some(Arc::new(note)), ..Options::default() }, devices)
}

/// Loses a device as a driver's reset or an unplugged GPU would.
pub fn destroy_last(devices: &Devices) {
    devices.lock().expect("a list").last().expect("a device").destroy();
}

/// Steps of the runs that lose their device; the first shadow is taken in between.
const STEPS: usize = 70;

/// Relative drift of weights over [`STEPS`] steps from starts that differ by rounding.
const DRIFT: f64 = 2e-3;

/// All but the last block of the demo's backbone: what a device in software takes longest to train,
/// and a lost device is as lost without it.
pub fn early_layers() -> Vec<String> {
    ["stem*", "blocks.0*", "blocks.1*"].map(str::to_string).to_vec()
}

/// A run on `engine` that calls `at` before each step.
fn adapt(engine: &Engine, at: &dyn Fn(usize)) -> Adapted {
    let settings = Settings { steps: STEPS, batch_size: 8, probe_steps: 50, ..Settings::fixed() };
    adapt_with(settings, engine, at)
}

fn adapt_with(settings: Settings, engine: &Engine, at: &dyn Fn(usize)) -> Adapted {
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let model = Arc::new(model.cut_at_features(None).expect("its features"));
    let prior = Prior::load(&repository("models/demo/prior.safetensors")).expect("the prior");
    let digits = Dataset::open(&repository("models/demo/digits.npz")).expect("the digits");
    let (train, _) = digits.few(3, 2).expect("twenty examples");
    let input =
        Preprocess::new(1, 16, 16).normalised(Statistics { mean: vec![0.31], std: vec![0.37] });
    let adapter = Adapter::new(model, input, engine).with_prior(prior).expect("its prior");
    let settings = Settings { freeze: early_layers(), ..settings };
    let adapter = adapter.with_settings(settings).expect("settings");
    let mut observe = |progress: Progress| {
        if progress.phase == Phase::Train {
            at(progress.step);
        }
        Control::Continue
    };
    adapter.fit(&train, None, &mut observe).expect("a run that goes on")
}

fn weights(adapted: &Adapted) -> Vec<f32> {
    adapted.posterior.draws()[0].values().flat_map(|w| w.iter().copied()).collect()
}

#[test]
fn a_run_whose_device_is_lost_goes_on_with_a_new_one_bit_for_bit() {
    let Some(adapter) = adapter() else { return };
    let threads = Arc::new(Threads::new(2));
    let (options, devices) = watched();
    let engine = Engine::gpu(adapter, options, threads);
    let undisturbed = adapt(&engine, &|_| {});
    // Before the first shadow, and long after it.
    for loss in [5, 65] {
        let lost = AtomicUsize::new(0);
        let adapted = adapt(&engine, &|step| {
            if step == loss && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                destroy_last(&devices);
            }
        });
        assert!(lost.load(Ordering::Relaxed) > 0, "the device was lost");
        assert!(weights(&adapted) == weights(&undisturbed), "lost at step {loss}");
        assert_eq!(adapted.history.len(), undisturbed.history.len());
        assert_eq!(adapted.ran_on, undisturbed.ran_on);
    }
}

#[test]
fn a_cross_validation_whose_device_is_lost_makes_the_same_choice() {
    let Some(adapter) = adapter() else { return };
    let (options, devices) = watched();
    let engine = Engine::gpu(adapter, options, Arc::new(Threads::new(2)));
    let run = |at: &dyn Fn(usize)| {
        let settings =
            Settings { steps: 24, batch_size: 8, probe_steps: 50, ..Settings::default() };
        adapt_with(settings, &engine, at)
    };
    let undisturbed = run(&|_| {});
    // In the first fold's run of nine steps, and in the third's.
    for loss in [5, 20] {
        let lost = AtomicUsize::new(0);
        let adapted = run(&|step| {
            if step == loss && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                destroy_last(&devices);
            }
        });
        assert!(lost.load(Ordering::Relaxed) > 0, "the device was lost");
        assert_eq!(adapted.choice, undisturbed.choice);
        assert!(weights(&adapted) == weights(&undisturbed), "lost at step {loss}");
    }
}

#[test]
fn a_run_that_loses_every_device_ends_on_the_processor() {
    let Some(adapter) = adapter() else { return };
    let threads = Arc::new(Threads::new(2));
    let (options, devices) = watched();
    let engine = Engine::gpu(adapter, options, Arc::clone(&threads));
    // Each device is lost as soon as it has made ten steps.
    let adapted = adapt(&engine, &|step| {
        if step == 10 {
            destroy_last(&devices);
        }
    });
    assert!(adapted.ran_on.starts_with("cpu"), "{}", adapted.ran_on);
    // What is left of the devices is the probe's head, from features that they computed.
    let on_cpu = weights(&adapt(&Engine::cpu(threads), &|_| {}));
    let on_cpu: Vec<f64> = on_cpu.into_iter().map(f64::from).collect();
    let error = relative_error(&weights(&adapted), &on_cpu);
    assert!(error < DRIFT, "{error:.1e} from a run on the processor");
}

#[test]
fn a_lost_device_is_an_error_and_the_engine_has_somewhere_to_go() {
    let Some(adapter) = adapter() else { return };
    let (options, devices) = watched();
    let mut gpu = Gpu::new(&Device::open(&adapter, options).expect("a device"));
    let case = long_case();
    let plan = case.load(&mut gpu);
    case.run(&mut gpu, plan).expect("a run");
    destroy_last(&devices);
    let error = case.run(&mut gpu, plan).expect_err("the device is gone");
    assert_eq!(error.kind(), Kind::Device, "{error}");
    let threads = Arc::new(Threads::new(1));
    let engine = Engine::gpu(adapter, Options::default(), threads);
    let anew = engine.after(error).expect("a new device");
    assert!(anew.can_fail() && anew.open().is_ok());
    let lost = || priorfit::Error::new(Kind::Device, "lost again");
    let cpu = anew.after(lost()).expect("the processor");
    assert!(!cpu.can_fail());
    assert!(cpu.after(lost()).is_err(), "after the processor there is nothing");
    let bug = priorfit::Error::internal("not the device's");
    assert!(engine.after(bug).is_err(), "only a device's error is a reason to go");
}

#[test]
fn more_memory_than_there_is_is_an_error() {
    let Some(mut gpu) = open(Options::default()) else { return };
    let mut graph = Graph::new();
    // 64 GiB
    let theta = graph.param("theta", &[1 << 34].into()).expect("a leaf");
    let doubled = graph.add(theta, theta).expect("a node");
    let sum = graph.sum_all(doubled).expect("a node");
    graph.set_output("y", sum);
    let plan = Plan::compile(&graph).expect("a plan");
    let error = gpu.load(plan).expect_err("more than the device has");
    assert!(matches!(error.kind(), Kind::Device | Kind::Unsupported), "{error:?}");
}

#[test]
fn a_host_shares_its_device_and_keeps_its_error_handler() {
    let Some(adapter) = adapter() else { return };
    let info = adapter.info();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let own = adapters.into_iter().find(|a| a.get_info().name == info.name).expect("it again");
    let (required_features, required_limits) = requirements(&own);
    let descriptor =
        wgpu::DeviceDescriptor { required_features, required_limits, ..Default::default() };
    let (device, queue) = pollster::block_on(own.request_device(&descriptor)).expect("a device");
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    device.on_uncaptured_error(Arc::new(move |_: wgpu::Error| {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let shared = Device::shared(device.clone(), queue.clone(), Options::default());
    let mut gpu = Gpu::new(&shared.expect("it has what is needed"));
    long_case().check(&mut gpu, "on a shared device");
    // An error of ours is ours.
    let mut graph = Graph::new();
    let x = graph.param("x", &[3 << 28].into()).expect("a leaf");
    let y = graph.unary(Unary::Neg, x).expect("a node");
    let y = graph.sum_all(y).expect("a node");
    graph.set_output("y", y);
    let refused = gpu.load(Plan::compile(&graph).expect("a plan"));
    assert!(refused.is_err(), "3 GiB in one buffer");
    assert_eq!(heard.load(Ordering::Relaxed), 0, "the host hears nothing of it");
    // The host goes on, and its handler is still its own.
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: u64::MAX / 2,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert_eq!(heard.load(Ordering::Relaxed), 1, "an error of the host's is the host's");
    // A host that destroys its device takes it from us.
    let case = long_case();
    let plan = case.load(&mut gpu);
    device.destroy();
    let error = case.run(&mut gpu, plan).expect_err("the device is gone");
    assert_eq!(error.kind(), Kind::Device, "{error}");
}
