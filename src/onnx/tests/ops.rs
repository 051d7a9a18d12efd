//! One line for each op, checked against tract's own run of the same file.

use super::Attribute::{Float, Int, Ints, Text};
use super::{File, check, evaluate, wave};
use crate::graph::{Op, Unary};

/// The input of most cases.
const IMAGE: [usize; 4] = [2, 4, 6, 5];

fn check_image(what: &str, file: File) {
    check(what, &file.model(), &IMAGE);
}

fn image() -> File {
    File::new(&IMAGE)
}

#[test]
fn convolutions() {
    let pads: &[(&str, _)] = &[("pads", Ints(&[1, 0, 1, 2]))];
    let cases: Vec<(&str, File)> = vec![
        ("plain", image().weight("w", &[3, 4, 3, 3]).node("Conv", &["x", "w"], "y")),
        (
            "biased",
            image().weight("w", &[3, 4, 3, 3]).weight("b", &[3]).node_with(
                "Conv",
                &["x", "w", "b"],
                "y",
                pads,
            ),
        ),
        (
            "strided, dilated, grouped",
            image().weight("w", &[6, 2, 2, 2]).node_with(
                "Conv",
                &["x", "w"],
                "y",
                &[("strides", Ints(&[2, 1])), ("dilations", Ints(&[1, 2])), ("group", Int(2))],
            ),
        ),
        (
            "depthwise, same padding",
            image().weight("w", &[4, 1, 3, 3]).node_with(
                "Conv",
                &["x", "w"],
                "y",
                &[("auto_pad", Text("SAME_UPPER")), ("strides", Ints(&[2, 2])), ("group", Int(4))],
            ),
        ),
        (
            "transposed, grouped",
            image().weight("w", &[4, 3, 3, 2]).weight("b", &[6]).node_with(
                "ConvTranspose",
                &["x", "w", "b"],
                "y",
                &[("strides", Ints(&[2, 3])), ("pads", Ints(&[1, 0, 1, 0])), ("group", Int(2))],
            ),
        ),
    ];
    for (what, file) in cases {
        check_image(what, file);
    }
}

#[test]
fn convolutions_in_one_dimension() {
    let file = File::new(&[2, 3, 11])
        .weight("w", &[4, 3, 3])
        .weight("b", &[4])
        .node_with("Conv", &["x", "w", "b"], "a", &[("strides", Ints(&[2]))])
        .node_with("MaxPool", &["a"], "p", &[("kernel_shape", Ints(&[2]))])
        .node_with("AveragePool", &["p"], "y", &[("kernel_shape", Ints(&[3]))]);
    check("one dimension", &file.model(), &[2, 3, 11]);
}

#[test]
fn pools() {
    let pool = |op: &str, attributes: &[(&str, super::Attribute<'_>)]| {
        image().node_with(op, &["x"], "y", attributes)
    };
    let kernel = || ("kernel_shape", Ints(&[3, 2]));
    check_image("max", pool("MaxPool", &[kernel(), ("strides", Ints(&[2, 2]))]));
    check_image("max, padded", pool("MaxPool", &[kernel(), ("pads", Ints(&[1, 1, 1, 0]))]));
    check_image(
        "max, ceiling",
        pool("MaxPool", &[kernel(), ("strides", Ints(&[2, 2])), ("ceil_mode", Int(1))]),
    );
    check_image("average", pool("AveragePool", &[kernel()]));
    for include in [0, 1] {
        let attributes = [
            kernel(),
            ("pads", Ints(&[1, 1, 1, 1])),
            ("strides", Ints(&[2, 1])),
            ("count_include_pad", Int(include)),
        ];
        check_image("average, padded", pool("AveragePool", &attributes));
    }
    check_image("global average", pool("GlobalAveragePool", &[]));
    check_image("global max", pool("GlobalMaxPool", &[]));
}

#[test]
fn functions_of_one_element() {
    let plain = [
        "Relu",
        "Neg",
        "Abs",
        "Sign",
        "Exp",
        "Tanh",
        "Erf",
        "Sigmoid",
        "HardSwish",
        "Softplus",
        "Elu",
        "Selu",
        "LeakyRelu",
        "HardSigmoid",
        "Gelu",
        "Mish",
        "Softsign",
    ];
    for op in plain {
        check_image(op, image().node(op, &["x"], "y"));
    }
    check_image(
        "tanh Gelu",
        image().node_with("Gelu", &["x"], "y", &[("approximate", Text("tanh"))]),
    );
    for op in ["Sqrt", "Log", "Reciprocal"] {
        let file = image().scalar("one", 1.5).node("Add", &["x", "one"], "a");
        check_image(op, file.node(op, &["a"], "y"));
    }
    check_image("PRelu", image().weight("s", &[4, 1, 1]).node("PRelu", &["x", "s"], "y"));
}

#[test]
fn a_gelu_is_one_function_however_it_is_spelled() {
    let erf = |scaled: fn(File) -> File| {
        let file = image().scalar("root", std::f32::consts::SQRT_2).scalar("half", 0.5);
        let file = file.scalar("inverse", std::f32::consts::FRAC_1_SQRT_2).scalar("one", 1.0);
        scaled(file).node("Erf", &["u"], "e").node("Add", &["e", "one"], "s")
    };
    let divided = |f: File| f.node("Div", &["x", "root"], "u");
    let multiplied = |f: File| f.node("Mul", &["inverse", "x"], "u");
    let spelled = [
        image().node("Gelu", &["x"], "y"),
        erf(divided).node("Mul", &["x", "s"], "p").node("Mul", &["p", "half"], "y"),
        erf(multiplied).node("Mul", &["s", "half"], "p").node("Mul", &["p", "x"], "y"),
        erf(divided).node("Mul", &["half", "x"], "p").node("Mul", &["s", "p"], "y"),
    ];
    for file in spelled {
        assert_eq!(functions(&file), [Unary::Gelu]);
        check_image("Gelu", file);
    }
    let others = [
        erf(divided).node("Mul", &["x", "s"], "p").node("Mul", &["p", "root"], "y"),
        erf(|f| f.node("Mul", &["x", "half"], "u")).node("Mul", &["x", "s"], "y"),
        erf(divided).node("Mul", &["u", "s"], "p").node("Mul", &["p", "half"], "y"),
    ];
    for file in others {
        assert_eq!(functions(&file), [Unary::Erf]);
        check_image("not a Gelu", file);
    }
}

/// The functions of one element in a file's graph.
fn functions(file: &File) -> Vec<Unary> {
    let graph = file.model().graph(&IMAGE).expect("the file can be lowered");
    let unary = graph.nodes().iter().filter_map(|node| match node.op {
        Op::Unary(f) => Some(f),
        _ => None,
    });
    unary.collect()
}

#[test]
fn a_clip_is_one_clamp() {
    let file = image().scalar("lo", -0.25).scalar("hi", 0.5).node("Clip", &["x", "lo", "hi"], "y");
    check_image("Clip", file);
    let file = image().scalar("lo", 0.0).scalar("hi", 0.5).node("Clip", &["x", "lo", "hi"], "y");
    assert_eq!(functions(&file), [Unary::Clamp(0.0, 0.5)]);
}

#[test]
fn functions_of_two_elements() {
    for op in ["Add", "Sub", "Mul", "Max", "Min"] {
        check_image(op, image().weight("w", &[4, 1, 5]).node(op, &["x", "w"], "y"));
        check_image(op, image().weight("w", &[4, 1, 5]).node(op, &["w", "x"], "y"));
    }
    let shifted = || image().scalar("two", 2.0).node("Add", &["x", "two"], "a");
    check_image("Div", shifted().weight("w", &[5]).node("Div", &["w", "a"], "y"));
    for power in [2.0, 3.0, 0.5, 1.7, -1.0] {
        check_image("Pow", shifted().scalar("p", power).node("Pow", &["a", "p"], "y"));
    }
    for op in ["Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"] {
        let file = image().weight("w", &[5]).node(op, &["x", "w"], "c").node(
            "Where",
            &["c", "x", "w"],
            "y",
        );
        check_image(op, file);
    }
}

#[test]
fn products() {
    let cases: Vec<(&str, File)> = vec![
        ("weight", image().weight("w", &[5, 3]).node("MatMul", &["x", "w"], "y")),
        ("weights by channel", image().weight("w", &[4, 5, 3]).node("MatMul", &["x", "w"], "y")),
        ("from the left", image().weight("w", &[3, 6]).node("MatMul", &["w", "x"], "y")),
        ("vector", image().weight("w", &[5]).node("MatMul", &["x", "w"], "y")),
        (
            "with itself",
            image().node_with("Transpose", &["x"], "t", &[("perm", Ints(&[0, 1, 3, 2]))]).node(
                "MatMul",
                &["x", "t"],
                "y",
            ),
        ),
    ];
    for (what, file) in cases {
        check_image(what, file);
    }
    let equations = [
        "bchw,wk->bchk",
        "bchw,wk->kbhc",
        "bchw,ck->bkhw",
        "bchw,bkhw->bck",
        "bchw,cw->bhc",
        "bchw,h->bchw",
        "bchw,k->kbhcw",
        "bchw,ww->bch",
    ];
    for equation in &equations[..7] {
        let shape: Vec<usize> = equation[5..]
            .chars()
            .take_while(|&c| c != '-')
            .map(|c| "bchw".find(c).map_or(3, |axis| IMAGE[axis]))
            .collect();
        let attributes = [("equation", Text(equation))];
        let file = image().weight("w", &shape);
        check_image(equation, file.node_with("Einsum", &["x", "w"], "y", &attributes));
    }
}

#[test]
fn a_dense_layer_is_one_flat_product() {
    let file = File::new(&[2, 7, 5]).weight("w", &[5, 3]).node("MatMul", &["x", "w"], "y");
    let graph = file.model().graph(&[2, 7, 5]).expect("a product can be lowered");
    let products: Vec<_> =
        graph.nodes().iter().filter(|node| matches!(node.op, Op::MatMul(_))).collect();
    assert_eq!(products.len(), 1);
    assert_eq!(graph.shape(products[0].inputs[0])[..], [14, 5]);
    assert_eq!(graph.shape(products[0].inputs[1])[..], [5, 3]);
    assert!(graph.nodes().iter().all(|n| !matches!(n.op, Op::Transpose(_) | Op::Broadcast(_))));
}

#[test]
fn gemm() {
    for (a, b, w) in [(0, 0, [5, 3]), (0, 1, [3, 5]), (1, 0, [4, 3]), (1, 1, [3, 4])] {
        let attributes = [("transA", Int(a)), ("transB", Int(b)), ("alpha", Float(0.5))];
        let file = File::new(&[4, 5]).weight("w", &w).weight("b", &[3]).node_with(
            "Gemm",
            &["x", "w", "b"],
            "y",
            &attributes,
        );
        check("Gemm", &file.model(), &[4, 5]);
    }
}

#[test]
fn reductions_and_normalisations() {
    for op in ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"] {
        for keep in [0, 1] {
            let file = image().ints("axes", &[1, -1]);
            check_image(op, file.node_with(op, &["x", "axes"], "y", &[("keepdims", Int(keep))]));
        }
    }
    for op in ["Softmax", "LogSoftmax"] {
        for axis in [1, 3, -2] {
            check_image(op, image().node_with(op, &["x"], "y", &[("axis", Int(axis))]));
        }
    }
    let layer = image().weight("s", &[5]).weight("b", &[5]);
    check_image("layer", layer.node("LayerNormalization", &["x", "s", "b"], "y"));
    let layer = image().weight("s", &[4, 6, 5]);
    check_image(
        "layer of three axes",
        layer.node_with("LayerNormalization", &["x", "s"], "y", &[("axis", Int(1))]),
    );
    for axis in [4, -5, -60] {
        let layer = image().weight("s", &[5]);
        let axis = [("axis", Int(axis))];
        let layer = layer.node_with("LayerNormalization", &["x", "s"], "y", &axis);
        assert!(layer.model().graph(&IMAGE).is_err());
    }
    let group = image().weight("s", &[2]).weight("b", &[2]);
    let groups = [("num_groups", Int(2))];
    check_image("group", group.node_with("GroupNormalization", &["x", "s", "b"], "y", &groups));
    let instance = image().weight("s", &[4]).weight("b", &[4]);
    check_image("instance", instance.node("InstanceNormalization", &["x", "s", "b"], "y"));
}

#[test]
fn movements() {
    let cases: Vec<(&str, File)> = vec![
        ("Flatten", image().node("Flatten", &["x"], "y")),
        ("Reshape", image().ints("s", &[0, -1, 10]).node("Reshape", &["x", "s"], "y")),
        (
            "Transpose",
            image().node_with("Transpose", &["x"], "y", &[("perm", Ints(&[2, 0, 3, 1]))]),
        ),
        ("Expand", image().ints("s", &[3, 1, 4, 6, 5]).node("Expand", &["x", "s"], "y")),
        ("Tile", image().ints("s", &[1, 2, 1, 3]).node("Tile", &["x", "s"], "y")),
        ("Concat", image().node_with("Concat", &["x", "x"], "y", &[("axis", Int(-1))])),
        ("Pad", image().ints("p", &[0, 0, 1, 2, 0, 1, 0, 1]).node("Pad", &["x", "p"], "y")),
        (
            "Pad with a number",
            image().ints("p", &[0, 0, 1, 2, 0, 1, 0, 1]).scalar("c", 0.5).node(
                "Pad",
                &["x", "p", "c"],
                "y",
            ),
        ),
        ("DepthToSpace", image().node_with("DepthToSpace", &["x"], "y", &[("blocksize", Int(2))])),
    ];
    for (what, file) in cases {
        check_image(what, file);
    }
    for mode in ["reflect", "edge"] {
        let file = image().ints("p", &[0, 0, 1, 2, 0, 0, 3, 1]);
        check_image(mode, file.node_with("Pad", &["x", "p"], "y", &[("mode", Text(mode))]));
    }
}

#[test]
fn choices() {
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        image().ints("s", starts).ints("e", ends).ints("a", axes).ints("t", steps).node(
            "Slice",
            &["x", "s", "e", "a", "t"],
            "y",
        )
    };
    check_image("Slice", slice(&[1, -4], &[3, i64::MAX], &[1, -1], &[1, 2]));
    check_image("Slice backwards", slice(&[-1, 4], &[i64::MIN, 0], &[2, 3], &[-2, -1]));
    let gather = |indices: &[i64], axis: i64| {
        image().ints("i", indices).node_with("Gather", &["x", "i"], "y", &[("axis", Int(axis))])
    };
    check_image("Gather", gather(&[3, 0, -1, 0], 1));
    check_image("Gather of a range", gather(&[1, 2, 3], 3));
    let split = image().ints("s", &[1, 3]);
    let mut split = split.node_with("Split", &["x", "s"], "a", &[("axis", Int(1))]);
    split.graph.node[0].output.push("b".to_string());
    let joined = split.node_with("Concat", &["b", "a"], "y", &[("axis", Int(1))]);
    check_image("Split", joined);
}

#[test]
fn choices_by_coordinates() {
    let integers = |name: &str, shape: &[i64], elements: &[i64]| {
        let mut indices = super::proto::from_integers(name, elements);
        indices.dims = shape.to_vec();
        indices
    };
    let mut gather = image().node("GatherND", &["x", "i"], "y");
    gather.graph.initializer.push(integers("i", &[3, 2], &[1, 3, 0, 0, 1, 2]));
    check_image("GatherND", gather);
    for rows in [vec![0], vec![1, 0]] {
        let updates = [rows.len(), 4, 6, 5];
        let mut scatter = image().weight("u", &updates).node("ScatterND", &["x", "i", "u"], "y");
        scatter.graph.initializer.push(integers("i", &[rows.len() as i64, 1], &rows));
        check_image("ScatterND", scatter);
    }
}

#[test]
fn a_sequence_of_parts_is_a_split() {
    for sizes in [vec![1, 3], vec![2]] {
        let mut file = image()
            .ints("first", &[0])
            .ints("second", &[1])
            .ints("sizes", &sizes)
            .node_with("SplitToSequence", &["x", "sizes"], "parts", &[("axis", Int(1))])
            .node("SequenceAt", &["parts", "second"], "b")
            .node("SequenceAt", &["parts", "first"], "a")
            .node_with("Concat", &["b", "a"], "y", &[("axis", Int(1))]);
        for number in file.graph.initializer.iter_mut().filter(|n| n.int64_data.len() == 1) {
            number.dims.clear();
        }
        let graph = file.model().graph(&IMAGE).expect("parts can be lowered");
        let slices = graph.nodes().iter().filter(|node| matches!(node.op, Op::Slice(_))).count();
        assert_eq!(slices, 2);
        check_image("SplitToSequence", file);
    }
}

#[test]
fn resizing() {
    let scales = super::tensor(&[4], vec![1.0, 1.0, 2.0, 1.6]).expect("four scales");
    for mode in ["nearest", "linear", "cubic"] {
        for transform in ["half_pixel", "asymmetric", "align_corners"] {
            let attributes =
                [("mode", Text(mode)), ("coordinate_transformation_mode", Text(transform))];
            let file = image().floats("s", &scales);
            check_image(mode, file.node_with("Resize", &["x", "", "s"], "y", &attributes));
        }
    }
    let file = image().ints("s", &[2, 4, 3, 9]);
    let attributes = [("mode", Text("linear")), ("antialias", Int(1))];
    check_image("sizes", file.node_with("Resize", &["x", "", "", "s"], "y", &attributes));
}

#[test]
fn arithmetic_on_shapes_vanishes() {
    let file = image()
        .node("Shape", &["x"], "s")
        .ints("i", &[0])
        .node("Gather", &["s", "i"], "n")
        .ints("rest", &[-1])
        .node_with("Concat", &["n", "rest"], "t", &[("axis", Int(0))])
        .node("Reshape", &["x", "t"], "y");
    let graph = file.model().graph(&IMAGE).expect("shapes are constants");
    assert_eq!(graph.nodes().len(), 2);
    check_image("Reshape by shape", file);
}

#[test]
fn transpositions_around_functions_of_elements_are_one() {
    let turn = |axes: &'static [i64]| [("perm", Ints(axes))];
    let file = image()
        .node_with("Transpose", &["x"], "a", &turn(&[2, 0, 3, 1]))
        .node("Relu", &["a"], "r")
        .node_with("Transpose", &["r"], "b", &turn(&[3, 1, 0, 2]))
        .node_with("Transpose", &["b"], "y", &turn(&[3, 2, 1, 0]));
    let graph = file.model().graph(&IMAGE).expect("transpositions can be lowered");
    assert_eq!(graph.nodes().len(), 3, "{graph}");
    check_image("transpositions", file);
}

#[test]
fn each_node_has_an_origin() {
    let file = image().weight("w", &[5, 3]).node("MatMul", &["x", "w"], "y");
    let graph = file.model().graph(&IMAGE).expect("a product can be lowered");
    let product = graph.nodes().iter().find(|node| matches!(node.op, Op::MatMul(_)));
    let origin = &product.expect("there is a product").origin;
    assert!(origin.starts_with("MatMul_1"), "{origin}");
}

#[test]
fn unsupported_ops_are_listed_together() {
    let file = image().node("NoSuchOp", &["x"], "a").node("NorThis", &["a"], "b").node(
        "NoSuchOp",
        &["b"],
        "y",
    );
    let error = file.model().graph(&IMAGE).expect_err("nobody knows these");
    assert_eq!(error.kind(), crate::error::Kind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("NoSuchOp (2 times, such as 'NoSuchOp_1')"), "{text}");
    assert!(text.contains("NorThis (1 times"), "{text}");

    let file =
        image().node("Floor", &["x"], "a").node("Ceil", &["a"], "b").node("Sin", &["b"], "y");
    let text = file.model().graph(&IMAGE).expect_err("these have no lowering").to_string();
    assert!(["Floor", "Ceil", "Sin"].iter().all(|op| text.contains(op)), "{text}");
    assert!(text.contains("cut the model"), "{text}");
}

#[test]
fn a_result_may_be_constant() {
    let file =
        image().scalar("zero", 0.0).node("Mul", &["x", "zero"], "a").node("Cos", &["a"], "b");
    let error = file.node("Identity", &["b"], "y").model().graph(&IMAGE);
    assert!(error.is_err(), "Cos depends on the input");
    let file = image().weight("w", &[3]).node("Identity", &["w"], "y");
    assert_eq!(evaluate(&file.model(), &wave(&IMAGE, 0.0))[0].shape(), [3]);
}
