//! Eigenvalues and eigenvectors of a small symmetric matrix in `f64`, by Jacobi's rotations.

/// Sweeps after which it stops; convergence is quadratic, and about ten reach the last bit.
const SWEEPS: usize = 60;

/// The eigenvalues of the symmetric row-major matrix `a` of `order` rows, largest first, and their
/// unit eigenvectors, one after the other.
pub(super) fn eigen(mut a: Vec<f64>, order: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut v = vec![0.0; order * order];
    (0..order).for_each(|i| v[i * order + i] = 1.0);
    let total: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..order)
            .flat_map(|row| (0..row).map(move |column| row * order + column))
            .map(|at| a[at] * a[at])
            .sum();
        if off <= total * f64::EPSILON * f64::EPSILON {
            break;
        }
        for q in 1..order {
            for p in 0..q {
                rotate(&mut a, &mut v, order, p, q);
            }
        }
    }
    let mut by_size: Vec<usize> = (0..order).collect();
    by_size.sort_by(|&i, &j| a[j * order + j].total_cmp(&a[i * order + i]));
    let values = by_size.iter().map(|&i| a[i * order + i]).collect();
    let vector = |&i: &usize| (0..order).map(|row| v[row * order + i]).collect();
    (values, by_size.iter().map(vector).collect())
}

/// Makes the elements (p, q) and (q, p) zero: a ← JᵀaJ, v ← vJ (Golub and Van Loan, 8.5).
fn rotate(a: &mut [f64], v: &mut [f64], n: usize, p: usize, q: usize) {
    let off = a[p * n + q];
    if off == 0.0 {
        return;
    }
    let tau = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let t = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
    let c = 1.0 / (1.0 + t * t).sqrt();
    let s = t * c;
    let turn = |x: &mut [f64], i: usize, j: usize| {
        let (xi, xj) = (x[i], x[j]);
        (x[i], x[j]) = (c * xi - s * xj, s * xi + c * xj);
    };
    for k in 0..n {
        turn(a, p * n + k, q * n + k);
    }
    for k in 0..n {
        turn(a, k * n + p, k * n + q);
        turn(v, k * n + p, k * n + q);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Stream};

    #[test]
    fn a_known_matrix() {
        let (values, vectors) = eigen(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert!((values[0] - 3.0).abs() < 1e-15 && (values[1] - 1.0).abs() < 1e-15, "{values:?}");
        assert!((vectors[0][0] - vectors[0][1]).abs() < 1e-15);
        assert!(eigen(vec![0.0; 9], 3).0.iter().all(|&x| x == 0.0));
        assert!(eigen(Vec::new(), 0).0.is_empty());
    }

    /// A = V diag(e) Vᵀ with orthonormal V, also where eigenvalues are many orders apart or equal.
    #[test]
    fn vectors_and_values_give_the_matrix_back() {
        let mut normals = Key::new(1, Stream::Probe).at(0);
        for (order, shrink) in [(1, 1.0), (5, 1.0), (12, 1e-2), (40, 1.0)] {
            let rows: Vec<Vec<f64>> = (0..order)
                .map(|i| {
                    let scale = f64::powi(shrink, i);
                    (0..order).map(|_| scale * f64::from(normals.normal())).collect()
                })
                .collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let order = order as usize;
            let a: Vec<f64> =
                rows.iter().flat_map(|r| rows.iter().map(move |s| dot(r, s))).collect();
            let (values, vectors) = eigen(a.clone(), order);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{values:?}");
            for i in 0..order {
                for j in 0..order {
                    let unit = f64::from(u8::from(i == j));
                    assert!((dot(&vectors[i], &vectors[j]) - unit).abs() < 1e-12);
                    let sum: f64 =
                        (0..order).map(|k| values[k] * vectors[k][i] * vectors[k][j]).sum();
                    let off = (sum - a[i * order + j]).abs();
                    assert!(off < 1e-12 * values[0], "{order}: ({i}, {j}) is off by {off}");
                }
            }
        }
    }
}
