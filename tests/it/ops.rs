//! Every op through plan and processor against the interpreter, at awkward sizes.

use std::collections::HashMap;
use std::sync::Arc;

use priorfit::Result;
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::graph::eval::{self, Env};
use priorfit::graph::{
    Binary, Conv2d, Graph, Indices, LeafKind, MatMul, PadAxis, Pool2d, Reduction, Slice, Unary,
    ValueId,
};
use priorfit::plan::Plan;
use priorfit::tensor::Shape;
use priorfit::threads::Threads;

use crate::support::gpu::on_gpu;
use crate::support::{array, normal, relative_error};

/// Relative error of one op in `f32`: rounding of the operands and of short sums.
const ROUNDING: f64 = 3e-6;

/// The same on a GPU, whose exponentials, powers and roots may be off by some units in the last
/// place, and whose sums run in another order.
const GPU_ROUNDING: f64 = 2e-5;

/// Turns a standard normal into an operand in the op's range.
type Point = fn(f32) -> f32;
type Build = fn(&mut Graph, &[ValueId]) -> Result<ValueId>;

/// Runs the op on 1, 2 and 3 threads; the results must agree with the oracle, and with each other
/// bit for bit.
fn check(name: &str, shapes: &[&[usize]], build: Build) {
    check_at(name, shapes, |x| x, build);
}

fn check_at(name: &str, shapes: &[&[usize]], point: Point, build: Build) {
    let mut graph = Graph::new();
    let mut env = Env::new();
    let mut inputs = HashMap::new();
    let mut operands = Vec::new();
    for (i, &shape) in shapes.iter().enumerate() {
        let (input, shape) = (format!("x{i}"), Shape::from(shape));
        let data: Vec<f32> = normal(&shape, i as u64).into_iter().map(point).collect();
        operands.push(graph.input(&input, &shape).expect("a leaf"));
        env.set(LeafKind::Input, &input, array(&shape, &data));
        inputs.insert(input, data);
    }
    let y = build(&mut graph, &operands).unwrap_or_else(|e| panic!("{name}: {e}"));
    graph.set_output("y", y);
    let expected = eval::outputs(&graph, &env).expect("the oracle").remove("y").expect("y");
    let run_on = |backend: &mut dyn Backend| {
        let plan = Plan::compile(&graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let plan = backend.load(plan).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (input, data) in &inputs {
            backend.write(plan, input, data).expect("an input");
        }
        backend.run(plan).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut y = vec![f32::NAN; expected.len()];
        backend.read(plan, "y", &mut y).unwrap_or_else(|e| panic!("{name}: {e}"));
        y
    };
    let run = |threads: usize| run_on(&mut Cpu::new(Arc::new(Threads::new(threads))));
    let got = run(1);
    let error = relative_error(&got, &expected);
    assert!(error < ROUNDING, "{name} {shapes:?}: relative error {error:.1e}");
    for threads in [2, 3] {
        let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&run(threads)), bits(&got), "{name} {shapes:?} on {threads} threads");
    }
    on_gpu(|gpu| {
        let error = relative_error(&run_on(gpu), &expected);
        assert!(error < GPU_ROUNDING, "{name} {shapes:?} on the GPU: relative error {error:.1e}");
    });
}

/// Sizes around a chunk, a task, and nothing.
const LENGTHS: [usize; 9] = [0, 1, 7, 511, 512, 513, 8191, 8193, 50_021];

#[test]
fn element_wise_ops() {
    let rows: [(&str, Point, Build); 16] = [
        ("neg", |x| x, |g, x| g.unary(Unary::Neg, x[0])),
        ("abs", |x| x, |g, x| g.unary(Unary::Abs, x[0])),
        ("sign", |x| x, |g, x| g.unary(Unary::Sign, x[0])),
        ("exp", |x| x, |g, x| g.unary(Unary::Exp, x[0])),
        ("log", |x| x.abs() + 0.1, |g, x| g.unary(Unary::Log, x[0])),
        ("sqrt", f32::abs, |g, x| g.unary(Unary::Sqrt, x[0])),
        ("rsqrt", |x| x.abs() + 0.1, |g, x| g.unary(Unary::Rsqrt, x[0])),
        ("recip", |x| x.abs() + 0.1, |g, x| g.unary(Unary::Recip, x[0])),
        ("tanh", |x| 3.0 * x, |g, x| g.unary(Unary::Tanh, x[0])),
        ("erf", |x| 2.0 * x, |g, x| g.unary(Unary::Erf, x[0])),
        ("sigmoid", |x| 5.0 * x, |g, x| g.unary(Unary::Sigmoid, x[0])),
        // Errors are relative to |x| and to 1: below, results get small.
        ("gelu", |x| (3.0 * x).max(-0.4), |g, x| g.unary(Unary::Gelu, x[0])),
        ("gelu_slope", |x| (3.0 * x).max(-0.4), |g, x| g.unary(Unary::GeluSlope, x[0])),
        ("relu", |x| x, |g, x| g.unary(Unary::Relu, x[0])),
        ("clamp", |x| x, |g, x| g.unary(Unary::Clamp(-0.5, 1.0), x[0])),
        ("powf", |x| x.abs() + 0.1, |g, x| g.unary(Unary::Powf(1.7), x[0])),
    ];
    for (name, point, build) in rows {
        for length in LENGTHS {
            check_at(name, &[&[length]], point, build);
        }
    }
    let binary: [(&str, Build); 6] = [
        ("add", |g, x| g.add(x[0], x[1])),
        ("sub", |g, x| g.sub(x[0], x[1])),
        ("mul", |g, x| g.mul(x[0], x[1])),
        ("max", |g, x| g.binary(Binary::Max, x[0], x[1])),
        ("min", |g, x| g.binary(Binary::Min, x[0], x[1])),
        ("select less", |g, x| {
            let less = g.binary(Binary::Less, x[0], x[1])?;
            g.select(less, x[1], x[0])
        }),
    ];
    for (name, build) in binary {
        check(name, &[&[3, 7, 41], &[3, 7, 41]], build);
    }
    check_at("div", &[&[1000], &[1000]], |x| x.abs() + 0.3, |g, x| g.div(x[0], x[1]));
}

#[test]
fn broadcasts_of_every_pattern() {
    for from in
        [[1, 1, 1, 1], [5, 1, 1, 1], [1, 7, 1, 1], [1, 1, 9, 11], [5, 1, 9, 1], [1, 7, 1, 11]]
    {
        check("broadcast", &[&from], |g, x| g.broadcast(x[0], &[5, 7, 9, 11].into()));
        check("broadcast and add", &[&from, &[5, 7, 9, 11]], |g, x| {
            let shape = g.shape(x[1]).clone();
            let wide = g.broadcast(x[0], &shape)?;
            g.add(wide, x[1])
        });
    }
}

#[test]
fn reductions_of_every_pattern() {
    for axes in [vec![0], vec![3], vec![1, 3], vec![0, 2, 3], vec![0, 1, 2, 3], vec![0, 3]] {
        for shape in [[5, 7, 9, 11], [1, 3, 600, 2], [64, 3, 1, 33], [2, 513, 7, 7], [0, 2, 2, 2]] {
            let mut graph = Graph::new();
            let x = graph.input("x", &shape.into()).expect("a leaf");
            let square = graph.mul(x, x).expect("a node");
            let sum = graph.sum(square, &axes).expect("a node");
            graph.set_output("y", sum);
            let data = normal(&shape.into(), 3);
            let mut env = Env::new();
            env.set(LeafKind::Input, "x", array(&shape.into(), &data));
            let expected = eval::outputs(&graph, &env).expect("the oracle").remove("y").expect("y");
            let mut bits = Vec::new();
            for threads in [1, 2, 3] {
                let mut cpu = Cpu::new(Arc::new(Threads::new(threads)));
                let plan = cpu.load(Plan::compile(&graph).expect("a plan")).expect("loaded");
                cpu.write(plan, "x", &data).expect("an input");
                cpu.run(plan).expect("a run");
                let mut y = vec![f32::NAN; expected.len()];
                cpu.read(plan, "y", &mut y).expect("an output");
                let error = relative_error(&y, &expected);
                assert!(error < ROUNDING, "{shape:?} over {axes:?}: {error:.1e}");
                bits.push(y.iter().map(|y| y.to_bits()).collect::<Vec<_>>());
            }
            assert!(bits.iter().all(|b| *b == bits[0]), "{shape:?} over {axes:?}");
            on_gpu(|gpu| {
                let plan = gpu.load(Plan::compile(&graph).expect("a plan")).expect("loaded");
                gpu.write(plan, "x", &data).expect("an input");
                gpu.run(plan).expect("a run");
                let mut y = vec![f32::NAN; expected.len()];
                gpu.read(plan, "y", &mut y).expect("an output");
                let error = relative_error(&y, &expected);
                assert!(error < GPU_ROUNDING, "{shape:?} over {axes:?} on the GPU: {error:.1e}");
            });
        }
    }
    check("reduce_max", &[&[3, 700]], |g, x| g.reduce(Reduction::Max, x[0], &[1]));
    check("reduce_max", &[&[300, 5]], |g, x| g.reduce(Reduction::Max, x[0], &[0]));
    check("a long sum", &[&[300_001]], |g, x| {
        let square = g.mul(x[0], x[0])?;
        g.sum_all(square)
    });
}

#[test]
fn layout_ops() {
    check("transpose", &[&[3, 5, 7, 11]], |g, x| g.transpose(x[0], &[0, 2, 3, 1]));
    check("slice", &[&[3, 50, 7]], |g, x| {
        g.slice(x[0], Slice { axis: 1, start: 3, end: 48, step: 4 })
    });
    check("pad", &[&[3, 5]], |g, x| {
        g.pad(
            x[0],
            &[PadAxis { low: 1, high: 0, interior: 2 }, PadAxis { low: 0, high: 3, interior: 0 }],
        )
    });
    check("concat", &[&[3, 5, 2], &[3, 1, 2], &[3, 4, 2]], |g, x| g.concat(x, 1));
    check("gather", &[&[3, 5, 7]], |g, x| {
        g.gather(x[0], Indices { axis: 1, rows: [4, 0, 4, 2].into() })
    });
    check("scatter_add", &[&[3, 4, 7]], |g, x| {
        g.scatter_add(x[0], Indices { axis: 1, rows: [4, 0, 4, 2].into() }, 6)
    });
    check("reshape of a chain", &[&[6, 4], &[24]], |g, x| {
        let y = g.unary(Unary::Exp, x[0])?;
        let flat = g.reshape(y, &[24].into())?;
        g.add(flat, x[1])
    });
}

const CONV: Conv2d = Conv2d {
    batch: 3,
    in_channels: 6,
    out_channels: 10,
    groups: 2,
    input: [13, 11],
    output: [7, 9],
    kernel: [3, 2],
    stride: [2, 1],
    pad: [1, 0],
    dilation: [1, 2],
};

#[test]
fn products_and_convolutions() {
    check("matmul", &[&[2, 13, 37], &[2, 37, 19]], |g, x| g.matmul(x[0], x[1], MatMul::default()));
    for (m, n) in [(12, 20), (13, 20), (64, 100), (130, 132)] {
        check("matmul, a stored transposed", &[&[2, 37, m], &[2, 37, n]], |g, x| {
            g.matmul(x[0], x[1], MatMul { transpose_a: true, transpose_b: false })
        });
        check("matmul, b stored transposed", &[&[2, m, 37], &[2, n, 37]], |g, x| {
            g.matmul(x[0], x[1], MatMul { transpose_a: false, transpose_b: true })
        });
    }
    let (x, w, y) = (CONV.input_shape(), CONV.filter_shape(), CONV.output_shape());
    check("conv2d", &[&x, &w], |g, x| g.conv2d(x[0], x[1], CONV));
    check("conv2d_input_grad", &[&y, &w], |g, x| g.conv2d_input_grad(x[0], x[1], CONV));
    check("conv2d_filter_grad", &[&x, &y], |g, x| g.conv2d_filter_grad(x[0], x[1], CONV));
    check("conv2d, bias, relu", &[&x, &w, &[1, 10, 1, 1], &y], |g, x| {
        let shape = CONV.output_shape();
        let y = g.conv2d(x[0], x[1], CONV)?;
        let bias = g.broadcast(x[2], &shape)?;
        let y = g.add(y, bias)?;
        let y = g.add(y, x[3])?;
        g.unary(Unary::Relu, y)
    });
    check("conv2d read twice", &[&x, &w], |g, x| {
        let y = g.conv2d(x[0], x[1], CONV)?;
        let gate = g.unary(Unary::Sigmoid, y)?;
        let gated = g.mul(y, gate)?;
        let sum = g.sum(y, &[2, 3])?;
        let sum = g.broadcast(sum, &CONV.output_shape())?;
        g.add(gated, sum)
    });
}

#[test]
fn windows_and_rows() {
    const POOL: Pool2d = Pool2d {
        batch: 2,
        channels: 3,
        input: [9, 8],
        output: [5, 4],
        kernel: [3, 3],
        stride: [2, 2],
        pad: [1, 1],
        dilation: [1, 1],
    };
    let (x, y) = (POOL.input_shape(), POOL.output_shape());
    check("max_pool", &[&x], |g, x| g.max_pool(x[0], POOL));
    check("max_pool_grad", &[&x, &y], |g, x| g.max_pool_grad(x[0], x[1], POOL));
    check("sum_pool", &[&x], |g, x| g.sum_pool(x[0], POOL));
    check("sum_pool_grad", &[&y], |g, x| g.sum_pool_grad(x[0], POOL));
    for columns in [1, 2, 17, 1000] {
        check("softmax", &[&[5, columns]], |g, x| g.softmax(x[0]));
        check("log_softmax", &[&[5, columns]], |g, x| g.log_softmax(x[0]));
    }
}

/// More operands than a tape takes: the plan must store parts of the sum.
#[test]
fn a_sum_of_many_operands() {
    let shapes: Vec<&[usize]> = vec![&[33]; 40];
    check("sum of 40", &shapes, |g, x| {
        x[1..].iter().try_fold(x[0], |sum, &value| g.add(sum, value))
    });
    check("tree of 32", &shapes[..32], |g, x| {
        let mut level = x.to_vec();
        while level.len() > 1 {
            level = level.chunks(2).map(|p| g.mul(p[0], p[1])).collect::<Result<_>>()?;
        }
        Ok(level[0])
    });
}
