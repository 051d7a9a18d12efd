//! The whole language: every operation a graph can hold.
//!
//! All values are `f32` tensors with static shapes. Element-wise operations take operands of equal
//! shape; broadcasting is an operation of its own, so that every rule (shape, evaluation, vjp,
//! lowering) is one line. The set is closed under vjp. Conditions are values too: 0 is false.

use std::sync::Arc;

use crate::tensor::{Shape, Tensor};

/// One operation. `x`, `w`, `ct` name operands in order; shapes are in the letters of the
/// glossary (N batch, C channels, H W space).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A named value from outside the graph.
    Leaf(Leaf),
    /// A value known when the graph is built.
    Const(Tensor),

    /// Element-wise function of one operand.
    Unary(Unary),
    /// Element-wise function of two operands of equal shape.
    Binary(Binary),
    /// `cond, a, b`: `a` where `cond` is not 0, else `b`; equal shapes.
    Select,

    /// The operand repeated along axes of extent 1 to `shape`; same number of dimensions.
    Broadcast(Shape),
    /// The same elements in row-major order under another shape.
    Reshape(Shape),
    /// Axis `i` of the result is axis `perm[i]` of the operand.
    Transpose(Vec<usize>),
    /// Every `step`-th index of `start..end` along `axis`.
    Slice(Slice),
    /// Zeros around and between the elements along each axis.
    Pad(Vec<PadAxis>),
    /// Operands joined along `axis`.
    Concat(usize),
    /// The rows `indices` of `axis`; the inverse of [`Op::ScatterAdd`] in the vjp sense.
    Gather(Indices),
    /// Rows added into a zero tensor at `indices` of `axis`.
    ScatterAdd(Indices, usize),

    /// Reduction over `axes`, which keep extent 1.
    Reduce(Reduction, Vec<usize>),

    /// Batched product of `[.., M, K]` and `[.., K, N]` with equal batch extents; a transposed
    /// operand is stored with its last two axes exchanged.
    MatMul(MatMul),
    /// `x: [N, C, H, W], w: [O, C/groups, KH, KW]` to `[N, O, OH, OW]` (cross-correlation).
    Conv2d(Conv2d),
    /// `ct: [N, O, OH, OW], w` to the cotangent of `x: [N, C, H, W]`.
    Conv2dInputGrad(Conv2d),
    /// `x, ct` to the cotangent of `w`.
    Conv2dFilterGrad(Conv2d),

    /// Largest element of each window of `x: [N, C, H, W]`; padding never wins.
    MaxPool(Pool2d),
    /// `x, ct` to the cotangent of `x`: each `ct` goes to the first largest element of its window.
    MaxPoolGrad(Pool2d),
    /// Sum over each window of `x: [N, C, H, W]`, padding counted as zero.
    SumPool(Pool2d),
    /// `ct` to the cotangent of `x`.
    SumPoolGrad(Pool2d),

    /// exp(x) / Σ exp(x) over the last axis.
    Softmax,
    /// x - ln Σ exp(x) over the last axis.
    LogSoftmax,

    /// One parameter's optimiser step with its Gaussian prior; see [`Update`].
    Update(Update),
}

/// A named value from outside the graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// What kind of value it is.
    pub kind: LeafKind,
    /// Its name, unique in the graph.
    pub name: String,
}

/// Who writes a leaf, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeafKind {
    /// Written by the caller before each run.
    Input,
    /// A model weight: resident, shared by all graphs of one session.
    Param,
    /// Resident like a parameter, but not part of the model: moments, prior tensors.
    State,
}

/// Element-wise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// -x
    Neg,
    /// |x|
    Abs,
    /// -1, 0 or 1
    Sign,
    /// eˣ
    Exp,
    /// ln x
    Log,
    /// √x
    Sqrt,
    /// 1/√x
    Rsqrt,
    /// 1/x
    Recip,
    /// tanh x
    Tanh,
    /// erf x = 2/√π ∫₀ˣ exp(-t²) dt
    Erf,
    /// 1/(1 + e⁻ˣ)
    Sigmoid,
    /// x Φ(x), where Φ(x) = ½ (1 + erf(x/√2)) (Hendrycks and Gimpel 2016)
    Gelu,
    /// Φ(x) + x φ(x) with φ = Φ', the slope of [`Unary::Gelu`]
    GeluSlope,
    /// max(x, 0)
    Relu,
    /// min(max(x, lo), hi); its cotangent passes strictly inside only
    Clamp(f32, f32),
    /// x raised to a constant power
    Powf(f32),
}

/// Element-wise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// the larger; a cotangent goes to `a` only where a > b
    Max,
    /// the smaller; a cotangent goes to `a` only where a < b
    Min,
    /// 1 where a < b, else 0; not differentiable
    Less,
}

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Σ
    Sum,
    /// The largest element.
    Max,
}

/// Indices `start, start + step, ...` below `end` of one axis; `step` is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Slice {
    pub axis: usize,
    pub start: usize,
    pub end: usize,
    pub step: usize,
}

impl Slice {
    /// Number of indices taken.
    pub fn count(&self) -> usize {
        (self.end.saturating_sub(self.start)).div_ceil(self.step)
    }
}

/// Zeros put before, after, and between neighbours of one axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct PadAxis {
    pub low: usize,
    pub high: usize,
    pub interior: usize,
}

impl PadAxis {
    /// The padded extent of an axis of `extent`.
    pub fn padded(&self, extent: usize) -> usize {
        self.low + self.high + extent + self.interior * extent.saturating_sub(1)
    }
}

/// Constant row numbers along one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Indices {
    pub axis: usize,
    pub rows: Arc<[u32]>,
}

/// Which operands of a product are stored transposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct MatMul {
    pub transpose_a: bool,
    pub transpose_b: bool,
}

/// The full geometry of a convolution: enough to give the shape of input, filter and output.
/// Pairs are `[height, width]`; `pad` is at the top and left, the rest follows from the extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Conv2d {
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub groups: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
    pub dilation: [usize; 2],
}

impl Conv2d {
    /// `[N, C, H, W]`
    pub fn input_shape(&self) -> Shape {
        [self.batch, self.in_channels, self.input[0], self.input[1]].into()
    }

    /// `[O, C/groups, KH, KW]`
    pub fn filter_shape(&self) -> Shape {
        let per_group = self.in_channels / self.groups;
        [self.out_channels, per_group, self.kernel[0], self.kernel[1]].into()
    }

    /// `[N, O, OH, OW]`
    pub fn output_shape(&self) -> Shape {
        [self.batch, self.out_channels, self.output[0], self.output[1]].into()
    }

    /// Multiply-adds of one pass (forward, or either gradient).
    pub fn multiply_adds(&self) -> usize {
        self.output_shape().len()
            * (self.in_channels / self.groups)
            * self.kernel[0]
            * self.kernel[1]
    }
}

/// The full geometry of a pooling window, as in [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Pool2d {
    pub batch: usize,
    pub channels: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 2],
    pub dilation: [usize; 2],
}

impl Pool2d {
    /// `[N, C, H, W]`
    pub fn input_shape(&self) -> Shape {
        [self.batch, self.channels, self.input[0], self.input[1]].into()
    }

    /// `[N, C, OH, OW]`
    pub fn output_shape(&self) -> Shape {
        [self.batch, self.channels, self.output[0], self.output[1]].into()
    }
}

/// The step of one parameter θ under a likelihood gradient g and a Gaussian prior.
///
/// The likelihood part goes through the optimiser; the prior part is a proximal step, which has the
/// same fixed points, cannot diverge however stiff the prior is, and needs no gradient of its own.
/// With precision d⁻¹ (the diagonal), factor W, x = θ - μ, s = C⁻¹Wᵀd⁻¹x and weight w = 1/(λN):
///
/// ```text
/// SGD:   m' = β m + c g            δ = c g + β m' (Nesterov) or m'    η = r/(1-β)
/// AdamW: m' = β₁m + (1-β₁)c g      v' = β₂v + (1-β₂)(c g)²            η = r/(√(v'/b₂) + e)
///        δ = m'/b₁, step r·δ replaced by η·δ
/// SGHMC: rᵢ δ = rᵢ c g - β m - σᵢ ξ, ξ ~ N(0, 1)                      η = rᵢ
///        m' = x' - x
/// SGLD:  the same with β = 0 and no m
/// x' = (x - r δ + η w d⁻¹ W s) / (1 + η w d⁻¹)         θ' = μ + x'
/// ```
///
/// AdamW first shrinks θ by 1 - r·decay. The samplers' step is rᵢ = r, or with preconditioning
/// rᵢ = r κ dᵢ, and their noise
///
/// ```text
/// σᵢ² = σ² (rᵢ/r) (1-β+h)(2+2β+h) / (2(1+β+h)),     h = rᵢ w d⁻¹,     σ² = 2rT/N
/// ```
///
/// is what the step, the implicit part of the prior with it, must add for the prior alone to be
/// sampled exactly at any stiffness h. Where no prior acts, σᵢ² = 2(1-β)rT/N is that of Chen et al.
/// 2014 for the friction 1-β. On a quadratic loss of curvature a beside a prior of precision
/// p = w/d the weights have the variance (T/N) / ((a+p)(1 - rᵢa/(2+2β+h))).
///
/// ξ comes from the counters of [`crate::rng`]: with b = ⌊i/4⌋, element i of θ takes number i - 4b
/// of the four normals of `Key::new(seed, Stream::Noise).normals(step, lane·2³² + b)`; seed and
/// step are in `hyper`.
///
/// Operands, in order: `theta, grad, hyper, grad_scale`, the moments (`m` for SGD and SGHMC, `m, v`
/// for AdamW), then by prior: isotropic: `mean` if centred (d⁻¹ = 1); diagonal: `mean, precision`;
/// low rank: `mean, precision, factor [K, ..], coefficients s [K]`.
/// Results, in order: `theta'`, the new moments, and with a prior the sums `[K + 1]` over x' of
/// (Wᵀd⁻¹x', x'ᵀd⁻¹x'), the next step's projections and diagonal quadratic form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// What is done with the likelihood gradient.
    pub method: Method,
    /// What pulls the parameter back.
    pub prior: PriorTerm,
}

/// Optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Stochastic gradient descent with momentum, Nesterov's or the heavy ball's.
    Sgd {
        /// Look ahead along the momentum (Sutskever et al. 2013).
        nesterov: bool,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Stochastic gradient Langevin dynamics (Welling and Teh 2011): a step of plain gradient
    /// descent, and noise.
    Sgld {
        /// Where this parameter's noise begins: parameters of one step have different lanes.
        lane: u32,
        /// Whether a weight's step is proportional to its variance d under the prior.
        preconditioned: bool,
    },
    /// Stochastic gradient Hamiltonian Monte Carlo (Chen et al. 2014): noise and friction on a
    /// velocity m, the last step.
    Sghmc {
        /// As for SGLD.
        lane: u32,
        /// As for SGLD.
        preconditioned: bool,
    },
}

impl Method {
    /// Names of the moments it keeps, in operand order.
    pub fn moments(&self) -> &'static [&'static str] {
        match self {
            Method::Sgd { .. } | Method::Sghmc { .. } => &["m"],
            Method::AdamW => &["m", "v"],
            Method::Sgld { .. } => &[],
        }
    }

    /// The same method for the parameter whose noise has this lane.
    pub fn for_lane(self, lane: u32) -> Method {
        match self {
            Method::Sgld { preconditioned, .. } => Method::Sgld { lane, preconditioned },
            Method::Sghmc { preconditioned, .. } => Method::Sghmc { lane, preconditioned },
            other => other,
        }
    }
}

/// The prior of one parameter, in the canonical form of the prior file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorTerm {
    /// No prior.
    None,
    /// Precision 1; around a stored mean if centred, around 0 if not.
    Isotropic {
        /// Whether a mean is among the operands.
        centred: bool,
    },
    /// A mean and a precision for each element.
    Diagonal,
    /// Diagonal plus `rank` columns shared with all parameters.
    LowRank {
        /// K.
        rank: usize,
    },
}

impl PriorTerm {
    /// Number of sums an update reports, 0 without a prior.
    pub fn sums(&self) -> usize {
        match self {
            PriorTerm::None => 0,
            PriorTerm::Isotropic { .. } | PriorTerm::Diagonal => 1,
            PriorTerm::LowRank { rank } => rank + 1,
        }
    }

    /// Number of operands it adds to an update.
    pub fn operands(&self) -> usize {
        match self {
            PriorTerm::None | PriorTerm::Isotropic { centred: false } => 0,
            PriorTerm::Isotropic { centred: true } => 1,
            PriorTerm::Diagonal => 2,
            PriorTerm::LowRank { .. } => 4,
        }
    }
}

/// Positions in the `hyper` operand of an [`Update`], a vector of [`Hyper::COUNT`] numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Hyper {
    /// r
    LearningRate = 0,
    /// β of SGD, β₁ of AdamW; β = 1 - friction of SGHMC, and 0 for SGLD
    Beta1 = 1,
    /// β₂
    Beta2 = 2,
    /// e, added to √v
    Epsilon = 3,
    /// decay of AdamW
    WeightDecay = 4,
    /// w = 1/(λN) for the backbone, 1/(τN) for the head
    PriorWeight = 5,
    /// b₁ = 1 - β₁ᵗ
    BiasCorrection1 = 6,
    /// b₂ = 1 - β₂ᵗ
    BiasCorrection2 = 7,
    /// σ = √(2rT/N) of SGLD and SGHMC
    NoiseScale = 8,
    /// The lowest 16 bits of the seed, as a whole number
    Seed0 = 9,
    /// The next 16
    Seed1 = 10,
    /// The next 16
    Seed2 = 11,
    /// The highest 16
    Seed3 = 12,
    /// The lower 16 bits of the step modulo 2³², as a whole number
    Step0 = 13,
    /// The higher 16
    Step1 = 14,
    /// κ, which makes the mean of κ d over all weights 1; read with preconditioning only
    Preconditioner = 15,
}

impl Hyper {
    /// Length of the vector.
    pub const COUNT: usize = 16;
    /// The digits of the seed to the base 2¹⁶, lowest first; `f32` holds each exactly.
    pub const SEED: [Hyper; 4] = [Hyper::Seed0, Hyper::Seed1, Hyper::Seed2, Hyper::Seed3];
    /// The digits of the step.
    pub const STEP: [Hyper; 2] = [Hyper::Step0, Hyper::Step1];

    /// Writes `number` to `hyper` in these digits; what they cannot hold is dropped.
    pub fn spell(hyper: &mut [f32; Hyper::COUNT], digits: &[Hyper], number: u64) {
        for (i, &digit) in digits.iter().enumerate() {
            hyper[digit as usize] = f32::from((number >> (16 * i)) as u16);
        }
    }

    /// The number that these digits hold.
    pub fn number(digits: &[Hyper], value: impl Fn(Hyper) -> f64) -> u64 {
        let digit = |(i, &digit): (usize, &Hyper)| u64::from(value(digit) as u16) << (16 * i);
        digits.iter().enumerate().map(digit).sum()
    }
}
