//! `bench`: how long a training step or a prediction takes, where its time goes, and how much
//! memory it needs.
//!
//! The step is the one that `adapt` runs: forward, loss, backward, prior and update. The prior is
//! synthetic: its mean is the weights, its precision and deviations are noise of plausible scale.

mod profile;
mod roof;
mod step;

use std::fmt;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use priorfit::error::Result;
use priorfit::graph::Stage;
use priorfit::kernel::Kernel;
use priorfit::plan::{Dispatch, Plan};
use priorfit::prior::MAX_RANK;
use serde::Serialize;

use self::profile::{Detail, Profile};
use self::roof::Roof;
use self::step::Bencher;
use crate::globals::Globals;
use crate::options::{ByteSize, ImageSize};
use crate::process::{peak_rss_mb, peak_rss_text};

/// Time a training step of an ONNX file on this machine, or predicting with it
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit bench resnet18.onnx --batch 8
  priorfit bench resnet18.onnx --batch 8 --no-prior --threads 1 --profile
  priorfit bench resnet18.onnx --batch 8 --profile=shapes
  priorfit bench resnet18.onnx --batch 32 --memory-cap 2G
  priorfit bench resnet18.onnx --batch 1 --predict

Times are medians over the repeats. The first step's time counts from the start of the program and
so holds reading the file, import, planning and setting up the prior.

In a profile, \"least\" is the longer of two times: that of a kernel's operations at the rate of
multiply-adds in registers, and that of reading each operand and writing each result once at the
rate of a copy in memory. Operations are counted by definition, so that a 3x3 convolution by minimal
filtering may need less, and what lies in a cache is read faster than memory is.")]
pub struct Bench {
    /// The ONNX file
    model: PathBuf,
    /// Examples of a step
    #[arg(long, default_value_t = 8, value_parser = number(1..))]
    batch: usize,
    /// Size of the input: S or HxW; needed only where the file leaves it open
    #[arg(long, value_name = "S")]
    image_size: Option<ImageSize>,
    /// Classes of the head
    #[arg(long, default_value_t = 10, value_parser = number(1..=CLASSES_MAX))]
    classes: usize,
    /// Deviations of the synthetic prior; 0 for a diagonal one
    #[arg(long, value_name = "K", default_value_t = 5)]
    #[arg(value_parser = number(..=MAX_RANK as u64))]
    prior_rank: usize,
    /// Train without a prior
    #[arg(long, conflicts_with = "prior_rank")]
    no_prior: bool,
    /// Clip the gradient's norm, as `adapt` does by default
    #[arg(long)]
    clip: bool,
    /// Time one prediction of a batch instead of a step
    #[arg(long, conflicts_with_all = ["prior_rank", "no_prior", "clip", "memory_cap"])]
    predict: bool,
    /// Most memory for weights, prior and activations, such as 512M or 2G (of 1024s): activations
    /// are computed again if that takes it; a batch is not split, since --batch is what is timed
    #[arg(long, value_name = "SIZE")]
    memory_cap: Option<ByteSize>,
    /// Timed steps, after two that are not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// List the time of each kind of kernel, or of each of its shapes, and on a processor how far
    /// that is from what the machine can do
    #[arg(long, value_name = "DETAIL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "kinds", value_enum)]
    profile: Option<Detail>,
}

/// The most classes; more than any data set has.
const CLASSES_MAX: u64 = 65_536;

fn number(range: impl RangeBounds<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// Steps before the timed ones.
const WARM_UP: usize = 2;

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    backend: String,
    input_shape: Vec<usize>,
    /// Number of trainable weights, the head's included.
    params: usize,
    /// Rank of the prior, or nothing without one.
    prior_rank: Option<usize>,
    step_ms: f64,
    forward_ms: f64,
    backward_ms: f64,
    prior_update_ms: f64,
    gflop: f64,
    gflops: f64,
    /// What the updates must read and write, and how fast they did.
    update_bytes: u64,
    update_gb_per_s: f64,
    /// What a copy in memory reads and writes; not measured on a GPU.
    copy_gb_per_s: Option<f64>,
    planned_bytes: usize,
    /// Whether activations were computed a second time instead of kept.
    recomputes: bool,
    peak_rss_mb: Option<f64>,
    first_step_ms: f64,
    repeats: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

#[derive(Serialize)]
struct Prediction {
    file: PathBuf,
    backend: String,
    input_shape: Vec<usize>,
    params: usize,
    predict_ms: f64,
    gflop: f64,
    gflops: f64,
    planned_bytes: usize,
    peak_rss_mb: Option<f64>,
    /// From the start of the program to the first prediction.
    first_ms: f64,
    repeats: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

impl Bench {
    /// Runs the command.
    pub fn run(&self, globals: &Globals, started: Instant) -> Result<ExitCode> {
        let engine = globals.engine()?;
        let mut bencher = Bencher::new(self, &engine)?;
        let mut watch = Watch::new(bencher.plan());
        bencher.run()?;
        let first_ms = ms(started.elapsed());
        for _ in 1..WARM_UP {
            bencher.run()?;
        }
        // Whole runs and their parts are timed in turns: a device is waited for after each part.
        for _ in 0..self.repeats {
            let begun = Instant::now();
            bencher.run()?;
            watch.runs.push(ms(begun.elapsed()));
            watch.start();
            bencher.observed_run(&mut |dispatch| watch.lap(dispatch))?;
            watch.stop();
        }
        let peak = peak_rss_mb();
        // What a GPU can do at most is not measured.
        let roof = (!engine.can_fail()).then(|| Roof::measure(engine.threads()));
        let profile = self.profile.map(|detail| {
            Profile::new(bencher.plan(), &watch.dispatches, self.repeats, detail, roof)
        });
        let measured = Measured { bencher, watch, first_ms, peak, roof, profile };
        match self.predict {
            true => globals.print(&self.prediction(measured))?,
            false => globals.print(&self.report(measured))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, measured: Measured) -> Report {
        let Measured { bencher, mut watch, first_ms, peak, roof, profile } = measured;
        let plan = bencher.plan();
        let (gflop, update_bytes) = (plan.flops() as f64 / 1e9, update_bytes(plan));
        let step_ms = median(&mut watch.runs);
        let [forward_ms, backward_ms, prior_update_ms] = watch.stages.map(|mut t| median(&mut t));
        Report {
            file: self.model.clone(),
            backend: bencher.backend.name(),
            input_shape: bencher.input_shape.clone(),
            params: bencher.params,
            prior_rank: (!self.no_prior).then_some(self.prior_rank),
            step_ms,
            forward_ms,
            backward_ms,
            prior_update_ms,
            gflop,
            gflops: 1e3 * gflop / step_ms,
            update_bytes,
            update_gb_per_s: update_bytes as f64 / (1e6 * prior_update_ms),
            copy_gb_per_s: roof.map(|roof| roof.gb_per_s),
            planned_bytes: bencher.backend.bytes(),
            recomputes: bencher.recomputes,
            peak_rss_mb: peak,
            first_step_ms: first_ms,
            repeats: self.repeats,
            profile,
        }
    }

    fn prediction(&self, measured: Measured) -> Prediction {
        let Measured { bencher, mut watch, first_ms, peak, profile, .. } = measured;
        let gflop = bencher.plan().flops() as f64 / 1e9;
        let predict_ms = median(&mut watch.runs);
        Prediction {
            file: self.model.clone(),
            backend: bencher.backend.name(),
            input_shape: bencher.input_shape.clone(),
            params: bencher.params,
            predict_ms,
            gflop,
            gflops: 1e3 * gflop / predict_ms,
            planned_bytes: bencher.backend.bytes(),
            peak_rss_mb: peak,
            first_ms,
            repeats: self.repeats,
            profile,
        }
    }
}

/// What both reports are made of.
struct Measured {
    bencher: Bencher,
    watch: Watch,
    first_ms: f64,
    peak: Option<f64>,
    roof: Option<Roof>,
    profile: Option<Profile>,
}

/// Takes the time between dispatches.
struct Watch {
    stage_of: Vec<Stage>,
    last: Instant,
    current: [Duration; 3],
    /// Milliseconds of each whole run.
    runs: Vec<f64>,
    /// Milliseconds of each step's forward, backward and update part.
    stages: [Vec<f64>; 3],
    /// Time of each dispatch over all steps.
    dispatches: Vec<Duration>,
}

impl Watch {
    fn new(plan: &Plan) -> Self {
        let now = Instant::now();
        Watch {
            stage_of: plan.dispatches().iter().map(|dispatch| dispatch.stage).collect(),
            last: now,
            current: [Duration::ZERO; 3],
            runs: Vec::new(),
            stages: [const { Vec::new() }; 3],
            dispatches: vec![Duration::ZERO; plan.dispatches().len()],
        }
    }

    fn start(&mut self) {
        self.last = Instant::now();
        self.current = [Duration::ZERO; 3];
    }

    fn lap(&mut self, dispatch: usize) {
        let now = Instant::now();
        let took = now - self.last;
        self.current[self.stage_of[dispatch] as usize] += took;
        self.dispatches[dispatch] += took;
        self.last = now;
    }

    fn stop(&mut self) {
        self.stages.iter_mut().zip(self.current).for_each(|(stage, took)| stage.push(ms(took)));
    }
}

fn ms(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

/// The middle value; the mean of the two middle ones of an even number.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        0 => 0.5 * (values[half - 1] + values[half]),
        _ => values[half],
    }
}

/// What the updates must read and write: weight, gradient, moments and prior of each parameter.
fn update_bytes(plan: &Plan) -> u64 {
    let updates = plan.dispatches().iter().filter(|d| matches!(d.kernel, Kernel::Update { .. }));
    updates.map(|dispatch| bytes(plan, dispatch)).sum()
}

/// What a launch must read and write: each operand and each result once.
fn bytes(plan: &Plan, dispatch: &Dispatch) -> u64 {
    let buffers = dispatch.reads.iter().chain(&dispatch.writes);
    4 * buffers.map(|buffer| plan.buffers()[buffer.index()].len as u64).sum::<u64>()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prior = self.prior_rank.map_or("no prior".to_string(), |rank| format!("rank {rank}"));
        writeln!(f, "network      {} weights, input {:?}", self.params, self.input_shape)?;
        writeln!(f, "runs on      {}, {prior}", self.backend)?;
        writeln!(f, "step         {:>9.2} ms, {:.1} GFLOP/s", self.step_ms, self.gflops)?;
        writeln!(f, "  forward    {:>9.2} ms", self.forward_ms)?;
        writeln!(f, "  backward   {:>9.2} ms", self.backward_ms)?;
        let (update, rate) = (self.prior_update_ms, self.update_gb_per_s);
        let copy = self.copy_gb_per_s.map_or(String::new(), |copy| format!(", a copy {copy:.1}"));
        writeln!(f, "  update     {update:>9.2} ms, {rate:.1} GB/s{copy}")?;
        writeln!(f, "first step   {:>9.2} ms after the start", self.first_step_ms)?;
        let planned = self.planned_bytes as f64 / (1 << 20) as f64;
        let peak = peak_rss_text(self.peak_rss_mb);
        let again = if self.recomputes { ", activations computed twice" } else { "" };
        writeln!(f, "memory       {planned:>9.0} MiB planned{again}, {peak} at most")?;
        let Some(profile) = &self.profile else { return Ok(()) };
        write!(f, "\n{profile}")
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "network      {} weights, input {:?}", self.params, self.input_shape)?;
        writeln!(f, "runs on      {}", self.backend)?;
        writeln!(f, "prediction   {:>9.2} ms, {:.1} GFLOP/s", self.predict_ms, self.gflops)?;
        writeln!(f, "first        {:>9.2} ms after the start", self.first_ms)?;
        let planned = self.planned_bytes as f64 / (1 << 20) as f64;
        let peak = peak_rss_text(self.peak_rss_mb);
        writeln!(f, "memory       {planned:>9.0} MiB planned, {peak} at most")?;
        let Some(profile) = &self.profile else { return Ok(()) };
        write!(f, "\n{profile}")
    }
}
