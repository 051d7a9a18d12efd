//! How long frames take, with and without a job beside them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use priorfit::job::{Conditions, Frame, Host};
use serde::Serialize;

/// Frames that are drawn without a pause when the window opens, to know how long they take.
const FIRST: usize = 50;
/// Of these the first ones, which make pipelines and textures, do not count.
const COLD: usize = 10;
/// Frames whose median is the present time of a frame.
const RECENT: usize = 9;
/// Frame times that are kept of each kind.
const KEPT: usize = 20_000;
/// What a job may make of the time that frames take without one.
const SLACK: f64 = 1.25;
/// A target below this means nothing to an eye.
const TARGET_MIN: Duration = Duration::from_micros(8_333);

/// Records the time from one frame to the next, where the next was to follow at once.
pub struct Frames {
    last: Option<Last>,
    count: usize,
    recent: VecDeque<Duration>,
    alone: VecDeque<Duration>,
    beside: VecDeque<Duration>,
    told: Arc<Told>,
}

struct Last {
    at: Duration,
    /// Whether a job was under way.
    is_beside: bool,
    /// Whether the next was to follow at once.
    is_followed: bool,
}

/// What a job's host knows.
#[derive(Default)]
struct Told(Mutex<Option<Frame>>);

impl Host for Told {
    fn conditions(&self) -> Conditions {
        let frame = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Conditions { frame, ..Conditions::default() }
    }
}

/// What was recorded of some frames, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many there were.
    pub count: usize,
    /// Half of them took less.
    pub median: f32,
    /// 95 of 100 took less.
    pub most: f32,
    /// The longest.
    pub worst: f32,
}

impl Default for Frames {
    fn default() -> Self {
        Frames {
            last: None,
            count: 0,
            recent: VecDeque::new(),
            alone: VecDeque::new(),
            beside: VecDeque::new(),
            told: Arc::new(Told::default()),
        }
    }
}

impl Frames {
    /// A frame begins `at` some moment, while a job is under way or not; gives whether the next
    /// should follow at once, as it must while something moves.
    pub fn begin(&mut self, at: Duration, is_beside: bool) -> bool {
        self.count += 1;
        let is_followed = is_beside || self.count < FIRST;
        if let Some(last) = self.last.take().filter(|last| last.is_followed) {
            let took = at.saturating_sub(last.at);
            push(&mut self.recent, took, RECENT);
            match (last.is_beside, is_beside) {
                (true, true) => push(&mut self.beside, took, KEPT),
                (false, false) if self.count > COLD => push(&mut self.alone, took, KEPT),
                _ => {}
            }
            self.tell();
        }
        self.last = Some(Last { at, is_beside, is_followed });
        is_followed
    }

    /// Tells a job's host.
    fn tell(&self) {
        let frame = Frame { took: self.recent(), target: self.target() };
        *self.told.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(frame);
    }

    /// Who knows how long frames take, for a job.
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.told) as Arc<dyn Host>
    }

    /// How long a frame takes now.
    pub fn recent(&self) -> Duration {
        quantile(&self.recent, 0.5)
    }

    /// How long one may take beside a job: a little longer than without.
    pub fn target(&self) -> Duration {
        quantile(&self.alone, 0.5).mul_f64(SLACK).max(TARGET_MIN)
    }

    /// Frames without a job beside them.
    pub fn alone(&self) -> Times {
        Times::of(&self.alone)
    }

    /// Frames with a job beside them.
    pub fn beside(&self) -> Times {
        Times::of(&self.beside)
    }
}

impl Times {
    fn of(times: &VecDeque<Duration>) -> Self {
        let at = |share| quantile(times, share).as_secs_f32() * 1e3;
        Times { count: times.len(), median: at(0.5), most: at(0.95), worst: at(1.0) }
    }
}

fn push(times: &mut VecDeque<Duration>, time: Duration, most: usize) {
    if times.len() == most {
        times.pop_front();
    }
    times.push_back(time);
}

/// The time that this share of them does not exceed; zero of none.
fn quantile(times: &VecDeque<Duration>, share: f32) -> Duration {
    let mut sorted: Vec<Duration> = times.iter().copied().collect();
    sorted.sort_unstable();
    let at = (share * sorted.len().saturating_sub(1) as f32).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Frames of this length, one after the other.
    fn draw(frames: &mut Frames, now: &mut Duration, count: usize, took: Duration, beside: bool) {
        for _ in 0..count {
            frames.begin(*now, beside);
            *now += took;
        }
    }

    #[test]
    fn frames_beside_a_job_are_told_from_others() {
        let (mut frames, mut now) = (Frames::default(), Duration::ZERO);
        draw(&mut frames, &mut now, COLD, 300 * MS, false);
        draw(&mut frames, &mut now, FIRST - COLD, 16 * MS, false);
        // Nothing moves, and the next frame comes when the user does something.
        assert!(!frames.begin(now, false));
        now += 10_000 * MS;
        assert!(frames.begin(now, true));
        draw(&mut frames, &mut now, 100, 19 * MS, true);
        now += 40 * MS;
        frames.begin(now, true);
        let (alone, beside) = (frames.alone(), frames.beside());
        assert!(alone.worst < 301.0 && alone.median == 16.0, "{alone:?}");
        assert!(beside.median == 19.0 && beside.worst == 59.0, "{beside:?}");
        assert_eq!(frames.target(), 20 * MS);
    }

    #[test]
    fn a_job_is_told_when_frames_are_late() {
        let (mut frames, mut now) = (Frames::default(), Duration::ZERO);
        let host = frames.host();
        assert_eq!(host.conditions(), Conditions::default());
        draw(&mut frames, &mut now, FIRST, 16 * MS, false);
        draw(&mut frames, &mut now, RECENT + 2, 50 * MS, true);
        let frame = host.conditions().frame.expect("a frame");
        assert_eq!(frame, Frame { took: 50 * MS, target: 20 * MS });
    }
}
