//! Samplers against the closed form of what they must sample, on the processor and a GPU.
//!
//! On a quadratic loss aθ²/2 under a prior of precision p = w/d, SGHMC of momentum β is a linear
//! recursion (SGLD has β = 0). Its variance, by its characteristic polynomial:
//!
//! ```text
//! v' = (β v - (r a + h) x + σ ξ) / (1 + h),   x' = x + v',   h = r p
//! σ² = (r T/N) (1-β+h)(2+2β+h) / (1+β+h)      gives      Var x = (T/N) / ((a+p)(1 - r a/(2+2β+h)))
//! ```

mod linear;

use std::sync::Arc;

use priorfit::adapt::{PosteriorKind, PosteriorSettings, PriorKind, Settings};
use priorfit::backend::cpu::Cpu;
use priorfit::backend::{Backend, PlanId};
use priorfit::graph::{Graph, LeafKind, MatMul, PriorTerm, ValueId};
use priorfit::plan::Plan;
use priorfit::step::{Group, Recipe, Trainable, capacitance_state, train_step};
use priorfit::task::LOSS;
use priorfit::tensor::tensor;
use priorfit::threads::Threads;
use priorfit::update::{Noise, Optimizer};

use self::linear::{Linear, Matrix};
use crate::support::gpu::gpu;
use crate::support::resident;

const EXAMPLES: usize = 20;
const NOISE: Noise = Noise::new(11, EXAMPLES);
const PRIOR_WEIGHT: f32 = 0.5;

/// Standard errors that an estimate may be off; that the seed is fixed makes it a constant.
const ERRORS: f64 = 4.5;
/// Draws of each chain.
const LOOKS: usize = 4;
/// The share of its start that a chain may remember at a draw.
const FORGOTTEN: f64 = 1e-4;

fn sgld(temperature: f32) -> Optimizer {
    Optimizer::Sgld { temperature, preconditioned: false }
}

fn sghmc(temperature: f32, friction: f32) -> Optimizer {
    Optimizer::Sghmc { temperature, friction, preconditioned: false }
}

fn preconditioned(optimizer: Optimizer) -> Optimizer {
    match optimizer {
        Optimizer::Sgld { temperature, .. } => {
            Optimizer::Sgld { temperature, preconditioned: true }
        }
        Optimizer::Sghmc { temperature, friction, .. } => {
            Optimizer::Sghmc { temperature, friction, preconditioned: true }
        }
        other => other,
    }
}

fn beta(optimizer: Optimizer) -> f64 {
    match optimizer {
        Optimizer::Sghmc { friction, .. } => f64::from(1.0 - friction),
        _ => 0.0,
    }
}

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(Arc::new(Threads::new(2))))
}

/// Runs `test` on a new backend of each kind that there is, with a number of chains that run beside
/// each other: fewer on a GPU, which may be one in software.
fn on_each(mut test: impl FnMut(&str, usize, Box<dyn Backend>)) {
    test("processor", 20_011, cpu());
    if let Some(gpu) = gpu() {
        test("GPU", 5003, gpu);
    }
}

/// A sampler of one parameter, loaded.
struct Sampler {
    backend: Box<dyn Backend>,
    plan: PlanId,
    optimizer: Optimizer,
    noise: Noise,
}

impl Sampler {
    /// A step on `theta: shape`, zero at first, with the loss that `loss` builds.
    fn new(
        mut backend: Box<dyn Backend>,
        shape: &[usize],
        optimizer: Optimizer,
        prior: PriorTerm,
        loss: impl FnOnce(&mut Graph, ValueId) -> priorfit::error::Result<ValueId>,
    ) -> Self {
        let mut graph = Graph::new();
        let theta = graph.param("theta", &shape.into()).expect("a leaf");
        let loss = loss(&mut graph, theta).expect("a loss");
        graph.set_output(LOSS, loss);
        let trainable =
            Trainable { name: "theta".to_string(), group: Group::Backbone, block: 0, prior };
        let method = optimizer.method();
        let recipe = Recipe { trainable: vec![trainable], method, clip: false };
        let step = train_step(graph, &recipe).expect("a step");
        let plan = backend.load(Plan::compile(&step).expect("a plan")).expect("a loaded plan");
        Sampler { backend, plan, optimizer, noise: NOISE }
    }

    /// `chains` weights with loss Σ a θ²/2.
    fn quadratic(
        backend: Box<dyn Backend>,
        chains: usize,
        optimizer: Optimizer,
        prior: PriorTerm,
        curvature: f64,
    ) -> Self {
        Self::new(backend, &[chains], optimizer, prior, |g, theta| {
            let square = g.mul(theta, theta)?;
            let sum = g.sum_all(square)?;
            g.scale(sum, 0.5 * curvature as f32)
        })
    }

    /// `chains` pairs of weights with the loss and the prior of `case`.
    fn pairs(
        backend: Box<dyn Backend>,
        chains: usize,
        optimizer: Optimizer,
        case: &Linear,
    ) -> Self {
        let rank = usize::from(case.factor != [0.0; 2]);
        let prior = if rank == 0 { PriorTerm::Diagonal } else { PriorTerm::LowRank { rank } };
        let mut sampler = Self::new(backend, &[chains, 2], optimizer, prior, |g, theta| {
            let row =
                |g: &mut Graph, data: Vec<f32>, shape: &[usize]| g.constant(tensor(shape, data)?);
            let centre = row(g, case.centre.map(|x| x as f32).to_vec(), &[1, 2])?;
            let centre = g.broadcast(centre, &[chains, 2].into())?;
            let q = row(g, case.curvature.concat().iter().map(|&x| x as f32).collect(), &[2, 2])?;
            let x = g.sub(theta, centre)?;
            let force = g.matmul(x, q, MatMul::default())?;
            let energy = g.mul(x, force)?;
            let sum = g.sum_all(energy)?;
            g.scale(sum, 0.5)
        });
        sampler.noise = Noise { mean_variance: case.mean_variance(), ..NOISE };
        sampler.set("prior.mean/theta", &case.mean.repeat(chains));
        sampler.set("prior.precision/theta", &case.variance.map(|d| 1.0 / d).repeat(chains));
        if rank > 0 {
            sampler.set("prior.factor/theta", &case.factor);
            sampler.set(&capacitance_state(0), &[1.0 / case.capacitance()]);
            // The sums at θ = 0, where x = -μ.
            let projection = |i: usize| -case.factor[i] / case.variance[i] * case.mean[i];
            sampler.set("prior.sums/theta", &[projection(0) + projection(1), 0.0]);
        }
        sampler
    }

    fn set(&mut self, state: &str, values: &[f64]) {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        self.backend.set(&resident(LeafKind::State, state), &values).expect("a state");
    }

    fn get(&self, kind: LeafKind, name: &str) -> Vec<f32> {
        self.backend.get(&resident(kind, name)).expect("a resident")
    }

    fn theta(&self) -> Vec<f32> {
        self.get(LeafKind::Param, "theta")
    }

    fn step(&mut self, step: usize, rate: f64, weight: f64) {
        let hyper = self.optimizer.hyper(step, rate as f32, weight as f32, self.noise);
        self.backend.write(self.plan, Group::Backbone.hyper(), &hyper).expect("numbers");
        self.backend.run(self.plan).expect("a step");
    }

    /// Mean and covariance of the pairs at [`LOOKS`] draws after `case` was forgotten each time.
    fn pair_moments(&mut self, case: &Linear) -> ([f64; 2], Matrix) {
        let apart = case.memory(FORGOTTEN);
        let mut moments = Moments::default();
        for step in 0..apart * LOOKS {
            self.step(step, case.rate, case.weight);
            if (step + 1) % apart == 0 {
                self.theta().chunks_exact(2).for_each(|pair| moments.add([pair[0], pair[1]]));
            }
        }
        moments.finish()
    }
}

/// Sums over draws of two weights.
#[derive(Default)]
struct Moments {
    count: f64,
    sum: [f64; 2],
    products: Matrix,
}

impl Moments {
    fn add(&mut self, pair: [f32; 2]) {
        let x = pair.map(f64::from);
        self.count += 1.0;
        for i in 0..2 {
            self.sum[i] += x[i];
            (0..2).for_each(|j| self.products[i][j] += x[i] * x[j]);
        }
    }

    fn finish(&self) -> ([f64; 2], Matrix) {
        let mean = self.sum.map(|sum| sum / self.count);
        let entry = |i: usize, j: usize| self.products[i][j] / self.count - mean[i] * mean[j];
        (mean, [0, 1].map(|i| [0, 1].map(|j| entry(i, j))))
    }
}

/// Compares moments of `count` independent draws with what they must be.
fn check_moments(
    got: ([f64; 2], Matrix),
    (mean, covariance): ([f64; 2], Matrix),
    count: f64,
    scene: &str,
) {
    for i in 0..2 {
        let error = (covariance[i][i] / count).sqrt();
        let off = (got.0[i] - mean[i]).abs();
        assert!(off < ERRORS * error, "{scene}: mean {i} is {}, not {}", got.0[i], mean[i]);
    }
    for (i, j) in [(0, 0), (0, 1), (1, 1)] {
        let size = (covariance[i][i] * covariance[j][j]).sqrt();
        let (got, want) = (got.1[i][j], covariance[i][j]);
        let off = (got - want).abs() / size;
        // A variance of n normal draws has the standard error √(2/n) of itself.
        assert!(
            off < ERRORS * (2.0 / count).sqrt(),
            "{scene}: covariance {i}{j}: {got}, not {want}"
        );
    }
}

/// One weight: the optimiser, its rate, curvature a, prior precision 1/d, N·T⁻¹·Var.
type Row = (Optimizer, f64, f64, f64, f64);

fn rows() -> Vec<Row> {
    let predicted = |optimizer: Optimizer, rate: f64, a: f64, precision: f64| {
        let p = f64::from(PRIOR_WEIGHT) * precision;
        let damping = 2.0 + 2.0 * beta(optimizer) + rate * p;
        (optimizer, rate, a, precision, 1.0 / ((a + p) * (1.0 - rate * a / damping)))
    };
    vec![
        // The likelihood alone: 1/(a(1 - ra/2)), and for SGHMC 1/(a(1 - ra/(2(2-α)))).
        (sgld(1.0), 0.01, 2.0, 0.0, 0.505_050_5),
        (sgld(1.0), 0.1, 2.0, 0.0, 0.555_555_6),
        (sgld(1.0), 0.5, 2.0, 0.0, 1.0),
        (sgld(0.25), 0.5, 1.0, 0.0, 4.0 / 3.0),
        (sghmc(1.0, 0.1), 0.01, 2.0, 0.0, 0.502_645_5),
        (sghmc(1.0, 0.1), 0.1, 2.0, 0.0, 0.527_777_8),
        (sghmc(1.0, 0.5), 0.1, 2.0, 0.0, 0.535_714_3),
        (sghmc(1.0, 1.0), 0.1, 2.0, 0.0, 0.555_555_6),
        // The prior alone, which is sampled exactly at any stiffness rp.
        (sgld(1.0), 0.1, 0.0, 4.0, 0.5),
        (sgld(0.5), 4.0, 0.0, 4.0, 0.5),
        (sgld(1.0), 500.0, 0.0, 4.0, 0.5),
        (sghmc(1.0, 0.1), 0.1, 0.0, 4.0, 0.5),
        (sghmc(1.0, 0.1), 50.0, 0.0, 4.0, 0.5),
        // Both.
        predicted(sgld(1.0), 0.2, 1.0, 3.0),
        predicted(sghmc(1.0, 0.25), 0.2, 1.0, 3.0),
        predicted(sghmc(0.5, 0.1), 1.0, 1.0, 9.0),
    ]
}

#[test]
fn samplers_have_the_stationary_variance_of_their_step_on_a_quadratic() {
    for (optimizer, rate, curvature, precision, want) in rows() {
        on_each(|device, chains, backend| {
            let term = if precision > 0.0 { PriorTerm::Diagonal } else { PriorTerm::None };
            let mut sampler = Sampler::quadratic(backend, chains, optimizer, term, curvature);
            if precision > 0.0 {
                sampler.set("prior.precision/theta", &vec![precision; chains]);
            }
            let weight = if precision > 0.0 { f64::from(PRIOR_WEIGHT) } else { 0.0 };
            let case = Linear {
                curvature: [[curvature, 0.0], [0.0, curvature]],
                centre: [0.0; 2],
                mean: [0.0; 2],
                variance: [1.0 / precision.max(1e-9); 2],
                factor: [0.0; 2],
                weight,
                rate,
                beta: beta(optimizer),
                temperature: 1.0,
                preconditioned: false,
            };
            let apart = case.memory(FORGOTTEN);
            let mut sum = 0.0;
            for step in 0..apart * LOOKS {
                sampler.step(step, rate, f64::from(PRIOR_WEIGHT));
                if (step + 1) % apart == 0 {
                    sum += squares(&sampler.theta());
                }
            }
            let count = (chains * LOOKS) as f64;
            let scale = EXAMPLES as f64 / temperature(optimizer);
            let got = sum / count * scale;
            let error = (got / want - 1.0).abs() / (2.0 / count).sqrt();
            let scene = format!("{device}: {optimizer:?}, rate {rate}, a {curvature}, {precision}");
            assert!(error < ERRORS, "{scene}: {got}, not {want}");
            // The velocities' variance, where it is known: 2r/(…) of the step without a prior.
            let velocity = match optimizer {
                Optimizer::Sghmc { friction: 0.1, .. } if rate == 0.1 && precision == 0.0 => {
                    1.0 / 9.0
                }
                Optimizer::Sghmc { friction: 0.5, .. } => 1.0 / 7.0,
                _ => return,
            };
            let got = squares(&sampler.get(LeafKind::State, "m/theta")) / chains as f64 * scale;
            let error = (got / velocity - 1.0).abs() / (2.0 / chains as f64).sqrt();
            assert!(error < ERRORS, "{scene}: velocities {got}, not {velocity}");
        });
    }
}

fn temperature(optimizer: Optimizer) -> f64 {
    match optimizer {
        Optimizer::Sgld { temperature, .. } | Optimizer::Sghmc { temperature, .. } => {
            f64::from(temperature)
        }
        _ => 0.0,
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum()
}

/// Two correlated weights under a prior of unequal variances.
fn pair(optimizer: Optimizer, rate: f64) -> Linear {
    Linear {
        curvature: [[2.0, 0.6], [0.6, 1.0]],
        centre: [1.0, -0.5],
        mean: [0.25, 0.5],
        variance: [0.05, 0.8],
        factor: [0.0; 2],
        weight: f64::from(PRIOR_WEIGHT),
        rate,
        beta: beta(optimizer),
        temperature: temperature(optimizer) / EXAMPLES as f64,
        preconditioned: matches!(
            optimizer,
            Optimizer::Sgld { preconditioned: true, .. }
                | Optimizer::Sghmc { preconditioned: true, .. }
        ),
    }
}

/// The mean of draws is the mode exactly, their covariance that of the step, which for a small rate
/// is the posterior's: precision Q + w S⁻¹.
#[test]
fn correlated_weights_have_the_mean_and_covariance_of_the_posterior() {
    /// Share of the covariance that the rate of this test costs.
    const BIAS: f64 = 0.05;
    let samplers = [sgld(1.0), sghmc(1.0, 0.2)];
    for optimizer in samplers.into_iter().chain(samplers.map(preconditioned)) {
        let case = pair(optimizer, 0.05);
        let (stationary, posterior) = (case.stationary(), case.posterior());
        for (i, j) in [(0, 0), (0, 1), (1, 1)] {
            let size = (posterior[i][i] * posterior[j][j]).sqrt();
            let off = (stationary[i][j] - posterior[i][j]).abs() / size;
            assert!(off < BIAS, "{optimizer:?}: {stationary:?}, not {posterior:?}");
        }
        on_each(|device, chains, backend| {
            let mut sampler = Sampler::pairs(backend, chains, optimizer, &case);
            let got = sampler.pair_moments(&case);
            let count = (chains * LOOKS) as f64;
            check_moments(
                got,
                (case.mode(), stationary),
                count,
                &format!("{device}: {optimizer:?}"),
            );
        });
    }
}

/// Without a prior, each eigenvalue p of the precision has its own variance (T/N)/(p(1 - rp/2)), or
/// 2(2-α) in place of 2: (T/N)(P - r P²/2)⁻¹ altogether.
#[test]
fn a_gaussian_is_sampled_with_the_bias_of_each_of_its_eigenvalues() {
    // The inverse of W Wᵀ + D with W = (1, -1), D = (1/2, 1).
    let precision = linear::inverse([[1.5, -1.0], [-1.0, 2.0]]);
    for optimizer in [sgld(1.0), sghmc(1.0, 0.3)] {
        let case = Linear { curvature: precision, weight: 0.0, ..pair(optimizer, 0.4) };
        let damping = 2.0 + 2.0 * case.beta;
        let p = precision;
        let biased = [0, 1].map(|i| {
            [0, 1].map(|j| p[i][j] - case.rate / damping * (p[i][0] * p[0][j] + p[i][1] * p[1][j]))
        });
        let want = linear::inverse(biased).map(|row| row.map(|x| case.temperature * x));
        on_each(|device, chains, backend| {
            let mut sampler = Sampler::pairs(backend, chains, optimizer, &case);
            let got = sampler.pair_moments(&case);
            let count = (chains * LOOKS) as f64;
            check_moments(got, (case.centre, want), count, &format!("{device}: {optimizer:?}"));
        });
    }
}

/// The mean loss of N examples at temperature T/N is their summed loss at the rate r/N.
#[test]
fn the_scale_of_the_loss_and_the_number_of_examples_cancel() {
    for optimizer in [sgld(1.0), sghmc(1.0, 0.2)] {
        let run = |examples: usize, scale: f64| {
            let mut sampler =
                Sampler::quadratic(cpu(), 1000, optimizer, PriorTerm::Diagonal, 2.0 * scale);
            sampler.set("prior.precision/theta", &[3.0; 1000]);
            sampler.noise.examples = examples;
            (0..50).for_each(|step| sampler.step(step, 0.1 / scale, 0.25 * scale));
            sampler.theta()
        };
        let (mean, sum) = (run(20, 1.0), run(1, 20.0));
        let apart = mean.iter().zip(&sum).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(apart < 1e-5, "{optimizer:?}: {apart}");
        assert!(mean.iter().any(|x| x.abs() > 0.1));
    }
}

/// Prior N(0, 1), an observation 1 of variance 1/2 and one 2 of variance 1/4: in either order, one
/// after the other or both at once, the posterior is N(10/7, 1/7).
#[test]
fn sequential_updates_are_one_update_by_all_data() {
    const RATE: f64 = 0.02;
    // Mean and variance of the prior, observations with their variances, the posterior.
    let both: &[(f64, f64)] = &[(1.0, 0.5), (2.0, 0.25)];
    let end = (10.0 / 7.0, 1.0 / 7.0);
    let stages = [
        ((0.0, 1.0), both, end),
        ((0.0, 1.0), &both[..1], (2.0 / 3.0, 1.0 / 3.0)),
        ((2.0 / 3.0, 1.0 / 3.0), &both[1..], end),
        ((0.0, 1.0), &both[1..], (8.0 / 5.0, 1.0 / 5.0)),
        ((8.0 / 5.0, 1.0 / 5.0), &both[..1], end),
    ];
    for optimizer in [sgld(1.0), sghmc(1.0, 0.3)] {
        for ((mean, variance), data, (want_mean, want_variance)) in stages {
            let n = data.len() as f64;
            let a: f64 = data.iter().map(|(_, s)| 1.0 / s).sum::<f64>() / n;
            let b = data.iter().map(|(y, s)| y / s).sum::<f64>() / n / a;
            let case = Linear {
                curvature: [[a, 0.0], [0.0, a]],
                centre: [b; 2],
                mean: [mean; 2],
                variance: [variance; 2],
                weight: 1.0 / n,
                temperature: 1.0 / n,
                ..pair(optimizer, RATE)
            };
            let damping = 2.0 + 2.0 * case.beta + RATE / (n * variance);
            let variance = want_variance / (1.0 - RATE * a / damping);
            let covariance = [[variance, 0.0], [0.0, variance]];
            on_each(|device, chains, backend| {
                let mut sampler = Sampler::pairs(backend, chains, optimizer, &case);
                sampler.noise.examples = data.len();
                let got = sampler.pair_moments(&case);
                let count = (chains * LOOKS) as f64;
                let scene = format!("{device}: {optimizer:?}, {data:?} under N({mean}, ..)");
                check_moments(got, ([want_mean; 2], covariance), count, &scene);
            });
        }
    }
}

/// Without noise every sampler ends in (Q + w S⁻¹)⁻¹(Q b + w S⁻¹μ), ridge regression towards μ.
#[test]
fn without_temperature_samplers_end_in_the_mode() {
    /// A weight stands still where a step is below half a unit in its last place, 3e-8: at the
    /// preconditioned rate of the stiff one, 2.5e-4, under a force of 1.2e-4.
    const MODE: f64 = 2e-4;
    let samplers = [sgld(0.0), sghmc(0.0, 0.1)];
    for optimizer in samplers.into_iter().chain(samplers.map(preconditioned)) {
        for factor in [[0.0; 2], [0.6, -0.9]] {
            // At this rate the prior's stiffness rp is 50.
            let stiff = Linear { variance: [1e-3, 0.8], ..pair(optimizer, 0.1) };
            let case = Linear { factor, ..stiff };
            on_each(|device, _, backend| {
                let mut sampler = Sampler::pairs(backend, 1, optimizer, &case);
                for step in 0..case.memory(1e-8) {
                    sampler.step(step, case.rate, case.weight);
                }
                let (got, want) = (sampler.theta(), case.mode());
                for (got, want) in got.iter().zip(want) {
                    let off = (f64::from(*got) - want).abs();
                    assert!(off < MODE, "{device}, {optimizer:?}, {factor:?}: {got}, not {want}");
                }
            });
        }
    }
}

/// The low-rank part is explicit, and no noise is drawn for it: a draw has the covariance of the
/// step's recursion, and at a small stiffness h = rw/d the prior's own, (T/N)(d + W Wᵀ)/w, but for
/// a share of h/2.
#[test]
fn under_a_low_rank_prior_draws_come_from_it() {
    let samplers = [sgld(1.0), sghmc(1.0, 0.3)];
    for optimizer in samplers.into_iter().chain(samplers.map(preconditioned)) {
        let case = Linear {
            curvature: [[0.0; 2]; 2],
            mean: [0.0; 2],
            variance: [1.0, 0.5],
            factor: [0.8, -1.0],
            ..pair(optimizer, 0.1)
        };
        let (want, prior) = (case.stationary(), case.posterior());
        for (i, j) in [(0, 0), (0, 1), (1, 1)] {
            let size = (prior[i][i] * prior[j][j]).sqrt();
            let share = 0.5 * case.rate * case.weight / case.variance[1];
            let off = (want[i][j] - prior[i][j]).abs() / size;
            assert!(off < share, "{optimizer:?} {i}{j}: {want:?}, not {prior:?}");
        }
        // All weights share the K projections, so chains cannot run beside each other.
        on_each(|device, _, backend| {
            let steps = if device == "GPU" { 10_000 } else { 120_000 };
            let mut sampler = Sampler::pairs(backend, 1, optimizer, &case);
            let mut moments = Moments::default();
            for step in 0..steps {
                sampler.step(step, case.rate, case.weight);
                let theta = sampler.theta();
                moments.add([theta[0], theta[1]]);
            }
            // A draw of a square is worth the time in which a product of two is forgotten, twice.
            let time = case.memory(FORGOTTEN) as f64 / FORGOTTEN.recip().ln();
            let count = steps as f64 / time;
            check_moments(
                moments.finish(),
                ([0.0; 2], want),
                count / 2.0,
                &format!("{device}: {optimizer:?}"),
            );
        });
    }
}

#[test]
fn noise_repeats_for_a_seed_and_differs_between_seeds_steps_and_parameters() {
    let draw = |optimizer: Optimizer, seed: u64, step: usize, threads: usize| {
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
            block: 0,
            prior: PriorTerm::Isotropic { centred: false },
        });
        let method = optimizer.method();
        let recipe = Recipe { trainable: trainable.to_vec(), method, clip: false };
        let step_graph = train_step(graph, &recipe).expect("a step");
        let mut cpu = Cpu::new(Arc::new(Threads::new(threads)));
        let plan = cpu.load(Plan::compile(&step_graph).expect("a plan")).expect("a loaded plan");
        let hyper = optimizer.hyper(step, 0.1, 0.1, Noise::new(seed, 10));
        cpu.write(plan, Group::Head.hyper(), &hyper).expect("numbers");
        cpu.run(plan).expect("a step");
        ["a", "b"].map(|name| cpu.get(&resident(LeafKind::Param, name)).expect("a weight"))
    };
    for optimizer in [sgld(1.0), sghmc(1.0, 0.1)] {
        let first = draw(optimizer, 1, 0, 1);
        assert_ne!(first[0], first[1]);
        assert_ne!(first, draw(optimizer, 2, 0, 1));
        assert_ne!(first, draw(optimizer, 1, 1, 1));
        for threads in [1, 2, 3] {
            assert_eq!(first, draw(optimizer, 1, 0, threads), "{threads} threads");
        }
    }
}

#[test]
fn sampling_with_a_clipped_gradient_is_refused() {
    let settings = |kind, clip| Settings {
        prior: PriorKind::None,
        posterior: PosteriorSettings::of(kind),
        clip,
        ..Settings::fixed()
    };
    for kind in [PosteriorKind::Sgld, PosteriorKind::Sghmc] {
        settings(kind, None).check(false).expect("sound settings");
        let error = settings(kind, Some(2.0)).check(false).expect_err("clipping is a bias");
        assert!(error.to_string().contains("--clip none"), "{error}");
    }
}
