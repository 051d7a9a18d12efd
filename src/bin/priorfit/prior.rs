//! `prior fit` and `prior show`, and where `prior import` joins them.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand};
use priorfit::adapt::{Control, SourceSettings, fit_prior};
use priorfit::data::Dataset;
use priorfit::error::{Context, Result};
use priorfit::prior::{Header, Prior, Spread, Stats};
use priorfit::tensor::Shape;
use priorfit::update::Schedule;
use serde::Serialize;

use crate::backbone;
use crate::globals::Globals;
use crate::import::Import;
use crate::monitor::{INTERRUPTED, Monitor};
use crate::options::{AugmentArgs, Destination, PreprocessArgs, check_destination, percent};
use crate::process::{peak_rss_mb, peak_rss_text};

#[derive(Subcommand)]
pub enum PriorCommand {
    Fit(Box<Fit>),
    Import(Box<Import>),
    Show(Show),
}

impl PriorCommand {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        match self {
            PriorCommand::Fit(command) => command.run(globals),
            PriorCommand::Import(command) => command.run(globals),
            PriorCommand::Show(command) => command.run(globals),
        }
    }
}

/// Learn a prior over a backbone's weights from labelled source data
///
/// A head is fitted, then all weights are trained on and snapshots taken on the way; their mean,
/// variance and last deviations are the prior (SWAG). Ctrl-C keeps the prior of the snapshots taken
/// so far, if they are two or more.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit prior fit --backbone b.onnx --data source/ --out prior.safetensors
  priorfit prior fit --backbone b.onnx --data source.npz --out p.safetensors \\
      --rank 5 --epochs 10 --cycles 2 --normalise imagenet

The data are a folder with one subfolder of images for each class, or an .npz with x and y.")]
pub struct Fit {
    /// The ONNX file; a classifier at its end is cut off
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// Labelled source data
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Where the prior goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Deviations kept; 0 for a diagonal prior
    #[arg(long, default_value_t = SourceSettings::default().rank)]
    rank: usize,
    /// Snapshots in all
    #[arg(long, default_value_t = SourceSettings::default().snapshots)]
    snapshots: usize,
    /// Passes over the data while snapshots are taken
    #[arg(long, default_value_t = SourceSettings::default().epochs)]
    epochs: usize,
    /// Passes before the first snapshot
    #[arg(long, default_value_t = SourceSettings::default().burn_in)]
    burn_in: usize,
    /// Learning rate
    #[arg(long, default_value_t = SourceSettings::default().learning_rate)]
    lr: f32,
    /// Momentum
    #[arg(long, default_value_t = SourceSettings::default().momentum)]
    momentum: f32,
    /// Cycles of a cyclical learning rate; constant without it
    #[arg(long)]
    cycles: Option<usize>,
    /// Examples of a step
    #[arg(long, default_value_t = SourceSettings::default().batch_size)]
    batch: usize,
    /// Least variance of a weight
    #[arg(long, default_value_t = SourceSettings::default().epsilon)]
    epsilon: f32,
    /// Decides every random choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Value or node of the file that holds the features
    #[arg(long, value_name = "NAME")]
    features: Option<String>,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    augment: AugmentArgs,
}

#[derive(Serialize)]
struct Fitted {
    out: PathBuf,
    header: Header,
    overall: Spread,
    interrupted: bool,
    seconds: f64,
    peak_rss_mb: Option<f64>,
}

impl Fit {
    fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let started = Instant::now();
        check_destination(&self.out, Destination::File)?;
        let engine = globals.engine()?;
        let model = backbone::load(&self.backbone, self.features.as_deref())?;
        model.notes().iter().for_each(|note| globals.note(note));
        let data = Dataset::open(&self.data)?;
        data.check_trainable().context(|| self.data.display().to_string())?;
        let preprocess = self.preprocess.resolve(&model, &data, engine.threads())?;
        backbone::check_import(&self.backbone, &model, &preprocess)?;
        let mut monitor = Monitor::new(globals)?;
        let mut interrupted = false;
        let prior =
            fit_prior(&model, &data, &preprocess, &self.settings(), &engine, &mut |progress| {
                let control = monitor.observe(progress);
                interrupted |= control == Control::Stop;
                control
            });
        monitor.finish();
        let prior = prior?;
        prior.save(&self.out)?;
        globals.print(&Fitted {
            out: self.out.clone(),
            header: prior.header().clone(),
            overall: prior.stats().overall,
            interrupted,
            seconds: started.elapsed().as_secs_f64(),
            peak_rss_mb: peak_rss_mb(),
        })?;
        Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
    }

    fn settings(&self) -> SourceSettings {
        SourceSettings {
            epochs: self.epochs,
            burn_in: self.burn_in,
            snapshots: self.snapshots,
            rank: self.rank,
            epsilon: self.epsilon,
            learning_rate: self.lr,
            momentum: self.momentum,
            schedule: match self.cycles {
                Some(cycles) => Schedule::Cyclical { cycles },
                None => Schedule::Constant,
            },
            clip: SourceSettings::default().clip,
            batch_size: self.batch,
            augment: self.augment.augment(),
            seed: self.seed,
        }
    }
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "Interrupted: this is the prior of the snapshots taken so far.")?;
        }
        let Header { rank, learned, num_data, .. } = &self.header;
        writeln!(f, "prior     {} (rank {rank})", self.out.display())?;
        writeln!(f, "learned   from {} snapshots on {num_data} examples", learned.snapshots)?;
        writeln!(f, "weights   {}", self.overall.count)?;
        writeln!(f, "floor     {} of the variance", percent(self.overall.floor_share))?;
        let peak = peak_rss_text(self.peak_rss_mb);
        writeln!(f, "took      {:.1} s, {peak}", self.seconds)
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
        let Header { backbone, convention, eps, learned, notes, num_data, rank, version } =
            &self.header;
        writeln!(f, "version     {version}")?;
        writeln!(f, "backbone    {backbone}")?;
        writeln!(f, "covariance  {convention}")?;
        writeln!(f, "rank        {rank}, {:.1} of them effective", self.stats.effective_rank)?;
        writeln!(f, "epsilon     {eps:e}")?;
        let (method, schedule) = (&learned.method, &learned.schedule);
        writeln!(f, "learned     by {method} ({schedule}), {} snapshots", learned.snapshots)?;
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
