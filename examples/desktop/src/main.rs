//! `priorfit-desktop`; see `--help`.

use std::process::ExitCode;

use clap::Parser;
use priorfit_desktop::{Options, run};

fn main() -> ExitCode {
    // What the crates below have to say is not for a user.
    let default =
        env_logger::Env::default().default_filter_or("priorfit=warn,priorfit_desktop=warn");
    env_logger::Builder::from_env(default).init();
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
