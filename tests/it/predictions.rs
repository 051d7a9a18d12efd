//! Predictions of several draws: their average, early exit, calibration.

use std::sync::Arc;

use ndarray::Array2;
use priorfit::adapt::{Adapter, Control, PriorKind, Settings, score};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::error::Kind;
use priorfit::onnx::Model;
use priorfit::posterior::{
    Calibration, CalibrationSettings, Description, EarlyExit, Posterior, Target, VERSION, softmax,
};
use priorfit::prior::Weights;
use priorfit::rng::{Key, Stream};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT, Task};
use priorfit::tensor::tensor;
use priorfit::threads::Threads;

use crate::support::repository;

const DRAWS: usize = 8;
const CLASSES: usize = 10;
const FEATURES: usize = 64;

fn threads() -> Arc<Threads> {
    Arc::new(Threads::new(2))
}

fn digits(count: usize) -> Dataset {
    let digits = Dataset::open(&repository("models/demo/digits.npz")).expect("the digits");
    digits.subset(&(0..count).collect::<Vec<_>>()).expect("as many")
}

/// Draws whose heads share a random part and have one of their own.
fn posterior(draws: usize) -> Posterior {
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let weights: Weights = model.weights().map(|(n, w)| (n.to_string(), w.clone())).collect();
    let normal = |step: u64| {
        let mut random = Key::new(4, Stream::Probe).at(step);
        (0..CLASSES * FEATURES).map(|_| random.normal()).collect::<Vec<_>>()
    };
    let common = normal(0);
    let draw = |number: u64| {
        let own = common.iter().zip(normal(number + 1)).map(|(c, x)| 1.5 * c + 0.5 * x);
        let mut draw = weights.clone();
        // Draws that differ in the head alone would be predicted with in one pass.
        let first = draw.values_mut().next().expect("a weight");
        first.mapv_inplace(|x| x + 1e-6 * number as f32);
        let weight = tensor(&[CLASSES, FEATURES], own.collect()).expect("a weight");
        draw.insert(HEAD_WEIGHT.to_string(), weight);
        let bias = tensor(&[CLASSES], vec![0.0; CLASSES]).expect("a bias");
        draw.insert(HEAD_BIAS.to_string(), bias);
        draw
    };
    let statistics = Statistics { mean: vec![0.31], std: vec![0.37] };
    let description = Description {
        version: VERSION,
        backbone: model.fingerprint(),
        task: Task::Classification {
            classes: (0..CLASSES).map(|class| class.to_string()).collect(),
        },
        preprocess: Preprocess::new(1, 16, 16).normalised(statistics),
        provenance: serde_json::Value::Null,
        calibration: None,
        temperature: 1.0,
    };
    let draws = (0..draws as u64).map(draw).collect();
    Posterior::new(description, Arc::new(model), draws).expect("a posterior")
}

#[test]
fn predictions_are_the_mean_of_the_draws_softmax() {
    let (posterior, data) = (posterior(3), digits(20));
    let mut sum = Array2::<f64>::zeros((20, CLASSES));
    posterior
        .visit_draws(&data, threads(), &mut |_| true, &mut |examples, logits| {
            sum += &softmax(logits);
            examples.to_vec()
        })
        .expect("logits");
    let exit = EarlyExit::Never;
    let found = posterior.predictions(&data, threads(), exit, &mut |_| true).expect("predictions");
    assert_eq!(found.probabilities, sum / 3.0);
    assert_eq!(found.draws, [3; 20]);
    assert!(found.mutual_information.iter().all(|&x| x > 0.0));
    assert!(found.entropy.iter().zip(&found.mutual_information).all(|(all, part)| part < all));
    let plain = posterior.predict(&data, threads(), &mut |_| true).expect("predictions");
    assert_eq!(found.probabilities, plain);
}

/// Settled examples are not run again: as many forward passes are made as draws were used.
#[test]
fn early_exit_gives_the_same_classes_with_fewer_forward_passes() {
    let (posterior, data) = (posterior(DRAWS).with_forward_batch(1), digits(60));
    let predict = |exit| {
        let (mut passes, mut last) = (0, 0);
        let found = posterior.predictions(&data, threads(), exit, &mut |progress| {
            passes += 1;
            assert!(progress.done > last && progress.done <= progress.total, "{progress:?}");
            last = progress.done;
            true
        });
        (found.expect("predictions"), passes)
    };
    let (all, passes) = predict(EarlyExit::Never);
    assert_eq!(passes, 60 * DRAWS);
    let (settled, passes) = predict(EarlyExit::Certain);
    assert_eq!(settled.classes(), all.classes());
    assert_eq!(passes, settled.draws.iter().sum::<usize>());
    assert!(passes < 60 * DRAWS * 9 / 10, "{passes}");
}

#[test]
fn calibration_makes_an_overconfident_posterior_honest_and_is_stored() {
    let digits = digits(1_000);
    let (train, rest) = digits.few(1, 50).expect("enough");
    let (held_out, test) = rest.split(2, 0.5).expect("labelled");
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let input = posterior(1).description().preprocess.clone();
    let settings = Settings { steps: 0, prior: PriorKind::None, ..Settings::fixed() };
    let adapted = Adapter::new(Arc::new(model), input, threads())
        .with_settings(settings)
        .and_then(|adapter| adapter.fit(&train, None, &mut |_| Control::Continue))
        .expect("a probe");
    let honest = adapted.posterior;
    // Eight times its logits: as accurate, and far too sure.
    let mut draw = honest.draws()[0].clone();
    for name in [HEAD_WEIGHT, HEAD_BIAS] {
        draw.get_mut(name).expect("a head").mapv_inplace(|x| 8.0 * x);
    }
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let sure = Posterior::new(honest.description().clone(), Arc::new(model), vec![draw])
        .expect("a posterior");
    let settings = CalibrationSettings {
        abstention: Some(Target::Coverage(0.8)),
        ..CalibrationSettings::default()
    };
    let fit = |posterior: &Posterior| {
        posterior.calibrate(&held_out, threads(), &settings, &mut |_| true).expect("a fit")
    };
    let (fitted, fitted_honest) = (fit(&sure), fit(&honest));
    let ratio = fitted.temperature / fitted_honest.temperature;
    // Few of the 125 examples are wrong, so that the prior on ln T holds back a part of ln 8.
    assert!((4.0..=8.0).contains(&ratio), "{ratio}");

    let labels = test.labels(&(0..test.len()).collect::<Vec<_>>()).expect("labels");
    let measure = |posterior: &Posterior| {
        let p = posterior.predict(&test, threads(), &mut |_| true).expect("predictions");
        (score(&p, &labels).expect("a report"), p)
    };
    let (before, _) = measure(&sure);
    let calibrated = sure.with_calibration(Some(fitted.clone())).expect("sound");
    let folder = tempfile::tempdir().expect("a folder");
    calibrated.save(folder.path()).expect("saved");
    let loaded = Posterior::load(folder.path()).expect("loaded");
    let stored = loaded.description().calibration.clone().expect("a calibration");
    let of_sets = |calibration: &Calibration| calibration.sets.expect("those of classes");
    // A number's last digit may change on its way through JSON.
    for (stored, fitted) in [
        (stored.temperature, fitted.temperature),
        (of_sets(&stored).probability_min, of_sets(&fitted).probability_min),
    ] {
        assert!((stored - fitted).abs() < 1e-12, "{stored} {fitted}");
    }
    assert_eq!(stored.abstention.map(|a| a.target), fitted.abstention.map(|a| a.target));
    let (after, p) = measure(&loaded);
    assert_eq!(after.accuracy, before.accuracy);
    assert!(after.nll.mean < before.nll.mean / 2.0, "{} {}", after.nll.mean, before.nll.mean);
    let covered =
        p.rows().into_iter().zip(&labels).filter(|(row, y)| of_sets(&fitted).set(*row).contains(y));
    // 0.9 less four standard errors, of the test's and of the held-out half.
    let share = covered.count() as f64 / labels.len() as f64;
    assert!(share > 0.9 - 4.0 * (0.09 / 250.0 + 0.09 / 125.0f64).sqrt(), "{share}");
    assert_eq!(fit(&loaded), fitted, "an earlier calibration plays no part");
    let plain = loaded.with_calibration(None).expect("sound");
    plain.save_description(folder.path()).expect("saved");
    let loaded = Posterior::load(folder.path()).expect("loaded");
    assert_eq!(loaded.description().calibration, None);
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let posterior = posterior(1);
    let refusal = |data: &Dataset, settings: &CalibrationSettings| {
        let fitted = posterior.calibrate(data, threads(), settings, &mut |_| true);
        fitted.expect_err("refused").to_string()
    };
    let plain = CalibrationSettings::default();
    let few = refusal(&digits(19), &plain);
    assert!(few.contains("19 held-out examples") && few.contains("20 or more"), "{few}");
    let settings = CalibrationSettings { coverage: 1.0, ..plain };
    assert!(refusal(&digits(40), &settings).contains("coverage of prediction sets is 1"));
    let settings = CalibrationSettings { false_alarms: 0.0, ..plain };
    assert!(refusal(&digits(40), &settings).contains("false alarms is 0"));
    let settings = CalibrationSettings { abstention: Some(Target::Risk(0.01)), ..plain };
    assert!(refusal(&digits(40), &settings).contains("no threshold promises"));
}

#[test]
fn logits_that_overflow_are_an_error() {
    let sound = posterior(1);
    let mut draw = sound.draws()[0].clone();
    draw.get_mut(HEAD_WEIGHT).expect("a head").fill(f32::MAX);
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let posterior = Posterior::new(sound.description().clone(), Arc::new(model), vec![draw])
        .expect("finite weights");
    let error = posterior.predict(&digits(3), threads(), &mut |_| true).expect_err("refused");
    assert_eq!(error.kind(), Kind::Diverged);
}
