//! `predict`: classes, labels, numbers or masks for images, and how far to trust them.

mod labels;
mod masks;
mod numbers;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use priorfit::backend::Engine;
use priorfit::data::Dataset;
use priorfit::error::{Context, Error, Result};
use priorfit::posterior::{
    Description, EarlyExit, Part, Posterior, Predictions, Race, Uncertainty, Verdict,
};
use priorfit::task::Task;
use serde::Serialize;

use crate::engines::{EngineArgs, Unless, write_race};
use crate::globals::Globals;
use crate::monitor::Monitor;

/// Predict the classes, labels, numbers or masks of images
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit predict --posterior mine/ new.jpg
  priorfit predict --posterior mine/ inbox/ more.npz --json
  priorfit predict --posterior masks/ street/ --out predicted/ --entropy

Labels are printed that have a probability above one half, numbers with the standard deviation of
their prediction. Masks are written to the folder of --out.

Entropy is in nats: 0 is certain, the logarithm of the number of classes is a guess. Disagreement
is the part of it that comes from draws of the weights contradicting each other. A posterior that
`calibrate` has seen also gives each image a set of classes, abstains where it was told to, and
marks unfamiliar images.

--settle stops asking draws about an image whose class no longer depends on them:
  --settle       the rest could not change the class, which is that of all draws
  --settle=0.01  or, at most with this probability, it differs from that of all draws
Probabilities are then the average of the draws that were asked.

Where there is much to predict, engines race over the first images: the fastest that computes what
our own does is taken, and the result says how each fared. --engine auto lets them race over few
images, too; --engine own is the one whose results repeat to the last bit.")]
pub struct Predict {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// PNG or JPEG files, folders of them, or .npz files with x
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<PathBuf>,
    /// Ask no more draws once an image's class is settled
    #[arg(long, value_name = "certain|ERROR", num_args = 0..=1, default_missing_value = "certain")]
    #[arg(require_equals = true)]
    settle: Option<Settle>,
    #[command(flatten)]
    masks: masks::MaskArgs,
    #[command(flatten)]
    engines: EngineArgs,
}

/// What predicts which images.
struct Work<'a> {
    posterior: Posterior,
    race: Option<Race>,
    sources: Vec<(Option<&'a Path>, Dataset)>,
    engine: Engine,
    monitor: Monitor,
}

/// The value of `--settle`.
#[derive(Clone, Copy)]
struct Settle(EarlyExit);

impl FromStr for Settle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("certain", _) => Ok(Settle(EarlyExit::Certain)),
            (_, Ok(error)) => Ok(Settle(EarlyExit::Likely { error })),
            _ => Err("expected `certain` or a probability of error".to_string()),
        }
    }
}

/// Takes an image's name, the means and the variances of its outputs over the draws, and how unsure
/// it is.
type Add<'a> = &'a mut dyn FnMut(String, &[f64], &[f64], Doubt);

/// How unsure a prediction of anything but a class is.
#[derive(Serialize)]
struct Doubt {
    /// Entropy, in nats.
    entropy: f64,
    /// Mutual information of the target and the weights, in nats.
    mutual_information: f64,
    /// Whether the image is unlike those that were held out, with a calibration.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfamiliar: Option<bool>,
}

impl Doubt {
    fn new(posterior: &Posterior, uncertainty: &Uncertainty) -> Self {
        let calibration = posterior.description().calibration.as_ref();
        let Uncertainty { entropy, mutual_information } = *uncertainty;
        let unfamiliar = calibration.map(|c| c.is_unfamiliar(uncertainty));
        Doubt { entropy, mutual_information, unfamiliar }
    }

    /// A word for those who read.
    fn remark(&self) -> &'static str {
        if self.unfamiliar == Some(true) { "  unfamiliar" } else { "" }
    }
}

#[derive(Serialize)]
struct Report {
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
    /// The likeliest class.
    class: String,
    /// Its probability.
    probability: f64,
    /// Entropy of the predictive distribution, in nats.
    entropy: f64,
    /// Mutual information of the class and the weights, in nats.
    mutual_information: f64,
    /// How many draws it rests on.
    draws: usize,
    /// What the calibration makes of it, if there is one.
    #[serde(flatten)]
    verdict: Option<Judged>,
    /// The whole distribution.
    probabilities: Vec<f64>,
}

/// The verdict of the calibration.
#[derive(Serialize)]
struct Judged {
    /// The classes of its prediction set.
    set: Vec<String>,
    abstains: bool,
    unfamiliar: bool,
}

impl Predict {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let posterior = Posterior::load(&self.posterior)?;
        self.masks.check(&posterior.description().task)?;
        let is_classes = matches!(posterior.description().task, Task::Classification { .. });
        if self.settle.is_some() && !is_classes {
            let message = "--settle is for classes, which this model does not predict";
            return Err(Error::unsupported(message).hint("leave it out; all draws are asked"));
        }
        let exit = self.settle.map_or(EarlyExit::Never, |Settle(exit)| exit);
        exit.check()?;
        let work = self.begin(posterior, globals)?;
        match work.posterior.description().task {
            Task::Classification { .. } => self.classes(work, exit, globals),
            Task::MultiLabel { .. } => labels::predict(work, globals),
            Task::Regression { .. } => numbers::predict(work, globals),
            Task::Segmentation { .. } => masks::predict(work, &self.masks, globals),
        }
    }

    /// Opens the images, and chooses what predicts them by the first.
    fn begin(&self, posterior: Posterior, globals: &Globals) -> Result<Work<'_>> {
        let sources = self.sources()?;
        let engine = globals.engine()?;
        let mut monitor = Monitor::new(globals)?;
        let most = sources.iter().map(|(_, data)| data).max_by_key(|data| data.len());
        let (posterior, race) = match most {
            None => (posterior, None),
            Some(data) => {
                let how = (&engine, Unless::Worth);
                self.engines.choose(posterior, data, how, &mut monitor)?
            }
        };
        Ok(Work { posterior, race, sources, engine, monitor })
    }

    fn classes(&self, mut work: Work<'_>, exit: EarlyExit, globals: &Globals) -> Result<ExitCode> {
        let Work { posterior, sources, engine, monitor, .. } = &mut work;
        let mut predictions = Vec::new();
        for (source, data) in &*sources {
            let predicted =
                posterior.predictions(data, &*engine, exit, &mut |p| monitor.predicting(p));
            let in_source = || source.map(|path| path.display().to_string()).unwrap_or_default();
            let predicted = match source {
                Some(_) => predicted.context(in_source)?,
                None => predicted?,
            };
            for index in 0..predicted.len() {
                let path = name_of(data, index, *source);
                predictions.push(Prediction::new(path, posterior.description(), &predicted, index));
            }
        }
        monitor.finish();
        let classes = posterior.description().task.names().to_vec();
        globals.print(&Report { classes, predictions, race: work.race })?;
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

impl Work<'_> {
    /// Predicts all images, and gives `add` each of them.
    fn each(&mut self, add: Add<'_>) -> Result<()> {
        let Work { posterior, sources, engine, monitor, .. } = self;
        let width = posterior.description().task.outputs();
        for (source, data) in &*sources {
            let mut rows = |part: Part| {
                let rows = part.mean.chunks_exact(width).zip(part.variance.chunks_exact(width));
                let rows = rows.zip(&part.uncertainty);
                for (index, ((means, variances), one)) in part.examples.zip(rows) {
                    let doubt = Doubt::new(posterior, one);
                    add(name_of(data, index, *source), means, variances, doubt);
                }
                Ok(())
            };
            posterior
                .predict_parts(data, &*engine, &mut |p| monitor.predicting(p), &mut rows)
                .context(|| source.map(|path| path.display().to_string()).unwrap_or_default())?;
        }
        monitor.finish();
        Ok(())
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
    fn new(path: String, about: &Description, predicted: &Predictions, index: usize) -> Self {
        let probabilities = predicted.probabilities.row(index).to_vec();
        let best = predicted.class(index);
        let name = |class: usize| about.task.names()[class].clone();
        let verdict = about.calibration.as_ref().map(|calibration| {
            let Verdict { set, abstains, unfamiliar } = calibration.verdict(predicted, index);
            Judged { set: set.into_iter().map(name).collect(), abstains, unfamiliar }
        });
        Prediction {
            path,
            class: name(best),
            probability: probabilities[best],
            entropy: predicted.entropy[index],
            mutual_information: predicted.mutual_information[index],
            draws: predicted.draws[index],
            verdict,
            probabilities,
        }
    }

    /// Its verdict in a few words.
    fn remarks(&self) -> String {
        let Some(Judged { set, abstains, unfamiliar }) = &self.verdict else {
            return String::new();
        };
        let mut remarks = format!("{{{}}}", set.join(", "));
        for (holds, remark) in [(abstains, "abstains"), (unfamiliar, "unfamiliar")] {
            if *holds {
                remarks += &format!("  {remark}");
            }
        }
        remarks
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: &dyn Fn(&Prediction) -> usize| {
            self.predictions.iter().map(of).max().unwrap_or(0).max(5)
        };
        let path_width = width(&|p| p.path.chars().count());
        let class_width = width(&|p| p.class.chars().count());
        write!(f, "{:path_width$}  {:class_width$}  probability  entropy", "image", "class")?;
        writeln!(f, "  disagreement{}", if self.is_calibrated() { "  set" } else { "" })?;
        for prediction in &self.predictions {
            let Prediction { path, class, probability, entropy, .. } = prediction;
            write!(f, "{path:path_width$}  {class:class_width$}  {probability:>11.4}")?;
            write!(f, "  {entropy:>7.4}  {:>12.4}", prediction.mutual_information)?;
            match prediction.remarks() {
                remarks if remarks.is_empty() => writeln!(f)?,
                remarks => writeln!(f, "  {remarks}")?,
            }
        }
        write_race(f, &self.race)
    }
}

impl Report {
    fn is_calibrated(&self) -> bool {
        self.predictions.iter().any(|prediction| prediction.verdict.is_some())
    }
}
