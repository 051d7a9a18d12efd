//! Layers appended to networks, weights put into them, and files written.

use prost::Message;
use tract_onnx::pb::ModelProto;

use super::{File, TOLERANCE, check, evaluate, relative_error, wave};
use crate::onnx::{Appended, Dim, Layer, Linear, Model};
use crate::tensor::{Tensor, tensor};

fn linear(factor: f32) -> Linear {
    Linear { weight: ("head", wave(&[2, 4], 1.0)), bias: ("shift", wave(&[2], 2.0)), factor }
}

fn shown(layer: Layer, name: &'static str, extents: &[usize]) -> Appended {
    Appended { layer, output: Some((name, extents.to_vec())) }
}

fn hidden(layer: Layer) -> Appended {
    Appended { layer, output: None }
}

/// A model under this operator set, with one filter.
fn network(file: File, opset: i64) -> Model {
    let mut proto = file.weight("w", &[4, 3, 1, 1]).node("Conv", &["x", "w"], "y").proto();
    proto.opset_import[0].version = opset;
    Model::from_bytes(&proto.encode_to_vec(), None).expect("the file is sound")
}

fn row(x: &[f32]) -> Tensor {
    tensor(&[1, x.len()], x.to_vec()).expect("a row")
}

#[test]
fn every_layer_computes_what_it_says() {
    let x = row(&[0.5, -1.0, 2.0, 0.25]);
    let base = File::new(&[1, 4]).node("Identity", &["x"], "y").model();
    let affine = Layer::Affine {
        scale: tensor(&[2], vec![10.0, 0.1]).expect("a vector"),
        shift: tensor(&[2], vec![-3.0, 4.0]).expect("a vector"),
    };
    let model = base
        .extended(&[
            shown(Layer::Dense(linear(0.5)), "logits", &[2]),
            shown(affine, "numbers", &[2]),
            shown(Layer::Sigmoid, "each", &[2]),
            shown(Layer::Softmax, "all", &[2]),
        ])
        .expect("extended");
    let names: Vec<&str> = model.outputs().iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["logits", "numbers", "each", "all"]);
    let (w, b) = (wave(&[2, 4], 1.0), wave(&[2], 2.0));
    let logit = |class: usize| {
        let products = (0..4).map(|at| w[[class, at]] * x[[0, at]]);
        0.5 * (products.sum::<f32>() + b[[class]])
    };
    let logits = [logit(0), logit(1)];
    let numbers = [10.0 * logits[0] - 3.0, 0.1 * logits[1] + 4.0];
    let each = numbers.map(|x| 1.0 / (1.0 + (-x).exp()));
    let first = 1.0 / (1.0 + (each[1] - each[0]).exp());
    let found = evaluate(&model, &x);
    for (found, expected) in found.iter().zip([logits, numbers, each, [first, 1.0 - first]]) {
        assert!(relative_error(found, &row(&expected)) <= TOLERANCE, "{found}, not {expected:?}");
    }
    check("extended", &model, &[1, 4]);
}

/// What softmax and mean are written as depends on the operator set; what they mean does not.
#[test]
fn operator_sets_change_no_result() {
    let maps = [wave(&[6, 2], 0.1), wave(&[3, 2], 0.7)];
    let layers = [
        hidden(Layer::Pointwise(linear(2.0))),
        shown(Layer::Resample(maps), "logits", &[2, 6, 3]),
        shown(Layer::PixelSoftmax, "probabilities", &[2, 6, 3]),
        shown(Layer::Mean(vec![2, 3]), "shares", &[2]),
    ];
    let x = wave(&[2, 3, 2, 2], 0.4);
    let outputs: Vec<Vec<Tensor>> = [11, 13, 18]
        .into_iter()
        .map(|opset| {
            let model = network(File::new(&[2, 3, 2, 2]), opset);
            let model = model.extended(&layers).expect("extended");
            check("extended", &model, &[2, 3, 2, 2]);
            evaluate(&model, &x)
        })
        .collect();
    for other in &outputs[1..] {
        for (found, expected) in other.iter().zip(&outputs[0]) {
            assert!(relative_error(found, expected) <= TOLERANCE);
        }
    }
    let sums = outputs[0][1].sum_axis(ndarray::Axis(1));
    assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "classes of a pixel sum to one");
}

#[test]
fn what_the_file_says_of_itself_stays() {
    let file = File::new(&[1, 3, 2, 2]).weight("w", &[4, 3, 1, 1]).weight("head", &[4]);
    let file = file.node("Conv", &["x", "w", "head"], "logits").node("Relu", &["logits"], "y");
    let mut before = file.proto();
    before.ir_version = 3;
    before.producer_name = "somebody".to_string();
    before.doc_string = "about it".to_string();
    if let Some(graph) = &mut before.graph {
        graph.initializer[0].doc_string = "a filter".to_string();
    }
    let model = Model::from_bytes(&before.encode_to_vec(), None).expect("sound");
    let model = model.with_metadata("kept", "first".to_string());
    let weights = [("w", &wave(&[4, 3, 1, 1], 9.0))];
    let extended = model
        .with_weights(weights)
        .and_then(|m| {
            m.extended(&[
                hidden(Layer::Mean(vec![2, 3])),
                shown(Layer::Dense(linear(1.0)), "logits", &[2]),
            ])
        })
        .expect("extended")
        .with_metadata("new", "1".to_string())
        .with_metadata("new", "2".to_string());
    let after = ModelProto::decode(&extended.to_bytes().expect("bytes")[..]).expect("ONNX");
    assert_eq!(
        (&after.producer_name, &after.doc_string),
        (&before.producer_name, &before.doc_string)
    );
    assert_eq!(after.opset_import, before.opset_import);
    assert_eq!(after.ir_version, 4, "initialisers need not be inputs");
    assert_eq!((extended.metadata("kept"), extended.metadata("new")), (Some("first"), Some("2")));
    assert_eq!(extended.metadata("other"), None);
    let (before, after) = (before.graph.expect("a graph"), after.graph.expect("a graph"));
    assert_eq!(after.node[..2], before.node[..]);
    assert_eq!(after.initializer[0].doc_string, "a filter");
    // Names that the file has already are not taken.
    assert_eq!(extended.outputs()[0].name, "logits'");
    assert_eq!(extended.weight("head'"), Some(&wave(&[2, 4], 1.0)));
    assert_eq!(extended.weight("w"), Some(&wave(&[4, 3, 1, 1], 9.0)));
    assert_eq!(extended.outputs()[0].dims, Some(vec![Dim::Fixed(1), Dim::Fixed(2)]));
    check("extended", &extended, &[1, 3, 2, 2]);
}

#[test]
fn weights_of_another_name_or_shape_are_refused() {
    let model = network(File::new(&[1, 3, 2, 2]), 18);
    for (name, shape) in [("other", &[4, 3, 1, 1][..]), ("w", &[4, 3])] {
        let weight = wave(shape, 0.0);
        let error = model.with_weights([(name, &weight)]).expect_err("refused").to_string();
        assert!(error.contains(&format!("no weight '{name}' of shape")), "{error}");
    }
}

#[test]
fn a_size_of_images_can_be_fixed() {
    let model = network(File::new(&[1, 3, 2, 2]), 18).cut_at_map(None).expect("a map");
    let fixed = model.with_image_size([4, 6]).expect("fixed");
    let dims = fixed.inputs()[0].dims.as_deref().expect("declared");
    assert_eq!(dims[2..], [Dim::Fixed(4), Dim::Fixed(6)]);
    check("fixed", &fixed, &[1, 3, 4, 6]);
    assert!(fixed.graph(&[1, 3, 2, 2]).is_err());
}

#[test]
fn large_tensors_may_lie_in_a_second_file_which_the_next_one_replaces() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("net.onnx");
    let names = || {
        let entries = std::fs::read_dir(folder.path()).expect("a folder").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let of = |phase: f32| {
        let file = File::new(&[2, 32]).weight("w", &[32, 32]).weight("small", &[32]);
        let file = file.node("MatMul", &["x", "w"], "m").node("Add", &["m", "small"], "y");
        let model = file.model();
        model.with_weights([("w", &wave(&[32, 32], phase))]).expect("its weight")
    };
    std::fs::write(folder.path().join("net-0123456789abcdef.data"), b"not ours").expect("written");
    let mut seen = Vec::new();
    for phase in [1.0, 2.0] {
        of(phase).save(&path, true).expect("saved");
        let read = Model::load(&path).expect("read");
        assert_eq!(read.weight("w"), of(phase).weight("w"));
        assert_eq!(read.weight("small"), of(phase).weight("small"));
        assert!(std::fs::metadata(&path).expect("a file").len() < 1500);
        check("external", &read, &[2, 32]);
        assert_eq!(names().len(), 3, "{:?}", names());
        seen.push(names());
    }
    assert_ne!(seen[0], seen[1], "other content has another name");
    of(3.0).save(&path, false).expect("saved");
    assert_eq!(names(), ["net-0123456789abcdef.data", "net.onnx"], "nothing is left over");
    assert_eq!(Model::load(&path).expect("read").weight("w"), of(3.0).weight("w"));
}
