//! Broken and hostile files: always an error, never a panic.

use super::Attribute::{Int, Ints};
use super::{File, proto};
use crate::onnx::Model;

fn file() -> File {
    File::new(&[2, 3, 6, 6])
        .weight("w", &[4, 3, 3, 3])
        .weight("b", &[4])
        .node_with("Conv", &["x", "w", "b"], "a", &[("pads", Ints(&[1, 1, 1, 1]))])
        .node_with("MaxPool", &["a"], "p", &[("kernel_shape", Ints(&[2, 2]))])
        .ints("s", &[2, -1])
        .node("Reshape", &["p", "s"], "y")
}

#[test]
fn truncated_files_are_refused_or_sound() {
    let bytes = file().bytes();
    for len in 0..bytes.len() {
        if let Ok(model) = Model::from_bytes(&bytes[..len], None) {
            let _ = model.graph(&[2, 3, 6, 6]);
        }
    }
    assert!(Model::from_bytes(&bytes[..bytes.len() / 2], None).is_err());
    assert!(Model::from_bytes(&[], None).is_err());
    assert!(Model::from_bytes(b"this is not a model", None).is_err());
}

#[test]
fn damaged_files_are_refused_or_sound() {
    let bytes = file().bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        if let Ok(model) = Model::from_bytes(&damaged, None) {
            let _ = model.graph(&[2, 3, 6, 6]);
        }
    }
}

#[test]
fn tensors_must_hold_what_they_say() {
    let with = |change: fn(&mut tract_onnx::pb::TensorProto)| {
        let mut file = file();
        change(&mut file.graph.initializer[0]);
        file.error()
    };
    assert!(with(|w| w.dims[0] = -4).contains("negative"));
    assert!(with(|w| w.dims[0] = 5).contains("expected 540"));
    assert!(with(|w| w.dims = vec![i64::MAX; 3]).contains("too many elements"));
    assert!(with(|w| w.raw_data.truncate(7)).contains("7 bytes"));
    assert!(with(|w| w.raw_data.clear()).contains("0 elements"));
    assert!(with(|w| w.data_type = 99).contains("unknown"));
    assert!(with(|w| w.data_type = 8).contains("STRING"));
    assert!(with(|w| w.data_location = Some(1)).contains("no folder"));
    assert!(with(|w| w.name.clear()).contains("no name"));
}

#[test]
fn names_must_be_sound() {
    let unknown = File::new(&[2]).node("Relu", &["nothing"], "y").error();
    assert!(unknown.contains("'nothing', which nothing before it produces"), "{unknown}");
    let cycle = File::new(&[2]).node("Add", &["x", "b"], "a").node("Relu", &["a"], "b");
    assert!(cycle.node("Relu", &["b"], "y").error().contains("without cycles"));
    let twice = File::new(&[2]).node("Relu", &["x"], "y").node("Neg", &["x"], "y").error();
    assert!(twice.contains("value 'y' is defined twice"), "{twice}");
    let twins = File::new(&[2]).weight("w", &[2]).weight("w", &[2]).node("Relu", &["x"], "y");
    assert!(twins.error().contains("initialiser 'w' is defined twice"));
    assert!(File::new(&[2]).node("Relu", &["x"], "z").error().contains("nothing produces"));
    let mut empty = File::new(&[2]);
    empty.graph.output.clear();
    assert!(empty.error().contains("no output"));
}

#[test]
fn windows_have_one_number_of_axes() {
    let conv = |attributes: &[(&str, super::Attribute<'_>)]| {
        File::new(&[2, 3, 6, 6])
            .weight("w", &[4, 3, 3, 3])
            .node_with("Conv", &["x", "w"], "y", attributes)
            .error()
    };
    let error = conv(&[("strides", Ints(&[1])), ("pads", Ints(&[1, 1, 1, 1]))]);
    assert!(error.contains("'strides' (1 numbers) and 'pads' (4)"), "{error}");
    let error = conv(&[("pads", Ints(&[1, 1, 1]))]);
    assert!(error.contains("'pads' has 3 numbers"), "{error}");
}

#[test]
fn absurd_attributes_are_refused() {
    for (name, values) in [
        ("strides", [0, 0]),
        ("strides", [-1, 2]),
        ("dilations", [0, 1]),
        ("dilations", [1 << 40, 1]),
        ("kernel_shape", [0, 0]),
        ("pads", [i64::MAX, i64::MIN]),
    ] {
        let file = File::new(&[2, 3, 6, 6]).weight("w", &[4, 3, 3, 3]).node_with(
            "Conv",
            &["x", "w"],
            "y",
            &[(name, Ints(&values))],
        );
        let error = file.error();
        assert!(error.contains(&format!("attribute '{name}'")), "{error}");
    }
    for perm in [[0, 0], [1, 2], [-1, 0]] {
        let perm = [("perm", Ints(&perm))];
        let error = File::new(&[2, 2]).node_with("Transpose", &["x"], "y", &perm).error();
        assert!(error.contains("each axis once"), "{error}");
    }
    let huge = File::new(&[2]).ints("s", &[1 << 30, 1 << 30, 2]).node("Expand", &["x", "s"], "y");
    assert!(huge.error().contains("asks for shape"));
    let filled = File::new(&[2]).ints("s", &[1 << 40]).node("ConstantOfShape", &["s"], "y");
    assert!(filled.error().contains("asks for shape"));
}

#[test]
fn a_softmax_needs_an_axis_of_its_operand() {
    let file = File::new(&[2, 3]).node_with("Softmax", &["x"], "y", &[("axis", Int(7))]);
    let error = file.model().graph(&[2, 3]).expect_err("there are two axes").to_string();
    assert!(error.contains("axis 7") || error.contains("Softmax"), "{error}");
}

#[test]
fn a_window_must_fit_into_its_input() {
    let kernel = [("kernel_shape", Ints(&[3, 3]))];
    let file = File::new(&[1, 1, 2, 2]).node_with("MaxPool", &["x"], "y", &kernel);
    let error = file.model().graph(&[1, 1, 2, 2]).expect_err("the window is too large");
    assert!(error.to_string().contains("does not fit into 2"), "{error}");
}

#[test]
fn control_flow_and_odd_inputs_are_refused() {
    let mut branch = File::new(&[2]).node("If", &["x"], "y");
    let mut attribute = super::attribute("then_branch", &Ints(&[]));
    attribute.g = Some(Default::default());
    branch.graph.node[0].attribute.push(attribute);
    assert!(branch.error().contains("control flow"));
    let mut two = File::new(&[2]).node("Add", &["x", "z"], "y");
    two.graph.input.push(proto::declare("z", &[2]));
    let error = two.model().graph(&[2]).expect_err("two inputs").to_string();
    assert!(error.contains("2 inputs"), "{error}");
}
