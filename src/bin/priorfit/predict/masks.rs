//! Predicted masks, written as PNG files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use priorfit::atomic_file;
use priorfit::data::{Dataset, encode_grey, encode_mask};
use priorfit::error::{Context, Error, Result};
use priorfit::posterior::{Part, Posterior, Race};
use priorfit::task::Task;
use serde::Serialize;

use super::{Doubt, Work, name_of};
use crate::engines::write_race;
use crate::globals::Globals;
use crate::options::{Destination, check_destination, percent};

/// What becomes of masks.
#[derive(Args)]
#[command(next_help_heading = "Masks")]
pub struct MaskArgs {
    /// Folder for predicted masks: indexed PNG files of the images' sizes and names
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Beside each mask a grey NAME.entropy.png: black is certain, white a guess
    #[arg(long, requires = "out")]
    entropy: bool,
}

impl MaskArgs {
    /// The options suit what is predicted.
    ///
    /// # Errors
    /// When they are given for another task, or missing for this.
    pub fn check(&self, task: &Task) -> Result<()> {
        match (task.is_dense(), &self.out) {
            (false, Some(_)) => {
                Err(Error::invalid("--out is for masks, which this model has none")
                    .hint("expected a model of `adapt --task segment`; --json prints predictions"))
            }
            (true, None) => Err(Error::invalid("predicted masks need a folder").hint("give --out")),
            (true, Some(out)) => check_destination(out, Destination::Folder),
            (false, None) => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    classes: Vec<String>,
    predictions: Vec<Prediction>,
    /// How the engine was chosen, if there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    race: Option<Race>,
}

#[derive(Serialize)]
struct Prediction {
    /// The image's file, or the example's number in an `.npz`.
    path: String,
    /// The mask's file.
    mask: PathBuf,
    /// Means over the pixels.
    #[serde(flatten)]
    doubt: Doubt,
    /// Share of the pixels of each class.
    shares: Vec<f64>,
}

/// Predicts the masks of all images.
pub(super) fn predict(
    mut work: Work<'_>,
    options: &MaskArgs,
    globals: &Globals,
) -> Result<ExitCode> {
    let out = options.out.clone().unwrap_or_default();
    std::fs::create_dir_all(&out).map_err(|e| Error::io("cannot make", &out, e))?;
    let Work { posterior, sources, engine, monitor, .. } = &mut work;
    let mut predictions = Vec::new();
    for (source, data) in &*sources {
        let writer = Writer { posterior, data, source: *source, options, out: &out };
        let mut add = |part: Part| {
            predictions.extend(writer.write(&part)?);
            Ok(())
        };
        let done =
            posterior.predict_parts(data, &*engine, &mut |p| monitor.predicting(p), &mut add);
        done.context(|| source.map(|path| path.display().to_string()).unwrap_or_default())?;
    }
    monitor.finish();
    let classes = posterior.description().task.names().to_vec();
    globals.print(&Report { out, classes, predictions, race: work.race })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the masks of one source.
struct Writer<'a> {
    posterior: &'a Posterior,
    data: &'a Dataset,
    source: Option<&'a Path>,
    options: &'a MaskArgs,
    out: &'a Path,
}

impl Writer<'_> {
    fn write(&self, part: &Part) -> Result<Vec<Prediction>> {
        let description = self.posterior.description();
        let len = description.task.output_len(&description.preprocess);
        let rows = part.mean.chunks_exact(len);
        let rows = rows.zip(&part.uncertainty);
        let one = |(index, (row, one))| self.write_one(index, row, Doubt::new(self.posterior, one));
        part.examples.clone().zip(rows).map(one).collect()
    }

    /// `probabilities: [H, W, classes]` of the network's input.
    fn write_one(&self, index: usize, probabilities: &[f64], doubt: Doubt) -> Result<Prediction> {
        let description = self.posterior.description();
        let names = description.task.names();
        let pixels = probabilities.chunks_exact(names.len());
        let classes: Vec<u8> = pixels.clone().map(likeliest).collect();
        let ignore = match description.task {
            Task::Segmentation { ignore, .. } => ignore,
            _ => priorfit::data::IGNORED,
        };
        let size = self.data.size(index)?;
        let restore =
            |values: &[u8], outside| description.preprocess.restore_mask(values, size, outside);
        let path = self.out.join(format!("{}.png", self.stem(index)));
        let mask = encode_mask(&restore(&classes, ignore)?, size)?;
        if self.options.entropy {
            let most = (names.len() as f64).ln();
            let grey = |row| (255.0 * entropy(row) / most).round().clamp(0.0, 255.0) as u8;
            let grey: Vec<u8> = pixels.map(grey).collect();
            let grey = encode_grey(&restore(&grey, 0)?, size)?;
            let beside = self.out.join(format!("{}.entropy.png", self.stem(index)));
            atomic_file::write_all(&[(&path, &mask), (&beside, &grey)])?;
        } else {
            atomic_file::write_all(&[(&path, &mask)])?;
        }
        let count = classes.len() as f64;
        let share = |class: usize| {
            classes.iter().filter(|&&c| usize::from(c) == class).count() as f64 / count
        };
        Ok(Prediction {
            path: name_of(self.data, index, self.source),
            mask: path,
            doubt,
            shares: (0..names.len()).map(share).collect(),
        })
    }

    /// The image's name without its ending, or the example's number.
    fn stem(&self, index: usize) -> String {
        match self.data.path(index).and_then(Path::file_stem) {
            Some(stem) => stem.to_string_lossy().into_owned(),
            None => format!("{index:05}"),
        }
    }
}

/// The first class of the largest probability.
fn likeliest(row: &[f64]) -> u8 {
    let mut best = 0;
    for (class, &p) in row.iter().enumerate() {
        if p > row[best] {
            best = class;
        }
    }
    best as u8
}

fn entropy(row: &[f64]) -> f64 {
    row.iter().map(|&p| if p > 0.0 { -p * p.ln() } else { 0.0 }).sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.predictions.iter().map(|p| p.path.chars().count()).max();
        let width = width.unwrap_or(0).max(5);
        writeln!(f, "masks are in {}", self.out.display())?;
        writeln!(f, "{:width$}  entropy  largest classes", "image")?;
        for Prediction { path, doubt, shares, .. } in &self.predictions {
            let mut largest: Vec<(&String, f64)> =
                self.classes.iter().zip(shares.iter().copied()).collect();
            largest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            write!(f, "{path:width$}  {:>7.4}", doubt.entropy)?;
            for (at, (name, share)) in largest.iter().take(3).filter(|(_, s)| *s > 0.0).enumerate()
            {
                write!(f, "{}{name} {}", if at == 0 { "  " } else { ", " }, percent(*share))?;
            }
            writeln!(f, "{}", doubt.remark())?;
        }
        write_race(f, &self.race)
    }
}
