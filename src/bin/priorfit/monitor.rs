//! The progress of a run, and Ctrl-C.
//!
//! The first Ctrl-C asks the run to stop, which it does after the step in hand; the second ends the
//! process at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use priorfit::adapt::{Control, Phase, Progress};
use priorfit::error::{Error, Result};
use priorfit::job::{Handle, Job, StopReason};
use priorfit::posterior;

use crate::globals::Globals;
use crate::screen::Screen;

/// Exit status of a run that Ctrl-C ended: 128 and the number of the signal.
pub const INTERRUPTED: u8 = 130;

/// Shows a run's progress and stops it on Ctrl-C.
pub struct Monitor {
    screen: Screen,
    interrupted: Arc<AtomicBool>,
    /// What Ctrl-C cancels.
    job: Arc<OnceLock<Handle>>,
}

impl Monitor {
    /// A monitor, at most one in a process.
    ///
    /// # Errors
    /// When Ctrl-C cannot be caught.
    pub fn new(globals: &Globals) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        let job = Arc::new(OnceLock::<Handle>::new());
        let to_cancel = Arc::clone(&job);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(INTERRUPTED));
            }
            if let Some(job) = to_cancel.get() {
                job.cancel();
            }
        })
        .map_err(|e| Error::internal("Ctrl-C cannot be caught").caused_by(e))?;
        Ok(Monitor { screen: globals.screen(), interrupted, job })
    }

    /// Shows a job until it has ended, and cancels it on Ctrl-C; why it was stopped, if it was.
    pub fn follow(&mut self, job: &Job) -> Option<StopReason> {
        let handle = self.job.get_or_init(|| job.handle().clone()).clone();
        if self.is_interrupted() {
            handle.cancel();
        }
        let mut stopped_by = None;
        for snapshot in handle.updates() {
            snapshot.progress.map(|progress| self.observe(progress));
            stopped_by = snapshot.stopped_by;
        }
        self.finish();
        stopped_by
    }

    /// Shows a step of an adaptation or a prior fit.
    pub fn observe(&mut self, progress: Progress) -> Control {
        // Validation happens between epochs: it must not reset the estimate of the time left.
        let Progress { phase, step, steps, .. } = progress;
        match phase == Phase::Validate && self.screen.activity() == name(Phase::Train) {
            true => self.screen.remind(),
            false => self.screen.show(name(phase), step, steps, message(progress)),
        }
        match self.is_interrupted() {
            true => Control::Stop,
            false => Control::Continue,
        }
    }

    /// Shows how many runs of several are done.
    pub fn runs(&mut self, done: usize, total: usize) {
        self.screen.show("runs", done, total, String::new());
    }

    /// Whether the user has asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Shows examples being predicted, by each draw; false when it should stop.
    pub fn predicting(&mut self, progress: posterior::Progress) -> bool {
        let posterior::Progress { done: step, total: steps } = progress;
        let phase = Phase::Validate;
        self.observe(Progress { phase, step, steps, loss: None, penalty: None })
            == Control::Continue
    }

    /// Takes the progress off the screen.
    pub fn finish(&mut self) {
        self.screen.clear();
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Features => "features",
        Phase::Probe => "probe",
        Phase::Train => "training",
        Phase::Validate => "predicting",
    }
}

fn message(progress: Progress) -> String {
    let loss = progress.loss.map(|loss| format!("loss {loss:.4}"));
    let penalty = progress.penalty.map(|penalty| format!("penalty {penalty:.4}"));
    [loss, penalty].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
