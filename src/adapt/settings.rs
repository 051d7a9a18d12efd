//! Settings of an adaptation.

use serde::{Deserialize, Serialize};

use super::posterior::PosteriorSettings;
use crate::data::Augment;
use crate::error::{Error, Result};
use crate::update::{Optimizer, Schedule};

/// Geometric mean of the prior's variances when no strength is given: a weight may move by about
/// 0.03, which changes a network's features without forgetting them.
pub const TYPICAL_VARIANCE: f64 = 1e-3;

/// The same of [`PriorKind::WeightDecay`]: two hundred steps at an effective rate of 0.1 take about
/// 1/(5N) of every weight, beside N examples, and half of that where the rate falls.
pub const DECAY_VARIANCE: f64 = 100.0;

/// What pulls the backbone's weights back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorKind {
    /// The stored prior as it is: diagonal plus low rank.
    #[default]
    Learned,
    /// The stored prior's diagonal.
    Diagonal,
    /// N(μ, variance·I) around the stored mean, or the backbone's weights without a stored prior
    /// (L2-SP, Li et al. 2018).
    Isotropic,
    /// N(0, λI) around zero, not where the weights start: weight decay, whose coefficient beside a
    /// mean loss over N examples is 1/(λN). It takes nothing from a stored prior, whose mean it
    /// passes over: a run starts at the backbone's weights.
    WeightDecay,
    /// Nothing.
    None,
}

/// Settings of an adaptation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which prior.
    pub prior: PriorKind,
    /// λ, which multiplies the prior's covariance: larger is weaker. Without one it is chosen by
    /// cross-validation on the training examples; where they are too few for that, it is the λ that
    /// makes the geometric mean of the prior's variances [`TYPICAL_VARIANCE`], or with weight decay
    /// [`DECAY_VARIANCE`].
    pub strength: Option<f64>,
    /// Variance of [`PriorKind::Isotropic`] before λ.
    pub isotropic_variance: f64,
    /// τ, the variance of the head's prior N(0, τI). Without one it is chosen by cross-validation
    /// of the linear probe; where the examples are too few for that, it is 1.
    pub head_variance: Option<f64>,
    /// Whether the linear probe is kept where cross-validation on the training examples finds that
    /// training all weights does not better its likelihood, and one network where an average over
    /// draws has a worse likelihood than the probe. A run whose strength is chosen ends at
    /// the mean of the weights along its path, the probe's among them; without a gate, as with a
    /// given strength, at the last of them.
    pub gate: bool,
    /// How the posterior is approximated.
    pub posterior: PosteriorSettings,
    /// The optimiser; chains of SGLD and SGHMC take its place.
    pub optimizer: Optimizer,
    /// Its base learning rate.
    pub learning_rate: f32,
    /// The learning rate over a run, or over each stage of one whose prior loosens; chains and SWAG
    /// have their own.
    pub schedule: Schedule,
    /// Training steps after the linear probe, of each chain or member; 0 keeps the probe.
    /// Cross-validation of runs takes at most as many again: where several folds share them, runs
    /// are shorter.
    pub steps: usize,
    /// Examples of a step; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// Largest norm of the loss's gradient; none does not clip.
    pub clip: Option<f32>,
    /// Patterns (`*` for any run) of names of backbone parameters that are not trained: they stay
    /// where the run starts: at the mean of the stored prior if one is used, or at the file's
    /// weights.
    pub freeze: Vec<String>,
    /// How training images vary.
    pub augment: Augment,
    /// Most steps of the linear probe.
    pub probe_steps: usize,
    /// Most bytes that the backend may hold; see [`Footprint`](super::Footprint). A run that cannot
    /// keep within them does not start.
    pub memory_cap: Option<u64>,
    /// Decides every random choice.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            prior: PriorKind::Learned,
            strength: None,
            isotropic_variance: TYPICAL_VARIANCE,
            head_variance: None,
            gate: true,
            posterior: PosteriorSettings::default(),
            optimizer: Optimizer::default(),
            learning_rate: 0.01,
            schedule: Schedule::Cosine { warmup: 0 },
            steps: 200,
            batch_size: 32,
            clip: Some(2.0),
            freeze: Vec::new(),
            augment: Augment::default(),
            probe_steps: 500,
            memory_cap: None,
            seed: 0,
        }
    }
}

impl Settings {
    /// The default with every choice made beforehand: strength and head variance 1, no gate.
    /// Nothing is cross-validated, and a run has `steps` steps.
    pub fn fixed() -> Self {
        let (strength, head_variance) = (Some(1.0), Some(1.0));
        Settings { strength, head_variance, gate: false, ..Settings::default() }
    }

    /// Whether a run ends at the average along its path, and not at the path's end: where neither
    /// the strength was given nor the gate opened, which ask for that end.
    pub(super) fn averages(&self) -> bool {
        self.strength.is_none() && self.prior != PriorKind::None && self.gate
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the one that is out of its range, or says that the wanted prior is missing.
    pub fn check(&self, has_prior: bool) -> Result<()> {
        let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} is {value}; expected a positive number"))),
        };
        self.strength.map_or(Ok(()), |strength| positive("strength", strength))?;
        self.head_variance.map_or(Ok(()), |tau| positive("head variance", tau))?;
        positive("learning rate", f64::from(self.learning_rate))?;
        positive("isotropic variance", self.isotropic_variance)?;
        self.clip.map_or(Ok(()), |clip| positive("clip", f64::from(clip)))?;
        self.optimizer.check()?;
        self.posterior.check(self.steps)?;
        if self.optimizer.samples() {
            return Err(Error::invalid("a sampler is no optimiser of a MAP")
                .hint("choose --posterior sgld or sghmc"));
        }
        if self.posterior.optimizer(self.optimizer).samples() && self.clip.is_some() {
            return Err(Error::invalid("clipping a sampler's gradient changes what it samples")
                .hint("set no clip (--clip none), or choose another --posterior"));
        }
        if self.batch_size == 0 {
            return Err(Error::invalid("batch size is 0; expected at least 1"));
        }
        if !has_prior && matches!(self.prior, PriorKind::Learned | PriorKind::Diagonal) {
            return Err(Error::invalid("a learned prior is wanted but none is given")
                .hint("give its file with --prior, or choose --prior isotropic or none"));
        }
        Ok(())
    }
}
