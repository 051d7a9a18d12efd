//! Gaussian priors over the weights of a backbone.
//!
//! ```text
//! p(θ) = N(μ, λS),   S = ½ diag(v) + ½ QᵀQ/(K-1) + ε I
//! ```
//!
//! over the backbone's trainable parameters, by name: mean μ, variance v, and the K rows of Q, each
//! the deviation of one snapshot of the weights (Shwartz-Ziv et al. 2022; Maddox et al. 2019). The
//! strength λ factors out of everything and is no part of a prior: the gradient and the quadratic
//! form scale as 1/λ, and ln|λS| = ln|S| + D ln λ. With d = v/2 + ε the covariance is
//! diag(d) + W Wᵀ for W = Qᵀ/√(2(K-1)), which is all that the formulas in `density` use. No D×D
//! matrix is ever formed.
//!
//! A prior may be in blocks ([`Grouping`]): then each has a low-rank part of its own.
//!
//! A head has a prior of its own, N(0, τI), which does not live here.

mod blocks;
mod cholesky;
mod compress;
mod density;
mod derive;
mod draws;
pub(crate) mod eigen;
mod file;
mod fit;
mod foreign;
mod header;
mod matching;
mod stats;

use std::collections::BTreeMap;

use crate::error::{Context, Error, Result};
use crate::tensor::{Shape, Tensor};

use blocks::Block;

pub(crate) use cholesky::Cholesky;

pub use blocks::{Grouping, MAX_BLOCKS};
pub use compress::check_share;
pub use draws::DrawsFit;
pub use file::HEADER_BYTES_MAX;
pub use fit::Moments;
pub(crate) use fit::Running;
pub use foreign::{Convention, Deviations, Foreign, ForeignReport, ForeignSettings};
pub use foreign::{ForeignStrength, Layout, Scaling};
pub use header::{CONVENTION, Header, Learned, MAX_RANK, VERSION, VERSION_BLOCKS};
pub use stats::{ParameterStats, Spread, Stats};

/// Weights by the names of their parameters.
pub type Weights = BTreeMap<String, Tensor>;

/// A Gaussian prior N(μ, λS) for every strength λ. Whatever holds one, it is valid: every way to
/// make one goes through the same check.
#[derive(Clone, Debug)]
pub struct Prior {
    header: Header,
    /// In the order of their names.
    parameters: Vec<Parameter>,
    /// At least one; they share the parameters out.
    blocks: Vec<Block>,
}

/// The part of a prior that belongs to one parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: String,
    mean: Tensor,
    var: Tensor,
    dev: Option<Tensor>,
}

impl Parameter {
    /// Mean μ and variance v of the parameter's shape, and its part of the deviations, `[K, ...]`.
    pub fn new(name: impl Into<String>, mean: Tensor, var: Tensor, dev: Option<Tensor>) -> Self {
        let (mean, var) = (row_major(mean), row_major(var));
        Parameter { name: name.into(), mean, var, dev: dev.map(row_major) }
    }

    /// The parameter's name in the backbone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameter's shape.
    pub fn shape(&self) -> Shape {
        self.mean.shape().into()
    }

    /// μ
    pub fn mean(&self) -> &Tensor {
        &self.mean
    }

    /// v, before halving and without ε.
    pub fn var(&self) -> &Tensor {
        &self.var
    }

    /// Q, `[K, ...]`; none in a diagonal prior.
    pub fn dev(&self) -> Option<&Tensor> {
        self.dev.as_ref()
    }

    /// K, the rows of Q; 0 in a diagonal prior.
    fn rank(&self) -> usize {
        self.dev.as_ref().map_or(0, |dev| dev.shape().first().copied().unwrap_or(0))
    }

    /// W = `factor_scale` · Qᵀ
    fn factor_scale(&self) -> f64 {
        match self.rank() {
            0 => 0.0,
            rank => (2.0 * (rank as f64 - 1.0)).sqrt().recip(),
        }
    }

    fn check(&self, rank: usize, eps: f32) -> Result<()> {
        let shape = self.shape();
        if self.name.is_empty() || shape.is_empty() {
            return Err(Error::malformed("a parameter needs a name and at least one element"));
        }
        if self.var.shape() != self.mean.shape() {
            let var = Shape::from(self.var.shape());
            return Err(Error::malformed(format!("var has shape {var}; expected {shape}")));
        }
        let found = self.dev.as_ref().map(|dev| Shape::from(dev.shape()));
        let wanted = (rank > 0).then(|| deviations_shape(rank, &shape));
        if found != wanted {
            let text =
                |s: Option<Shape>| s.map_or("is absent".into(), |s| format!("has shape {s}"));
            let (found, wanted) = (text(found), text(wanted));
            let message = format!("dev {found}; expected of rank {rank} that it {wanted}");
            return Err(Error::malformed(message));
        }
        all("mean", &self.mean, "a finite number", |x| x.is_finite())?;
        all("var", &self.var, "a finite number of at least 0", |x| x.is_finite() && x >= 0.0)?;
        all("var", &self.var, "var/2 + eps > 0 (at least 1.2e-38)", |v| {
            variance(v, eps) >= f64::from(f32::MIN_POSITIVE)
        })?;
        self.dev.iter().try_for_each(|dev| all("dev", dev, "a finite number", f32::is_finite))
    }
}

impl Prior {
    /// A prior of these parts; `header.rank` is the number of rows of every deviation.
    ///
    /// # Errors
    /// When the parts do not make a Gaussian: names missing or repeated, shapes that differ, a
    /// variance below zero, a weight without any variance, one deviation only, numbers that are
    /// not finite. The error names the parameter and the element.
    pub fn new(header: Header, mut parameters: Vec<Parameter>) -> Result<Self> {
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        header.check()?;
        if parameters.is_empty() {
            return Err(Error::malformed("the prior covers no parameter"));
        }
        if let Some(pair) = parameters.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::malformed(format!("parameter '{}' appears twice", pair[0].name)));
        }
        parameters.iter().try_for_each(|parameter| {
            // A block may have fewer rows than the prior's largest.
            let rank = match header.blocks.is_empty() {
                true => header.rank,
                false => parameter.rank().clamp(2, header.rank.max(2)),
            };
            let checked = parameter.check(rank, header.eps);
            checked.context(|| format!("parameter '{}'", parameter.name))
        })?;
        let blocks = blocks::of_header(&header, &parameters)?;
        Ok(Prior { header, parameters, blocks })
    }

    /// What the prior says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The parameters, in the order of their names.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// K, of priors in blocks the largest of theirs; 0 for a diagonal prior.
    pub fn rank(&self) -> usize {
        self.header.rank
    }

    /// D, the number of weights covered.
    pub fn dimension(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.mean.len()).sum()
    }

    /// The part of `name`, or an error that names it.
    pub fn parameter(&self, name: &str) -> Result<&Parameter> {
        Ok(&self.parameters[self.place(name)?])
    }

    /// The place of `name` in the list of parameters.
    fn place(&self, name: &str) -> Result<usize> {
        let found = self.parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name));
        found.map_err(|_| {
            let message = format!("the prior has no parameter '{name}'");
            Error::mismatch(message).hint("compare names with `priorfit prior show`")
        })
    }

    /// μ of `name`.
    pub fn mean(&self, name: &str) -> Result<Tensor> {
        Ok(self.parameter(name)?.mean.clone())
    }

    /// d⁻¹ of `name`.
    pub fn precision(&self, name: &str) -> Result<Tensor> {
        let eps = self.header.eps;
        Ok(map(&self.parameter(name)?.var, |v| 1.0 / variance(v, eps)))
    }

    /// Wᵀ of `name`, `[K, ...]`; none in a diagonal prior.
    pub fn factor(&self, name: &str) -> Result<Option<Tensor>> {
        let parameter = self.parameter(name)?;
        let scale = parameter.factor_scale();
        Ok(parameter.dev.as_ref().map(|dev| map(dev, |q| scale * f64::from(q))))
    }
}

/// d = v/2 + ε
fn variance(v: f32, eps: f32) -> f64 {
    0.5 * f64::from(v) + f64::from(eps)
}

/// `[K, ...]`
fn deviations_shape(rank: usize, shape: &[usize]) -> Shape {
    [&[rank], shape].concat().into()
}

fn row_major(tensor: Tensor) -> Tensor {
    if tensor.is_standard_layout() { tensor } else { tensor.as_standard_layout().to_shared() }
}

/// The elements of a tensor of a [`Parameter`].
fn elements(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().expect("invariant: a parameter's tensors are row-major")
}

/// An element-wise function in `f64`, rounded once.
fn map(x: &Tensor, f: impl Fn(f32) -> f64) -> Tensor {
    x.mapv(|x| f(x) as f32).into_shared()
}

/// Checks every element; the error names the first that fails.
fn all(what: &str, tensor: &Tensor, expected: &str, holds: impl Fn(f32) -> bool) -> Result<()> {
    match elements(tensor).iter().position(|&x| !holds(x)) {
        None => Ok(()),
        Some(index) => {
            let value = elements(tensor)[index];
            let message = format!("{what} at element {index} is {value:?}; expected {expected}");
            Err(Error::malformed(message))
        }
    }
}

#[cfg(test)]
mod tests;
