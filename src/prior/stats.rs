//! What a prior amounts to, in a few numbers: how spread its variances are, and which of its three
//! parts they come from.

use serde::Serialize;

use super::density::rows;
use super::{Parameter, Prior, elements};

/// A prior in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// All parameters together.
    pub overall: Spread,
    /// Each parameter, in the order of their names.
    pub parameters: Vec<ParameterStats>,
    /// (Σ e)²/Σ e² over the eigenvalues e of W Wᵀ: the number of directions that the deviations
    /// really vary in; 0 without any.
    pub effective_rank: f64,
}

/// One parameter in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterStats {
    /// The parameter's name.
    pub name: String,
    /// The parameter's shape.
    pub shape: Vec<usize>,
    /// Its variances.
    pub spread: Spread,
}

/// How variances are distributed over some weights, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Number of weights.
    pub count: usize,
    /// Mean of v.
    pub mean: f64,
    /// Median of v; the upper one of two.
    pub median: f32,
    /// Smallest v.
    pub min: f32,
    /// Largest v.
    pub max: f32,
    /// Σ ε / Σ diag(S): near 1, the prior is isotropic in all but name.
    pub floor_share: f64,
    /// Σ diag(W Wᵀ) / Σ diag(S)
    pub low_rank_share: f64,
}

impl Prior {
    /// The prior in numbers.
    pub fn stats(&self) -> Stats {
        let parameters = self.parameters.iter().map(|parameter| ParameterStats {
            name: parameter.name.clone(),
            shape: parameter.mean.shape().to_vec(),
            spread: self.spread(std::slice::from_ref(parameter)),
        });
        Stats {
            parameters: parameters.collect(),
            overall: self.spread(&self.parameters),
            effective_rank: self.effective_rank(),
        }
    }

    fn spread(&self, parameters: &[Parameter]) -> Spread {
        let mut vars: Vec<f32> =
            parameters.iter().flat_map(|p| elements(&p.var)).copied().collect();
        let count = vars.len();
        let total: f64 = vars.iter().map(|&v| f64::from(v)).sum();
        let squares = |row: &[f32]| row.iter().map(|&q| f64::from(q).powi(2)).sum::<f64>();
        let low_rank = |p: &Parameter| rows(p).map(squares).sum::<f64>() * p.factor_scale().powi(2);
        let low_rank: f64 = parameters.iter().map(low_rank).sum();
        let floor = count as f64 * f64::from(self.header.eps);
        let diagonal = 0.5 * total + floor + low_rank;
        let (min, max) =
            vars.iter().fold((f32::INFINITY, 0.0f32), |(min, max), &v| (min.min(v), max.max(v)));
        let (_, &mut median, _) = vars.select_nth_unstable_by(count / 2, f32::total_cmp);
        Spread {
            count,
            mean: total / count as f64,
            median,
            min,
            max,
            floor_share: floor / diagonal,
            low_rank_share: low_rank / diagonal,
        }
    }

    /// Σ e = tr(WᵀW) and Σ e² = ‖WᵀW‖² need no eigenvalues.
    fn effective_rank(&self) -> f64 {
        let (mut trace, mut squares) = (0.0, 0.0);
        for block in &self.blocks {
            let (rank, gram) = (block.rank, self.gram(block, |_| 1.0));
            trace += (0..rank).map(|row| gram[row * rank + row]).sum::<f64>();
            squares += gram.iter().map(|x| x * x).sum::<f64>();
        }
        if squares == 0.0 { 0.0 } else { trace * trace / squares }
    }
}
