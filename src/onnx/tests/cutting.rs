//! Classifiers cut off, and files made for one batch size.

use super::Attribute::{Int, Ints};
use super::{File, check, evaluate, relative_error, wave};
use crate::onnx::{Dim, Model};

fn features(file: File) -> File {
    file.weight("conv", &[5, 3, 3, 3])
        .node("Conv", &["x", "conv"], "a")
        .node("Relu", &["a"], "r")
        .node("GlobalAveragePool", &["r"], "p")
        .node("Flatten", &["p"], "f")
}

fn gemm(file: File, output: &str) -> File {
    let attributes = [("transB", Int(1))];
    file.weight("fc", &[7, 5]).weight("bias", &[7]).node_with(
        "Gemm",
        &["f", "fc", "bias"],
        output,
        &attributes,
    )
}

fn product(file: File) -> File {
    file.weight("fc", &[5, 7])
        .weight("bias", &[7])
        .node("MatMul", &["f", "fc"], "m")
        .node("Add", &["bias", "m"], "l")
        .node("Softmax", &["l"], "y")
}

#[test]
fn the_classifier_is_cut_off() {
    let shape = [2, 3, 6, 6];
    let whole = features(File::new(&shape)).node("Identity", &["f"], "y").model();
    let expected = evaluate(&whole, &wave(&shape, 0.3));
    let files = [gemm(features(File::new(&shape)), "y"), product(features(File::new(&shape)))];
    for file in files {
        let cut = file.model().cut_at_features(None).expect("there is a classifier");
        assert_eq!(cut.outputs()[0].name, "f");
        assert_eq!(cut.params().len(), 1, "the classifier's weights are gone");
        assert!(cut.notes().iter().any(|note| note.contains("was cut off")));
        let found = evaluate(&cut, &wave(&shape, 0.3));
        assert!(relative_error(&found[0], &expected[0]) <= super::TOLERANCE);
        check("cut", &cut, &shape);
    }
}

#[test]
fn a_model_without_classifier_is_left_alone() {
    let model = features(File::new(&[2, 3, 6, 6])).node("Relu", &["f"], "y").model();
    let cut = model.cut_at_features(None).expect("nothing is to be cut");
    assert_eq!(cut.outputs(), model.outputs());
    assert!(cut.notes().iter().any(|note| note.contains("no dense layer")));
}

#[test]
fn a_cut_may_be_named() {
    let file = gemm(features(File::new(&[2, 3, 6, 6])), "y");
    for name in ["r", "Relu_2"] {
        let cut = file.model().cut_at_features(Some(name)).expect("the value exists");
        assert_eq!(cut.outputs()[0].name, "r");
        check("cut at a map", &cut, &[2, 3, 6, 6]);
    }
    let error = file.model().cut_at_features(Some("nowhere")).expect_err("no such value");
    assert!(error.to_string().contains("'nowhere'"));
}

#[test]
fn a_fixed_batch_can_be_changed() {
    let file = File::new(&[1, 3, 4])
        .weight("w", &[4, 8])
        .weight("token", &[1, 1, 8])
        .ints("heads", &[1, 3, 2, 4])
        .ints("merged", &[1, 24])
        .node("MatMul", &["x", "w"], "a")
        .node("Reshape", &["a", "heads"], "h")
        .node_with("Transpose", &["h"], "t", &[("perm", Ints(&[0, 2, 1, 3]))])
        .node("Reshape", &["t", "merged"], "m")
        .ints("back", &[1, 3, 8])
        .node("Reshape", &["m", "back"], "b")
        .node_with("Concat", &["token", "b"], "y", &[("axis", Int(1))]);
    let model = file.model();
    assert_eq!(model.inputs()[0].dims.as_ref().map(|dims| dims[0].clone()), Some(Dim::Fixed(1)));
    assert!(model.notes().iter().any(|note| note.contains("a batch of exactly 1")));
    for batch in [1, 2, 3] {
        check("fixed batch", &model, &[batch, 3, 4]);
    }
}

#[test]
fn other_extents_cannot_be_changed() {
    let file = File::new(&[1, 3, 4]).weight("w", &[4, 8]).node("MatMul", &["x", "w"], "y");
    let error = |model: &Model, shape: &[usize]| {
        model.graph(shape).expect_err("the shape does not fit").to_string()
    };
    let model = file.model();
    assert!(error(&model, &[1, 2, 4]).contains("the model takes [1,3,4]"));
    assert!(error(&model, &[1, 3]).contains("the model takes [1,3,4]"));
    let pairs = File::new(&[2, 4]).node("Neg", &["x"], "y").model();
    assert!(error(&pairs, &[3, 4]).contains("exported for exactly 2"));
}
