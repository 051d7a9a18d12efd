//! Variants of kernels that only some devices have: each is compared with the plain kernel before
//! it is used, and dropped with a logged reason if it is wrong.

use std::sync::Arc;

use super::context::Context;
use super::lower::Limits;
use super::{Device, Gpu};
use crate::backend::Backend;
use crate::error::{Error, Kind, Result};
use crate::graph::{Graph, Hyper, Leaf, LeafKind, MatMul, Method, PriorTerm, Update, ValueId};
use crate::plan::Plan;
use crate::rng::{Key, Stream};
use crate::tensor::Shape;

/// A variant of a kernel and what became of it on a device.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What it uses.
    pub name: &'static str,
    /// Whether it is used.
    pub used: bool,
    /// Why it is not.
    pub reason: Option<String>,
}

/// Relative error of a sum whose terms are added in another order.
const TOLERANCE: f32 = 1e-5;
/// Elements of the parameter that is compared: three blocks, the last of them partial.
const LEN: usize = 10_007;
const RANK: usize = 5;

/// Results by name.
type Results = Vec<(&'static str, Vec<f32>)>;

/// The limits with the variants that qualify, and what became of each.
pub(super) fn variants(context: &Arc<Context>, plain: Limits) -> (Limits, Vec<Variant>) {
    let features = context.device.features();
    let has_subgroups = features.contains(wgpu::Features::SUBGROUP);
    let by_subgroups = Limits { subgroups: true, ..plain };
    let subgroups =
        judge("subgroups", has_subgroups, || compare(context, plain, by_subgroups, updated));
    let has_matrices =
        has_subgroups && features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    let by_matrices = Limits { cooperative: true, ..plain };
    let cooperative = judge("cooperative matrices", has_matrices, || {
        compare(context, plain, by_matrices, multiplied)
    });
    let limits = Limits { subgroups: subgroups.used, cooperative: cooperative.used, ..plain };
    let variants = vec![subgroups, cooperative];
    for Variant { name, reason, .. } in &variants {
        if let Some(reason) = reason {
            log::info!("'{}' runs without {name}: {reason}", context.info.name);
        }
    }
    (limits, variants)
}

fn judge(name: &'static str, offered: bool, compare: impl FnOnce() -> Result<()>) -> Variant {
    let verdict = match offered {
        true => compare(),
        false => Err(Error::new(Kind::Device, "the device was made without them")),
    };
    let reason = verdict.err().map(|error| error.to_string());
    Variant { name, used: reason.is_none(), reason }
}

/// Compares what `run` computes under both limits.
pub(super) fn compare(
    context: &Arc<Context>,
    plain: Limits,
    variant: Limits,
    run: fn(&Arc<Context>, Limits) -> Result<Results>,
) -> Result<()> {
    let expected = run(context, plain)?;
    let got = run(context, variant)?;
    for ((name, got), (_, expected)) in got.iter().zip(&expected) {
        let scale = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let close = (got - expected).abs() <= TOLERANCE * scale;
            if !close {
                let message = format!("element {i} of {name} is {got}, expected {expected}");
                return Err(Error::new(Kind::Device, message));
            }
        }
    }
    Ok(())
}

/// A matrix product with partial tiles on all sides.
fn multiplied(context: &Arc<Context>, limits: Limits) -> Result<Results> {
    const EXTENTS: [usize; 3] = [100, 70, 90];
    let [m, k, n] = EXTENTS;
    let mut g = Graph::new();
    let (a, b) = (g.input("a", &[m, k].into())?, g.input("b", &[k, n].into())?);
    let product = g.matmul(a, b, MatMul::default())?;
    g.set_output("product", product);
    let mut gpu = Gpu::new(&Device::bare(Arc::clone(context), limits, Default::default()));
    let plan = gpu.load(Plan::compile(&g)?)?;
    for (lane, (leaf, value)) in g.leaves().enumerate() {
        gpu.write(plan, &leaf.name, &data(leaf, g.shape(value).len(), lane as u64))?;
    }
    gpu.run(plan)?;
    let mut product = vec![0.0; m * n];
    gpu.read(plan, "product", &mut product)?;
    Ok(vec![("a product", product)])
}

/// θ' and the sums of one step.
pub(super) fn updated(context: &Arc<Context>, limits: Limits) -> Result<Results> {
    let mut gpu = Gpu::new(&Device::bare(Arc::clone(context), limits, Default::default()));
    let graph = graph()?;
    let plan = gpu.load(Plan::compile(&graph)?)?;
    for (lane, (leaf, value)) in graph.leaves().enumerate() {
        let data = data(leaf, graph.shape(value).len(), lane as u64);
        match leaf.kind {
            LeafKind::Input => gpu.write(plan, &leaf.name, &data)?,
            _ => gpu.set(leaf, &data)?,
        }
    }
    gpu.run(plan)?;
    let leaf = |kind, name: &str| Leaf { kind, name: name.to_string() };
    Ok(vec![
        ("the weights", gpu.get(&leaf(LeafKind::Param, "theta"))?),
        ("the sums", gpu.get(&leaf(LeafKind::State, "sums"))?),
    ])
}

/// A step of one parameter under a low-rank prior.
fn graph() -> Result<Graph> {
    let mut g = Graph::new();
    let shape: Shape = [LEN].into();
    let theta = g.param("theta", &shape)?;
    let moment = g.state("m", &shape)?;
    let operands: Vec<ValueId> = vec![
        theta,
        g.input("grad", &shape)?,
        g.input("hyper", &[Hyper::COUNT].into())?,
        g.input("scale", &[1].into())?,
        moment,
        g.state("mean", &shape)?,
        g.state("precision", &shape)?,
        g.state("factor", &[RANK, LEN].into())?,
        g.input("solution", &[RANK].into())?,
    ];
    let sums = g.state("sums", &[RANK + 1].into())?;
    let method = Method::Sgd { nesterov: true };
    let prior = PriorTerm::LowRank { rank: RANK };
    let results = g.update(Update { method, prior }, &operands)?;
    for (leaf, next) in [theta, moment, sums].into_iter().zip(results) {
        g.set_next(leaf, next);
    }
    Ok(g)
}

/// Numbers of plausible size for a leaf.
fn data(leaf: &Leaf, len: usize, lane: u64) -> Vec<f32> {
    let mut sequence = Key::new(0, Stream::Probe).at(lane);
    match leaf.name.as_str() {
        "hyper" => (0..len).map(|at| if at < 2 { 0.5 } else { 0.1 }).collect(),
        "scale" => vec![1.0; len],
        "precision" => (0..len).map(|_| 1.0 + sequence.uniform()).collect(),
        _ => (0..len).map(|_| sequence.normal()).collect(),
    }
}
