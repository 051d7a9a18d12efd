//! `prior fit`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use priorfit::adapt::{
    Centre, ContrastSettings, Control, Phase, Progress, SourceObjective, SourceSettings,
    fit_prior_with,
};
use priorfit::data::{Augment, Colour, Crop, Dataset};
use priorfit::error::{Context, Kind, Result};
use priorfit::prior::{Header, MAX_RANK, Spread};
use priorfit::task::Task;
use priorfit::update::Schedule;
use serde::Serialize;

use super::blocks::BlocksArgs;
use super::rank::Rank;
use crate::backbone;
use crate::globals::Globals;
use crate::monitor::{INTERRUPTED, Monitor};
use crate::options::{
    AugmentArgs, ByteSize, CheckpointArgs, Clip, Destination, PreprocessArgs, check_destination,
    percent,
};
use crate::process::{peak_rss_mb, peak_rss_text};
use crate::tasks::TaskArgs;

/// The share of the deviations' variance that is kept where the rank is left to it.
const EXPLAINED: f64 = 0.9;

/// Learn a prior over a backbone's weights from source data, with labels or without
///
/// A head is fitted, then all weights are trained on and snapshots taken on the way; their variance
/// and last deviations (SWAG), around the backbone's own weights or around the snapshots' mean, are
/// the prior, in which the head has no part: a prior of masks serves classes, and the other way
/// round, where the backbone's weights are the same. With --objective simclr no labels are needed:
/// two changed views of each image are to be told from those of the others in its batch (NT-Xent),
/// through a projector that is thrown away. Ctrl-C keeps the prior of the snapshots taken so far,
/// if they are two or more. A checkpoint is left beside the output now and then; a fit that was
/// stopped goes on from there with the same command, to the same bits.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit prior fit --backbone b.onnx --data source/ --out prior.safetensors
  priorfit prior fit --backbone b.onnx --data source.npz --out p.safetensors \\
      --rank 5 --epochs 10 --cycles 2 --normalise imagenet
  priorfit prior fit --backbone b.onnx --data source/ --out p.safetensors --rank auto
  priorfit prior fit --backbone b.onnx --data source/ --out p.safetensors --blocks stage

  priorfit prior fit --backbone b.onnx --data photos/ --out p.safetensors \\
      --objective simclr --batch 128 --epochs 20 --flip

  priorfit prior fit --backbone b.onnx --data streets/ --out p.safetensors --ignore 11

The data are those of `adapt`: classes, sets of labels, numbers or masks. Without labels: a folder
of images, or an .npz with x; labels that are there are not looked at.")]
pub struct Fit {
    /// The ONNX file; a classifier at its end is cut off
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// Source data
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Where the prior goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What is learned from the data
    #[arg(long, value_enum, default_value = "supervised")]
    objective: Learning,
    /// The prior's mean, where adapting starts
    #[arg(long, value_enum, default_value = "backbone")]
    centre: Middle,
    /// Deviations kept, 0 for a diagonal prior; auto: all snapshots', cut by --explained
    #[arg(long, value_name = "K|auto")]
    #[arg(default_value_t = Rank::Number(SourceSettings::default().rank))]
    rank: Rank,
    /// Keep only the leading directions of the deviations, as many as explain this share of their
    /// variance [default: all of it; 0.9 with --rank auto]
    #[arg(long, value_name = "SHARE")]
    explained: Option<f64>,
    #[command(flatten)]
    blocks: BlocksArgs,
    /// Snapshots in all
    #[arg(long, default_value_t = SourceSettings::default().snapshots)]
    snapshots: usize,
    /// Passes over the data while snapshots are taken
    #[arg(long, default_value_t = SourceSettings::default().epochs)]
    epochs: usize,
    /// Passes before the first snapshot, at the base rate
    #[arg(long, default_value_t = SourceSettings::default().burn_in)]
    burn_in: usize,
    /// Learning rate
    #[arg(long, default_value_t = SourceSettings::default().learning_rate)]
    lr: f32,
    /// Momentum
    #[arg(long, default_value_t = SourceSettings::default().momentum)]
    momentum: f32,
    /// Largest norm of the loss's gradient, or none [default: 2]
    #[arg(long, value_name = "NORM")]
    clip: Option<Clip>,
    /// Cycles of a cyclical learning rate after them; constant without it
    #[arg(long)]
    cycles: Option<usize>,
    /// Examples of a step
    #[arg(long, default_value_t = SourceSettings::default().batch_size)]
    batch: usize,
    /// Least variance of a weight
    #[arg(long, default_value_t = SourceSettings::default().epsilon)]
    epsilon: f32,
    /// Most memory for weights and activations, such as 512M or 2G (of 1024s): activations are
    /// computed again and batches split as far as it takes, or the fit does not start
    #[arg(long, value_name = "SIZE")]
    memory_cap: Option<ByteSize>,
    /// Decides every random choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Value or node of the file that holds the features
    #[arg(long, value_name = "NAME")]
    features: Option<String>,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    checkpoints: CheckpointArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    augment: AugmentArgs,
    #[command(flatten)]
    contrast: ContrastArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Middle {
    /// The backbone's own weights
    Backbone,
    /// The mean of the snapshots, better where they go on with the backbone's own training for long
    Snapshots,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Learning {
    /// The task that the data make, such as to tell classes apart
    Supervised,
    /// To tell the images apart, without labels
    Simclr,
}

#[derive(Args)]
#[command(next_help_heading = "With --objective simclr")]
struct ContrastArgs {
    /// Temperature of the loss: lower tells nearer images apart
    #[arg(long, value_name = "T", default_value_t = ContrastSettings::default().temperature)]
    temperature: f32,
    /// Numbers of a projection
    #[arg(long, value_name = "D", default_value_t = ContrastSettings::default().projection)]
    projection: usize,
    /// Smallest part of an image's area that a view shows, unless --crop is given
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    area: f32,
    /// Strength of the jitter of colours; 1 is usual for large images
    #[arg(long, value_name = "S", default_value_t = ContrastSettings::default().colour.jitter)]
    jitter: f32,
    /// Chance that a view is grey
    #[arg(long, value_name = "P", default_value_t = ContrastSettings::default().colour.grey)]
    grey: f32,
    /// Chance that a view is blurred; 0.5 is usual for large images
    #[arg(long, value_name = "P", default_value_t = ContrastSettings::default().colour.blur)]
    blur: f32,
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

impl ContrastArgs {
    fn settings(&self) -> ContrastSettings {
        let ContrastArgs { temperature, projection, jitter, grey, blur, .. } = *self;
        ContrastSettings { temperature, projection, colour: Colour { jitter, grey, blur } }
    }
}

/// Where the checkpoints of the fit that writes `out` go.
fn checkpoints_beside(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_os_string();
    name.push(".checkpoints");
    name.into()
}

impl Fit {
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let started = Instant::now();
        check_destination(&self.out, Destination::File)?;
        let engine = globals.engine()?;
        let (data, task) = self.open()?;
        let is_dense = task.as_ref().is_some_and(Task::is_dense);
        let load = if is_dense { backbone::load_map } else { backbone::load };
        let model = load(&self.backbone, self.features.as_deref())?;
        model.notes().iter().for_each(|note| globals.note(note));
        let preprocess = self.preprocess.resolve(&model, &data, engine.threads())?;
        backbone::check_import(&self.backbone, &model, &preprocess)?;
        let mut monitor = Monitor::new(globals)?;
        let mut interrupted = false;
        let kept = self.checkpoints.checkpoints(checkpoints_beside(&self.out), globals)?;
        let mut timer = self.checkpoints.timer();
        let mut observe = |progress: Progress| match (monitor.observe(progress), progress.phase) {
            (Control::Continue, Phase::Train) => timer.control(),
            (control, _) => {
                interrupted |= control == Control::Stop;
                control
            }
        };
        let settings = self.settings();
        let to = kept.as_ref();
        let prior =
            fit_prior_with(&model, &data, &preprocess, &settings, &engine, to, &mut observe);
        monitor.finish();
        if let (Err(error), Some(kept)) = (&prior, to)
            && error.kind() == Kind::Diverged
        {
            // It would do so again.
            kept.remove()?;
        }
        let prior = prior?;
        prior.save(&self.out)?;
        if let (Some(kept), false) = (&kept, interrupted) {
            kept.remove()?;
        }
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

    /// The source data, and what is learned of them if anything but themselves.
    fn open(&self) -> Result<(Dataset, Option<Task>)> {
        if self.objective == Learning::Simclr {
            self.task.check_none("--objective simclr")?;
            return Ok((Dataset::open(&self.data)?, None));
        }
        let data = self.task.open(&self.data)?;
        let task = Task::of(&data).context(|| self.data.display().to_string())?;
        Ok((data, Some(task)))
    }

    fn augment(&self) -> Augment {
        let augment = self.augment.augment();
        match (self.objective, augment.crop) {
            (Learning::Simclr, Crop::None) => {
                Augment { crop: Crop::Resized { area_min: self.contrast.area }, ..augment }
            }
            _ => augment,
        }
    }

    fn settings(&self) -> SourceSettings {
        SourceSettings {
            objective: match self.objective {
                Learning::Supervised => SourceObjective::Supervised,
                Learning::Simclr => SourceObjective::Contrast(self.contrast.settings()),
            },
            epochs: self.epochs,
            burn_in: self.burn_in,
            snapshots: self.snapshots,
            centre: match self.centre {
                Middle::Backbone => Centre::Backbone,
                Middle::Snapshots => Centre::Snapshots,
            },
            rank: match self.rank {
                Rank::Number(rank) => rank,
                Rank::Auto => self.snapshots.min(MAX_RANK),
            },
            blocks: self.blocks.grouping(),
            explained: self.explained.or((self.rank == Rank::Auto).then_some(EXPLAINED)),
            memory_cap: self.memory_cap.map(|size| size.0),
            epsilon: self.epsilon,
            learning_rate: self.lr,
            momentum: self.momentum,
            schedule: match self.cycles {
                Some(cycles) => Schedule::Cyclical { cycles },
                None => Schedule::Constant,
            },
            clip: self.clip.map_or(SourceSettings::default().clip, |clip| clip.0),
            batch_size: self.batch,
            augment: self.augment(),
            seed: self.seed,
        }
    }
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "Interrupted: this is the prior of the snapshots taken so far.")?;
            writeln!(f, "The same command goes on.")?;
        }
        let Header { rank, learned, notes, num_data, .. } = &self.header;
        writeln!(f, "prior     {} (rank {rank})", self.out.display())?;
        writeln!(f, "learned   from {} snapshots on {num_data} examples", learned.snapshots)?;
        if !notes.is_empty() {
            writeln!(f, "notes     {notes}")?;
        }
        writeln!(f, "weights   {}", self.overall.count)?;
        writeln!(f, "floor     {} of the variance", percent(self.overall.floor_share))?;
        let peak = peak_rss_text(self.peak_rss_mb);
        writeln!(f, "took      {:.1} s, {peak}", self.seconds)
    }
}
