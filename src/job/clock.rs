//! How budgets get time.
//!
//! Elsewhere the library reads no clock, so that equal inputs give equal results. A job's budgets
//! are promises about time, so it asks a [`Clock`]; what it is told decides when steps are made,
//! never what a step computes.

use std::time::{Duration, Instant};

/// Tells time.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment. It never goes back.
    fn now(&self) -> Duration;
}

/// The operating system's monotonic clock. Whether it goes on while a computer sleeps differs
/// between systems.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}
