//! What several tests need: golden files, random arrays, comparison with named tolerances.

pub mod adapted;
#[cfg(feature = "gpu")]
pub mod case;
pub mod gpu;
pub mod memory;
pub mod networks;
pub mod onnx_runtime;

use std::collections::BTreeMap;
use std::path::PathBuf;

use priorfit::graph::eval::Array;
use priorfit::graph::{Graph, Leaf, LeafKind};
use priorfit::rng::{Key, Stream};
use priorfit::tensor::{Shape, Tensor, tensor};

/// Relative error of a forward pass in `f32` against an oracle.
pub const FORWARD: f64 = 1e-4;
/// Relative error of a gradient in `f32` against an oracle.
pub const GRADIENT: f64 = 1e-3;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Names of the golden networks.
pub fn golden_names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(repository("models/golden"))
        .expect("the golden folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".onnx").map(str::to_string))
        .collect();
    names.sort();
    names
}

/// All tensors of a safetensors file.
pub fn tensors(path: &str) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(repository(path)).expect("a golden file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            (name, tensor(view.shape(), data).expect("a tensor of its shape"))
        })
        .collect()
}

/// Standard normals.
pub fn normal(shape: &Shape, lane: u64) -> Vec<f32> {
    let mut sequence = Key::new(5, Stream::Probe).at(lane);
    (0..shape.len()).map(|_| sequence.normal()).collect()
}

/// An array of the interpreter.
pub fn array(shape: &Shape, data: &[f32]) -> Array {
    Array::from_fn(shape, |i| f64::from(data[i]))
}

/// Largest difference relative to the largest element of `expected`.
pub fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    relative_error_above(got, expected, 1e-30)
}

/// Largest difference relative to the largest element of `expected`, or to `floor` if that is more.
pub fn relative_error_above(got: &[f32], expected: &[f64], floor: f64) -> f64 {
    assert_eq!(got.len(), expected.len(), "as many elements as expected");
    let scale = expected.iter().fold(floor, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(expected).fold(0.0f64, |m, (&g, &e)| {
        let difference = (f64::from(g) - e).abs();
        if difference.is_nan() { f64::INFINITY } else { m.max(difference) }
    });
    worst / scale
}

/// The leaves of a graph with their shapes.
pub fn leaves(graph: &Graph) -> Vec<(Leaf, Shape)> {
    graph.leaves().map(|(leaf, value)| (leaf.clone(), graph.shape(value).clone())).collect()
}

/// A resident leaf.
pub fn resident(kind: LeafKind, name: &str) -> Leaf {
    Leaf { kind, name: name.to_string() }
}
