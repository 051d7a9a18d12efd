//! Laplace's approximation of the head at the MAP, the backbone's weights held there (last-layer
//! Laplace, Daxberger et al. 2021).
//!
//! On frozen features φ (with a 1 for the bias) the head's log-posterior has the Hessian
//!
//! ```text
//! H = Σₙ (diag(pₙ) - pₙpₙᵀ) ⊗ φₙφₙᵀ + I/τ,
//! ```
//!
//! and draws are the MAP plus N(0, T H⁻¹). Up to [`FULL_MAX`] weights H is used as it is. Above,
//! the sum is replaced by N B ⊗ A, the means of its factors (Ritter et al. 2018), to which I/τ is
//! added exactly, in the basis of their eigenvectors.

use ndarray::{Array1, Array2, Axis, s};

use super::{Approximation, Drawn, Outcome, PosteriorSettings, Sampling};
use crate::adapt::{Control, Ending, Phase, Progress};
use crate::error::{Error, Kind, Result};
use crate::posterior::softmax;
use crate::prior::{Cholesky, Weights, eigen};
use crate::rng::{Key, Stream};
use crate::task::{HEAD_BIAS, HEAD_WEIGHT};
use crate::tensor::{Tensor, tensor};

/// Most weights of a head whose Hessian is factored as it is: 18 MB, about a second.
const FULL_MAX: usize = 1500;

/// Eigenvalues below this share of the largest are zero but for rounding.
const NULL: f64 = 1e-12;

pub(super) struct Laplace {
    pub(super) settings: PosteriorSettings,
}

impl Approximation for Laplace {
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn> {
        let (ending, end) = match run.mode(0, run.start)? {
            Outcome::Ended(ending, end) => (ending, end),
            Outcome::Diverged(error) => {
                return Ok(Drawn::diverged(Vec::new(), run.start, error));
            }
        };
        if ending != Ending::Completed {
            return Ok(Drawn::new(vec![end], ending));
        }
        let features = match features(run, &end) {
            // The MAP is complete; only what surrounds it is missing.
            Err(error) if error.kind() == Kind::Cancelled => {
                return Ok(Drawn::new(vec![end], Ending::Stopped));
            }
            other => with_one(&other?),
        };
        let head = head(&end)?;
        let logits = features.dot(&head.t()).mapv(|x| x as f32);
        let probabilities = softmax(&logits);
        let variance = run.head_variance;
        let around = match head.len() <= FULL_MAX {
            true => Gaussian::full(&features, &probabilities, variance)?,
            false => Gaussian::factored(&features, &probabilities, variance)?,
        };
        let key = Key::new(run.settings.seed, Stream::Draw);
        let spread = f64::from(self.settings.temperature()).sqrt();
        let draws = (0..self.settings.draws()).map(|draw| {
            let mut normals = key.at(draw as u64);
            let z = Array2::from_shape_simple_fn(head.dim(), || f64::from(normals.normal()));
            with_head(&end, &(&head + &(around.deviation(z) * spread)))
        });
        Ok(Drawn::new(draws.collect::<Result<_>>()?, Ending::Completed))
    }
}

/// Features of the training examples under the weights `end`.
fn features(run: &mut Sampling<'_, '_>, end: &Weights) -> Result<Array2<f32>> {
    loop {
        let network = run.trainer.network_mut();
        // Training ended elsewhere where they are an average.
        let set = network.set_weights(end);
        let found = set.and_then(|()| {
            network.features(run.train, &mut |p| {
                let phase = Phase::Features;
                let progress =
                    Progress { phase, step: p.done, steps: p.total, loss: None, penalty: None };
                (run.observe)(progress) != Control::Stop
            })
        });
        match found {
            Err(error) if error.kind() == Kind::Device => run.trainer.fall_back(error, end)?,
            other => return other,
        }
    }
}

/// The features with a 1 behind each row, `[N, F + 1]`.
fn with_one(features: &Array2<f32>) -> Array2<f64> {
    let (n, f) = features.dim();
    let mut all = Array2::ones((n, f + 1));
    all.slice_mut(s![.., ..f]).assign(&features.mapv(f64::from));
    all
}

/// The head's weights with its biases behind them, `[C, F + 1]`.
fn head(weights: &Weights) -> Result<Array2<f64>> {
    let get = |name: &str| {
        weights.get(name).ok_or_else(|| Error::internal(format!("the network has no '{name}'")))
    };
    let (weight, bias) = (get(HEAD_WEIGHT)?, get(HEAD_BIAS)?);
    let classes = bias.len();
    let f = weight.len() / classes.max(1);
    Ok(Array2::from_shape_fn((classes, f + 1), |(class, at)| {
        f64::from(if at < f { weight[[class, at]] } else { bias[[class]] })
    }))
}

/// `weights` with another head; the rest is shared.
fn with_head(weights: &Weights, head: &Array2<f64>) -> Result<Weights> {
    let (classes, width) = head.dim();
    let rounded = |part: ndarray::ArrayView2<'_, f64>, shape: &[usize]| -> Result<Tensor> {
        tensor(shape, part.iter().map(|&x| x as f32).collect())
    };
    let f = width - 1;
    let weight = rounded(head.slice(s![.., ..f]), &[classes, f])?;
    let bias = rounded(head.slice(s![.., f..]), &[classes])?;
    let mut weights = weights.clone();
    weights.insert(HEAD_WEIGHT.to_string(), weight);
    weights.insert(HEAD_BIAS.to_string(), bias);
    Ok(weights)
}

/// N(0, H⁻¹) over heads `[C, F + 1]`.
enum Gaussian {
    /// The factor of H.
    Full(Cholesky),
    /// H = N Σᵢⱼ bᵢaⱼ (vᵢvᵢᵀ) ⊗ (uⱼuⱼᵀ) + I/τ.
    Factored {
        /// vᵢ, as rows.
        classes: Array2<f64>,
        /// uⱼ, as rows: those of aⱼ above 0.
        features: Array2<f64>,
        /// (N bᵢaⱼ + 1/τ)^(-1/2)
        scales: Array2<f64>,
        /// √τ
        elsewhere: f64,
    },
}

impl Gaussian {
    /// With the whole Hessian at features `[N, F + 1]` with probabilities `[N, C]`.
    fn full(features: &Array2<f64>, p: &Array2<f64>, variance: f64) -> Result<Self> {
        let (width, classes) = (features.ncols(), p.ncols());
        let order = classes * width;
        let mut hessian = Array2::zeros((order, order));
        for a in 0..classes {
            for b in 0..=a {
                let own = if a == b { 1.0 } else { 0.0 };
                let weights = Array1::from_shape_fn(p.nrows(), |n| p[[n, a]] * (own - p[[n, b]]));
                let block = features.t().dot(&(features * &weights.insert_axis(Axis(1))));
                let at = s![a * width..(a + 1) * width, b * width..(b + 1) * width];
                hessian.slice_mut(at).assign(&block);
            }
        }
        hessian.diag_mut().mapv_inplace(|x: f64| x + variance.recip());
        // Of a symmetric matrix only the lower triangle is read.
        Cholesky::new(hessian.into_raw_vec_and_offset().0, order)
            .map(Gaussian::Full)
            .ok_or_else(not_positive)
    }

    /// With the means of the Hessian's Kronecker factors.
    fn factored(features: &Array2<f64>, p: &Array2<f64>, variance: f64) -> Result<Self> {
        let n = features.nrows() as f64;
        let mut b = p.t().dot(p) * -1.0;
        let sums = p.sum_axis(Axis(0));
        b.diag_mut().zip_mut_with(&sums, |x, sum| *x += sum);
        let (of_classes, classes) = eigen::symmetric(b / n).ok_or_else(not_positive)?;
        let (of_features, basis) = spectrum(features)?;
        let shape = (classes.nrows(), basis.nrows());
        let scales = Array2::from_shape_fn(shape, |(i, j)| {
            // Rounding may leave a zero just below.
            (n * of_classes[i].max(0.0) * of_features[j] + variance.recip()).sqrt().recip()
        });
        Ok(Gaussian::Factored { classes, features: basis, scales, elsewhere: variance.sqrt() })
    }

    /// The deviation that standard normals `z: [C, F + 1]` become.
    fn deviation(&self, z: Array2<f64>) -> Array2<f64> {
        match self {
            Gaussian::Full(factor) => {
                let flat: Vec<f64> = z.iter().copied().collect();
                let solved = factor.solve_transposed(flat);
                Array2::from_shape_vec(z.dim(), solved).unwrap_or(z)
            }
            Gaussian::Factored { classes, features, scales, elsewhere } => {
                let inside = z.dot(&features.t());
                let outside = &z - &inside.dot(features);
                classes.t().dot(&((inside * scales).dot(features) + outside * *elsewhere))
            }
        }
    }
}

/// The positive eigenvalues of ΦᵀΦ/N, and their eigenvectors as rows. With fewer examples than
/// features they are found from ΦΦᵀ, which is smaller.
fn spectrum(features: &Array2<f64>) -> Result<(Vec<f64>, Array2<f64>)> {
    let (n, width) = features.dim();
    let (values, vectors) = match n < width {
        true => {
            let gram = features.dot(&features.t()) / n as f64;
            let (values, vectors) = eigen::symmetric(gram).ok_or_else(not_positive)?;
            (values, vectors.dot(features))
        }
        false => {
            let moment = features.t().dot(features) / n as f64;
            eigen::symmetric(moment).ok_or_else(not_positive)?
        }
    };
    let largest = values.iter().fold(0.0f64, |most, &x| most.max(x));
    let kept: Vec<usize> = (0..values.len()).filter(|&i| values[i] > NULL * largest).collect();
    let mut basis = vectors.select(Axis(0), &kept);
    for mut row in basis.rows_mut() {
        let norm = row.dot(&row).sqrt();
        row /= norm;
    }
    Ok((kept.into_iter().map(|i| values[i]).collect(), basis))
}

fn not_positive() -> Error {
    Error::new(Kind::Diverged, "the head's curvature is not finite")
        .hint("check the images' normalisation, or lower the variance of the head's prior")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIANCE: f64 = 0.7;

    fn features(n: usize, width: usize) -> Array2<f64> {
        let mut normals = Key::new(2, Stream::Probe).at((n * width) as u64);
        let x = Array2::from_shape_simple_fn((n, width - 1), || normals.normal());
        with_one(&x)
    }

    fn probabilities(n: usize, classes: usize) -> Array2<f64> {
        let mut normals = Key::new(3, Stream::Probe).at((n * classes) as u64);
        softmax(&Array2::from_shape_simple_fn((n, classes), || normals.normal()))
    }

    /// The Hessian of the negative log-posterior by its definition.
    fn hessian(features: &Array2<f64>, p: &Array2<f64>) -> Array2<f64> {
        let (width, classes) = (features.ncols(), p.ncols());
        Array2::from_shape_fn([classes * width; 2], |(row, column)| {
            let ((a, i), (b, j)) = ((row / width, row % width), (column / width, column % width));
            let same = |x: usize, y: usize| if x == y { 1.0 } else { 0.0 };
            let sum: f64 = (0..p.nrows())
                .map(|n| p[[n, a]] * (same(a, b) - p[[n, b]]) * features[[n, i]] * features[[n, j]])
                .sum();
            sum + same(row, column) / VARIANCE
        })
    }

    /// M H Mᵀ = I for the matrix M whose columns are the deviations of unit vectors, transposed:
    /// then deviations of standard normals have the covariance M Mᵀ = H⁻¹.
    fn check(around: &Gaussian, hessian: &Array2<f64>, [classes, width]: [usize; 2]) {
        let order = classes * width;
        let mut map = Array2::zeros((order, order));
        for at in 0..order {
            let mut unit = Array2::zeros((classes, width));
            unit[[at / width, at % width]] = 1.0;
            let column = around.deviation(unit);
            map.column_mut(at).assign(&Array1::from_iter(column.iter().copied()));
        }
        let product = map.dot(&map.t()).dot(hessian) - Array2::<f64>::eye(order);
        let error = product.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        assert!(error < 1e-10, "{error}");
    }

    #[test]
    fn draws_have_the_inverse_hessian_for_covariance() {
        for (n, classes, width) in [(20, 3, 4), (2, 4, 6), (1, 1, 3), (5, 1, 2)] {
            let (x, p) = (features(n, width), probabilities(n, classes));
            let around = Gaussian::full(&x, &p, VARIANCE).expect("a Gaussian");
            check(&around, &hessian(&x, &p), [classes, width]);
        }
    }

    /// The factors' means are exact where all examples have one factor in common.
    #[test]
    fn kronecker_factors_are_exact_for_equal_features_or_equal_probabilities() {
        for (n, classes, width) in [(1, 3, 5), (4, 3, 6), (9, 4, 3)] {
            let (x, p) = (features(n, width), probabilities(n, classes));
            let same = |rows: &Array2<f64>| rows.select(Axis(0), &vec![0; n]);
            for (x, p) in [(same(&x), p.clone()), (x.clone(), same(&p))] {
                let around = Gaussian::factored(&x, &p, VARIANCE).expect("a Gaussian");
                check(&around, &hessian(&x, &p), [classes, width]);
            }
        }
    }
}
