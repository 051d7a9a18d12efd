//! What a sampler's step does to two weights under a Gaussian likelihood and a Gaussian prior, in
//! closed form: it is linear, so mean and covariance follow recursions of their own.
//!
//! With loss (θ-b)ᵀQ(θ-b)/2, prior precision w S⁻¹ around μ, S = diag(d) + W Wᵀ, and x = θ - μ:
//!
//! ```text
//! v' = (β v - rᵢ Q(θ-b) - h (x - W C⁻¹Wᵀd⁻¹x) + σᵢ ξ) / (1 + h),   h = rᵢ w/d,   x' = x + v'
//! ```

pub type Vector = [f64; 2];
pub type Matrix = [[f64; 2]; 2];
type State = [[f64; 4]; 4];

/// A sampler at a Gaussian.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Q
    pub curvature: Matrix,
    /// b
    pub centre: Vector,
    /// μ
    pub mean: Vector,
    /// d
    pub variance: Vector,
    /// W, of rank 1; zero for a diagonal prior.
    pub factor: Vector,
    /// w
    pub weight: f64,
    /// r
    pub rate: f64,
    /// β
    pub beta: f64,
    /// T/N
    pub temperature: f64,
    pub preconditioned: bool,
}

impl Linear {
    /// Mean of d.
    pub fn mean_variance(&self) -> f64 {
        (self.variance[0] + self.variance[1]) / 2.0
    }

    /// C = 1 + Wᵀd⁻¹W
    pub fn capacitance(&self) -> f64 {
        let [w, d] = [self.factor, self.variance];
        1.0 + w[0] * w[0] / d[0] + w[1] * w[1] / d[1]
    }

    /// S⁻¹
    pub fn prior_precision(&self) -> Matrix {
        let [w, d] = [self.factor, self.variance];
        let entry = |i: usize, j: usize| {
            let diagonal = if i == j { 1.0 / d[i] } else { 0.0 };
            diagonal - w[i] / d[i] * w[j] / d[j] / self.capacitance()
        };
        [0, 1].map(|i| [0, 1].map(|j| entry(i, j)))
    }

    /// Q + w S⁻¹
    pub fn precision(&self) -> Matrix {
        let prior = self.prior_precision();
        [0, 1].map(|i| [0, 1].map(|j| self.curvature[i][j] + self.weight * prior[i][j]))
    }

    /// (Q + w S⁻¹)⁻¹ (Q b + w S⁻¹ μ), the mode.
    pub fn mode(&self) -> Vector {
        let prior = self.prior_precision();
        let right = [0, 1].map(|i| {
            (0..2)
                .map(|j| {
                    self.curvature[i][j] * self.centre[j] + self.weight * prior[i][j] * self.mean[j]
                })
                .sum::<f64>()
        });
        let inverse = inverse(self.precision());
        [0, 1].map(|i| inverse[i][0] * right[0] + inverse[i][1] * right[1])
    }

    /// (T/N)(Q + w S⁻¹)⁻¹, the posterior's covariance.
    pub fn posterior(&self) -> Matrix {
        inverse(self.precision()).map(|row| row.map(|x| self.temperature * x))
    }

    fn rates(&self) -> Vector {
        match self.preconditioned {
            true => self.variance.map(|d| self.rate * d / self.mean_variance()),
            false => [self.rate; 2],
        }
    }

    fn stiffness(&self) -> Vector {
        let rates = self.rates();
        [0, 1].map(|i| rates[i] * self.weight / self.variance[i])
    }

    /// One step of the deviation (x, v) from its fixed point, without noise.
    fn step(&self) -> State {
        let (rates, h) = (self.rates(), self.stiffness());
        let [w, d] = [self.factor, self.variance];
        let mut m = [[0.0; 4]; 4];
        for i in 0..2 {
            for j in 0..2 {
                let same = if i == j { 1.0 } else { 0.0 };
                let explained = w[i] * w[j] / d[j] / self.capacitance();
                let force = rates[i] * self.curvature[i][j] + h[i] * (same - explained);
                m[2 + i][j] = -force / (1.0 + h[i]);
                m[2 + i][2 + j] = same * self.beta / (1.0 + h[i]);
            }
        }
        for i in 0..2 {
            m[i] = m[2 + i];
            m[i][i] += 1.0;
        }
        m
    }

    /// Variance of the noise that a step adds to v and x.
    fn noise(&self) -> Vector {
        let (rates, beta) = (self.rates(), self.beta);
        let h = self.stiffness();
        [0, 1].map(|i| {
            let spread = (1.0 - beta + h[i]) * (2.0 + 2.0 * beta + h[i]) / (1.0 + beta + h[i]);
            rates[i] * self.temperature * spread / (1.0 + h[i]).powi(2)
        })
    }

    /// The stationary covariance of the weights.
    pub fn stationary(&self) -> Matrix {
        let (m, noise) = (self.step(), self.noise());
        let mut covariance = [[0.0; 4]; 4];
        for _ in 0..20_000 {
            covariance = transformed(&m, &covariance);
            for (i, variance) in noise.into_iter().enumerate() {
                for (a, b) in [(i, i), (i, 2 + i), (2 + i, i), (2 + i, 2 + i)] {
                    covariance[a][b] += variance;
                }
            }
        }
        [0, 1].map(|i| [0, 1].map(|j| covariance[i][j]))
    }

    /// Steps until a start is forgotten to `share` of itself.
    pub fn memory(&self, share: f64) -> usize {
        let m = self.step();
        let identity: State = std::array::from_fn(|i| std::array::from_fn(|j| f64::from(i == j)));
        let mut power = identity;
        for steps in 1..100_000 {
            power = product(&m, &power);
            let largest = power.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
            if largest < share {
                return steps;
            }
        }
        panic!("{self:?} does not settle");
    }
}

fn product(a: &State, b: &State) -> State {
    let entry = |i: usize, j: usize| (0..4).map(|k| a[i][k] * b[k][j]).sum();
    std::array::from_fn(|i| std::array::from_fn(|j| entry(i, j)))
}

/// M C Mᵀ
fn transformed(m: &State, covariance: &State) -> State {
    let transposed: State = std::array::from_fn(|i| std::array::from_fn(|j| m[j][i]));
    product(&product(m, covariance), &transposed)
}

pub fn inverse([[a, b], [c, d]]: Matrix) -> Matrix {
    let determinant = a * d - b * c;
    [[d / determinant, -b / determinant], [-c / determinant, a / determinant]]
}
