//! `prior`: its commands, and `prior show`.

mod blocks;
mod fit;
mod from_posterior;
mod import;
mod rank;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use priorfit::error::Result;
use priorfit::prior::{Header, Learned, Prior, Spread, Stats};
use priorfit::tensor::Shape;
use serde::Serialize;

use self::fit::Fit;
use self::from_posterior::FromPosterior;
use self::import::Import;
use crate::globals::Globals;
use crate::options::percent;

#[derive(Subcommand)]
pub enum PriorCommand {
    Fit(Box<Fit>),
    Import(Box<Import>),
    FromPosterior(FromPosterior),
    Show(Show),
}

impl PriorCommand {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        match self {
            PriorCommand::Fit(command) => command.run(globals),
            PriorCommand::Import(command) => command.run(globals),
            PriorCommand::FromPosterior(command) => command.run(globals),
            PriorCommand::Show(command) => command.run(globals),
        }
    }
}

/// Show what a prior file holds: origin, variances, and how much of them is the floor
///
/// Where the floor ε supplies most of the variance, the snapshots hardly moved and the prior is
/// isotropic in all but name.
#[derive(Args)]
pub struct Show {
    /// The prior file
    prior: PathBuf,
}

#[derive(Serialize)]
struct Shown {
    file: PathBuf,
    header: Header,
    #[serde(flatten)]
    stats: Stats,
}

impl Show {
    fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let prior = Prior::load(&self.prior)?;
        let (header, stats) = (prior.header().clone(), prior.stats());
        globals.print(&Shown { file: self.prior.clone(), header, stats })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { backbone, blocks, convention, eps, learned, notes, num_data, rank, version } =
            &self.header;
        writeln!(f, "version     {version}")?;
        writeln!(f, "backbone    {backbone}")?;
        writeln!(f, "covariance  {convention}")?;
        writeln!(f, "rank        {rank}, {:.1} of them effective", self.stats.effective_rank)?;
        if !blocks.is_empty() {
            writeln!(f, "blocks      {} that do not vary together:", blocks.len())?;
            for (called, names) in blocks {
                writeln!(f, "            {called} ({})", parameters_text(names.len()))?;
            }
        }
        writeln!(f, "epsilon     {eps:e}")?;
        let schedule = match learned.schedule.as_str() {
            "" => String::new(),
            schedule => format!(" ({schedule})"),
        };
        let Learned { method, snapshots, .. } = learned;
        writeln!(f, "learned     by {method}{schedule}, {snapshots} snapshots")?;
        writeln!(f, "examples    {num_data}")?;
        if !notes.is_empty() {
            writeln!(f, "notes       {notes}")?;
        }
        let parameters = &self.stats.parameters;
        let longest = parameters.iter().map(|p| p.name.chars().count()).max().unwrap_or(0).max(10);
        writeln!(
            f,
            "\n{:longest$}  {:18} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
            "parameter", "shape", "mean v", "median v", "min v", "max v", "floor", "low rank"
        )?;
        let mut row = |name: &str, shape: String, s: &Spread| {
            writeln!(
                f,
                "{name:longest$}  {shape:18} {:>9.2e} {:>9.2e} {:>9.2e} {:>9.2e} {:>8} {:>8}",
                s.mean,
                s.median,
                s.min,
                s.max,
                percent(s.floor_share),
                percent(s.low_rank_share),
            )
        };
        for p in parameters {
            row(&p.name, Shape::from(&p.shape[..]).to_string(), &p.spread)?;
        }
        let overall = &self.stats.overall;
        row("all", format!("{} weights", overall.count), overall)
    }
}

fn parameters_text(count: usize) -> String {
    format!("{count} parameter{}", if count == 1 { "" } else { "s" })
}
