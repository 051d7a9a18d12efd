//! Learning a prior on a source task: runs that stop and go on, that lose their device, that keep
//! within their memory.

use std::path::Path;
use std::sync::Arc;

use priorfit::adapt::{
    Adapter, Centre, PriorKind, Settings, SourceSettings, fit_prior, fit_prior_with,
};
use priorfit::adapt::{
    Checkpoints, ContrastSettings, Control, Existing, Phase, Progress, SourceObjective,
};
use priorfit::backend::Engine;
use priorfit::data::{Augment, Colour, Crop, Dataset, Preprocess, Statistics};
use priorfit::error::{Kind, Result};
use priorfit::onnx::Model;
use priorfit::posterior::Posterior;
use priorfit::prior::{DrawsFit, Grouping, Prior};
use priorfit::threads::Threads;
use priorfit::update::Schedule;

use crate::support::repository;

struct Source {
    model: Arc<Model>,
    data: Dataset,
}

fn source(per_class: usize) -> Source {
    let open = |name: &str| repository("models/demo").join(name);
    let digits = Dataset::open(&open("digits.npz")).expect("the digits");
    Source {
        model: Arc::new(Model::load(&open("backbone.onnx")).expect("the backbone")),
        data: digits.few(3, per_class).expect("enough of each class").0,
    }
}

fn input() -> Preprocess {
    let statistics = Statistics { mean: vec![0.31], std: vec![0.37] };
    Preprocess::new(1, 16, 16).normalised(statistics)
}

/// Four steps an epoch with 5 examples of each class, and a last batch that is smaller.
fn settings() -> SourceSettings {
    SourceSettings {
        epochs: 4,
        burn_in: 1,
        snapshots: 8,
        centre: Centre::Snapshots,
        rank: 4,
        learning_rate: 0.01,
        batch_size: 16,
        augment: Augment { crop: Crop::Padded { pixels: 2 }, ..Augment::default() },
        ..SourceSettings::default()
    }
}

impl Source {
    fn fit(&self, settings: &SourceSettings, engine: impl Into<Engine>) -> Result<Prior> {
        let go_on = &mut |_| Control::Continue;
        fit_prior(&self.model, &self.data, &input(), settings, engine, go_on)
    }

    /// The same with checkpoints, stopped after the training step `stop`.
    fn fit_until(
        &self,
        settings: &SourceSettings,
        path: &Path,
        existing: Existing,
        stop: usize,
    ) -> Result<Prior> {
        let checkpoints = Checkpoints { path: path.to_path_buf(), existing };
        let mut observe = |progress: Progress| match progress.phase {
            Phase::Train if progress.step == stop => Control::Stop,
            _ => Control::Continue,
        };
        let engine = Engine::cpu(Arc::new(Threads::new(2)));
        let kept = Some(&checkpoints);
        fit_prior_with(&self.model, &self.data, &input(), settings, engine, kept, &mut observe)
    }
}

fn bytes(prior: &Prior) -> Vec<u8> {
    prior.to_bytes().expect("bytes")
}

/// With labels and without, at a constant rate and in cycles.
#[test]
fn a_fit_that_was_stopped_goes_on_to_the_same_bits() {
    let cyclical = SourceSettings { schedule: Schedule::Cyclical { cycles: 2 }, ..settings() };
    let (labelled, unlabelled) = (source(5), unlabelled(5));
    is_resumed(&labelled, &settings());
    is_resumed(&labelled, &cyclical);
    is_resumed(&unlabelled, &contrast());
}

fn is_resumed(source: &Source, settings: &SourceSettings) {
    let threads = Arc::new(Threads::new(2));
    let whole = source.fit(settings, &threads).expect("a prior");
    assert_eq!(whole.header().learned.snapshots, 8);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("prior.checkpoint");
    let fit = |existing, stop| source.fit_until(settings, &path, existing, stop);
    // Before the first snapshot, and in the midst of an epoch after the second checkpoint.
    let error = fit(Existing::Refuse, 5).expect_err("no snapshot yet");
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(error.to_string().contains("the same command goes on"), "{error}");
    let part = fit(Existing::Resume, 14).expect("the prior of some snapshots");
    assert!(part.header().learned.snapshots < 8, "{:?}", part.header());
    let resumed = fit(Existing::Resume, usize::MAX).expect("a prior");
    assert!(bytes(&resumed) == bytes(&whole), "the same file");
    assert!(path.exists(), "it is the caller's to remove");
    // A second fit to the same place would lose it.
    let error = fit(Existing::Refuse, usize::MAX).expect_err("there is a checkpoint");
    assert!(error.to_string().contains("go on from them, or remove them"), "{error}");
}

#[test]
fn a_prior_is_centred_at_the_backbone_or_at_its_snapshots() {
    let source = source(5);
    let threads = Arc::new(Threads::new(2));
    let own = source.fit(&SourceSettings { centre: Centre::Backbone, ..settings() }, &threads);
    let (own, moved) = (own.expect("a prior"), source.fit(&settings(), &threads).expect("a prior"));
    assert!(own.header().notes.contains("own weights") && moved.header().notes.is_empty());
    for (name, weight) in source.model.weights() {
        let [a, b] = [&own, &moved].map(|prior| prior.parameter(name).expect("the same names"));
        assert!(a.mean() == weight && b.mean() != weight, "the mean of {name}");
        assert!(a.var() == b.var() && a.dev() == b.dev(), "the covariance of {name}");
    }
}

#[test]
fn the_rank_is_chosen_by_what_it_explains() {
    let source = source(5);
    let threads = Arc::new(Threads::new(2));
    let all = source.fit(&settings(), &threads).expect("a prior");
    let share = 0.8;
    let settings = SourceSettings { explained: Some(share), ..settings() };
    let few = source.fit(&settings, &threads).expect("a prior");
    assert!(few.rank() >= 2 && few.rank() < all.rank(), "{} of {}", few.rank(), all.rank());
    assert!(few.header().notes.contains("principal directions"), "{}", few.header().notes);
    let [a, b] = [&few, &all].map(|prior| prior.stats().overall.low_rank_share);
    assert!(a >= share * b && a < b, "{a} of {b}");
    let wrong = SourceSettings { explained: Some(1.5), ..settings };
    let error = source.fit(&wrong, &threads).expect_err("no share").to_string();
    assert!(error.contains("share of variance"), "{error}");
}

#[test]
fn a_fit_may_be_in_blocks() {
    let source = source(3);
    let threads = Arc::new(Threads::new(2));
    let whole = source.fit(&settings(), &threads).expect("a prior");
    let grouping = Grouping::Tensor;
    let blocked = source.fit(&SourceSettings { blocks: grouping, ..settings() }, &threads);
    let blocked = blocked.expect("a prior");
    assert!(blocked.blocks() > 2, "{}", blocked.blocks());
    let expected = whole.block_diagonal(grouping).expect("a prior");
    assert!(bytes(&blocked) == bytes(&expected), "the same deviations, in blocks");
}

#[test]
fn a_memory_cap_is_kept_or_refused() {
    // Gradients summed in another order, through twenty steps, as a part of the largest weight.
    const ANOTHER_ORDER: f32 = 1e-3;
    let source = source(5);
    let threads = Arc::new(Threads::new(2));
    let free = source.fit(&settings(), &threads).expect("a prior");
    let capped = |cap| {
        let settings = SourceSettings { memory_cap: Some(cap), ..settings() };
        source.fit(&settings, &threads)
    };
    let error = capped(1).expect_err("nothing fits").to_string();
    let least = error.split("takes ").nth(1).and_then(|rest| rest.split(';').next());
    let least = least.and_then(|least| least.trim().parse().ok()).expect("a number of bytes");
    let small = capped(least).expect("what the message says is enough");
    for (a, b) in small.parameters().iter().zip(free.parameters()) {
        let largest = b.mean().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = a.mean().iter().zip(b.mean()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off <= ANOTHER_ORDER * largest, "{} is off by {off} of {largest}", a.name());
    }
    assert!(bytes(&small) != bytes(&free), "batches were split");
}

/// Each loss costs steps, which are made again, and no snapshot is counted twice.
#[cfg(feature = "gpu")]
#[test]
fn a_fit_whose_device_is_lost_goes_on_bit_for_bit() {
    use std::cell::Cell;

    use crate::gpu::{destroy_last, watched};
    use crate::support::gpu::adapter;

    let Some(adapter) = adapter() else { return };
    let (options, devices) = watched();
    let source = source(2);
    let engine = Engine::gpu(adapter, options, Arc::new(Threads::new(2)));
    // Ten steps an epoch; the first shadow is taken before step 50.
    let settings = SourceSettings { epochs: 6, snapshots: 20, batch_size: 2, ..settings() };
    let fit = |loses: &dyn Fn(usize) -> bool| {
        let mut observe = |progress: Progress| {
            if progress.phase == Phase::Train && loses(progress.step) {
                destroy_last(&devices);
            }
            Control::Continue
        };
        let (model, data) = (&source.model, &source.data);
        fit_prior(model, data, &input(), &settings, &engine, &mut observe).expect("a prior")
    };
    let undisturbed = fit(&|_| false);
    for loss in [11, 56] {
        let lost = Cell::new(false);
        let prior = fit(&|step| step == loss && !lost.replace(true));
        assert!(lost.get(), "the device was lost");
        assert!(bytes(&prior) == bytes(&undisturbed), "lost at step {loss}");
    }
    // Each device is lost after eleven steps: the processor takes over.
    let prior = fit(&|step| step == 11);
    assert_eq!(prior.header(), undisturbed.header());
}

/// The draws of one task are the prior of the next, on the same file.
#[test]
fn a_posterior_is_the_prior_of_the_next_task() {
    let source = source(3);
    let threads = Arc::new(Threads::new(2));
    let run = |prior: Option<&Prior>, seed| {
        let adapter = Adapter::new(Arc::clone(&source.model), input(), &threads);
        let (kind, adapter) = match prior {
            Some(prior) => {
                (PriorKind::Learned, adapter.with_prior(prior.clone()).expect("the same file"))
            }
            None => (PriorKind::None, adapter),
        };
        let settings =
            Settings { prior: kind, steps: 4, seed, batch_size: 8, ..Settings::default() };
        // Every run is kept, for this is about where runs end.
        let settings = Settings { strength: prior.map(|_| 1.0), gate: false, ..settings };
        let adapter = adapter.with_settings(settings).expect("settings");
        let adapted = adapter.fit(&source.data, None, &mut |_| Control::Continue);
        adapted.expect("a run").posterior
    };
    let draws: Vec<Posterior> = [1, 2, 3].map(|seed| run(None, seed)).into();
    let description = draws[0].description().clone();
    let weights = draws.iter().map(|posterior| posterior.draws()[0].clone()).collect();
    let posterior = Posterior::new(description, Arc::clone(&source.model), weights);
    let posterior = posterior.expect("three draws");
    let prior = posterior.to_prior(DrawsFit::default(), 1e-6).expect("a prior");
    assert_eq!(prior.header().backbone, source.model.fingerprint());
    assert_eq!((prior.rank(), prior.header().num_data), (2, 30));
    assert_eq!(prior.parameters().len(), source.model.weights().count(), "no head");
    for parameter in prior.parameters() {
        let third = |at: usize| {
            let of =
                |p: &Posterior| f64::from(p.draws()[0][parameter.name()].as_slice().unwrap()[at]);
            draws.iter().map(of).sum::<f64>() / 3.0
        };
        let first = f64::from(parameter.mean().as_slice().expect("row-major")[0]);
        assert!((first - third(0)).abs() < 1e-6, "{} is around its draws", parameter.name());
    }
    let next = run(Some(&prior), 4);
    // One draw has no spread of its own: that of the prior stays.
    let error = next.to_prior(DrawsFit::default(), 1e-6).expect_err("one draw").to_string();
    assert!(error.contains("a covariance of 1 draws"), "{error}");
    let after = next.to_prior_with(&prior, 1.0).expect("a prior");
    assert!(after.header().notes.contains("moved"), "{}", after.header().notes);
}

/// Views of the digits that are cropped, and vary in brightness and sharpness.
fn contrast() -> SourceSettings {
    let colour = Colour { jitter: 0.5, grey: 0.2, blur: 0.3 };
    SourceSettings {
        objective: SourceObjective::Contrast(ContrastSettings {
            projection: 16,
            colour,
            ..ContrastSettings::default()
        }),
        learning_rate: 0.02,
        augment: Augment { crop: Crop::Resized { area_min: 0.4 }, ..Augment::default() },
        ..settings()
    }
}

/// The digits without what they are.
fn unlabelled(per_class: usize) -> Source {
    let labelled = source(per_class);
    let bytes: Vec<u8> = (0..labelled.data.len())
        .flat_map(|index| {
            let mut image = vec![0.0; 256];
            let plain = Preprocess { scale: 1.0, ..Preprocess::new(1, 16, 16) };
            let threads = Threads::new(1);
            labelled.data.fill(&[index], &plain, None, &mut image, &threads).expect("an image");
            image.into_iter().map(|x| x as u8).collect::<Vec<u8>>()
        })
        .collect();
    let images = ndarray::Array4::from_shape_vec((labelled.data.len(), 16, 16, 1), bytes);
    let images = images.expect("images");
    let data = Dataset::from_images_u8(images.view(), None, Vec::new()).expect("images");
    Source { data, ..labelled }
}

#[test]
fn a_prior_is_learned_without_labels() {
    let source = unlabelled(6);
    let mut losses = Vec::new();
    let mut observe = |progress: Progress| {
        assert_eq!(progress.phase, Phase::Train, "there is no head to probe");
        losses.extend(progress.loss);
        Control::Continue
    };
    let contrasting = SourceSettings { epochs: 7, ..contrast() };
    let threads = Arc::new(Threads::new(2));
    let (model, data) = (&source.model, &source.data);
    let fit = |settings: &SourceSettings, observe: &mut dyn FnMut(Progress) -> Control| {
        fit_prior(model, data, &input(), settings, &threads, observe)
    };
    let prior = fit(&contrasting, &mut observe).expect("a prior");
    assert_eq!(prior.header().learned.method, "SWAG, SimCLR");
    assert_eq!(prior.parameters().len(), model.weights().count(), "the projector is no part of it");
    // Batches of 16 and, last of four, of 12 examples: at first no better than a guess.
    assert!((losses[0] - 31f32.ln()).abs() < 1.0, "{}", losses[0]);
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&losses[..4]), mean(&losses[losses.len() - 4..]));
    assert!(last < 0.8 * first, "the loss falls from {first} to {last}");
    let again = fit(&contrasting, &mut |_| Control::Continue).expect("a prior");
    assert!(bytes(&again) == bytes(&prior));
    let supervised = fit(&settings(), &mut |_| Control::Continue);
    assert!(supervised.expect_err("no labels").to_string().contains("no labels"));
}

#[test]
fn a_contrastive_batch_is_not_split() {
    let source = unlabelled(4);
    let threads = Arc::new(Threads::new(2));
    let settings = SourceSettings { epochs: 1, snapshots: 2, rank: 2, ..contrast() };
    let capped =
        |cap| source.fit(&SourceSettings { memory_cap: cap, ..settings.clone() }, &threads);
    let free = capped(None).expect("a prior");
    let error = capped(Some(1)).expect_err("nothing fits").to_string();
    assert!(error.contains("cannot be split") && error.contains("--batch"), "{error}");
    let least = error.split("takes ").nth(1).and_then(|rest| rest.split(';').next());
    let least: u64 = least.and_then(|l| l.trim().parse().ok()).expect("a number of bytes");
    let small = capped(Some(least)).expect("what the message says is enough");
    for (a, b) in small.parameters().iter().zip(free.parameters()) {
        assert!(a.mean() == b.mean(), "computing again changes no bit of {}", a.name());
    }
    for (wrong, part) in [
        (SourceSettings { batch_size: 1, ..settings.clone() }, "batch size is 1"),
        (
            SourceSettings {
                objective: SourceObjective::Contrast(ContrastSettings {
                    temperature: 0.0,
                    ..ContrastSettings::default()
                }),
                ..settings.clone()
            },
            "temperature of the contrast is 0",
        ),
    ] {
        let error = source.fit(&wrong, &threads).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// A GPU and the processor make the same contrastive fit, but for rounding through its steps.
#[cfg(feature = "gpu")]
#[test]
fn a_contrastive_fit_is_the_same_on_a_gpu() {
    use crate::support::gpu::adapter;

    const DRIFT: f64 = 2e-3;
    let Some(adapter) = adapter() else { return };
    let threads = Arc::new(Threads::new(2));
    let source = unlabelled(2);
    let settings = SourceSettings { epochs: 2, snapshots: 4, rank: 2, ..contrast() };
    let on_cpu = source.fit(&settings, &threads).expect("a prior");
    let options = priorfit::backend::gpu::Options::default();
    let engine = Engine::gpu(adapter, options, Arc::clone(&threads));
    let on_gpu = source.fit(&settings, engine).expect("a prior");
    for (a, b) in on_gpu.parameters().iter().zip(on_cpu.parameters()) {
        let expected: Vec<f64> = b.mean().iter().map(|&x| f64::from(x)).collect();
        let found: Vec<f32> = a.mean().iter().copied().collect();
        let error = crate::support::relative_error(&found, &expected);
        assert!(error < DRIFT, "{}: {error:.1e}", a.name());
    }
}
