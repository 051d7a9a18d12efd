//! The prior of a run, and its tensors on the backend.

use std::collections::BTreeMap;

use super::settings::{DECAY_VARIANCE, PriorKind, Settings, TYPICAL_VARIANCE};
use crate::backend::Backend;
use crate::error::{Context, Error, Result};
use crate::graph::{Leaf, LeafKind, Method, PriorTerm};
use crate::onnx::Model;
use crate::posterior::own_weights;
use crate::prior::{Prior, Weights};
use crate::step::{Group, PriorState, Trainable, capacitance_state, moment_state, prior_state};
use crate::tensor::{Tensor, contiguous};

/// Typical variances of the priors on a path, from strong to weak.
const PATH: [f64; 4] = [1e-3, 1e-2, 1e-1, 1.0];
/// The same around zero.
const DECAY_PATH: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// The prior of a run.
pub(super) struct ActivePrior {
    /// Its tensors; none where the mean is zero and nothing is stored.
    prior: Option<Prior>,
    /// What each backbone parameter's update does with it; of a low-rank prior, with its largest
    /// block.
    term: PriorTerm,
    /// Geometric mean of the variances of the covariance that the update knows.
    typical: f64,
    /// What multiplies that covariance when λ is 1: the variance of an isotropic prior, whose
    /// update knows none, and else 1.
    unit: f64,
}

/// The prior of weight decay.
const DECAY: ActivePrior = ActivePrior {
    prior: None,
    term: PriorTerm::Isotropic { centred: false },
    typical: 1.0,
    unit: 1.0,
};

impl ActivePrior {
    /// The geometric mean of its variances where none can be chosen.
    pub(super) fn usual_variance(&self) -> f64 {
        if self.is_at_zero() { DECAY_VARIANCE } else { TYPICAL_VARIANCE }
    }

    /// Geometric means of its variances to choose among, from strong to weak.
    pub(super) fn variances(&self) -> [f64; 4] {
        if self.is_at_zero() { DECAY_PATH } else { PATH }
    }

    fn is_at_zero(&self) -> bool {
        self.term == PriorTerm::Isotropic { centred: false }
    }

    fn stored(&self) -> Result<&Prior> {
        self.prior.as_ref().ok_or_else(|| Error::internal("a term has its prior"))
    }

    /// What multiplies the covariance that the update knows, at strength λ.
    pub(super) fn scale_of_strength(&self, lambda: f64) -> f64 {
        lambda * self.unit
    }

    /// The scale at which the geometric mean of the prior's variances is `variance`.
    pub(super) fn scale_of_variance(&self, variance: f64) -> f64 {
        variance / self.typical
    }

    /// λ at this scale.
    pub(super) fn strength(&self, scale: f64) -> f64 {
        scale / self.unit
    }

    /// What the update of a parameter does with it, and the number of the parameter's block.
    fn term(&self, name: &str) -> Result<(PriorTerm, usize)> {
        match self.term {
            PriorTerm::LowRank { .. } => {
                let prior = self.stored()?;
                Ok((PriorTerm::LowRank { rank: prior.rank_of(name)? }, prior.block(name)?))
            }
            term => Ok((term, 0)),
        }
    }
}

/// The prior that the settings ask for; none for [`PriorKind::None`], or when the backbone has no
/// weights it could cover.
pub(super) fn choose(
    settings: &Settings,
    stored: Option<&Prior>,
    model: &Model,
) -> Result<Option<ActivePrior>> {
    let stored_prior =
        || stored.ok_or_else(|| Error::internal("settings are checked to have their prior"));
    let prior = match settings.prior {
        PriorKind::None => return Ok(None),
        PriorKind::Isotropic | PriorKind::WeightDecay if model.weights().next().is_none() => {
            return Ok(None);
        }
        PriorKind::WeightDecay => return Ok(Some(DECAY)),
        PriorKind::Learned => stored_prior()?.clone(),
        PriorKind::Diagonal => stored_prior()?.diagonal()?,
        PriorKind::Isotropic => return isotropic(settings, stored, model).map(Some),
    };
    let term = match prior.rank() {
        0 => PriorTerm::Diagonal,
        rank => PriorTerm::LowRank { rank },
    };
    let typical = prior.equivalent_variance()?;
    Ok(Some(ActivePrior { prior: Some(prior), term, typical, unit: 1.0 }))
}

/// N(μ, variance·I) around the stored mean, or else the backbone's weights.
fn isotropic(settings: &Settings, stored: Option<&Prior>, model: &Model) -> Result<ActivePrior> {
    let variance = settings.isotropic_variance;
    let prior = match stored {
        Some(stored) => stored.isotropic(variance)?,
        None => Prior::from_backbone(&own_weights(model), variance, &model.fingerprint())?,
    };
    let term = PriorTerm::Isotropic { centred: true };
    Ok(ActivePrior { prior: Some(prior), term, typical: 1.0, unit: variance })
}

/// The means of the prior's tensors, where a run starts; none where there are none.
pub(super) fn means(active: &ActivePrior) -> Result<Weights> {
    let parameters = active.prior.iter().flat_map(Prior::parameters);
    Ok(parameters.map(|p| (p.name().to_string(), p.mean().clone())).collect())
}

/// The parameters a run changes: the backbone's that are not frozen, under the prior, and the
/// head's.
pub(super) fn trainable(
    model: &Model,
    head: &[&str],
    active: Option<&ActivePrior>,
    is_frozen: impl Fn(&str) -> bool,
) -> Result<Vec<Trainable>> {
    let mut all = Vec::new();
    for name in model.weights().map(|(name, _)| name).filter(|name| !is_frozen(name)) {
        let (prior, block) = match active {
            Some(active) => active.term(name)?,
            None => (PriorTerm::None, 0),
        };
        all.push(Trainable { name: name.to_string(), group: Group::Backbone, block, prior });
    }
    let prior = PriorTerm::Isotropic { centred: false };
    all.extend(head.iter().map(|name| Trainable {
        name: name.to_string(),
        group: Group::Head,
        block: 0,
        prior,
    }));
    Ok(all)
}

/// The leaves that steps change: weights, moments, and the prior's sums.
pub(super) fn changing(trainable: &[Trainable], method: Method) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    for t in trainable {
        leaves.push(Leaf { kind: LeafKind::Param, name: t.name.clone() });
        let moments = method.moments().iter().map(|moment| moment_state(moment, &t.name));
        let sums = (t.prior != PriorTerm::None).then(|| prior_state(PriorState::Sums, &t.name));
        let states = moments.chain(sums);
        leaves.extend(states.map(|name| Leaf { kind: LeafKind::State, name }));
    }
    leaves
}

/// Mean of the variances d of the trainable backbone weights under the prior, before λ; 1 where it
/// stores none.
pub(super) fn mean_variance(active: Option<&ActivePrior>, trainable: &[Trainable]) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    let stores =
        |t: &&Trainable| matches!(t.prior, PriorTerm::Diagonal | PriorTerm::LowRank { .. });
    for t in trainable.iter().filter(stores) {
        let active = active.ok_or_else(|| Error::internal("a term has its prior"))?;
        let precision = active.stored()?.precision(&t.name)?;
        sum += precision.iter().map(|&p| f64::from(p).recip()).sum::<f64>();
        count += precision.len();
    }
    Ok(if count == 0 { 1.0 } else { sum / count as f64 })
}

/// Puts trainable parameters back to `weights`, moments to zero, and the prior's sums with them;
/// the steps are loaded.
pub(super) fn reset(
    backend: &mut dyn Backend,
    trainable: &[Trainable],
    active: Option<&ActivePrior>,
    method: Method,
    weights: &Weights,
) -> Result<()> {
    for leaf in changing(trainable, method) {
        let value = match (leaf.kind, weights.get(&leaf.name)) {
            (LeafKind::Param, Some(weight)) => contiguous(weight).into_owned(),
            _ => vec![0.0; backend.get(&leaf)?.len()],
        };
        backend.set(&leaf, &value)?;
    }
    install(backend, trainable, active, weights)
}

/// Puts the prior's tensors, and its sums at the present weights, where the step expects them.
pub(super) fn install(
    backend: &mut dyn Backend,
    trainable: &[Trainable],
    active: Option<&ActivePrior>,
    weights: &Weights,
) -> Result<()> {
    let mut set =
        |name: String, data: &[f32]| backend.set(&Leaf { kind: LeafKind::State, name }, data);
    let names: Vec<&str> =
        trainable.iter().filter(|t| t.group == Group::Backbone).map(|t| t.name.as_str()).collect();
    // With everything frozen nothing of the prior is left to hold.
    let prior = match active.and_then(|active| active.prior.as_ref()) {
        Some(prior) if !names.is_empty() => Some(prior.restrict(names)?),
        _ => None,
    };
    let blocks: BTreeMap<usize, &Trainable> =
        trainable.iter().filter(|t| is_low_rank(t)).map(|t| (t.block, t)).collect();
    for (&block, member) in &blocks {
        let prior = prior.as_ref().ok_or_else(|| Error::internal("a term has its prior"))?;
        // Where parameters are frozen, blocks have other numbers in what is left of the prior.
        let inverse = prior.capacitance_inverse(prior.block(&member.name)?)?;
        set(capacitance_state(block), &rounded(&inverse))?;
    }
    for t in trainable {
        let name = |what| prior_state(what, &t.name);
        let weight = weights
            .get(&t.name)
            .ok_or_else(|| Error::internal(format!("the network has no weight '{}'", t.name)))?;
        let prior = || prior.as_ref().ok_or_else(|| Error::internal("a term has its prior"));
        let scene = || format!("prior of '{}'", t.name);
        match t.prior {
            PriorTerm::None => continue,
            PriorTerm::Isotropic { centred: false } => {
                set(name(PriorState::Sums), &[sum_of_squares(weight, None)])?;
            }
            PriorTerm::Isotropic { centred: true } => {
                let mean = prior()?.mean(&t.name).context(scene)?;
                set(name(PriorState::Sums), &[sum_of_squares(weight, Some(&mean))])?;
                set(name(PriorState::Mean), &contiguous(&mean))?;
            }
            PriorTerm::Diagonal | PriorTerm::LowRank { .. } => {
                let prior = prior()?;
                let sums = prior.projections(&t.name, weight).context(scene)?;
                set(name(PriorState::Sums), &rounded(&sums))?;
                set(name(PriorState::Mean), &contiguous(&prior.mean(&t.name)?))?;
                set(name(PriorState::Precision), &contiguous(&prior.precision(&t.name)?))?;
                if let (true, Some(factor)) = (is_low_rank(t), prior.factor(&t.name)?) {
                    set(name(PriorState::Factor), &contiguous(&factor))?;
                }
            }
        }
    }
    Ok(())
}

fn is_low_rank(t: &Trainable) -> bool {
    matches!(t.prior, PriorTerm::LowRank { .. })
}

fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// Σ (x - mean)²
fn sum_of_squares(x: &Tensor, mean: Option<&Tensor>) -> f32 {
    let square = |x: f64| x * x;
    let sum: f64 = match mean {
        Some(mean) => x.iter().zip(mean).map(|(&x, &m)| square(f64::from(x) - f64::from(m))).sum(),
        None => x.iter().map(|&x| square(f64::from(x))).sum(),
    };
    sum as f32
}
