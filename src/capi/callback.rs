//! A host's progress callback, and what it is told.

use std::cell::Cell;
use std::ffi::c_void;

use super::error::{Failure, Status};
use crate::adapt::{Phase, Progress};
use crate::job::{self, Hold, Snapshot, StopReason};

/// What a progress callback answers to go on. Any answer but this and PRIORFIT_STOP says that it
/// failed: it is not called again.
pub const PRIORFIT_GO_ON: i32 = 0;
/// What a progress callback answers to ask for a stop, after the step in hand.
pub const PRIORFIT_STOP: i32 = 1;

/// What a job is at.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum JobState {
    /// Making ready, or making steps.
    Running = 0,
    /// Held: the host paused it.
    Paused = 1,
    /// Held: little is left of the battery's charge.
    Battery = 2,
    /// Held: the machine must cool down.
    Heat = 3,
    /// Was asked to stop, and ends after the step in hand.
    Stopping = 4,
    /// Has ended: join it.
    Ended = 5,
}

/// Why a job stops before its last step.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum StopCause {
    /// It does not.
    None = 0,
    /// It was cancelled.
    Cancelled = 1,
    /// Its time was up.
    WallTime = 2,
}

/// What is being done.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum RunPhase {
    /// Nothing yet that counts.
    Preparing = 0,
    /// Computing the features of the examples; steps are examples.
    Features = 1,
    /// Training the head alone.
    Probe = 2,
    /// Training all weights.
    Train = 3,
    /// Predicting held-out examples; steps are examples.
    Validate = 4,
    /// Predicting, after training; steps are examples times draws.
    Predict = 5,
}

/// How far something has come.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProgressReport {
    /// Counts the changes; a later report has a larger number.
    pub number: u64,
    /// Steps of this phase that are done.
    pub step: u64,
    /// Steps of this phase in all.
    pub steps: u64,
    /// Mean loss of the last step's batch; not a number where there is none.
    pub loss: f32,
    /// Penalty of the prior before the last step; not a number where there is none.
    pub penalty: f32,
    /// What is being done.
    pub phase: RunPhase,
    /// What the job is at; of a prediction, that it runs.
    pub state: JobState,
    /// Why it stops early, if it does.
    pub stopped_by: StopCause,
    /// Warnings so far; priorfit_job_describe has their texts.
    pub warnings: u32,
}

/// Whom to tell of progress, or nobody where `call` is null.
///
/// A job calls from a thread of its own, never two calls at once, and always with the newest state,
/// so that a slow host misses some; a prediction calls from the thread that asked for it. `call`
/// may use any function but priorfit_job_wait and priorfit_job_join, which would wait where they
/// are told from. An exception that leaves it ends the process: catch them, and answer that it
/// failed. One that never returns keeps its thread, and nothing else.
///
/// `release`, unless it is null, is called once when `call` is not going to be called again, also
/// where the function that was given the callback fails. Only then may what `user` points to go.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProgressCallback {
    /// Is told how far it has come, and answers PRIORFIT_GO_ON or PRIORFIT_STOP.
    pub call: Option<
        unsafe extern "C-unwind" fn(report: *const ProgressReport, user: *mut c_void) -> i32,
    >,
    /// Is passed to both functions.
    pub user: *mut c_void,
    /// Is told that `user` is not needed any more.
    pub release: Option<unsafe extern "C-unwind" fn(user: *mut c_void)>,
}

thread_local! {
    /// Whether this thread is in a host's callback.
    static REPORTING: Cell<bool> = const { Cell::new(false) };
}

/// A host's callback, released when it is dropped.
pub(super) struct Callback(ProgressCallback);

// SAFETY: the header demands that both functions can be called from any thread with `user`.
unsafe impl Send for Callback {}

/// What a callback answered.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Answer {
    GoOn,
    Stop,
    Failed(i32),
}

impl Callback {
    /// Takes a callback over.
    ///
    /// # Safety
    /// What [`ProgressCallback`] says holds, and it is taken over once.
    pub(super) unsafe fn new(raw: ProgressCallback) -> Self {
        Callback(raw)
    }

    /// Whether there is anybody to tell.
    pub(super) fn listens(&self) -> bool {
        self.0.call.is_some()
    }

    /// Tells the host.
    pub(super) fn tell(&self, report: &ProgressReport) -> Answer {
        let Some(call) = self.0.call else { return Answer::GoOn };
        let outer = REPORTING.replace(true);
        // SAFETY: whoever made the callback promised that it can be called with its `user`.
        let answer = unsafe { call(report, self.0.user) };
        REPORTING.set(outer);
        match answer {
            PRIORFIT_GO_ON => Answer::GoOn,
            PRIORFIT_STOP => Answer::Stop,
            code => Answer::Failed(code),
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: as for `call`; this is the only time.
            unsafe { release(self.0.user) };
        }
    }
}

/// Refuses to wait in a callback.
pub(super) fn check_may_wait() -> Result<(), Failure> {
    match REPORTING.get() {
        false => Ok(()),
        true => Err(Failure::new(
            Status::WrongThread,
            "a progress callback must not wait for a job, which tells of its progress from this \
             thread; wait on another",
        )),
    }
}

impl ProgressReport {
    /// A job's.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let report = ProgressReport {
            number: snapshot.number,
            step: 0,
            steps: 0,
            loss: f32::NAN,
            penalty: f32::NAN,
            phase: RunPhase::Preparing,
            state: match snapshot.status {
                job::Status::Running => JobState::Running,
                job::Status::Held(Hold::Paused) => JobState::Paused,
                job::Status::Held(Hold::Battery) => JobState::Battery,
                job::Status::Held(Hold::Heat) => JobState::Heat,
                job::Status::Stopping => JobState::Stopping,
                job::Status::Ended => JobState::Ended,
            },
            stopped_by: match snapshot.stopped_by {
                None => StopCause::None,
                Some(StopReason::Cancelled) => StopCause::Cancelled,
                Some(StopReason::WallTime) => StopCause::WallTime,
            },
            warnings: u32::try_from(snapshot.warnings.len()).unwrap_or(u32::MAX),
        };
        snapshot.progress.map_or(report, |progress| report.at(progress))
    }

    /// A prediction's, when `done` of `total` is done.
    pub(super) fn of_prediction(done: usize, total: usize) -> Self {
        ProgressReport {
            number: done as u64,
            step: done as u64,
            steps: total as u64,
            loss: f32::NAN,
            penalty: f32::NAN,
            phase: RunPhase::Predict,
            state: JobState::Running,
            stopped_by: StopCause::None,
            warnings: 0,
        }
    }

    fn at(self, progress: Progress) -> Self {
        ProgressReport {
            step: progress.step as u64,
            steps: progress.steps as u64,
            loss: progress.loss.unwrap_or(f32::NAN),
            penalty: progress.penalty.unwrap_or(f32::NAN),
            phase: match progress.phase {
                Phase::Features => RunPhase::Features,
                Phase::Probe => RunPhase::Probe,
                Phase::Train => RunPhase::Train,
                Phase::Validate => RunPhase::Validate,
            },
            ..self
        }
    }
}
