//! Tests that need a device, in software if there is no other.

use std::sync::Arc;

use bytemuck::Zeroable;

use crate::backend::gpu::context::Context;
use crate::backend::gpu::launch::{Access, Bound, Builder};
use crate::backend::gpu::lower::Limits;
use crate::backend::gpu::pipelines::Pipelines;
use crate::backend::gpu::shader::part;
use crate::backend::gpu::{adapters, params, qualify, wgpu};
use crate::error::Kind;
use crate::rng::philox4x32;

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
    qualify::compare(&context, LIMITS, LIMITS, qualify::updated)
        .expect("a kernel agrees with itself");
    // Columns in half precision are off by far more than an order of summation.
    let wrong = Limits { half_factor: true, ..LIMITS };
    let error =
        qualify::compare(&context, LIMITS, wrong, qualify::updated).expect_err("other numbers");
    assert!(error.to_string().contains("expected"), "{error}");
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
