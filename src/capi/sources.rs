//! What an adaptation is made from beside data: a machine, a backbone, a prior.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ErrorHandle, Failure, Status};
use super::guard::{answer, make};
use super::handles::{self, Held};
use super::memory::{path, text, write_text};
use super::options;
use crate::backend::{Choice, Engine};
use crate::onnx::{Model, Port};
use crate::prior::Prior;
use crate::threads::Threads;

/// Where work is done: threads of the processor, and perhaps a GPU.
pub struct EngineHandle {
    _private: [u8; 0],
}

/// A backbone, as its ONNX file has it.
pub struct ModelHandle {
    _private: [u8; 0],
}

/// A Gaussian over a backbone's weights.
pub struct PriorHandle {
    _private: [u8; 0],
}

impl Held for Engine {
    type Handle = EngineHandle;
    const KIND: &'static str = "engine";
}

impl Held for Model {
    type Handle = ModelHandle;
    const KIND: &'static str = "model";
}

impl Held for Prior {
    type Handle = PriorHandle;
    const KIND: &'static str = "prior";
}

/// Opens an engine. `device` is "auto" (the first hardware GPU, or else the processor), "cpu",
/// "gpu" (one in software too), or a part of a GPU's name; `threads` is how many of the processor
/// to use, or 0 for all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_engine_open(
    device: *const c_char,
    threads: u32,
    engine: Option<&mut MaybeUninit<*mut EngineHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    make(("engine", engine), error, || {
        // SAFETY: the caller's promise.
        let device = unsafe { text("device", device) }?;
        let threads = match threads {
            0 => Threads::available(),
            count => Threads::new(count as usize),
        };
        let Ok(choice) = device.parse::<Choice>();
        Ok(Engine::choose(&choice, Arc::new(threads))?)
    })
}

/// Frees an engine; work that uses it finishes with it. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_engine_free(
    engine: *mut EngineHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || handles::free::<Engine>("engine", engine))
}

/// Loads a backbone from an ONNX file, with the external data beside it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_model_load(
    file: *const c_char,
    model: Option<&mut MaybeUninit<*mut ModelHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    make(("model", model), error, || {
        // SAFETY: the caller's promise.
        let file = unsafe { path("file", file) }?;
        Ok(Model::load(file)?)
    })
}

/// What is in a backbone, as JSON: inputs, outputs, numbers of parameters, operators, notes, and
/// the fingerprint of its weights. See the head of this file for `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_model_describe(
    model: *const ModelHandle,
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let model = handles::get::<Model>("model", model)?;
        let ports = |ports: &[Port]| ports.iter().map(port).collect::<Value>();
        let description = json!({
            "inputs": ports(model.inputs()),
            "outputs": ports(model.outputs()),
            "parameters": model.params().len(),
            "trainable": model.params().iter().filter(|param| param.is_trainable()).count(),
            "operators": model.ops(),
            "notes": model.notes(),
            "fingerprint": model.fingerprint(),
        });
        // SAFETY: the caller's promise.
        unsafe { write_text(&description.to_string(), (buffer, capacity), length) }
    })
}

fn port(port: &Port) -> Value {
    let dims = port.dims.as_ref();
    json!({
        "name": port.name,
        "dims": dims.map(|dims| dims.iter().map(|dim| dim.fixed()).collect::<Vec<_>>()),
        "dtype": port.dtype,
    })
}

/// Frees a backbone; work that uses it finishes with it. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_model_free(
    model: *mut ModelHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || handles::free::<Model>("model", model))
}

/// Loads a prior from the file that `priorfit prior` wrote.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_prior_load(
    file: *const c_char,
    prior: Option<&mut MaybeUninit<*mut PriorHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    make(("prior", prior), error, || {
        // SAFETY: the caller's promise.
        let file = unsafe { path("file", file) }?;
        Ok(Prior::load(file)?)
    })
}

/// What is known of a prior besides its numbers, as JSON. See the head of this file for `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_prior_describe(
    prior: *const PriorHandle,
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let prior = handles::get::<Prior>("prior", prior)?;
        let description = json!({
            "header": prior.header(),
            "parameters": prior.parameters().len(),
            "rank": prior.rank(),
            "dimension": prior.dimension(),
        });
        // SAFETY: the caller's promise.
        unsafe { write_text(&description.to_string(), (buffer, capacity), length) }
    })
}

/// Frees a prior; work that uses it finishes with it. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_prior_free(
    prior: *mut PriorHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || handles::free::<Prior>("prior", prior))
}

/// All options of an adaptation with their defaults, as JSON; the options of priorfit_adaptation
/// have the same form. See the head of this file for `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_default_options(
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let defaults = options::defaults().map_err(Failure::from)?;
        // SAFETY: the caller's promise.
        unsafe { write_text(&defaults, (buffer, capacity), length) }
    })
}
