//! Adapted networks: stored, loaded, and asked.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use serde_json::json;

use super::callback::{Answer, Callback, ProgressCallback, ProgressReport};
use super::dataset::DatasetHandle;
use super::error::{ErrorHandle, Failure, Status};
use super::guard::{answer, make};
use super::handles::{self, Held};
use super::memory::{buffer, path, write_text};
use super::sources::EngineHandle;
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::Error;
use crate::posterior::{ExportSettings, Part, Posterior};

/// An adapted network: draws of its weights with everything needed to predict.
pub struct PosteriorHandle {
    _private: [u8; 0],
}

impl Held for Posterior {
    type Handle = PosteriorHandle;
    const KIND: &'static str = "posterior";
}

/// Where predictions go, example after example. A buffer that is null and has length 0 is not
/// wanted; any other must have exactly the length given here.
#[repr(C)]
pub struct Predictions {
    /// Mean over the draws: probabilities, or numbers in the data's units. Its length is that of
    /// priorfit_posterior_output_len for each example.
    pub mean: *mut f32,
    /// Its length.
    pub mean_len: usize,
    /// Variance between the draws, as long as `mean`.
    pub variance: *mut f32,
    /// Its length.
    pub variance_len: usize,
    /// Entropy of each example's prediction, in nats: a number for each example.
    pub entropy: *mut f32,
    /// Its length.
    pub entropy_len: usize,
    /// The part of the entropy that the draws' disagreement has in it: a number for each example.
    pub mutual_information: *mut f32,
    /// Its length.
    pub mutual_information_len: usize,
}

/// Loads an adapted network from its folder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_posterior_load(
    folder: *const c_char,
    posterior: Option<&mut MaybeUninit<*mut PosteriorHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    make(("posterior", posterior), error, || {
        // SAFETY: the caller's promise.
        let folder = unsafe { path("folder", folder) }?;
        Ok(Posterior::load(folder)?)
    })
}

/// Writes an adapted network into a folder, which is made if it does not exist. A posterior that
/// was there before stays until the new one is complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_posterior_save(
    posterior: *const PosteriorHandle,
    folder: *const c_char,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let posterior = handles::get::<Posterior>("posterior", posterior)?;
        // SAFETY: the caller's promise.
        let folder = unsafe { path("folder", folder) }?;
        Ok(posterior.save(folder)?)
    })
}

/// Writes an adapted network as an ONNX file: the graph, names and metadata of the backbone's file,
/// with the mean of the adapted weights and the new head, for any engine that reads ONNX.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_posterior_export(
    posterior: *const PosteriorHandle,
    file: *const c_char,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let posterior = handles::get::<Posterior>("posterior", posterior)?;
        // SAFETY: the caller's promise.
        let file = unsafe { path("file", file) }?;
        let settings = ExportSettings { each: false, external_data: false };
        posterior.export(file, settings)?;
        Ok(())
    })
}

/// What is known of an adapted network besides its weights, as JSON: its task with the names of the
/// outputs, preprocessing, temperature, calibration, and how it came about. See the head of this
/// file for `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_posterior_describe(
    posterior: *const PosteriorHandle,
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let posterior = handles::get::<Posterior>("posterior", posterior)?;
        let description = json!({
            "description": posterior.description(),
            "draws": posterior.draws().len(),
        });
        // SAFETY: the caller's promise.
        unsafe { write_text(&description.to_string(), (buffer, capacity), length) }
    })
}

/// How many numbers are predicted for each example: one for each class, label or number; of masks
/// one for each class of each pixel of the network's input, [height][width][classes].
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_posterior_output_len(
    posterior: *const PosteriorHandle,
    len: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let posterior = handles::get::<Posterior>("posterior", posterior)?;
        len.ok_or_else(|| Failure::null("len"))?.write(output_len(&posterior));
        Ok(())
    })
}

fn output_len(posterior: &Posterior) -> usize {
    posterior.task().output_len(&posterior.description().preprocess)
}

/// The name of an output: of a class, a label or a number. See the head of this file for `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_posterior_output_name(
    posterior: *const PosteriorHandle,
    index: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let posterior = handles::get::<Posterior>("posterior", posterior)?;
        let names = posterior.description().task.names();
        let name = names.get(index).ok_or_else(|| {
            Error::invalid(format!("there is no output {index} among {}", names.len()))
        })?;
        // SAFETY: the caller's promise.
        unsafe { write_text(name, (buffer, capacity), length) }
    })
}

/// Predicts all examples of `dataset` on `engine` and returns when it is done. `progress` may be
/// null. Where it fails or is stopped, the buffers hold the predictions of some examples only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_posterior_predict(
    posterior: *const PosteriorHandle,
    engine: *const EngineHandle,
    dataset: *const DatasetHandle,
    predictions: Option<&Predictions>,
    progress: Option<&ProgressCallback>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    // Whatever fails from here on, the callback is released.
    // SAFETY: the caller's promise, and nobody else takes it over.
    let progress = progress.map(|progress| unsafe { Callback::new(*progress) });
    answer(error, || {
        let posterior = handles::get::<Posterior>("posterior", posterior)?;
        let engine = handles::get::<Engine>("engine", engine)?;
        let dataset = handles::get::<Dataset>("dataset", dataset)?;
        let predictions = predictions.ok_or_else(|| Failure::null("predictions"))?;
        let width = output_len(&posterior);
        // SAFETY: the caller's promise.
        let mut into = unsafe { Buffers::new(predictions, dataset.len(), width) }?;
        let mut failed = None;
        let done = posterior.predict_parts(
            &dataset,
            &*engine,
            &mut |step| {
                let report = ProgressReport::of_prediction(step.done, step.total);
                match progress.as_ref().map_or(Answer::GoOn, |callback| callback.tell(&report)) {
                    Answer::GoOn => true,
                    Answer::Stop => false,
                    Answer::Failed(code) => {
                        failed = Some(code);
                        false
                    }
                }
            },
            &mut |part| into.write(&part, width),
        );
        match failed {
            None => Ok(done?),
            Some(code) => {
                let message = format!("the progress callback failed: it answered {code}");
                Err(Failure::new(Status::Cancelled, message))
            }
        }
    })
}

/// A host's buffers, where it has them.
struct Buffers<'a> {
    mean: Option<&'a mut [f32]>,
    variance: Option<&'a mut [f32]>,
    entropy: Option<&'a mut [f32]>,
    mutual_information: Option<&'a mut [f32]>,
}

impl Buffers<'_> {
    /// # Safety
    /// As [`super`] says; the buffers are used within the call.
    unsafe fn new(into: &Predictions, examples: usize, width: usize) -> Result<Self, Failure> {
        let numbers = examples.saturating_mul(width);
        let Predictions { mean, variance, entropy, mutual_information, .. } = *into;
        let (variance, entropy) = ((variance, into.variance_len), (entropy, into.entropy_len));
        let information = (mutual_information, into.mutual_information_len);
        // SAFETY: the caller's promise, for all four.
        let (mean, variance, entropy, mutual_information) = unsafe {
            (
                buffer("mean", (mean, into.mean_len), numbers)?,
                buffer("variance", variance, numbers)?,
                buffer("entropy", entropy, examples)?,
                buffer("mutual_information", information, examples)?,
            )
        };
        Ok(Buffers { mean, variance, entropy, mutual_information })
    }

    fn write(&mut self, part: &Part, width: usize) -> crate::error::Result<()> {
        let examples = part.examples.clone();
        let numbers = examples.start * width..examples.end * width;
        let uncertain = || part.uncertainty.iter();
        let entropy = uncertain().map(|u| u.entropy as f32);
        let information = uncertain().map(|u| u.mutual_information as f32);
        fill(&mut self.mean, numbers.clone(), part.mean.iter().map(|&x| x as f32))?;
        fill(&mut self.variance, numbers, part.variance.iter().map(|&x| x as f32))?;
        fill(&mut self.entropy, examples.clone(), entropy)?;
        fill(&mut self.mutual_information, examples, information)
    }
}

fn fill(
    buffer: &mut Option<&mut [f32]>,
    range: std::ops::Range<usize>,
    values: impl Iterator<Item = f32>,
) -> crate::error::Result<()> {
    let Some(buffer) = buffer else { return Ok(()) };
    let to = buffer.get_mut(range).ok_or_else(|| Error::internal("a part is of the data"))?;
    to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
    Ok(())
}

/// Frees an adapted network; work that uses it finishes with it. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_posterior_free(
    posterior: *mut PosteriorHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || handles::free::<Posterior>("posterior", posterior))
}
