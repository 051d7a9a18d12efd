//! Predicted numbers, with how far they may be off.

use std::fmt;
use std::process::ExitCode;

use priorfit::error::Result;
use priorfit::posterior::Race;
use priorfit::task::Task;
use serde::Serialize;

use super::{Doubt, Work};
use crate::engines::write_race;
use crate::globals::Globals;

#[derive(Serialize)]
struct Report {
    outputs: Vec<String>,
    predictions: Vec<Prediction>,
    /// How the engine was chosen, if there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    race: Option<Race>,
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
    /// From where to where each number lies as often as the calibration promises, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    intervals: Option<Vec<[f64; 2]>>,
    #[serde(flatten)]
    doubt: Doubt,
}

/// Around each mean, so many of its deviations.
fn intervals(means: &[f64], deviations: &[f64], halves: &[f64]) -> Vec<[f64; 2]> {
    let each = means.iter().zip(deviations).zip(halves);
    each.map(|((mean, deviation), half)| [-1.0, 1.0].map(|s| mean + s * half * deviation)).collect()
}

/// Predicts the numbers of all images.
pub(super) fn predict(mut work: Work<'_>, globals: &Globals) -> Result<ExitCode> {
    let task = work.posterior.task();
    let noise: Vec<f64> = match &task {
        Task::Regression { standard, .. } => {
            standard.iter().map(|s| s.noise.unwrap_or(0.0)).collect()
        }
        _ => Vec::new(),
    };
    let calibration = work.posterior.description().calibration.clone();
    let promised = calibration.and_then(|calibration| calibration.intervals);
    let halves = promised.and_then(|intervals| intervals.half_widths);
    let mut predictions = Vec::new();
    work.each(&mut |path, row, variances, doubt| {
        let total = variances.iter().zip(&noise).map(|(v, noise)| (v + noise).sqrt());
        let deviations: Vec<f64> = total.collect();
        predictions.push(Prediction {
            path,
            means: row.to_vec(),
            intervals: halves.as_ref().map(|halves| intervals(row, &deviations, halves)),
            deviations,
            between_draws: variances.iter().map(|v| v.sqrt()).collect(),
            doubt,
        });
    })?;
    globals.print(&Report { outputs: task.names().to_vec(), predictions, race: work.race })?;
    Ok(ExitCode::SUCCESS)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.predictions.iter().map(|p| p.path.chars().count()).max();
        let width = width.unwrap_or(0).max(5);
        write!(f, "{:width$}", "image")?;
        self.outputs.iter().try_for_each(|name| write!(f, "  {name:>21}"))?;
        writeln!(f)?;
        for Prediction { path, means, deviations, doubt, .. } in &self.predictions {
            write!(f, "{path:width$}")?;
            for (mean, deviation) in means.iter().zip(deviations) {
                write!(f, "  {:>21}", format!("{mean:.4} ± {deviation:.4}"))?;
            }
            writeln!(f, "{}", doubt.remark())?;
        }
        write_race(f, &self.race)
    }
}
