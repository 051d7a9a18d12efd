//! `prior import`.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use priorfit::error::Result;
use priorfit::prior::{
    Convention, Deviations, Foreign, ForeignReport, ForeignSettings, ForeignStrength, Header,
    Layout, Scaling, Spread, Weights,
};
use serde::Serialize;

use super::blocks::BlocksArgs;
use crate::backbone;
use crate::globals::Globals;
use crate::options::{Destination, check_destination, percent};

/// Names of ignored parameters that are printed.
const LISTED: usize = 4;

/// Make a prior file of one that PyTorch wrote
///
/// Reads the four files of the reference implementation of "Pre-Train Your Loss" (*_model.pt,
/// *_mean.pt, *_variance.pt, *_covmat.pt) or a checkpoint of swa_gaussian. No code in the files is
/// executed. The backbone must be the network that the prior was learned on, with BatchNorm kept,
/// its weights near the prior's mean; whether deviations are raw or divided by √(K-1) is inferred.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit prior import --backbone resnet50.onnx --out prior.safetensors \\
      resnet50_ssl_prior/resnet50_ssl_prior
  priorfit prior import --backbone b.onnx --out prior.safetensors swag-300.pt
  priorfit prior import --backbone resnet50.onnx --out prior.safetensors --epsilon 0.1 \\
      --convention b --lambda 1e5 resnet50_ssl_prior/resnet50_ssl_prior

The first names the common beginning of the four files; they can also be listed one by one. To
export such a backbone from PyTorch:

  torch.onnx.export(model.eval(), (example,), 'b.onnx', dynamo=False, do_constant_folding=False,
                    training=torch.onnx.TrainingMode.PRESERVE, keep_initializers_as_inputs=True)")]
pub struct Import {
    /// The files of the prior, or the beginning of their names
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,
    /// The ONNX file; a classifier at its end is cut off
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// Where the prior goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How the deviations are scaled, if that is known
    #[arg(long, value_enum)]
    deviations: Option<DeviationsArg>,
    /// Whose terms --lambda is in; the prior made is that program's Gaussian, for --strength 1
    #[arg(long, value_enum, requires = "lambda")]
    convention: Option<ConventionArg>,
    /// The strength in those terms
    #[arg(long, value_name = "STRENGTH", requires = "convention")]
    lambda: Option<f64>,
    /// Least variance of a weight; the reference uses 0.1 beside its strength
    #[arg(long, default_value_t = ForeignSettings::default().epsilon)]
    epsilon: f32,
    #[command(flatten)]
    blocks: BlocksArgs,
    /// Number of examples of the source task, for the record
    #[arg(long, value_name = "N", default_value_t = 0)]
    num_data: u64,
    /// Largest relative distance between model, backbone and mean; 1.4 is that of strangers
    #[arg(long, value_name = "R", default_value_t = ForeignSettings::default().distance_max)]
    distance_max: f64,
    /// Value or node of the backbone that holds the features
    #[arg(long, value_name = "NAME")]
    features: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviationsArg {
    /// As they are
    Raw,
    /// Divided by √(K-1)
    Normalised,
}

#[derive(Clone, Copy, ValueEnum)]
enum ConventionArg {
    /// The reference implementation: λv + ε, λ² FᵀF
    A,
    /// Harvey et al. 2024: λv/2 + ε, λ FᵀF/(2(K-1))
    B,
    /// Harvey et al. 2025, as here: λ(v/2 + ε), λ FᵀF/(2(K-1))
    C,
    /// SWAG: λv + ε, λ FᵀF/(K-1)
    D,
}

impl ConventionArg {
    fn convention(self) -> Convention {
        match self {
            ConventionArg::A => Convention::A,
            ConventionArg::B => Convention::B,
            ConventionArg::C => Convention::C,
            ConventionArg::D => Convention::D,
        }
    }
}

#[derive(Serialize)]
struct Imported {
    out: PathBuf,
    header: Header,
    overall: Spread,
    #[serde(flatten)]
    report: ForeignReport,
}

impl Import {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        check_destination(&self.out, Destination::File)?;
        let model = backbone::load(&self.backbone, self.features.as_deref())?;
        let weights: Weights =
            model.weights().map(|(name, weight)| (name.to_string(), weight.clone())).collect();
        let settings = ForeignSettings {
            epsilon: self.epsilon,
            scaling: self.deviations.map(|deviations| match deviations {
                DeviationsArg::Raw => Scaling::Raw,
                DeviationsArg::Normalised => Scaling::Normalised,
            }),
            strength: self.convention.zip(self.lambda).map(|(convention, lambda)| {
                ForeignStrength { convention: convention.convention(), lambda }
            }),
            num_data: self.num_data,
            distance_max: self.distance_max,
        };
        let foreign = Foreign::open(&self.files)?;
        let (prior, report) = foreign.attach(&weights, &model.fingerprint(), &settings)?;
        let prior = prior.block_diagonal(self.blocks.grouping())?;
        report.notes.iter().for_each(|note| globals.note(note));
        prior.save(&self.out)?;
        globals.print(&Imported {
            out: self.out.clone(),
            header: prior.header().clone(),
            overall: prior.stats().overall,
            report,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let layout = match report.layout {
            Layout::Reference => "the reference implementation",
            Layout::SwaGaussian => "swa_gaussian",
        };
        writeln!(f, "prior      {} (rank {})", self.out.display(), report.rank)?;
        writeln!(f, "layout     {layout}")?;
        writeln!(f, "matched    {} of {} parameters", report.matched, report.parameters)?;
        if !report.ignored.is_empty() {
            let shown = report.ignored[..report.ignored.len().min(LISTED)].join(", ");
            let more = if report.ignored.len() > LISTED { ", ..." } else { "" };
            writeln!(f, "ignored    {}: {shown}{more}", report.ignored.len())?;
        }
        if !report.renamed.is_empty() {
            writeln!(f, "renamed    {} were told by their values", report.renamed.len())?;
        }
        if let Some(deviations) = &report.deviations {
            write_deviations(f, deviations)?;
        }
        if let Some(distance) = report.model_distance {
            writeln!(f, "distance   {distance:.4} from the files' model to the mean")?;
        }
        writeln!(f, "distance   {:.4} from the backbone to the mean", report.backbone_distance)?;
        let dimension = report.dimension.max(1) as f64;
        if report.clamped > 0 {
            let share = percent(report.clamped as f64 / dimension);
            writeln!(f, "clamped    {share} of the variances, to 1e-6 by the reference")?;
        }
        if report.cancelled > 0 {
            let share = percent(report.cancelled as f64 / dimension);
            writeln!(f, "cancelled  {share} of the variances, taken from the deviations instead")?;
        }
        writeln!(f, "weights    {}", self.overall.count)?;
        writeln!(f, "floor      {} of the variance", percent(self.overall.floor_share))
    }
}

fn write_deviations(f: &mut fmt::Formatter<'_>, deviations: &Deviations) -> fmt::Result {
    let Deviations { stored, zero, scaling, ratio, raw_ratio, normalised_ratio } = deviations;
    let scaling = match scaling {
        Scaling::Raw => "raw",
        Scaling::Normalised => "divided by √(K-1)",
    };
    writeln!(f, "deviations {stored}, {zero} of them zero and dropped; {scaling}")?;
    match ratio {
        Some(ratio) => writeln!(
            f,
            "           their squares are {ratio:.3} of the variances; raw ones are about \
             {raw_ratio:.3}, normalised ones {normalised_ratio:.3}"
        ),
        None => Ok(()),
    }
}
