//! Progress on standard error, and Ctrl-C.
//!
//! On a terminal progress is a bar; elsewhere, in a log for instance, a line every few seconds.
//!
//! The first Ctrl-C asks the run to stop, which it does after the step in hand; the second ends the
//! process at once.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use priorfit::adapt::{Control, Phase, Progress};
use priorfit::error::{Error, Result};
use priorfit::posterior;

use crate::globals::Globals;

/// Exit status of a run that Ctrl-C ended: 128 and the number of the signal.
pub const INTERRUPTED: u8 = 130;

/// Time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows a run's progress and stops it on Ctrl-C.
pub struct Monitor {
    bar: ProgressBar,
    /// What the bar shows.
    activity: &'static str,
    interrupted: Arc<AtomicBool>,
    display: Display,
}

/// Where progress goes.
#[derive(Clone, Copy)]
enum Display {
    Bar,
    /// The latest line was printed then.
    Lines(Instant),
    Nothing,
}

impl Monitor {
    /// A monitor, at most one in a process.
    ///
    /// # Errors
    /// When Ctrl-C cannot be caught.
    pub fn new(globals: &Globals) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(INTERRUPTED));
            }
        })
        .map_err(|e| Error::internal("Ctrl-C cannot be caught").caused_by(e))?;
        let display = match (globals.shows_progress(), std::io::stderr().is_terminal()) {
            (false, _) => Display::Nothing,
            (true, true) => Display::Bar,
            (true, false) => Display::Lines(Instant::now()),
        };
        Ok(Monitor { bar: ProgressBar::hidden(), activity: "", interrupted, display })
    }

    /// Shows a step of an adaptation or a prior fit.
    pub fn observe(&mut self, progress: Progress) -> Control {
        // Validation happens between epochs: it must not reset the estimate of the time left.
        if progress.phase != Phase::Validate || self.activity != name(Phase::Train) {
            self.show(name(progress.phase), progress.step, progress.steps);
            self.bar.set_message(message(progress));
        }
        self.print_line();
        match self.is_interrupted() {
            true => Control::Stop,
            false => Control::Continue,
        }
    }

    /// Shows how many runs of several are done.
    pub fn runs(&mut self, done: usize, total: usize) {
        self.show("runs", done, total);
        self.print_line();
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
        self.bar.finish_and_clear();
        self.activity = "";
    }

    fn show(&mut self, activity: &'static str, step: usize, steps: usize) {
        if self.activity != activity || self.bar.length() != Some(steps as u64) {
            self.bar.finish_and_clear();
            self.activity = activity;
            self.bar = new_bar(activity, steps, self.display);
        }
        self.bar.set_position(step as u64);
    }

    /// Prints where there is no bar to show it, if the latest line is old enough.
    fn print_line(&mut self) {
        let Display::Lines(latest) = &mut self.display else { return };
        if latest.elapsed() < LINE_INTERVAL {
            return;
        }
        *latest = Instant::now();
        let (bar, activity) = (&self.bar, self.activity);
        let [elapsed, left] = [bar.elapsed(), bar.eta()].map(|time| time.as_secs());
        let (step, steps, message) = (bar.position(), bar.length().unwrap_or(0), bar.message());
        eprintln!("{activity} {step}/{steps} {message} [{elapsed}s, {left}s left]");
    }
}

fn new_bar(activity: &'static str, steps: usize, display: Display) -> ProgressBar {
    let target = match display {
        Display::Bar => ProgressDrawTarget::stderr(),
        Display::Lines(_) | Display::Nothing => ProgressDrawTarget::hidden(),
    };
    let template = "{prefix:10} {wide_bar} {pos}/{len} {msg} [{elapsed}, {eta} left]";
    let style = ProgressStyle::with_template(template);
    ProgressBar::with_draw_target(Some(steps as u64), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_prefix(activity)
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
