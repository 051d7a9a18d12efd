//! `prior from-posterior`.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use priorfit::adapt::SourceSettings;
use priorfit::error::{Error, Result};
use priorfit::posterior::Posterior;
use priorfit::prior::{DrawsFit, Header, MAX_RANK, Prior, Spread};
use serde::Serialize;

use super::blocks::BlocksArgs;
use super::rank::Rank;
use crate::globals::Globals;
use crate::options::{Destination, check_destination, percent};

/// Make the prior of the next task from what was learned in the last
///
/// A posterior with several draws gives their mean and their covariance. With --prior the
/// covariance of that prior is kept, or shrunk, around the posterior's mean: the way for a
/// posterior of one draw, which says nothing of its spread.
///
/// The prior belongs to the backbone that was adapted, as it was before (the posterior's folder has
/// it, and `export --weights backbone` writes it): adapt that file under the new prior, and the run
/// starts at the prior's mean, where the last one ended. Give --strength 1, or the covariance is
/// rescaled.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit prior from-posterior --posterior monday/ --out tuesday.safetensors
  priorfit prior from-posterior --posterior monday/ --prior first.safetensors --scale 0.5 \\
      --out tuesday.safetensors
  priorfit adapt --backbone backbone.onnx --prior tuesday.safetensors --strength 1 ...")]
pub struct FromPosterior {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// Where the prior goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The prior whose covariance is kept
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["rank", "shrinkage", "epsilon", "blocks"])]
    prior: Option<PathBuf>,
    /// What multiplies that covariance
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "prior")]
    scale: f64,
    /// Deviations kept, 0 for a diagonal prior; auto: as many as there are draws
    #[arg(long, value_name = "K|auto", default_value_t = Rank::Auto)]
    rank: Rank,
    /// Weight of the draws' variances, weight by weight, against that of their covariance: 0 is the
    /// covariance alone, for draws that outnumber what varies; 1 a diagonal prior
    #[arg(long, value_name = "SHARE", default_value_t = DrawsFit::default().shrinkage)]
    shrinkage: f64,
    #[command(flatten)]
    blocks: BlocksArgs,
    /// Least variance of a weight
    #[arg(long, default_value_t = SourceSettings::default().epsilon)]
    epsilon: f32,
}

#[derive(Serialize)]
struct Made {
    out: PathBuf,
    draws: usize,
    header: Header,
    overall: Spread,
}

impl FromPosterior {
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        check_destination(&self.out, Destination::File)?;
        let posterior = Posterior::load(&self.posterior)?;
        let draws = posterior.draws().len();
        let prior = match &self.prior {
            Some(prior) => posterior.to_prior_with(&Prior::load(prior)?, self.scale)?,
            None if draws == 1 => {
                let message = format!("{} has one draw", self.posterior.display());
                return Err(Error::invalid(message)
                    .hint("give the prior whose covariance is to be kept with --prior"));
            }
            None => {
                let rank = match self.rank {
                    Rank::Number(rank) => rank,
                    Rank::Auto => MAX_RANK,
                };
                let fit =
                    DrawsFit { rank, shrinkage: self.shrinkage, blocks: self.blocks.grouping() };
                posterior.to_prior(fit, self.epsilon)?
            }
        };
        prior.save(&self.out)?;
        let (header, overall) = (prior.header().clone(), prior.stats().overall);
        globals.print(&Made { out: self.out.clone(), draws, header, overall })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { rank, learned, notes, .. } = &self.header;
        writeln!(f, "prior     {} (rank {rank})", self.out.display())?;
        writeln!(f, "learned   {}", learned.method)?;
        if !notes.is_empty() {
            writeln!(f, "notes     {notes}")?;
        }
        writeln!(f, "weights   {}", self.overall.count)?;
        writeln!(f, "floor     {} of the variance", percent(self.overall.floor_share))
    }
}
