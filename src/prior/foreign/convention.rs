//! Strengths as other programs state them.
//!
//! Four programs read the same files and make four Gaussians of one λ. With v the variances of the
//! file, F its K deviations, and ε:
//!
//! | convention | program | diagonal | low rank |
//! |---|---|---|---|
//! | A | the reference implementation (Shwartz-Ziv et al. 2022) | λv + ε | λ² FᵀF |
//! | B | Harvey et al. 2024 | λv/2 + ε | λ FᵀF / (2(K-1)) |
//! | C | Harvey et al. 2025, and this crate | λ(v/2 + ε) | λ FᵀF / (2(K-1)) |
//! | D | SWAG (Maddox et al. 2019), λ = ½ | λv + ε | λ FᵀF / (K-1) |
//!
//! In all but C a λ changes the shape of the Gaussian, so it is built in when a prior is imported,
//! which then has strength 1. The numbers of the file are read as the program reads them: A takes
//! F for what is divided by √(K-1) already, the others for raw.

use serde::Serialize;

use super::Scaling;
use crate::error::{Error, Result};
use crate::prior::derive::add_note;
use crate::prior::{Header, Parameter, Prior, map};
use crate::tensor::Tensor;

/// How a program makes a Gaussian of a file and a strength; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// λv + ε and λ² FᵀF: the reference implementation.
    A,
    /// λv/2 + ε and λ FᵀF / (2(K-1)): Harvey et al. 2024.
    B,
    /// λ(v/2 + ε) and λ FᵀF / (2(K-1)): Harvey et al. 2025.
    C,
    /// λv + ε and λ FᵀF / (K-1): SWAG.
    D,
}

/// A strength in another program's terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForeignStrength {
    /// Whose.
    pub convention: Convention,
    /// λ, above 0.
    pub lambda: f64,
}

impl ForeignStrength {
    /// Checks λ.
    ///
    /// # Errors
    /// When it is not above 0.
    pub(super) fn check(&self) -> Result<()> {
        match self.lambda.is_finite() && self.lambda > 0.0 {
            true => Ok(()),
            false => Err(Error::invalid(format!("the foreign strength is {}", self.lambda))
                .hint("expected a number above 0")),
        }
    }

    /// How the program takes deviations to be scaled, whatever they are.
    pub(super) fn scaling(&self) -> Scaling {
        match self.convention {
            Convention::A => Scaling::Normalised,
            Convention::B | Convention::C | Convention::D => Scaling::Raw,
        }
    }

    /// What v, the deviations (whose QᵀQ/(K-1) is the file's covariance) and ε are multiplied by.
    fn factors(&self) -> [f64; 3] {
        let lambda = self.lambda;
        match self.convention {
            Convention::A => [2.0 * lambda, 2f64.sqrt() * lambda, 1.0],
            Convention::B => [lambda, lambda.sqrt(), 1.0],
            Convention::C => [lambda, lambda.sqrt(), lambda],
            Convention::D => [2.0 * lambda, (2.0 * lambda).sqrt(), 1.0],
        }
    }

    /// The prior that is, at strength 1, the program's Gaussian at λ.
    ///
    /// # Errors
    /// When a number does not fit `f32`.
    pub(super) fn apply(&self, prior: &Prior) -> Result<Prior> {
        let [of_var, of_dev, of_eps] = self.factors();
        let eps = (f64::from(prior.header().eps) * of_eps) as f32;
        let mut header = Header { eps, ..prior.header().clone() };
        let ForeignStrength { convention, lambda } = self;
        add_note(&mut header, &format!("convention {convention:?} at {lambda}: use strength 1"));
        let times = |x: &Tensor, factor: f64| map(x, |x| f64::from(x) * factor);
        let one = |p: &Parameter| {
            let dev = p.dev().map(|dev| times(dev, of_dev));
            Parameter::new(p.name(), p.mean().clone(), times(p.var(), of_var), dev)
        };
        Prior::new(header, prior.parameters().iter().map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::tests::{F32, close, header, vector, weights};
    use crate::tensor::tensor;

    /// T2: v = (1, 2), FᵀF = 11ᵀ in two rows, ε = 0.1, λ = 4, at θ = (1, 2).
    #[test]
    fn conventions_have_their_own_gaussians() {
        let row = 0.5f32.sqrt();
        let dev = tensor(&[2, 2], vec![row; 4]).expect("rows");
        let part = Parameter::new("w", vector(&[0.0; 2]), vector(&[1.0, 2.0]), Some(dev));
        // Of two rows raw and normalised deviations are the same.
        let file = Prior::new(header(2, 0.1), vec![part]).expect("valid");
        let theta = weights(&[("w", &[1.0, 2.0])]);
        let cases = [
            (Convention::A, 0.1773127271, [-0.0345869270, 0.1059498271]),
            (Convention::B, 0.6901475488, [0.0999524036, 0.2950975726]),
        ];
        for (convention, quadratic, gradient) in cases {
            let prior = ForeignStrength { convention, lambda: 4.0 }.apply(&file).expect("a prior");
            close(prior.quadratic(&theta, 1.0).expect("finite"), quadratic, F32);
            let found = prior.gradient(&theta, 1.0).expect("finite");
            for (&found, expected) in found["w"].iter().zip(gradient) {
                close(f64::from(found), expected, F32);
            }
        }
        // C is this crate's own: the file's prior at strength λ.
        let c = ForeignStrength { convention: Convention::C, lambda: 4.0 };
        let own = file.quadratic(&theta, 4.0).expect("finite");
        close(c.apply(&file).expect("a prior").quadratic(&theta, 1.0).expect("finite"), own, F32);
        // D at ½ is this crate's own at 1; at 2λ it is B at 4λ.
        let quadratic = |convention, lambda| {
            let prior = ForeignStrength { convention, lambda }.apply(&file).expect("a prior");
            prior.quadratic(&theta, 1.0).expect("finite")
        };
        close(quadratic(Convention::D, 0.5), file.quadratic(&theta, 1.0).expect("finite"), F32);
        close(quadratic(Convention::D, 2.0), quadratic(Convention::B, 4.0), F32);
        for lambda in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ForeignStrength { convention: Convention::A, lambda }.check().is_err());
        }
    }
}
