//! Pace: how much work goes to the device at a time.
//!
//! A submission that runs for long starves the host's own drawing and, past a second or two, has
//! the operating system reset the device. So work is cut into submissions that fit a budget, with
//! no more than two waiting; how much fits is learned from how long they take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::context::Context;
use crate::error::Result;

/// Units of work a second that any GPU can be trusted with; see [`Pace::fits`].
const FIRST_RATE: f64 = 2e10;
/// Shorter times measure the overhead of a submission rather than its work.
const TIME_MIN: Duration = Duration::from_millis(1);
/// Most that one measurement changes the rate by.
const CHANGE_MAX: f64 = 4.0;
/// Submissions that wait at most: one runs while the next is recorded.
const WAITING_MAX: usize = 2;

/// The budget of submissions, and those that are under way.
pub(super) struct Pace {
    budget: Duration,
    duty: f64,
    /// Units of work a second.
    rate: f64,
    waiting: VecDeque<Submission>,
    last_end: Option<Instant>,
}

struct Submission {
    index: wgpu::SubmissionIndex,
    work: f64,
    start: Instant,
}

impl Pace {
    /// Submissions of about `budget`, after each of which the device is left alone so long that it
    /// works the share `duty` of the time.
    pub(super) fn new(budget: Duration, duty: f64) -> Self {
        let waiting = VecDeque::new();
        Pace { budget, duty, rate: FIRST_RATE, waiting, last_end: None }
    }

    /// Whether `work` more fits a submission that holds `held`. Work is counted in floating-point
    /// operations, and eight for each element that a launch binds.
    pub(super) fn fits(&self, held: f64, work: f64) -> bool {
        held == 0.0 || held + work <= self.rate * self.budget.as_secs_f64()
    }

    /// Takes note of a submission, and waits while more than two are under way.
    pub(super) fn submitted(
        &mut self,
        context: &Context,
        index: wgpu::SubmissionIndex,
        work: f64,
    ) -> Result<()> {
        self.waiting.push_back(Submission { index, work, start: Instant::now() });
        // With a duty cycle the device rests after each submission, so none may wait behind it.
        let most = if self.duty < 1.0 { 0 } else { WAITING_MAX - 1 };
        while self.waiting.len() > most {
            self.finish_first(context)?;
        }
        Ok(())
    }

    /// Forgets what is under way: the caller has waited for it.
    pub(super) fn settled(&mut self) {
        self.waiting.clear();
        self.last_end = None;
    }

    /// Waits for everything that is under way.
    pub(super) fn finish(&mut self, context: &Context) -> Result<()> {
        while !self.waiting.is_empty() {
            self.finish_first(context)?;
        }
        Ok(())
    }

    fn finish_first(&mut self, context: &Context) -> Result<()> {
        let Some(first) = self.waiting.pop_front() else { return Ok(()) };
        context.wait("running a step", first.index)?;
        let end = Instant::now();
        // The device began this one when it was handed over, or when it was done with the last.
        let begin = self.last_end.map_or(first.start, |last| last.max(first.start));
        let time = end.duration_since(begin);
        self.last_end = Some(end);
        if time >= TIME_MIN {
            let measured = first.work / time.as_secs_f64();
            let bounded = measured.clamp(self.rate / CHANGE_MAX, self.rate * CHANGE_MAX);
            self.rate = 0.5 * (self.rate + bounded);
        }
        if self.duty < 1.0 {
            std::thread::sleep(time.mul_f64(1.0 / self.duty - 1.0));
        }
        Ok(())
    }
}
