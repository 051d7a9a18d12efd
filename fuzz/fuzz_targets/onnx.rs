//! Any bytes as an ONNX file: an error or a model, never a panic, and so for all that is done to it.
//!
//! Panics of tract are caught by the library and become errors. The fuzzer's own panic hook would
//! abort on them all the same, so it is taken out; a panic that leaves the library still aborts.

#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use priorfit::onnx::{Dim, Model};
use priorfit::plan::Plan;

/// The most numbers of an input: an execution must stay short.
const INPUT_LEN_MAX: usize = 1 << 16;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let Ok(model) = Model::from_bytes(bytes, None) else { return };
    let Ok(model) = model.cut_at_features(None) else { return };
    let Some(shape) = input_shape(&model) else { return };
    let Ok(graph) = model.graph(&shape) else { return };
    graph.check().expect("an imported graph is well formed");
    let _ = Plan::compile(&graph);
});

/// The shape that the file declares, so that sound seeds come to a plan; small where it is open.
fn input_shape(model: &Model) -> Option<Vec<usize>> {
    let Some(dims) = model.inputs().first()?.dims.as_ref() else {
        return Some(vec![1, 3, 8, 8]);
    };
    let open = |axis| [1, 3].get(axis).copied().unwrap_or(8);
    let shape: Vec<usize> = (dims.iter().enumerate())
        .map(|(axis, dim)| match dim {
            Dim::Fixed(extent) => *extent,
            Dim::Symbol(_) | Dim::Unknown => open(axis),
        })
        .collect();
    let len = shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent))?;
    (len <= INPUT_LEN_MAX).then_some(shape)
}
