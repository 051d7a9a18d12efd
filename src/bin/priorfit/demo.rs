//! `demo`: what the prior is good for, on files that the program carries.
//!
//! A backbone that has learned letters is adapted to a few handwritten digits of each class, with
//! and without priors. Nothing is chosen on the digits it is measured on: a prior's strength is
//! cross-validated on the labelled ones, everything else is fixed beforehand, and all priors have
//! one volume.

use std::fmt;
use std::io::Cursor;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use priorfit::adapt::{
    Adapted, Adapter, Choice, Control, Ending, PriorKind, Settings, Summary, score,
};
use priorfit::backend::Engine;
use priorfit::data::{Dataset, Preprocess, Resize, Statistics};
use priorfit::error::{Error, Kind, Result};
use priorfit::onnx::Model;
use priorfit::posterior::Posterior;
use priorfit::prior::Prior;
use serde::{Deserialize, Serialize};

use crate::globals::Globals;
use crate::monitor::Monitor;
use crate::process::{peak_rss_mb, peak_rss_text};

const BACKBONE: &[u8] = include_bytes!("../../../models/demo/backbone.onnx");
const PRIOR: &[u8] = include_bytes!("../../../models/demo/prior.safetensors");
const DIGITS: &[u8] = include_bytes!("../../../models/demo/digits.npz");
const PREPROCESS: &[u8] = include_bytes!("../../../models/demo/preprocess.json");

/// Compare adaptation with and without priors, on digits the program carries
///
/// A backbone that has learned letters is adapted to a few handwritten digits of each class and
/// measured on all others. Each prior's strength is chosen by cross-validation on the labelled
/// digits alone (the default with one of each class, which leaves nothing to validate on); all
/// other settings are fixed beforehand.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit demo
  priorfit demo --shots 5 --seeds 10 --json")]
pub struct Demo {
    /// Labelled digits of each class
    #[arg(long, value_delimiter = ',', default_value = "1,3,10", value_name = "N,..")]
    shots: Vec<usize>,
    /// Number of random choices of the labelled digits
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The priors' typical variance, instead of cross-validation
    #[arg(long, value_name = "V")]
    variance: Option<f64>,
    /// Training steps after the linear probe
    #[arg(long, default_value_t = 60)]
    steps: usize,
}

/// A way to adapt.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    LinearProbe,
    NoPrior,
    Isotropic,
    LearnedDiagonal,
    LearnedLowRank,
    Default,
}

const METHODS: [Method; 6] = [
    Method::LinearProbe,
    Method::NoPrior,
    Method::Isotropic,
    Method::LearnedDiagonal,
    Method::LearnedLowRank,
    Method::Default,
];

/// One line of the table: a method with this many labels, over all seeds.
#[derive(Serialize)]
struct Row {
    shots: usize,
    method: Method,
    accuracy: MeanStd,
    nll: MeanStd,
    ece: MeanStd,
    /// Each seed's.
    runs: Vec<Run>,
}

/// One method on one choice of the labels.
#[derive(Clone, Serialize)]
struct Run {
    /// λ of the prior that was cross-validated; none without one.
    strength: Option<f64>,
    #[serde(flatten)]
    summary: Summary,
}

/// Mean and standard deviation over the seeds.
#[derive(Clone, Copy, Serialize)]
struct MeanStd {
    mean: f64,
    std: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    seeds: u64,
    /// How settings were chosen.
    choice: String,
    settings: Settings,
    seconds: f64,
    peak_rss_mb: Option<f64>,
}

impl Demo {
    /// Runs the command.
    pub fn run(&self, globals: &Globals, started: Instant) -> Result<ExitCode> {
        let material = Material::unpack(globals.engine()?)?;
        let settings = Settings { steps: self.steps, ..Settings::default() };
        let mut monitor = Monitor::new(globals)?;
        let total = self.shots.len() * self.seeds as usize;
        let mut rows = Vec::new();
        for (number, &shots) in self.shots.iter().enumerate() {
            let mut runs = METHODS.map(|_| Vec::new());
            for seed in 0..self.seeds {
                let done = number * self.seeds as usize + seed as usize;
                monitor.runs(done, total);
                let (train, rest) = material.digits.few(seed, shots)?;
                if rest.is_empty() {
                    let message = format!("{shots} digits of each class leave none to measure on");
                    return Err(Error::invalid(message).hint("lower --shots"));
                }
                let results =
                    material.compare(&settings, self.variance, &train, &rest, &monitor)?;
                runs.iter_mut().zip(results).for_each(|(runs, result)| runs.push(result));
            }
            rows.extend(
                METHODS.into_iter().zip(runs).map(|(method, r)| Row::new(shots, method, r)),
            );
        }
        monitor.finish();
        globals.print(&Report {
            rows,
            seeds: self.seeds,
            choice: self.choice(),
            settings,
            seconds: started.elapsed().as_secs_f64(),
            peak_rss_mb: peak_rss_mb(),
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// How settings were chosen, for the reader.
    fn choice(&self) -> String {
        let strength = match self.variance {
            Some(variance) => format!("every prior is scaled to a typical variance of {variance}"),
            None => "each prior's strength is cross-validated on the labelled digits alone (the \
                     library's default with one label a class)"
                .to_string(),
        };
        format!(
            "Settings: {strength}; {} steps, the rest by default. The last line keeps the linear \
             probe where cross-validation finds it as good. Nothing was chosen on the digits that \
             are measured.",
            self.steps
        )
    }
}

/// What the program carries, unpacked.
struct Material {
    model: Arc<Model>,
    prior: Prior,
    digits: Dataset,
    preprocess: Preprocess,
    engine: Engine,
}

/// The preprocessing's file.
#[derive(Deserialize)]
struct PreprocessFile {
    mean: Vec<f32>,
    std: Vec<f32>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Material {
    fn unpack(engine: Engine) -> Result<Self> {
        let model = Model::from_bytes(BACKBONE, None)?.cut_at_features(None)?;
        let file: PreprocessFile = serde_json::from_slice(PREPROCESS)
            .map_err(|e| Error::internal("the demo's preprocessing is JSON").caused_by(e))?;
        let PreprocessFile { mean, std, channels, height, width } = file;
        let plain = Preprocess::new(channels, height, width);
        Ok(Material {
            model: Arc::new(model),
            prior: Prior::from_bytes(PRIOR)?,
            digits: Dataset::from_npz(Cursor::new(DIGITS))?,
            preprocess: Preprocess { resize: Resize::Stretch, ..plain }
                .normalised(Statistics { mean, std }),
            engine,
        })
    }

    /// Adapts by every method to `train` and measures on `rest`; the same order as [`METHODS`].
    fn compare(
        &self,
        settings: &Settings,
        variance: Option<f64>,
        train: &Dataset,
        rest: &Dataset,
        monitor: &Monitor,
    ) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for method in METHODS.into_iter().skip(1) {
            let settings = self.settings(method, settings, variance)?;
            let adapted = self.adapt(settings, train, monitor)?;
            if method == Method::NoPrior {
                // The probe of an adaptation that starts at the backbone's own weights.
                let summary = self.measure(&adapted.probe, rest, monitor)?;
                runs.push(Run { strength: None, summary });
            }
            let kept = adapted.choice.as_ref().map(Choice::kept);
            let strength = kept.and_then(|kept| kept.strength);
            let summary = self.measure(&adapted.posterior, rest, monitor)?;
            runs.push(Run { strength, summary });
        }
        Ok(runs)
    }

    /// The settings of `method`, its prior scaled to a typical variance if one is given.
    fn settings(
        &self,
        method: Method,
        settings: &Settings,
        variance: Option<f64>,
    ) -> Result<Settings> {
        let scale = match method {
            Method::LearnedDiagonal => self.prior.diagonal()?.equivalent_variance()?,
            Method::LearnedLowRank | Method::Default => self.prior.equivalent_variance()?,
            Method::LinearProbe | Method::NoPrior | Method::Isotropic => {
                settings.isotropic_variance
            }
        };
        Ok(Settings {
            prior: match method {
                Method::LinearProbe | Method::NoPrior => PriorKind::None,
                Method::Isotropic => PriorKind::Isotropic,
                Method::LearnedDiagonal => PriorKind::Diagonal,
                Method::LearnedLowRank | Method::Default => PriorKind::Learned,
            },
            strength: variance.map(|variance| variance / scale),
            gate: method == Method::Default,
            ..settings.clone()
        })
    }

    fn adapt(&self, settings: Settings, train: &Dataset, monitor: &Monitor) -> Result<Adapted> {
        let model = Arc::clone(&self.model);
        let mut adapter = Adapter::new(model, self.preprocess.clone(), &self.engine);
        if matches!(settings.prior, PriorKind::Diagonal | PriorKind::Learned) {
            adapter = adapter.with_prior(self.prior.clone())?;
        }
        let adapter = adapter.with_settings(settings)?;
        let adapted = adapter.fit(train, None, &mut |_| match monitor.is_interrupted() {
            true => Control::Stop,
            false => Control::Continue,
        })?;
        match adapted.ending {
            Ending::Completed => Ok(adapted),
            Ending::Stopped => Err(Error::new(Kind::Cancelled, "interrupted")),
            Ending::Diverged => Err(Error::new(Kind::Diverged, adapted.notice.unwrap_or_default())),
        }
    }

    fn measure(&self, posterior: &Posterior, rest: &Dataset, monitor: &Monitor) -> Result<Summary> {
        let predicted =
            posterior.predict(rest, &self.engine, &mut |_| !monitor.is_interrupted())?;
        let labels = rest.labels(&(0..rest.len()).collect::<Vec<_>>())?;
        Ok(score(&predicted, &labels)?.summary())
    }
}

impl Row {
    fn new(shots: usize, method: Method, runs: Vec<Run>) -> Self {
        let over = |of: fn(&Summary) -> f64| {
            MeanStd::of(&runs.iter().map(|run| of(&run.summary)).collect::<Vec<_>>())
        };
        let (accuracy, nll, ece) = (over(|s| s.score), over(|s| s.nll), over(|s| s.ece));
        Row { shots, method, accuracy, nll, ece, runs }
    }
}

impl MeanStd {
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        MeanStd { mean, std: (squares / (n - 1.0).max(1.0)).sqrt() }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::LinearProbe => "linear probe",
            Method::NoPrior => "all weights, no prior",
            Method::Isotropic => "isotropic prior (L2-SP)",
            Method::LearnedDiagonal => "learned prior, diagonal",
            Method::LearnedLowRank => "learned prior, low rank",
            Method::Default => "default, with the gate",
        })
    }
}

impl fmt::Display for MeanStd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} ± {:.4}", self.mean, self.std)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A backbone of letters, adapted to handwritten digits.")?;
        writeln!(f, "Mean ± standard deviation over {} choices of the labels.\n", self.seeds)?;
        writeln!(f, "labels  {:23}  {:15}  {:15}  {:15}", "method", "accuracy", "NLL", "ECE")?;
        for Row { shots, method, accuracy, nll, ece, .. } in &self.rows {
            if *method == Method::LinearProbe {
                writeln!(f)?;
            }
            writeln!(f, "{:>6}  {method:23}  {accuracy}  {nll}  {ece}", format!("10x{shots}"))?;
        }
        writeln!(f, "\n{}", self.choice)?;
        writeln!(f, "Took {:.1} s and {}.", self.seconds, peak_rss_text(self.peak_rss_mb))
    }
}
