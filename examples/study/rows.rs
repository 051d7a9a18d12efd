//! The rows of the tables: ways to adapt.

use clap::ValueEnum;
use priorfit::adapt::{PosteriorKind, PosteriorSettings, PriorKind, SGHMC_RATE, Settings};
use serde::{Deserialize, Serialize};

/// A way to adapt. The order is that of the tables.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// The head alone, on frozen features
    Probe,
    /// Weight decay of the best strength
    WeightDecay,
    /// L2-SP of the best strength
    L2Sp,
    /// The learned prior's diagonal, of the best strength
    Diagonal,
    /// The learned prior of the best strength
    LowRank,
    /// What `adapt` does without a prior's file
    Default,
    /// What `adapt` does with a prior's file
    Learned,
    /// Draws of a chain of SGHMC, otherwise the default
    Sghmc,
    /// Draws of SWAG, otherwise the default
    Swag,
    /// SWAG's mean alone, the one network in the middle of its draws (SWA)
    Swa,
    /// Draws of a last-layer Laplace approximation, otherwise the default
    Laplace,
    /// Masks: the decoder alone, on frozen maps; computed with mask-default
    MaskProbe,
    /// Masks: what `adapt` does without a prior's file
    MaskDefault,
}

impl Row {
    /// Its name in the tables.
    pub fn title(self) -> &'static str {
        match self {
            Row::Probe => "linear probe",
            Row::WeightDecay => "weight decay, tuned",
            Row::L2Sp => "L2-SP, tuned",
            Row::Diagonal => "learned diagonal, tuned",
            Row::LowRank => "learned low rank, tuned",
            Row::Default => "default",
            Row::Learned => "default, learned prior",
            Row::Sghmc => "default, SGHMC",
            Row::Swag => "default, SWAG",
            Row::Swa => "default, SWAG's mean",
            Row::Laplace => "default, Laplace",
            Row::MaskProbe => "linear decoder",
            Row::MaskDefault => "default",
        }
    }

    /// Its colour in the plots.
    pub fn colour(self) -> &'static str {
        match self {
            Row::Probe | Row::MaskProbe => "#7f7f7f",
            Row::WeightDecay => "#8c564b",
            Row::L2Sp => "#1f77b4",
            Row::Diagonal => "#17becf",
            Row::LowRank => "#2ca02c",
            Row::Default | Row::MaskDefault => "#d62728",
            Row::Learned => "#ff7f0e",
            Row::Sghmc => "#9467bd",
            Row::Swag => "#e377c2",
            Row::Swa => "#f7b6d2",
            Row::Laplace => "#bcbd22",
        }
    }

    /// Whether it is of masks.
    pub fn is_of_masks(self) -> bool {
        matches!(self, Row::MaskProbe | Row::MaskDefault)
    }

    /// Whether its strength is that of the best of several whole runs.
    pub fn is_tuned(self) -> bool {
        matches!(self, Row::WeightDecay | Row::L2Sp | Row::Diagonal | Row::LowRank)
    }

    /// Whether it does what the default does, but for how the posterior is approximated.
    pub fn shares_choice(self) -> bool {
        matches!(self, Row::Sghmc | Row::Swag | Row::Swa | Row::Laplace)
    }

    /// Whether it takes the source's prior.
    pub fn needs_prior(self) -> bool {
        matches!(self, Row::Diagonal | Row::LowRank | Row::Learned)
    }

    /// The settings, otherwise the default ones.
    pub fn settings(self, seed: u64, steps: usize) -> Settings {
        let base = Settings { prior: self.prior(), seed, steps, ..Settings::default() };
        let with = |posterior| Settings { posterior, ..base.clone() };
        let of = |kind| with(PosteriorSettings::of(kind));
        match self {
            Row::Probe => Settings { steps: 0, ..base },
            Row::WeightDecay | Row::L2Sp | Row::Diagonal | Row::LowRank => {
                Settings { gate: false, ..base }
            }
            Row::Default | Row::Learned | Row::MaskProbe | Row::MaskDefault => base,
            Row::Sghmc => {
                Settings { clip: None, learning_rate: SGHMC_RATE, ..of(PosteriorKind::Sghmc) }
            }
            Row::Swag => of(PosteriorKind::Swag),
            Row::Swa => with(PosteriorSettings {
                draws: Some(1),
                temperature: Some(0.0),
                ..PosteriorSettings::of(PosteriorKind::Swag)
            }),
            Row::Laplace => of(PosteriorKind::Laplace),
        }
    }

    fn prior(self) -> PriorKind {
        match self {
            Row::WeightDecay => PriorKind::WeightDecay,
            Row::Diagonal => PriorKind::Diagonal,
            Row::LowRank | Row::Learned => PriorKind::Learned,
            _ => PriorKind::Isotropic,
        }
    }
}

/// In the order in which they are run: what the goals need comes first.
pub const RUN_ORDER: [Row; 12] = [
    Row::Probe,
    Row::Default,
    Row::Learned,
    Row::L2Sp,
    Row::WeightDecay,
    Row::LowRank,
    Row::MaskDefault,
    Row::Laplace,
    Row::Sghmc,
    Row::Swag,
    Row::Swa,
    Row::Diagonal,
];
