//! Update: a parameter's optimiser step with its Gaussian prior, in one pass over memory.
//!
//! The formulas are those of [`Update`]; here they run block by block, so that θ, the gradient, the
//! moments, mean, precision and the K factor rows are each read from memory once, and θ and the
//! moments written once. The steps of a block pass short vectors to each other that stay in cache.
//! Each block adds its K + 1 sums up in `f64` and leaves them in scratch; they are added in order
//! of the blocks, in `f64` again, so the result does not depend on the number of threads.

use super::noise::{self, Noise};
use super::vectorised::{Vectorised, widest};
use crate::graph::{Hyper, Method, PriorTerm, Update};
use crate::threads::{Parts, Threads};

/// Elements of a block: runs long enough for the processor to read ahead on each of a dozen
/// tensors, short enough that all of them stay in the second-level cache.
const BLOCK: usize = 4096;

// Each block begins with a counter of its own.
const _: () = assert!(BLOCK.is_multiple_of(noise::WORDS));

/// Blocks of a task.
const BLOCKS: usize = 4;

/// Partial sums kept side by side within a block.
const LANES: usize = 16;
/// Elements of W s that are summed in registers.
const WIDE: usize = 64;

/// A short vector between two steps of a block.
type Vector = [f32; BLOCK];

/// What a prior without a stored mean is centred on.
const ZEROS: &Vector = &[0.0; BLOCK];

/// The precision of a prior that stores none.
const ONES: &Vector = &[1.0; BLOCK];

/// The operands and results of an update; θ and the moments are replaced in place.
///
/// All slices of P elements belong to one parameter. Slices that the update does not take (`m` of
/// SGLD, `v` of all but AdamW, the prior's, `sums` without a prior) are empty.
pub struct Operands<'a> {
    /// `[P]`
    pub theta: &'a mut [f32],
    /// `[P]`
    pub grad: &'a [f32],
    /// `[Hyper::COUNT]`
    pub hyper: &'a [f32],
    /// c, which the gradient is multiplied by.
    pub grad_scale: f32,
    /// First moments, `[P]`; not SGLD.
    pub m: &'a mut [f32],
    /// Second moments, `[P]`; AdamW only.
    pub v: &'a mut [f32],
    /// μ, `[P]`.
    pub mean: &'a [f32],
    /// d⁻¹, `[P]`.
    pub precision: &'a [f32],
    /// W, `[K, P]`.
    pub factor: &'a [f32],
    /// s, `[K]`.
    pub coefficients: &'a [f32],
    /// The sums over x', `[PriorTerm::sums]`.
    pub sums: &'a mut [f32],
    /// `[scratch_len]`
    pub scratch: &'a mut [f32],
}

/// Number of scratch elements for a parameter of `len` elements, whatever the number of threads.
pub fn scratch_len(prior: PriorTerm, len: usize) -> usize {
    len.div_ceil(BLOCK) * prior.sums()
}

/// Makes one step.
///
/// # Panics
/// When the operands' lengths are not those that [`Operands`] states.
pub fn update(threads: &Threads, update: &Update, operands: Operands<'_>) {
    check_lengths(update, &operands);
    let len = operands.theta.len();
    let count = update.prior.sums();
    let rates = Rates::new(update.method, operands.hyper, operands.grad_scale);
    let prior = Prior {
        len,
        weight: match update.prior {
            PriorTerm::None => 0.0,
            _ => operands.hyper[Hyper::PriorWeight as usize],
        },
        mean: operands.mean,
        precision: operands.precision,
        factor: operands.factor,
        coefficients: operands.coefficients,
    };
    let Operands { grad, sums, scratch, .. } = operands;
    let [theta, m, v] = [operands.theta, operands.m, operands.v].map(Parts::new);
    let partial = Parts::new(&mut scratch[..]);
    let blocks = len.div_ceil(BLOCK);
    let moments = update.method.moments().len();
    let [first, second] = [1, 2].map(|moment| usize::from(moments >= moment));
    threads.run(blocks.div_ceil(BLOCKS), |task, _| {
        for block in task * BLOCKS..((task + 1) * BLOCKS).min(blocks) {
            let start = block * BLOCK;
            let run = BLOCK.min(len - start);
            // SAFETY: every block has its own range of each slice, and one task runs it.
            let (theta, m, v, sums) = unsafe {
                (
                    theta.part(start, run),
                    m.part(start * first, run * first),
                    v.part(start * second, run * second),
                    partial.part(block * count, count),
                )
            };
            let grad = &grad[start..start + run];
            widest(Block { start, theta, grad, m, v, rates, prior: &prior, sums });
        }
    });
    for (k, sum) in sums.iter_mut().enumerate() {
        let terms = scratch[..blocks * count].iter().skip(k).step_by(count);
        *sum = terms.map(|&term| f64::from(term)).sum::<f64>() as f32;
    }
}

fn check_lengths(update: &Update, o: &Operands<'_>) {
    let len = o.theta.len();
    let (mean, precision, rank) = match update.prior {
        PriorTerm::None | PriorTerm::Isotropic { centred: false } => (0, 0, 0),
        PriorTerm::Isotropic { centred: true } => (len, 0, 0),
        PriorTerm::Diagonal => (len, len, 0),
        PriorTerm::LowRank { rank } => (len, len, rank),
    };
    let moments = update.method.moments().len();
    let [first, second] = [1, 2].map(|moment| if moments >= moment { len } else { 0 });
    let given = [o.grad.len(), o.hyper.len(), o.m.len(), o.v.len(), o.mean.len()];
    assert_eq!(given, [len, Hyper::COUNT, first, second, mean], "operands fit the parameter");
    let given = [o.precision.len(), o.factor.len(), o.coefficients.len(), o.sums.len()];
    let sums = update.prior.sums();
    assert_eq!(given, [precision, rank * len, rank, sums], "operands fit the prior");
    assert!(o.scratch.len() >= scratch_len(update.prior, len), "scratch holds the blocks' sums");
}

/// The numbers of an optimiser that are the same for all elements.
#[derive(Clone, Copy)]
struct Rates {
    grad_scale: f32,
    /// β, or β₁ and β₂.
    beta: [f32; 2],
    method: MethodRates,
}

#[derive(Clone, Copy)]
enum MethodRates {
    /// step = direct · c g + lag · m', η = eta
    Sgd { direct: f32, lag: f32, eta: f32 },
    /// The inverse bias corrections, r, e, and what θ is shrunk by.
    AdamW { unbias: [f32; 2], rate: f32, epsilon: f32, shrink: f32 },
    /// SGLD, and SGHMC, which keeps a velocity.
    Sampler { rates: SamplerRates, noise: Noise, keeps_velocity: bool },
}

#[derive(Clone, Copy)]
struct SamplerRates {
    rate: f32,
    /// β; 0 for SGLD.
    beta: f32,
    /// σ
    scale: f32,
    /// κ, when the step of a weight is proportional to its variance.
    preconditioner: Option<f32>,
}

impl Rates {
    fn new(method: Method, numbers: &[f32], grad_scale: f32) -> Self {
        let hyper = |which: Hyper| numbers[which as usize];
        let rate = hyper(Hyper::LearningRate);
        let beta = [hyper(Hyper::Beta1), hyper(Hyper::Beta2)];
        let method = match method {
            Method::Sgd { nesterov } => {
                let [direct, lag] = if nesterov { [rate, rate * beta[0]] } else { [0.0, rate] };
                MethodRates::Sgd { direct, lag, eta: rate / (1.0 - beta[0]) }
            }
            Method::AdamW => MethodRates::AdamW {
                unbias: [Hyper::BiasCorrection1, Hyper::BiasCorrection2].map(|b| 1.0 / hyper(b)),
                rate,
                epsilon: hyper(Hyper::Epsilon),
                shrink: 1.0 - rate * hyper(Hyper::WeightDecay),
            },
            Method::Sgld { lane, preconditioned } | Method::Sghmc { lane, preconditioned } => {
                let keeps_velocity = matches!(method, Method::Sghmc { .. });
                let rates = SamplerRates {
                    rate,
                    beta: if keeps_velocity { beta[0] } else { 0.0 },
                    scale: hyper(Hyper::NoiseScale),
                    preconditioner: preconditioned.then(|| hyper(Hyper::Preconditioner)),
                };
                MethodRates::Sampler { rates, noise: Noise::new(numbers, lane), keeps_velocity }
            }
        };
        Rates { grad_scale, beta, method }
    }
}

/// The prior of the whole parameter; what it does not store is empty.
struct Prior<'a> {
    len: usize,
    weight: f32,
    mean: &'a [f32],
    precision: &'a [f32],
    factor: &'a [f32],
    coefficients: &'a [f32],
}

impl Prior<'_> {
    /// The run of `len` elements from `start` of factor column `k`.
    #[inline(always)]
    fn column(&self, k: usize, start: usize, len: usize) -> &[f32] {
        &self.factor[k * self.len + start..][..len]
    }
}

/// The run of `len` elements from `start` of what the prior stores, or of `default`.
#[inline(always)]
fn stored<'a>(tensor: &'a [f32], default: &'a Vector, start: usize, len: usize) -> &'a [f32] {
    if tensor.is_empty() { &default[..len] } else { &tensor[start..start + len] }
}

/// One block of the update: the elements from `start` on of each tensor.
struct Block<'a> {
    start: usize,
    theta: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    rates: Rates,
    prior: &'a Prior<'a>,
    sums: &'a mut [f32],
}

impl Vectorised for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(mut self) {
        // Only a prior has sums.
        if let (MethodRates::Sgd { direct, lag, .. }, true) =
            (self.rates.method, self.sums.is_empty())
        {
            return self.sgd(direct, lag);
        }
        let (mut step, mut eta) = ([0.0; BLOCK], [0.0; BLOCK]);
        match self.rates.method {
            MethodRates::Sgd { direct, lag, eta: same } => {
                self.step_sgd(direct, lag, &mut step);
                eta.fill(same);
            }
            MethodRates::AdamW { unbias, rate, epsilon, shrink } => {
                self.step_adamw(unbias, [rate, epsilon], &mut step, &mut eta);
                self.theta.iter_mut().for_each(|theta| *theta *= shrink);
            }
            MethodRates::Sampler { rates, noise, .. } => {
                self.step_sampler(rates, noise, &mut step, &mut eta);
            }
        }
        let mut low_rank = [0.0; BLOCK];
        self.low_rank(&mut low_rank);
        if let MethodRates::Sampler { keeps_velocity: true, .. } = self.rates.method {
            self.keep_velocity(&step, &eta, &low_rank);
        }
        self.proximal(&mut step, &eta, &mut low_rank);
        self.sum::<FUSED>(&step, &low_rank);
    }
}

impl Block<'_> {
    /// A step of SGD without a prior, which passes nothing on.
    #[inline(always)]
    fn sgd(&mut self, direct: f32, lag: f32) {
        let Rates { grad_scale, beta: [beta, _], .. } = self.rates;
        for ((theta, m), grad) in self.theta.iter_mut().zip(&mut *self.m).zip(self.grad) {
            let g = grad_scale * grad;
            *m = beta * *m + g;
            *theta -= direct * g + lag * *m;
        }
    }

    /// m' = β m + c g; step = direct · c g + lag · m'.
    #[inline(always)]
    fn step_sgd(&mut self, direct: f32, lag: f32, step: &mut Vector) {
        let Rates { grad_scale, beta: [beta, _], .. } = self.rates;
        for ((m, grad), step) in self.m.iter_mut().zip(self.grad).zip(step) {
            let g = grad_scale * grad;
            *m = beta * *m + g;
            *step = direct * g + lag * *m;
        }
    }

    /// m' = β₁m + (1-β₁) c g, v' = β₂v + (1-β₂)(c g)²; η = r/(√(v'/b₂) + e), step = η m'/b₁.
    #[inline(always)]
    fn step_adamw(
        &mut self,
        unbias: [f32; 2],
        [rate, epsilon]: [f32; 2],
        step: &mut Vector,
        eta: &mut Vector,
    ) {
        let Rates { grad_scale, beta, .. } = self.rates;
        let moments = self.m.iter_mut().zip(self.v.iter_mut());
        for (((m, v), grad), (step, eta)) in moments.zip(self.grad).zip(step.iter_mut().zip(eta)) {
            let g = grad_scale * grad;
            *m = beta[0] * *m + (1.0 - beta[0]) * g;
            *v = beta[1] * *v + (1.0 - beta[1]) * g * g;
            *eta = rate / ((*v * unbias[1]).sqrt() + epsilon);
            *step = *eta * (*m * unbias[0]);
        }
    }

    /// η = rᵢ, step = rᵢ c g - β m - σᵢ ξ
    #[inline(always)]
    fn step_sampler(&self, rates: SamplerRates, noise: Noise, step: &mut Vector, eta: &mut Vector) {
        let SamplerRates { rate, beta, scale, preconditioner } = rates;
        let precision = stored(self.prior.precision, ONES, self.start, self.theta.len());
        let mut share = [1.0; BLOCK];
        if let Some(kappa) = preconditioner {
            share.iter_mut().zip(precision).for_each(|(share, d)| *share = kappa / d);
        }
        eta.iter_mut().zip(&share).for_each(|(eta, share)| *eta = rate * share);
        // Without temperature nothing is drawn.
        if scale != 0.0 {
            noise.fill(self.start, &mut step[..self.grad.len()]);
            let weight = self.prior.weight;
            let rates = eta.iter().zip(&share);
            for ((step, d), (eta, share)) in step.iter_mut().zip(precision).zip(rates) {
                let h = eta * weight * d;
                let spread = (1.0 - beta + h) * (2.0 + 2.0 * beta + h) / (2.0 * (1.0 + beta + h));
                *step *= scale * (share * spread).sqrt();
            }
        }
        let grad_scale = self.rates.grad_scale;
        for ((step, eta), grad) in step.iter_mut().zip(eta.iter()).zip(self.grad) {
            *step = eta * (grad_scale * grad) - *step;
        }
        // Nothing is kept by SGLD.
        for (step, m) in step.iter_mut().zip(&*self.m) {
            *step -= beta * m;
        }
    }

    /// m' = x' - x = (η w d⁻¹ (W s - x) - step) / (1 + η w d⁻¹), without the rounding of θ.
    #[inline(always)]
    fn keep_velocity(&mut self, step: &Vector, eta: &Vector, low_rank: &Vector) {
        let prior = self.prior;
        let mean = stored(prior.mean, ZEROS, self.start, self.theta.len());
        let precision = stored(prior.precision, ONES, self.start, self.theta.len());
        let operands = mean.iter().zip(precision).zip(step.iter().zip(eta).zip(low_rank));
        let results = self.m.iter_mut().zip(&*self.theta);
        for ((m, theta), ((mean, d), ((step, eta), low_rank))) in results.zip(operands) {
            let pull = eta * prior.weight * d;
            *m = (pull * (low_rank - (theta - mean)) - step) / (1.0 + pull);
        }
    }

    /// W s
    #[inline(always)]
    fn low_rank(&self, low_rank: &mut Vector) {
        let len = self.theta.len();
        let low_rank = &mut low_rank[..len];
        for (index, sums) in low_rank.chunks_mut(WIDE).enumerate() {
            let start = self.start + index * WIDE;
            // The same, but compilers know the length of a whole chunk and keep it in registers.
            match sums.as_chunks_mut::<WIDE>().0 {
                [sums] => self.add_columns(start, sums),
                _ => self.add_columns(start, sums),
            }
        }
    }

    /// Adds the elements of W s from `start` on.
    #[inline(always)]
    fn add_columns(&self, start: usize, sums: &mut [f32]) {
        for (k, s) in self.prior.coefficients.iter().enumerate() {
            let column = self.prior.column(k, start, sums.len());
            sums.iter_mut().zip(column).for_each(|(sum, f)| *sum += f * s);
        }
    }

    /// x' = (θ - μ - step + η w d⁻¹ W s) / (1 + η w d⁻¹), θ' = μ + x'; leaves x' and d⁻¹x' in place
    /// of the step and of W s.
    #[inline(always)]
    fn proximal(&mut self, step: &mut Vector, eta: &Vector, low_rank: &mut Vector) {
        let prior = self.prior;
        let mean = stored(prior.mean, ZEROS, self.start, self.theta.len());
        let precision = stored(prior.precision, ONES, self.start, self.theta.len());
        let operands = mean.iter().zip(precision).zip(eta);
        let results = self.theta.iter_mut().zip(step.iter_mut().zip(low_rank));
        for ((theta, (step, low_rank)), ((mean, d), eta)) in results.zip(operands) {
            let pull = eta * prior.weight * d;
            let x = (*theta - mean - *step + pull * *low_rank) / (1.0 + pull);
            (*step, *low_rank) = (x, d * x);
            *theta = mean + x;
        }
    }

    /// The block's share of Wᵀd⁻¹x' and x'ᵀd⁻¹x'.
    #[inline(always)]
    fn sum<const FUSED: bool>(&mut self, x: &Vector, dx: &Vector) {
        let Some((quadratic, projections)) = self.sums.split_last_mut() else { return };
        *quadratic = dot::<FUSED>(x, dx);
        let len = self.theta.len();
        for (k, projection) in projections.iter_mut().enumerate() {
            *projection = dot::<FUSED>(self.prior.column(k, self.start, len), &dx[..len]);
        }
    }
}

/// Σ a·b in `f64`, as [`LANES`] sums side by side.
#[inline(always)]
fn dot<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = add_product::<FUSED>(lanes[i], a[i], b[i]);
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    let rest = rest.fold(0.0, |sum, (&a, &b)| add_product::<FUSED>(sum, a, b));
    (lanes.iter().sum::<f64>() + rest) as f32
}

/// `sum + a·b`. The product of two `f32` is exact in `f64`, so that fusing changes no bit.
#[inline(always)]
fn add_product<const FUSED: bool>(sum: f64, a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    if FUSED { a.mul_add(b, sum) } else { sum + a * b }
}

#[cfg(test)]
mod tests;
