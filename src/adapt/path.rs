//! The stages of a run: how strong the prior is, and the learning rate, at each step.
//!
//! A prior loosens from stage to stage, and each stage goes on where the one before it ended. So
//! one run visits a whole range of strengths, and a run to any of them is the beginning of it.

use crate::update::Schedule;

/// A sequence of stages.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    /// What multiplies the prior's covariance in each stage.
    scales: Vec<f64>,
    /// Steps of each stage.
    steps: Vec<usize>,
    /// The first stages, which keep the base rate; the others follow the schedule.
    unscheduled: usize,
    schedule: Schedule,
}

impl Path {
    /// `steps` in all, spread evenly over stages with these scales; each follows `schedule`. Where
    /// there are fewer steps than stages, the last ones are left out.
    pub(super) fn new(scales: Vec<f64>, steps: usize, schedule: Schedule) -> Self {
        let stages = scales.len();
        let end = |stage: usize| (steps * stage).div_ceil(stages.max(1));
        let lengths = (0..stages).map(|stage| end(stage + 1) - end(stage));
        let lengths: Vec<usize> = lengths.take(steps).collect();
        Path { scales, steps: lengths, unscheduled: 0, schedule }.until(steps)
    }

    /// `burn_in` steps at the base rate, then `steps` along `schedule`, all at scale 1.
    pub(super) fn after_burn_in(burn_in: usize, steps: usize, schedule: Schedule) -> Self {
        Path { scales: vec![1.0; 2], steps: vec![burn_in, steps], unscheduled: 1, schedule }
    }

    /// The first `stages` of it.
    pub(super) fn until(&self, stages: usize) -> Self {
        let (mut scales, mut steps) = (self.scales.clone(), self.steps.clone());
        scales.truncate(stages);
        steps.truncate(stages);
        Path { scales, steps, ..*self }
    }

    /// Number of stages.
    pub(super) fn stages(&self) -> usize {
        self.scales.len()
    }

    /// What multiplies the prior's covariance in `stage`.
    pub(super) fn scale_of(&self, stage: usize) -> f64 {
        self.scales[stage]
    }

    /// Steps of all stages.
    pub(super) fn steps(&self) -> usize {
        self.steps.iter().sum()
    }

    /// The stage of `step`, and where in it that is.
    fn at(&self, step: usize) -> (usize, usize) {
        let mut left = step;
        for (stage, &steps) in self.steps.iter().enumerate() {
            if left < steps {
                return (stage, left);
            }
            left -= steps;
        }
        (self.steps.len().saturating_sub(1), left)
    }

    /// What multiplies the prior's covariance at `step`.
    pub(super) fn scale(&self, step: usize) -> f64 {
        self.scales.get(self.at(step).0).copied().unwrap_or(1.0)
    }

    /// The share of the base learning rate at `step`.
    pub(super) fn rate(&self, step: usize) -> f32 {
        let (stage, within) = self.at(step);
        match stage < self.unscheduled {
            true => 1.0,
            false => self.schedule.factor(within, self.steps.get(stage).copied().unwrap_or(0)),
        }
    }

    /// Whether a sampler adds no noise at `step`.
    pub(super) fn explores(&self, step: usize) -> bool {
        let (stage, within) = self.at(step);
        self.schedule.explores(within, self.steps.get(stage).copied().unwrap_or(0))
    }

    /// The stage that ends with `step`, if one does.
    pub(super) fn ended(&self, step: usize) -> Option<usize> {
        let (stage, within) = self.at(step);
        (self.steps.get(stage) == Some(&(within + 1))).then_some(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_share_the_steps_and_each_follows_the_schedule() {
        let path = Path::new(vec![1.0, 10.0, 100.0], 10, Schedule::Cosine { warmup: 0 });
        assert_eq!((path.steps(), path.until(2).steps(), path.until(0).steps()), (10, 7, 0));
        let scales: Vec<f64> = (0..10).map(|step| path.scale(step)).collect();
        assert_eq!(scales, [1.0, 1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 100.0, 100.0, 100.0]);
        let ended: Vec<_> = (0..10).filter_map(|step| Some((step, path.ended(step)?))).collect();
        assert_eq!(ended, [(3, 0), (6, 1), (9, 2)]);
        assert_eq!([0, 4, 7].map(|step| path.rate(step)), [1.0; 3], "a warm restart");
        assert!(path.rate(9) < path.rate(7));
    }

    #[test]
    fn a_burn_in_keeps_the_base_rate_and_cycles_begin_after_it() {
        let schedule = Schedule::Cyclical { cycles: 2 };
        let path = Path::after_burn_in(3, 8, schedule);
        assert_eq!(path.steps(), 11);
        assert_eq!([0, 1, 2, 3, 7].map(|step| path.rate(step)), [1.0; 5]);
        assert!((3..11).all(|step| path.rate(step) == schedule.factor(step - 3, 8)));
        let none = Path::after_burn_in(0, 8, schedule);
        assert!((0..8).all(|step| none.rate(step) == schedule.factor(step, 8)));
    }

    #[test]
    fn a_run_shorter_than_its_stages_makes_the_first() {
        for steps in [0, 1, 2, 3] {
            let path = Path::new(vec![1.0, 10.0, 100.0], steps, Schedule::Constant);
            assert_eq!((path.steps(), path.stages()), (steps, steps));
            assert!((0..steps).all(|step| path.ended(step) == Some(step)));
        }
    }

    #[test]
    fn one_stage_is_a_plain_run() {
        let schedule = Schedule::Cosine { warmup: 2 };
        let path = Path::new(vec![3.0], 7, schedule);
        assert!((0..7).all(|s| path.rate(s) == schedule.factor(s, 7) && path.scale(s) == 3.0));
    }
}
