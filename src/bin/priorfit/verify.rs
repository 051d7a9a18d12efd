//! `verify`: whether this crate computes a network and its gradient rightly.
//!
//! The outputs are compared with tract's own inference of the untouched file. The gradient of a
//! random projection of the outputs is compared with central finite differences; see [`gradient`].

mod engine;
mod gradient;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use priorfit::error::{Error, Kind, Result};
use priorfit::onnx::Model;
use priorfit::tensor::{Tensor, contiguous, tensor};
use serde::Serialize;

use self::engine::{Engine, normal};
use crate::backbone;
use crate::globals::Globals;

/// Largest relative error of the outputs.
const FORWARD_TOLERANCE: f64 = 1e-4;
/// Largest relative error of a directional derivative.
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// Check outputs and gradients of an ONNX file on this machine
///
/// A random input goes through the network here and through tract; the gradient is compared with
/// finite differences in double precision, or for large networks in single precision. The exit
/// status says whether both agree.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit verify backbone.onnx
  priorfit verify backbone.onnx --input-shape 1,3,64,64 --json")]
pub struct Verify {
    /// The ONNX file
    model: PathBuf,
    /// Shape of the input; from the file without it
    #[arg(long, value_delimiter = ',', value_name = "N,C,H,W")]
    input_shape: Option<Vec<usize>>,
    /// Decides the random input and directions
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Default, Serialize)]
struct Report {
    file: PathBuf,
    importable: bool,
    input_shape: Option<Vec<usize>>,
    /// Number of trainable tensors.
    params: usize,
    /// Number of trainable weights.
    weights: usize,
    forward_rel_err: Option<f64>,
    gradient_rel_err: Option<f64>,
    /// How the derivatives were found.
    gradient_method: Option<String>,
    /// Number of directions.
    directions: usize,
    /// The direction of the largest error: a parameter, or all of them.
    worst: Option<String>,
    ok: bool,
    error: Option<String>,
}

impl Verify {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let mut report = Report { file: self.model.clone(), ..Report::default() };
        let outcome = self.check(globals, &mut report).and_then(|()| report.judge());
        report.ok = outcome.is_ok();
        report.error = outcome.as_ref().err().map(Error::to_string);
        globals.print(&report)?;
        outcome.map(|()| ExitCode::SUCCESS)
    }

    fn check(&self, globals: &Globals, report: &mut Report) -> Result<()> {
        let on = globals.engine()?;
        let model = Model::load(&self.model)?;
        report.params = model.weights().count();
        report.weights = model.weights().map(|(_, weight)| weight.len()).sum();
        let shape = match &self.input_shape {
            Some(shape) => shape.clone(),
            None => backbone::default_shape(&model)?,
        };
        report.input_shape = Some(shape.clone());
        let in_file = |e: Error| e.context(self.model.display().to_string());
        let graph = model.graph(&shape).map_err(in_file)?;
        report.importable = true;
        let input = tensor(&shape, normal(self.seed, 0, shape.iter().product()))?;
        let mut engine = Engine::new(&model, graph, &input, self.seed, &on).map_err(in_file)?;
        let outputs = engine.outputs()?;
        let expected = model.reference(std::slice::from_ref(&input)).map_err(in_file)?;
        report.forward_rel_err = Some(forward_error(&outputs, &expected)?);
        let found = gradient::compare(&mut engine, self.seed, GRADIENT_TOLERANCE)?;
        report.gradient_rel_err = Some(found.error);
        report.gradient_method = Some(found.method);
        report.directions = found.directions;
        report.worst = Some(found.worst);
        Ok(())
    }
}

/// Largest difference of an output relative to its largest element.
fn forward_error(outputs: &[Vec<f32>], expected: &[Tensor]) -> Result<f64> {
    let mut worst = 0.0f64;
    for (output, expected) in outputs.iter().zip(expected) {
        if output.len() != expected.len() {
            let message = format!("{} outputs; tract computes {}", output.len(), expected.len());
            return Err(Error::mismatch(message));
        }
        let expected = contiguous(expected);
        let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, &x| m.max(f64::from(x).abs()));
        for (&got, &wanted) in output.iter().zip(expected.iter()) {
            let error = (f64::from(got) - f64::from(wanted)).abs() / scale;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
    }
    Ok(worst)
}

impl Report {
    /// Whether both errors are within their tolerances.
    fn judge(&self) -> Result<()> {
        let measured = [
            ("the outputs differ from tract's", self.forward_rel_err, FORWARD_TOLERANCE),
            ("the gradient differs from differences", self.gradient_rel_err, GRADIENT_TOLERANCE),
        ];
        for (what, error, tolerance) in measured {
            let error = error.unwrap_or(f64::INFINITY);
            let is_within = error <= tolerance;
            if !is_within {
                let file = self.file.display();
                let message = format!("{file}: {what} by {error:.1e}; expected {tolerance:.0e}");
                return Err(Error::new(Kind::Unsupported, message));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(shape) = &self.input_shape {
            writeln!(f, "input     {shape:?}")?;
        }
        writeln!(f, "weights   {} in {} tensors", self.weights, self.params)?;
        if let Some(error) = self.forward_rel_err {
            writeln!(f, "forward   {error:.1e} (at most {FORWARD_TOLERANCE:.0e})")?;
        }
        if let (Some(error), Some(worst)) = (self.gradient_rel_err, &self.worst) {
            writeln!(f, "gradient  {error:.1e} (at most {GRADIENT_TOLERANCE:.0e}), for {worst}")?;
        }
        if let Some(method) = &self.gradient_method {
            writeln!(f, "          {} directions, {method}", self.directions)?;
        }
        writeln!(f, "{}", if self.ok { "ok" } else { "NOT ok" })
    }
}
