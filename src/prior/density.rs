//! The density of a prior, its gradient, and draws from it, by the identities of Woodbury and
//! Sylvester.
//!
//! With x = θ - μ, u = Wᵀd⁻¹x, C = I + Wᵀd⁻¹W and s = C⁻¹u:
//!
//! ```text
//! xᵀS⁻¹x   = xᵀd⁻¹x - u·s
//! S⁻¹x     = d⁻¹(x - W s)
//! ln|S|    = Σ ln d + ln|C|
//! ```
//!
//! In a prior of blocks each of these is a sum over the blocks, each with its own u, C and s.
//!
//! Everything is computed in `f64` from the stored `f32` tensors. A log density of millions of
//! weights is a large number whose constant says nothing about θ, so the functions that a training
//! run reports leave the constant -½(D ln 2π + ln|S|) out.

use super::blocks::Block;
use super::cholesky::Cholesky;
use super::{Parameter, Prior, Weights, elements, variance};
use crate::error::{Context, Error, Result};
use crate::rng::Key;
use crate::tensor::{Shape, Tensor, contiguous, tensor};

/// Elements of each deviation that are multiplied at a time; 20 rows of them stay in cache.
const RUN: usize = 1024;

impl Prior {
    /// C⁻¹ of a block, `[K, K]` row-major; empty for a diagonal prior.
    ///
    /// # Errors
    /// When there is no such block, or C is not positive definite in `f64`, which takes deviations
    /// very many orders of magnitude above the variances.
    pub fn capacitance_inverse(&self, block: usize) -> Result<Vec<f64>> {
        let found = self.blocks.get(block);
        let found = found.ok_or_else(|| {
            Error::invalid(format!("the prior has {} blocks, none of them {block}", self.blocks()))
        })?;
        Ok(self.capacitance(found)?.inverse())
    }

    /// `theta`'s part in u, and in xᵀd⁻¹x: `[K + 1]`. The sums over a block's parameters are its u
    /// and its diagonal quadratic form.
    ///
    /// # Errors
    /// When the prior has no parameter `name`, or it has another shape.
    pub fn projections(&self, name: &str, theta: &Tensor) -> Result<Vec<f64>> {
        let parameter = self.parameter(name)?;
        let x = deviation(parameter, theta)?;
        let y = self.divide(parameter, &x);
        let scale = parameter.factor_scale();
        let rows = rows(parameter).map(|row| scale * dot(&y, row));
        let quadratic = x.iter().zip(&y).map(|(x, y)| x * y).sum();
        Ok(rows.chain([quadratic]).collect())
    }

    /// (θ - μ)ᵀ(λS)⁻¹(θ - μ); its expectation over draws is D.
    ///
    /// # Errors
    /// When `thetas` lacks a parameter or holds it in another shape, or λ is not above 0.
    pub fn quadratic(&self, thetas: &Weights, lambda: f64) -> Result<f64> {
        check_strength(lambda)?;
        let mut form = 0.0;
        for block in &self.blocks {
            let (u, diagonal) = self.project(block, thetas)?;
            let s = self.capacitance(block)?.solve(&u);
            form += diagonal - u.iter().zip(&s).map(|(u, s)| u * s).sum::<f64>();
        }
        Ok(form / lambda)
    }

    /// The gradient of -log p at `thetas`: d⁻¹(x - W s)/λ for each parameter.
    ///
    /// # Errors
    /// As [`Prior::quadratic`].
    pub fn gradient(&self, thetas: &Weights, lambda: f64) -> Result<Weights> {
        check_strength(lambda)?;
        let one = |parameter: &Parameter, s: &[f64]| {
            let scale = parameter.factor_scale();
            let mut x = deviation(parameter, theta_of(thetas, parameter)?)?;
            for (row, s) in rows(parameter).zip(s) {
                x.iter_mut().zip(row).for_each(|(x, &q)| *x -= scale * s * f64::from(q));
            }
            let gradient = self.divide(parameter, &x);
            let gradient = gradient.into_iter().map(|g| (g / lambda) as f32).collect();
            Ok((parameter.name.clone(), tensor(parameter.mean.shape(), gradient)?))
        };
        let mut gradient = Weights::new();
        for block in &self.blocks {
            let s = self.capacitance(block)?.solve(&self.project(block, thetas)?.0);
            for parameter in self.members(block) {
                gradient.extend([one(parameter, &s)?]);
            }
        }
        Ok(gradient)
    }

    /// ln|λS|
    ///
    /// # Errors
    /// When λ is not above 0, or as [`Prior::capacitance_inverse`].
    pub fn logdet(&self, lambda: f64) -> Result<f64> {
        check_strength(lambda)?;
        let diagonal: f64 =
            self.parameters.iter().map(|parameter| self.diagonal_logdet(parameter)).sum();
        let mut low_rank = 0.0;
        for block in &self.blocks {
            low_rank += self.capacitance(block)?.logdet();
        }
        Ok(diagonal + low_rank + self.dimension() as f64 * lambda.ln())
    }

    /// log p(θ) without the constant: -½(D ln λ + xᵀ(λS)⁻¹x). This is what a run reports; values
    /// for different λ compare, values for different priors do not.
    ///
    /// # Errors
    /// As [`Prior::quadratic`].
    pub fn log_density(&self, thetas: &Weights, lambda: f64) -> Result<f64> {
        let quadratic = self.quadratic(thetas, lambda)?;
        Ok(-0.5 * (self.dimension() as f64 * lambda.ln() + quadratic))
    }

    /// log p(θ) with the constant, comparable between priors over the same parameters.
    ///
    /// # Errors
    /// As [`Prior::quadratic`].
    pub fn log_density_normalized(&self, thetas: &Weights, lambda: f64) -> Result<f64> {
        let constant = self.dimension() as f64 * std::f64::consts::TAU.ln() + self.logdet(1.0)?;
        Ok(self.log_density(thetas, lambda)? - 0.5 * constant)
    }

    /// Draw number `draw` from N(μ, λS): μ + √λ (√d z₁ + W z₂) with standard normal z. The same
    /// key and number give the same weights.
    ///
    /// # Errors
    /// When λ is not above 0.
    pub fn sample(&self, key: &Key, draw: u64, lambda: f64) -> Result<Weights> {
        check_strength(lambda)?;
        let mut normals = key.at(draw);
        let mut z2: Vec<&[f64]> = vec![&[]; self.parameters.len()];
        let mut of_block = |block: &Block| -> Vec<f64> {
            (0..block.rank).map(|_| f64::from(normals.normal())).collect()
        };
        let of_blocks: Vec<Vec<f64>> = self.blocks.iter().map(&mut of_block).collect();
        for (block, z) in self.blocks.iter().zip(&of_blocks) {
            block.members.iter().for_each(|&at| z2[at] = z);
        }
        let strength = lambda.sqrt();
        let mut one = |(parameter, z2): (&Parameter, &&[f64])| {
            let scale = parameter.factor_scale();
            let noise =
                |&v: &f32| variance(v, self.header.eps).sqrt() * f64::from(normals.normal());
            let mut x: Vec<f64> = elements(&parameter.var).iter().map(noise).collect();
            for (row, z) in rows(parameter).zip(*z2) {
                x.iter_mut().zip(row).for_each(|(x, &q)| *x += scale * z * f64::from(q));
            }
            let mean = elements(&parameter.mean).iter();
            let theta = mean.zip(x).map(|(&m, x)| (f64::from(m) + strength * x) as f32).collect();
            Ok((parameter.name.clone(), tensor(parameter.mean.shape(), theta)?))
        };
        self.parameters.iter().zip(&z2).map(&mut one).collect()
    }

    /// The factor of a block's C = I + Wᵀd⁻¹W, found once.
    fn capacitance<'a>(&self, block: &'a Block) -> Result<&'a Cholesky> {
        if let Some(known) = block.capacitance.get() {
            return Ok(known);
        }
        let mut c = self.gram(block, |v| 1.0 / variance(v, self.header.eps));
        (0..block.rank).for_each(|row| c[row * block.rank + row] += 1.0);
        let factor = Cholesky::new(c, block.rank).ok_or_else(|| {
            let message = "the prior's capacitance matrix I + W^T d^-1 W is not positive definite";
            Error::malformed(message).hint("raise eps, or drop the low rank")
        })?;
        Ok(block.capacitance.get_or_init(|| factor))
    }

    /// Wᵀ diag(weight(v)) W of a block, `[K, K]` row-major.
    pub(super) fn gram(&self, block: &Block, weight: impl Fn(f32) -> f64) -> Vec<f64> {
        let rank = block.rank;
        let mut gram = vec![0.0; rank * rank];
        let mut run = vec![0.0; rank * RUN];
        let mut scale = 0.0;
        for parameter in self.members(block) {
            scale = parameter.factor_scale().powi(2);
            let var = elements(&parameter.var);
            for start in (0..var.len()).step_by(RUN) {
                let span = start..var.len().min(start + RUN);
                let roots: Vec<f64> = var[span.clone()].iter().map(|&v| weight(v).sqrt()).collect();
                for (out, row) in run.chunks_exact_mut(RUN).zip(rows(parameter)) {
                    let row = &row[span.clone()];
                    let scaled = roots.iter().zip(row).map(|(root, &q)| root * f64::from(q));
                    out.iter_mut().zip(scaled).for_each(|(out, value)| *out = value);
                }
                add_products(&mut gram, &run, roots.len());
            }
        }
        symmetric(gram.into_iter().map(|sum| scale * sum).collect(), rank)
    }

    /// u and xᵀd⁻¹x over the parameters of a block.
    fn project(&self, block: &Block, thetas: &Weights) -> Result<(Vec<f64>, f64)> {
        let mut sums = vec![0.0; block.rank + 1];
        for parameter in self.members(block) {
            let theta = theta_of(thetas, parameter)?;
            let part = self.projections(&parameter.name, theta)?;
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let diagonal = sums.pop().expect("invariant: the diagonal form is the last sum");
        Ok((sums, diagonal))
    }

    /// d⁻¹x
    fn divide(&self, parameter: &Parameter, x: &[f64]) -> Vec<f64> {
        let eps = self.header.eps;
        x.iter().zip(elements(&parameter.var)).map(|(x, &v)| x / variance(v, eps)).collect()
    }

    fn diagonal_logdet(&self, parameter: &Parameter) -> f64 {
        elements(&parameter.var).iter().map(|&v| variance(v, self.header.eps).ln()).sum()
    }
}

fn check_strength(lambda: f64) -> Result<()> {
    if lambda > 0.0 && lambda.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(format!("the strength of a prior is {lambda}; expected a number above 0")))
}

fn theta_of<'a>(thetas: &'a Weights, parameter: &Parameter) -> Result<&'a Tensor> {
    thetas.get(&parameter.name).ok_or_else(|| {
        let message = format!("the weights lack parameter '{}' of the prior", parameter.name);
        Error::mismatch(message).hint("restrict the prior to the parameters that are trained")
    })
}

/// x = θ - μ
fn deviation(parameter: &Parameter, theta: &Tensor) -> Result<Vec<f64>> {
    if theta.shape() != parameter.mean.shape() {
        let (found, expected) = (Shape::from(theta.shape()), parameter.shape());
        let message = format!("the weights have shape {found}; the prior has {expected}");
        return Err(Error::mismatch(message)).context(|| format!("parameter '{}'", parameter.name));
    }
    let mean = elements(&parameter.mean).iter();
    Ok(contiguous(theta).iter().zip(mean).map(|(&t, &m)| f64::from(t) - f64::from(m)).collect())
}

/// The rows of Q; none in a diagonal prior.
pub(super) fn rows(parameter: &Parameter) -> impl Iterator<Item = &[f32]> {
    let dev = parameter.dev.iter();
    dev.flat_map(|dev| elements(dev).chunks_exact(parameter.mean.len()))
}

/// Σ aᵢ bᵢ in eight running sums, so that it vectorises and rounds little.
fn dot<B: Copy + Into<f64>>(a: &[f64], b: &[B]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_tail, b_tail) = (a.chunks_exact(8).remainder(), b.chunks_exact(8).remainder());
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (&a, &b))| *sum += a * b.into());
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(&a, &b)| a * b.into()).sum();
    sums.iter().sum::<f64>() + tail
}

/// Adds the products of the first `len` elements of each pair of rows to the lower triangle.
fn add_products(gram: &mut [f64], run: &[f64], len: usize) {
    let rank = run.len() / RUN;
    for row in 0..rank {
        for column in 0..=row {
            let (a, b) = (&run[row * RUN..][..len], &run[column * RUN..][..len]);
            gram[row * rank + column] += dot(a, b);
        }
    }
}

/// The lower triangle of a square matrix, mirrored.
fn symmetric(mut lower: Vec<f64>, order: usize) -> Vec<f64> {
    for row in 0..order {
        for column in 0..row {
            lower[column * order + row] = lower[row * order + column];
        }
    }
    lower
}

#[cfg(test)]
mod tests;
