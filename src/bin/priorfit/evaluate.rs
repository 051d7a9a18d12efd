//! `evaluate`: metrics of a posterior on labelled data.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use priorfit::data::Dataset;
use priorfit::error::{Context, Result};
use priorfit::posterior::{Evaluation, Posterior};
use priorfit::posterior::metrics;
use serde::Serialize;

use crate::globals::Globals;
use crate::monitor::Monitor;

/// Measure a posterior's predictions on labelled data
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit evaluate --posterior mine/ --data test/
  priorfit evaluate --posterior mine/ --data test.npz --json

Classes, labels and columns of numbers are matched by name between folders, by number for an .npz.
Classes: accuracy, likelihood, calibration. Labels: average precision, F1, the same of the marginals.
Numbers: RMSE, MAE, R2, coverage of 90 % intervals. Masks: IoU, and likelihood and calibration of
the pixels.")]
pub struct Evaluate {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// Labelled examples as `adapt` takes them
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
}

#[derive(Serialize)]
struct Report {
    /// Names of the classes, by index.
    names: Vec<String>,
    #[serde(flatten)]
    metrics: metrics::Report,
}

impl Evaluate {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let posterior = Posterior::load(&self.posterior)?;
        let names = posterior.description().task.names().to_vec();
        let data = Dataset::open(&self.data)?;
        let mut monitor = Monitor::new(globals)?;
        let evaluation =
            posterior.evaluate(&data, globals.engine()?, &mut |p| monitor.predicting(p));
        monitor.finish();
        match evaluation.context(|| self.data.display().to_string())? {
            Evaluation::Classes(metrics) => globals.print(&Report { names, metrics })?,
            other => globals.print(&other)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.metrics)?;
        let confusion = &self.metrics.confusion;
        let largest = confusion.iter().flatten().max().map_or(1, |count| count.to_string().len());
        let width = largest.max(confusion.len().to_string().len()) + 1;
        write!(f, "true\\predicted")?;
        (0..confusion.len()).try_for_each(|class| write!(f, "{class:>width$}"))?;
        writeln!(f)?;
        for (class, (row, name)) in confusion.iter().zip(&self.names).enumerate() {
            write!(f, "{class:>14}")?;
            row.iter().try_for_each(|count| write!(f, "{count:>width$}"))?;
            // Classes of an `.npz` are called by their numbers.
            let name = if *name == class.to_string() { "" } else { name.as_str() };
            writeln!(f, "{}{name}", if name.is_empty() { "" } else { "  " })?;
        }
        Ok(())
    }
}
