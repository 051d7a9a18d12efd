//! What standard error shows while a command runs: a bar on a terminal; elsewhere, in a log for
//! instance, a line every few seconds.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What is shown while a GPU's kernels are compiled and nothing else happens.
#[cfg(feature = "gpu")]
const SHADERS: &str = "shaders";

/// A handle on what is shown, for any thread.
#[derive(Clone)]
pub struct Screen(Arc<Mutex<State>>);

struct State {
    bar: ProgressBar,
    /// What the bar shows; nothing while there is none.
    activity: &'static str,
    display: Display,
}

/// Where progress goes.
#[derive(Clone, Copy)]
enum Display {
    Bar,
    /// The latest line was printed then.
    Lines(Instant),
    Nothing,
}

impl Screen {
    /// An empty screen, which stays empty unless it `shows` progress.
    pub fn new(shows: bool) -> Self {
        let display = match (shows, std::io::stderr().is_terminal()) {
            (false, _) => Display::Nothing,
            (true, true) => Display::Bar,
            (true, false) => Display::Lines(Instant::now()),
        };
        let (bar, activity) = (ProgressBar::hidden(), "");
        Screen(Arc::new(Mutex::new(State { bar, activity, display })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being shown.
    pub fn activity(&self) -> &'static str {
        self.lock().activity
    }

    /// Shows that `step` of `steps` of an activity are done.
    pub fn show(&self, activity: &'static str, step: usize, steps: usize, message: String) {
        let mut state = self.lock();
        state.show(activity, step, steps);
        state.bar.set_message(message);
        state.print_line();
    }

    /// Shows how many of a GPU's kernels are compiled: beside an activity that is under way, or
    /// where there is none.
    #[cfg(feature = "gpu")]
    pub fn shaders(&self, done: usize, total: usize) {
        let mut state = self.lock();
        match state.activity {
            SHADERS if done == total => state.clear(),
            "" if done == total => {}
            // More are asked for as plans are loaded; the time that it took so far stays.
            SHADERS => {
                state.bar.set_length(total as u64);
                state.show(SHADERS, done, total);
            }
            "" => state.show(SHADERS, done, total),
            _ => state.bar.set_message(format!("compiling shaders {done}/{total}")),
        }
        state.print_line();
    }

    /// Prints what was shown last again, where lines are printed and one is due.
    pub fn remind(&self) {
        self.lock().print_line();
    }

    /// Takes the progress off the screen.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

impl State {
    fn show(&mut self, activity: &'static str, step: usize, steps: usize) {
        if self.activity != activity || self.bar.length() != Some(steps as u64) {
            self.clear();
            self.activity = activity;
            self.bar = new_bar(activity, steps, self.display);
        }
        self.bar.set_position(step as u64);
    }

    fn clear(&mut self) {
        self.bar.finish_and_clear();
        self.activity = "";
    }

    /// Prints where there is no bar to show it, if the latest line is old enough.
    fn print_line(&mut self) {
        let Display::Lines(latest) = &mut self.display else { return };
        if self.activity.is_empty() || latest.elapsed() < LINE_INTERVAL {
            return;
        }
        *latest = Instant::now();
        let (bar, activity) = (&self.bar, self.activity);
        let [elapsed, left] = [bar.elapsed(), bar.eta()].map(|time| time.as_secs());
        let (step, steps, message) = (bar.position(), bar.length().unwrap_or(0), bar.message());
        eprintln!("{activity} {step}/{steps} {message} [{elapsed}s, {left}s left]");
    }
}

fn new_bar(activity: &'static str, steps: usize, display: Display) -> ProgressBar {
    let target = match display {
        Display::Bar => ProgressDrawTarget::stderr(),
        Display::Lines(_) | Display::Nothing => ProgressDrawTarget::hidden(),
    };
    let template = "{prefix:10} {wide_bar} {pos}/{len} {msg} [{elapsed}, {eta} left]";
    let style = ProgressStyle::with_template(template);
    ProgressBar::with_draw_target(Some(steps as u64), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_prefix(activity)
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::*;

    fn shown(screen: &Screen) -> (&'static str, u64, Option<u64>, String) {
        let state = screen.lock();
        let bar = &state.bar;
        (state.activity, bar.position(), bar.length(), bar.message())
    }

    #[test]
    fn shaders_are_shown_where_nothing_else_is_and_go_when_they_are_compiled() {
        let screen = Screen::new(false);
        screen.shaders(12, 40);
        screen.shaders(13, 60);
        assert_eq!(shown(&screen), (SHADERS, 13, Some(60), String::new()));
        screen.shaders(60, 60);
        assert_eq!(screen.activity(), "");
        // The last of them is no news.
        screen.shaders(61, 61);
        assert_eq!(screen.activity(), "");
    }

    #[test]
    fn shaders_stand_beside_an_activity_that_is_under_way() {
        let screen = Screen::new(false);
        screen.show("training", 3, 9, "loss 1".to_string());
        screen.shaders(1, 2);
        let message = "compiling shaders 1/2".to_string();
        assert_eq!(shown(&screen), ("training", 3, Some(9), message));
        screen.show("training", 4, 9, "loss 2".to_string());
        assert_eq!(shown(&screen), ("training", 4, Some(9), "loss 2".to_string()));
    }
}
