//! Variants of kernels that only some devices have: each is compared with the plain kernel before
//! it is used, and dropped with a logged reason if it is wrong.

use std::sync::Arc;

use super::context::Context;
use super::lower::Limits;
use super::{Device, Gpu, Options};
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
pub(super) const LEN: usize = 10_007;
const RANK: usize = 5;
/// Scale of the last column: below the normal numbers of half precision.
const TINY: f32 = 1e-5;
/// Rows, depth and columns of the products that are compared: one element, whole small matrices,
/// and partial tiles on all sides.
const EXTENTS: [[usize; 3]; 5] = [[1, 1, 1], [8, 8, 8], [65, 17, 3], [100, 70, 90], [67, 100, 70]];

/// The variant whose trial a device may not survive.
pub(super) const MATRICES: &str = "cooperative matrices";

/// Results by name.
type Results = Vec<(String, Vec<f32>)>;

/// A variant that is wanted.
struct Candidate {
    name: &'static str,
    /// Why it is not even tried, if so.
    lacks: Option<&'static str>,
    /// Uses it.
    with: fn(Limits) -> Limits,
    /// What is compared.
    run: Run,
}

/// Computes something under limits.
type Run = fn(&Arc<Context>, Limits) -> Result<Results>;

/// The variants that `options` want of a device that has subgroups or small matrices.
fn candidates(has_subgroups: bool, has_matrices: bool, options: &Options) -> Vec<Candidate> {
    let lacks = |has: bool| (!has).then_some("the device was made without them");
    let subgroups = Candidate {
        name: "subgroups",
        lacks: lacks(has_subgroups),
        with: |limits| Limits { subgroups: true, ..limits },
        run: updated,
    };
    // Last of those that change the update, so that it is compared as it will run.
    let halves = Candidate {
        name: "factors in half precision",
        lacks: None,
        with: |limits| Limits { half_factor: true, ..limits },
        run: updated,
    };
    let matrices = Candidate {
        name: MATRICES,
        lacks: lacks(has_subgroups && has_matrices),
        with: |limits| Limits { cooperative: true, ..limits },
        run: multiplied,
    };
    let wanted = [
        Some(subgroups),
        options.half_factor.then_some(halves),
        options.cooperative_matrices.then_some(matrices),
    ];
    wanted.into_iter().flatten().collect()
}

/// The limits with the variants that qualify, and what became of each.
pub(super) fn variants(
    context: &Arc<Context>,
    plain: Limits,
    options: &Options,
) -> (Limits, Vec<Variant>) {
    let has_subgroups = context.device.features().contains(wgpu::Features::SUBGROUP);
    let candidates = candidates(has_subgroups, context.small_matrices, options);
    judge(candidates, plain, |name, limits, run| {
        compare(context, plain, limits, run)
            .inspect_err(|e| log::warn!("'{}' runs without {name}: {e}", context.info.name))
    })
}

/// Takes in what passes `compare`, one after the other.
fn judge(
    candidates: Vec<Candidate>,
    plain: Limits,
    compare: impl Fn(&str, Limits, Run) -> Result<()>,
) -> (Limits, Vec<Variant>) {
    let (mut limits, mut variants) = (plain, Vec::new());
    for Candidate { name, lacks, with, run } in candidates {
        let verdict = match lacks {
            None => compare(name, with(limits), run),
            Some(lacks) => {
                log::info!("no {name}: {lacks}");
                Err(Error::new(Kind::Device, lacks))
            }
        };
        let reason = verdict.err().map(|error| error.to_string());
        if reason.is_none() {
            limits = with(limits);
        }
        variants.push(Variant { name, used: reason.is_none(), reason });
    }
    (limits, variants)
}

/// Compares what `run` computes under both limits.
pub(super) fn compare(
    context: &Arc<Context>,
    plain: Limits,
    variant: Limits,
    run: Run,
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

/// Matrix products of awkward sizes, with operands of either orientation.
pub(super) fn multiplied(context: &Arc<Context>, limits: Limits) -> Result<Results> {
    let mut g = Graph::new();
    let mut names = Vec::new();
    for [m, k, n] in EXTENTS {
        for how in [
            MatMul::default(),
            MatMul { transpose_a: true, ..MatMul::default() },
            MatMul { transpose_b: true, ..MatMul::default() },
        ] {
            let name = format!("the product of {m} x {k} x {n}, {how:?}");
            let a = if how.transpose_a { [k, m] } else { [m, k] };
            let b = if how.transpose_b { [n, k] } else { [k, n] };
            let a = g.input(&format!("a of {name}"), &a.into())?;
            let b = g.input(&format!("b of {name}"), &b.into())?;
            let product = g.matmul(a, b, how)?;
            g.set_output(&name, product);
            names.push((name, m * n));
        }
    }
    let mut gpu = Gpu::new(&Device::bare(Arc::clone(context), limits, Options::default()));
    let plan = gpu.load(Plan::compile(&g)?)?;
    for (lane, (leaf, value)) in g.leaves().enumerate() {
        gpu.write(plan, &leaf.name, &data(leaf, g.shape(value).len(), lane as u64))?;
    }
    gpu.run(plan)?;
    let read = |(name, len): (String, usize)| {
        let mut product = vec![0.0; len];
        gpu.read(plan, &name, &mut product)?;
        Ok((name, product))
    };
    names.into_iter().map(read).collect()
}

/// θ' and the sums of one step.
pub(super) fn updated(context: &Arc<Context>, limits: Limits) -> Result<Results> {
    updated_from(context, limits, data)
}

/// [`updated`] with data of one's own: those of a leaf, given its length and number.
pub(super) fn updated_from(
    context: &Arc<Context>,
    limits: Limits,
    data: impl Fn(&Leaf, usize, u64) -> Vec<f32>,
) -> Result<Results> {
    let mut gpu = Gpu::new(&Device::bare(Arc::clone(context), limits, Options::default()));
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
    let weights = gpu.get(&leaf(LeafKind::Param, "theta"))?;
    let sums = gpu.get(&leaf(LeafKind::State, "sums"))?;
    // Each sum is compared on its own: they differ in size by orders of magnitude.
    let sums = sums.into_iter().enumerate().map(|(k, sum)| (format!("sum {k}"), vec![sum]));
    Ok(std::iter::once(("the weights".to_string(), weights)).chain(sums).collect())
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

/// Numbers of plausible size for a leaf. Those of the factor are what half precision holds, so that
/// columns stored in it give the same results.
fn data(leaf: &Leaf, len: usize, lane: u64) -> Vec<f32> {
    let mut sequence = Key::new(0, Stream::Probe).at(lane);
    let normals = (0..len).map(|_| sequence.normal());
    match leaf.name.as_str() {
        "hyper" => (0..len).map(|at| if at < 2 { 0.5 } else { 0.1 }).collect(),
        "scale" => vec![1.0; len],
        "precision" => normals.map(|x| 1.0 + x.abs()).collect(),
        "factor" => normals.enumerate().map(|(at, x)| half(scale(at / LEN) * x)).collect(),
        _ => normals.collect(),
    }
}

/// The scale of a factor column.
fn scale(column: usize) -> f32 {
    if column + 1 == RANK { TINY } else { 1.0 }
}

fn half(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::loaded::Needs;

    const PLAIN: Limits = Limits {
        binding: 1 << 20,
        align: 64,
        half_factor: false,
        subgroups: false,
        cooperative: false,
    };

    /// What becomes of all variants on a device with all features where `wrong` ones compute
    /// something else.
    fn judged(wrong: fn(&Limits) -> bool) -> (Limits, Vec<Variant>) {
        let options = Options { half_factor: true, ..Options::default() };
        let all = candidates(true, true, &options);
        judge(all, PLAIN, |_, limits, _| match wrong(&limits) {
            true => Err(Error::new(Kind::Device, "element 3 is 4, expected 5")),
            false => Ok(()),
        })
    }

    #[test]
    fn a_variant_that_is_wrong_is_dropped_and_leaves_the_others() {
        let (limits, variants) = judged(|_| false);
        let all = Limits { half_factor: true, subgroups: true, cooperative: true, ..PLAIN };
        assert_eq!(limits, all);
        assert!(variants.iter().all(|v| v.used && v.reason.is_none()));
        let (limits, variants) = judged(|limits| limits.half_factor && !limits.cooperative);
        assert_eq!(limits, Limits { half_factor: false, ..all });
        let dropped: Vec<_> = variants.iter().filter(|v| !v.used).collect();
        assert!(dropped.len() == 1 && dropped[0].name.contains("half"), "{dropped:?}");
        assert!(dropped[0].reason.as_ref().is_some_and(|reason| reason.contains("element 3")));
        let (limits, variants) = judged(|_| true);
        assert_eq!(limits, PLAIN);
        assert!(variants.iter().all(|v| !v.used && v.reason.is_some()));
    }

    #[test]
    fn factors_that_stay_in_single_precision_are_counted_as_such() {
        let plan = Plan::compile(&graph().expect("a graph")).expect("a plan");
        let bytes = |limits: &Limits| {
            let needs = Needs::of(&plan, limits).expect("it fits");
            needs.residents(&plan).map(|(_, bytes)| bytes).sum::<usize>()
        };
        let (dropped, _) = judged(|limits| limits.half_factor);
        let (used, _) = judged(|_| false);
        assert_eq!(bytes(&dropped), bytes(&PLAIN));
        let saved = bytes(&PLAIN) - bytes(&used);
        assert!(saved.abs_diff(2 * RANK * LEN) < 1000, "{saved} bytes, but for padding");
    }

    #[test]
    fn what_a_device_lacks_or_nobody_wants_is_not_tried() {
        let never = |_: &str, _: Limits, _: Run| -> Result<()> { panic!("it is not tried") };
        let options = Options { cooperative_matrices: false, ..Options::default() };
        let (limits, variants) = judge(candidates(false, false, &options), PLAIN, never);
        assert_eq!(limits, PLAIN);
        let names: Vec<_> = variants.iter().map(|v| v.name).collect();
        assert_eq!(names, ["subgroups"]);
        assert!(variants[0].reason.as_ref().is_some_and(|reason| reason.contains("without")));
    }
}
