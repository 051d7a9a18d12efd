//! Adapted networks for tests: golden networks with draws around their weights and random heads.

use std::sync::Arc;

use ndarray::Array4;
use priorfit::data::{Dataset, Preprocess};
use priorfit::onnx::{Dim, Model};
use priorfit::posterior::{Description, Posterior, VERSION};
use priorfit::prior::Weights;
use priorfit::rng::{Key, Stream};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT, Standard, Task};
use priorfit::tensor::{Tensor, tensor};
use priorfit::threads::Threads;

use super::repository;

/// Images that each network is asked about.
pub const IMAGES: usize = 3;
/// What logits are divided by.
pub const TEMPERATURE: f64 = 1.7;
/// Outputs of each network.
pub const OUTPUTS: usize = 4;

fn names() -> Vec<String> {
    ["a", "b", "c", "d"].map(str::to_string).to_vec()
}

/// One of each task.
pub fn tasks() -> [Task; 4] {
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
pub fn posterior(model: Model, task: Task, input: Preprocess, draws: u64) -> Posterior {
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

/// A golden network up to its features.
pub fn golden(name: &str) -> Model {
    let model = Model::load(&repository(&format!("models/golden/{name}.onnx")));
    model.and_then(|model| model.cut_at_features(None)).expect("a golden network")
}

/// Images as a network takes them.
pub fn input_of(model: &Model) -> Preprocess {
    let dims = model.inputs()[0].dims.clone().expect("declared");
    let extent = |axis: usize| match dims[axis] {
        Dim::Fixed(extent) => extent,
        _ => panic!("images of one size"),
    };
    Preprocess::new(extent(1), extent(2), extent(3))
}

/// Images of the input's size: what the network reads, and as data.
pub fn images(input: &Preprocess) -> (Tensor, Dataset) {
    let shape = (IMAGES, input.channels, input.height, input.width);
    let mut random = Key::new(29, Stream::Probe).at(0);
    let x = Array4::from_shape_fn(shape, |_| random.normal());
    let data = Dataset::from_arrays_f32(x.view(), None, Vec::new()).expect("images");
    (x.into_dyn().into_shared(), data)
}

/// The predictions of a posterior, `[N, ..]`; classes of masks come before the pixels.
pub fn predicted(posterior: &Posterior, data: &Dataset) -> Vec<f64> {
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
