//! The Cholesky factor of a small symmetric matrix in `f64`: A = L Lᵀ.

/// The lower triangular factor of a positive definite matrix of `order` rows.
#[derive(Clone, Debug)]
pub(crate) struct Cholesky {
    order: usize,
    /// Row-major; entries above the diagonal are zero.
    lower: Vec<f64>,
}

impl Cholesky {
    /// Factors the row-major matrix `a`, of which it reads the lower triangle, or `None` when it is
    /// not positive definite in `f64`.
    pub(crate) fn new(mut a: Vec<f64>, order: usize) -> Option<Self> {
        for row in 0..order {
            for column in 0..=row {
                let done: f64 =
                    (0..column).map(|i| a[row * order + i] * a[column * order + i]).sum();
                let rest = a[row * order + column] - done;
                a[row * order + column] = if row > column {
                    rest / a[column * order + column]
                } else if rest > 0.0 && rest.is_finite() {
                    rest.sqrt()
                } else {
                    return None;
                };
            }
            a[row * order + row + 1..(row + 1) * order].fill(0.0);
        }
        Some(Cholesky { order, lower: a })
    }

    /// A⁻¹ b
    pub(super) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let (n, l) = (self.order, &self.lower);
        let mut x = b.to_vec();
        for row in 0..n {
            let done: f64 = (0..row).map(|i| l[row * n + i] * x[i]).sum();
            x[row] = (x[row] - done) / l[row * n + row];
        }
        self.solve_transposed(x)
    }

    /// L⁻ᵀ x, which has the covariance A⁻¹ when x is standard normal.
    pub(crate) fn solve_transposed(&self, mut x: Vec<f64>) -> Vec<f64> {
        let (n, l) = (self.order, &self.lower);
        for row in (0..n).rev() {
            x[row] /= l[row * n + row];
            let (above, solved) = x.split_at_mut(row);
            let column = &l[row * n..row * n + row];
            above.iter_mut().zip(column).for_each(|(x, l)| *x -= l * solved[0]);
        }
        x
    }

    /// A⁻¹, row-major, exactly symmetric.
    pub(super) fn inverse(&self) -> Vec<f64> {
        let n = self.order;
        let mut inverse = vec![0.0; n * n];
        for column in 0..n {
            let mut unit = vec![0.0; n];
            unit[column] = 1.0;
            let solved = self.solve(&unit);
            for row in column..n {
                inverse[row * n + column] = solved[row];
                inverse[column * n + row] = solved[row];
            }
        }
        inverse
    }

    /// ln |A|
    pub(super) fn logdet(&self) -> f64 {
        2.0 * (0..self.order).map(|i| self.lower[i * self.order + i].ln()).sum::<f64>()
    }
}
