//! The optimiser's step with its prior: the formulas of [`Update`], one element at a time.

use super::Array;
use crate::graph::{Hyper, Method, PriorTerm, Update};
use crate::rng::{Key, Stream, unit};

/// What the optimiser alone wants of one element.
struct Proposal {
    /// θ, shrunk by AdamW's weight decay.
    theta: f64,
    /// The step against the likelihood's gradient.
    step: f64,
    /// η, the step size that the prior's proximal step shares.
    eta: f64,
    /// The new moments; SGD has no second, and SGLD has none. SGHMC's is known after the prior.
    moments: [f64; 2],
}

/// What one element knows of its prior.
#[derive(Clone, Copy)]
struct Pull {
    /// w d⁻¹; 0 without a prior.
    precision: f64,
    /// d; 1 where the prior stores none.
    variance: f64,
}

/// The results of `update` in order: θ', the new moments, and with a prior the sums.
pub(super) fn update(update: &Update, operands: &[&Array]) -> Vec<Vec<f64>> {
    let [theta, grad, hyper, scale] = [operands[0], operands[1], operands[2], operands[3]];
    let (moments, prior) = operands[4..].split_at(update.method.moments().len());
    let mut moments: Vec<Vec<f64>> = moments.iter().map(|m| m.to_vec()).collect();
    let mut next = Vec::with_capacity(theta.len());
    for i in 0..theta.len() {
        let old = [0, 1].map(|at| moments.get(at).map_or(0.0, |m: &Vec<f64>| m[i]));
        let pull = pull(update.prior, hyper, prior, i);
        let mut proposal =
            propose(update.method, hyper, i, theta[i], scale[0] * grad[i], old, pull);
        let moved = proximal(update.prior, hyper, prior, i, &proposal);
        if matches!(update.method, Method::Sghmc { .. }) {
            proposal.moments[0] = moved - theta[i];
        }
        next.push(moved);
        moments.iter_mut().zip(proposal.moments).for_each(|(all, new)| all[i] = new);
    }
    let sums = sums(update.prior, prior, &next);
    let mut results = vec![next];
    results.append(&mut moments);
    results.extend(sums);
    results
}

/// Advances the moments of element `i` by its scaled gradient `g`, and proposes a step.
///
/// ```text
/// SGD:   m' = β m + g                δ = g + β m' (Nesterov) or m'   step r δ      η = r/(1-β)
/// AdamW: m' = β₁m + (1-β₁) g         v' = β₂v + (1-β₂) g²            step η m'/b₁
///        θ shrinks by 1 - r·decay                                    η = r/(√(v'/b₂) + e)
/// SGLD:  rᵢ = r or r κ d                                            step rᵢg - σᵢξ  η = rᵢ
/// SGHMC:                                                      step rᵢg - β m - σᵢξ  η = rᵢ
/// ```
fn propose(
    method: Method,
    numbers: &[f64],
    i: usize,
    theta: f64,
    g: f64,
    [m, v]: [f64; 2],
    pull: Pull,
) -> Proposal {
    let hyper = |which: Hyper| numbers[which as usize];
    let (r, beta1) = (hyper(Hyper::LearningRate), hyper(Hyper::Beta1));
    match method {
        Method::Sgd { nesterov } => {
            let m = beta1 * m + g;
            let delta = if nesterov { g + beta1 * m } else { m };
            Proposal { theta, step: r * delta, eta: r / (1.0 - beta1), moments: [m, v] }
        }
        Method::AdamW => {
            let beta2 = hyper(Hyper::Beta2);
            let m = beta1 * m + (1.0 - beta1) * g;
            let v = beta2 * v + (1.0 - beta2) * g * g;
            let root = (v / hyper(Hyper::BiasCorrection2)).sqrt();
            let eta = r / (root + hyper(Hyper::Epsilon));
            let step = eta * m / hyper(Hyper::BiasCorrection1);
            let theta = theta * (1.0 - r * hyper(Hyper::WeightDecay));
            Proposal { theta, step, eta, moments: [m, v] }
        }
        Method::Sgld { lane, preconditioned } | Method::Sghmc { lane, preconditioned } => {
            let share =
                if preconditioned { hyper(Hyper::Preconditioner) * pull.variance } else { 1.0 };
            let beta = if matches!(method, Method::Sghmc { .. }) { beta1 } else { 0.0 };
            let eta = r * share;
            let h = eta * pull.precision;
            let spread = (1.0 - beta + h) * (2.0 + 2.0 * beta + h) / (2.0 * (1.0 + beta + h));
            let sigma = hyper(Hyper::NoiseScale) * (share * spread).sqrt();
            let step = eta * g - beta * m - sigma * noise(lane, numbers, i);
            Proposal { theta, step, eta, moments: [m, v] }
        }
    }
}

/// What element `i` knows of its prior.
fn pull(term: PriorTerm, hyper: &[f64], prior: &[&Array], i: usize) -> Pull {
    let (_, precision) = diagonal(prior, i);
    let weight = match term {
        PriorTerm::None => 0.0,
        _ => hyper[Hyper::PriorWeight as usize],
    };
    Pull { precision: weight * precision, variance: 1.0 / precision }
}

/// ξ of element `i`, by the formulas of Box and Muller on words `i mod 4 / 2` of block `i / 4`.
fn noise(lane: u32, hyper: &[f64], i: usize) -> f64 {
    let number = |digits: &[Hyper]| Hyper::number(digits, |which| hyper[which as usize]);
    let key = Key::new(number(&Hyper::SEED), Stream::Noise);
    let words = key.block(number(&Hyper::STEP), (u64::from(lane) << 32) | (i / 4) as u64);
    let [a, b] = [words[i % 4 / 2 * 2], words[i % 4 / 2 * 2 + 1]].map(|w| f64::from(unit(w)));
    let (sin, cos) = (std::f64::consts::TAU * b).sin_cos();
    (-2.0 * a.ln()).sqrt() * if i.is_multiple_of(2) { cos } else { sin }
}

/// θ' = μ + (x - step + η w d⁻¹ (W s)) / (1 + η w d⁻¹) for element `i`, x = θ - μ; without a
/// prior θ' = θ - step.
fn proximal(term: PriorTerm, hyper: &[f64], prior: &[&Array], i: usize, p: &Proposal) -> f64 {
    if term == PriorTerm::None {
        return p.theta - p.step;
    }
    let (mean, precision) = diagonal(prior, i);
    let pull = p.eta * hyper[Hyper::PriorWeight as usize] * precision;
    let low_rank: f64 = match prior {
        [mean, _, factor, s] => (0..s.len()).map(|k| factor[k * mean.len() + i] * s[k]).sum(),
        _ => 0.0,
    };
    mean + (p.theta - mean - p.step + pull * low_rank) / (1.0 + pull)
}

/// μ and d⁻¹ of element `i`; 0 and 1 where the prior stores none.
fn diagonal(prior: &[&Array], i: usize) -> (f64, f64) {
    (prior.first().map_or(0.0, |mean| mean[i]), prior.get(1).map_or(1.0, |d| d[i]))
}

/// Wᵀd⁻¹x' and x'ᵀd⁻¹x' in one vector, x' = θ' - μ; nothing without a prior.
fn sums(term: PriorTerm, prior: &[&Array], next: &[f64]) -> Option<Vec<f64>> {
    if term == PriorTerm::None {
        return None;
    }
    let elements = next.iter().enumerate().map(|(i, theta)| {
        let (mean, precision) = diagonal(prior, i);
        (theta - mean, precision)
    });
    let weighted: Vec<(f64, f64)> = elements.map(|(x, d)| (x, d * x)).collect();
    let mut sums: Vec<f64> = match prior {
        [_, _, factor, s] => (0..s.len())
            .map(|k| {
                let column = &factor[k * next.len()..][..next.len()];
                column.iter().zip(&weighted).map(|(f, (_, dx))| f * dx).sum()
            })
            .collect(),
        _ => Vec::new(),
    };
    sums.push(weighted.iter().map(|(x, dx)| x * dx).sum());
    Some(sums)
}
