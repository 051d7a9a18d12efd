//! Adaptation in the background: a job computes on threads of its own, and its caller goes on.
//!
//! ```text
//! Job::start -> running <-> held (paused, battery, heat) -> ended -> join, or await
//!                  \____________ cancel, time is up ____________/
//! ```
//!
//! Nothing here runs on the caller's thread but the bookkeeping of a mutex. A job is watched by
//! polling ([`Handle::snapshot`]), by an iterator or future of snapshots ([`Updates`]), or by a
//! callback; it is steered through its [`Handle`], and joined by waiting or by awaiting: [`Job`] is
//! a [`Future`] for any executor. What it computes is what [`Adapter::fit`] does with as many
//! threads, bit for bit, however often it was held.
//!
//! Steps are not interrupted: pauses and cancellation count from the end of the step in hand, or of
//! the batch in hand where features are computed. Asking for them never waits for it.
//!
//! A job whose adapter keeps checkpoints ([`Adapter::with_checkpoints`]) survives its process:
//! started again with the same adapter and data and with `resume`, it goes on where the last one
//! was kept.

mod budget;
mod clock;
mod host;
mod shared;
#[cfg(test)]
mod tests;
mod worker;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use self::budget::{Budget, Priority};
pub use self::clock::{Clock, SystemClock};
pub use self::host::{Conditions, Frame, Heat, Hold, Host, Power};
use self::shared::Shared;
pub use self::shared::{Handle, Snapshot, Status, StopReason, Updates};
#[cfg(any(feature = "capi", test))]
pub(crate) use self::worker::panic_message;
use self::worker::{Work, report, watch};
use crate::adapt::{Adapted, Adapter, Settings};
use crate::data::Dataset;
use crate::error::{Error, Result};

/// Time between two checkpoints unless another is set: what a process that is killed loses at most.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// What surrounds a job; by default nothing.
#[derive(Default)]
pub struct JobOptions {
    /// What it may take.
    pub budget: Budget,
    /// Who knows how the machine is.
    pub host: Option<Arc<dyn Host>>,
    /// Time between checkpoints, if its adapter keeps any; none takes [`CHECKPOINT_EVERY`], and
    /// zero keeps one after each training step.
    pub checkpoint_every: Option<Duration>,
    /// How its budget gets time; none takes the system's clock.
    pub clock: Option<Arc<dyn Clock>>,
    /// Is called with the newest snapshot whenever there is one, on a thread of its own. One that
    /// panics is not called again, and the job goes on with a warning in its snapshots; one that
    /// never returns keeps its thread, and nothing else.
    pub on_progress: Option<Box<dyn FnMut(Snapshot) + Send>>,
}

/// An adaptation in the background.
///
/// **Dropping it cancels the job**, without waiting: its threads end after the step in hand.
/// [`Job::detach`] lets it go on alone.
#[must_use = "a job that is dropped is cancelled"]
pub struct Job {
    handle: Handle,
    is_detached: bool,
}

impl Job {
    /// Starts adapting to `train`, with `validation` predicted after each epoch if given.
    ///
    /// # Errors
    /// When a bound of the budget is out of its range, or the system has no thread. What fails
    /// later is told when the job is joined.
    pub fn start(
        adapter: Adapter,
        train: Dataset,
        validation: Option<Dataset>,
        options: JobOptions,
    ) -> Result<Self> {
        let JobOptions { budget, host, checkpoint_every, clock, on_progress } = options;
        budget.check()?;
        let adapter = capped(adapter, budget.memory)?;
        let clock = clock.unwrap_or_else(|| Arc::new(SystemClock::default()));
        let shared = Shared::new();
        // If one of the threads cannot be had, dropping this ends the others.
        let job = Job { handle: Handle(Arc::clone(&shared)), is_detached: false };
        let every = checkpoint_every.unwrap_or(CHECKPOINT_EVERY);
        Work { adapter, train, validation, budget, every, clock }.spawn(&shared)?;
        on_progress.map_or(Ok(()), |tell| report(&shared, tell))?;
        host.map_or(Ok(()), |host| watch(&shared, host))?;
        Ok(job)
    }

    /// What watches and steers it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for the end. One that was stopped gives its last good state, as
    /// [`Ending::Stopped`](crate::adapt::Ending::Stopped).
    ///
    /// # Errors
    /// Those of [`Adapter::fit`], which has nothing to give where it was stopped before the linear
    /// probe; an internal error where the job's thread panicked.
    pub fn join(self) -> Result<Adapted> {
        while !self.handle.wait(Duration::from_secs(60)) {}
        self.handle.0.lock().take_outcome().unwrap_or_else(|| Err(joined()))
    }

    /// Lets the job go on without an owner; its handles still steer it, and what it makes is lost
    /// unless its callback keeps it.
    pub fn detach(mut self) -> Handle {
        self.is_detached = true;
        self.handle.clone()
    }
}

/// Ready at the end, as [`Job::join`] is; dropping it before cancels the job.
impl Future for Job {
    type Output = Result<Adapted>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.handle.0.lock();
        if state.has_ended() {
            return Poll::Ready(state.take_outcome().unwrap_or_else(|| Err(joined())));
        }
        state.remember(context.waker());
        Poll::Pending
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_detached {
            self.handle.cancel();
        }
    }
}

#[cold]
fn joined() -> Error {
    Error::invalid("the job has been joined before")
}

/// The adapter with the lower of its own memory cap and `memory`.
fn capped(adapter: Adapter, memory: Option<u64>) -> Result<Adapter> {
    let own = adapter.settings().memory_cap;
    let memory_cap = own.into_iter().chain(memory).min();
    let settings = Settings { memory_cap, ..adapter.settings().clone() };
    adapter.with_settings(settings)
}
