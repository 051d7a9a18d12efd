use super::*;
use crate::prior::cholesky::Cholesky;
use crate::prior::tests::{BACKBONE, close, weights};
use crate::prior::{map, variance};
use crate::rng::{Key, Stream};

const D: usize = 5;

/// A Gaussian over the weights with its precision and its mean times that.
#[derive(Clone)]
struct Gaussian {
    precision: Vec<f64>,
    shift: Vec<f64>,
}

impl Gaussian {
    fn factor(&self) -> Cholesky {
        Cholesky::new(self.precision.clone(), self.shift.len()).expect("positive definite")
    }

    fn mean(&self) -> Vec<f64> {
        self.factor().solve(&self.shift)
    }

    fn covariance(&self) -> Vec<f64> {
        self.factor().inverse()
    }

    /// Given observations y = x·θ of variance `s2`.
    fn given(&self, rows: &[(Vec<f64>, f64)], s2: f64) -> Gaussian {
        let mut posterior = self.clone();
        let n = self.shift.len();
        for (x, y) in rows {
            for i in 0..n {
                posterior.shift[i] += x[i] * y / s2;
                (0..n).for_each(|j| posterior.precision[i * n + j] += x[i] * x[j] / s2);
            }
        }
        posterior
    }

    /// Draws whose mean and covariance (with M - 1) are exactly these: m ± √((2n-1)/2) L.
    fn draws(&self) -> Vec<Weights> {
        let (n, mean, covariance) = (self.shift.len(), self.mean(), self.covariance());
        let lower = lower(&covariance, n);
        let scale = ((2.0 * n as f64 - 1.0) / 2.0).sqrt();
        let draw = |column: usize, sign: f64| {
            let at = |i: usize| (mean[i] + sign * scale * lower[i * n + column]) as f32;
            split(&(0..n).map(at).collect::<Vec<f32>>())
        };
        (0..n).flat_map(|column| [draw(column, 1.0), draw(column, -1.0)]).collect()
    }
}

/// L of A = L Lᵀ
fn lower(a: &[f64], n: usize) -> Vec<f64> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let done: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = a[i * n + j] - done;
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    l
}

/// The weights as two parameters, or one if there is only one.
fn split(w: &[f32]) -> Weights {
    match w.len() {
        1 => weights(&[("a", w)]),
        _ => weights(&[("a", &w[..2]), ("b", &w[2..])]),
    }
}

fn flat(w: &Weights) -> Vec<f64> {
    w.values().flat_map(|w| w.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()).collect()
}

/// The Gaussian that a prior is, its precision found column by column from its gradient.
fn gaussian(prior: &Prior) -> Gaussian {
    let parameters = prior.parameters().iter();
    let mean = flat(&parameters.map(|p| (p.name().to_string(), p.mean().clone())).collect());
    let n = mean.len();
    let mut precision = vec![0.0; n * n];
    for column in 0..n {
        // A step of a power of two leaves the difference exact.
        let step = |i: usize| if i == column { 0.25 } else { 0.0 };
        let at: Vec<f32> = (0..n).map(|i| (mean[i] + step(i)) as f32).collect();
        let moved = f64::from(at[column]) - mean[column];
        let gradient = flat(&prior.gradient(&split(&at), 1.0).expect("a gradient"));
        (0..n).for_each(|row| precision[row * n + column] = gradient[row] / moved);
    }
    let product = |row: usize| (0..n).map(|c| precision[row * n + c] * mean[c]).sum();
    Gaussian { shift: (0..n).map(product).collect(), precision }
}

fn header() -> Header {
    Header::new(BACKBONE, 1e-7)
}

fn all() -> DrawsFit {
    DrawsFit { shrinkage: 0.0, ..DrawsFit::default() }
}

fn observations(seed: u64) -> Vec<(Vec<f64>, f64)> {
    let mut normals = Key::new(seed, Stream::Probe).at(0);
    let mut normal = || f64::from(normals.normal());
    (0..4).map(|_| ((0..D).map(|_| normal()).collect(), normal())).collect()
}

fn standard() -> Gaussian {
    let precision = (0..D * D).map(|i| f64::from(u8::from(i % (D + 1) == 0))).collect();
    Gaussian { precision, shift: vec![0.0; D] }
}

/// T15 in one dimension: N(0, 1), then 1 ± √½ and 2 ± √¼ in either order: mean 10/7, variance 1/7.
#[test]
fn two_observations_in_turn_are_both_at_once() {
    let first = Gaussian { precision: vec![1.0], shift: vec![0.0] };
    let seen = [(vec![(vec![1.0], 1.0)], 0.5), (vec![(vec![1.0], 2.0)], 0.25)];
    for order in [[0, 1], [1, 0]] {
        let [one, two] = order.map(|i| &seen[i]);
        let posterior = first.given(&one.0, one.1);
        let fit = DrawsFit { rank: 0, ..DrawsFit::default() };
        let prior = Prior::from_draws(&posterior.draws(), header(), fit).expect("a prior");
        let end = gaussian(&prior).given(&two.0, two.1);
        close(end.mean()[0], 10.0 / 7.0, 1e-5);
        close(end.covariance()[0], 1.0 / 7.0, 1e-5);
    }
}

/// T15 in several: exact with all directions, and with fewer only each weight's variance is.
#[test]
fn learning_in_turn_is_learning_at_once_as_far_as_the_covariance_is_kept() {
    // Rounding of draws to `f32`, times the condition of the precision matrix.
    const EXACT: f64 = 1e-4;
    let (one, two) = (observations(1), observations(2));
    let batch = standard().given(&one, 0.3).given(&two, 0.3);
    let posterior = standard().given(&one, 0.3);
    let end = |fit: DrawsFit| {
        let prior = Prior::from_draws(&posterior.draws(), header(), fit).expect("a prior");
        for (i, p) in flat(&variances(&prior)).into_iter().enumerate() {
            close(p, posterior.covariance()[i * (D + 1)], EXACT);
        }
        (prior.rank(), gaussian(&prior).given(&two, 0.3))
    };
    let off = |a: &[f64], b: &[f64]| {
        let largest = b.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        a.iter().zip(b).fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / largest
    };
    let (rank, exact) = end(all());
    assert!(rank >= D, "rank {rank}");
    assert!(off(&exact.mean(), &batch.mean()) < EXACT, "{:?}", exact.mean());
    assert!(off(&exact.covariance(), &batch.covariance()) < EXACT);
    for fit in [DrawsFit { rank: 2, ..all() }, DrawsFit::default(), DrawsFit { rank: 0, ..all() }] {
        let (_, approximate) = end(fit);
        let off = off(&approximate.covariance(), &batch.covariance());
        assert!(off > 10.0 * EXACT, "{fit:?} loses what it does not keep: {off}");
    }
}

/// diag(S), by the diagonal prior of the same marginals.
fn variances(prior: &Prior) -> Weights {
    let eps = prior.header().eps;
    let diagonal = prior.diagonal().expect("a prior");
    let one = |p: &Parameter| (p.name.clone(), map(&p.var, |v| variance(v, eps)));
    diagonal.parameters().iter().map(one).collect()
}

#[test]
fn a_moved_prior_has_the_same_shape_elsewhere() {
    let prior = Prior::from_draws(&standard().draws(), header(), all()).expect("a prior");
    let to = split(&[1.0, -2.0, 0.5, 0.25, 4.0]);
    let moved = prior.moved_to(&to, 4.0).expect("a prior");
    for (p, w) in moved.parameters().iter().zip(to.values()) {
        assert_eq!(p.mean(), w);
    }
    let theta = split(&[2.0, -2.0, 0.5, 0.0, 4.0]);
    let back = split(&[1.0, 0.0, 0.0, -0.25, 0.0]);
    let before = prior.quadratic(&back, 1.0).expect("a form");
    close(moved.quadratic(&theta, 1.0).expect("a form"), before / 4.0, 1e-4);
    assert_eq!(moved.header().backbone, prior.header().backbone);
    for scale in [0.0, -1.0, f64::INFINITY] {
        assert!(prior.moved_to(&to, scale).is_err());
    }
    let error = prior.moved_to(&weights(&[("a", &[1.0, 2.0])]), 1.0).expect_err("no 'b'");
    assert!(error.to_string().contains("lack parameter 'b'"), "{error}");
}

#[test]
fn draws_that_make_no_gaussian_are_refused() {
    let draws = standard().draws();
    let fit = |draws: &[Weights], fit| Prior::from_draws(draws, header(), fit);
    let odd = [draws[0].clone(), weights(&[("a", &[1.0, 2.0])])];
    let shapes = [draws[0].clone(), weights(&[("a", &[1.0]), ("b", &[1.0, 2.0, 3.0])])];
    let nan = [draws[0].clone(), split(&[f32::NAN; D])];
    let cases: [(&[Weights], DrawsFit, &str); 6] = [
        (&draws[..1], all(), "a covariance of 1 draws"),
        (&odd, all(), "draw 1 has other parameters"),
        (&shapes, all(), "parameter 'a': draws of shapes"),
        (&nan, all(), "a draw holds NaN"),
        (&draws, DrawsFit { rank: 1, ..all() }, "cannot keep 1 deviations"),
        (&draws, DrawsFit { shrinkage: 1.5, ..all() }, "the shrinkage is 1.5"),
    ];
    for (draws, how, part) in cases {
        let error = fit(draws, how).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}
