use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::Waker;
use std::time::Instant;

use super::*;
use crate::adapt::{Control, Ending};
use crate::data::{Preprocess, Statistics};
use crate::onnx::Model;
use crate::threads::Threads;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a caller may be kept waiting.
const PROMPT: Duration = Duration::from_millis(100);

/// An adapter of the bundled backbone that makes `steps` steps, and a few digits.
fn digits(steps: usize) -> (Adapter, Dataset) {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let model = Model::load(&demo.join("backbone.onnx")).and_then(|m| m.cut_at_features(None));
    let digits = Dataset::open(&demo.join("digits.npz")).and_then(|digits| digits.few(7, 2));
    let input =
        Preprocess::new(1, 16, 16).normalised(Statistics { mean: vec![0.31], std: vec![0.37] });
    let settings = Settings {
        prior: crate::adapt::PriorKind::Isotropic,
        steps,
        probe_steps: 5,
        batch_size: 4,
        ..Settings::fixed()
    };
    let threads = Arc::new(Threads::new(2));
    let adapter = Adapter::new(Arc::new(model.expect("the backbone")), input, threads);
    (adapter.with_settings(settings).expect("settings"), digits.expect("digits").0)
}

fn start(steps: usize, options: JobOptions) -> Job {
    let (adapter, train) = digits(steps);
    Job::start(adapter, train, None, options).expect("a job")
}

/// Waits until a snapshot is as wanted.
fn until(handle: &Handle, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    handle.updates().find(|snapshot| wanted(snapshot)).expect("it comes to that")
}

fn steps(snapshot: &Snapshot) -> usize {
    let training = snapshot.progress.filter(|p| p.phase == crate::adapt::Phase::Train);
    training.map_or(0, |progress| progress.step)
}

#[test]
fn a_job_gives_what_a_run_gives_to_the_last_bit() {
    let (adapter, train) = digits(8);
    let expected = adapter.fit(&train, None, &mut |_| Control::Continue).expect("a run");
    let budget = Budget { threads: Some(1), duty_cycle: 0.5, ..Budget::default() };
    let job = start(8, JobOptions { budget, ..JobOptions::default() });
    job.handle().pause();
    job.handle().resume();
    let adapted = job.join().expect("a result");
    assert_eq!(adapted.ending, Ending::Completed);
    assert_eq!(adapted.posterior.draws(), expected.posterior.draws());
}

#[test]
fn snapshots_count_up_and_end() {
    let (sender, receiver) = mpsc::channel();
    let on_progress = Box::new(move |snapshot| sender.send(snapshot).expect("somebody listens"));
    let job = start(5, JobOptions { on_progress: Some(on_progress), ..JobOptions::default() });
    let seen: Vec<Snapshot> = job.handle().updates().collect();
    for told in [seen, receiver.iter().collect()] {
        assert!(told.windows(2).all(|pair| pair[0].number < pair[1].number), "{told:?}");
        let last = told.last().expect("at least the end");
        assert_eq!((last.status, steps(last)), (Status::Ended, 5));
    }
    assert!(job.handle().updates().count() == 1, "the end is told to whoever asks late");
    job.join().expect("a result");
}

#[test]
fn a_paused_job_makes_no_step_until_it_is_resumed() {
    let job = start(1_000_000, JobOptions::default());
    until(job.handle(), |snapshot| steps(snapshot) > 0);
    job.handle().pause();
    let held = until(job.handle(), |snapshot| snapshot.status == Status::Held(Hold::Paused));
    assert!(!job.handle().wait(Duration::from_millis(150)));
    assert_eq!(steps(&job.handle().snapshot()), steps(&held));
    job.handle().resume();
    until(job.handle(), |snapshot| steps(snapshot) > steps(&held));
    job.handle().pause();
    job.handle().cancel();
    assert_eq!(job.join().expect("its last good state").ending, Ending::Stopped);
}

#[test]
fn cancelling_and_dropping_give_control_back_at_once() {
    for drops in [false, true] {
        let job = start(1_000_000, JobOptions::default());
        let handle = job.handle().clone();
        until(&handle, |snapshot| steps(snapshot) > 0);
        let started = Instant::now();
        if drops {
            drop(job)
        } else {
            handle.cancel()
        }
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        assert_eq!(handle.snapshot().stopped_by, Some(StopReason::Cancelled));
        assert!(handle.wait(PATIENCE), "its thread ends");
    }
    let handle = start(3, JobOptions::default()).detach();
    assert!(handle.wait(PATIENCE));
    assert_eq!(
        (steps(&handle.snapshot()), handle.snapshot().stopped_by),
        (3, None),
        "it went on alone"
    );
}

#[test]
fn a_callback_that_panics_or_never_returns_harms_nothing() {
    let panics: Box<dyn FnMut(Snapshot) + Send> = Box::new(|_| panic!("a host's mistake"));
    let job = start(1_000_000, JobOptions { on_progress: Some(panics), ..JobOptions::default() });
    let warned = until(job.handle(), |snapshot| !snapshot.warnings.is_empty());
    assert!(warned.warnings[0].contains("a host's mistake"), "{:?}", warned.warnings);
    until(job.handle(), |snapshot| steps(snapshot) > steps(&warned));
    job.handle().cancel();
    assert_eq!(job.join().expect("its last good state").ending, Ending::Stopped);

    let (wait, done) = mpsc::channel::<()>();
    let hangs = Box::new(move |_| assert!(done.recv().is_err(), "until the test is over"));
    let job = start(3, JobOptions { on_progress: Some(hangs), ..JobOptions::default() });
    assert_eq!(job.join().expect("a result").ending, Ending::Completed);
    drop(wait);

    let panics = Arc::new(|| -> Conditions { panic!("a host's mistake") });
    let job = start(1_000_000, JobOptions { host: Some(panics), ..JobOptions::default() });
    until(job.handle(), |snapshot| !snapshot.warnings.is_empty() && steps(snapshot) > 0);
    job.handle().cancel();
    assert_eq!(job.join().expect("its last good state").ending, Ending::Stopped);
}

#[test]
fn heat_holds_a_job_and_its_user_may_override_it() {
    let is_hot = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&is_hot);
    let host = move || Conditions {
        heat: flag.load(Ordering::Relaxed).then_some(Heat::Critical),
        ..Conditions::default()
    };
    let job = start(1_000_000, JobOptions { host: Some(Arc::new(host)), ..JobOptions::default() });
    let held = until(job.handle(), |snapshot| snapshot.status == Status::Held(Hold::Heat));
    job.handle().run_regardless(true);
    let on = until(job.handle(), |snapshot| snapshot.status == Status::Running);
    assert!(on.number > held.number);
    job.handle().run_regardless(false);
    until(job.handle(), |snapshot| snapshot.status == Status::Held(Hold::Heat));
    is_hot.store(false, Ordering::Relaxed);
    until(job.handle(), |snapshot| snapshot.status == Status::Running);
}

#[test]
fn a_host_that_is_not_asked_may_tell() {
    let job = start(1_000_000, JobOptions::default());
    until(job.handle(), |snapshot| snapshot.status == Status::Running);
    let battery =
        |charge| Conditions { power: Some(Power::Battery(charge)), ..Conditions::default() };
    job.handle().set_conditions(battery(0.1));
    until(job.handle(), |snapshot| snapshot.status == Status::Held(Hold::Battery));
    job.handle().run_regardless(true);
    until(job.handle(), |snapshot| snapshot.status == Status::Running);
    job.handle().run_regardless(false);
    until(job.handle(), |snapshot| snapshot.status == Status::Held(Hold::Battery));
    job.handle().set_conditions(battery(0.9));
    until(job.handle(), |snapshot| snapshot.status == Status::Running);
}

/// A clock that a second passes on whenever it is asked.
#[derive(Default)]
struct Seconds(AtomicU64);

impl Clock for Seconds {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[test]
fn a_job_stops_when_its_time_is_up() {
    let budget = Budget { wall_time: Some(Duration::from_secs(40)), ..Budget::default() };
    let clock: Option<Arc<dyn Clock>> = Some(Arc::new(Seconds::default()));
    let job = start(1_000_000, JobOptions { budget, clock, ..JobOptions::default() });
    let handle = job.handle().clone();
    assert_eq!(job.join().expect("its last good state").ending, Ending::Stopped);
    assert_eq!(handle.snapshot().stopped_by, Some(StopReason::WallTime));
}

#[test]
fn a_duty_cycle_rests_as_long_as_it_says() {
    let budget = Budget { duty_cycle: 0.25, ..Budget::default() };
    let clock: Arc<dyn Clock> = Arc::new(Seconds::default());
    let shared = Shared::new();
    shared.change(|state| state.set_status(Status::Running));
    let mut asked = Duration::ZERO;
    let mut pace = worker::Pace::new(&shared, budget, CHECKPOINT_EVERY, Arc::clone(&clock));
    for _ in 0..4 {
        let progress = crate::adapt::Progress {
            phase: crate::adapt::Phase::Train,
            step: 1,
            steps: 4,
            loss: None,
            penalty: None,
        };
        assert_eq!(pace.after_step(progress), Control::Continue);
        asked = clock.now();
    }
    // Each step takes the one second between two looks at the clock, and its rest at least three.
    assert!(asked >= Duration::from_secs(4 * (1 + 3)), "{asked:?}");
}

#[test]
fn what_fails_is_told_when_the_job_is_joined() {
    let (adapter, train) = digits(3);
    let budget = Budget { memory: Some(1000), ..Budget::default() };
    let options = JobOptions { budget, ..JobOptions::default() };
    let job = Job::start(adapter, train, None, options).expect("a job");
    let error = job.join().err().expect("too little memory").to_string();
    assert!(error.contains("the memory cap is 1000 bytes"), "{error}");
    let (adapter, train) = digits(3);
    let budget = Budget { duty_cycle: 0.0, ..Budget::default() };
    let options = JobOptions { budget, ..JobOptions::default() };
    let error = Job::start(adapter, train, None, options).err().expect("no such share");
    assert!(error.to_string().contains("the duty cycle is 0"), "{error}");
}

/// Waits for a future by parking its thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn any_executor_can_await_updates_and_the_end() {
    let mut job = start(5, JobOptions::default());
    let mut updates = job.handle().updates();
    let last = block_on(async {
        let mut last = None;
        while let Some(snapshot) = updates.next_update().await {
            last = Some(snapshot);
        }
        last
    });
    assert_eq!(last.map(|snapshot| snapshot.status), Some(Status::Ended));
    assert_eq!(block_on(&mut job).expect("a result").ending, Ending::Completed);
    assert!(block_on(job).is_err(), "a result is given once");
}
