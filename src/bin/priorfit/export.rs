//! `export`: an adapted model as ONNX, as what differs from its backbone, or as it was before.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use priorfit::error::{Error, Result};
use priorfit::posterior::{DrawPrecision, ExportSettings, Posterior};
use serde::Serialize;

use crate::backbone;
use crate::globals::Globals;
use crate::options::{Destination, Precision, check_destination};

/// Write an adapted model as ONNX, or only what differs from its backbone
///
/// The ONNX file is the backbone's own (graph, names, metadata, operator sets) with the adapted
/// weights and the new head. Its outputs are `logits`, divided by the temperature already, and
/// `probabilities`; of numbers `numbers`, in the data's units. The metadata `priorfit` is JSON: the
/// names of the outputs' columns, how images become the input, what calibration found.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit export --posterior mine/ --out mine.onnx
  priorfit export --posterior mine/ --out draws/net.onnx --weights each
  priorfit export --posterior mine/ --out before.onnx --weights backbone
  priorfit export --posterior mine/ --delta mine.safetensors --draw-precision f16
  priorfit export --delta mine.safetensors --backbone b.onnx --folder mine/

What `predict` gives is the average of the draws' probabilities: with several draws, --weights each
writes draws/net-0.onnx, draws/net-1.onnx, .., whose probabilities are to be averaged, and --weights
mean one network of their mean weights, which is quicker and another one.

--weights backbone undoes the adaptation: it is the network that was adapted, to the last bit, up to
its features. The file that `adapt --backbone` was given is never written to.

A delta is small where few weights were trained, and nothing without the backbone: --backbone takes
the file that was adapted, and --features what `adapt` was given.")]
pub struct Export {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR", required_unless_present = "backbone")]
    #[arg(conflicts_with = "backbone")]
    posterior: Option<PathBuf>,
    /// Write ONNX to this file
    #[arg(long, value_name = "FILE", required_unless_present_any = ["delta", "folder"])]
    out: Option<PathBuf>,
    /// Write what differs from the backbone to this file; with --backbone read it
    #[arg(long, value_name = "FILE")]
    delta: Option<PathBuf>,
    /// Write a folder as `adapt` does
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Whose weights: of each draw, the draws' mean, or the network before adaptation [default:
    /// mean with one draw]
    #[arg(long, value_enum, value_name = "WHOSE", requires = "out")]
    weights: Option<Whose>,
    /// Put the elements of large tensors into a second file beside each; needed beyond 2 GiB
    #[arg(long, requires = "out")]
    external_data: bool,
    /// Precision of the differences in --delta or --folder
    #[arg(long, value_enum, default_value = "f32", value_name = "P")]
    draw_precision: Precision,
    /// The file that was adapted, to put --delta on
    #[arg(long, value_name = "FILE", requires = "delta")]
    backbone: Option<PathBuf>,
    /// Value or node of that file that holds the features
    #[arg(long, value_name = "NAME", requires = "backbone")]
    features: Option<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Whose {
    Mean,
    Each,
    Backbone,
}

#[derive(Serialize)]
struct Report {
    /// The ONNX files.
    onnx: Vec<PathBuf>,
    delta: Option<PathBuf>,
    folder: Option<PathBuf>,
    draws: usize,
}

impl Export {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        for (path, kind) in [
            (&self.out, Destination::File),
            (&self.delta, Destination::File),
            (&self.folder, Destination::Folder),
        ] {
            path.as_deref().map_or(Ok(()), |path| check_destination(path, kind))?;
        }
        let posterior = self.source()?;
        let precision = DrawPrecision::from(self.draw_precision);
        let onnx = match &self.out {
            Some(path) => self.write(&posterior, path)?,
            None => Vec::new(),
        };
        let delta = self.delta.clone().filter(|_| self.backbone.is_none());
        if let Some(path) = &delta {
            posterior.save_delta(path, precision)?;
        }
        if let Some(folder) = &self.folder {
            posterior.save_as(folder, precision)?;
        }
        let draws = posterior.draws().len();
        globals.print(&Report { onnx, delta, folder: self.folder.clone(), draws })?;
        Ok(ExitCode::SUCCESS)
    }

    /// The posterior of a folder, or of a delta on its backbone.
    fn source(&self) -> Result<Posterior> {
        match (&self.posterior, &self.backbone, &self.delta) {
            (Some(folder), ..) => Posterior::load(folder),
            (None, Some(path), Some(delta)) => {
                let task = Posterior::describe_delta(delta)?.task;
                let load = if task.is_dense() { backbone::load_map } else { backbone::load };
                Posterior::load_delta(delta, load(path, self.features.as_deref())?)
            }
            _ => Err(Error::internal("the command line asks for a source")),
        }
    }

    fn write(&self, posterior: &Posterior, path: &Path) -> Result<Vec<PathBuf>> {
        let several = posterior.draws().len() > 1;
        match self.weights {
            None if several => {
                let message = format!("the posterior has {} draws", posterior.draws().len());
                Err(Error::invalid(message).hint(
                    "say --weights each for a file of each, or --weights mean for their mean",
                ))
            }
            Some(Whose::Backbone) => {
                posterior.backbone().save(path, self.external_data)?;
                Ok(vec![path.to_path_buf()])
            }
            weights => {
                let each = weights == Some(Whose::Each);
                posterior.export(path, ExportSettings { each, external_data: self.external_data })
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.onnx.iter().try_for_each(|path| writeln!(f, "network   {}", path.display()))?;
        if let Some(path) = &self.delta {
            writeln!(f, "delta     {}", path.display())?;
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "folder    {}", folder.display())?;
        }
        writeln!(f, "draws     {}", self.draws)
    }
}
