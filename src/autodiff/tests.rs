//! Every rule against a central difference in `f64`: ⟨u, J v⟩ = ⟨Jᵀu, v⟩ for random directions.

use super::*;
use crate::graph::eval::{Array, Env, outputs};
use crate::graph::{
    Binary, Conv2d, Indices, LeafKind, MatMul, PadAxis, Pool2d, Reduction, Slice, Unary,
};
use crate::rng::{Key, Stream};
use crate::tensor::Shape;

/// Step of the central difference; its error is about step², that of cancellation 1e-16/step.
const STEP: f64 = 1e-5;
/// Relative error allowed: both of the above with two digits of room.
const TOLERANCE: f64 = 1e-7;

/// Turns a standard normal into a point where the op is smooth.
type Point = fn(f64) -> f64;

/// Builds one op on the inputs of these shapes.
type Build = fn(&mut Graph, &[ValueId]) -> Result<ValueId>;

fn normal(shape: &Shape, lane: u64) -> Array {
    let mut sequence = Key::new(11, Stream::Probe).at(lane);
    Array::from_fn(shape, |_| f64::from(sequence.normal()))
}

/// Checks one op at inputs made by `point` from standard normals.
fn check(name: &str, shapes: &[&[usize]], point: Point, build: Build) {
    let shapes: Vec<Shape> = shapes.iter().map(|&s| s.into()).collect();
    let mut graph = Graph::new();
    let inputs: Vec<ValueId> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| graph.input(&format!("x{i}"), shape).expect("a leaf"))
        .collect();
    let y = build(&mut graph, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
    let y_shape = graph.shape(y).clone();
    let ct = graph.input("ct", &y_shape).expect("a leaf");
    let cts = vjp(&mut graph, &[(y, ct)], &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
    graph.set_output("y", y);
    for (i, ct) in cts.iter().enumerate() {
        let ct = ct.unwrap_or_else(|| panic!("{name}: operand {i} has no cotangent"));
        graph.set_output(&format!("ct{i}"), ct);
    }
    graph.check().expect("a well-formed graph");
    let x: Vec<Array> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let z = normal(shape, i as u64);
            Array::from_fn(shape, |j| point(z[j]))
        })
        .collect();
    let v: Vec<Array> = shapes.iter().enumerate().map(|(i, s)| normal(s, 100 + i as u64)).collect();
    let u = normal(&y_shape, 200);
    let run = |step: f64| {
        let mut env = Env::new();
        for (i, (x, v)) in x.iter().zip(&v).enumerate() {
            let moved = Array::from_fn(x.shape(), |j| x[j] + step * v[j]);
            env.set(LeafKind::Input, &format!("x{i}"), moved);
        }
        env.set(LeafKind::Input, "ct", u.clone());
        outputs(&graph, &env).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (above, below) = (run(STEP), run(-STEP));
    let forward = (dot(&above["y"], &u) - dot(&below["y"], &u)) / (2.0 * STEP);
    let at = run(0.0);
    let parts: Vec<f64> = (0..v.len()).map(|i| dot(&at[&format!("ct{i}")], &v[i])).collect();
    let backward: f64 = parts.iter().sum();
    let scale = parts.iter().fold(1.0f64, |m, p| m.max(p.abs()));
    assert!(
        (forward - backward).abs() <= TOLERANCE * scale,
        "{name}: the difference quotient is {forward}, the vjp gives {backward}"
    );
    assert!(backward.abs() > 1e-3, "{name}: the derivative vanishes, which tests nothing");
}

fn indices() -> Indices {
    Indices { axis: 1, rows: [2, 0, 2].into() }
}

fn same(x: f64) -> f64 {
    x
}

/// Away from 0 on the positive side.
fn positive(x: f64) -> f64 {
    x.abs() + 0.5
}

#[test]
fn unary_rules() {
    let rows: [(&str, Point, Build); 16] = [
        ("neg", same, |g, x| g.unary(Unary::Neg, x[0])),
        ("abs", same, |g, x| g.unary(Unary::Abs, x[0])),
        ("exp", same, |g, x| g.unary(Unary::Exp, x[0])),
        ("log", positive, |g, x| g.unary(Unary::Log, x[0])),
        ("sqrt", positive, |g, x| g.unary(Unary::Sqrt, x[0])),
        ("rsqrt", positive, |g, x| g.unary(Unary::Rsqrt, x[0])),
        ("recip", positive, |g, x| g.unary(Unary::Recip, x[0])),
        ("tanh", same, |g, x| g.unary(Unary::Tanh, x[0])),
        ("erf", same, |g, x| g.unary(Unary::Erf, x[0])),
        ("sigmoid", same, |g, x| g.unary(Unary::Sigmoid, x[0])),
        ("gelu", same, |g, x| g.unary(Unary::Gelu, x[0])),
        ("gelu_slope", same, |g, x| g.unary(Unary::GeluSlope, x[0])),
        ("relu", same, |g, x| g.unary(Unary::Relu, x[0])),
        ("clamp", same, |g, x| g.unary(Unary::Clamp(-0.5, 0.75), x[0])),
        ("clamp above", same, |g, x| g.unary(Unary::Clamp(f32::NEG_INFINITY, 0.5), x[0])),
        ("powf", positive, |g, x| g.unary(Unary::Powf(2.5), x[0])),
    ];
    for (name, point, build) in rows {
        check(name, &[&[3, 5]], point, build);
    }
}

#[test]
fn binary_rules() {
    let rows: [(&str, Point, Build); 6] = [
        ("add", same, |g, x| g.add(x[0], x[1])),
        ("sub", same, |g, x| g.sub(x[0], x[1])),
        ("mul", same, |g, x| g.mul(x[0], x[1])),
        ("div", positive, |g, x| g.div(x[0], x[1])),
        ("max", same, |g, x| g.binary(Binary::Max, x[0], x[1])),
        ("min", same, |g, x| g.binary(Binary::Min, x[0], x[1])),
    ];
    for (name, point, build) in rows {
        check(name, &[&[4, 3], &[4, 3]], point, build);
    }
    check("select", &[&[9], &[9]], same, |g, x| {
        let cond = g.binary(Binary::Less, x[0], x[1])?;
        g.select(cond, x[0], x[1])
    });
    check("the same operand twice", &[&[6]], same, |g, x| g.mul(x[0], x[0]));
}

#[test]
fn layout_rules() {
    check("broadcast", &[&[1, 3, 1]], same, |g, x| g.broadcast(x[0], &[2, 3, 4].into()));
    check("reshape", &[&[2, 6]], same, |g, x| g.reshape(x[0], &[3, 4].into()));
    check("transpose", &[&[2, 3, 4]], same, |g, x| g.transpose(x[0], &[2, 0, 1]));
    check("slice", &[&[7, 2]], same, |g, x| {
        g.slice(x[0], Slice { axis: 0, start: 1, end: 7, step: 3 })
    });
    check("pad", &[&[3, 2]], same, |g, x| {
        let axis = PadAxis { low: 1, high: 2, interior: 2 };
        g.pad(x[0], &[axis, PadAxis::default()])
    });
    check("concat", &[&[2, 3], &[2, 1]], same, |g, x| g.concat(x, 1));
    check("gather", &[&[2, 4]], same, |g, x| g.gather(x[0], indices()));
    check("scatter_add", &[&[2, 3]], same, |g, x| g.scatter_add(x[0], indices(), 4));
}

#[test]
fn reduction_rules() {
    check("sum", &[&[2, 3, 4]], same, |g, x| g.sum(x[0], &[0, 2]));
    check("reduce_max", &[&[3, 5]], same, |g, x| g.reduce(Reduction::Max, x[0], &[1]));
    check("softmax", &[&[3, 5]], same, |g, x| g.softmax(x[0]));
    check("log_softmax", &[&[3, 5]], same, |g, x| g.log_softmax(x[0]));
}

#[test]
fn matmul_rules() {
    let build: [(&[usize], &[usize], Build); 4] = [
        (&[2, 3, 4], &[2, 4, 5], |g, x| matmul(g, x, false, false)),
        (&[2, 4, 3], &[2, 4, 5], |g, x| matmul(g, x, true, false)),
        (&[2, 3, 4], &[2, 5, 4], |g, x| matmul(g, x, false, true)),
        (&[2, 4, 3], &[2, 5, 4], |g, x| matmul(g, x, true, true)),
    ];
    for (a, b, build) in build {
        check("matmul", &[a, b], same, build);
    }
}

fn matmul(g: &mut Graph, x: &[ValueId], transpose_a: bool, transpose_b: bool) -> Result<ValueId> {
    g.matmul(x[0], x[1], MatMul { transpose_a, transpose_b })
}

/// Strided, dilated, grouped, unevenly padded.
const CONV: Conv2d = Conv2d {
    batch: 2,
    in_channels: 4,
    out_channels: 6,
    groups: 2,
    input: [7, 6],
    output: [3, 4],
    kernel: [3, 2],
    stride: [2, 1],
    pad: [1, 0],
    dilation: [1, 2],
};

#[test]
fn convolution_rules() {
    let (x, w, y) = (CONV.input_shape(), CONV.filter_shape(), CONV.output_shape());
    check("conv2d", &[&x, &w], same, |g, x| g.conv2d(x[0], x[1], CONV));
    check("conv2d_input_grad", &[&y, &w], same, |g, x| g.conv2d_input_grad(x[0], x[1], CONV));
    check("conv2d_filter_grad", &[&x, &y], same, |g, x| g.conv2d_filter_grad(x[0], x[1], CONV));
}

const POOL: Pool2d = Pool2d {
    batch: 2,
    channels: 3,
    input: [6, 5],
    output: [3, 3],
    kernel: [3, 2],
    stride: [2, 2],
    pad: [1, 1],
    dilation: [1, 1],
};

#[test]
fn pooling_rules() {
    let (x, y) = (POOL.input_shape(), POOL.output_shape());
    check("max_pool", &[&x], same, |g, x| g.max_pool(x[0], POOL));
    check("sum_pool", &[&x], same, |g, x| g.sum_pool(x[0], POOL));
    check("sum_pool_grad", &[&y], same, |g, x| g.sum_pool_grad(x[0], POOL));
}

#[test]
fn what_has_no_derivative_says_so() {
    let mut graph = Graph::new();
    let x = graph.input("x", &POOL.input_shape()).expect("a leaf");
    let y = graph.max_pool(x, POOL).expect("a node");
    let ct = graph.input("ct", &POOL.output_shape()).expect("a leaf");
    let ct_x = vjp(&mut graph, &[(y, ct)], &[x]).expect("a vjp")[0].expect("a cotangent");
    let seed = graph.input("seed", &POOL.input_shape()).expect("a leaf");
    let error = vjp(&mut graph, &[(ct_x, seed)], &[x]).expect_err("no second derivative");
    assert!(error.to_string().contains("max_pool_grad cannot be differentiated"), "{error}");
}

#[test]
fn a_value_the_seed_does_not_depend_on_has_no_cotangent() {
    let mut graph = Graph::new();
    let x = graph.input("x", &[2].into()).expect("a leaf");
    let other = graph.input("other", &[2].into()).expect("a leaf");
    let y = graph.unary(Unary::Exp, x).expect("a node");
    let ct = graph.input("ct", &[2].into()).expect("a leaf");
    let cts = vjp(&mut graph, &[(y, ct)], &[x, other]).expect("a vjp");
    assert!(cts[0].is_some() && cts[1].is_none());
}

/// Slices of the rows of `x` at these ends, the first scaled by 1, the next by 2 and so on, summed.
fn sliced(g: &mut Graph, x: ValueId, ends: &[usize]) -> Result<ValueId> {
    let (mut start, mut total) = (0, None);
    for (index, &end) in ends.iter().enumerate() {
        let part = g.slice(x, Slice { axis: 1, start, end, step: 1 })?;
        let part = g.mul(part, part)?;
        let part = g.scale(part, 1.0 + index as f32)?;
        let sum = g.sum(part, &[1])?;
        total = Some(match total {
            Some(total) => g.add(total, sum)?,
            None => sum,
        });
        start = end;
    }
    total.ok_or_else(|| Error::internal("no slices"))
}

/// Nodes of one kind that a value depends on.
fn needed(graph: &Graph, value: ValueId, counts: fn(&Op) -> bool) -> usize {
    let mut live = vec![false; graph.values().len()];
    live[value.index()] = true;
    let mut found = 0;
    for node in graph.nodes().iter().rev().filter(|node| !node.outputs.is_empty()) {
        if live[node.outputs[0].index()] {
            node.inputs.iter().for_each(|input| live[input.index()] = true);
            found += usize::from(counts(&node.op));
        }
    }
    found
}

#[test]
fn cotangents_of_neighbouring_slices_are_joined() -> Result<()> {
    for (ends, pads) in [(vec![2, 3, 7], 0), (vec![2, 3, 5], 1)] {
        let mut graph = Graph::new();
        let x = graph.input("x", &[3, 7].into())?;
        let y = sliced(&mut graph, x, &ends)?;
        let ct = graph.input("ct", &[3, 1].into())?;
        let ct_x = vjp(&mut graph, &[(y, ct)], &[x])?[0].expect("a cotangent");
        assert_eq!(needed(&graph, ct_x, |op| matches!(op, Op::Pad(_))), pads, "{ends:?}");
        assert_eq!(needed(&graph, ct_x, |op| matches!(op, Op::Concat(_))), 1, "{ends:?}");
    }
    check("slices of all", &[&[3, 7]], same, |g, x| sliced(g, x[0], &[2, 3, 7]));
    check("slices of some", &[&[3, 7]], same, |g, x| sliced(g, x[0], &[2, 3, 5]));
    check("slices across", &[&[4, 4]], same, |g, x| {
        let rows = g.slice(x[0], Slice { axis: 0, start: 0, end: 2, step: 1 })?;
        let columns = g.slice(x[0], Slice { axis: 1, start: 2, end: 4, step: 1 })?;
        let columns = g.reshape(columns, &[2, 4].into())?;
        g.mul(rows, columns)
    });
    check("slices that overlap", &[&[3, 6]], same, |g, x| {
        let left = g.slice(x[0], Slice { axis: 1, start: 0, end: 4, step: 1 })?;
        let right = g.slice(x[0], Slice { axis: 1, start: 2, end: 6, step: 1 })?;
        g.mul(left, right)
    });
    Ok(())
}
