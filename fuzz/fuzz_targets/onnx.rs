//! Any bytes as an ONNX file: an error or a model, never a panic, and so for all that is done to it.
//!
//! Panics of tract are caught by the library and become errors. The fuzzer's own panic hook would
//! abort on them all the same, so it is taken out; a panic that leaves the library still aborts.

#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use priorfit::onnx::Model;
use priorfit::plan::Plan;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let Ok(model) = Model::from_bytes(bytes, None) else { return };
    let Ok(model) = model.cut_at_features(None) else { return };
    let Ok(graph) = model.graph(&[1, 3, 8, 8]) else { return };
    graph.check().expect("an imported graph is well formed");
    let _ = Plan::compile(&graph);
});
