//! Which initialisers are weights, what is said of them, and their fingerprint.

use super::Attribute::{Float, Int};
use super::{File, check, proto};
use crate::onnx::Frozen;
use crate::tensor::tensor;

fn frozen(file: &File, name: &str) -> Option<Frozen> {
    let model = file.model();
    let param = model.params().iter().find(|param| param.name == name);
    param.expect("each initialiser is a param").frozen
}

fn normalised() -> File {
    File::new(&[2, 3, 4, 4])
        .weight("conv.weight", &[3, 3, 3, 3])
        .weight("bn.weight", &[3])
        .weight("bn.bias", &[3])
        .weight("bn.mean", &[3])
        .floats("bn.var", &tensor(&[3], vec![0.5, 1.0, 2.0]).expect("three variances"))
        .node("Conv", &["x", "conv.weight"], "c")
        .node_with(
            "BatchNormalization",
            &["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"],
            "y",
            &[("epsilon", Float(0.01))],
        )
}

#[test]
fn normalisation_keeps_its_weights_and_freezes_its_statistics() {
    let file = normalised();
    check("BatchNormalization", &file.model(), &[2, 3, 4, 4]);
    let model = file.model();
    let names: Vec<&str> = model.weights().map(|(name, _)| name).collect();
    assert_eq!(names, ["bn.bias", "bn.weight", "conv.weight"]);
    assert_eq!(frozen(&file, "bn.mean"), Some(Frozen::Statistics));
    assert_eq!(frozen(&file, "bn.var"), Some(Frozen::Statistics));
}

#[test]
fn normalisation_in_training_mode_is_refused() {
    let mut file = normalised();
    file.graph.node[1].attribute.push(super::attribute("training_mode", &Int(1)));
    let error = file.model().graph(&[2, 3, 4, 4]).expect_err("training mode").to_string();
    assert!(error.contains("evaluation mode"), "{error}");
}

#[test]
fn the_rule_for_weights() {
    let product =
        |name: &str| File::new(&[2, 4]).weight(name, &[4, 4]).node("MatMul", &["x", name], "y");
    for name in ["fc", "val_3", "onnx::MatMul_12", "123"] {
        assert_eq!(frozen(&product(name), name), None, "{name}");
    }
    let sum = |name: &str| File::new(&[2, 4]).weight(name, &[4, 4]).node("Add", &["x", name], "y");
    for name in ["pos_embed", "layers.0.table", "conv1"] {
        assert_eq!(frozen(&sum(name), name), None, "{name}");
    }
    let exported = ["val_3", "onnx::Where_12", "123", "_to_copy_1", "lifted_tensor_0", "pow_2"];
    for name in exported {
        assert_eq!(frozen(&sum(name), name), Some(Frozen::Exported), "{name}");
    }
    assert_eq!(frozen(&sum("stats.running_var"), "stats.running_var"), Some(Frozen::Statistics));
    let scalar = File::new(&[2, 4]).scalar("s", 2.0).node("Mul", &["x", "s"], "y");
    assert_eq!(frozen(&scalar, "s"), Some(Frozen::Scalar));
    let bound = File::new(&[2, 4]).weight("lo", &[1]).node("Clip", &["x", "lo"], "y");
    assert_eq!(frozen(&bound, "lo"), Some(Frozen::Setting));
    let target = File::new(&[2, 4]).ints("s", &[8]).node("Reshape", &["x", "s"], "y");
    assert_eq!(frozen(&target, "s"), Some(Frozen::NotFloat));
    let unused = File::new(&[2, 4]).weight("w", &[4]).node("Neg", &["x"], "y");
    assert_eq!(frozen(&unused, "w"), Some(Frozen::Unreached));
}

#[test]
fn moved_weights_are_weights_but_masks_are_not() {
    let scaled = |name: &str, shape: &[usize]| {
        File::new(&[2, 4, 3, 3]).weight(name, shape).node("Mul", &["x", name], "y")
    };
    assert_eq!(frozen(&scaled("view_1", &[1, 4, 1, 1]), "view_1"), None);
    assert_eq!(frozen(&scaled("val_1", &[4, 1, 1]), "val_1"), None);
    assert_eq!(frozen(&scaled("val_1", &[1, 1, 3, 3]), "val_1"), Some(Frozen::Exported));
    assert_eq!(
        frozen(&scaled("lifted_tensor_0", &[4, 1, 1]), "lifted_tensor_0"),
        Some(Frozen::Exported)
    );
    let added = |name: &str, elements: &[f32]| {
        let value = tensor(&[2, 2], elements.to_vec()).expect("four elements");
        File::new(&[2, 2]).floats(name, &value).node("Add", &["x", name], "y")
    };
    let bias = [0.5, -0.1, 0.2, 0.5];
    assert_eq!(frozen(&added("unsqueeze_3", &bias), "unsqueeze_3"), None);
    assert_eq!(
        frozen(&added("unsqueeze_3", &[0.0, 1.0, 1.0, 0.0]), "unsqueeze_3"),
        Some(Frozen::Exported)
    );
    for name in ["unsqueeze_3", "layers.0.attn_mask"] {
        let mask = [0.0, -100.0, -100.0, 0.0];
        assert_eq!(frozen(&added(name, &mask), name), Some(Frozen::Mask), "{name}");
    }
}

#[test]
fn weights_are_seen_through_reshapes_and_casts() {
    let file = File::new(&[2, 4])
        .weight("val_1", &[4, 4])
        .node_with("Cast", &["val_1"], "a", &[("to", Int(1))])
        .node("Transpose", &["a"], "b")
        .node("MatMul", &["x", "b"], "y");
    assert_eq!(frozen(&file, "val_1"), None);
    check("seen through", &file.model(), &[2, 4]);
}

#[test]
fn a_shared_weight_is_one_parameter() {
    let file = File::new(&[2, 4]).weight("w", &[4, 4]).node("MatMul", &["x", "w"], "a").node(
        "MatMul",
        &["a", "w"],
        "y",
    );
    let model = file.model();
    assert_eq!(model.params()[0].nodes, ["MatMul_1", "MatMul_2"]);
    assert!(model.notes()[0].contains("shared by 2 nodes [MatMul_1, MatMul_2]"));
    let graph = model.graph(&[2, 4]).expect("products can be lowered");
    assert_eq!(graph.leaves().count(), 2);
    check("shared", &model, &[2, 4]);
}

#[test]
fn equal_weights_stay_two_parameters() {
    let zeros = tensor(&[4], vec![0.0; 4]).expect("four zeros");
    let file = File::new(&[2, 4])
        .floats("a.bias", &zeros)
        .floats("b.bias", &zeros)
        .node("Add", &["x", "a.bias"], "a")
        .node("Relu", &["a"], "r")
        .node("Add", &["r", "b.bias"], "y");
    let model = file.model();
    assert!(model.notes()[0].contains("kept separate"), "{:?}", model.notes());
    assert_eq!(model.graph(&[2, 4]).expect("sums can be lowered").leaves().count(), 3);
}

#[test]
fn halves_and_doubles_become_singles() {
    let halves: Vec<u8> =
        [0x3c00u16, 0xc000, 0x3555, 0x0001].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let mut file = File::new(&[2, 4]).weight("w", &[4]).node("Mul", &["x", "w"], "y");
    file.graph.initializer[0].data_type = 10;
    file.graph.initializer[0].raw_data = halves;
    let model = file.model();
    let weight: Vec<f32> = model.weight("w").expect("w is a weight").iter().copied().collect();
    assert_eq!(weight, [1.0, -2.0, 0.333_251_95, 2f32.powi(-24)]);

    let doubles: Vec<u8> = [1.5f64, -2.0, 0.1, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    file.graph.initializer[0].data_type = 11;
    file.graph.initializer[0].raw_data = doubles;
    let model = file.model();
    assert_eq!(model.weight("w").and_then(|w| w.get([2]).copied()), Some(0.1));
    check("doubles", &model, &[2, 4]);
}

#[test]
fn the_fingerprint_is_of_names_shapes_and_elements() {
    let file = |name: &str, shape: &[usize], phase: f32| {
        File::new(&[4, 4])
            .floats(name, &super::wave(shape, phase))
            .node("MatMul", &["x", name], "y")
            .model()
            .fingerprint()
    };
    let base = file("w", &[4, 4], 0.0);
    assert_eq!(base.len(), 64);
    assert_eq!(base, file("w", &[4, 4], 0.0));
    for other in [file("v", &[4, 4], 0.0), file("w", &[4, 5], 0.0), file("w", &[4, 4], 0.1)] {
        assert_ne!(base, other);
    }
}

#[test]
fn facts_of_the_file() {
    let model = normalised().model();
    assert_eq!(model.inputs()[0].name, "x");
    assert_eq!(model.inputs()[0].dtype, "FLOAT");
    assert_eq!(model.outputs()[0].name, "y");
    assert_eq!(model.ops().get("Conv"), Some(&1));
    assert_eq!(model.weight("conv.weight").map(|w| w.len()), Some(81));
    assert!(proto::is_float(1));
}
