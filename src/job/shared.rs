//! What a job's thread and its handles share, and how a job is watched and steered.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde::Serialize;

use super::host::{Conditions, Hold};
use crate::adapt::{Adapted, Progress};
use crate::error::Result;

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Making ready, or making steps; between them it may rest, as its duty cycle asks.
    Running,
    /// Making no steps for the time being.
    Held(Hold),
    /// Was asked to stop, and ends after the step in hand.
    Stopping,
    /// Has ended; joining it gives what it made, or why it failed.
    Ended,
}

/// Why a job stops before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It was cancelled, or its [`Job`](super::Job) dropped.
    Cancelled,
    /// Its time was up.
    WallTime,
}

/// How a job stood at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Counts the changes; a later snapshot has a larger number.
    pub number: u64,
    /// What it was at.
    pub status: Status,
    /// Why it stops, or has stopped, before its last step; none where nobody asked it to.
    pub stopped_by: Option<StopReason>,
    /// How far it had come; none before the first step.
    pub progress: Option<Progress>,
    /// What went wrong beside the job without harm to it, such as a callback that panicked.
    pub warnings: Vec<String>,
}

/// Watches and steers a job from anywhere: clones are of the same job, and outlive it.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub(super) struct State {
    snapshot: Snapshot,
    pub(super) is_paused: bool,
    /// Whether conditions and duty cycle do not count.
    pub(super) is_regardless: bool,
    pub(super) conditions: Conditions,
    outcome: Option<Result<Adapted>>,
    wakers: Vec<Waker>,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        let status = Status::Running;
        let (stopped_by, progress, warnings) = (None, None, Vec::new());
        let snapshot = Snapshot { number: 0, status, stopped_by, progress, warnings };
        Arc::new(Shared {
            state: Mutex::new(State {
                snapshot,
                is_paused: false,
                is_regardless: false,
                conditions: Conditions::default(),
                outcome: None,
                wakers: Vec::new(),
            }),
            changed: Condvar::new(),
        })
    }

    /// No code of a host runs under this lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changes, or for `time` at most.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        time: Duration,
    ) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Changes the state and tells everybody who waits.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.snapshot.number += 1;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn warn(&self, warning: &str) {
        log::warn!("{warning}");
        self.change(|state| state.snapshot.warnings.push(warning.to_string()));
    }

    /// The job is over.
    pub(super) fn end(&self, outcome: Result<Adapted>) {
        self.change(|state| {
            state.snapshot.status = Status::Ended;
            state.outcome = Some(outcome);
        });
    }

    /// Asks the job to stop, unless it was before.
    pub(super) fn stop(&self, reason: StopReason) {
        self.change(|state| {
            if !state.is_stopping() && !state.has_ended() {
                state.snapshot.stopped_by = Some(reason);
                state.snapshot.status = Status::Stopping;
            }
        });
    }
}

impl State {
    pub(super) fn has_ended(&self) -> bool {
        self.snapshot.status == Status::Ended
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.snapshot.stopped_by.is_some()
    }

    pub(super) fn status(&self) -> Status {
        self.snapshot.status
    }

    pub(super) fn set_status(&mut self, status: Status) {
        self.snapshot.status = status;
    }

    pub(super) fn set_progress(&mut self, progress: Progress) {
        self.snapshot.progress = Some(progress);
    }

    /// What the job came to, once.
    pub(super) fn take_outcome(&mut self) -> Option<Result<Adapted>> {
        self.outcome.take()
    }

    /// Remembers whom to wake at the next change.
    pub(super) fn remember(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }
}

impl Handle {
    /// How the job stands now. Never waits for it.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().snapshot.clone()
    }

    /// The snapshots from now on; see [`Updates`].
    pub fn updates(&self) -> Updates {
        Updates { shared: Arc::clone(&self.0), seen: None, has_ended: false }
    }

    /// Lets the job make no more steps after the one in hand, until it is resumed. It keeps its
    /// memory. Returns at once.
    pub fn pause(&self) {
        self.0.change(|state| state.is_paused = true);
    }

    /// Lets a paused job go on.
    pub fn resume(&self) {
        self.0.change(|state| state.is_paused = false);
    }

    /// Tells the job how the machine is now, in place of what it was told before. For a job without
    /// a [`Host`](super::Host), who is asked again and again and would say otherwise.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.0.change(|state| state.conditions = conditions);
    }

    /// The user's own will: whether the job is to go on at full speed whatever its host reports
    /// and its duty cycle says. A pause still holds it.
    pub fn run_regardless(&self, regardless: bool) {
        self.0.change(|state| state.is_regardless = regardless);
    }

    /// Asks the job to stop, paused or not. Returns at once: the step in hand is finished on the
    /// job's thread, and what it comes to is the last good state.
    pub fn cancel(&self) {
        self.0.stop(StopReason::Cancelled);
    }

    /// Waits until the job has ended, or for `time` at most; whether it has.
    pub fn wait(&self, time: Duration) -> bool {
        let state = self.0.lock();
        let going = |state: &mut State| !state.has_ended();
        let waited = self.0.changed.wait_timeout_while(state, time, going);
        waited.unwrap_or_else(PoisonError::into_inner).0.has_ended()
    }
}

/// A job's snapshots: as an iterator, which waits for each, or with [`Updates::next_update`], which
/// any executor can wait for. The first is the present one; of several since the last call only the
/// newest is given; the last has the status [`Status::Ended`].
pub struct Updates {
    shared: Arc<Shared>,
    /// Number of the snapshot that was given last.
    seen: Option<u64>,
    has_ended: bool,
}

/// How long a thread sleeps that waits for news, unless it is woken before.
const LONG: Duration = Duration::from_secs(60);

impl Updates {
    /// The next snapshot; none after the last.
    pub fn next_update(&mut self) -> impl Future<Output = Option<Snapshot>> + Send + '_ {
        NextUpdate(self)
    }

    /// The next snapshot, if there is one now.
    fn take(&mut self, state: &State) -> Option<Snapshot> {
        let snapshot = &state.snapshot;
        if self.seen == Some(snapshot.number) {
            return None;
        }
        self.seen = Some(snapshot.number);
        self.has_ended = state.has_ended();
        Some(snapshot.clone())
    }
}

impl Iterator for Updates {
    type Item = Snapshot;

    fn next(&mut self) -> Option<Snapshot> {
        if self.has_ended {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if let Some(snapshot) = self.take(&state) {
                return Some(snapshot);
            }
            state = shared.wait(state, LONG);
        }
    }
}

struct NextUpdate<'a>(&'a mut Updates);

impl Future for NextUpdate<'_> {
    type Output = Option<Snapshot>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.has_ended {
            return Poll::Ready(None);
        }
        let shared = Arc::clone(&self.0.shared);
        let mut state = shared.lock();
        match self.0.take(&state) {
            Some(snapshot) => Poll::Ready(Some(snapshot)),
            None => {
                state.remember(context.waker());
                Poll::Pending
            }
        }
    }
}
