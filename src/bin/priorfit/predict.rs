//! `predict`: classes, labels, numbers or masks for images.

mod labels;
mod masks;
mod numbers;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use priorfit::data::Dataset;
use priorfit::error::{Context, Result};
use priorfit::posterior::Posterior;
use priorfit::task::Task;
use serde::Serialize;

use crate::globals::Globals;
use crate::monitor::Monitor;

/// Predict what images show
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit predict --posterior mine/ new.jpg
  priorfit predict --posterior mine/ inbox/ more.npz --json
  priorfit predict --posterior masks/ street/ --out predicted/ --entropy

Entropy is in nats: 0 is certain, the logarithm of the number of classes is a guess. Labels are
printed that have a probability above one half, numbers with the standard deviation of their
prediction. Masks are written to the folder of --out.")]
pub struct Predict {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// PNG or JPEG files, folders of them, or .npz files with x
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    masks: masks::MaskArgs,
}

#[derive(Serialize)]
struct Report {
    classes: Vec<String>,
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    /// The image's file, or the example's number in an `.npz`.
    path: String,
    /// The likeliest class.
    class: String,
    /// Its probability.
    probability: f64,
    /// Entropy of the predictive distribution, in nats.
    entropy: f64,
    /// The whole distribution.
    probabilities: Vec<f64>,
}

impl Predict {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let posterior = Posterior::load(&self.posterior)?;
        self.masks.check(&posterior.description().task)?;
        match posterior.description().task {
            Task::Classification { .. } => {}
            Task::MultiLabel { .. } => return labels::predict(&posterior, self, globals),
            Task::Regression { .. } => return numbers::predict(&posterior, self, globals),
            Task::Segmentation { .. } => return masks::predict(&posterior, self, globals),
        }
        let classes = posterior.description().task.names().to_vec();
        let engine = globals.engine()?;
        let mut monitor = Monitor::new(globals)?;
        let mut predictions = Vec::new();
        for (source, data) in self.sources()? {
            let predicted = posterior.predict(&data, &engine, &mut |p| monitor.predicting(p));
            let in_source = || source.map(|path| path.display().to_string()).unwrap_or_default();
            let predicted = match source {
                Some(_) => predicted.context(in_source)?,
                None => predicted?,
            };
            for (index, row) in predicted.rows().into_iter().enumerate() {
                let path = name_of(&data, index, source);
                predictions.push(Prediction::new(path, &classes, row.to_vec()));
            }
        }
        monitor.finish();
        globals.print(&Report { classes, predictions })?;
        Ok(ExitCode::SUCCESS)
    }

    /// The images in order; those of an `.npz` with its path, since they have none of their own.
    fn sources(&self) -> Result<Vec<(Option<&Path>, Dataset)>> {
        let mut sources = Vec::new();
        let mut files = Vec::new();
        for path in &self.images {
            let is_file = !path.is_dir() && !is_archive(path);
            if is_file {
                files.push(path.clone());
                continue;
            }
            if !files.is_empty() {
                sources.push((None, Dataset::from_files(std::mem::take(&mut files))?));
            }
            let source = (!path.is_dir()).then_some(path.as_path());
            sources.push((source, Dataset::open(path)?));
        }
        if !files.is_empty() {
            sources.push((None, Dataset::from_files(files)?));
        }
        Ok(sources)
    }
}

/// The file of an example, or its number in an `.npz`.
fn name_of(data: &Dataset, index: usize, source: Option<&Path>) -> String {
    match (data.path(index), source) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(source)) => format!("{}[{index}]", source.display()),
        (None, None) => format!("[{index}]"),
    }
}

/// Whether the file begins like an `.npz`. One that cannot be read is reported as an image.
fn is_archive(path: &Path) -> bool {
    let mut magic = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"PK"
}

impl Prediction {
    fn new(path: String, classes: &[String], probabilities: Vec<f64>) -> Self {
        let mut best = 0;
        for (class, &p) in probabilities.iter().enumerate() {
            if p > probabilities[best] {
                best = class;
            }
        }
        let surprise = |&p: &f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        Prediction {
            path,
            class: classes[best].clone(),
            probability: probabilities[best],
            entropy: probabilities.iter().map(surprise).sum(),
            probabilities,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: &dyn Fn(&Prediction) -> usize| {
            self.predictions.iter().map(of).max().unwrap_or(0).max(5)
        };
        let path_width = width(&|p| p.path.chars().count());
        let class_width = width(&|p| p.class.chars().count());
        writeln!(f, "{:path_width$}  {:class_width$}  probability  entropy", "image", "class")?;
        for Prediction { path, class, probability, entropy, .. } in &self.predictions {
            writeln!(
                f,
                "{path:path_width$}  {class:class_width$}  {probability:>11.4}  {entropy:>7.4}"
            )?;
        }
        Ok(())
    }
}
