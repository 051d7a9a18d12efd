//! Whole networks: the tiny golden ones of `models/golden`, made by PyTorch's exporters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::{TOLERANCE, evaluate, relative_error, wave};
use crate::onnx::{Dim, Model};
use crate::tensor::{Tensor, tensor};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden");
    let entries = std::fs::read_dir(folder).expect("the golden files are in the repository");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    files.sort();
    assert!(files.len() >= 30, "{} golden files", files.len());
    files
}

fn stored(file: &SafeTensors<'_>, name: &str) -> Tensor {
    let view = file.tensor(name).expect("the golden file has it");
    let elements = match view.dtype() {
        Dtype::F64 => {
            view.data().as_chunks().0.iter().map(|&x| f64::from_le_bytes(x) as f32).collect()
        }
        _ => view.data().as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
    };
    tensor(view.shape(), elements).expect("safetensors checks sizes")
}

#[test]
fn golden_networks_agree_with_pytorch() {
    for path in files() {
        let what = path.display();
        let model = Model::load(&path).expect("golden files are sound");
        let bytes = std::fs::read(path.with_extension("safetensors")).expect("it has a twin");
        let golden = SafeTensors::deserialize(&bytes).expect("it is sound");
        let found = evaluate(&model, &stored(&golden, "input"));
        for (port, found) in model.outputs().iter().zip(&found) {
            let error = relative_error(found, &stored(&golden, &format!("output/{}", port.name)));
            assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
        }
        let trained: BTreeSet<&str> =
            golden.names().iter().filter_map(|name| name.strip_prefix("grad/")).collect();
        assert_eq!(
            model.weights().map(|(name, _)| name).collect::<BTreeSet<_>>(),
            trained,
            "{what}"
        );
    }
}

#[test]
fn golden_networks_take_any_batch() {
    for path in files() {
        let model = Model::load(&path).expect("golden files are sound");
        let dims = model.inputs()[0].dims.clone().expect("golden inputs are declared");
        let fixed = |dim: &Dim| if let Dim::Fixed(extent) = dim { *extent } else { 1 };
        for batch in [1, 3] {
            let mut shape: Vec<usize> = dims.iter().map(fixed).collect();
            shape[0] = batch;
            let x = wave(&shape, 0.3);
            let expected = model.reference(std::slice::from_ref(&x)).expect("tract runs it");
            let error = relative_error(&evaluate(&model, &x)[0], &expected[0]);
            assert!(error <= TOLERANCE, "{} x {batch}: relative error {error:e}", path.display());
        }
    }
}
