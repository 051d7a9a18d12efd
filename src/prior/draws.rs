//! Yesterday's posterior as today's prior.
//!
//! By Bayes' rule the posterior given one data set is the prior for the next, and learning from
//! both in turn is learning from both at once. For Gaussians this is exact as far as the covariance
//! can be stored: with M draws of mean m and covariance C = Σ (θ-m)(θ-m)ᵀ/(M-1), the prior is
//!
//! ```text
//! N(m, S),   S = γ diag(C) + (1-γ) C + ε I,   v = 2γ diag(C),   Q = √(2(1-γ)) (θ - m)
//! ```
//!
//! The shrinkage γ weighs the variance of single weights, which few draws tell, against that of
//! their combinations, which takes as many draws as there are weights. With γ = 0 and enough of
//! them S is the posterior's covariance; ½ is SWAG's; 1 gives a diagonal prior. Every weight's
//! variance is that of its draws whatever γ and the rank are.
//!
//! S is meant at strength 1: a run that leaves the strength open rescales it.

use super::derive::add_note;
use super::{
    Grouping, Header, MAX_RANK, Parameter, Prior, Weights, deviations_shape, elements, map,
};
use crate::error::{Context, Error, Kind, Result};
use crate::tensor::{Shape, Tensor, contiguous, tensor};

/// How a Gaussian is fitted to draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawsFit {
    /// Deviations kept at most, the leading directions; 0 for a diagonal prior.
    pub rank: usize,
    /// γ, in [0, 1].
    pub shrinkage: f64,
    /// Which weights vary together.
    pub blocks: Grouping,
}

impl Default for DrawsFit {
    fn default() -> Self {
        DrawsFit { rank: MAX_RANK, shrinkage: 0.5, blocks: Grouping::Whole }
    }
}

impl DrawsFit {
    fn check(&self) -> Result<()> {
        if self.rank == 1 || self.rank > MAX_RANK {
            let message = format!("cannot keep {} deviations", self.rank);
            let hint = format!("expected 0 or a number from 2 to {MAX_RANK}");
            return Err(Error::invalid(message).hint(hint));
        }
        match (0.0..=1.0).contains(&self.shrinkage) {
            true => Ok(()),
            false => Err(Error::invalid(format!("the shrinkage is {}", self.shrinkage))
                .hint("expected a number from 0 (the draws' covariance) to 1 (diagonal)")),
        }
    }
}

impl Prior {
    /// The Gaussian of these draws of the weights, at least two. `header` gives the backbone and ε;
    /// rank and number of draws are filled in here.
    ///
    /// # Errors
    /// When there are fewer than two draws or more than [`MAX_RANK`], they are not of the same
    /// parameters, or a weight is not finite; when a setting is out of its range.
    pub fn from_draws(draws: &[Weights], mut header: Header, fit: DrawsFit) -> Result<Self> {
        fit.check()?;
        if !(2..=MAX_RANK).contains(&draws.len()) {
            let message = format!("a covariance of {} draws", draws.len());
            let hint = format!("expected 2 to {MAX_RANK} draws; one takes another prior's spread");
            return Err(Error::invalid(message).hint(hint));
        }
        // Diagonal priors have all variance in v.
        let is_diagonal = fit.rank == 0 || fit.shrinkage == 1.0;
        let shrinkage = if is_diagonal { 1.0 } else { fit.shrinkage };
        header.rank = if is_diagonal { 0 } else { draws.len() };
        header.learned.snapshots = draws.len() as u64;
        let one = |name: &String| {
            let scene = || format!("parameter '{name}'");
            parameter(name, draws, shrinkage).context(scene)
        };
        if let Some(odd) = draws.iter().position(|draw| !draw.keys().eq(draws[0].keys())) {
            return Err(Error::mismatch(format!("draw {odd} has other parameters than draw 0")));
        }
        let lens: Vec<(&str, usize)> =
            draws[0].iter().map(|(name, weight)| (name.as_str(), weight.len())).collect();
        fit.blocks.apply(&mut header, &lens);
        let prior = Prior::new(header, draws[0].keys().map(one).collect::<Result<_>>()?)?;
        // The deviations from a mean add up to nothing: one of them is not needed.
        match is_diagonal {
            true => Ok(prior),
            false => prior.truncate(fit.rank.min(draws.len() - 1)),
        }
    }

    /// N(`weights`, `scale` S): this prior's covariance around another mean. It is the next prior
    /// after a run that ended in one set of weights and so tells nothing of their spread: data only
    /// ever narrow a Gaussian, so with a scale of 1 the next run is less sure of the weights than
    /// Bayes' rule would be.
    ///
    /// # Errors
    /// When the weights are not those of this prior, or not finite; when the scale is not above 0,
    /// or so small that variances vanish.
    pub fn moved_to(&self, weights: &Weights, scale: f64) -> Result<Self> {
        if !(scale.is_finite() && scale > 0.0) {
            let message = format!("the scale of a covariance is {scale}");
            return Err(Error::invalid(message).hint("expected a number above 0"));
        }
        let mut header = self.header.clone();
        header.eps = (f64::from(header.eps) * scale) as f32;
        add_note(&mut header, &format!("moved to new weights, covariance times {scale}"));
        let times = |x: &Tensor, factor: f64| map(x, |x| f64::from(x) * factor);
        let one = |p: &Parameter| {
            let mean = weights.get(&p.name).filter(|w| w.shape() == p.mean.shape());
            let mean = mean.ok_or_else(|| {
                let message = format!("the weights lack parameter '{}'", p.name);
                Error::mismatch(message).hint(format!("expected it of shape {}", p.shape()))
            })?;
            let dev = p.dev.as_ref().map(|dev| times(dev, scale.sqrt()));
            Ok(Parameter::new(&p.name, mean.clone(), times(&p.var, scale), dev))
        };
        Prior::new(header, self.parameters.iter().map(one).collect::<Result<_>>()?)
    }
}

/// Mean, v and Q of one parameter.
fn parameter(name: &str, draws: &[Weights], shrinkage: f64) -> Result<Parameter> {
    let shape = Shape::from(draws[0][name].shape());
    let rows = draws
        .iter()
        .map(|draw| {
            let weight = &draw[name];
            if Shape::from(weight.shape()) != shape {
                let found = Shape::from(weight.shape());
                return Err(Error::mismatch(format!("draws of shapes {shape} and {found}")));
            }
            match weight.iter().find(|x| !x.is_finite()) {
                Some(x) => Err(Error::new(Kind::Diverged, format!("a draw holds {x}"))),
                None => Ok(contiguous(weight)),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let count = draws.len() as f64;
    let mut mean = vec![0.0f64; shape.len()];
    for row in &rows {
        mean.iter_mut().zip(row.iter()).for_each(|(m, &w)| *m += f64::from(w) / count);
    }
    // Around the mean that is stored, so that the deviations are the stored mean's.
    let mean = tensor(&shape, mean.into_iter().map(|m| m as f32).collect())?;
    let (mut var, mut dev) = (vec![0.0f64; shape.len()], Vec::new());
    let scale = (2.0 * (1.0 - shrinkage)).sqrt();
    for row in &rows {
        for ((v, &w), &m) in var.iter_mut().zip(row.iter()).zip(elements(&mean)) {
            let deviation = f64::from(w) - f64::from(m);
            *v += 2.0 * shrinkage * deviation * deviation / (count - 1.0);
            if shrinkage < 1.0 {
                dev.push((scale * deviation) as f32);
            }
        }
    }
    let var = tensor(&shape, var.into_iter().map(|v| v as f32).collect())?;
    let dev = match dev.is_empty() {
        true => None,
        false => Some(tensor(&deviations_shape(rows.len(), &shape), dev)?),
    };
    Ok(Parameter::new(name, mean, var, dev))
}

#[cfg(test)]
mod tests;
