//! Optimisers and schedules: what the host computes before each step.
//!
//! The optimiser itself is one op of the graph ([`crate::graph::Update`]); here are its settings
//! and the vector of numbers it reads each step.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::graph::{Hyper, Method};

/// An optimiser with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "method")]
#[non_exhaustive]
pub enum Optimizer {
    /// Stochastic gradient descent with Nesterov's momentum.
    Sgd {
        /// β, in [0, 1).
        momentum: f32,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// β₁, in [0, 1).
        beta1: f32,
        /// β₂, in [0, 1).
        beta2: f32,
        /// Added to √v.
        epsilon: f32,
        /// Share of the weights lost per unit of learning rate.
        weight_decay: f32,
    },
    /// Stochastic gradient Langevin dynamics (Welling and Teh 2011): the weights become draws from
    /// the posterior, as the learning rate falls and steps pass. Clipping would bias the draws.
    ///
    /// The learning rate r is a step of time; near its mode a draw forgets over 1/(r·curvature)
    /// steps.
    Sgld {
        /// T, the posterior's temperature: 1 for the posterior itself, 0 for no noise.
        temperature: f32,
        /// Whether a weight's step is proportional to its variance under the prior, the mean step
        /// being r: stiff weights and loose ones then forget equally fast.
        preconditioned: bool,
    },
    /// Stochastic gradient Hamiltonian Monte Carlo (Chen et al. 2014): weights with a velocity,
    /// which noise feeds and friction takes from. Without noise it is the heavy ball with momentum
    /// 1 - friction.
    ///
    /// The learning rate r is the square of a step of time, as in gradient descent with momentum;
    /// draws forget as fast as those of SGLD at the rate r/friction.
    Sghmc {
        /// As for SGLD.
        temperature: f32,
        /// α in (0, 1], the share of the velocity that is lost in a step; 1 is SGLD.
        friction: f32,
        /// As for SGLD.
        preconditioned: bool,
    },
}

/// What a sampler depends on besides the step; other optimisers ignore it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// The seed of the run.
    pub seed: u64,
    /// N, the number of training examples: the noise is that of N times the objective.
    pub examples: usize,
    /// Mean of the weights' variances d under the prior, 1 where it stores none: what
    /// preconditioning measures a weight's variance by.
    pub mean_variance: f64,
}

impl Noise {
    /// Noise for weights whose prior stores no variances.
    pub const fn new(seed: u64, examples: usize) -> Self {
        Noise { seed, examples, mean_variance: 1.0 }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::Sgd { momentum: 0.9 }
    }
}

impl Optimizer {
    /// AdamW with the constants of its paper and no weight decay: the prior takes its place.
    pub fn adamw() -> Self {
        Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }

    /// The graph's method.
    pub fn method(&self) -> Method {
        match *self {
            Optimizer::Sgd { .. } => Method::Sgd { nesterov: true },
            Optimizer::AdamW { .. } => Method::AdamW,
            Optimizer::Sgld { preconditioned, .. } => Method::Sgld { lane: 0, preconditioned },
            Optimizer::Sghmc { preconditioned, .. } => Method::Sghmc { lane: 0, preconditioned },
        }
    }

    /// Whether it draws samples, which clipping the gradient would bias.
    pub fn samples(&self) -> bool {
        matches!(self, Optimizer::Sgld { .. } | Optimizer::Sghmc { .. })
    }

    /// Whether its steps follow the prior's variances.
    pub fn preconditions(&self) -> bool {
        matches!(
            self,
            Optimizer::Sgld { preconditioned: true, .. }
                | Optimizer::Sghmc { preconditioned: true, .. }
        )
    }

    /// The same without noise, for the part of a schedule that [explores](Schedule::explores).
    pub fn without_noise(mut self) -> Self {
        if let Optimizer::Sgld { temperature, .. } | Optimizer::Sghmc { temperature, .. } =
            &mut self
        {
            *temperature = 0.0;
        }
        self
    }

    /// Checks the constants.
    ///
    /// # Errors
    /// Names the one that is out of its range.
    pub fn check(&self) -> Result<()> {
        let fraction = |name: &str, value: f32| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} is {value}; expected 0 ≤ {name} < 1"))),
        };
        match *self {
            Optimizer::Sgd { momentum } => fraction("momentum", momentum),
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                fraction("beta1", beta1)?;
                fraction("beta2", beta2)?;
                if epsilon > 0.0 && weight_decay >= 0.0 && weight_decay.is_finite() {
                    return Ok(());
                }
                Err(Error::invalid("AdamW needs epsilon > 0 and weight decay ≥ 0"))
            }
            Optimizer::Sgld { temperature, .. } => check_temperature(temperature),
            Optimizer::Sghmc { temperature, friction, .. } => {
                check_temperature(temperature)?;
                if friction > 0.0 && friction <= 1.0 {
                    return Ok(());
                }
                Err(Error::invalid(format!("friction is {friction}; expected 0 < friction ≤ 1"))
                    .hint("0.1 is momentum 0.9; 1 is SGLD"))
            }
        }
    }

    /// The `hyper` operand of step `step` (counted from 0) at this learning rate, for parameters
    /// whose prior has weight `prior_weight` = 1/(λN) or 1/(τN).
    pub fn hyper(
        &self,
        step: usize,
        learning_rate: f32,
        prior_weight: f32,
        noise: Noise,
    ) -> [f32; Hyper::COUNT] {
        let mut hyper = [0.0; Hyper::COUNT];
        hyper[Hyper::LearningRate as usize] = learning_rate;
        hyper[Hyper::PriorWeight as usize] = prior_weight;
        match *self {
            Optimizer::Sgd { momentum } => hyper[Hyper::Beta1 as usize] = momentum,
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                let correction = |beta: f32| (1.0 - f64::from(beta).powf(step as f64 + 1.0)) as f32;
                hyper[Hyper::Beta1 as usize] = beta1;
                hyper[Hyper::Beta2 as usize] = beta2;
                hyper[Hyper::Epsilon as usize] = epsilon;
                hyper[Hyper::WeightDecay as usize] = weight_decay;
                hyper[Hyper::BiasCorrection1 as usize] = correction(beta1);
                hyper[Hyper::BiasCorrection2 as usize] = correction(beta2);
            }
            Optimizer::Sgld { temperature, .. } => {
                spell_noise(&mut hyper, temperature, step, noise);
            }
            Optimizer::Sghmc { temperature, friction, .. } => {
                hyper[Hyper::Beta1 as usize] = 1.0 - friction;
                spell_noise(&mut hyper, temperature, step, noise);
            }
        }
        hyper
    }
}

fn check_temperature(temperature: f32) -> Result<()> {
    match temperature.is_finite() && temperature >= 0.0 {
        true => Ok(()),
        false => Err(Error::invalid(format!("temperature is {temperature}"))
            .hint("expected 0 or more; 1 samples the posterior")),
    }
}

/// Writes σ, κ, and the counters of a sampler's noise; the learning rate is there already.
fn spell_noise(hyper: &mut [f32; Hyper::COUNT], temperature: f32, step: usize, noise: Noise) {
    let rate = f64::from(hyper[Hyper::LearningRate as usize]);
    let variance = 2.0 * rate * f64::from(temperature) / noise.examples.max(1) as f64;
    hyper[Hyper::NoiseScale as usize] = variance.sqrt() as f32;
    hyper[Hyper::Preconditioner as usize] = noise.mean_variance.recip() as f32;
    Hyper::spell(hyper, &Hyper::SEED, noise.seed);
    Hyper::spell(hyper, &Hyper::STEP, step as u64);
}

/// The learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "schedule")]
#[non_exhaustive]
pub enum Schedule {
    /// The same rate throughout.
    Constant,
    /// Half a cosine from the rate down to 0 over the whole run (Loshchilov and Hutter 2017).
    Cosine {
        /// Steps of linear growth before it.
        warmup: usize,
    },
    /// `cycles` half cosines, each from the rate down to 0 (Huang et al. 2017).
    Cyclical {
        /// Number of cycles, at least 1.
        cycles: usize,
    },
}

impl Schedule {
    /// The rate at `step` of `steps`, as a share of the base rate.
    pub fn factor(&self, step: usize, steps: usize) -> f32 {
        let half_cosine = |at: usize, length: usize| {
            let angle = std::f64::consts::PI * at as f64 / length.max(1) as f64;
            (0.5 * (angle.cos() + 1.0)) as f32
        };
        match *self {
            Schedule::Constant => 1.0,
            Schedule::Cosine { warmup } if step < warmup => (step + 1) as f32 / (warmup + 1) as f32,
            Schedule::Cosine { warmup } => half_cosine(step - warmup, steps.saturating_sub(warmup)),
            Schedule::Cyclical { cycles } => {
                let (at, length) = in_cycle(step, steps, cycles);
                half_cosine(at, length)
            }
        }
    }

    /// Whether a sampler is still on its way to a mode at `step` of `steps`, and adds no noise: in
    /// the first quarter of a cycle (of the run when the schedule has no cycles).
    pub fn explores(&self, step: usize, steps: usize) -> bool {
        let (at, length) = match *self {
            Schedule::Cyclical { cycles } => in_cycle(step, steps, cycles),
            _ => (step, steps),
        };
        4 * at < length
    }

    /// Whether a snapshot is due after `step` of `steps`, `per_cycle` of them in each cycle (in
    /// each of `snapshots` equal parts when the schedule has no cycles), the first quarter of a
    /// cycle of L steps being left out: due after ⌊(1/4 + 3j/4s) L⌋ of them, j = 1..s (method of
    /// cSG-MCMC, Zhang et al. 2020).
    pub fn snapshot_due(&self, step: usize, steps: usize, snapshots: usize) -> bool {
        let Schedule::Cyclical { cycles } = *self else {
            return (step + 1) * snapshots / steps.max(1) > step * snapshots / steps.max(1);
        };
        let per_cycle = snapshots.div_ceil(cycles.max(1));
        let (at, length) = in_cycle(step, steps, cycles);
        (1..=per_cycle).any(|j| {
            let share = 0.25 + 0.75 * j as f64 / per_cycle as f64;
            (share * length as f64) as usize == at + 1
        })
    }
}

/// Where in its cycle `step` of `steps` is, and the cycle's length: lengths differ by one at most.
fn in_cycle(step: usize, steps: usize, cycles: usize) -> (usize, usize) {
    let [step, steps, cycles] = [step, steps.max(1), cycles.max(1)].map(|x| x as u128);
    let cycle = (step * cycles / steps).min(cycles - 1);
    let [start, end] = [cycle, cycle + 1].map(|cycle| (cycle * steps).div_ceil(cycles));
    ((step - start) as usize, (end - start) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T14: four cycles of 30 steps, three snapshots each, base rate 0.1.
    #[test]
    fn the_cyclical_schedule_has_the_published_rates_and_snapshots() {
        let schedule = Schedule::Cyclical { cycles: 4 };
        let rates = [
            (0, 0.1),
            (7, 0.087_157_2),
            (8, 0.083_456_5),
            (14, 0.055_226_4),
            (21, 0.020_610_7),
            (22, 0.016_543_5),
            (29, 0.000_273_9),
        ];
        for (step, rate) in rates {
            for cycle in 0..4 {
                let got = 0.1 * schedule.factor(cycle * 30 + step, 120);
                assert!((got - rate).abs() < 1e-7, "step {step}: {got} is not {rate}");
            }
        }
        let due: Vec<usize> =
            (0..30).filter(|&s| schedule.snapshot_due(s, 120, 12)).map(|s| s + 1).collect();
        assert_eq!(due, [15, 22, 30]);
        assert_eq!((0..120).filter(|&s| schedule.snapshot_due(s, 120, 12)).count(), 12);
        for step in 0..120 {
            assert_eq!(schedule.explores(step, 120), step % 30 < 8, "step {step}");
        }
        let quiet = (0..10).filter(|&step| Schedule::Constant.explores(step, 10)).count();
        assert_eq!(quiet, 3);
    }

    /// Of the 50 steps a cycle has 12 or 13, and the last is as complete as the others.
    #[test]
    fn cycles_of_steps_that_they_do_not_divide_are_whole() {
        for (steps, cycles, snapshots) in [(50, 4, 8), (7, 3, 3), (100, 7, 21), (3, 5, 5)] {
            let schedule = Schedule::Cyclical { cycles };
            let mut due = (0..steps).filter(|&step| schedule.snapshot_due(step, steps, snapshots));
            assert_eq!(due.clone().count(), snapshots.min(steps), "{steps} in {cycles}");
            assert_eq!(due.next_back(), Some(steps - 1));
            let begun = (0..steps).filter(|&step| schedule.factor(step, steps) == 1.0).count();
            assert_eq!(begun, cycles.min(steps), "{steps} in {cycles}");
        }
    }

    #[test]
    fn without_cycles_snapshots_are_evenly_spread_and_end_with_the_run() {
        for (steps, snapshots) in [(12, 4), (13, 5), (100, 7), (3, 3)] {
            let due: Vec<usize> = (0..steps)
                .filter(|&s| Schedule::Constant.snapshot_due(s, steps, snapshots))
                .collect();
            assert_eq!(due.len(), snapshots);
            assert_eq!(due.last(), Some(&(steps - 1)));
        }
    }

    #[test]
    fn cosine_warms_up_and_ends_near_zero() {
        let schedule = Schedule::Cosine { warmup: 3 };
        let rates: Vec<f32> = (0..100).map(|s| schedule.factor(s, 100)).collect();
        assert!(rates[..3].windows(2).all(|w| w[0] < w[1]) && rates[3] == 1.0);
        assert!(rates[3..].windows(2).all(|w| w[0] > w[1]) && rates[99] < 1e-3);
    }

    #[test]
    fn a_samplers_numbers_name_its_seed_and_step() {
        let sgld = Optimizer::Sgld { temperature: 0.5, preconditioned: false };
        for (seed, step) in [(0, 0), (0x0123_4567_89AB_CDEF, 65_537), (u64::MAX, 0xFFFF_FFFF)] {
            let hyper = sgld.hyper(step, 0.02, 0.0, Noise::new(seed, 50));
            let value = |which: Hyper| f64::from(hyper[which as usize]);
            assert_eq!(Hyper::number(&Hyper::SEED, value), seed);
            assert_eq!(Hyper::number(&Hyper::STEP, value), step as u64);
            // √(2rT/N) = √(2 · 0.02 · 0.5 / 50)
            assert!((hyper[Hyper::NoiseScale as usize] - 0.02).abs() < 1e-8);
        }
        let hyper = sgld.hyper(0x0005_0003, 0.0, 0.0, Noise::new(0x9_0008_0007, 1));
        assert_eq!(hyper[9..], [7.0, 8.0, 9.0, 0.0, 3.0, 5.0, 1.0]);
        let noise = Noise { mean_variance: 0.25, ..Noise::new(0, 1) };
        assert_eq!(sgld.hyper(0, 0.0, 0.0, noise)[Hyper::Preconditioner as usize], 4.0);
        assert_eq!(sgld.without_noise().hyper(0, 0.1, 0.0, noise)[Hyper::NoiseScale as usize], 0.0);
    }

    #[test]
    fn constants_out_of_range_are_named() {
        let error = Optimizer::Sgd { momentum: 1.0 }.check().expect_err("momentum 1 never settles");
        assert!(error.to_string().contains("momentum is 1"), "{error}");
        let error = Optimizer::Sgld { temperature: -1.0, preconditioned: false }
            .check()
            .expect_err("a variance is below 0");
        assert!(error.to_string().contains("temperature is -1"), "{error}");
        for friction in [0.0, 1.5, f32::NAN] {
            let error = Optimizer::Sghmc { temperature: 1.0, friction, preconditioned: true }
                .check()
                .expect_err("a velocity that is never lost, or more than lost");
            assert!(error.to_string().contains("friction is"), "{error}");
        }
    }
}
