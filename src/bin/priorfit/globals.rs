//! Options of every command, and how results reach the reader.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use clap::Args;
#[cfg(feature = "gpu")]
use priorfit::backend::gpu::Options;
use priorfit::backend::{Choice, Engine};
use priorfit::error::{Error, Result};
use priorfit::threads::Threads;
use serde::Serialize;

use crate::screen::Screen;

/// Where `--help` lists them.
const GENERAL: &str = "General";

/// Options of every command.
#[derive(Args)]
pub struct Globals {
    /// Print the result as one JSON object
    #[arg(long, global = true, help_heading = GENERAL)]
    json: bool,
    /// Print no progress and no notes
    #[arg(long, short, global = true, help_heading = GENERAL)]
    quiet: bool,
    /// Number of threads; all processors without it
    #[arg(long, global = true, help_heading = GENERAL, value_name = "T")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where to compute: auto, gpu, cpu, or a part of a GPU's name. auto takes a hardware GPU if
    /// there is one
    #[arg(long, global = true, help_heading = GENERAL, value_name = "DEVICE")]
    #[arg(default_value_t = Choice::Auto)]
    device: Choice,
    /// What is shown while the command runs.
    #[arg(skip)]
    screen: OnceLock<Screen>,
}

impl Globals {
    /// The threads to work on.
    pub fn threads(&self) -> Arc<Threads> {
        Arc::new(match self.threads {
            Some(count) => Threads::new(usize::from(count)),
            None => Threads::available(),
        })
    }

    /// Where to compute. What a GPU compiles is shown.
    ///
    /// # Errors
    /// When the device that is asked for is not there.
    pub fn engine(&self) -> Result<Engine> {
        #[cfg(feature = "gpu")]
        {
            let screen = self.screen();
            let options = Options {
                on_pipelines: Some(Arc::new(move |done, total| screen.shaders(done, total))),
                ..Options::default()
            };
            Engine::choose_with(&self.device, options, self.threads())
        }
        #[cfg(not(feature = "gpu"))]
        Engine::choose(&self.device, self.threads())
    }

    /// Where progress is shown.
    pub fn screen(&self) -> Screen {
        self.screen.get_or_init(|| Screen::new(!self.quiet)).clone()
    }

    /// Prints a remark to standard error, unless the result's JSON has it.
    pub fn note(&self, note: impl Display) {
        if !self.json && !self.quiet {
            eprintln!("note: {note}");
        }
    }

    /// Prints a command's result.
    ///
    /// # Errors
    /// When standard output cannot be written; a reader that has gone away is no error.
    pub fn print(&self, result: &(impl Serialize + Display)) -> Result<()> {
        let text = match self.json {
            true => {
                let json = serde_json::to_string(result);
                json.map_err(|e| Error::internal("a result is always JSON").caused_by(e))? + "\n"
            }
            false => result.to_string(),
        };
        let mut output = std::io::stdout().lock();
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::io("cannot write", Path::new("standard output"), error))
            }
            _ => Ok(()),
        }
    }
}
