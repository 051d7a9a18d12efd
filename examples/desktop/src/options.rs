//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Teach a backbone the digits you draw, while the window goes on at its frame rate
///
/// The backbone that priorfit bundles has learned letters. Draw digits (or any other shapes), add
/// them to their classes, and adapt it on the device that the window is drawn with.
#[derive(Clone, Debug, Parser)]
#[command(name = "priorfit-desktop", version)]
pub struct Options {
    /// Where to adapt
    #[arg(long, value_enum, default_value_t = Where::Window)]
    pub device: Where,
    /// Training steps after the linear probe
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub steps: u32,
    /// Keep a JSON description of the window's state, its controls' places and its frame times in
    /// this file, for programs that drive it
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where F12 stores a picture of the window
    #[arg(long, value_name = "FILE", default_value = "priorfit-desktop.png")]
    pub screenshot: PathBuf,
}

/// Where to adapt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Where {
    /// The GPU that draws the window
    Window,
    /// The processor
    Cpu,
}
