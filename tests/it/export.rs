//! Adapted networks as ONNX: whoever runs the file predicts what the posterior does.

use std::path::Path;
use std::sync::Arc;

use ndarray::{Array4, Axis};
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::data::{Dataset, Preprocess};
use priorfit::onnx::{Dim, Model};
use priorfit::plan::Plan;
use priorfit::posterior::{
    About, Description, ExportSettings, Exported, NUMBERS, PROBABILITIES, Posterior, VERSION,
};
use priorfit::prior::Weights;
use priorfit::rng::{Key, Stream};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT, LOGITS, Standard, Task};
use priorfit::tensor::{Tensor, contiguous, tensor};
use priorfit::threads::Threads;

use crate::support::{FORWARD, golden_names, relative_error, repository, resident};

/// Images that each network is asked about.
const IMAGES: usize = 3;
/// What logits are divided by.
const TEMPERATURE: f64 = 1.7;
const OUTPUTS: usize = 4;

fn names() -> Vec<String> {
    ["a", "b", "c", "d"].map(str::to_string).to_vec()
}

fn tasks() -> [Task; 4] {
    let standard = |column: usize| Standard {
        mean: 10.0 * column as f64,
        std: 0.5 + column as f64,
        noise: Some(1.0),
    };
    [
        Task::Classification { classes: names() },
        Task::MultiLabel { labels: names() },
        Task::Regression { outputs: names(), standard: (0..OUTPUTS).map(standard).collect() },
        Task::Segmentation { classes: names(), ignore: 255 },
    ]
}

/// Draws around the weights of `model`, with heads of `features`.
fn posterior(model: Model, task: Task, input: Preprocess, draws: u64) -> Posterior {
    let Preprocess { channels, height, width, .. } = input;
    let batch = match model.inputs()[0].dims.as_ref().map(|dims| dims[0].clone()) {
        Some(Dim::Fixed(batch)) => batch,
        _ => 1,
    };
    let graph = model.graph(&[batch, channels, height, width]).expect("a graph");
    let shape = graph.shape(graph.outputs()[0].1).clone();
    // Channels of maps, the width of tokens, or features.
    let features = if shape.ndim() == 3 { shape[2] } else { shape[1] };
    let draw = |number: u64| {
        let mut random = Key::new(23, Stream::Probe).at(number);
        let mut of = |shape: &[usize], scale: f32| {
            let data = (0..shape.iter().product()).map(|_| scale * random.normal()).collect();
            tensor(shape, data).expect("a tensor")
        };
        let mut draw = Weights::new();
        for (name, weight) in model.weights() {
            let moved = weight * &of(weight.shape(), 0.02).mapv(|x| 1.0 + x);
            draw.insert(name.to_string(), moved.into_shared());
        }
        draw.insert(HEAD_WEIGHT.to_string(), of(&[OUTPUTS, features], 1.0));
        draw.insert(HEAD_BIAS.to_string(), of(&[OUTPUTS], 1.0));
        draw
    };
    let draws = (0..draws).map(draw).collect();
    let description = Description {
        version: VERSION,
        backbone: model.fingerprint(),
        task,
        preprocess: input,
        temperature: TEMPERATURE,
        provenance: serde_json::Value::Null,
        calibration: None,
    };
    Posterior::new(description, Arc::new(model), draws).expect("a posterior")
}

fn golden(name: &str) -> Model {
    let model = Model::load(&repository(&format!("models/golden/{name}.onnx")));
    model.and_then(|model| model.cut_at_features(None)).expect("a golden network")
}

fn input_of(model: &Model) -> Preprocess {
    let dims = model.inputs()[0].dims.clone().expect("declared");
    let extent = |axis: usize| match dims[axis] {
        Dim::Fixed(extent) => extent,
        _ => panic!("images of one size"),
    };
    Preprocess::new(extent(1), extent(2), extent(3))
}

/// Images of the input's size: what the network reads, and as data.
fn images(input: &Preprocess) -> (Tensor, Dataset) {
    let shape = (IMAGES, input.channels, input.height, input.width);
    let mut random = Key::new(29, Stream::Probe).at(0);
    let x = Array4::from_shape_fn(shape, |_| random.normal());
    let data = Dataset::from_arrays_f32(x.view(), None, Vec::new()).expect("images");
    (x.into_dyn().into_shared(), data)
}

/// The predictions of a posterior, `[N, ..]`; classes of masks come before the pixels.
fn predicted(posterior: &Posterior, data: &Dataset) -> Vec<f64> {
    let mut all = Vec::new();
    posterior
        .predict_parts(data, Arc::new(Threads::new(2)), &mut |_| true, &mut |part| {
            all.extend(part.mean);
            Ok(())
        })
        .expect("predictions");
    let pixels = all.len() / (IMAGES * OUTPUTS);
    let place = |at: usize| {
        let (n, class, pixel) = (at / (OUTPUTS * pixels), at / pixels % OUTPUTS, at % pixels);
        (n * pixels + pixel) * OUTPUTS + class
    };
    (0..all.len()).map(|at| all[place(at)]).collect()
}

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

/// Checks that tract and our own engine find in an exported file what the posterior predicts.
fn check(what: &str, posterior: &Posterior, path: &Path) {
    let model = Model::load(path).expect("sound ONNX");
    let (x, data) = images(&posterior.description().preprocess);
    let expected = predicted(posterior, &data);
    let reference = model.reference(std::slice::from_ref(&x)).expect("tract runs it");
    let last = contiguous(reference.last().expect("an output")).to_vec();
    for (engine, found) in [("tract", last), ("own", own(&model, &x))] {
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
    for found in [contiguous(&reference[1]).to_vec(), own(&model, &x)] {
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
