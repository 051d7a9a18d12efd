//! Engines for predictions: our own, tract, ONNX Runtime, or a host's.
//!
//! A [`Runtime`] computes a network's raw outputs with the weights of one draw after another.
//! Predictions, metrics and calibration are made of those outputs and know nothing else of it.
//! Each holds what the draws share once, however many there are:
//!
//! - our own ([`Network`]) has one set of weights on its backend, into which a draw's are written;
//! - the others are given a network whose weights are constants where all draws agree, and inputs
//!   where they do not (`foreign`). Of those tract holds the values of the draw at hand, and ONNX
//!   Runtime reads them where the posterior has them.
//!
//! Which is the fastest that computes the same is found by [`Posterior::race`].

mod foreign;
#[cfg(feature = "ort")]
mod onnxruntime;
mod own;
mod tract;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::Array2;

use super::{Network, Posterior, Progress};
use crate::backend::Engine;
use crate::data::{Batches, Dataset, Preprocess};
use crate::error::{Error, Kind, Result};
use crate::onnx::Model;
use crate::prior::Weights;
use crate::task::Task;
use crate::tensor::Tensor;
use crate::threads::Threads;

/// What a network reads and predicts, whoever computes it.
#[derive(Clone)]
pub struct Frame {
    /// How images become its input.
    pub preprocess: Preprocess,
    /// What it predicts, if it has a head.
    pub task: Option<Task>,
    /// Examples of one forward pass.
    pub forward_batch: usize,
    /// What decodes images.
    pub threads: Arc<Threads>,
}

impl Frame {
    /// What it learns.
    ///
    /// # Errors
    /// Internal: whoever asks has given it a head.
    pub(crate) fn known_task(&self) -> Result<&Task> {
        self.task.as_ref().ok_or_else(|| Error::internal("a network with a head has a task"))
    }
}

/// A value that a network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// What its head reads: `[N, F]`; of masks each row is a map `[C, h, w]`.
    Features,
    /// Raw outputs `[N, outputs]`; of masks each row is `[H, W, classes]`.
    Logits,
}

/// Something that computes a network's outputs, with one set of weights after another.
pub trait Runtime: Send {
    /// What it is, for reports.
    fn name(&self) -> String;

    /// What the network reads and predicts.
    fn frame(&self) -> &Frame;

    /// The same, to change what is known of the task, the size of a pass, or the threads.
    fn frame_mut(&mut self) -> &mut Frame;

    /// Sets weights by name; those not named stay as they are.
    ///
    /// # Errors
    /// When it cannot take one of them.
    fn set_weights(&mut self, weights: &Weights) -> Result<()>;

    /// Computes `output` of a batch of images `[n, C, H, W]`, and appends a row for each of them.
    ///
    /// # Errors
    /// When it cannot be computed. [`Kind::Device`] says that it may be elsewhere.
    fn run(&mut self, images: &[f32], output: Output, rows: &mut Vec<f32>) -> Result<()>;

    /// Goes on elsewhere after `error`, with these weights.
    ///
    /// # Errors
    /// `error` itself, when there is nowhere to go.
    fn fall_back(&mut self, error: Error, _weights: &Weights) -> Result<()> {
        Err(error)
    }

    /// Bytes of weights that it holds beside those of the posterior. They do not grow with the
    /// number of draws.
    fn weight_bytes(&self) -> usize;
}

/// `output` of every example of `data`.
///
/// # Errors
/// When an example cannot be read, the network cannot run, or `observe` returns false.
pub(super) fn rows(
    runtime: &mut dyn Runtime,
    data: &Dataset,
    output: Output,
    observe: &mut dyn FnMut(Progress) -> bool,
) -> Result<Array2<f32>> {
    let Frame { preprocess, forward_batch, threads, .. } = runtime.frame().clone();
    let (total, batch) = (data.len(), forward_batch.max(1));
    let mut images = vec![0.0; batch.min(total) * preprocess.image_len()];
    let (mut rows, mut done) = (Vec::new(), 0);
    for batch in &Batches::in_order(total, batch)? {
        let images = &mut images[..batch.len() * preprocess.image_len()];
        data.fill(batch, &preprocess, None, images, &threads)?;
        runtime.run(images, output, &mut rows)?;
        done += batch.len();
        if !observe(Progress { done, total }) {
            return Err(Error::new(Kind::Cancelled, "stopped by the caller"));
        }
    }
    let width = rows.len() / total.max(1);
    Array2::from_shape_vec((total, width), rows)
        .map_err(|_| Error::internal("every row has the same width"))
}

/// An engine for predictions, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Our own, on the device of the [`Engine`] that is given with it.
    Own,
    /// tract, on one thread of the processor.
    Tract,
    /// ONNX Runtime; needs the feature `ort`.
    Ort(OrtSettings),
}

/// Which ONNX Runtime, and on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrtSettings {
    /// The library: a path, or a name that the system's loader knows. A process opens one.
    pub library: PathBuf,
    /// What computes; the processor without it.
    pub provider: Option<Provider>,
}

/// An execution provider of ONNX Runtime, with its options: `cuda:device_id=1,use_tf32=0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name, such as `cuda`.
    pub name: String,
    /// Its options, with their values.
    pub options: Vec<(String, String)>,
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let option = |option: &str| {
            let (key, value) = option.split_once('=').filter(|(key, _)| !key.is_empty())?;
            Some((key.to_string(), value.to_string()))
        };
        let options = options.split(',').filter(|option| !option.is_empty()).map(option);
        let options: Option<Vec<_>> = options.collect();
        match options.filter(|_| !name.is_empty() && !text.contains('\0')) {
            Some(options) => Ok(Provider { name: name.to_lowercase(), options }),
            None => Err(Error::invalid(format!("'{text}' is no provider"))
                .hint("expected a name, or a name with options: cuda:device_id=1,use_tf32=0")),
        }
    }
}

/// The names of the execution providers that an ONNX Runtime library has and that can be asked
/// for; the processor is always there.
///
/// # Errors
/// When the library cannot be opened, or this build has no ONNX Runtime.
pub fn ort_providers(library: &Path) -> Result<Vec<&'static str>> {
    #[cfg(feature = "ort")]
    return onnxruntime::providers(library);
    #[cfg(not(feature = "ort"))]
    Err(no_ort(library))
}

/// The outputs of the untouched file as ONNX Runtime computes them on the processor.
///
/// # Errors
/// When the library cannot be opened or cannot run the file, the inputs do not fit it, or this
/// build has no ONNX Runtime.
pub fn ort_reference(library: &Path, model: &Model, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    #[cfg(feature = "ort")]
    return onnxruntime::reference(library, model, inputs);
    #[cfg(not(feature = "ort"))]
    {
        let _ = (model, inputs);
        Err(no_ort(library))
    }
}

#[cfg(not(feature = "ort"))]
fn no_ort(library: &Path) -> Error {
    let message = format!("this build does not open ONNX Runtime ({})", library.display());
    Error::unsupported(message).hint("build it with the feature `ort`")
}

impl Posterior {
    /// Opens an engine for this posterior, with the weights of its first draw.
    ///
    /// # Errors
    /// When the engine is not there, or cannot take the network.
    pub fn open(
        &self,
        choice: &RuntimeChoice,
        engine: impl Into<Engine>,
    ) -> Result<Box<dyn Runtime>> {
        let engine = engine.into();
        match choice {
            RuntimeChoice::Own => {
                let mut network = self.network(engine)?;
                network.set_weights(&self.draws[0])?;
                Ok(Box::new(network))
            }
            RuntimeChoice::Tract => {
                let frame = self.frame(Arc::clone(engine.threads()));
                Ok(Box::new(tract::Tract::new(self.foreign()?, frame)?))
            }
            #[cfg(feature = "ort")]
            RuntimeChoice::Ort(settings) => {
                let frame = self.frame(Arc::clone(engine.threads()));
                Ok(Box::new(onnxruntime::Ort::new(self.foreign()?, frame, settings)?))
            }
            #[cfg(not(feature = "ort"))]
            RuntimeChoice::Ort(settings) => Err(no_ort(&settings.library)),
        }
    }

    /// The same, predicting with `runtime` and not with the engine that predictions are asked for
    /// on, of which they take the threads alone. One prediction runs at a time: a callback must
    /// not ask for another.
    pub fn with_runtime(mut self, runtime: Box<dyn Runtime>) -> Self {
        self.runtime = Some(Mutex::new(runtime));
        self
    }

    /// What it predicts with, if it is not our own engine.
    pub fn runtime_name(&self) -> Option<String> {
        let runtime = self.runtime.as_ref()?;
        Some(runtime.lock().unwrap_or_else(PoisonError::into_inner).name())
    }

    fn frame(&self, threads: Arc<Threads>) -> Frame {
        Frame {
            preprocess: self.description.preprocess.clone(),
            task: Some(self.task()),
            forward_batch: self.forward_batch,
            threads,
        }
    }

    /// What predicts: the runtime that was set, or else our own engine.
    pub(super) fn predictor(&self, engine: impl Into<Engine>) -> Result<Predictor<'_>> {
        let engine = engine.into();
        let Some(runtime) = &self.runtime else {
            return Ok(Predictor::Own(Box::new(self.network(engine)?)));
        };
        let mut runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner);
        // Noise and calibration may have been set since it was opened.
        *runtime.frame_mut() = self.frame(Arc::clone(engine.threads()));
        Ok(Predictor::Lent(runtime))
    }
}

/// A runtime for the time of one prediction.
pub(super) enum Predictor<'a> {
    Own(Box<Network>),
    Lent(MutexGuard<'a, Box<dyn Runtime>>),
}

impl Deref for Predictor<'_> {
    type Target = dyn Runtime;

    fn deref(&self) -> &Self::Target {
        match self {
            Predictor::Own(network) => &**network,
            Predictor::Lent(runtime) => &***runtime,
        }
    }
}

impl DerefMut for Predictor<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Predictor::Own(network) => &mut **network,
            Predictor::Lent(runtime) => &mut ***runtime,
        }
    }
}

#[cfg(test)]
mod tests;
