//! Runs that stop, crash, or find their checkpoints damaged, and end as if nothing had happened.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use priorfit::adapt::{
    Adapted, Checkpoints, Control, Ending, Existing, Phase, PosteriorKind, PosteriorSettings,
    PriorKind, Progress, Settings,
};
use priorfit::data::Dataset;
use priorfit::error::Kind;
use priorfit::job::{Budget, Job, JobOptions, Priority};
use priorfit::threads::Threads;

use crate::adapt::{Fixture, fixture};
use crate::approximations::KINDS;
use crate::support::memory::peak_of;

/// Runs of a few epochs whose last batch is smaller; they end where their path does.
fn settings(kind: PosteriorKind) -> Settings {
    let draws = match kind {
        PosteriorKind::Map => None,
        PosteriorKind::Ensemble => Some(2),
        _ => Some(4),
    };
    let is_chain = matches!(kind, PosteriorKind::Sgld | PosteriorKind::Sghmc);
    let chains = if is_chain || kind == PosteriorKind::Swag { 2 } else { 1 };
    Settings {
        prior: PriorKind::Isotropic,
        posterior: PosteriorSettings { draws, chains, ..PosteriorSettings::of(kind) },
        clip: (!is_chain).then_some(2.0),
        gate: false,
        steps: 12,
        batch_size: 8,
        probe_steps: 50,
        seed: 5,
        ..Settings::default()
    }
}

/// What a run came to: draws, epochs, choice, in all their bits.
fn result(adapted: &Adapted) -> (Vec<u32>, String) {
    let weights = adapted.posterior.draws().iter().flat_map(|draw| draw.values());
    let bits = weights.flat_map(|w| w.iter().map(|x| x.to_bits())).collect();
    let description = adapted.posterior.description();
    (bits, serde_json::to_string(description).expect("JSON"))
}

impl Fixture {
    fn resumed(
        &self,
        data: [&Dataset; 2],
        settings: &Settings,
        folder: &Path,
        observe: &mut dyn FnMut(Progress) -> Control,
    ) -> priorfit::Result<Adapted> {
        let checkpoints = Checkpoints { path: folder.to_path_buf(), existing: Existing::Resume };
        let adapter = self.adapter(settings.clone()).with_checkpoints(checkpoints);
        adapter.fit(data[0], Some(data[1]), observe)
    }
}

fn whole(fixture: &Fixture, [train, held]: [&Dataset; 2], settings: &Settings) -> Adapted {
    let adapter = fixture.adapter(settings.clone());
    adapter.fit(train, Some(held), &mut |_| Control::Continue).expect("a run")
}

fn few(fixture: &Fixture) -> (Dataset, Dataset) {
    let (train, rest) = fixture.few(2);
    (train, rest.subset(&(0..20).collect::<Vec<_>>()).expect("a subset"))
}

/// Of every kind one, and with a gate one that ends at the average along its path, and some whose
/// draws are compared with such an average.
fn all() -> Vec<Settings> {
    let gated = [PosteriorKind::Map, PosteriorKind::Sghmc, PosteriorKind::Laplace];
    let gated = gated.map(|kind| Settings { gate: true, steps: 24, ..settings(kind) });
    KINDS.map(settings).into_iter().chain(gated).collect()
}

/// Stopped after every fifth step, in whichever phase that is made.
#[test]
fn a_run_that_is_stopped_again_and_again_ends_as_one_that_is_not() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    for settings in all() {
        let kind = settings.posterior.kind;
        let expected = result(&whole(&fixture, [&train, &held], &settings));
        let folder = tempfile::tempdir().expect("a folder");
        let mut stops = 0;
        let adapted = loop {
            let mut steps = 0;
            let mut observe = |progress: Progress| {
                steps += usize::from(progress.phase == Phase::Train);
                if steps >= 5 { Control::Stop } else { Control::Continue }
            };
            let adapted = fixture.resumed([&train, &held], &settings, folder.path(), &mut observe);
            let adapted = adapted.expect("a run");
            if adapted.ending == Ending::Completed {
                break adapted;
            }
            stops += 1;
            assert!(stops < 100, "{kind:?} gets on");
        };
        assert!(stops > 2, "{kind:?} was stopped {stops} times");
        assert!(result(&adapted) == expected, "{kind:?}");
    }
}

/// A panic of the observer takes the run with it, wherever it is.
#[test]
fn a_run_that_crashes_again_and_again_ends_as_one_that_does_not() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    for (number, settings) in all().into_iter().enumerate() {
        let kind = settings.posterior.kind;
        let expected = result(&whole(&fixture, [&train, &held], &settings));
        let folder = tempfile::tempdir().expect("a folder");
        let mut crashes = 0;
        let adapted = loop {
            // Once before training, then in its midst and in validations.
            let mut calls = 0;
            let life = if crashes == 0 { 30 } else { 3 + (7 * crashes + number) % 20 };
            let mut observe = |progress: Progress| {
                let is_late = matches!(progress.phase, Phase::Train | Phase::Validate);
                calls += usize::from(is_late || crashes == 0);
                assert!(calls < life, "a crash, in {:?}", progress.phase);
                if calls % 3 == 0 { Control::Checkpoint } else { Control::Continue }
            };
            let run = || fixture.resumed([&train, &held], &settings, folder.path(), &mut observe);
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(adapted) => break adapted.expect("a run"),
                Err(_) => crashes += 1,
            }
            assert!(crashes < 1000, "{kind:?} gets on");
        };
        assert!(crashes > 1, "{kind:?} crashed {crashes} times");
        assert!(result(&adapted) == expected, "{kind:?}, {crashes} crashes");
    }
}

/// The checkpoints of a run that was stopped after the training step `at`.
fn stopped(fixture: &Fixture, data: [&Dataset; 2], settings: &Settings, at: usize, to: &Path) {
    let mut observe = |progress: Progress| match progress.phase {
        Phase::Train if progress.step >= at => Control::Stop,
        Phase::Train => Control::Checkpoint,
        _ => Control::Continue,
    };
    let adapted = fixture.resumed(data, settings, to, &mut observe).expect("a run");
    assert_eq!(adapted.ending, Ending::Stopped);
}

#[test]
fn damaged_checkpoints_cost_steps_and_nothing_else() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    let settings = settings(PosteriorKind::Sghmc);
    let expected = result(&whole(&fixture, [&train, &held], &settings));
    let made = tempfile::tempdir().expect("a folder");
    // In the midst of the second chain, after the two draws of the first.
    stopped(&fixture, [&train, &held], &settings, 40, made.path());
    let names: Vec<_> = std::fs::read_dir(made.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    assert!(names.iter().filter(|name| name.contains("-draw-")).count() >= 2, "{names:?}");
    for damage in [
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2),
        |bytes: &mut Vec<u8>| {
            let at = bytes.len() * 2 / 3;
            bytes[at] ^= 4;
        },
    ] {
        let all = names.iter().map(|name| vec![name.clone()]).chain([names.clone()]);
        for damaged in all {
            let folder = tempfile::tempdir().expect("a folder");
            for name in &names {
                let mut bytes = std::fs::read(made.path().join(name)).expect("a file");
                if damaged.contains(name) {
                    damage(&mut bytes);
                }
                std::fs::write(folder.path().join(name), bytes).expect("written");
            }
            let go_on = &mut |_| Control::Continue;
            let adapted = fixture.resumed([&train, &held], &settings, folder.path(), go_on);
            assert!(result(&adapted.expect("a run")) == expected, "{damaged:?}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    let settings = settings(PosteriorKind::Map);
    let folder = tempfile::tempdir().expect("a folder");
    stopped(&fixture, [&train, &held], &settings, 3, folder.path());
    let go_on = &mut |_| Control::Continue;
    let mut refused = |settings: &Settings, data: [&Dataset; 2], part: &str| {
        let error = fixture.resumed(data, settings, folder.path(), go_on).err().expect(part);
        assert_eq!(error.kind(), Kind::Mismatch);
        assert!(error.to_string().contains(part), "{error}");
    };
    let other = Settings { learning_rate: 0.02, ..settings.clone() };
    refused(&other, [&train, &held], "settings.learning_rate is 0.01 there and 0.02 here");
    refused(&settings, [&held, &held], "train is ");
    refused(&settings, [&train, &train], "validation is ");
    let prior = fixture.adapter(settings.clone()).with_prior(fixture.prior()).expect("a prior");
    let to = Checkpoints { path: folder.path().to_path_buf(), existing: Existing::Resume };
    let error = prior.with_checkpoints(to.clone()).fit(&train, Some(&held), go_on);
    let error = error.err().expect("another prior").to_string();
    assert!(error.contains("prior is null there"), "{error}");
    let adapter = fixture.adapter(settings.clone());
    let unwanted = adapter.with_checkpoints(Checkpoints { existing: Existing::Refuse, ..to });
    let error = unwanted.fit(&train, Some(&held), go_on).err().expect("it would be lost");
    assert!(error.to_string().contains("go on from them, or remove them"), "{error}");
    let expected = result(&whole(&fixture, [&train, &held], &settings));
    let adapted = fixture.resumed([&train, &held], &settings, folder.path(), go_on);
    assert!(result(&adapted.expect("nothing was lost")) == expected);
}

/// Arrays are fetched one by one while they are written.
#[test]
fn a_checkpoint_takes_no_second_copy_of_the_weights() {
    let fixture = Fixture { threads: Arc::new(Threads::new(1)), ..fixture() };
    let (train, _) = few(&fixture);
    let settings = Settings { strength: Some(1.0), ..settings(PosteriorKind::Map) };
    let settings = Settings { head_variance: Some(1.0), ..settings };
    let folder = tempfile::tempdir().expect("a folder");
    let peak = |answer: Control, checkpoints: Option<Checkpoints>| {
        let mut adapter = fixture.adapter(settings.clone());
        if let Some(checkpoints) = checkpoints {
            adapter = adapter.with_checkpoints(checkpoints);
        }
        let run = || adapter.fit(&train, None, &mut |_| answer).expect("a run");
        peak_of(run).1
    };
    let without = peak(Control::Continue, None);
    let to = Checkpoints { path: folder.path().to_path_buf(), existing: Existing::Refuse };
    let with = peak(Control::Checkpoint, Some(to));
    let weights: usize = fixture.model.weights().map(|(_, w)| 4 * w.len()).sum();
    assert!(with < without + weights / 2, "{with} bytes, {without} without, {weights} of weights");
}

/// Sums run in an order that the shapes fix.
#[test]
fn a_run_goes_on_with_another_number_of_threads_to_the_same_bits() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    let settings = settings(PosteriorKind::Map);
    let expected = result(&whole(&fixture, [&train, &held], &settings));
    let folder = tempfile::tempdir().expect("a folder");
    stopped(&fixture, [&train, &held], &settings, 8, folder.path());
    let fixture = Fixture { threads: Arc::new(Threads::new(3)), ..fixture };
    let go_on = &mut |_| Control::Continue;
    let adapted = fixture.resumed([&train, &held], &settings, folder.path(), go_on);
    assert!(result(&adapted.expect("a run")) == expected);
}

#[test]
fn a_fold_that_diverges_is_remembered() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    // Only the loosest priors let it go so far.
    let settings =
        Settings { learning_rate: 30.0, clip: None, gate: true, ..settings(PosteriorKind::Map) };
    let expected = whole(&fixture, [&train, &held], &settings);
    let left_out = expected.choice.as_ref().and_then(|choice| choice.left_out.clone());
    assert!(left_out.is_some(), "a fold diverges");
    let folder = tempfile::tempdir().expect("a folder");
    let go_on = &mut |_| Control::Continue;
    for _ in 0..2 {
        let adapted = fixture.resumed([&train, &held], &settings, folder.path(), go_on);
        let adapted = adapted.expect("a run");
        assert_eq!(adapted.choice.as_ref().and_then(|choice| choice.left_out.clone()), left_out);
        assert!(result(&adapted) == result(&expected));
    }
}

#[test]
fn a_job_goes_on_after_its_process() {
    let fixture = fixture();
    let (train, held) = few(&fixture);
    let settings = settings(PosteriorKind::Sgld);
    let expected = result(&whole(&fixture, [&train, &held], &settings));
    let folder = tempfile::tempdir().expect("a folder");
    let to = Checkpoints { path: folder.path().to_path_buf(), existing: Existing::Resume };
    let start = || {
        let adapter = fixture.adapter(settings.clone()).with_checkpoints(to.clone());
        let every = Some(std::time::Duration::ZERO);
        let budget = Budget { priority: Priority::Ordinary, ..Budget::default() };
        let options = JobOptions { budget, checkpoint_every: every, ..JobOptions::default() };
        Job::start(adapter, train.clone(), Some(held.clone()), options).expect("a job")
    };
    let job = start();
    let trains = |p: Progress| p.phase == Phase::Train && p.step > 9;
    job.handle().updates().find(|seen| seen.progress.is_some_and(trains)).expect("it trains");
    // Dropped, it ends as a job does whose program closes.
    let handle = job.handle().clone();
    drop(job);
    assert!(handle.wait(std::time::Duration::from_secs(60)));
    let adapted = start().join().expect("a result");
    assert!(result(&adapted) == expected);
    to.remove().expect("removed");
}

#[cfg(feature = "gpu")]
#[test]
fn a_run_goes_on_on_a_gpu_to_the_same_bits_and_elsewhere_within_rounding() {
    use priorfit::adapt::Adapter;
    use priorfit::backend::Engine;

    use crate::adapt::input;
    use crate::support::gpu::adapter;

    /// Relative drift of weights over a run's steps from states that differ by rounding.
    const DRIFT: f64 = 2e-3;
    let Some(gpu) = adapter() else { return };
    let fixture = fixture();
    let (train, _) = few(&fixture);
    let options = priorfit::backend::gpu::Options::default();
    let on_gpu = Engine::gpu(gpu, options, Arc::clone(&fixture.threads));
    let on_cpu = Engine::cpu(Arc::clone(&fixture.threads));
    let folder = tempfile::tempdir().expect("a folder");
    let fixed =
        Settings { prior: PriorKind::Isotropic, steps: 12, batch_size: 8, ..Settings::fixed() };
    let run = |engine: &Engine, resume: bool, stop: usize| {
        let adapter = Adapter::new(Arc::clone(&fixture.model), input(), engine);
        let adapter = adapter.with_settings(fixed.clone()).expect("settings");
        let to = Checkpoints { path: folder.path().to_path_buf(), existing: Existing::Resume };
        let adapter = if resume { adapter.with_checkpoints(to) } else { adapter };
        let mut observe = |progress: Progress| match progress.phase {
            Phase::Train if progress.step == stop => Control::Stop,
            _ => Control::Continue,
        };
        adapter.fit(&train, None, &mut observe).expect("a run")
    };
    let expected = run(&on_gpu, false, usize::MAX);
    run(&on_gpu, true, 5);
    let saved: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("a file")))
        .collect();
    let resumed = run(&on_gpu, true, usize::MAX);
    assert!(result(&resumed) == result(&expected));
    saved.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("written"));
    std::fs::remove_file(folder.path().join("leg-0.safetensors")).expect("the end is forgotten");
    let elsewhere = run(&on_cpu, true, usize::MAX);
    for (name, weight) in &elsewhere.posterior.draws()[0] {
        let found: Vec<f32> = weight.iter().copied().collect();
        let other = expected.posterior.draws()[0][name].iter().map(|&x| f64::from(x));
        let error = crate::support::relative_error(&found, &other.collect::<Vec<_>>());
        assert!(error < DRIFT, "{name}: {error:.1e}");
    }
}
