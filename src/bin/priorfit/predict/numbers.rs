//! Predicted numbers, with how far they may be off.

use std::fmt;
use std::process::ExitCode;

use priorfit::error::Result;
use priorfit::posterior::Posterior;
use priorfit::task::Task;
use serde::Serialize;

use super::Predict;
use crate::globals::Globals;

#[derive(Serialize)]
struct Report {
    outputs: Vec<String>,
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    /// The image's file, or the example's number in an `.npz`.
    path: String,
    /// Each number.
    means: Vec<f64>,
    /// Its standard deviation: draws and noise together.
    deviations: Vec<f64>,
    /// The part that the draws' disagreement has in it.
    between_draws: Vec<f64>,
}

/// Predicts the numbers of all images.
pub(super) fn predict(
    posterior: &Posterior,
    options: &Predict,
    globals: &Globals,
) -> Result<ExitCode> {
    let task = &posterior.description().task;
    let noise: Vec<f64> = match task {
        Task::Regression { standard, .. } => {
            standard.iter().map(|s| s.noise.unwrap_or(0.0)).collect()
        }
        _ => Vec::new(),
    };
    let mut predictions = Vec::new();
    options.each(posterior, globals, &mut |path, row, variances| {
        let total = variances.iter().zip(&noise).map(|(v, noise)| (v + noise).sqrt());
        predictions.push(Prediction {
            path,
            means: row.to_vec(),
            deviations: total.collect(),
            between_draws: variances.iter().map(|v| v.sqrt()).collect(),
        });
    })?;
    globals.print(&Report { outputs: task.names().to_vec(), predictions })?;
    Ok(ExitCode::SUCCESS)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.predictions.iter().map(|p| p.path.chars().count()).max();
        let width = width.unwrap_or(0).max(5);
        write!(f, "{:width$}", "image")?;
        self.outputs.iter().try_for_each(|name| write!(f, "  {name:>21}"))?;
        writeln!(f)?;
        for Prediction { path, means, deviations, .. } in &self.predictions {
            write!(f, "{path:width$}")?;
            for (mean, deviation) in means.iter().zip(deviations) {
                write!(f, "  {:>21}", format!("{mean:.4} ± {deviation:.4}"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
