//! What foreign files say of each parameter, and how it compares with given weights.

use crate::tensor::Shape;

/// What foreign files say of one parameter. The numbers are in row-major order.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// The weights of the network that the files were made around, where they hold any.
    pub(super) model: Option<Vec<f32>>,
    pub(super) mean: Vec<f32>,
    pub(super) var: Vec<f32>,
    /// The deviations, `[K, ...]`.
    pub(super) dev: Vec<f32>,
}

impl Part {
    /// The weights that a backbone of these files has.
    pub(super) fn weights(&self) -> &[f32] {
        self.model.as_ref().unwrap_or(&self.mean)
    }
}

/// ‖a - b‖² and ‖b‖².
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Distance {
    difference: f64,
    norm: f64,
}

impl Distance {
    pub(super) fn of(a: impl IntoIterator<Item = f32>, b: &[f32]) -> Self {
        let mut sum = Distance::default();
        for (a, &b) in a.into_iter().zip(b) {
            sum.difference += (f64::from(a) - f64::from(b)).powi(2);
            sum.norm += f64::from(b).powi(2);
        }
        sum
    }

    pub(super) fn add(&mut self, other: Self) {
        self.difference += other.difference;
        self.norm += other.norm;
    }

    /// ‖a - b‖/‖b‖; about √2 for unrelated weights of equal size.
    pub(super) fn relative(&self) -> f64 {
        match self.difference == 0.0 {
            true => 0.0,
            false => (self.difference / self.norm).sqrt(),
        }
    }
}
