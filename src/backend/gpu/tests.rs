//! Tests of what needs no device: shaders, uniforms, bindings, slots.

mod cut;
mod device;

use std::collections::HashSet;
use std::sync::Arc;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, StorageAccess, TypeInner};

use super::context::check_limits;
use super::first::FirstWorkgroup;
use super::launch::{Access, Bound, Builder, Launch, Program, grid};
use super::loaded::Needs;
use super::lower::{Limits, factor_shards, lower};
use super::params::{self, Uniform};
use super::shader::{SHADERS, assemble, part};
use super::slots::Slots;
use crate::graph::{Conv2d, Graph, MatMul, Method, PadAxis, Pool2d, PriorTerm, Slice, Update};
use crate::kernel::Kernel;
use crate::kernel::matmul::Product;
use crate::plan::{Place, Plan};

/// What every device offers.
const LIMITS: Limits = Limits {
    binding: 32 << 20,
    align: 64,
    half_factor: false,
    subgroups: false,
    cooperative: false,
};

const CONV: Conv2d = Conv2d {
    batch: 3,
    in_channels: 6,
    out_channels: 10,
    groups: 2,
    input: [13, 11],
    output: [7, 9],
    kernel: [3, 2],
    stride: [2, 1],
    pad: [1, 0],
    dilation: [1, 2],
};

const POOL: Pool2d = Pool2d {
    batch: 2,
    channels: 3,
    input: [9, 8],
    output: [5, 4],
    kernel: [3, 3],
    stride: [2, 2],
    pad: [1, 1],
    dilation: [1, 1],
};

/// Every kind of update.
fn updates() -> Vec<Kernel> {
    let methods = [
        Method::Sgd { nesterov: true },
        Method::Sgd { nesterov: false },
        Method::AdamW,
        Method::Sgld { lane: 3, preconditioned: false },
        Method::Sgld { lane: 3, preconditioned: true },
        Method::Sghmc { lane: 3, preconditioned: false },
        Method::Sghmc { lane: 3, preconditioned: true },
    ];
    let priors = [
        PriorTerm::None,
        PriorTerm::Isotropic { centred: false },
        PriorTerm::Isotropic { centred: true },
        PriorTerm::Diagonal,
        PriorTerm::LowRank { rank: 1 },
        PriorTerm::LowRank { rank: 20 },
        // The most sums that subgroups add up, and one more.
        PriorTerm::LowRank { rank: 31 },
        PriorTerm::LowRank { rank: 32 },
    ];
    let pairs = methods.into_iter().flat_map(|m| priors.map(|p| (m, p)));
    pairs
        .map(|(method, prior)| Kernel::Update {
            update: Update { method, prior },
            len: 10_007,
            rank: prior.sums().saturating_sub(1),
        })
        .collect()
}

/// Kernels that come as they are from ops, and their gradients.
fn kernels() -> Vec<Kernel> {
    let depthwise = Conv2d { groups: 6, out_channels: 12, ..CONV };
    let wide = Conv2d { in_channels: 256, out_channels: 512, ..CONV };
    let product = |m, n, k, [transpose_a, transpose_b]: [bool; 2]| {
        let how = MatMul { transpose_a, transpose_b };
        Kernel::MatMul(Product { batch: 2, m, n, k, how }, None)
    };
    let large = Product { batch: 1, m: 2048, n: 2048, k: 16, how: MatMul::default() };
    let mut kernels = vec![
        Kernel::MatMul(large, None),
        product(13, 19, 37, [false, false]),
        product(13, 19, 37, [true, true]),
        // In whole vectors across and along the sum.
        product(12, 20, 37, [true, false]),
        product(13, 19, 36, [false, true]),
        Kernel::MaxPool(POOL),
        Kernel::MaxPoolGrad(POOL),
        Kernel::SumPool(POOL),
        Kernel::SumPoolGrad(POOL),
        Kernel::Softmax { rows: 5, columns: 1000 },
        Kernel::LogSoftmax { rows: 5, columns: 7 },
        Kernel::Transpose { shape: [3, 5, 7].into(), perm: vec![2, 0, 1] },
        Kernel::Slice { shape: [3, 5].into(), slice: Slice { axis: 1, start: 1, end: 5, step: 2 } },
        Kernel::Pad { shape: [3].into(), axes: vec![PadAxis { low: 1, high: 2, interior: 3 }] },
        Kernel::Concat { shapes: vec![[3, 5].into(), [3, 1].into()], axis: 1 },
    ];
    let pointwise = Conv2d {
        in_channels: 8,
        input: [4, 6],
        output: [4, 6],
        kernel: [1, 1],
        stride: [1, 1],
        pad: [0, 0],
        ..CONV
    };
    // Windows that are read by vectors.
    let same = Conv2d {
        input: [6, 6],
        output: [6, 6],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
        ..CONV
    };
    for g in [CONV, depthwise, wide, pointwise, same] {
        kernels.push(Kernel::Conv2d(g, None));
        kernels.push(Kernel::Conv2dInputGrad(g, None));
        kernels.push(Kernel::Conv2dFilterGrad(g));
    }
    let indices = crate::graph::Indices { axis: 1, rows: [4, 0, 4, 2].into() };
    kernels.push(Kernel::Gather { shape: [3, 5, 7].into(), indices: indices.clone() });
    kernels.push(Kernel::ScatterAdd { shape: [3, 5, 7].into(), indices });
    kernels.extend(updates());
    kernels
}

/// A graph whose plan holds maps, reductions and epilogues of every kind.
fn chains() -> Graph {
    use crate::graph::{Binary, Reduction, Unary};
    let mut g = Graph::new();
    let build = |g: &mut Graph| -> crate::Result<()> {
        let x = g.input("x", &CONV.input_shape())?;
        let w = g.input("w", &CONV.filter_shape())?;
        let bias = g.input("bias", &[1, 10, 1, 1].into())?;
        let y = g.conv2d(x, w, CONV)?;
        let bias = g.broadcast(bias, &CONV.output_shape())?;
        let mut y = g.add(y, bias)?;
        let all = [
            Unary::Neg,
            Unary::Abs,
            Unary::Sign,
            Unary::Exp,
            Unary::Log,
            Unary::Sqrt,
            Unary::Rsqrt,
            Unary::Recip,
            Unary::Tanh,
            Unary::Erf,
            Unary::Sigmoid,
            Unary::Gelu,
            Unary::GeluSlope,
            Unary::Relu,
            Unary::Clamp(0.0, f32::INFINITY),
            Unary::Powf(2.0),
        ];
        for f in all {
            y = g.unary(f, y)?;
        }
        g.set_output("chain", y);
        let other = g.input("other", &CONV.output_shape())?;
        let mut z = g.conv2d(x, w, CONV)?;
        for f in [Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min, Binary::Less] {
            z = g.binary(f, z, other)?;
        }
        z = g.select(z, other, y)?;
        let sum = g.reduce(Reduction::Sum, z, &[0, 2])?;
        g.set_output("sum", sum);
        let row = g.broadcast(w, &CONV.filter_shape())?;
        let scaled = g.scale(row, 3.0)?;
        g.set_output("scaled", scaled);
        let largest = g.reduce(Reduction::Max, z, &[3])?;
        g.set_output("largest", largest);
        Ok(())
    };
    build(&mut g).expect("a graph");
    g
}

/// All launches of the kernels and the chains.
fn launches(limits: &Limits) -> Vec<Launch> {
    let plan = Plan::compile(&chains()).expect("a plan");
    let fused: Vec<Kernel> = plan.dispatches().iter().map(|d| d.kernel.clone()).collect();
    assert!(fused.iter().any(|kernel| kernel.epilogue().is_some()), "a chain is an epilogue");
    let kernels = kernels().into_iter().chain(fused);
    kernels.flat_map(|kernel| lower(&kernel, limits).expect("launches")).collect()
}

fn programs() -> HashSet<Arc<Program>> {
    // Each variant with and without each other.
    let variants = (0..8).map(|bits| Limits {
        half_factor: bits & 1 > 0,
        subgroups: bits & 2 > 0,
        cooperative: bits & 4 > 0,
        ..LIMITS
    });
    variants.flat_map(|limits| launches(&limits)).map(|launch| launch.program).collect()
}

/// The module of a program, validated with nothing but the core of WGSL.
fn validated(program: &Program) -> (Module, ModuleInfo) {
    let text = assemble(program.shader, &program.variant).expect("a shader");
    validated_text(program.shader, &text)
}

fn validated_text(name: &str, text: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    // Halves in words, which all but the oldest OpenGL devices unpack.
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SUBGROUP
        | Capabilities::COOPERATIVE_MATRIX;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    (module, info)
}

#[test]
fn every_shader_is_used_and_valid() {
    let mut unused: HashSet<&str> = SHADERS.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for program in programs() {
        if std::panic::catch_unwind(|| validated(&program)).is_err() {
            wrong.push(program.shader);
        }
        unused.remove(program.shader);
    }
    assert!(wrong.is_empty(), "invalid: {wrong:?}");
    assert!(unused.is_empty(), "no kernel of this test launches {unused:?}");
    for tile in ["TILE: u32 = 64u", "TILE: u32 = 128u"] {
        assert!(programs().iter().any(|p| p.variant.contains(tile)), "no product with {tile}");
    }
    for walk in ["blocks for _a", "blocks for _b", "image_vectors\n//!include blocks"] {
        assert!(programs().iter().any(|p| p.variant.contains(walk)), "no product with {walk}");
    }
}

#[test]
fn every_shader_translates_to_every_platform() {
    for program in programs() {
        let (module, info) = validated(&program);
        let constants = program.overrides.iter();
        let constants =
            constants.map(|&(name, value)| (name.to_string(), f64::from(value))).collect();
        let entry = Some((naga::ShaderStage::Compute, program.entry));
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
                .unwrap_or_else(|e| panic!("{}: {e}", program.shader));
        let options = naga::back::spv::Options::default();
        naga::back::spv::write_vec(&module, &info, &options, None)
            .unwrap_or_else(|e| panic!("{} to SPIR-V: {e}", program.shader));
        let options = naga::back::msl::Options {
            // Small matrices need 2.3.
            lang_version: (2, 4),
            fake_missing_bindings: true,
            ..naga::back::msl::Options::default()
        };
        naga::back::msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|e| panic!("{} to Metal: {e}", program.shader));
        // DirectX has no small matrices, and wgpu offers none there.
        if program.variant.contains("tiles_cooperative") {
            continue;
        }
        let options = naga::back::hlsl::Options::default();
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        let mut text = String::new();
        let mut writer = naga::back::hlsl::Writer::new(&mut text, &options, &pipeline);
        writer
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{} to HLSL: {e}", program.shader));
    }
}

#[test]
fn bindings_are_those_of_the_shaders() {
    for program in programs() {
        let (module, info) = validated(&program);
        let entry = module.entry_points.iter().position(|e| e.name == program.entry);
        let uses = info.get_entry_point(entry.expect("the entry point"));
        let mut reflected: Vec<(u32, Access)> = Vec::new();
        for (handle, variable) in module.global_variables.iter() {
            let Some(binding) = variable.binding else { continue };
            if uses[handle].is_empty() {
                continue;
            }
            if binding.group == FirstWorkgroup::GROUP {
                assert_eq!((binding.binding, variable.space), (0, AddressSpace::Uniform));
                continue;
            }
            let access = match variable.space {
                AddressSpace::Uniform => Access::Uniform,
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => {
                    Access::Write
                }
                _ => Access::Read,
            };
            reflected.push((binding.binding, access));
        }
        for used in &reflected {
            let bound = program.layout.contains(used);
            assert!(bound, "{} {}: {used:?} is not bound", program.shader, program.variant);
        }
        let storage = program.layout.iter().filter(|(_, access)| *access != Access::Uniform);
        assert!(storage.count() <= 8, "{}: storage buffers", program.shader);
        let uniform = program.layout.iter().filter(|(_, access)| *access == Access::Uniform);
        assert!(uniform.count() <= 4, "{}: uniforms", program.shader);
        let unique: HashSet<u32> = program.layout.iter().map(|&(at, _)| at).collect();
        assert_eq!(unique.len(), program.layout.len(), "{}: each binding once", program.shader);
    }
}

#[test]
fn workgroup_memory_fits_any_device() {
    for program in programs() {
        let (module, _) = validated(&program);
        let shared = module.global_variables.iter().map(|(_, variable)| variable);
        let shared = shared.filter(|variable| variable.space == AddressSpace::WorkGroup);
        let bytes: u32 =
            shared.map(|variable| module.types[variable.ty].inner.size(module.to_ctx())).sum();
        let most = wgpu::Limits::default().max_compute_workgroup_storage_size;
        assert!(bytes <= most, "{} {}: {bytes} bytes", program.shader, program.variant);
    }
}

/// Compares the struct called `name` of a shader with a uniform.
fn check_layout<T: Uniform>(shader: &str, name: &str) {
    let programs = programs();
    let program = programs.iter().find(|program| program.shader == shader).expect("a program");
    let (module, _) = validated(program);
    let (_, ty) = module
        .types
        .iter()
        .find(|(_, ty)| ty.name.as_deref() == Some(name))
        .unwrap_or_else(|| panic!("{shader} has no struct {name}"));
    let TypeInner::Struct { members, span } = &ty.inner else { panic!("{name} is a struct") };
    let reflected: Vec<(&str, usize)> =
        members.iter().map(|m| (m.name.as_deref().unwrap_or(""), m.offset as usize)).collect();
    assert_eq!(reflected, T::FIELDS, "{shader}: fields of {name}");
    assert_eq!(*span as usize, size_of::<T>(), "{shader}: size of {name}");
}

#[test]
fn uniforms_are_laid_out_as_in_the_shaders() {
    check_layout::<params::Space>("map", "Space");
    check_layout::<params::Map>("map", "Params");
    check_layout::<params::Part>("transpose", "Part");
    check_layout::<params::Strided>("transpose", "Params");
    check_layout::<params::Strided>("slice", "Params");
    check_layout::<params::Pad>("pad", "Params");
    check_layout::<params::Concat>("concat", "Params");
    check_layout::<params::Rows>("gather", "Params");
    check_layout::<params::Rows>("scatter_add", "Params");
    for shader in ["max_pool", "max_pool_grad", "sum_pool", "sum_pool_grad"] {
        check_layout::<params::Window>(shader, "Params");
    }
    check_layout::<params::Reduce>("reduce", "Params");
    check_layout::<params::Softmax>("softmax", "Params");
    check_layout::<params::Softmax>("log_softmax", "Params");
    check_layout::<params::MatMul>("matmul", "Params");
    check_layout::<params::Tiling>("matmul", "Tiling");
    check_layout::<params::Convolution>("conv2d", "Params");
    check_layout::<params::Convolution>("conv2d_input_grad", "Params");
    check_layout::<params::Geometry>("conv2d", "Geometry");
    check_layout::<params::FilterGrad>("conv2d_filter_grad", "Params");
    check_layout::<params::Depthwise>("depthwise", "Params");
    check_layout::<params::Depthwise>("depthwise_filter_grad", "Params");
    check_layout::<params::Update>("update", "Params");
}

#[test]
fn a_device_that_lacks_a_limit_is_refused_by_name() {
    check_limits(&wgpu::Limits::default(), "any").expect("the defaults are enough");
    let error =
        check_limits(&wgpu::Limits::downlevel_webgl2_defaults(), "old").expect_err("little");
    assert_eq!(error.kind(), crate::error::Kind::Device);
    let text = error.to_string();
    assert!(
        text.contains("'old' offers 0 storage buffers") && text.contains("at least 8"),
        "{text}"
    );
}

#[test]
fn grids_cover_all_workgroups() {
    for workgroups in [0, 1, 7, 65_535, 65_536, 65_537, 1_000_003, 65_535 * 3] {
        let [x, y, z] = grid(workgroups, 65_535);
        assert!(x <= 65_535 && y <= 65_535 && z == 1, "{workgroups}");
        let total = x as usize * y as usize;
        assert!(total >= workgroups, "{workgroups} are covered");
        assert!(total < workgroups + 65_536, "{workgroups}: {total} are too many");
    }
}

#[test]
fn parts_cover_a_large_operand_once() {
    // A binding holds 4096 elements of 10 000; windows start aligned and follow each other.
    let limits = Limits { binding: 4096, ..LIMITS };
    let kernel = Kernel::Softmax { rows: 100, columns: 100 };
    let launches = lower(&kernel, &limits).expect("launches");
    assert!(launches.len() > 2, "several parts");
    let mut next = 0;
    for launch in &launches {
        let window = launch.bindings.iter().find(|b| b.bound == Bound::Operand(0));
        let (start, len) = window.and_then(|b| b.window).expect("a window");
        assert_eq!(start, next);
        assert!(start % limits.align == 0 && len <= limits.binding);
        next = start + len;
    }
    assert_eq!(next, 10_000);
    let wide = Kernel::Softmax { rows: 3, columns: 5000 };
    let error = lower(&wide, &limits).expect_err("a row is too long").to_string();
    assert!(error.contains("16384 bytes") && error.contains("20000 bytes"), "{error}");
}

#[test]
fn the_factor_of_a_large_parameter_fits_bindings_in_shards() {
    // The largest filter of ResNet-50 under a prior of rank 20, in the bindings of any device.
    for half_factor in [false, true] {
        let limits = Limits { half_factor, ..LIMITS };
        let (len, rank) = (512 * 512 * 9, 20);
        let shards = factor_shards(len, rank, &limits);
        let bytes = if half_factor { 2 } else { 4 };
        assert!(shards.iter().all(|s| s.len() * rank * bytes <= 128 << 20));
        assert_eq!(shards.iter().map(|s| s.len()).sum::<usize>(), len);
        assert_eq!(shards.len(), if half_factor { 1 } else { 2 });
    }
}

#[test]
fn values_that_are_alive_together_have_slots_of_their_own() {
    let plan = Plan::compile(&chains()).expect("a plan");
    let slots = Slots::assign(&plan);
    let lives = plan.lives();
    for (a, life) in lives.iter().enumerate() {
        for (b, other) in lives.iter().enumerate().skip(a + 1) {
            if let (Some(life), Some(other)) = (life, other)
                && life.overlaps(other)
            {
                assert_ne!(slots.of_buffer[a], slots.of_buffer[b], "buffers {a} and {b}");
            }
        }
    }
    for (buffer, slot) in plan.buffers().iter().zip(&slots.of_buffer) {
        if let (Place::Arena(_), Some(slot)) = (&buffer.place, slot) {
            assert!(slots.lens[*slot] >= buffer.len, "a slot holds its values");
        }
    }
    assert!(slots.lens.is_sorted_by(|a, b| a >= b), "slots are sorted by size");
    Needs::of(&plan, &LIMITS).expect("it fits any device");
}

#[test]
fn parts_of_shaders_stand_alone() {
    let text = part("philox").expect("a part");
    validated_text("philox", &text);
    assert!(assemble("nonsense", "").is_err());
    // A launch keeps what it was built with.
    let params = params::Map { len: 1, skipped: 0, spare1: 0, spare2: 0 };
    let launch = Builder::new("map", &params).read(3, 0).elements(513);
    assert_eq!(launch.workgroups, 3);
}
