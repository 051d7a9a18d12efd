//! Samplers against the closed form of what they must sample, on the processor.
//!
//! On a quadratic loss a(θ-b)²/2 under a prior with precision p, SGLD is an autoregression:
//!
//! ```text
//! x' = ((1 - r a) x + σ ξ) / (1 + r w p),   σ² = 2 r T/N,   hence
//! Var x = σ² / ((1 + r w p)² - (1 - r a)²)
//! ```

use std::sync::Arc;

use priorfit::adapt::{PriorKind, Settings};
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::graph::{Graph, LeafKind, PriorTerm};
use priorfit::plan::Plan;
use priorfit::step::{CAPACITANCE_INVERSE, Group, Recipe, Trainable, train_step};
use priorfit::task::LOSS;
use priorfit::threads::Threads;
use priorfit::update::{Noise, Optimizer};

use crate::support::resident;

const NOISE: Noise = Noise { seed: 11, examples: 20 };
const PRIOR_WEIGHT: f32 = 0.5;

/// Standard errors that an estimate may be off; that the seed is fixed makes it a constant.
const ERRORS: f64 = 4.5;

/// A loaded step of SGLD on `theta: [n]` with loss Σ a θ²/2.
fn sampler(n: usize, curvature: f32, prior: PriorTerm) -> (Cpu, priorfit::backend::PlanId) {
    let mut graph = Graph::new();
    let theta = graph.param("theta", &[n].into()).expect("a leaf");
    let square = graph.mul(theta, theta).expect("a node");
    let sum = graph.sum_all(square).expect("a node");
    let loss = graph.scale(sum, 0.5 * curvature).expect("a node");
    graph.set_output(LOSS, loss);
    let trainable = Trainable { name: "theta".to_string(), group: Group::Backbone, prior };
    let method = Optimizer::Sgld { temperature: 1.0 }.method();
    let recipe = Recipe { trainable: vec![trainable], method, clip: false };
    let step = train_step(graph, &recipe).expect("a step");
    let mut cpu = Cpu::new(Arc::new(Threads::new(2)));
    let plan = cpu.load(Plan::compile(&step).expect("a plan")).expect("a loaded plan");
    (cpu, plan)
}

/// Makes the steps `range` and hands θ after each to `look`.
fn run(
    cpu: &mut Cpu,
    plan: priorfit::backend::PlanId,
    temperature: f32,
    rate: f32,
    range: std::ops::Range<usize>,
    mut look: impl FnMut(usize, &Cpu),
) {
    let sgld = Optimizer::Sgld { temperature };
    for step in range {
        let hyper = sgld.hyper(step, rate, PRIOR_WEIGHT, NOISE);
        cpu.write(plan, Group::Backbone.hyper(), &hyper).expect("numbers");
        cpu.run(plan).expect("a step");
        look(step, cpu);
    }
}

#[test]
fn sgld_has_the_stationary_variance_of_its_step_on_a_quadratic() {
    const CHAINS: usize = 40_009;
    const LOOKS: usize = 6;
    // Rate, curvature a, precision p, temperature, variance N·T⁻¹·Var.
    let likelihood = |r: f64, a: f64| 1.0 / (a * (1.0 - r * a / 2.0));
    let prior = |r: f64, b: f64| 1.0 / (b * (1.0 + r * b / 2.0));
    let rows = [
        (0.1, 2.0, 0.0, 1.0, likelihood(0.1, 2.0)), // 0.5555556
        (0.5, 2.0, 0.0, 1.0, likelihood(0.5, 2.0)), // 1.0
        (0.5, 1.0, 0.0, 0.25, likelihood(0.5, 1.0)),
        (0.1, 0.0, 4.0, 1.0, prior(0.1, 2.0)),
        (0.5, 0.0, 4.0, 1.0, prior(0.5, 2.0)),
        (4.0, 0.0, 4.0, 0.5, prior(4.0, 2.0)),
        (0.2, 1.0, 3.0, 1.0, 0.4 / (1.3f64.powi(2) - 0.8f64.powi(2))),
    ];
    for (rate, curvature, precision, temperature, want) in rows {
        let term = if precision > 0.0 { PriorTerm::Diagonal } else { PriorTerm::None };
        let (mut cpu, plan) = sampler(CHAINS, curvature as f32, term);
        if precision > 0.0 {
            let leaf = resident(LeafKind::State, "prior.precision/theta");
            cpu.set(&leaf, &vec![precision as f32; CHAINS]).expect("a precision");
        }
        let shrink = (1.0 - rate * curvature) / (1.0 + rate * f64::from(PRIOR_WEIGHT) * precision);
        // Steps until a start, or a look before, is forgotten to one part in ten thousand.
        let apart = 1 + (1e-4f64.ln() / shrink.abs().max(1e-9).ln()) as usize;
        let mut sum = 0.0;
        run(&mut cpu, plan, temperature as f32, rate as f32, 0..apart * LOOKS, |step, cpu| {
            if (step + 1) % apart == 0 {
                let theta = cpu.get(&resident(LeafKind::Param, "theta")).expect("theta");
                sum += theta.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            }
        });
        let count = (CHAINS * LOOKS) as f64;
        let got = sum / count * NOISE.examples as f64 / temperature;
        // A variance of n normal draws has the standard error √(2/n) of itself.
        let error = (got / want - 1.0).abs() / (2.0 / count).sqrt();
        assert!(error < ERRORS, "rate {rate}, a {curvature}, p {precision}: {got}, not {want}");
    }
}

/// Under the prior alone, diagonal plus low rank, draws have the covariance that the recursion
///
/// ```text
/// x' = B (x + r w d⁻¹ W C⁻¹Wᵀd⁻¹ x + σ ξ),  B = 1/(1 + r w d⁻¹)
/// ```
///
/// implies, and for small rates that is the prior's own, T/(N w) (d + W Wᵀ).
#[test]
fn sgld_under_a_low_rank_prior_draws_from_it() {
    const STEPS: usize = 120_000;
    let (d, w) = ([1.0f64, 0.5], [0.8f64, -1.0]);
    let c = 1.0 + w[0] * w[0] / d[0] + w[1] * w[1] / d[1];
    let (rate, weight) = (0.1, f64::from(PRIOR_WEIGHT));
    let variance = 2.0 * rate / NOISE.examples as f64;
    let b = d.map(|d| 1.0 / (1.0 + rate * weight / d));
    let pull = |i: usize, j: usize| rate * weight / d[i] * w[i] / c * w[j] / d[j];
    let m: [[f64; 2]; 2] =
        [0, 1].map(|i| [0, 1].map(|j| b[i] * (f64::from(u8::from(i == j)) + pull(i, j))));
    let mut want = [[0.0f64; 2]; 2];
    for _ in 0..5000 {
        let mut next = [[0.0; 2]; 2];
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for (k, l) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                next[i][j] += m[i][k] * want[k][l] * m[j][l];
            }
        }
        (0..2).for_each(|i| next[i][i] += variance * b[i] * b[i]);
        want = next;
    }
    let (mut cpu, plan) = sampler(2, 0.0, PriorTerm::LowRank { rank: 1 });
    let mut set = |name: &str, values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        cpu.set(&resident(LeafKind::State, name), &values).expect("a state");
    };
    set("prior.precision/theta", &d.map(|d| 1.0 / d));
    set("prior.factor/theta", &w);
    set(CAPACITANCE_INVERSE, &[1.0 / c]);
    let mut got = [[0.0f64; 2]; 2];
    run(&mut cpu, plan, 1.0, rate as f32, 0..STEPS, |_, cpu| {
        let theta = cpu.get(&resident(LeafKind::Param, "theta")).expect("theta");
        let x = [f64::from(theta[0]), f64::from(theta[1])];
        (0..4).for_each(|at| got[at / 2][at % 2] += x[at / 2] * x[at % 2] / STEPS as f64);
    });
    // The slowest direction forgets over 1/(1 - ρ) steps, ρ the larger eigenvalue of M; twice that
    // is the time a draw of a square is worth.
    let (trace, det) = (m[0][0] + m[1][1], m[0][0] * m[1][1] - m[0][1] * m[1][0]);
    let slowest = (trace + (trace * trace - 4.0 * det).sqrt()) / 2.0;
    let error = (2.0 / (STEPS as f64 * (1.0 - slowest))).sqrt();
    for (i, j) in [(0, 0), (0, 1), (1, 1)] {
        let size = (want[i][i] * want[j][j]).sqrt();
        let off = (got[i][j] - want[i][j]).abs() / size;
        assert!(off < ERRORS * error, "covariance {i}{j}: {}, not {}", got[i][j], want[i][j]);
        let prior = w[i] * w[j] + if i == j { d[i] } else { 0.0 };
        let prior = prior / (NOISE.examples as f64 * weight);
        // A step of rate r is off by about r w/d of the variance.
        assert!((want[i][j] - prior).abs() < rate * weight / d[1] * size, "{i}{j}: {prior}");
    }
}

#[test]
fn noise_repeats_for_a_seed_and_differs_between_seeds_steps_and_parameters() {
    let draw = |seed: u64, step: usize, threads: usize| {
        let mut graph = Graph::new();
        let mut losses = Vec::new();
        for name in ["a", "b"] {
            let theta = graph.param(name, &[9001].into()).expect("a leaf");
            let square = graph.mul(theta, theta).expect("a node");
            losses.push(graph.sum_all(square).expect("a node"));
        }
        let loss = graph.add(losses[0], losses[1]).expect("a node");
        graph.set_output(LOSS, loss);
        let trainable = ["a", "b"].map(|name| Trainable {
            name: name.to_string(),
            group: Group::Head,
            prior: PriorTerm::Isotropic { centred: false },
        });
        let sgld = Optimizer::Sgld { temperature: 1.0 };
        let recipe = Recipe { trainable: trainable.to_vec(), method: sgld.method(), clip: false };
        let step_graph = train_step(graph, &recipe).expect("a step");
        let mut cpu = Cpu::new(Arc::new(Threads::new(threads)));
        let plan = cpu.load(Plan::compile(&step_graph).expect("a plan")).expect("a loaded plan");
        let hyper = sgld.hyper(step, 0.1, 0.1, Noise { seed, examples: 10 });
        cpu.write(plan, Group::Head.hyper(), &hyper).expect("numbers");
        cpu.run(plan).expect("a step");
        ["a", "b"].map(|name| cpu.get(&resident(LeafKind::Param, name)).expect("a weight"))
    };
    let first = draw(1, 0, 1);
    assert_ne!(first[0], first[1]);
    assert_ne!(first, draw(2, 0, 1));
    assert_ne!(first, draw(1, 1, 1));
    for threads in [1, 2, 3] {
        assert_eq!(first, draw(1, 0, threads), "{threads} threads");
    }
}

#[test]
fn sampling_with_a_clipped_gradient_is_refused() {
    let sgld = Optimizer::Sgld { temperature: 1.0 };
    let settings =
        |clip| Settings { prior: PriorKind::None, optimizer: sgld, clip, ..Settings::fixed() };
    settings(None).check(false).expect("sound settings");
    let error = settings(Some(2.0)).check(false).expect_err("clipping biases the sampler");
    assert!(error.to_string().contains("--clip none"), "{error}");
}
