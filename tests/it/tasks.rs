//! Labels, numbers and masks from end to end; classes have `tests/it/adapt.rs`.

use std::sync::Arc;

use ndarray::{Array2, Array3, Array4};
use priorfit::adapt::{Adapted, Adapter, Control, PriorKind, Settings};
use priorfit::autodiff::vjp;
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::data::{Dataset, Preprocess, Statistics, TargetKind};
use priorfit::graph::eval::{Env, outputs};
use priorfit::graph::{Graph, LeafKind};
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::posterior::metrics::Measure;
use priorfit::posterior::{CalibrationSettings, Evaluation, Posterior};
use priorfit::task::{
    COUNTED, FEATURES, HEAD_BIAS, HEAD_WEIGHT, LOGITS, LOSS, Standard, TARGETS, Task,
};
use priorfit::tensor::tensor;
use priorfit::threads::Threads;

use crate::support::gpu::gpu;
use crate::support::{FORWARD, GRADIENT, array, leaves, normal, relative_error, repository};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn tasks() -> [Task; 4] {
    let standard = vec![Standard { mean: 0.0, std: 1.0, noise: None }; 3];
    [
        Task::Classification { classes: names(3) },
        Task::MultiLabel { labels: names(3) },
        Task::Regression { outputs: names(3), standard },
        Task::Segmentation { classes: names(3), ignore: 255 },
    ]
}

/// A head with its loss and gradients on `n` examples.
fn head(task: &Task, n: usize) -> Graph {
    let mut g = Graph::new();
    let shape: &[usize] = if task.is_dense() { &[n, 7, 3, 5] } else { &[n, 7] };
    let features = g.input(FEATURES, &shape.into()).expect("a leaf");
    let logits = task.head(&mut g, features, [11, 9]).expect("a head");
    let loss = task.loss(&mut g, logits).expect("a loss");
    let params: Vec<_> = [HEAD_WEIGHT, HEAD_BIAS]
        .map(|name| g.leaf(LeafKind::Param, name).expect("a parameter"))
        .into_iter()
        .chain([features])
        .collect();
    let one = g.constant(tensor(&[1], vec![1.0]).expect("one")).expect("a constant");
    let gradients = vjp(&mut g, &[(loss, one)], &params).expect("gradients");
    g.set_output(LOGITS, logits);
    g.set_output(LOSS, loss);
    for (index, gradient) in gradients.into_iter().enumerate() {
        g.set_output(&format!("gradient{index}"), gradient.expect("each has one"));
    }
    g
}

/// Every output of a head on a backend against the interpreter.
fn check(backend: &mut dyn Backend, task: &Task) {
    let graph = head(task, 3);
    let plan = backend.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
    let mut env = Env::new();
    for (lane, (leaf, shape)) in leaves(&graph).into_iter().enumerate() {
        let value: Vec<f32> = match leaf.name.as_str() {
            // Classes and pixels that are ignored, or 0 and 1, which numbers may be, too.
            TARGETS if task.is_dense() => {
                (0..shape.len()).map(|i| (i * 7 % 4) as f32 - 1.0).collect()
            }
            TARGETS => (0..shape.len()).map(|i| f32::from(i % 3 == i / 3)).collect(),
            COUNTED => vec![200.0],
            _ => normal(&shape, lane as u64),
        };
        env.set(leaf.kind, &leaf.name, array(&shape, &value));
        match leaf.kind {
            LeafKind::Input => backend.write(plan, &leaf.name, &value).expect("an input"),
            _ => backend.set(&leaf, &value).expect("a parameter"),
        }
    }
    backend.run(plan).expect("a run");
    for (name, expected) in outputs(&graph, &env).expect("numbers") {
        let mut got = vec![0.0; expected.len()];
        backend.read(plan, &name, &mut got).expect("an output");
        let error = relative_error(&got, &expected);
        let most = if name.starts_with("gradient") { GRADIENT } else { FORWARD };
        assert!(error <= most, "{task:?}, {name} on {}: off by {error}", backend.name());
    }
}

#[test]
fn heads_and_losses_are_the_interpreter_s_on_every_backend() {
    for task in tasks() {
        check(&mut Cpu::new(Arc::new(Threads::new(2))), &task);
        if let Some(mut gpu) = gpu() {
            check(&mut *gpu, &task);
        }
    }
}

/// Pictures of handwritten digits 16 by 16 with their classes, 60 of each to be fast.
struct Digits {
    pixels: Array4<u8>,
    classes: Vec<usize>,
    threads: Arc<Threads>,
}

fn digits() -> Digits {
    let data = Dataset::open(&repository("models/demo/digits.npz")).expect("the digits");
    let (data, _) = data.few(1, 60).expect("enough of each");
    let threads = Arc::new(Threads::new(2));
    let all: Vec<usize> = (0..data.len()).collect();
    let plain = Preprocess { scale: 1.0, ..Preprocess::new(1, 16, 16) };
    let mut x = vec![0.0; data.len() * 256];
    data.fill(&all, &plain, None, &mut x, &threads).expect("pixels");
    let pixels = Array4::from_shape_fn((data.len(), 16, 16, 1), |(n, y, c, _)| {
        x[n * 256 + y * 16 + c] as u8
    });
    Digits { pixels, classes: data.labels(&all).expect("classes"), threads }
}

impl Digits {
    fn images(&self) -> Dataset {
        Dataset::from_images_u8(self.pixels.view(), None, vec![]).expect("images")
    }

    /// Even, round (with a closed loop), and above four.
    fn labels(&self) -> Dataset {
        let has =
            |digit: usize| [digit.is_multiple_of(2), [0, 6, 8, 9].contains(&digit), digit > 4];
        let row = |(n, label): (usize, usize)| f32::from(has(self.classes[n])[label]);
        let rows = Array2::from_shape_fn((self.classes.len(), 3), row);
        let names = ["even", "round", "large"].map(str::to_string).to_vec();
        self.images().with_rows(TargetKind::Labels, rows.view(), names).expect("labels")
    }

    /// How much ink there is, and the height of its centre, in pixels.
    fn numbers(&self) -> Dataset {
        let rows = Array2::from_shape_fn((self.classes.len(), 2), |(n, number)| {
            let pixels = self.pixels.index_axis(ndarray::Axis(0), n);
            let ink: f32 = pixels.iter().map(|&p| f32::from(p)).sum();
            let moment = pixels.indexed_iter().map(|((y, ..), &p)| y as f32 * f32::from(p));
            if number == 0 { ink / 255.0 } else { moment.sum::<f32>() / ink.max(1.0) }
        });
        let names = ["ink", "centre"].map(str::to_string).to_vec();
        self.images().with_rows(TargetKind::Numbers, rows.view(), names).expect("numbers")
    }

    /// Paper, and ink of even and of odd digits; the grey between is ignored.
    fn masks(&self) -> Dataset {
        let (count, ..) = self.pixels.dim();
        let masks =
            Array3::from_shape_fn((count, 16, 16), |(n, y, x)| match self.pixels[[n, y, x, 0]] {
                0..100 => 0,
                100..160 => 255,
                _ => 1 + (self.classes[n] % 2) as u8,
            });
        let names = ["paper", "even", "odd"].map(str::to_string).to_vec();
        self.images().with_masks(masks.view(), names).expect("masks")
    }

    fn fit(&self, train: &Dataset, held: &Dataset, settings: Settings) -> Adapted {
        let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
        let model = match train.target_kind() {
            Some(TargetKind::Mask) => model.cut_at_map(None).expect("a map"),
            _ => model,
        };
        let statistics = Statistics { mean: vec![0.31], std: vec![0.37] };
        let input = Preprocess::new(1, 16, 16).normalised(statistics);
        Adapter::new(Arc::new(model), input, Arc::clone(&self.threads))
            .with_settings(settings)
            .expect("sound settings")
            .fit(train, Some(held), &mut |_| Control::Continue)
            .expect("a run")
    }

    fn evaluate(&self, posterior: &Posterior, data: &Dataset) -> Evaluation {
        posterior.evaluate(data, &self.threads, &mut |_| true).expect("an evaluation")
    }
}

fn isotropic(steps: usize) -> Settings {
    Settings { prior: PriorKind::Isotropic, steps, ..Settings::fixed() }
}

/// A posterior that is saved and read again measures the same.
fn survives(digits: &Digits, posterior: &Posterior, data: &Dataset) {
    let folder = tempfile::tempdir().expect("a folder");
    posterior.save(folder.path()).expect("saved");
    let loaded = Posterior::load(folder.path()).expect("loaded");
    assert_eq!(loaded.description().task, posterior.description().task);
    assert_eq!(digits.evaluate(&loaded, data), digits.evaluate(posterior, data));
}

#[test]
fn sets_of_labels_are_learned() {
    let digits = digits();
    let (held, train) = digits.labels().split(1, 0.3).expect("a split");
    let adapted = digits.fit(&train, &held, isotropic(40));
    let before = digits.evaluate(&adapted.probe, &held).summary();
    let after = digits.evaluate(&adapted.posterior, &held).summary();
    assert_eq!(after.measure, Measure::MeanAveragePrecision);
    assert!(before.score > 0.8 && after.score > 0.9, "{before:?}, {after:?}");
    assert!(after.nll < before.nll, "{before:?}, {after:?}");
    let last = adapted.history.last().and_then(|epoch| epoch.validation).expect("a validation");
    // The run's own measure is of the same weights.
    assert!((last.nll - after.nll).abs() < 1e-6, "{last:?}, {after:?}");
    survives(&digits, &adapted.posterior, &held);
}

#[test]
fn numbers_are_learned_with_honest_widths() {
    let digits = digits();
    let (rest, train) = digits.numbers().split(1, 0.5).expect("a split");
    let (held, test) = rest.split(2, 0.5).expect("a split");
    let adapted = digits.fit(&train, &held, isotropic(40));
    let Evaluation::Numbers(report) = digits.evaluate(&adapted.posterior, &test) else {
        panic!("numbers have their report")
    };
    assert!(report.r2 > 0.5, "{report}");
    // The noise is that of other examples than these; three standard errors of 150 are 0.07.
    assert!((report.coverage_90 - 0.9).abs() < 0.08, "{report}");
    let Task::Regression { standard, .. } = &adapted.posterior.description().task else {
        panic!("numbers have their task")
    };
    for (standard, output) in standard.iter().zip(&report.outputs) {
        let noise = standard.noise.expect("an estimate").sqrt();
        let ratio = noise / output.rmse;
        assert!((0.7..1.4).contains(&ratio), "noise {noise}, error {}", output.rmse);
    }
    survives(&digits, &adapted.posterior, &test);
}

#[test]
fn masks_are_learned_and_parts_of_a_batch_add_up() {
    let digits = digits();
    let (rest, train) = digits.masks().split(1, 0.2).expect("a split");
    let (held, _) = rest.split(3, 0.8).expect("a split");
    let settings = Settings { probe_steps: 200, batch_size: 16, ..isotropic(30) };
    let free = digits.fit(&train, &held, settings.clone());
    let before = digits.evaluate(&free.probe, &held).summary();
    let after = digits.evaluate(&free.posterior, &held).summary();
    assert_eq!(after.measure, Measure::MeanIou);
    assert!(after.score > before.score && after.nll < before.nll, "{before:?}, {after:?}");
    survives(&digits, &free.posterior, &held);
    // Batches in parts, whose pixels that count differ in number, make the same updates.
    let cap = Some(free.memory.bytes as u64 * 7 / 10);
    let parts = digits.fit(&train, &held, Settings { memory_cap: cap, ..settings });
    assert!(parts.memory.micro_batch < free.memory.micro_batch, "{:?}", parts.memory);
    let losses = |adapted: &Adapted| adapted.history.iter().map(|e| e.loss).collect::<Vec<_>>();
    for (a, b) in losses(&free).iter().zip(losses(&parts)) {
        // Rounding alone, over some thirty steps.
        assert!((a - b).abs() < 1e-3 * a.abs(), "{:?} and {:?}", losses(&free), losses(&parts));
    }
}

/// Strength, head variance, temperature and gate of masks are cross-validated, image by image.
#[test]
fn the_choice_of_masks_is_made_on_images_held_out() {
    let digits = digits();
    let (rest, train) = digits.masks().split(1, 0.05).expect("a split");
    let (held, _) = rest.split(3, 0.9).expect("a split");
    let settings = Settings {
        prior: PriorKind::Isotropic,
        steps: 24,
        probe_steps: 150,
        batch_size: 16,
        ..Settings::default()
    };
    let adapted = digits.fit(&train, &held, settings.clone());
    let choice = adapted.choice.as_ref().expect("enough images to choose by");
    assert_eq!(train.len(), 30);
    assert_eq!((choice.folds, choice.held_out, choice.candidates.len()), (4, 30, 5));
    let kept = choice.kept();
    assert!(choice.candidates.iter().all(|c| kept.held_out.nll <= c.held_out.nll));
    assert_eq!(kept.held_out.measure, Measure::MeanIou);
    assert!((adapted.posterior.temperature() - kept.temperature).abs() < 1e-12);
    // What is promised of other images is kept: the probe's likelihood, that of the kept end, and
    // the order of the two.
    let [probe, after] = [&adapted.probe, &adapted.posterior]
        .map(|posterior| digits.evaluate(posterior, &held).summary());
    for (promised, found) in [(&choice.candidates[0], probe), (kept, after)] {
        let ratio = promised.held_out.nll / found.nll;
        assert!((0.7..1.4).contains(&ratio), "{promised:?}, found {found:?}");
    }
    assert!(choice.kept > 0 && after.nll < probe.nll, "{probe:?}, {after:?}");
    // The probe is that of the backbone as it was, whatever the folds have made of the network.
    let head_variance = Some(choice.head_variance);
    let given =
        Settings { head_variance, steps: 0, gate: false, strength: Some(1.0), ..settings.clone() };
    let alone = digits.fit(&train, &held, given);
    assert_eq!(alone.probe.draws()[0], adapted.probe.draws()[0]);
    // Weights that a rate has ruined are not kept.
    let ruinous = Settings { strength: Some(1e6), learning_rate: 0.5, ..settings };
    let gated = digits.fit(&train, &held, ruinous);
    let choice = gated.choice.as_ref().expect("a choice");
    assert_eq!(choice.kept, 0, "{choice:?}");
    assert_eq!(gated.posterior.draws()[0], gated.probe.draws()[0]);
}

/// A posterior whose head is so many times as sure.
fn sharper(posterior: &Posterior, times: f32) -> Posterior {
    let mut draws = posterior.draws().to_vec();
    for draw in &mut draws {
        let head = draw.iter_mut().filter(|(name, _)| [HEAD_WEIGHT, HEAD_BIAS].contains(&&***name));
        head.for_each(|(_, weight)| weight.mapv_inplace(|x| times * x));
    }
    let model = Arc::new(posterior.backbone().clone());
    Posterior::new(posterior.description().clone(), model, draws).expect("a posterior")
}

/// Held-out labels and masks find how much too sure a posterior is.
#[test]
fn labels_and_masks_have_a_temperature() {
    let digits = digits();
    for data in [digits.labels(), digits.masks()] {
        let (rest, train) = data.split(1, 0.3).expect("a split");
        let (held, test) = rest.split(3, 0.5).expect("a split");
        let settings = Settings { probe_steps: 100, ..isotropic(0) };
        let honest = digits.fit(&train, &held, settings).posterior;
        let sure = sharper(&honest, 4.0);
        let settings = CalibrationSettings::default();
        let fit = |posterior: &Posterior| {
            let fitted = posterior.calibrate(&held, &digits.threads, &settings, &mut |_| true);
            fitted.expect("a fit")
        };
        let (fitted, of_honest) = (fit(&sure), fit(&honest));
        let ratio = fitted.temperature / of_honest.temperature;
        // Of a hundred examples, the prior on ln T holds back a little of ln 4.
        assert!((3.4..4.1).contains(&ratio), "{fitted:?}, {of_honest:?}");
        assert!(fitted.sets.is_none() && fitted.intervals.is_none());
        let before = digits.evaluate(&sure, &test).summary();
        let calibrated = sure.with_calibration(Some(fitted)).expect("sound");
        let after = digits.evaluate(&calibrated, &test).summary();
        assert!(after.nll < before.nll && after.ece < before.ece, "{before:?}, {after:?}");
        survives(&digits, &calibrated, &test);
    }
}

/// Intervals of numbers hold what they promise of other images, whatever the noise was before.
#[test]
fn numbers_have_intervals_that_keep_their_promise() {
    let digits = digits();
    let (rest, train) = digits.numbers().split(1, 0.25).expect("a split");
    let (held, test) = rest.split(3, 0.5).expect("a split");
    let posterior = digits.fit(&train, &train, isotropic(0)).posterior;
    let settings = CalibrationSettings { coverage: 0.8, ..CalibrationSettings::default() };
    let fitted = posterior.calibrate(&held, &digits.threads, &settings, &mut |_| true);
    let fitted = fitted.expect("a fit");
    let calibrated = posterior.with_calibration(Some(fitted.clone())).expect("sound");
    let halves = fitted.intervals.and_then(|intervals| intervals.half_widths).expect("widths");
    let Task::Regression { standard, .. } = calibrated.task() else { panic!("numbers") };
    let (mut within, mut all) = (0, 0);
    calibrated
        .predict_parts(&test, &digits.threads, &mut |_| true, &mut |part| {
            let mut truth = vec![0.0; part.mean.len()];
            test.fill_rows(&part.examples.collect::<Vec<_>>(), &mut truth)?;
            for (at, (mean, y)) in part.mean.iter().zip(truth).enumerate() {
                let deviation = (part.variance[at] + standard[at % 2].noise.expect("known")).sqrt();
                within += usize::from((f64::from(y) - mean).abs() <= halves[at % 2] * deviation);
                all += 1;
            }
            Ok(())
        })
        .expect("predictions");
    // Four standard errors of 225 images and of half as many held out.
    let share = f64::from(within as u32) / f64::from(all);
    assert!((share - 0.8).abs() < 4.0 * (0.16 * (1.0 / 225.0 + 1.0 / 112.0f64)).sqrt(), "{share}");
    survives(&digits, &calibrated, &test);
    // That of another task is refused.
    let (_, train) = digits.labels().split(1, 0.1).expect("a split");
    let labels = digits.fit(&train, &train, isotropic(0)).posterior;
    let calibration = calibrated.description().calibration.clone();
    let error = labels.with_calibration(calibration).map(|_| ()).expect_err("another task's");
    assert!(error.to_string().contains("another task"), "{error}");
}

/// Pooling and classifier are left out, and the file's image size is not binding.
#[test]
fn networks_end_in_maps_for_images_of_any_size() {
    for name in ["resnet_basic_classifier", "resnet_basic_folded", "mobilenetv2_folded"] {
        let path = repository(&format!("models/golden/{name}.onnx"));
        let model = Model::load(&path).expect("a golden network").cut_at_map(None).expect("a map");
        for size in [[32, 32], [64, 96]] {
            let graph = model.graph(&[2, 3, size[0], size[1]]).expect("its graph");
            let shape = graph.shape(graph.outputs()[0].1).clone();
            let [2, _, h, w] = shape[..] else { panic!("{name}: features of shape {shape}") };
            assert!(h * size[1] == w * size[0] && h > 0, "{name}: {shape} of {size:?}");
        }
    }
}

/// Without other examples the width of the noise is that of examples held out in turn.
#[test]
fn the_noise_of_numbers_is_not_that_of_the_examples_trained_on() {
    let digits = digits();
    let (test, train) = digits.numbers().split(1, 0.2).expect("a split");
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let statistics = Statistics { mean: vec![0.31], std: vec![0.37] };
    let input = Preprocess::new(1, 16, 16).normalised(statistics);
    let adapted = Adapter::new(Arc::new(model), input, Arc::clone(&digits.threads))
        .with_settings(Settings { steps: 0, prior: PriorKind::Isotropic, ..Settings::default() })
        .expect("sound settings")
        .fit(&train, None, &mut |_| Control::Continue)
        .expect("a run");
    let noise = |posterior: &Posterior| match &posterior.description().task {
        Task::Regression { standard, .. } => standard[0].noise.expect("an estimate").sqrt(),
        _ => panic!("numbers have their task"),
    };
    let Evaluation::Numbers(report) = digits.evaluate(&adapted.posterior, &test) else {
        panic!("numbers have their report")
    };
    let held_out = noise(&adapted.posterior);
    let of_training = adapted.posterior.with_noise_of(&train, &digits.threads, &mut |_| true);
    let of_training = noise(&of_training.expect("an estimate"));
    let error = report.outputs[0].rmse;
    assert!((held_out / error).ln().abs() < (of_training / error).ln().abs());
    assert!((0.7..1.4).contains(&(held_out / error)), "noise {held_out}, error {error}");
}
