//! Predicted sets of labels.

use std::fmt;
use std::process::ExitCode;

use priorfit::error::Result;
use priorfit::posterior::Race;
use serde::Serialize;

use super::{Doubt, Work};
use crate::engines::write_race;
use crate::globals::Globals;

#[derive(Serialize)]
struct Report {
    labels: Vec<String>,
    predictions: Vec<Prediction>,
    /// How the engine was chosen, if there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    race: Option<Race>,
}

#[derive(Serialize)]
struct Prediction {
    /// The image's file, or the example's number in an `.npz`.
    path: String,
    /// The labels that are likelier there than not.
    labels: Vec<String>,
    /// The probability of each label.
    probabilities: Vec<f64>,
    /// Standard deviation of each probability between the draws.
    deviations: Vec<f64>,
    #[serde(flatten)]
    doubt: Doubt,
}

/// Predicts the labels of all images.
pub(super) fn predict(mut work: Work<'_>, globals: &Globals) -> Result<ExitCode> {
    let names = work.posterior.description().task.names().to_vec();
    let mut predictions = Vec::new();
    work.each(&mut |path, row, variances, doubt| {
        let likely = names.iter().zip(row).filter(|(_, p)| **p > 0.5);
        predictions.push(Prediction {
            path,
            labels: likely.map(|(name, _)| name.clone()).collect(),
            probabilities: row.to_vec(),
            deviations: variances.iter().map(|v| v.sqrt()).collect(),
            doubt,
        });
    })?;
    globals.print(&Report { labels: names, predictions, race: work.race })?;
    Ok(ExitCode::SUCCESS)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.predictions.iter().map(|p| p.path.chars().count()).max();
        let width = width.unwrap_or(0).max(5);
        writeln!(f, "{:width$}  labels", "image")?;
        for Prediction { path, probabilities, doubt, .. } in &self.predictions {
            write!(f, "{path:width$}")?;
            let mut likely: Vec<(&String, f64)> =
                self.labels.iter().zip(probabilities.iter().copied()).collect();
            likely.retain(|&(_, p)| p > 0.5);
            likely.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            for (at, (name, p)) in likely.iter().enumerate() {
                write!(f, "{}{name} {p:.3}", if at == 0 { "  " } else { ", " })?;
            }
            writeln!(f, "{}{}", if likely.is_empty() { "  -" } else { "" }, doubt.remark())?;
        }
        write_race(f, &self.race)
    }
}
