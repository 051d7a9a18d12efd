//! Eigenvalues and eigenvectors of a symmetric matrix in `f64`: Householder's reduction to a
//! tridiagonal one, then QL with implicit shifts (Golub and Van Loan, 8.3). Eigenvectors are rows,
//! so that all inner loops run along memory.

use ndarray::{Array2, Axis};

/// Rotations that one eigenvalue may take; a few do.
const SWEEPS_MAX: usize = 60;

/// The eigenvalues of the symmetric `a`, in no order, and as rows of a matrix the eigenvectors.
/// None when `a` holds a number that is not finite.
pub(crate) fn symmetric(mut a: Array2<f64>) -> Option<(Vec<f64>, Array2<f64>)> {
    if a.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let reflectors = tridiagonalise(&mut a);
    let n = a.nrows();
    let mut diagonal: Vec<f64> = (0..n).map(|i| a[[i, i]]).collect();
    let beside = (0..n).map(|i| if i + 1 < n { a[[i + 1, i]] } else { 0.0 });
    let mut beside: Vec<f64> = beside.collect();
    let mut vectors = Array2::eye(n);
    for at in 0..n {
        settle(at, &mut diagonal, &mut beside, &mut vectors)?;
    }
    // The reduction was Hᵢ ... H₁ A H₁ ... Hᵢ: its reflections, the last first, turn back.
    for mut vector in vectors.rows_mut() {
        let row = vector.as_slice_mut()?;
        for (start, v) in reflectors.iter().rev() {
            let part = &mut row[*start..];
            let along = 2.0 * dot(part, v);
            part.iter_mut().zip(v).for_each(|(x, v)| *x -= along * v);
        }
    }
    Some((diagonal, vectors))
}

/// The same with the largest eigenvalue first.
pub(super) fn largest_first(a: Array2<f64>) -> Option<(Vec<f64>, Array2<f64>)> {
    let (values, vectors) = symmetric(a)?;
    let mut by_size: Vec<usize> = (0..values.len()).collect();
    by_size.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    let vectors = vectors.select(Axis(0), &by_size);
    Some((by_size.into_iter().map(|i| values[i]).collect(), vectors))
}

/// Reduces `a` to tridiagonal form; each reflection 1 - 2vvᵀ with where its v starts.
fn tridiagonalise(a: &mut Array2<f64>) -> Vec<(usize, Vec<f64>)> {
    let n = a.nrows();
    let mut reflectors = Vec::new();
    for k in 0..n.saturating_sub(2) {
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[[i, k]]).collect();
        let norm = dot(&v, &v).sqrt();
        v[0] += norm.copysign(v[0]);
        let length = dot(&v, &v).sqrt();
        if length == 0.0 {
            continue;
        }
        v.iter_mut().for_each(|x| *x /= length);
        // A ← (1 - 2vvᵀ) A (1 - 2vvᵀ) = A - 2vwᵀ - 2wvᵀ, w = Av - v(vᵀAv), on the rest of A.
        let start = k + 1;
        let mut w: Vec<f64> =
            (start..n).map(|i| v.iter().zip(start..n).map(|(v, j)| a[[i, j]] * v).sum()).collect();
        let along = dot(&v, &w);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= along * v);
        for i in start..n {
            let (vi, wi) = (2.0 * v[i - start], 2.0 * w[i - start]);
            for (j, (v, w)) in (start..n).zip(v.iter().zip(&w)) {
                a[[i, j]] -= vi * w + wi * v;
            }
        }
        let reflected = -norm.copysign(a[[start, k]]);
        (a[[start, k]], a[[k, start]]) = (reflected, reflected);
        reflectors.push((start, v));
    }
    reflectors
}

/// Rotates until `beside[at]` is negligible: `diagonal[at]` is then an eigenvalue.
fn settle(
    at: usize,
    diagonal: &mut [f64],
    beside: &mut [f64],
    vectors: &mut Array2<f64>,
) -> Option<()> {
    let n = diagonal.len();
    for _ in 0..SWEEPS_MAX {
        let is_small = |i: usize| {
            let size = diagonal[i].abs() + diagonal[i + 1].abs();
            beside[i].abs() <= f64::EPSILON * size
        };
        let end = (at..n - 1).find(|&i| is_small(i)).unwrap_or(n - 1);
        if end == at {
            return Some(());
        }
        // Wilkinson's shift.
        let half = (diagonal[at + 1] - diagonal[at]) / (2.0 * beside[at]);
        let root = half.hypot(1.0).copysign(half);
        let mut g = diagonal[end] - diagonal[at] + beside[at] / (half + root);
        let (mut sine, mut cosine, mut carried) = (1.0, 1.0, 0.0);
        let mut deflated = false;
        for i in (at..end).rev() {
            let f = sine * beside[i];
            let b = cosine * beside[i];
            let radius = f.hypot(g);
            beside[i + 1] = radius;
            if radius == 0.0 {
                diagonal[i + 1] -= carried;
                beside[end] = 0.0;
                deflated = true;
                break;
            }
            (sine, cosine) = (f / radius, g / radius);
            g = diagonal[i + 1] - carried;
            let turned = (diagonal[i] - g) * sine + 2.0 * cosine * b;
            carried = sine * turned;
            diagonal[i + 1] = g + carried;
            g = cosine * turned - b;
            rotate(vectors, i, sine, cosine);
        }
        if !deflated {
            diagonal[at] -= carried;
            beside[at] = g;
            beside[end] = 0.0;
        }
    }
    None
}

/// Rotates rows `i` and `i + 1`.
fn rotate(vectors: &mut Array2<f64>, i: usize, sine: f64, cosine: f64) {
    let (upper, lower) = vectors.multi_slice_mut((ndarray::s![i, ..], ndarray::s![i + 1, ..]));
    ndarray::Zip::from(upper).and(lower).for_each(|x, y| {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    });
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Stream};

    /// A matrix with the eigenvalues of its scale, some of them equal, and a null space.
    fn matrix(n: usize, rank: usize) -> Array2<f64> {
        let mut normals = Key::new(1, Stream::Probe).at(n as u64);
        let x = Array2::from_shape_fn((n, rank), |_| f64::from(normals.normal()));
        x.dot(&x.t())
    }

    #[test]
    fn eigenvectors_are_orthonormal_and_give_the_matrix_back() {
        let cases = [(1, 1), (2, 2), (3, 1), (10, 10), (40, 7), (33, 33)];
        let identity = Array2::eye(5);
        let diagonal = Array2::from_diag(&ndarray::arr1(&[3.0, 0.0, -2.0, 3.0]));
        let zero = Array2::zeros((4, 4));
        let all = cases.map(|(n, rank)| matrix(n, rank)).into_iter();
        for a in all.chain([identity, diagonal, zero]) {
            let n = a.nrows();
            let size = a.iter().fold(1.0f64, |most, x| most.max(x.abs()));
            let (values, vectors) = symmetric(a.clone()).expect("finite numbers");
            let largest = |x: Array2<f64>| x.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let product = vectors.dot(&vectors.t()) - Array2::<f64>::eye(n);
            assert!(largest(product) < 1e-12 * n as f64, "{n}: orthonormal");
            let scaled = Array2::from_diag(&ndarray::Array1::from(values)).dot(&vectors);
            let error = largest(vectors.t().dot(&scaled) - &a);
            assert!(error < 1e-12 * size * n as f64, "{n}: {error}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_have_no_eigenvalues() {
        assert!(symmetric(ndarray::arr2(&[[1.0, f64::NAN], [f64::NAN, 1.0]])).is_none());
    }

    #[test]
    fn a_known_matrix() {
        let (values, vectors) =
            largest_first(ndarray::arr2(&[[2.0, 1.0], [1.0, 2.0]])).expect("finite");
        assert!((values[0] - 3.0).abs() < 1e-15 && (values[1] - 1.0).abs() < 1e-15, "{values:?}");
        assert!((vectors[[0, 0]] - vectors[[0, 1]]).abs() < 1e-15);
        let of_zeros = |order| largest_first(Array2::zeros((order, order))).expect("finite").0;
        assert!(of_zeros(3).iter().all(|&x| x == 0.0));
        assert!(of_zeros(0).is_empty());
    }

    /// A = V diag(e) Vᵀ with orthonormal V, also where eigenvalues are many orders apart.
    #[test]
    fn vectors_and_values_of_graded_matrices_give_them_back() {
        let mut normals = Key::new(1, Stream::Probe).at(0);
        for (order, shrink) in [(1, 1.0), (5, 1.0), (12, 1e-2), (40, 1.0)] {
            let rows = Array2::from_shape_fn((order, order), |(i, _)| {
                f64::powi(shrink, i as i32) * f64::from(normals.normal())
            });
            let a = rows.dot(&rows.t());
            let (values, vectors) = largest_first(a.clone()).expect("finite");
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{values:?}");
            for i in 0..order {
                for j in 0..order {
                    let unit = f64::from(u8::from(i == j));
                    assert!((vectors.row(i).dot(&vectors.row(j)) - unit).abs() < 1e-12);
                    let sum: f64 =
                        (0..order).map(|k| values[k] * vectors[[k, i]] * vectors[[k, j]]).sum();
                    let off = (sum - a[[i, j]]).abs();
                    assert!(off < 1e-12 * values[0], "{order}: ({i}, {j}) is off by {off}");
                }
            }
        }
    }
}
