//! Adapted networks as ONNX: whoever runs the file predicts what the posterior does.

use std::path::Path;
use std::sync::Arc;

use ndarray::Axis;
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::data::Preprocess;
use priorfit::onnx::{Dim, Model};
use priorfit::plan::Plan;
use priorfit::posterior::{About, ExportSettings, Exported, NUMBERS, PROBABILITIES, Posterior};
use priorfit::task::{LOGITS, Task};
use priorfit::tensor::{Tensor, contiguous};
use priorfit::threads::Threads;

use crate::support::adapted::{
    IMAGES, OUTPUTS, TEMPERATURE, golden, images, input_of, posterior, predicted, tasks,
};
use crate::support::{FORWARD, golden_names, onnx_runtime, relative_error, resident};

/// The last output as our own engine computes it.
fn own(model: &Model, x: &Tensor) -> Vec<f32> {
    let graph = model.graph(x.shape()).expect("a graph");
    let mut backend = Cpu::new(Arc::new(Threads::new(2)));
    let plan = backend.load(Plan::compile(&graph).expect("a plan")).expect("loaded");
    for (name, weight) in model.weights() {
        let leaf = resident(priorfit::graph::LeafKind::Param, name);
        backend.set(&leaf, &contiguous(weight)).expect("a weight");
    }
    backend.write(plan, &model.inputs()[0].name, &contiguous(x)).expect("written");
    backend.run(plan).expect("a run");
    let (name, value) = graph.outputs().last().expect("an output");
    let mut found = vec![0.0; graph.shape(*value).len()];
    backend.read(plan, name, &mut found).expect("read");
    found
}

/// Checks that tract, our own engine and ONNX Runtime, where there is one, find in an exported file
/// what the posterior predicts.
fn check(what: &str, posterior: &Posterior, path: &Path) {
    let model = Model::load(path).expect("sound ONNX");
    let (x, data) = images(&posterior.description().preprocess);
    let expected = predicted(posterior, &data);
    let reference = model.reference(std::slice::from_ref(&x)).expect("tract runs it");
    let last = contiguous(reference.last().expect("an output")).to_vec();
    let mut all = vec![("tract", last), ("own", own(&model, &x))];
    all.extend(onnx_runtime::last_output(&model, &x).map(|found| ("ONNX Runtime", found)));
    for (engine, found) in all {
        let error = relative_error(&found, &expected);
        assert!(error <= FORWARD, "{what}: {engine} is off by {error:e}");
    }
    let names: Vec<&str> = model.outputs().iter().map(|port| port.name.as_str()).collect();
    match posterior.description().task {
        Task::Regression { .. } => assert_eq!(names, [NUMBERS], "{what}"),
        _ => assert_eq!(names, [LOGITS, PROBABILITIES], "{what}"),
    }
    let about = About::of(&model).expect("its metadata").expect("it was exported");
    assert_eq!(about.task, posterior.task());
    assert_eq!(about.preprocess, posterior.description().preprocess);
    assert_eq!((about.temperature, about.draws), (TEMPERATURE, posterior.draws().len()));
}

fn one(external_data: bool) -> ExportSettings {
    ExportSettings { each: false, external_data }
}

#[test]
fn every_golden_network_predicts_the_same_when_exported() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.onnx");
    for (at, name) in golden_names().iter().enumerate() {
        let model = golden(name);
        let input = input_of(&model);
        let task = tasks()[at % 3].clone();
        let posterior = posterior(model, task, input, 1);
        posterior.export(&path, one(at % 2 == 1)).expect("exported");
        check(name, &posterior, &path);
    }
}

#[test]
fn maps_and_tokens_are_averaged_as_in_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.onnx");
    for (name, is_map) in [("mobilenetv2_folded", true), ("resnet_basic_bn", true)] {
        let model = golden(name).cut_at_map(None).expect("a map");
        let dims = model.outputs()[0].dims.clone();
        assert!(is_map && dims.is_none_or(|dims| dims.len() == 4), "{name}");
        let posterior = posterior(model, tasks()[0].clone(), Preprocess::new(3, 32, 48), 1);
        posterior.export(&path, one(false)).expect("exported");
        check(name, &posterior, &path);
    }
}

#[test]
fn masks_are_exported_at_their_own_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.onnx");
    for name in ["resnet_basic_classifier", "mobilenetv2_legacy", "densenet_folded"] {
        let model = golden(name).cut_at_map(None).expect("a map");
        let posterior = posterior(model, tasks()[3].clone(), Preprocess::new(3, 40, 72), 2);
        let paths = posterior.export(&path, ExportSettings { each: true, external_data: false });
        let first = &paths.expect("exported")[0];
        let draw = vec![posterior.draws()[0].clone()];
        let model = Arc::new(posterior.backbone().clone());
        let alone = Posterior::new(posterior.description().clone(), model, draw).expect("one");
        let dims = Model::load(first).expect("sound").outputs()[1].dims.clone().expect("declared");
        assert_eq!(dims[1..], [OUTPUTS, 40, 72].map(Dim::Fixed));
        check_mask(name, &alone, first);
    }
}

/// As [`check`], of one draw of two.
fn check_mask(name: &str, posterior: &Posterior, path: &Path) {
    let model = Model::load(path).expect("sound ONNX");
    let (x, data) = images(&posterior.description().preprocess);
    let expected = predicted(posterior, &data);
    let reference = model.reference(std::slice::from_ref(&x)).expect("tract runs it");
    let mut all = vec![contiguous(&reference[1]).to_vec(), own(&model, &x)];
    all.extend(onnx_runtime::last_output(&model, &x));
    for found in all {
        let error = relative_error(&found, &expected);
        assert!(error <= FORWARD, "{name}: off by {error:e}");
    }
}

/// One file for each draw is the posterior: their mean is what it predicts.
#[test]
fn files_of_draws_average_to_the_prediction() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = golden("resnet_basic_folded");
    let input = input_of(&model);
    let posterior = posterior(model, tasks()[0].clone(), input, 3);
    let path = folder.path().join("net.onnx");
    let paths = posterior.export(&path, ExportSettings { each: true, external_data: false });
    let paths = paths.expect("exported");
    let names = [0, 1, 2].map(|number| folder.path().join(format!("net-{number}.onnx")));
    assert_eq!(paths, names);
    let (x, data) = images(&posterior.description().preprocess);
    let mut sum = vec![0.0f32; IMAGES * OUTPUTS];
    for (number, path) in paths.iter().enumerate() {
        let model = Model::load(path).expect("sound ONNX");
        let about = About::of(&model).expect("its metadata").expect("it was exported");
        assert_eq!((about.weights, about.draws), (Exported::Draw(number), 3));
        sum.iter_mut().zip(own(&model, &x)).for_each(|(sum, p)| *sum += p / 3.0);
    }
    let error = relative_error(&sum, &predicted(&posterior, &data));
    assert!(error <= FORWARD, "off by {error:e}");
    // The mean's weights are another network.
    let mean = posterior.to_model(Exported::Mean).expect("a network");
    let name = mean.weights().next().expect("a weight").0.to_string();
    let expected = posterior.draws().iter().fold(0.0, |sum, draw| sum + draw[&name].sum() / 3.0);
    let found = mean.weight(&name).expect("a weight").sum();
    assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found}, {expected}");
    let refused = posterior.to_model(Exported::Draw(3)).map(|_| ()).expect_err("three draws");
    assert!(refused.to_string().contains("no draw 3"), "{refused}");
}

/// What went in comes out: the network before adaptation, to the last bit.
#[test]
fn an_adaptation_is_undone_to_the_last_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = golden("mobilenetv2_bn");
    let input = input_of(&before);
    let posterior = posterior(before.clone(), tasks()[0].clone(), input.clone(), 2);
    posterior.save(folder.path()).expect("saved");
    let loaded = Posterior::load(folder.path()).expect("loaded");
    let after = loaded.backbone();
    assert_eq!(after.fingerprint(), before.fingerprint());
    assert_eq!(after.to_bytes().expect("bytes"), before.to_bytes().expect("bytes"));
    let (x, _) = images(&input);
    assert_eq!(own(after, &x), own(&before, &x));
}

/// An exported file is a backbone like any other: cut, it gives the adapted features.
#[test]
fn an_exported_network_can_be_adapted_again() {
    let model = golden("resnet_bottleneck_folded");
    let input = input_of(&model);
    let posterior = posterior(model.clone(), tasks()[0].clone(), input.clone(), 1);
    let exported = posterior.to_model(Exported::Draw(0)).expect("a network");
    let cut = exported.cut_at_features(None).expect("cut");
    let own_names = |model: &Model| model.weights().map(|(n, _)| n.to_string()).collect::<Vec<_>>();
    assert_eq!(own_names(&cut), own_names(&model));
    let (x, _) = images(&input);
    let draw = &posterior.draws()[0];
    let own_draw = draw.iter().filter(|(name, _)| model.weight(name).is_some());
    let moved = model.with_weights(own_draw.map(|(n, w)| (n.as_str(), w))).expect("its weights");
    assert_eq!(own(&cut, &x), own(&moved, &x));
    let rows = cut.reference(std::slice::from_ref(&x)).expect("features");
    assert_eq!(rows[0].len_of(Axis(0)), IMAGES);
}
