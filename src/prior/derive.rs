//! Priors made from other priors, or from nothing but the backbone.

use std::collections::BTreeSet;

use ndarray::IxDyn;

use super::density::rows;
use super::{Header, Parameter, Prior, Weights, elements};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, tensor};

impl Prior {
    /// The isotropic prior N(weights, λ `variance` I) around a backbone's own weights: L2-SP (Li et
    /// al. 2018), which needs no prior file. `fingerprint` is the backbone's.
    ///
    /// # Errors
    /// When the variance is not above 0, or a weight is not finite.
    pub fn from_backbone(weights: &Weights, variance: f64, fingerprint: &str) -> Result<Self> {
        let mut header = Header::new(fingerprint, floor(variance)?);
        header.learned.method = "L2-SP".to_string();
        let means = weights.iter().map(|(name, mean)| (name.as_str(), mean));
        Prior::new(header, means.map(|(name, mean)| flat(name, mean)).collect())
    }

    /// The isotropic prior N(μ, λ `variance` I) around the same mean.
    /// [`Prior::equivalent_variance`] is the variance to compare with.
    ///
    /// # Errors
    /// When the variance is not above 0.
    pub fn isotropic(&self, variance: f64) -> Result<Self> {
        let eps = floor(variance)?;
        let mut header = Header { eps, ..self.header.diagonal() };
        add_note(&mut header, "isotropic around the learned mean");
        let parameters = self.parameters.iter();
        Prior::new(header, parameters.map(|p| flat(&p.name, &p.mean)).collect())
    }

    /// |S|^(1/D), the geometric mean of the variances along the axes of S.
    ///
    /// An isotropic prior of this variance has the volume of this one, so that one λ means the same
    /// amount of prior in both, and it is the mean on the scale on which variances differ: the
    /// arithmetic mean is set by the few loosest weights, the harmonic mean (one over the mean
    /// precision) by the few stiffest.
    ///
    /// # Errors
    /// As [`Prior::capacitance_inverse`].
    pub fn equivalent_variance(&self) -> Result<f64> {
        Ok((self.logdet(1.0)? / self.dimension() as f64).exp())
    }

    /// The diagonal prior with the same mean and the same variance of each single weight,
    /// diag(S) = d + diag(W Wᵀ).
    ///
    /// Among diagonal Gaussians q this one is closest to the prior p in KL(p ‖ q). Keeping d alone
    /// would instead take the snapshots' spread along the deviations for certainty: half of the
    /// variance that was observed.
    ///
    /// # Errors
    /// When a variance is too large for `f32`.
    pub fn diagonal(&self) -> Result<Self> {
        let mut header = self.header.diagonal();
        if self.rank() > 0 {
            add_note(&mut header, "marginal variances of a low-rank prior");
        }
        let one = |parameter: &Parameter| {
            let scale = 2.0 * parameter.factor_scale().powi(2);
            let mut var: Vec<f64> =
                elements(&parameter.var).iter().map(|&v| f64::from(v)).collect();
            for row in rows(parameter) {
                var.iter_mut().zip(row).for_each(|(v, &q)| *v += scale * f64::from(q).powi(2));
            }
            let var = var.into_iter().map(|v| v as f32).collect();
            let var = tensor(parameter.mean.shape(), var)?;
            Ok(Parameter::new(&parameter.name, parameter.mean.clone(), var, None))
        };
        Prior::new(header, self.parameters.iter().map(one).collect::<Result<_>>()?)
    }

    /// The same covariance around other weights, such as those that the snapshots set out from.
    ///
    /// # Errors
    /// When `mean` lacks a parameter, has it in another shape, or holds what is not finite.
    pub fn recentred(&self, mean: &Weights) -> Result<Self> {
        let one = |parameter: &Parameter| {
            let name = &parameter.name;
            let found = mean
                .get(name)
                .ok_or_else(|| Error::invalid(format!("there is no new mean of {name}")))?;
            if found.shape() != parameter.mean.shape() {
                let message = format!("the new mean of {name} is {:?}", found.shape());
                let expected = format!("expected {:?}, as the prior has", parameter.mean.shape());
                return Err(Error::invalid(message).hint(expected));
            }
            Ok(Parameter { mean: found.clone(), ..parameter.clone() })
        };
        let parameters = self.parameters.iter().map(one).collect::<Result<_>>()?;
        Prior::new(self.header.clone(), parameters)
    }

    /// The prior of `names` alone, for a run that freezes the other parameters: the marginal, which
    /// says what is known of these weights whatever the others are. Tensors are shared.
    ///
    /// # Errors
    /// When the prior lacks one of the names, or none is given.
    pub fn restrict<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let names: BTreeSet<&str> = names.into_iter().collect();
        if names.is_empty() {
            return Err(Error::invalid("a prior cannot be restricted to no parameters"));
        }
        let mut header = self.header.clone();
        header.blocks.retain(|_, members| {
            members.retain(|name| names.contains(name.as_str()));
            !members.is_empty()
        });
        let parameters = names.into_iter().map(|name| self.parameter(name).cloned());
        let parameters: Vec<Parameter> = parameters.collect::<Result<_>>()?;
        header.rank = parameters.iter().map(Parameter::rank).max().unwrap_or(0);
        Prior::new(header, parameters)
    }
}

/// A parameter whose whole variance is ε.
fn flat(name: &str, mean: &Tensor) -> Parameter {
    Parameter::new(name, mean.clone(), Tensor::zeros(IxDyn(mean.shape())), None)
}

fn floor(variance: f64) -> Result<f32> {
    let eps = variance as f32;
    if eps >= f32::MIN_POSITIVE && eps.is_finite() {
        return Ok(eps);
    }
    Err(Error::invalid(format!("the variance of an isotropic prior is {variance}"))
        .hint("expected a number above 0 that fits f32"))
}

pub(super) fn add_note(header: &mut Header, note: &str) {
    let separator = if header.notes.is_empty() { "" } else { "; " };
    header.notes.push_str(separator);
    header.notes.push_str(note);
}
