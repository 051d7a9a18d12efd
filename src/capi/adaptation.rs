//! Adaptation, as a job in the background.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::callback::{Answer, Callback, ProgressCallback, ProgressReport, check_may_wait};
use super::dataset::DatasetHandle;
use super::error::{ErrorHandle, Failure, Status};
use super::guard::{answer, make};
use super::handles::{self, Held};
use super::memory::{optional_text, write_text};
use super::options::Options;
use super::posterior::PosteriorHandle;
use super::sources::{EngineHandle, ModelHandle, PriorHandle};
use crate::adapt::{Adapted, Adapter, Recipe};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::Error;
use crate::job::{self, Handle, Job, JobOptions, Snapshot};
use crate::onnx::Model;
use crate::prior::Prior;
use crate::task::Task;

/// An adaptation in the background.
pub struct JobHandle {
    _private: [u8; 0],
}

/// What an adaptation is made from. All handles may be freed once the job has started.
#[repr(C)]
pub struct Adaptation {
    /// Where it computes. The job's threads are its own, as many as the engine has.
    pub engine: *const EngineHandle,
    /// The backbone; a classifier at its end is cut off.
    pub model: *const ModelHandle,
    /// The prior over its weights, or null.
    pub prior: *const PriorHandle,
    /// The examples, with targets.
    pub train: *const DatasetHandle,
    /// Examples that are predicted after each epoch, or null.
    pub validation: *const DatasetHandle,
    /// Options in JSON, or null: what differs from priorfit_default_options, such as
    /// {"settings": {"steps": 100}, "budget": {"threads": 1}}. Without a prior the setting "prior"
    /// is "isotropic" unless said otherwise.
    pub options: *const c_char,
    /// Whom to tell of progress; nobody where its members are null.
    pub progress: ProgressCallback,
}

/// A job and what came of it.
struct Running {
    handle: Handle,
    /// Taken when it is joined.
    job: Mutex<Option<Job>>,
    /// What is told of the result, once it is joined.
    outcome: Mutex<Option<Value>>,
}

impl Held for Running {
    type Handle = JobHandle;
    const KIND: &'static str = "job";
}

/// Lets a callback stop the job, even one that answers before the job's handle is known.
#[derive(Default)]
struct Brake {
    handle: OnceLock<Handle>,
    is_pulled: AtomicBool,
}

impl Brake {
    fn pull(&self) {
        self.is_pulled.store(true, Ordering::SeqCst);
        if let Some(handle) = self.handle.get() {
            handle.cancel();
        }
    }

    fn attach(&self, handle: &Handle) {
        self.handle.get_or_init(|| handle.clone());
        if self.is_pulled.load(Ordering::SeqCst) {
            handle.cancel();
        }
    }
}

/// Starts an adaptation and returns. Measuring the mean and deviation of the images, if the options
/// do not give them, and checks of what belongs together come first; everything else, and what
/// fails there, is the job's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_job_start(
    adaptation: Option<&Adaptation>,
    job: Option<&mut MaybeUninit<*mut JobHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    // Whatever fails from here on, the callback is released.
    // SAFETY: the caller's promise, and nobody else takes it over.
    let progress = adaptation.map(|adaptation| unsafe { Callback::new(adaptation.progress) });
    make(("job", job), error, || {
        let (Some(adaptation), Some(progress)) = (adaptation, progress) else {
            return Err(Failure::null("adaptation"));
        };
        // SAFETY: the caller's promise.
        let options = unsafe { optional_text("options", adaptation.options) }?;
        start(adaptation, &Options::parse(options)?, progress)
    })
}

fn start(from: &Adaptation, options: &Options, progress: Callback) -> Result<Running, Failure> {
    let engine = handles::get::<Engine>("engine", from.engine)?;
    let model = handles::get::<Model>("model", from.model)?;
    let prior = handles::get_optional::<Prior>("prior", from.prior)?;
    let train = handles::get::<Dataset>("train", from.train)?;
    let validation = handles::get_optional::<Dataset>("validation", from.validation)?;
    let features = options.features.as_deref();
    let model = match Task::of(&train)?.is_dense() {
        true => model.cut_at_map(features)?,
        false => model.cut_at_features(features)?,
    };
    let settings = options.settings(prior.is_some())?;
    let budget = options.budget()?;
    let preprocess = options.input.resolve(&model, &train, engine.threads())?;
    let mut adapter = Adapter::new(Arc::new(model), preprocess, &*engine);
    if let Some(prior) = prior {
        adapter = adapter.with_prior((*prior).clone())?;
    }
    let recipe = Recipe { input: Some(options.input.clone()), ..Recipe::default() };
    let adapter = adapter.with_settings(settings)?.with_recipe(recipe);
    let brake = Arc::new(Brake::default());
    let on_progress = observer(progress, Arc::clone(&brake));
    let options = JobOptions { budget, on_progress, ..JobOptions::default() };
    let train = (*train).clone();
    let job = Job::start(adapter, train, validation.map(|data| (*data).clone()), options)?;
    let handle = job.handle().clone();
    brake.attach(&handle);
    Ok(Running { handle, job: Mutex::new(Some(job)), outcome: Mutex::new(None) })
}

/// What a job tells of its progress through the host's callback.
fn observer(callback: Callback, brake: Arc<Brake>) -> Option<Box<dyn FnMut(Snapshot) + Send>> {
    if !callback.listens() {
        return None;
    }
    Some(Box::new(move |snapshot| match callback.tell(&ProgressReport::of(&snapshot)) {
        Answer::GoOn => {}
        Answer::Stop => brake.pull(),
        // The job notes it as it notes any callback that fails, and does not call again.
        Answer::Failed(code) => {
            std::panic::resume_unwind(Box::new(format!("the host's callback answered {code}")))
        }
    }))
}

/// How a job stands now. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_poll(
    job: *const JobHandle,
    report: Option<&mut MaybeUninit<ProgressReport>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let running = handles::get::<Running>("job", job)?;
        let report = report.ok_or_else(|| Failure::null("report"))?;
        report.write(ProgressReport::of(&running.handle.snapshot()));
        Ok(())
    })
}

/// What is known of a job, as JSON: how it stands, with its warnings, and once it is joined how it
/// ended, what cross-validation found, its history and memory. See the head of this file for
/// `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_job_describe(
    job: *const JobHandle,
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let running = handles::get::<Running>("job", job)?;
        let outcome = running.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let description = json!({ "job": running.handle.snapshot(), "outcome": outcome });
        // SAFETY: the caller's promise.
        unsafe { write_text(&description.to_string(), (buffer, capacity), length) }
    })
}

/// Lets a job make no more steps after the one in hand, until it is resumed. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_pause(
    job: *const JobHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    steer(job, error, Handle::pause)
}

/// Lets a paused job go on. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_resume(
    job: *const JobHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    steer(job, error, Handle::resume)
}

/// Asks a job to stop, paused or not: it ends after the step in hand, and joining it gives its last
/// good state. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_cancel(
    job: *const JobHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    steer(job, error, Handle::cancel)
}

fn steer(
    job: *const JobHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
    how: impl FnOnce(&Handle),
) -> Status {
    answer(error, || {
        how(&handle_of(job)?);
        Ok(())
    })
}

/// What steers a job.
pub(super) fn handle_of(job: *const JobHandle) -> Result<Handle, Failure> {
    Ok(handles::get::<Running>("job", job)?.handle.clone())
}

/// Waits until a job has ended, or for so many milliseconds at most; `ended` tells which. Not in a
/// progress callback.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_wait(
    job: *const JobHandle,
    milliseconds: u32,
    ended: Option<&mut MaybeUninit<bool>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        check_may_wait()?;
        let running = handles::get::<Running>("job", job)?;
        let ended = ended.ok_or_else(|| Failure::null("ended"))?;
        ended.write(running.handle.wait(Duration::from_millis(milliseconds.into())));
        Ok(())
    })
}

/// Waits until a job has ended and gives what it made, once: the adapted network, and in `probe`,
/// unless that is null, the linear probe that training began with. One that was stopped gives its
/// last good state, or CANCELLED where it had none yet. What failed in the job fails here. The job
/// is still to be freed. Not in a progress callback.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_join(
    job: *const JobHandle,
    adapted: Option<&mut MaybeUninit<*mut PosteriorHandle>>,
    probe: Option<&mut MaybeUninit<*mut PosteriorHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        check_may_wait()?;
        let running = handles::get::<Running>("job", job)?;
        // Nothing is taken from the job before there is a place for it.
        let adapted = adapted.ok_or_else(|| Failure::null("adapted"))?;
        adapted.write(ptr::null_mut());
        while !running.handle.wait(Duration::from_secs(60)) {}
        let job = running.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        let job = job.ok_or_else(|| Error::invalid("the job has been joined before"))?;
        let result = job.join()?;
        let outcome = outcome(&result);
        *running.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        adapted.write(handles::insert(result.posterior)?);
        if let Some(probe) = probe {
            probe.write(handles::insert(result.probe)?);
        }
        Ok(())
    })
}

fn outcome(adapted: &Adapted) -> Value {
    json!({
        "ending": adapted.ending,
        "notice": adapted.notice,
        "ran_on": adapted.ran_on,
        "memory": adapted.memory,
        "choice": adapted.choice,
        "history": adapted.history,
    })
}

/// Frees a job. One that has not ended is cancelled, without waiting, and what it would have made
/// is lost; CANCELLED says so, and the job is freed all the same. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_free(
    job: *mut JobHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        if job.is_null() {
            return Ok(());
        }
        let running = handles::take::<Running>("job", job)?;
        if running.handle.snapshot().status == job::Status::Ended {
            return Ok(());
        }
        // A thread that waits for it holds it still.
        running.handle.cancel();
        let message = "the job was freed before it had ended, and is cancelled; to keep what it \
                       made, cancel it, join it, and free it then";
        Err(Failure::new(Status::Cancelled, message))
    })
}
