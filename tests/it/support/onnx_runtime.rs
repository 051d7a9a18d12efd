//! ONNX Runtime for tests: the library that `PRIORFIT_ORT_LIBRARY` names.

use std::path::PathBuf;

use ndarray::Axis;
use priorfit::onnx::Model;
use priorfit::posterior::ort_reference;
use priorfit::tensor::{Tensor, contiguous};

/// What makes a test without the library a failure, if it is 1.
const REQUIRE: &str = "PRIORFIT_REQUIRE_ORT";
/// What names it.
const LIBRARY: &str = "PRIORFIT_ORT_LIBRARY";

/// The library; without it the test is skipped, with a reason, unless `PRIORFIT_REQUIRE_ORT` is 1.
pub fn library() -> Option<PathBuf> {
    let library = match cfg!(feature = "ort") {
        true => std::env::var_os(LIBRARY).ok_or(format!("{LIBRARY} names no library")),
        false => Err("built without the feature `ort`".to_string()),
    };
    library
        .map(PathBuf::from)
        .map_err(|reason| {
            let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
            assert!(!required, "{REQUIRE} is 1, but {reason}");
            println!("skipped on ONNX Runtime: {reason}; {REQUIRE}=1 makes this a failure");
        })
        .ok()
}

/// The last output of a file for images `x`, if there is the library. A file whose batch is baked
/// in takes as many of them at a time.
pub fn last_output(model: &Model, x: &Tensor) -> Option<Vec<f32>> {
    let library = library()?;
    let dims = model.inputs()[0].dims.as_ref();
    let batch = dims.and_then(|dims| dims[0].fixed()).unwrap_or(x.shape()[0]);
    let mut all = Vec::new();
    for part in x.axis_chunks_iter(Axis(0), batch) {
        let outputs = ort_reference(&library, model, &[part.to_shared()]);
        let outputs = outputs.expect("ONNX Runtime runs it");
        all.extend_from_slice(&contiguous(outputs.last().expect("an output")));
    }
    Some(all)
}
