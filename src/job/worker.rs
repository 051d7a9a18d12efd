//! The threads of a job: the one that computes, and one each for what the host lends it, so that a
//! callback that panics or never returns holds up nothing.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::budget::Budget;
use super::clock::Clock;
use super::host::{Conditions, Hold, Host, share};
use super::shared::{Handle, Shared, Snapshot, State, Status, StopReason};
use crate::adapt::{Adapted, Adapter, Control, Phase, Progress};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::threads::Threads;

/// How often the host is asked for its conditions.
const ASKED: Duration = Duration::from_millis(200);
/// How long a job that waits sleeps before it looks at its clock again.
const LOOK: Duration = Duration::from_millis(50);
/// Rests are saved up to this length: the system cannot sleep much shorter.
const REST_MIN: Duration = Duration::from_millis(5);

/// The computation itself.
pub(super) struct Work {
    pub(super) adapter: Adapter,
    pub(super) train: Dataset,
    pub(super) validation: Option<Dataset>,
    pub(super) budget: Budget,
    /// Time between checkpoints.
    pub(super) every: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl Work {
    /// Starts the thread that computes.
    pub(super) fn spawn(self, shared: &Arc<Shared>) -> Result<()> {
        let own = Arc::clone(shared);
        spawn("priorfit-job", move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.run(&own)));
            own.end(outcome.unwrap_or_else(|panic| {
                Err(Error::internal(format!("the job panicked: {}", panic_message(&*panic))))
            }));
        })
    }

    fn run(self, shared: &Shared) -> Result<Adapted> {
        let Work { adapter, train, validation, budget, every, clock } = self;
        budget.priority.apply();
        let count = budget.threads.unwrap_or(adapter.engine().threads().count());
        // A pool of its own: the host's is not slowed down, and its priority is left alone.
        let threads = Threads::with_start(count, move || budget.priority.apply());
        let adapter = adapter.with_threads(Arc::new(threads));
        let mut pace = Pace::new(shared, budget, every, clock);
        adapter.fit(&train, validation.as_ref(), &mut |progress| pace.after_step(progress))
    }
}

/// Decides after each step when the next may begin.
pub(super) struct Pace<'a> {
    shared: &'a Shared,
    budget: Budget,
    clock: Arc<dyn Clock>,
    started: Duration,
    /// When the last step began.
    resumed: Duration,
    /// Rest that the duty cycle asks for and that was not taken yet.
    owed: Duration,
    /// Time between checkpoints, and when the last was asked for.
    every: Duration,
    kept: Duration,
}

impl<'a> Pace<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        budget: Budget,
        every: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (started, owed) = (clock.now(), Duration::ZERO);
        Pace { shared, budget, clock, started, resumed: started, owed, every, kept: started }
    }

    pub(super) fn after_step(&mut self, progress: Progress) -> Control {
        self.shared.change(|state| state.set_progress(progress));
        let now = self.clock.now();
        self.owe(now.saturating_sub(self.resumed));
        let rested = now + if self.owed < REST_MIN { Duration::ZERO } else { self.owed };
        let control = self.wait(rested);
        self.resumed = self.clock.now();
        if rested > now {
            self.owed = Duration::ZERO;
        }
        let is_due = self.resumed.saturating_sub(self.kept) >= self.every;
        if control == Control::Continue && progress.phase == Phase::Train && is_due {
            self.kept = self.resumed;
            return Control::Checkpoint;
        }
        control
    }

    /// Adds the rest that a step of this length asks for.
    fn owe(&mut self, spent: Duration) {
        let state = self.shared.lock();
        if let (false, Ok(share)) = (state.is_regardless, share(&state.conditions, &self.budget)) {
            self.owed += spent.mul_f32((1.0 - share) / share);
        }
    }

    /// Waits until the time is `rested` and nothing holds the job, or it is to stop.
    fn wait(&self, rested: Duration) -> Control {
        loop {
            let now = self.clock.now();
            let is_late = |limit| now.saturating_sub(self.started) >= limit;
            if self.budget.wall_time.is_some_and(is_late) {
                self.shared.stop(StopReason::WallTime);
            }
            let state = self.shared.lock();
            if state.is_stopping() {
                return Control::Stop;
            }
            let hold = self.hold(&state);
            let status = hold.map_or(Status::Running, Status::Held);
            if state.status() != status {
                drop(state);
                self.tell(status);
                continue;
            }
            let left = rested.saturating_sub(now);
            if hold.is_none() && (left.is_zero() || state.is_regardless) {
                return Control::Continue;
            }
            let nap = if hold.is_some() { LOOK } else { left.min(LOOK) };
            drop(self.shared.wait(state, nap));
        }
    }

    /// Tells what the job is at, unless it is to stop.
    fn tell(&self, status: Status) {
        self.shared.change(|state| {
            if !state.is_stopping() {
                state.set_status(status);
            }
        });
    }

    /// What keeps the job from its next step.
    fn hold(&self, state: &State) -> Option<Hold> {
        match (state.is_paused, state.is_regardless) {
            (true, _) => Some(Hold::Paused),
            (false, true) => None,
            (false, false) => share(&state.conditions, &self.budget).err(),
        }
    }
}

/// Starts the thread that calls `tell` with the newest snapshot whenever there is one.
pub(super) fn report(
    shared: &Arc<Shared>,
    mut tell: Box<dyn FnMut(Snapshot) + Send>,
) -> Result<()> {
    let updates = Handle(Arc::clone(shared)).updates();
    let shared = Arc::clone(shared);
    spawn("priorfit-progress", move || {
        for snapshot in updates {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(snapshot))) {
                let why = panic_message(&*panic);
                shared.warn(&format!(
                    "the progress callback panicked and is not called again: {why}"
                ));
                return;
            }
        }
    })
}

/// Starts the thread that asks the host how its machine is.
pub(super) fn watch(shared: &Arc<Shared>, host: Arc<dyn Host>) -> Result<()> {
    let shared = Arc::clone(shared);
    spawn("priorfit-host", move || {
        loop {
            let found = catch_unwind(AssertUnwindSafe(|| host.conditions()));
            let conditions = found.as_ref().map_or(Conditions::default(), |found| *found);
            if shared.lock().conditions != conditions {
                shared.change(|state| state.conditions = conditions);
            }
            if let Err(panic) = found {
                let why = panic_message(&*panic);
                shared.warn(&format!("the host panicked and is not asked again: {why}"));
                return;
            }
            if Handle(Arc::clone(&shared)).wait(ASKED) {
                return;
            }
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_string()).spawn(body);
    thread.map(|_| ()).map_err(|e| {
        Error::new(crate::error::Kind::Io, format!("no thread for a job: {e}")).caused_by(e)
    })
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
