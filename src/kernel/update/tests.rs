use super::*;
use crate::graph::Op;
use crate::graph::eval::{Array, eval_op};
use crate::kernel::oracle::{ROUNDING, assert_close, elements, noise};

/// Sums of up to 20 000 terms of either sign, in blocks: relative to their size near 1 and above.
const SUMS: f64 = 2e-5;

/// Rate, β₁, β₂, ε, decay, prior weight, 1 - β₁ᵗ, 1 - β₂ᵗ, σ, seed, step and κ, as `f32` holds
/// them.
const HYPER: [f32; Hyper::COUNT] = [
    0.1, 0.875, 0.96, 0.01, 0.25, 0.5, 0.33, 0.12, 0.4, 65_535.0, 1.0, 2.0, 40_000.0, 7.0, 3.0, 0.6,
];

/// The operands of `update` in the graph's order; variances and precisions are positive.
fn operands(update: &Update, len: usize) -> Vec<Array> {
    let vector = |seed| noise(&[len], seed);
    let positive = |seed| {
        let x = vector(seed);
        Array::from_fn(&[len].into(), |i| f64::from((x[i].abs() + 0.1) as f32))
    };
    let hyper = Array::from_fn(&[Hyper::COUNT].into(), |i| f64::from(HYPER[i]));
    let scale = Array::from_fn(&[1].into(), |_| 0.75);
    let mut all = vec![vector(1), vector(2), hyper, scale];
    let moments = [vector(3), positive(4)];
    all.extend(moments.into_iter().take(update.method.moments().len()));
    let prior = update.prior.operands();
    if prior > 0 {
        all.push(vector(5));
    }
    if prior > 1 {
        all.push(positive(6));
    }
    if let PriorTerm::LowRank { rank } = update.prior {
        all.extend([noise(&[rank, len], 7), noise(&[rank], 8)]);
    }
    all
}

/// Runs the kernel; the results are in the graph's order.
fn run(threads: usize, how: &Update, operands: &[Array]) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = operands.iter().map(elements).collect();
    let moments = how.method.moments().len();
    let mut prior = all.split_off(4 + moments);
    prior.resize(4, Vec::new());
    all.resize(6, Vec::new()); // of moments that the method does not keep
    let [theta, grad, hyper, scale, m, v] = &mut all[..] else { panic!("six operands") };
    let mut sums = vec![f32::NAN; how.prior.sums()];
    let mut scratch = vec![f32::NAN; scratch_len(how.prior, theta.len())];
    let operands = Operands {
        theta: &mut *theta,
        grad,
        hyper,
        grad_scale: scale[0],
        m: &mut *m,
        v: &mut *v,
        mean: &prior[0],
        precision: &prior[1],
        factor: &prior[2],
        coefficients: &prior[3],
        sums: &mut sums,
        scratch: &mut scratch,
    };
    update(&Threads::new(threads), how, operands);
    let mut results = vec![std::mem::take(theta), std::mem::take(m), std::mem::take(v)];
    results.truncate(1 + moments);
    if how.prior.sums() > 0 {
        results.push(sums);
    }
    results
}

fn check(how: Update, len: usize) {
    let operands = operands(&how, len);
    let want = eval_op(Op::Update(how), &operands).expect("the operands fit");
    let got = run(1, &how, &operands);
    assert_eq!(got.len(), want.len());
    let sums_at = 1 + how.method.moments().len();
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let scene = format!("result {i} of {how:?}, {len} elements");
        let size = (len as f64).sqrt().max(1.0);
        let tolerance = if i == sums_at { SUMS * size } else { ROUNDING };
        assert_close(got, want, tolerance, &scene);
    }
    for threads in [2, 3] {
        assert_eq!(got, run(threads, &how, &operands), "{how:?}, {len} elements");
    }
}

#[test]
fn every_optimiser_with_every_prior_at_awkward_lengths() {
    let methods = [
        Method::Sgd { nesterov: false },
        Method::Sgd { nesterov: true },
        Method::AdamW,
        Method::Sgld { lane: 0, preconditioned: false },
        Method::Sgld { lane: 12, preconditioned: true },
        Method::Sghmc { lane: 12, preconditioned: false },
        Method::Sghmc { lane: 0, preconditioned: true },
    ];
    let priors = [
        PriorTerm::None,
        PriorTerm::Isotropic { centred: false },
        PriorTerm::Isotropic { centred: true },
        PriorTerm::Diagonal,
        PriorTerm::LowRank { rank: 1 },
        PriorTerm::LowRank { rank: 5 },
    ];
    for method in methods {
        for prior in priors {
            for len in [0, 1, 31, 33, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * BLOCKS + 7] {
                check(Update { method, prior }, len);
            }
        }
    }
}

#[test]
fn without_temperature_sgld_is_sgd_without_momentum() {
    for prior in [PriorTerm::None, PriorTerm::Diagonal, PriorTerm::LowRank { rank: 3 }] {
        let step = |method, momentum: Option<Array>| {
            let sgld = Method::Sgld { lane: 1, preconditioned: false };
            let mut operands = operands(&Update { method: sgld, prior }, 4099);
            for zero in [Hyper::Beta1, Hyper::NoiseScale] {
                let hyper = &operands[2];
                let without = |i| if i == zero as usize { 0.0 } else { hyper[i] };
                operands[2] = Array::from_fn(&[Hyper::COUNT].into(), without);
            }
            operands.splice(4..4, momentum);
            let mut results = run(2, &Update { method, prior }, &operands);
            (results.remove(0), results.pop())
        };
        let sgld = step(Method::Sgld { lane: 1, preconditioned: false }, None);
        for nesterov in [false, true] {
            let zero = Array::from_fn(&[4099].into(), |_| 0.0);
            let (theta, sums) = step(Method::Sgd { nesterov }, Some(zero));
            assert!(theta == sgld.0, "{prior:?}");
            assert!(prior == PriorTerm::None || sums == sgld.1, "{prior:?}");
        }
    }
}

#[test]
fn a_step_changes_every_element() {
    let how = Update { method: Method::AdamW, prior: PriorTerm::Diagonal };
    let operands = operands(&how, 1000);
    let theta = elements(&operands[0]);
    let next = &run(2, &how, &operands)[0];
    assert!(theta.iter().zip(next).all(|(old, new)| old != new));
}
