//! Tests that need a device, in software if there is no other.

use std::sync::Arc;
use std::time::Duration;

use bytemuck::Zeroable;

use crate::backend::Backend;
use crate::backend::gpu::context::Context;
use crate::backend::gpu::launch::{Access, Bound, Builder};
use crate::backend::gpu::lower::Limits;
use crate::backend::gpu::pace::Reached;
use crate::backend::gpu::pipelines::Pipelines;
use crate::backend::gpu::shader::part;
use crate::backend::gpu::{Device, Gpu, Options, adapters, params, qualify, wgpu};
use crate::error::{Kind, Result};
use crate::graph::{Conv2d, Graph, Leaf, MatMul, Pool2d};
use crate::plan::{Plan, Port};
use crate::rng::{Key, Stream, philox4x32};

/// A device, or a printed reason for skipping; `PRIORFIT_REQUIRE_GPU=1` fails instead.
fn context() -> Option<Arc<Context>> {
    let adapter = adapters().into_iter().find(|adapter| adapter.qualifies().is_ok());
    if adapter.is_none() {
        let required = std::env::var("PRIORFIT_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "PRIORFIT_REQUIRE_GPU is 1, but no adapter was found");
        println!("skipped: no adapter was found");
    }
    adapter.map(|adapter| Context::open(&adapter.inner, false).expect("a device"))
}

const LIMITS: Limits = Limits {
    binding: 1 << 20,
    align: 64,
    half_factor: false,
    subgroups: false,
    cooperative: false,
};

#[test]
fn a_variant_that_computes_something_else_is_found_out() {
    let Some(context) = context() else { return };
    for run in [qualify::updated, qualify::multiplied] {
        qualify::compare(&context, LIMITS, LIMITS, run).expect("a kernel agrees with itself");
    }
    let half = Limits { half_factor: true, ..LIMITS };
    qualify::compare(&context, LIMITS, half, qualify::updated).expect("halves are unpacked");
    // One element of one result that is off by a few parts in a hundred thousand.
    let wrong = |context: &Arc<Context>, limits: Limits| {
        let mut results = qualify::updated(context, limits)?;
        if limits.half_factor {
            let last = results.last_mut().and_then(|(_, sums)| sums.last_mut()).expect("a sum");
            *last *= 1.0 + 3e-5;
        }
        Ok(results)
    };
    let error = qualify::compare(&context, LIMITS, half, wrong).expect_err("other numbers");
    assert!(error.to_string().contains("expected"), "{error}");
}

/// A product that is one dispatch, and the bits it gives on a device that binds `binding` elements
/// and whose submissions may take `budget`; with them, how many launches and submissions it took.
fn product(context: &Arc<Context>, binding: usize, budget: Duration) -> (Vec<u32>, usize, usize) {
    const SIDES: [usize; 3] = [640, 64, 64];
    let [m, k, n] = SIDES;
    let mut graph = Graph::new();
    let a = graph.input("a", &[m, k].into()).expect("a leaf");
    let b = graph.input("b", &[k, n].into()).expect("a leaf");
    let product = graph.matmul(a, b, MatMul::default()).expect("a node");
    graph.set_output("product", product);
    let options = Options { budget, ..Options::default() };
    let device = Device::bare(Arc::clone(context), Limits { binding, ..LIMITS }, options);
    let mut gpu = Gpu::new(&device);
    let plan = gpu.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
    assert_eq!(gpu.plan(plan).dispatches().len(), 1);
    let data = |len: usize| (0..len).map(|at| (at * 7919 % 1000) as f32 - 500.0).collect();
    for (name, len) in [("a", m * k), ("b", k * n)] {
        let data: Vec<f32> = data(len);
        gpu.write(plan, name, &data).expect("an input");
    }
    let (mut submissions, mut reached) = (0, Reached::default());
    let launches = gpu.loaded(plan).len();
    while reached.launch < launches {
        reached = gpu.pace.portion(reached, false, |at| gpu.loaded(plan).load(at)).to;
        submissions += 1;
    }
    gpu.run(plan).expect("a run");
    let mut product = vec![0.0; m * n];
    gpu.read(plan, "product", &mut product).expect("an output");
    (product.iter().map(|x| x.to_bits()).collect(), launches, submissions)
}

#[test]
fn the_launches_of_one_dispatch_are_parted_where_the_budget_ends() {
    let Some(context) = context() else { return };
    let (whole, launches, submissions) = product(&context, 1 << 20, Duration::from_millis(50));
    assert_eq!((launches, submissions), (1, 1));
    // Ten parts of 64 rows, each in a submission of its own or all in one.
    for (budget, expected) in [(Duration::from_millis(50), 1), (Duration::from_nanos(1), 10)] {
        let (cut, launches, submissions) = product(&context, 4096, budget);
        assert_eq!((launches, submissions), (10, expected));
        assert!(cut == whole, "{submissions} submissions");
    }
}

/// Kernels that are cut by images, rows or steps, none of which start where windows may.
fn of_odd_items() -> Result<Graph> {
    let mut g = Graph::new();
    let same = |channels: usize, groups: usize, kernel: usize, input: [usize; 2]| Conv2d {
        batch: 7,
        in_channels: channels,
        out_channels: channels,
        groups,
        input,
        output: input,
        kernel: [kernel; 2],
        stride: [1, 1],
        pad: [kernel / 2; 2],
        dilation: [1, 1],
    };
    // By elements, by vectors, without a window, with groups of one channel.
    let convs = [
        same(1, 1, 3, [33, 33]),
        same(3, 1, 3, [18, 20]),
        same(3, 1, 1, [18, 20]),
        same(3, 3, 3, [18, 20]),
    ];
    for (number, conv) in convs.into_iter().enumerate() {
        let x = g.input(&format!("x{number}"), &conv.input_shape())?;
        let ct = g.input(&format!("ct{number}"), &conv.output_shape())?;
        let w = g.input(&format!("w{number}"), &conv.filter_shape())?;
        let y = g.conv2d(x, w, conv)?;
        let y = g.mul(y, ct)?;
        let Conv2d { batch, in_channels: channels, input, output, .. } = conv;
        let (kernel, stride, pad, dilation) = ([3, 3], [1, 1], [1, 1], [1, 1]);
        let pool = Pool2d { batch, channels, input, output, kernel, stride, pad, dilation };
        let results = [
            y,
            g.conv2d_input_grad(ct, w, conv)?,
            g.conv2d_filter_grad(x, ct, conv)?,
            g.max_pool(x, pool)?,
            g.sum_pool(x, pool)?,
            g.max_pool_grad(x, ct, pool)?,
            g.sum_pool_grad(ct, pool)?,
        ];
        for (result, value) in results.into_iter().enumerate() {
            g.set_output(&format!("result {result} of convolution {number}"), value);
        }
    }
    let a = g.input("a", &[7, 33, 35].into())?;
    let b = g.input("b", &[7, 35, 31].into())?;
    let products = g.matmul(a, b, MatMul::default())?;
    g.set_output("products", products);
    let wide = g.input("wide", &[13, 1001].into())?;
    let tall = g.input("tall", &[1001, 3].into())?;
    let by_rows = g.matmul(wide, tall, MatMul::default())?;
    g.set_output("by rows", by_rows);
    let long = g.input("long", &[1001, 100].into())?;
    let by_steps = g.matmul(long, tall, MatMul { transpose_a: true, transpose_b: false })?;
    g.set_output("by steps", by_steps);
    let rows = g.softmax(wide)?;
    g.set_output("softmax", rows);
    let rows = g.log_softmax(wide)?;
    g.set_output("log-softmax", rows);
    Ok(g)
}

#[test]
fn items_that_start_anywhere_give_what_they_give_uncut() {
    let Some(context) = context() else { return };
    let graph = of_odd_items().expect("a graph");
    let run = |binding: usize| {
        let limits = Limits { binding, ..LIMITS };
        let mut gpu = Gpu::new(&Device::bare(Arc::clone(&context), limits, Options::default()));
        let plan = gpu.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
        for (lane, (leaf, value)) in graph.leaves().enumerate() {
            let mut noise = Key::new(7, Stream::Probe).at(lane as u64);
            let data: Vec<f32> = (0..graph.shape(value).len()).map(|_| noise.normal()).collect();
            gpu.write(plan, &leaf.name, &data).expect("an input");
        }
        gpu.run(plan).expect("a run");
        let ports = gpu.plan(plan).outputs().to_vec();
        let read = |port: Port| {
            let mut data = vec![f32::NAN; port.shape.len()];
            gpu.read(plan, &port.name, &mut data).expect("an output");
            (port.name, data)
        };
        ports.into_iter().map(read).collect::<Vec<_>>()
    };
    for ((name, cut), (_, whole)) in run(4096).into_iter().zip(run(1 << 20)) {
        let scale = whole.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let error = cut.iter().zip(&whole).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        // Sums that are cut are rounded in another order.
        assert!(error <= 1e-5 * scale, "{name} is off by {error:.1e} of {scale:.1e}");
        assert!(cut.iter().all(|x| x.is_finite()), "{name}");
    }
}

/// A factor whose columns hold a huge number of each sign among small ones in each block of 4096.
fn with_huge_pairs(len: usize) -> Vec<f32> {
    const HUGE: f32 = 67_108_864.0;
    let small = |at: usize| 1.0 + (at * 7919 % 1000) as f32 / 1000.0;
    let element = |at: usize| match at % qualify::LEN % 4096 {
        17 => HUGE,
        1500 => -HUGE,
        _ => small(at),
    };
    (0..len).map(element).collect()
}

#[test]
fn small_terms_of_a_sum_survive_huge_ones_with_and_without_subgroups() {
    let Some(context) = context() else { return };
    // θ = 1 stays where it is, since the learning rate is 0: a column's sum is its projection.
    let data = |leaf: &Leaf, len: usize, _: u64| match leaf.name.as_str() {
        "theta" | "precision" => vec![1.0; len],
        "factor" => with_huge_pairs(len),
        _ => vec![0.0; len],
    };
    let has_subgroups = context.device.features().contains(wgpu::Features::SUBGROUP);
    for subgroups in [false, has_subgroups] {
        let limits = Limits { subgroups, ..LIMITS };
        let results = qualify::updated_from(&context, limits, data).expect("a step");
        let (_, sums) = results.split_first().expect("the weights, then the sums");
        let factor = with_huge_pairs((sums.len() - 1) * qualify::LEN);
        for (column, (name, sum)) in factor.chunks_exact(qualify::LEN).zip(sums) {
            let expected: f64 = column.iter().map(|&x| f64::from(x)).sum();
            let error = (f64::from(sum[0]) - expected).abs() / expected;
            assert!(error < 3e-7, "{name}, subgroups {subgroups}: {error:.1e}");
        }
    }
}

#[test]
fn a_shader_that_the_device_rejects_is_an_error_and_leaves_the_others() {
    let Some(context) = context() else { return };
    let pipelines = Pipelines::new(context, None, None);
    let program = |variant: &str| {
        let params = params::Map { len: 1, skipped: 0, spare1: 0, spare2: 0 };
        let space = Bound::Params(bytemuck::bytes_of(&params::Space::zeroed()).to_vec());
        let builder = Builder::new("map", &params).variant(variant);
        let builder = builder.bind(1, Access::Uniform, space);
        let builder = builder.bind(2, Access::Write, Bound::Result(0));
        builder.elements(1).program
    };
    let good = program("fn value(index: u32) -> f32 {\n    return f32(index);\n}\n");
    let bad = program("fn value(index: u32) -> f32 {\n    return nonsense;\n}\n");
    pipelines.request([&good, &bad].into_iter());
    let error = pipelines.get(&bad).err().expect("it is rejected");
    assert_eq!(error.kind(), Kind::Device);
    assert!(error.to_string().contains("nonsense"), "{error}");
    assert!(pipelines.get(&good).is_ok());
}

/// Counters and keys whose blocks are compared.
fn counters() -> Vec<([u32; 4], [u32; 2])> {
    let mix = |i: u32| i.wrapping_mul(0x9E37_79B9) ^ (i << 7);
    let case = |i: u32| ([mix(i), i, mix(i + 77), !i], [mix(i + 3), i ^ 0xffff_ffff]);
    let mut cases: Vec<_> = (0..500).map(case).collect();
    cases.extend([([0; 4], [0; 2]), ([u32::MAX; 4], [u32::MAX; 2])]);
    cases
}

#[test]
fn random_words_are_those_of_the_processor_bit_for_bit() {
    let Some(context) = context() else { return };
    let cases = counters();
    let text = part("philox").expect("a part")
        + "
struct Case {
    counter: vec4<u32>,
    key: vec4<u32>,
}
@group(0) @binding(0) var<storage, read> cases: array<Case>;
@group(0) @binding(1) var<storage, read_write> words: array<vec4<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&cases) {
        words[id.x] = philox(cases[id.x].counter, cases[id.x].key.xy);
    }
}
";
    let flat: Vec<u32> =
        cases.iter().flat_map(|(c, k)| [&c[..], &k[..], &[0, 0]].concat()).collect();
    let got = run(&context, &text, bytemuck::cast_slice(&flat), 16 * cases.len() as u64);
    let expected: Vec<u32> = cases.iter().flat_map(|&(c, k)| philox4x32(c, k)).collect();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, u32>(&got), expected);
}

/// Runs a shader on `input` and returns the `len` bytes it wrote.
fn run(context: &Context, text: &str, input: &[u8], len: u64) -> Vec<u8> {
    let device = &context.device;
    let buffer = |size: u64| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let (cases, words) = (buffer(input.len() as u64), buffer(len));
    context.queue.write_buffer(&cases, 0, input);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: cases.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: words.as_entire_binding() },
        ],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups((len / 16).div_ceil(64) as u32, 1, 1);
    }
    context.queue.submit([encoder.finish()]);
    context.read("a test", &[(&words, 0, len)]).expect("the words")
}
