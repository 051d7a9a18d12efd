//! Priors that PyTorch wrote become ours: every layout against numbers that PyTorch computed in
//! `f64` (`models/make/foreign.py`), what does not belong together refused, and the files of the
//! exporter (`exporter/`) used as they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ndarray::Array4;
use priorfit::adapt::{Adapter, Control, Settings};
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::data::{Dataset, Preprocess};
use priorfit::error::Kind;
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::prior::{
    Convention, Foreign, ForeignReport, ForeignSettings, ForeignStrength, Layout, Prior, Scaling,
    VERSION_BLOCKS, Weights,
};
use priorfit::tensor::{Tensor, contiguous};
use priorfit::threads::Threads;

use crate::support::{FORWARD, relative_error, repository, resident, tensors};

/// The reference's running moments are in `f32`: errors of a few roundings of weights around 1.
const MEAN: f64 = 1e-6;
/// Its variance is a difference of such means, 1e-4 in size: the roundings of 1 over that.
const VARIANCE: f64 = 1e-2;
/// Deviations are about 1e-2 and differ by roundings of weights.
const DEVIATION: f64 = 1e-4;

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(repository(&format!("models/foreign/{file}"))).expect("a fixture")
}

fn open(files: &[&str]) -> priorfit::Result<Foreign> {
    let bytes: Vec<_> = files.iter().map(|file| bytes(file)).collect();
    let named: Vec<_> = files.iter().copied().zip(bytes.iter().map(Vec::as_slice)).collect();
    Foreign::from_bytes(&named)
}

fn import(files: &[&str], backbone: &str) -> priorfit::Result<(Prior, ForeignReport)> {
    let model = Model::load(&repository(&format!("models/foreign/{backbone}")))?;
    let prior = attach(open(files)?, &model)?;
    let shapes: Vec<_> = model.weights().map(|(n, w)| (n, w.shape().into())).collect();
    prior.0.matches(shapes.iter().map(|(n, s)| (*n, s)), &model.fingerprint())?;
    Ok(prior)
}

fn attach(foreign: Foreign, model: &Model) -> priorfit::Result<(Prior, ForeignReport)> {
    let weights: Weights = model.weights().map(|(n, w)| (n.to_string(), w.clone())).collect();
    foreign.attach(&weights, &model.fingerprint(), &ForeignSettings::default())
}

/// The largest of the errors of `found`, relative to the largest that is expected.
fn worst(found: &[f64], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let errors = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    errors.fold(0.0, f64::max) / largest
}

/// Five rows, the first of them zero: each program's K is 5, and its Gaussian is what its own terms
/// make of the file's numbers, which are those of the plain import.
#[test]
fn each_convention_is_its_program_s_gaussian_of_the_files() {
    const LAMBDA: f64 = 3.0;
    const EPSILON: f32 = 0.1;
    // Rounded to `f32` a few times.
    const ROUNDING: f64 = 1e-5;
    let model = Model::load(&repository("models/foreign/backbone.onnx")).expect("a model");
    let weights: Weights = model.weights().map(|(n, w)| (n.to_string(), w.clone())).collect();
    let (plain, _) = import(&REFERENCE, "backbone.onnx").expect("a prior");
    // Factors of v, of ε and of FFᵀ; the plain import knows FFᵀ/(K-1), for F is raw here.
    let cases = [
        (Convention::A, LAMBDA, 1.0, LAMBDA * LAMBDA),
        (Convention::B, LAMBDA / 2.0, 1.0, LAMBDA / 8.0),
        (Convention::C, LAMBDA / 2.0, LAMBDA, LAMBDA / 8.0),
        (Convention::D, LAMBDA, 1.0, LAMBDA / 4.0),
    ];
    for (convention, of_var, of_eps, of_rows) in cases {
        let strength = Some(ForeignStrength { convention, lambda: LAMBDA });
        let settings = ForeignSettings { strength, epsilon: EPSILON, ..Default::default() };
        let foreign = open(&REFERENCE).expect("sound");
        let (prior, _) =
            foreign.attach(&weights, &model.fingerprint(), &settings).expect("a prior");
        for part in plain.parameters() {
            let precision = prior.precision(part.name()).expect("known");
            let diagonal: Vec<f64> = precision.iter().map(|&p| f64::from(p).recip()).collect();
            let eps = of_eps * f64::from(EPSILON);
            let expected: Vec<f64> =
                part.var().iter().map(|&v| of_var * f64::from(v) + eps).collect();
            let error = worst(&diagonal, &expected);
            assert!(error < ROUNDING, "{convention:?} {}: d {error:e}", part.name());
            let factor = prior.factor(part.name()).expect("known").expect("low rank");
            let rows = factor.shape()[0] as f64;
            let found: Vec<f64> =
                covariance(&factor).into_iter().map(|c| c * (rows - 1.0)).collect();
            let products = covariance(part.dev().expect("rows")).into_iter();
            let expected: Vec<f64> = products.map(|c| of_rows * 4.0 * c).collect();
            let error = worst(&found, &expected);
            assert!(error < ROUNDING, "{convention:?} {}: W {error:e}", part.name());
        }
    }
}

/// The covariance that rows stand for, of the first weights of a parameter.
fn covariance(dev: &Tensor) -> Vec<f64> {
    let rows = dev.shape()[0];
    let dev = contiguous(dev);
    let len = dev.len() / rows;
    let entry = |i: usize, j: usize| {
        (0..rows).map(|k| f64::from(dev[k * len + i]) * f64::from(dev[k * len + j])).sum::<f64>()
    };
    let few = len.min(4);
    let pairs = (0..few).flat_map(|i| (0..few).map(move |j| (i, j)));
    pairs.map(|(i, j)| entry(i, j) / (rows as f64 - 1.0)).collect()
}

/// Fails unless a prior has the moments that PyTorch computed.
fn assert_moments(prior: &Prior, kind: &str) {
    let expected: BTreeMap<String, Tensor> = tensors("models/foreign/expected.safetensors");
    let numbers = |tensor: &Tensor| -> Vec<f64> { tensor.iter().map(|&x| x.into()).collect() };
    let names = expected.keys().filter(|name| name.starts_with(&format!("{kind}/mean/")));
    assert_eq!(names.count(), prior.parameters().len());
    for parameter in prior.parameters() {
        let name = parameter.name();
        let of = |part: &str| &expected[&format!("{kind}/{part}/{name}")];
        let mean = relative_error(&contiguous(parameter.mean()), &numbers(of("mean")));
        assert!(mean < MEAN, "{name}: mean {mean:e}");
        let var = relative_error(&contiguous(parameter.var()), &numbers(of("var")));
        assert!(var < VARIANCE, "{name}: var {var:e}");
        let found: Vec<f32> =
            covariance(parameter.dev().expect("rows")).into_iter().map(|x| x as f32).collect();
        let dev = relative_error(&found, &covariance(of("dev")));
        assert!(dev < DEVIATION, "{name}: dev {dev:e}");
    }
}

const REFERENCE: [&str; 4] =
    ["reference_covmat.pt", "reference_mean.pt", "reference_model.pt", "reference_variance.pt"];

#[test]
fn the_reference_s_four_files_become_a_prior() {
    let (prior, report) = import(&REFERENCE, "backbone.onnx").expect("a prior");
    assert_moments(&prior, "reference");
    assert_eq!(report.layout, Layout::Reference);
    // Statistics of BatchNorm and the head are not in the prior.
    assert_eq!((report.parameters, report.matched, report.dimension), (8, 8, 288));
    let deviations = report.deviations.expect("low rank");
    assert_eq!((deviations.stored, deviations.zero), (5, 1));
    assert_eq!((deviations.scaling, prior.rank()), (Scaling::Raw, 4));
    assert!(report.backbone_distance < 0.05 && report.ignored.is_empty());
    assert_eq!(prior.header().learned.snapshots, 5);
}

/// Normalised deviations, strides, `f64`, protocol 4, the format before PyTorch 1.6: all the same.
#[test]
fn every_way_of_storing_them_gives_the_same_prior() {
    let (expected, _) = import(&REFERENCE, "backbone.onnx").expect("a prior");
    let strided =
        ["strided_covmat.pt", "legacy_mean.pt", "legacy_model.pt", "protocol4_variance.pt"];
    let (found, _) = import(&strided, "backbone.onnx").expect("a prior");
    assert_eq!(found.to_bytes().expect("bytes"), expected.to_bytes().expect("bytes"));
    let normalised = [&["normalised_covmat.pt"], &REFERENCE[1..]].concat();
    let (found, report) = import(&normalised, "backbone.onnx").expect("a prior");
    assert_eq!(report.deviations.expect("low rank").scaling, Scaling::Normalised);
    assert_moments(&found, "reference");
    let (diagonal, _) = import(&REFERENCE[1..], "backbone.onnx").expect("a prior");
    assert_eq!(diagonal.rank(), 0);
}

#[test]
fn a_checkpoint_of_swa_gaussian_becomes_a_prior() {
    let (prior, report) = import(&["swag.pt"], "backbone.onnx").expect("a prior");
    assert_moments(&prior, "swag");
    assert_eq!(report.layout, Layout::SwaGaussian);
    assert_eq!(report.ignored, ["base.fc.weight", "base.fc.bias"]);
    assert_eq!((report.matched, report.rank), (8, 4));
    assert_eq!(prior.header().learned.snapshots, 7);
}

/// The spread of one weight near 1 is 1e-5, which its mean square in `f32` does not resolve; the
/// deviations do.
#[test]
fn a_variance_lost_to_cancellation_comes_from_the_deviations() {
    let (prior, report) = import(&["swag.pt"], "backbone.onnx").expect("a prior");
    assert_eq!(report.cancelled, 1);
    let expected = tensors("models/foreign/expected.safetensors");
    let expected = f64::from(expected["swag/var/bn1.weight"][[0]]);
    let found = f64::from(prior.parameter("bn1.weight").expect("known").var()[[0]]);
    // An estimate from 4 of 7 snapshots, the largest ones.
    assert!(found > 0.5 * expected && found < 4.0 * expected, "{found:e} for {expected:e}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let permuted = ["permuted_model.pt", REFERENCE[0], REFERENCE[1], REFERENCE[3]];
    let cases: [(&[&str], &str, &str); 4] = [
        (&permuted, "backbone.onnx", "the model's weights are not those the mean is of"),
        (&REFERENCE, "other.onnx", "the backbone's weights are not those the prior is of"),
        (&["swag.pt"], "other.onnx", "the backbone's weights are not those the prior is of"),
        (&["swag.pt", REFERENCE[0]], "backbone.onnx", "swag.pt is a prior of its own"),
    ];
    for (files, backbone, says) in cases {
        let error = import(files, backbone).expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
    for files in [&REFERENCE[..], &["swag.pt"]] {
        let demo = Model::load(&repository("models/demo/backbone.onnx")).expect("another network");
        let error = attach(open(files).expect("sound"), &demo).expect_err("another network");
        assert_eq!(error.kind(), Kind::Mismatch);
        assert!(error.to_string().contains("weights are not in the files"), "{error}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_command_imports_and_loses_nothing_when_it_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("prior.safetensors");
    let run = |backbone: &str, file: &Path, more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_priorfit"))
            .args(["prior", "import", "--json", "--backbone"])
            .arg(repository(&format!("models/foreign/{backbone}")))
            .arg("--out")
            .args([out.as_path(), file])
            .args(more)
            .output()
            .expect("the program starts")
    };
    let prefix = repository("models/foreign/reference");
    let done = run("backbone.onnx", &prefix, &["--num-data", "9", "--epsilon", "0.1"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(report["deviations"]["scaling"], "raw");
    assert_eq!((&report["matched"], &report["rank"]), (&8.into(), &4.into()));
    let prior = Prior::load(&out).expect("the prior");
    assert_eq!((prior.header().num_data, prior.header().eps), (9, 0.1));
    let before = std::fs::read(&out).expect("the prior");
    let harmful = folder.path().join("x_model.pt");
    std::fs::write(&harmful, b"\x80\x02cos\nsystem\nX\x04\0\0\0echo\x85R.").expect("written");
    let unclear = run("backbone.onnx", &prefix, &["--convention", "a"]);
    assert_eq!(unclear.status.code(), Some(2), "a convention needs its strength");
    let wrong = run("backbone.onnx", &prefix, &["--convention", "a", "--lambda", "0"]);
    let errors = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(errors.contains("the foreign strength is 0"), "{errors}");
    let other = run("other.onnx", &prefix, &[]);
    let harmful = run("backbone.onnx", &harmful, &[]);
    for (output, says) in [(other, "are not those the prior is of"), (harmful, "x_model.pt")] {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(says) && !errors.contains("panicked"), "{errors}");
    }
    assert_eq!(std::fs::read(&out).expect("the prior"), before);
    let scaled = ["--convention", "b", "--lambda", "1e5", "--blocks", "tensor"];
    let done = run("backbone.onnx", &prefix, &scaled);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let prior = Prior::load(&out).expect("the prior");
    let notes = &prior.header().notes;
    assert!(notes.contains("convention B at 100000: use strength 1"), "{notes}");
    // Fewer weights than a block of its own has: one block of them all.
    assert_eq!((prior.header().version, prior.blocks()), (VERSION_BLOCKS, 1));
}

/// What the exporter made of a training run is a backbone and a prior as they are.
#[test]
fn an_exported_pair_is_adapted() {
    let folder = repository("models/exported");
    let model = Model::load(&folder.join("backbone.onnx")).expect("a model");
    let model = Arc::new(model.cut_at_features(None).expect("features"));
    let prior = Prior::load(&folder.join("prior.safetensors")).expect("a prior");
    let file = std::fs::read(folder.join("prior.safetensors")).expect("the file");
    assert_eq!(prior.to_bytes().expect("bytes"), file, "one prior has one file");
    assert_eq!((prior.rank(), prior.header().learned.snapshots), (4, 6));
    for (name, weight) in model.weights() {
        assert_eq!(prior.mean(name).expect("covered"), *weight, "{name}");
    }
    let expected = tensors("models/exported/expected.safetensors");
    assert_features(&model, &expected["input"], &expected["features"]);
    let images = Array4::from_shape_fn((8, 3, 8, 8), |(n, c, y, x)| {
        let bright = if (x < 4) == (n % 2 == 1) { 1.0 } else { 0.0 };
        bright + 0.1 * ((n + 3 * c + 5 * y + 7 * x) as f32).sin()
    });
    let labels: Vec<usize> = (0..8).map(|n| n % 2).collect();
    let classes = vec!["left".to_string(), "right".to_string()];
    let train = Dataset::from_arrays_f32(images.view(), Some(&labels), classes);
    let train = train.expect("a data set");
    let settings = Settings { steps: 5, batch_size: 4, ..Settings::default() };
    Adapter::new(model, Preprocess::new(3, 8, 8), Arc::new(Threads::new(2)))
        .with_prior(prior)
        .expect("they belong together")
        .with_settings(settings)
        .expect("sound settings")
        .fit(&train, None, &mut |_| Control::Continue)
        .expect("a run");
}

/// Fails unless the network's output is what PyTorch computed with the mean weights.
fn assert_features(model: &Model, input: &Tensor, expected: &Tensor) {
    let graph = model.graph(input.shape()).expect("imported");
    let output = graph.outputs()[0].0.clone();
    let mut backend = Cpu::new(Arc::new(Threads::new(1)));
    let plan = backend.load(Plan::compile(&graph).expect("a plan")).expect("loaded");
    for (name, weight) in model.weights() {
        let leaf = resident(priorfit::graph::LeafKind::Param, name);
        backend.set(&leaf, &contiguous(weight)).expect("a weight");
    }
    backend.write(plan, &model.inputs()[0].name, &contiguous(input)).expect("written");
    backend.run(plan).expect("run");
    let mut got = vec![0.0; expected.len()];
    backend.read(plan, &output, &mut got).expect("read");
    let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
    let error = relative_error(&got, &expected);
    assert!(error < FORWARD, "relative error {error:e}");
}
