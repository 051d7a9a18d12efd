//! Options that several commands share: preprocessing, augmentation, where results go.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use priorfit::adapt::{Checkpoints, Control, Existing, InputSettings, Normalise};
use priorfit::data::{Augment, Crop, Dataset, Flip, Preprocess, Resize, Statistics};
use priorfit::error::{Error, Result};
use priorfit::job::{Budget, Priority};
use priorfit::onnx::Model;
use priorfit::posterior::DrawPrecision;
use priorfit::threads::Threads;

use crate::globals::Globals;

/// How images become the network's input.
#[derive(Args)]
#[command(next_help_heading = "Images")]
pub struct PreprocessArgs {
    /// Size of the network's input: S or HxW; needed only where the file leaves it open [default
    /// with masks: that of the first image]
    #[arg(long, value_name = "S")]
    image_size: Option<ImageSize>,
    /// How images of another size are fitted [default: centre; stretch with masks]
    #[arg(long, value_enum)]
    resize: Option<Fit>,
    /// Mean and standard deviation of the channels that are taken out; with --mean and --std those
    /// are meant, else those of the given data
    #[arg(long, value_enum)]
    normalise: Option<Normal>,
    /// Mean of each channel, or one for all, of pixels in 0..1
    #[arg(long, value_delimiter = ',', value_name = "M,..", allow_hyphen_values = true)]
    #[arg(requires = "std")]
    mean: Vec<f32>,
    /// Standard deviation of each channel, or one for all
    #[arg(long, value_delimiter = ',', value_name = "S,..", requires = "mean")]
    std: Vec<f32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fit {
    /// Stretch the whole image
    Stretch,
    /// Resize the largest centred part of the input's aspect
    Centre,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Normal {
    /// Those of the given data
    Dataset,
    /// Those most backbones trained on ImageNet expect
    Imagenet,
    /// Leave the numbers as they are
    None,
    /// Those of --mean and --std
    Given,
}

/// Height and width.
#[derive(Clone, Copy, Debug)]
pub struct ImageSize {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        let side = |text: &str| text.parse().ok().filter(|&side: &usize| side > 0);
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok(ImageSize { height, width }),
            _ => Err("expected a number of pixels, such as 224 or 192x256".to_string()),
        }
    }
}

/// A number, or none where it is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Auto(pub Option<f64>);

impl FromStr for Auto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Auto(None)),
            _ => text
                .parse()
                .map(|value| Auto(Some(value)))
                .map_err(|_| "expected a number, or auto".to_string()),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, shift) = match text.to_ascii_uppercase() {
            text if text.ends_with('K') => (text[..text.len() - 1].to_string(), 10),
            text if text.ends_with('M') => (text[..text.len() - 1].to_string(), 20),
            text if text.ends_with('G') => (text[..text.len() - 1].to_string(), 30),
            text => (text, 0),
        };
        let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(1 << shift));
        bytes.filter(|&bytes| bytes > 0).map(ByteSize).ok_or_else(|| {
            "expected a number of bytes, or of K, M or G, such as 512M or 2G".to_string()
        })
    }
}

/// The largest norm of a gradient.
#[derive(Clone, Copy)]
pub struct Clip(pub Option<f32>);

impl FromStr for Clip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("none", _) => Ok(Clip(None)),
            (_, Ok(norm)) => Ok(Clip(Some(norm))),
            _ => Err("expected a number or `none`".to_string()),
        }
    }
}

impl PreprocessArgs {
    /// The preprocessing for `model`; statistics, if they are to be measured, are those of `data`.
    ///
    /// # Errors
    /// When the model takes no images, its input's size is not known, the options do not fit it, or
    /// the data cannot be read.
    pub fn resolve(&self, model: &Model, data: &Dataset, threads: &Threads) -> Result<Preprocess> {
        self.input()?.resolve(model, data, threads)
    }

    /// What is said of the input.
    ///
    /// # Errors
    /// When the options contradict each other.
    pub fn input(&self) -> Result<InputSettings> {
        let default = if self.mean.is_empty() { Normal::Dataset } else { Normal::Given };
        let normalise = self.normalise.unwrap_or(default);
        if normalise != Normal::Given && !self.mean.is_empty() {
            return Err(Error::invalid(
                "--mean and --std are given but --normalise says otherwise",
            )
            .hint("leave --normalise out, or say `--normalise given`"));
        }
        let resize = self.resize.map(|fit| match fit {
            Fit::Stretch => Resize::Stretch,
            Fit::Centre => Resize::CentreCrop { part: 1.0 },
        });
        let normalise = match normalise {
            Normal::Dataset => Normalise::Dataset,
            Normal::Imagenet => Normalise::Imagenet,
            Normal::None => Normalise::None,
            Normal::Given => {
                Normalise::Given(Statistics { mean: self.mean.clone(), std: self.std.clone() })
            }
        };
        let size = self.image_size.map(|size| [size.height, size.width]);
        Ok(InputSettings { size, resize, normalise })
    }
}

/// How differences between weights are stored.
#[derive(Clone, Copy, ValueEnum)]
pub enum Precision {
    /// Half the space; within a thousandth of the spread
    F16,
    /// As they are
    F32,
}

impl From<Precision> for DrawPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F16 => DrawPrecision::F16,
            Precision::F32 => DrawPrecision::F32,
        }
    }
}

/// How training images vary.
#[derive(Args)]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentArgs {
    /// Mirror training images at random
    #[arg(long)]
    flip: bool,
    /// Move training images by up to this many pixels
    #[arg(long, value_name = "PIXELS")]
    crop: Option<usize>,
}

impl AugmentArgs {
    /// The augmentation.
    pub fn augment(&self) -> Augment {
        Augment {
            flip: if self.flip { Flip::Horizontal } else { Flip::Off },
            crop: self.crop.map_or(Crop::None, |pixels| Crop::Padded { pixels }),
        }
    }
}

/// What a run may take of the machine.
#[derive(Args)]
#[command(next_help_heading = "Budget")]
pub struct BudgetArgs {
    /// Share of the time that it computes, above 0 and at most 1; between steps it rests
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    duty_cycle: f32,
    /// Time after which it stops as on Ctrl-C, such as 90s, 30m or 2h
    #[arg(long, value_name = "TIME")]
    time_budget: Option<Time>,
    /// Let all other programs go first
    #[arg(long)]
    low_priority: bool,
}

impl BudgetArgs {
    /// The budget; threads and memory have options of their own.
    pub fn budget(&self) -> Budget {
        Budget {
            duty_cycle: self.duty_cycle,
            wall_time: self.time_budget.map(|time| time.0),
            priority: if self.low_priority { Priority::Low } else { Priority::Ordinary },
            ..Budget::default()
        }
    }
}

/// A length of time above zero.
#[derive(Clone, Copy, Debug)]
struct Time(Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_above = |time: &Interval| !time.0.is_zero();
        let time = text.parse().ok().filter(is_above);
        time.map(|time| Time(time.0)).ok_or_else(time_expected)
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug)]
struct Interval(Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, seconds) = match text.chars().last() {
            Some('s') => (&text[..text.len() - 1], 1),
            Some('m') => (&text[..text.len() - 1], 60),
            Some('h') => (&text[..text.len() - 1], 3600),
            _ => (text, 1),
        };
        let seconds = number.parse().ok().and_then(|n: u64| n.checked_mul(seconds));
        seconds.map(|s| Interval(Duration::from_secs(s))).ok_or_else(time_expected)
    }
}

fn time_expected() -> String {
    "expected a number of seconds, or of s, m or h, such as 90s or 2h".to_string()
}

/// What survives a crash.
#[derive(Args)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArgs {
    /// Warn where there is no checkpoint to go on from. One of the same run is gone on from without
    /// this, too
    #[arg(long)]
    resume: bool,
    /// Begin anew: remove the checkpoints of a run that did not come to its end, whichever it was
    #[arg(long, conflicts_with = "resume")]
    restart: bool,
    /// Time between checkpoints, such as 30s or 5m, or 0 for one after each step: what a crash
    /// costs at most
    #[arg(long, value_name = "TIME", default_value = "60s")]
    checkpoint_every: Interval,
    /// Leave no checkpoints
    #[arg(long, conflicts_with_all = ["resume", "restart"])]
    no_checkpoints: bool,
}

impl CheckpointArgs {
    /// Those in the folder `path`, unless none are wanted. Ones that are there are gone on from:
    /// that ends as beginning anew does, and sooner.
    ///
    /// # Errors
    /// When those that are there cannot be read, or removed where that is asked for.
    pub fn checkpoints(&self, path: PathBuf, globals: &Globals) -> Result<Option<Checkpoints>> {
        if self.no_checkpoints {
            return Ok(None);
        }
        let checkpoints = Checkpoints { path, existing: Existing::Resume };
        if self.restart {
            checkpoints.remove()?;
        }
        let at = checkpoints.path.display();
        match checkpoints.exist()? {
            true => globals.note(format!("there are checkpoints in {at}: going on from them")),
            false if self.resume => log::warn!("there is no checkpoint in {at}"),
            false => {}
        }
        Ok(Some(checkpoints))
    }

    /// The time between them.
    pub fn every(&self) -> Duration {
        self.checkpoint_every.0
    }

    /// What tells when it is time for one.
    pub fn timer(&self) -> Timer {
        Timer { every: self.every(), last: Instant::now() }
    }
}

/// Tells when it is time for a checkpoint.
pub struct Timer {
    every: Duration,
    last: Instant,
}

impl Timer {
    /// The answer of an observer who goes on: now and then with a checkpoint.
    pub fn control(&mut self) -> Control {
        if self.last.elapsed() < self.every {
            return Control::Continue;
        }
        self.last = Instant::now();
        Control::Checkpoint
    }
}

/// What a result will be written as.
#[derive(Clone, Copy)]
pub enum Destination {
    /// A folder, which may exist.
    Folder,
    /// A file, which may exist; its folder must.
    File,
}

/// Finds out before a long run that its result could not be written. Writes nothing.
///
/// # Errors
/// When something else is in the way.
pub fn check_destination(path: &Path, destination: Destination) -> Result<()> {
    let refuse = |path: &Path, expected: &str| {
        let message = format!("cannot write {}", path.display());
        Err(Error::invalid(message).hint(format!("expected {expected}")))
    };
    match destination {
        Destination::Folder => match path.ancestors().find(|ancestor| ancestor.exists()) {
            Some(existing) if !existing.is_dir() => refuse(existing, "a folder, not a file"),
            _ => Ok(()),
        },
        Destination::File if path.is_dir() => refuse(path, "a file, not a folder"),
        Destination::File => match path.parent() {
            Some(folder) if folder != Path::new("") && !folder.is_dir() => {
                refuse(path, "its folder to exist")
            }
            _ => Ok(()),
        },
    }
}

/// A share in [0, 1] as text.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
