//! The question of the paper at a scale that one machine answers: from N labels, what does the
//! default reach beside baselines whose strength was searched for?
//!
//! Labels are drawn by seed, the same number of every class; each way to adapt (`rows.rs`) is run
//! on each draw and measured on images that neither training nor any choice has seen. Every
//! finished run is kept in `results.jsonl` of the work folder, and a study that was stopped goes
//! on. The tables, plots and goals are written from that file to the output folder: the part of
//! `study.md` between two comments, and SVG files beside it.
//!
//! ```text
//! cargo run --release --example study -- --backbone resnet.onnx --source cifar100.npz \
//!     --train cifar10/train.npz --test cifar10/test.npz --shift shifted.npz \
//!     --work target/study --out docs
//! ```

mod clock;
mod material;
mod plots;
mod records;
mod rows;
mod runs;
mod tables;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use priorfit::data::Statistics;
use priorfit::error::{Context, Error, Result};
use priorfit::threads::Threads;

use crate::material::Material;
use crate::records::{Records, Setting};
use crate::rows::{RUN_ORDER, Row};
use crate::runs::Job;

/// Compare the default with tuned baselines, for several numbers of labels
#[derive(Clone, Parser)]
pub struct Args {
    /// The ONNX file; a classifier at its end is cut off
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// The source's prior
    #[arg(long, value_name = "FILE")]
    prior: Option<PathBuf>,
    /// The source's data, to fit the prior to and keep it in the work folder
    #[arg(long, value_name = "DATA")]
    source: Option<PathBuf>,
    /// The first images of --source that are used
    #[arg(long, default_value_t = 20_000)]
    source_images: usize,
    /// Labelled images that the examples are drawn from
    #[arg(long, value_name = "DATA")]
    train: PathBuf,
    /// Images to measure on; without it, those of --train that are not drawn
    #[arg(long, value_name = "DATA")]
    test: Option<PathBuf>,
    /// Other images of the same classes to measure on
    #[arg(long, value_name = "DATA")]
    shift: Option<PathBuf>,
    /// Images with masks that examples are drawn from
    #[arg(long, value_name = "DATA")]
    masks: Option<PathBuf>,
    /// Images with masks to measure on
    #[arg(long, value_name = "DATA")]
    masks_test: Option<PathBuf>,
    /// Height and width that images with masks are resized to
    #[arg(long, value_delimiter = ',')]
    mask_size: Vec<usize>,
    /// The class of masks that does not count
    #[arg(long)]
    ignore: Option<u8>,
    /// Means of the channels that the backbone was trained with; without them, the images' own
    #[arg(long, value_delimiter = ',', requires = "std")]
    mean: Vec<f32>,
    /// Their standard deviations
    #[arg(long, value_delimiter = ',', requires = "mean")]
    std: Vec<f32>,
    /// Where results are kept
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
    /// Where study.md and its plots are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Labels of each class
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 20, 100])]
    shots: Vec<usize>,
    /// Images with masks
    #[arg(long, value_delimiter = ',', default_values_t = [20, 100])]
    mask_shots: Vec<usize>,
    /// Draws of the labels
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// Which ways to adapt; all that there are data for
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// At most this many images of each set are measured, the first
    #[arg(long, default_value_t = 2000)]
    images: usize,
    /// Steps of a run
    #[arg(long, default_value_t = 200)]
    steps: usize,
    /// Typical variances around the mean that tuned rows try
    #[arg(long, value_delimiter = ',', default_values_t = [1e-3, 1e-2, 1e-1])]
    variances: Vec<f64>,
    /// Variances around zero that tuned weight decay tries
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 10.0, 100.0])]
    decays: Vec<f64>,
    /// Runs at a time, each on one core; all cores by default
    #[arg(long)]
    workers: Option<usize>,
    /// Rewrite tables and plots from the results there are
    #[arg(long)]
    tables_only: bool,
    /// A few steps on a few images, to see that everything works
    #[arg(long)]
    quick: bool,
}

impl Args {
    fn statistics(&self) -> Option<Statistics> {
        let (mean, std) = (self.mean.clone(), self.std.clone());
        (!mean.is_empty()).then_some(Statistics { mean, std })
    }

    /// As asked for, or small enough to end in a minute.
    fn sized(self) -> Self {
        match self.quick {
            false => self,
            true => Args {
                shots: vec![1, 5],
                mask_shots: vec![2],
                seeds: vec![101],
                images: 100,
                source_images: 200,
                steps: 16,
                variances: vec![1e-3, 1e-1],
                decays: vec![1.0, 100.0],
                ..self
            },
        }
    }

    /// The runs to make, in their order.
    fn jobs(&self, material: &Material) -> Vec<Job> {
        let has_data = |row: Row| match row.is_of_masks() {
            true => material.masks.is_some(),
            false => !row.needs_prior() || material.prior.is_some(),
        };
        let wanted = |row: &Row| match self.rows.is_empty() {
            true => has_data(*row),
            false => self.rows.contains(row),
        };
        let mut jobs = Vec::new();
        for row in RUN_ORDER.into_iter().filter(wanted) {
            let shots = if row.is_of_masks() { &self.mask_shots } else { &self.shots };
            for &seed in &self.seeds {
                jobs.extend(shots.iter().map(|&shots| Job { row, shots, seed }));
            }
        }
        jobs
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all runs that are missing, and writes what came of all; returns whether the goals hold.
fn run(args: Args) -> Result<String> {
    let args = args.sized();
    for folder in [&args.work, &args.out] {
        fs::create_dir_all(folder).map_err(|e| {
            Error::invalid(format!("cannot create {}", folder.display())).caused_by(e)
        })?;
    }
    let records = match args.tables_only {
        true => Records::read(&args.work)?,
        false => {
            let material = Material::open(&args)?;
            let setting = Setting {
                backbone: material.images.model.fingerprint(),
                pool: material.images.pool.len(),
                classes: material.images.pool.classes().len(),
                images: args.images,
                has_test: args.test.is_some(),
                steps: args.steps,
                variances: args.variances.clone(),
                decays: args.decays.clone(),
                mask_size: args.mask_size.clone(),
            };
            let records = Records::open(&args.work, setting)?;
            make(&args, &material, records)?
        }
    };
    plots::write(&records, &args.out)?;
    tables::write(&records, &args.out)
}

/// Makes the runs that are missing, several at a time.
fn make(args: &Args, material: &Material, records: Records) -> Result<Records> {
    let jobs: Vec<Job> = args
        .jobs(material)
        .into_iter()
        .filter(|job| records.find(job.row, job.shots, job.seed).is_none())
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let (started, next) = (Instant::now(), AtomicUsize::new(0));
    let setting = records.setting.clone();
    let records = Mutex::new(records);
    let work = || -> Result<()> {
        let threads = Arc::new(Threads::new(1));
        while let Some(&job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let shared = runs::known(&lock(&records), job);
            let made = runs::run(job, material, &setting, shared, Arc::clone(&threads));
            let made = made
                .context(|| format!("{}, shots {}, seed {}", job.row.title(), job.shots, job.seed));
            let made = made.inspect_err(|_| next.store(jobs.len(), Ordering::Relaxed))?;
            tell(&jobs, job, started, made[0].seconds);
            lock(&records).add(made)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = args.workers.unwrap_or(cores).max(1);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let lost = || Error::internal("a worker panicked");
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| lost())?)
    })?;
    Ok(records.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what was done, and how long the rest may take if runs of a row take the same time.
fn tell(jobs: &[Job], job: Job, started: Instant, seconds: f64) {
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let done = DONE.fetch_add(1, Ordering::Relaxed) + 1;
    let elapsed = started.elapsed().as_secs_f64();
    let left = elapsed / done as f64 * jobs.len().saturating_sub(done) as f64;
    eprintln!(
        "{done}/{} {} shots {} seed {} took {seconds:.0} s; {:.0} min passed, about {:.0} left",
        jobs.len(),
        job.row.title(),
        job.shots,
        job.seed,
        elapsed / 60.0,
        left / 60.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bundled backbone and digits, every row but those of masks; twice, of which the second
    /// time finds everything made.
    #[test]
    fn the_whole_study_runs_on_what_is_bundled() {
        let files = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        let folder = tempfile::tempdir().expect("a folder");
        let of = |name: &str| files.join(name).into_os_string().into_string().expect("text");
        let to = |name: &str| folder.path().join(name).display().to_string();
        let digits = of("digits.npz");
        let args = || {
            Args::parse_from([
                "study",
                "--quick",
                "--backbone",
                &of("backbone.onnx"),
                "--prior",
                &of("prior.safetensors"),
                "--train",
                &digits,
                "--shift",
                &digits,
                "--mean",
                "0.31",
                "--std",
                "0.37",
                "--work",
                &to("work"),
                "--out",
                &to("out"),
            ])
        };
        let goals = run(args()).expect("a study");
        assert!(goals.contains("default, 50 labels: accuracy within"), "{goals}");
        let results = std::fs::read(folder.path().join("work/results.jsonl")).expect("results");
        let lines = results.iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(lines, 1 + 11 * 2, "the setting; rows and shots");
        let table = std::fs::read_to_string(folder.path().join("out/study.md")).expect("tables");
        for row in ["linear probe", "weight decay, tuned", "L2-SP, tuned", "default, Laplace"] {
            assert_eq!(table.matches(&format!("\n| {row} |")).count(), 2, "{table}");
        }
        let plot = std::fs::read_to_string(folder.path().join("out/study-nll.svg")).expect("plot");
        assert!(plot.contains("learned low rank, tuned") && !plot.contains("NaN"), "{plot}");
        assert_eq!(run(args()).expect("nothing is left to do"), goals);
        let again = std::fs::read(folder.path().join("work/results.jsonl")).expect("results");
        assert_eq!(again, results);
        let other = Args { steps: 3, quick: false, ..args() };
        assert!(run(other).is_err_and(|error| error.to_string().contains("another study")));
    }
}
