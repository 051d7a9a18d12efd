//! Results, one a line, kept after every run so that a study can be stopped and go on.

use std::fs;
use std::path::{Path, PathBuf};

use priorfit::adapt::{Candidate, Choice, Summary};
use priorfit::atomic_file;
use priorfit::error::{Context, Error, Result};
use priorfit::posterior::metrics::Measure;
use serde::{Deserialize, Serialize};

use crate::rows::Row;

/// What all results of a folder have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The backbone's fingerprint.
    pub backbone: String,
    /// Examples that labels are drawn from.
    pub pool: usize,
    /// Classes of the pool.
    pub classes: usize,
    /// Examples that are measured at most.
    pub images: usize,
    /// Whether these are of a test set, and not what was not drawn.
    pub has_test: bool,
    /// Steps of a run.
    pub steps: usize,
    /// Typical variances that are tried around the mean.
    pub variances: Vec<f64>,
    /// Those that are tried around zero.
    pub decays: Vec<f64>,
    /// Height and width of images with masks, if they are resized.
    pub mask_size: Vec<usize>,
}

/// How good predictions are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Accuracy, or of masks the mean IoU.
    pub score: f64,
    /// In nats.
    pub nll: f64,
    pub ece: f64,
}

impl From<Summary> for Measured {
    fn from(summary: Summary) -> Self {
        Measured { score: summary.score, nll: summary.nll, ece: summary.ece }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub row: Row,
    /// Labels of each class, or images with masks.
    pub shots: usize,
    pub seed: u64,
    pub test: Measured,
    /// The same at temperature 1.
    pub plain: Option<Measured>,
    pub shift: Option<Measured>,
    /// Of adapting, on one core, with everything that was chosen.
    pub seconds: f64,
    /// Those of cross-validation among them.
    pub choice_seconds: f64,
    /// Of predicting the test images.
    pub predict_seconds: f64,
    pub draws: usize,
    pub strength: Option<f64>,
    pub head_variance: Option<f64>,
    pub temperature: f64,
    pub choice: Option<Found>,
}

/// A [`Choice`] that can be read again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    folds: usize,
    held_out: usize,
    head_variance: f64,
    kept: usize,
    candidates: Vec<End>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct End {
    steps: usize,
    strength: Option<f64>,
    temperature: f64,
    held_out: Measured,
}

impl From<&Choice> for Found {
    fn from(choice: &Choice) -> Self {
        let end = |c: &Candidate| End {
            steps: c.steps,
            strength: c.strength,
            temperature: c.temperature,
            held_out: c.held_out.into(),
        };
        Found {
            folds: choice.folds,
            held_out: choice.held_out,
            head_variance: choice.head_variance,
            kept: choice.kept,
            candidates: choice.candidates.iter().map(end).collect(),
        }
    }
}

impl Found {
    /// The choice of classes that it was.
    pub fn choice(&self) -> Choice {
        let candidate = |end: &End| {
            let Measured { score, nll, ece } = end.held_out;
            Candidate {
                steps: end.steps,
                strength: end.strength,
                temperature: end.temperature,
                noise: Vec::new(),
                held_out: Summary { measure: Measure::Accuracy, score, nll, ece },
            }
        };
        Choice {
            folds: self.folds,
            held_out: self.held_out,
            head_variance: self.head_variance,
            candidates: self.candidates.iter().map(candidate).collect(),
            kept: self.kept,
            draws: None,
            keeps_draws: true,
            left_out: None,
        }
    }
}

/// The results of a folder.
pub struct Records {
    path: PathBuf,
    pub setting: Setting,
    pub all: Vec<Record>,
}

impl Records {
    /// Those of `folder`, of which there may be none yet.
    ///
    /// # Errors
    /// When they cannot be read, or were made in another setting.
    pub fn open(folder: &Path, setting: Setting) -> Result<Self> {
        let path = folder.join("results.jsonl");
        if !path.exists() {
            return Ok(Records { path, setting, all: Vec::new() });
        }
        let records = Records::read(folder)?;
        match records.setting == setting {
            true => Ok(records),
            false => Err(Error::invalid(format!("{} is of another study", path.display()))
                .hint("choose another --work, or the flags it was made with")),
        }
    }

    /// These, in no file.
    #[cfg(test)]
    pub fn of(setting: Setting, all: Vec<Record>) -> Self {
        Records { path: PathBuf::new(), setting, all }
    }

    /// Those of `folder`, whatever their setting.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("results.jsonl");
        let text = fs::read_to_string(&path)
            .map_err(|e| Error::invalid(format!("cannot read {}", path.display())).caused_by(e))?;
        let mut lines = text.lines();
        let scene = || path.display().to_string();
        let setting = parse(lines.next().unwrap_or_default()).context(scene)?;
        let all = lines.map(parse).collect::<Result<_>>().context(scene)?;
        Ok(Records { path, setting, all })
    }

    /// The result of a run, if it was made.
    pub fn find(&self, row: Row, shots: usize, seed: u64) -> Option<&Record> {
        self.all.iter().find(|r| (r.row, r.shots, r.seed) == (row, shots, seed))
    }

    /// Adds results; the file is replaced as a whole.
    pub fn add(&mut self, records: Vec<Record>) -> Result<()> {
        self.all.extend(records);
        let mut text = line(&self.setting)?;
        for record in &self.all {
            text += &line(record)?;
        }
        atomic_file::write(&self.path, |file| file.write_all(text.as_bytes()))
    }
}

fn line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|e| Error::internal("results are JSON").caused_by(e))?;
    Ok(text + "\n")
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| Error::malformed("a line that is no result").caused_by(e))
}
