//! The command line: every command is a thin layer over the library's public calls.
//!
//! Results go to standard output, as text or with `--json` as one JSON object; progress, notes and
//! errors go to standard error. The exit status is 0 for success, 1 for an error, 2 for a mistaken
//! command line, and 130 when the user interrupted.

mod adapt;
mod backbone;
mod bench;
mod calibrate;
mod demo;
mod devices;
mod engines;
mod evaluate;
mod export;
mod forget;
mod globals;
mod inspect;
mod monitor;
mod options;
mod predict;
mod prior;
mod process;
mod screen;
mod tasks;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use priorfit::error::{Kind, Result};

use self::globals::Globals;
use self::monitor::INTERRUPTED;

/// Adapt a pre-trained ONNX backbone to a few examples, with a stored prior over its weights.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_long_help = "\
A first round:
  priorfit inspect backbone.onnx
  priorfit verify backbone.onnx
  priorfit adapt --backbone backbone.onnx --train photos/ --out mine/
  priorfit calibrate --posterior mine/ --data held-out/
  priorfit predict --posterior mine/ new.jpg

RUST_LOG=priorfit=debug prints what the library does, the compiled training step included.")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    /// Learn a prior on source data, or look at one
    #[command(subcommand)]
    Prior(prior::PriorCommand),
    Adapt(Box<adapt::Adapt>),
    Calibrate(calibrate::Calibrate),
    Predict(predict::Predict),
    Evaluate(evaluate::Evaluate),
    Export(export::Export),
    Forget(Box<forget::Forget>),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Devices(devices::Devices),
}

impl Command {
    fn run(&self, globals: &Globals, started: Instant) -> Result<ExitCode> {
        match self {
            Command::Inspect(command) => command.run(globals),
            Command::Verify(command) => command.run(globals),
            Command::Prior(command) => command.run(globals),
            Command::Adapt(command) => command.run(globals, started),
            Command::Calibrate(command) => command.run(globals),
            Command::Predict(command) => command.run(globals),
            Command::Evaluate(command) => command.run(globals),
            Command::Export(command) => command.run(globals),
            Command::Forget(command) => command.run(globals, started),
            Command::Bench(command) => command.run(globals, started),
            Command::Demo(command) => command.run(globals, started),
            Command::Devices(command) => command.run(globals),
        }
    }
}

fn main() -> ExitCode {
    let started = Instant::now();
    let environment = env_logger::Env::default().default_filter_or("priorfit=warn");
    env_logger::Builder::from_env(environment).format_timestamp(None).init();
    let cli = Cli::parse();
    match cli.command.run(&cli.globals, started) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            match error.kind() {
                Kind::Cancelled => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
