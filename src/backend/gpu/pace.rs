//! Pace: how much work goes to the device at a time.
//!
//! A submission that runs for long starves the host's own drawing and, past a second or two, has
//! the operating system reset the device. So work is cut into submissions that fit a budget, with
//! no more than two waiting; how much fits is learned from how long they take. A submission ends
//! anywhere between two launches, those of one dispatch included, and a launch that is too much by
//! itself is made in parts: no workgroup depends on another, so it does not matter which run when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::context::Context;
use super::launch::exact;
use crate::error::Result;
use crate::graph::Stage;

/// Units of work a second that any GPU can be trusted with; see [`Pace::fits`].
const FIRST_RATE: f64 = 2e10;
/// Shorter times measure the overhead of a submission rather than its work, and parts of a launch
/// are not made shorter.
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
    /// Most workgroups along a dimension.
    row: u32,
    waiting: VecDeque<Submission>,
    last_end: Option<Instant>,
}

/// What there is to know of a launch. Work is counted in floating-point operations, and eight for
/// each element that is bound.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub stage: Stage,
    pub work: f64,
    pub workgroups: usize,
}

/// How far a plan has come: the launches before this one are made, and so many of its workgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub launch: usize,
    pub workgroup: usize,
}

/// What a submission makes, and how much work that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Portion {
    pub from: Reached,
    pub to: Reached,
    pub work: f64,
}

struct Submission {
    index: wgpu::SubmissionIndex,
    work: f64,
    start: Instant,
}

impl Pace {
    /// Submissions of about `budget`, after each of which the device is left alone so long that it
    /// works the share `duty` of the time, and which has at most `row` workgroups along a
    /// dimension.
    pub(super) fn new(budget: Duration, duty: f64, row: u32) -> Self {
        let waiting = VecDeque::new();
        Pace { budget, duty, rate: FIRST_RATE, row, waiting, last_end: None }
    }

    /// The submission that begins at `from`, of launches that `load` tells of; `by_stage` ends it
    /// with its stage at the latest.
    pub(super) fn portion(
        &self,
        from: Reached,
        by_stage: bool,
        load: impl Fn(usize) -> Option<Load>,
    ) -> Portion {
        let room = self.rate * self.budget.as_secs_f64();
        let stage = load(from.launch).map(|load| load.stage);
        let (mut to, mut work) = (from, 0.0);
        while let Some(load) = load(to.launch).filter(|l| !by_stage || Some(l.stage) == stage) {
            let rest = load.workgroups.saturating_sub(to.workgroup);
            let each = load.work / load.workgroups.max(1) as f64;
            if work + each * rest as f64 <= room {
                work += each * rest as f64;
                to = Reached { launch: to.launch + 1, workgroup: 0 };
                continue;
            }
            if to == from {
                let part = self.part(each).min(rest);
                work = each * part as f64;
                to = match part == rest {
                    true => Reached { launch: to.launch + 1, workgroup: 0 },
                    false => Reached { workgroup: to.workgroup + part, ..to },
                };
            }
            break;
        }
        Portion { from, to, work }
    }

    /// How many workgroups of work `each` are a part of a launch: what fits the budget, as long as
    /// it can be measured, and fills a grid.
    fn part(&self, each: f64) -> usize {
        let room = self.rate * self.budget.max(TIME_MIN).as_secs_f64();
        exact((room / each) as usize, self.row).max(1)
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
        self.learn(first.work, time);
        if self.duty < 1.0 {
            std::thread::sleep(time.mul_f64(1.0 / self.duty - 1.0));
        }
        Ok(())
    }

    /// Takes in that `work` took `time`.
    fn learn(&mut self, work: f64, time: Duration) {
        let measured = work / time.max(TIME_MIN).as_secs_f64();
        // What ended sooner than can be measured shows no more than that the rate is not lower.
        if time >= TIME_MIN || measured > self.rate {
            let bounded = measured.clamp(self.rate / CHANGE_MAX, self.rate * CHANGE_MAX);
            self.rate = 0.5 * (self.rate + bounded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: u32 = 1000;

    fn pace() -> Pace {
        Pace::new(Duration::from_millis(50), 1.0, ROW)
    }

    /// All portions of launches of so much work and so many workgroups.
    fn portions(pace: &Pace, launches: &[(f64, usize)], by_stage: bool) -> Vec<Portion> {
        let load = |at: usize| {
            let stage = if at < 2 { Stage::Forward } else { Stage::Backward };
            launches.get(at).map(|&(work, workgroups)| Load { stage, work, workgroups })
        };
        let mut portions = Vec::new();
        let mut from = Reached::default();
        while from.launch < launches.len() {
            let portion = pace.portion(from, by_stage, load);
            assert_eq!(portion.from, from);
            assert_ne!(portion.to, from, "every submission does something");
            from = portion.to;
            portions.push(portion);
        }
        portions
    }

    #[test]
    fn submissions_end_between_launches_or_within_one_that_is_too_much() {
        let pace = pace();
        let room = FIRST_RATE * 0.05;
        let at = |launch, workgroup| Reached { launch, workgroup };
        let ends = |launches: &[(f64, usize)], by_stage| {
            let portions = portions(&pace, launches, by_stage);
            assert!(portions.iter().all(|p| p.work <= room), "{portions:?}");
            portions.iter().map(|p| p.to).collect::<Vec<_>>()
        };
        let small = (0.4 * room, 7);
        assert_eq!(ends(&[small; 4], false), [at(2, 0), at(4, 0)]);
        assert_eq!(ends(&[small, small, (0.1 * room, 7)], true), [at(2, 0), at(3, 0)]);
        // Its rest goes with what follows, and what waits before it does not grow.
        let large = (2.5 * room, 100);
        let expected = [at(1, 0), at(1, 40), at(1, 80), at(3, 0)];
        assert_eq!(ends(&[small, large, small], false), expected);
        assert_eq!(ends(&[large, (0.0, 0)], false), [at(0, 40), at(0, 80), at(2, 0)]);
    }

    #[test]
    fn parts_of_launches_make_every_workgroup_once() {
        let room = FIRST_RATE * 0.05;
        for (work, workgroups) in [(1.0, 3), (9.7, 1_234_567), (300.0, 7), (5.0, 100_001)] {
            let portions = portions(&pace(), &[(work * room, workgroups)], false);
            let (last, parts) = portions.split_last().expect("a portion");
            for part in parts {
                let count = part.to.workgroup - part.from.workgroup;
                let [x, y, _] = crate::backend::gpu::launch::grid(count, ROW);
                assert_eq!((x * y) as usize, count, "no workgroup of the next part");
            }
            assert_eq!(last.to, Reached { launch: 1, workgroup: 0 });
            let total: f64 = portions.iter().map(|portion| portion.work).sum();
            assert!((total / room - work).abs() < 1e-9 * work, "{total}");
        }
    }

    #[test]
    fn the_rate_follows_devices_that_are_too_fast_to_measure_and_slow_ones() {
        let mut pace = pace();
        // A device of 30 Tflop/s: submissions grow until they fill most of the budget.
        for _ in 0..100 {
            let work = pace.rate * pace.budget.as_secs_f64();
            pace.learn(work, Duration::from_secs_f64(work / 3e13));
        }
        assert!((pace.rate / 3e13 - 1.0).abs() < 0.01, "{:.1e}", pace.rate);
        // What is short because there was no more to do says nothing.
        let rate = pace.rate;
        pace.learn(1e6, Duration::from_micros(100));
        assert_eq!(pace.rate, rate);
        for _ in 0..100 {
            pace.learn(1e9, Duration::from_secs(1));
        }
        assert!((pace.rate / 1e9 - 1.0).abs() < 0.01, "{:.1e}", pace.rate);
    }
}
