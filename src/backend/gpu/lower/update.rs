//! Updates: one pass over a parameter, in shards where its factor columns exceed a binding.

use std::fmt::Write;
use std::ops::Range;

use super::{Limits, reduce};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch, WORKGROUP};
use crate::backend::gpu::params;
use crate::error::{Error, Result};
use crate::graph::{Method, PriorTerm, Update};
use crate::rng::Stream;

/// Elements that a workgroup works on: four vectors a thread.
const BLOCK: usize = 16 * WORKGROUP;
/// Most factor columns: what the smallest uniform binding holds with room to spare.
const RANK_MAX: usize = 256;
/// Most sums that are added up by subgroups.
const SUBGROUP_SUMS_MAX: usize = 32;

/// The shards of a parameter of `len` elements whose `rank` columns are bound together.
pub(in crate::backend::gpu) fn factor_shards(
    len: usize,
    rank: usize,
    limits: &Limits,
) -> Vec<Range<usize>> {
    let packed = if limits.half_factor { 2 } else { 1 };
    let most = (limits.binding / rank.max(1) * packed).min(limits.binding);
    let step = (most / BLOCK * BLOCK).max(BLOCK);
    (0..len).step_by(step).map(|start| start..len.min(start + step)).collect()
}

/// The operands' and results' places in a dispatch.
struct Places {
    moments: usize,
    prior: usize,
}

/// Optimiser and prior, then the sums of the blocks.
pub(super) fn update(
    update: &Update,
    len: usize,
    rank: usize,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    if rank > RANK_MAX {
        let message = format!("a prior of rank {rank}; expected at most {RANK_MAX} on a GPU");
        return Err(Error::unsupported(message).hint("run it on the processor: --device cpu"));
    }
    let moments = update.method.moments().len();
    let places = Places { moments, prior: 4 + moments };
    let sums = update.prior.sums();
    let blocks = len.div_ceil(BLOCK);
    let result = 1 + moments;
    let variant = variant(update, limits);
    let shards = factor_shards(len, rank, limits);
    let direct = blocks == 1;
    let mut launches: Vec<Launch> = shards
        .iter()
        .enumerate()
        .map(|(number, shard)| {
            let builder = bind(update, &places, number, shard, len, &variant);
            let out = if direct { Bound::Result(result) } else { Bound::Scratch };
            let builder = match sums {
                0 => builder,
                _ => builder.bind(11, Access::Write, out),
            };
            let scratch_len = if direct { 0 } else { blocks * sums };
            builder.launch(shard.len().div_ceil(BLOCK), scratch_len)
        })
        .collect();
    if sums > 0 && !direct {
        launches.push(reduce::combine_into(blocks, sums, false, result));
    }
    Ok(launches)
}

/// A launch for one shard, without its sums.
fn bind(
    update: &Update,
    places: &Places,
    number: usize,
    shard: &Range<usize>,
    len: usize,
    variant: &str,
) -> Builder {
    let params = params::Update {
        len: shard.len() as u32,
        first: shard.start as u32,
        first_block: (shard.start / BLOCK) as u32,
        pitch: shard.len().div_ceil(4) as u32,
        lane: match update.method {
            Method::Sgld { lane, .. } | Method::Sghmc { lane, .. } => lane,
            _ => 0,
        },
        spare: 0,
        spare1: 0,
        spare2: 0,
    };
    let window = (shard.len() < len).then_some((shard.start, shard.len()));
    let read = |builder: Builder, at: u32, operand: usize| {
        builder.bind_window(at, Access::Read, Bound::Operand(operand), window)
    };
    let mut builder = Builder::new("update", &params)
        .variant(variant)
        .bind(1, Access::Uniform, Bound::Operand(2))
        .bind(2, Access::Uniform, Bound::Operand(3))
        .bind_window(4, Access::Write, Bound::Result(0), window);
    builder = read(builder, 5, 1);
    for moment in 0..places.moments {
        let at = 6 + moment as u32;
        builder = builder.bind_window(at, Access::Write, Bound::Result(1 + moment), window);
    }
    match update.prior {
        PriorTerm::None | PriorTerm::Isotropic { centred: false } => builder,
        PriorTerm::Isotropic { centred: true } => read(builder, 8, places.prior),
        PriorTerm::Diagonal => read(read(builder, 8, places.prior), 9, places.prior + 1),
        PriorTerm::LowRank { .. } => {
            let builder = read(read(builder, 8, places.prior), 9, places.prior + 1);
            builder.bind(10, Access::Read, Bound::Shard(places.prior + 2, number)).bind(
                3,
                Access::Uniform,
                Bound::Operand(places.prior + 3),
            )
        }
    }
}

/// The numbers and accessors of a kind of update.
fn variant(update: &Update, limits: &Limits) -> String {
    let method = match update.method {
        Method::Sgd { nesterov: false } => "SGD",
        Method::Sgd { nesterov: true } => "NESTEROV",
        Method::AdamW => "ADAMW",
        Method::Sgld { .. } => "SGLD",
        Method::Sghmc { .. } => "SGHMC",
    };
    let preconditioned = matches!(
        update.method,
        Method::Sgld { preconditioned: true, .. } | Method::Sghmc { preconditioned: true, .. }
    );
    let rank = match update.prior {
        PriorTerm::LowRank { rank } => rank,
        _ => 0,
    };
    let sums = update.prior.sums();
    let weighted = if update.prior == PriorTerm::None { "0.0" } else { "1.0" };
    let moments = update.method.moments().len();
    let mut text = format!(
        "const METHOD: u32 = {method};\nconst PRECONDITIONED: bool = {preconditioned};\n\
         const RANK: u32 = {rank}u;\nconst COLUMNS: u32 = {}u;\n\
         const SUMS: u32 = {}u;\nconst HAS_SUMS: bool = {};\nconst WEIGHTED: f32 = {weighted};\n\
         const NOISE_STREAM: u32 = {}u;\n",
        rank.max(1),
        sums.max(1),
        sums > 0,
        Stream::Noise as u32,
    );
    moment(&mut text, "m", 6, moments > 0);
    moment(&mut text, "v", 7, moments > 1);
    let (has_mean, has_precision) = match update.prior {
        PriorTerm::None | PriorTerm::Isotropic { centred: false } => (false, false),
        PriorTerm::Isotropic { centred: true } => (true, false),
        PriorTerm::Diagonal | PriorTerm::LowRank { .. } => (true, true),
    };
    stored(&mut text, "mean", 8, has_mean, "vec4(0.0)");
    stored(&mut text, "precision", 9, has_precision, "vec4(1.0)");
    factor(&mut text, rank > 0, limits.half_factor);
    match sums {
        0 => text.push_str("fn store_sum(block: u32, k: u32, sum: f32) {}\n"),
        _ => text.push_str(
            "@group(0) @binding(11) var<storage, read_write> partial: array<f32>;\n\
             fn store_sum(block: u32, k: u32, sum: f32) {\n    \
             partial[(params.first_block + block) * SUMS + k] = sum;\n}\n",
        ),
    }
    // A few subgroups of each sum must fit the memory of a workgroup.
    let by_subgroups = limits.subgroups && (1..=SUBGROUP_SUMS_MAX).contains(&sums);
    text.push_str(match by_subgroups {
        true => "//!include add_up_subgroups\n",
        false => "//!include add_up\n",
    });
    text
}

fn moment(text: &mut String, name: &str, at: u32, exists: bool) {
    let written = match exists {
        true => write!(
            text,
            "@group(0) @binding({at}) var<storage, read_write> {name}: array<vec4<f32>>;\n\
             fn load_{name}(i: u32) -> vec4<f32> {{\n    return {name}[i];\n}}\n\
             fn store_{name}(i: u32, value: vec4<f32>) {{\n    {name}[i] = value;\n}}\n"
        ),
        false => write!(
            text,
            "fn load_{name}(i: u32) -> vec4<f32> {{\n    return vec4(0.0);\n}}\n\
             fn store_{name}(i: u32, value: vec4<f32>) {{}}\n"
        ),
    };
    debug_assert!(written.is_ok(), "writing to a string cannot fail");
}

fn stored(text: &mut String, name: &str, at: u32, exists: bool, default: &str) {
    if exists {
        text.push_str(&format!(
            "@group(0) @binding({at}) var<storage, read> prior_{name}: array<vec4<f32>>;\n"
        ));
    }
    let value = if exists { format!("prior_{name}[i]") } else { default.to_string() };
    text.push_str(&format!("fn load_{name}(i: u32) -> vec4<f32> {{\n    return {value};\n}}\n"));
}

fn factor(text: &mut String, exists: bool, half: bool) {
    if !exists {
        text.push_str(
            "fn load_column(k: u32, i: u32) -> vec4<f32> {\n    return vec4(0.0);\n}\n\
             fn coefficient(k: u32) -> f32 {\n    return 0.0;\n}\n",
        );
        return;
    }
    text.push_str(&format!(
        "@group(0) @binding(3) var<uniform> coefficients: array<vec4<f32>, {}>;\n\
         fn coefficient(k: u32) -> f32 {{\n    return coefficients[k / 4u][k % 4u];\n}}\n",
        RANK_MAX / 4
    ));
    text.push_str(match half {
        true => {
            "@group(0) @binding(10) var<storage, read> factor: array<vec2<u32>>;\n\
             fn load_column(k: u32, i: u32) -> vec4<f32> {\n    \
             let packed = factor[k * params.pitch + i];\n    \
             return vec4(unpack2x16float(packed.x), unpack2x16float(packed.y));\n}\n"
        }
        false => {
            "@group(0) @binding(10) var<storage, read> factor: array<vec4<f32>>;\n\
             fn load_column(k: u32, i: u32) -> vec4<f32> {\n    \
             return factor[k * params.pitch + i];\n}\n"
        }
    });
}
