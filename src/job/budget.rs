//! What a job may take of its machine.

use std::time::Duration;

use thread_priority::{ThreadPriority, set_current_thread_priority};

use crate::error::{Error, Result};

/// What a job may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Threads of the processor, its own included; none takes as many as the adapter has.
    pub threads: Option<usize>,
    /// Most bytes that the backend may hold; the lower of this and
    /// [`Settings::memory_cap`](crate::adapt::Settings::memory_cap) counts.
    pub memory: Option<u64>,
    /// The share of the time that it computes, above 0 and at most 1; between steps it rests. What
    /// the host reports may shorten it, or lift it where nobody uses the machine.
    pub duty_cycle: f32,
    /// Time after which it stops as if cancelled, pauses and rests included.
    pub wall_time: Option<Duration>,
    /// How the operating system ranks its threads.
    pub priority: Priority,
}

/// How the operating system ranks a job's threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Below all others: they have the processor whenever they want it. Where the system refuses,
    /// or has no priorities of threads, the job runs with the ordinary one.
    #[default]
    Low,
    /// As the host's own.
    Ordinary,
}

impl Default for Budget {
    /// No bounds, at low priority.
    fn default() -> Self {
        Budget {
            threads: None,
            memory: None,
            duty_cycle: 1.0,
            wall_time: None,
            priority: Priority::Low,
        }
    }
}

impl Budget {
    /// Checks every bound.
    ///
    /// # Errors
    /// Names the one that is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.threads == Some(0) {
            return Err(Error::invalid("a job of 0 threads; expected at least 1"));
        }
        if !(self.duty_cycle > 0.0 && self.duty_cycle <= 1.0) {
            let message = format!("the duty cycle is {}", self.duty_cycle);
            return Err(Error::invalid(message).hint("expected a share above 0 and at most 1"));
        }
        Ok(())
    }
}

impl Priority {
    /// Gives the calling thread this priority. Threads made later by it may inherit it.
    pub(super) fn apply(self) {
        if self == Priority::Low
            && let Err(error) = set_current_thread_priority(ThreadPriority::Min)
        {
            log::info!("the priority of a job's thread stays as it was: {error:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_out_of_range_are_named() {
        let bad = |budget: Budget| budget.check().expect_err("out of range").to_string();
        assert!(bad(Budget { threads: Some(0), ..Budget::default() }).contains("0 threads"));
        for duty_cycle in [0.0, -1.0, 1.5, f32::NAN] {
            let error = bad(Budget { duty_cycle, ..Budget::default() });
            assert!(error.contains("duty cycle is"), "{error}");
        }
        Budget::default().check().expect("no bounds");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_of_low_priority_is_the_nicest() {
        let nice = std::thread::spawn(|| {
            Priority::Low.apply();
            // The fields of a thread's line, after its name in brackets; the 17th is its niceness.
            let line = std::fs::read_to_string("/proc/thread-self/stat").expect("a line");
            let (_, fields) = line.rsplit_once(')').expect("a name in brackets");
            fields.split_whitespace().nth(16).map(str::to_string)
        });
        assert_eq!(nice.join().expect("no panic").as_deref(), Some("19"));
    }
}
