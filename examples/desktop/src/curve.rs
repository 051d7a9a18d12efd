//! The curve of a run's loss.

use priorfit::adapt::{Phase, Progress};

/// Points at most; a longer curve keeps every other one.
const POINTS_MAX: usize = 4096;

/// The losses of a run, in segments without a gap.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    segments: Vec<Segment>,
    /// Steps before the last segment, and its newest step.
    before: usize,
    newest: usize,
}

/// Losses of one stretch of a run.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What the run was doing.
    pub phase: Phase,
    /// Its losses.
    pub points: Vec<Point>,
}

/// The loss of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Counts the steps of all segments.
    pub step: usize,
    /// Mean loss of the step's batch.
    pub loss: f32,
}

impl Curve {
    /// Adds a step, if it is one of training and has not been added.
    pub fn push(&mut self, progress: Progress) {
        let Progress { phase, step, loss, .. } = progress;
        let Some(loss) = loss.filter(|loss| loss.is_finite()) else { return };
        let last = self.segments.last().map(|segment| segment.phase);
        if last == Some(phase) && step == self.newest {
            return;
        }
        if last != Some(phase) || step < self.newest {
            self.before += self.newest;
            self.segments.push(Segment { phase, points: Vec::new() });
        }
        self.newest = step;
        let point = Point { step: self.before + step, loss };
        self.segments.last_mut().expect("one was pushed").points.push(point);
        if self.len() > POINTS_MAX {
            self.thin();
        }
    }

    /// Its segments, oldest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.points.len()).sum()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// All points, oldest first.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        self.segments.iter().flat_map(|segment| segment.points.iter().copied())
    }

    fn thin(&mut self) {
        for segment in &mut self.segments {
            let mut number = 0;
            segment.points.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(phase: Phase, step: usize, loss: Option<f32>) -> Progress {
        Progress { phase, step, steps: 9, loss, penalty: None }
    }

    #[test]
    fn segments_follow_each_other_without_a_gap() {
        let mut curve = Curve::default();
        curve.push(at(Phase::Features, 5, None));
        curve.push(at(Phase::Probe, 1, Some(2.0)));
        curve.push(at(Phase::Probe, 1, Some(2.0)));
        curve.push(at(Phase::Probe, 4, Some(1.0)));
        curve.push(at(Phase::Train, 1, Some(0.9)));
        curve.push(at(Phase::Train, 2, Some(f32::NAN)));
        curve.push(at(Phase::Train, 3, Some(0.5)));
        curve.push(at(Phase::Train, 1, Some(0.8)));
        let steps: Vec<Vec<usize>> = curve
            .segments()
            .iter()
            .map(|segment| segment.points.iter().map(|point| point.step).collect())
            .collect();
        assert_eq!(steps, [vec![1, 4], vec![5, 7], vec![8]]);
        assert_eq!(curve.len(), 5);
    }

    #[test]
    fn a_long_run_stays_small() {
        let mut curve = Curve::default();
        (1..=100_000).for_each(|step| curve.push(at(Phase::Train, step, Some(1.0))));
        assert!(curve.len() <= POINTS_MAX && curve.len() > POINTS_MAX / 2);
        assert_eq!(curve.points().next().map(|point| point.step), Some(1));
        assert!(curve.points().last().is_some_and(|point| point.step > 99_000));
    }
}
