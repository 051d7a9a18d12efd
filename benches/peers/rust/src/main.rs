//! Times a training step in Burn and in candle on the CPU, as the other side of `priorfit bench`.
//!
//!     cd benches/peers/rust && cargo build --release
//!     target/release/peers --library burn --backend flex --model resnet18 --json
//!     target/release/peers --library candle --backend cpu --size 64 --batch 16 --json
//!
//! Built from this folder, so that `.cargo/config.toml` tells the compiler to use what the CPU has.
//!
//! A step is forward, cross-entropy, backward and SGD with Nesterov momentum on all parameters.
//! BatchNorm uses stored statistics; its weights and biases are trained. Both libraries start from
//! the same numbers, so `first_loss` and `last_loss` have to agree between them.
//!
//! What a library cannot do ends with exit code 1 and one line `not supported: REASON`.

mod networks;
mod with_burn;
mod with_candle;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use networks::{Network, Numbers};
use serde_json::{Map, Value, json};

/// What BatchNorm adds to a variance.
const EPSILON: f64 = 1e-5;
const LEARNING_RATE: f64 = 1e-3;
const MOMENTUM: f64 = 0.9;
const WARM_UP: usize = 2;

/// What is trained, on what.
struct Task {
    network: Network,
    batch: usize,
    size: usize,
    classes: usize,
    seed: u64,
}

impl Task {
    fn shape(&self) -> [usize; 4] {
        [self.batch, 3, self.size, self.size]
    }

    fn images(&self, numbers: &mut Numbers) -> Vec<f32> {
        numbers.normal(self.shape().iter().product(), 1.0)
    }
}

/// A network with its optimiser, images and labels in one of the libraries.
trait Trainer {
    /// Without those of the head.
    fn params(&self) -> usize;

    /// Gives the loss before the update.
    fn step(&mut self) -> Result<f32, String>;

    /// Without a record for a backward pass.
    fn forward(&self) -> Result<(), String>;
}

#[derive(Clone, Copy, ValueEnum)]
enum Library {
    Burn,
    Candle,
}

impl Library {
    fn crate_name(self) -> &'static str {
        match self {
            Library::Burn => "burn",
            Library::Candle => "candle-core",
        }
    }

    fn default_backend(self) -> &'static str {
        match self {
            Library::Burn => "flex",
            Library::Candle => "cpu",
        }
    }
}

/// Times a training step in Burn or in candle on the CPU.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    library: Library,
    /// flex or ndarray for Burn, cpu for candle.
    #[arg(long)]
    backend: Option<String>,
    /// resnet18 or mobilenetv2.
    #[arg(long, default_value = "resnet18")]
    model: String,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    #[arg(long, default_value_t = 224)]
    size: usize,
    #[arg(long, default_value_t = 10)]
    classes: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    repeats: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn backend(&self) -> &str {
        self.backend.as_deref().unwrap_or(self.library.default_backend())
    }

    fn task(&self) -> Result<Task, String> {
        let network = networks::network(&self.model)?;
        let Arguments { batch, size, classes, seed, .. } = *self;
        Ok(Task { network, batch, size, classes, seed })
    }
}

fn main() {
    let arguments = Arguments::parse();
    // What a library says when it panics is in the line that is printed below.
    std::panic::set_hook(Box::new(|_| ()));
    let result = use_threads(arguments.threads).and_then(|()| measured_or_panicked(&arguments));
    match result {
        Ok(values) if arguments.json => println!("{}", Value::Object(values)),
        Ok(values) => values.iter().for_each(|(name, value)| println!("{name:16}{value}")),
        Err(reason) => {
            println!("not supported: {}", reason.split_whitespace().collect::<Vec<_>>().join(" "));
            std::process::exit(1);
        }
    }
}

/// Sets the number of threads of all that the libraries multiply matrices with.
fn use_threads(count: usize) -> Result<(), String> {
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "MATMUL_NUM_THREADS"] {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(name, count.to_string()) };
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    pool.build_global().map_err(|error| error.to_string())
}

fn measured_or_panicked(arguments: &Arguments) -> Result<Map<String, Value>, String> {
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| measured(arguments)));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Err(text.unwrap_or("a panic without a message").into())
    })
}

fn measured(arguments: &Arguments) -> Result<Map<String, Value>, String> {
    let rss_before_mb = peak_rss_mb();
    let mut trainer = trainer(arguments)?;
    let repeats = arguments.repeats as usize;
    let (first_step_ms, first_loss) = timed(|| trainer.step())?;
    for _ in 0..WARM_UP {
        trainer.step()?;
    }
    let (step_ms, last_loss) = median_ms(repeats, || trainer.step())?;
    let peak_rss_mb = peak_rss_mb();
    trainer.forward()?;
    let (forward_ms, ()) = median_ms(repeats, || trainer.forward())?;
    let values = json!({
        "library": arguments.library.to_possible_value().map(|value| value.get_name().to_owned()),
        "version": locked_version(arguments.library.crate_name()),
        "backend": arguments.backend(),
        "model": arguments.model,
        "step_ms": rounded(step_ms),
        "first_step_ms": rounded(first_step_ms),
        "forward_ms": rounded(forward_ms),
        "peak_rss_mb": rounded(peak_rss_mb),
        "rss_before_mb": rounded(rss_before_mb),
        "threads": arguments.threads,
        "params": trainer.params(),
        "first_loss": first_loss,
        "last_loss": last_loss,
    });
    values.as_object().cloned().ok_or_else(|| "no values".into())
}

fn trainer(arguments: &Arguments) -> Result<Box<dyn Trainer>, String> {
    let task = arguments.task()?;
    match arguments.library {
        Library::Burn => with_burn::trainer(arguments.backend(), &task),
        Library::Candle => with_candle::trainer(arguments.backend(), &task),
    }
}

/// Milliseconds that some work took, and what it gave.
fn timed<T>(work: impl FnOnce() -> Result<T, String>) -> Result<(f64, T), String> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed().as_secs_f64() * 1e3, result))
}

/// The median of the times and the last result.
fn median_ms<T>(
    repeats: usize,
    mut work: impl FnMut() -> Result<T, String>,
) -> Result<(f64, T), String> {
    let (first, mut last) = timed(&mut work)?;
    let mut times = vec![first];
    for _ in 1..repeats {
        let (time, result) = timed(&mut work)?;
        times.push(time);
        last = result;
    }
    times.sort_by(f64::total_cmp);
    Ok(((times[(repeats - 1) / 2] + times[repeats / 2]) / 2.0, last))
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The most memory that the process has held so far; 0 where the system does not tell it so.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

/// The version of a crate that this was built with.
fn locked_version(name: &str) -> Option<&'static str> {
    let lines = include_str!("../Cargo.lock").lines();
    let mut after = lines.skip_while(|line| *line != format!("name = \"{name}\""));
    after.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}
