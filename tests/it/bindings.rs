//! Values that are larger than what a device binds of a buffer at a time, and grids with more
//! workgroups than a dimension has.

use priorfit::Result;
use priorfit::backend::Backend;
use priorfit::backend::gpu::{Gpu, Options};
use priorfit::graph::{
    Conv2d, Graph, Indices, MatMul, PadAxis, Pool2d, Reduction, Slice, Unary, ValueId,
};
use priorfit::plan::Plan;
use priorfit::tensor::Shape;

use crate::support::case::{Case, open};

/// A device that binds 4096 elements at a time.
fn narrow() -> Option<Gpu> {
    open(Options { binding_limit: Some(16 << 10), ..Options::default() })
}

#[test]
fn more_workgroups_than_a_dimension_has_and_more_bytes_than_a_binding() {
    // 35 million elements are 136 718 workgroups and 140 MB; a binding has 128 MiB by default.
    const LEN: usize = 35_000_003;
    let options = Options { binding_limit: Some(128 << 20), ..Options::default() };
    let Some(mut gpu) = open(options) else { return };
    let mut graph = Graph::new();
    let x = graph.input("x", &[LEN].into()).expect("a leaf");
    let doubled = graph.add(x, x).expect("a node");
    graph.set_output("y", doubled);
    let plan = gpu.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
    let data: Vec<f32> = (0..LEN).map(|i| (i % 8191) as f32).collect();
    gpu.write(plan, "x", &data).expect("an input");
    gpu.run(plan).expect("a run");
    let mut y = vec![f32::NAN; LEN];
    gpu.read(plan, "y", &mut y).expect("an output");
    assert!(y.iter().zip(&data).all(|(y, x)| *y == 2.0 * x), "every element is doubled");
}

#[test]
fn products_windows_and_rows_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    let conv = Conv2d {
        batch: 8,
        in_channels: 4,
        out_channels: 8,
        groups: 2,
        input: [16, 16],
        output: [16, 16],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
    };
    let depthwise = Conv2d { groups: 4, ..conv };
    let (x, y) = (conv.input_shape(), conv.output_shape());
    for conv in [conv, depthwise] {
        let w = conv.filter_shape();
        let bias: Shape = [1, 8, 1, 1].into();
        let case = Case::new(&[x.clone(), w.clone(), bias, y.clone()], |g, x| {
            let y = g.conv2d(x[0], x[1], conv)?;
            let bias = g.broadcast(x[2], &conv.output_shape())?;
            let y = g.add(y, bias)?;
            let y = g.mul(y, x[3])?;
            g.unary(Unary::Relu, y)
        });
        case.check(&mut gpu, "conv2d with an epilogue");
        let case = Case::new(&[y.clone(), w], |g, x| g.conv2d_input_grad(x[0], x[1], conv));
        case.check(&mut gpu, "conv2d_input_grad");
    }
    for conv in [conv, depthwise] {
        let shapes = [x.clone(), y.clone()];
        let case = Case::new(&shapes, |g, x| g.conv2d_filter_grad(x[0], x[1], conv));
        case.check(&mut gpu, "conv2d_filter_grad");
    }
    let pool = Pool2d {
        batch: 8,
        channels: 4,
        input: [16, 16],
        output: [8, 8],
        kernel: [2, 2],
        stride: [2, 2],
        pad: [0, 0],
        dilation: [1, 1],
    };
    let pooled = pool.output_shape();
    Case::new(std::slice::from_ref(&x), |g, x| g.max_pool(x[0], pool)).check(&mut gpu, "max_pool");
    let case = Case::new(&[x, pooled.clone()], |g, x| g.max_pool_grad(x[0], x[1], pool));
    case.check(&mut gpu, "max_pool_grad");
    let case = Case::new(&[pooled], |g, x| g.sum_pool_grad(x[0], pool));
    case.check(&mut gpu, "sum_pool_grad");
    let case = Case::new(&[[100, 64].into()], |g, x| g.log_softmax(x[0]));
    case.check(&mut gpu, "log_softmax");
    let shapes = [[8, 32, 16].into(), [8, 16, 64].into()];
    let case = Case::new(&shapes, |g, x| g.matmul(x[0], x[1], MatMul::default()));
    case.check(&mut gpu, "matmul by the batch");
    let shapes = [[300, 16].into(), [16, 64].into()];
    let case = Case::new(&shapes, |g, x| g.matmul(x[0], x[1], MatMul::default()));
    case.check(&mut gpu, "matmul by rows");
}

#[test]
fn products_of_tall_matrices_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    for (m, n) in [(16, 12), (60, 68), (13, 60)] {
        let shapes = [[1003, m].into(), [1003, n].into(), [m, n].into()];
        let how = MatMul { transpose_a: true, transpose_b: false };
        let case = Case::new(&shapes[..2], |g, x| g.matmul(x[0], x[1], how));
        case.check(&mut gpu, &format!("matmul {m} by {n} by parts of the sum"));
        let case = Case::new(&shapes, |g, x| {
            let y = g.matmul(x[0], x[1], how)?;
            let y = g.mul(y, x[2])?;
            g.unary(Unary::Relu, y)
        });
        case.check(&mut gpu, &format!("matmul {m} by {n} by parts of the sum, with an epilogue"));
    }
}

#[test]
fn element_wise_chains_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    // The broadcast operand is a scalar, or itself more than a binding.
    for (wide, narrow) in [
        (vec![10_007], vec![1]),
        (vec![4, 5003], vec![1, 5003]),
        (vec![5003, 3], vec![5003, 1]),
        (vec![3, 7, 701], vec![3, 1, 701]),
        (vec![2, 3, 5003], vec![2, 1, 5003]),
        (vec![2, 3, 5003], vec![2, 3, 1]),
    ] {
        let shapes = [wide.as_slice().into(), narrow.as_slice().into()];
        let case = Case::new(&shapes, |g, x| {
            let narrow = g.broadcast(x[1], &wide.as_slice().into())?;
            g.mul(x[0], narrow)
        });
        case.check(&mut gpu, &format!("{wide:?} by {narrow:?}"));
    }
    // An epilogue whose operand is broadcast over channels, and more than a binding.
    let conv = Conv2d {
        batch: 20,
        in_channels: 3,
        out_channels: 5,
        groups: 1,
        input: [16, 20],
        output: [16, 20],
        kernel: [1, 1],
        stride: [1, 1],
        pad: [0, 0],
        dilation: [1, 1],
    };
    let shapes = [conv.input_shape(), conv.filter_shape(), [20, 1, 16, 20].into()];
    let case = Case::new(&shapes, |g, x| {
        let y = g.conv2d(x[0], x[1], conv)?;
        let mask = g.broadcast(x[2], &conv.output_shape())?;
        g.mul(y, mask)
    });
    case.check(&mut gpu, "conv2d with a mask");
}

/// Every choice of axes of `shape`.
fn choices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let ndim = shape.len();
    (1..1usize << ndim).map(move |bits| (0..ndim).filter(|axis| bits >> axis & 1 == 1).collect())
}

#[test]
fn reductions_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    let shapes: [&[usize]; 8] = [
        &[100_003],
        &[3, 5000],
        &[5000, 3],
        &[2, 40, 80],
        &[7, 33, 65],
        &[2, 3, 4099],
        &[4099, 2, 3],
        &[3, 5, 7, 101],
    ];
    for shape in shapes {
        for axes in choices(shape) {
            let scene = format!("{shape:?} over {axes:?}");
            let case = Case::new(&[shape.into(), shape.into()], |g, x| {
                let product = g.mul(x[0], x[1])?;
                g.sum(product, &axes)
            });
            case.check(&mut gpu, &format!("sum of products, {scene}"));
            let largest = |g: &mut Graph, x: &[ValueId]| g.reduce(Reduction::Max, x[0], &axes);
            Case::new(&[shape.into()], largest).check(&mut gpu, &format!("largest, {scene}"));
        }
    }
}

#[test]
fn reductions_of_broadcasts_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    let wide: [&[usize]; 3] = [&[4, 5003], &[2, 3, 5003], &[5003, 3, 2]];
    for shape in wide {
        for broadcast in choices(shape).filter(|axes| axes.len() < shape.len()) {
            let narrow = shape.iter().copied().enumerate();
            let narrow = narrow.map(|(axis, e)| if broadcast.contains(&axis) { 1 } else { e });
            let narrow: Vec<usize> = narrow.collect();
            for axes in choices(shape) {
                let shapes = [narrow.as_slice().into(), shape.into()];
                let case = Case::new(&shapes, |g, x| {
                    let wide = g.broadcast(x[0], &shape.into())?;
                    let product = g.mul(wide, x[1])?;
                    g.sum(product, &axes)
                });
                case.check(&mut gpu, &format!("{narrow:?} by {shape:?} over {axes:?}"));
            }
        }
    }
}

/// Compares a kernel that only moves elements: they must be the same.
fn moved(
    gpu: &mut Gpu,
    scene: &str,
    shapes: &[&[usize]],
    build: impl Fn(&mut Graph, &[ValueId]) -> Result<ValueId>,
) {
    let shapes: Vec<Shape> = shapes.iter().map(|&shape| shape.into()).collect();
    let case = Case::new(&shapes, build);
    let plan = case.load(gpu);
    let got = case.run(gpu, plan).unwrap_or_else(|e| panic!("{scene}: {e}"));
    let same = got[0].iter().zip(&case.expected[0].1).all(|(&y, &e)| f64::from(y) == e);
    assert!(same, "{scene} of {shapes:?}");
}

#[test]
fn transposes_and_slices_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    let gpu = &mut gpu;
    for shape in [[70, 91], [3, 5001], [5001, 3]] {
        moved(gpu, "transpose", &[&shape], |g, x| g.transpose(x[0], &[1, 0]));
    }
    for perm in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for shape in [[5, 31, 50], [2, 67, 70], [4200, 2, 2]] {
            moved(gpu, "transpose", &[&shape], |g, x| g.transpose(x[0], &perm));
        }
    }
    moved(gpu, "transpose", &[&[3, 5, 7, 11, 13]], |g, x| g.transpose(x[0], &[3, 0, 4, 2, 1]));
    let slices: [(&[usize], [usize; 4]); 6] = [
        (&[20_000], [0, 7, 19_993, 3]),
        (&[20_000], [0, 4096, 4100, 1]),
        (&[30, 500, 2], [1, 3, 499, 2]),
        (&[3, 5000], [1, 1, 5000, 1]),
        (&[40, 500], [0, 11, 38, 1]),
        (&[9000, 2], [1, 1, 2, 1]),
    ];
    for (shape, [axis, start, end, step]) in slices {
        let slice = Slice { axis, start, end, step };
        moved(gpu, &format!("{slice:?}"), &[shape], |g, x| g.slice(x[0], slice.clone()));
    }
}

#[test]
fn padding_and_joins_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    let gpu = &mut gpu;
    let pads: [(&[usize], &[[usize; 3]]); 6] = [
        // Whole windows of nothing but padding.
        (&[5000], &[[9001, 8500, 2]]),
        (&[10], &[[5000, 5000, 777]]),
        (&[60, 71], &[[1, 0, 2], [0, 3, 0]]),
        (&[5, 900], &[[0, 2, 0], [1, 1, 0]]),
        (&[900, 5], &[[3, 0, 0], [0, 0, 1]]),
        (&[3, 5000], &[[0, 0, 1], [1, 0, 0]]),
    ];
    for (shape, pads) in pads {
        let pads = pads.iter().map(|&[low, high, interior]| PadAxis { low, high, interior });
        let pads: Vec<PadAxis> = pads.collect();
        moved(gpu, &format!("{pads:?}"), &[shape], |g, x| g.pad(x[0], &pads));
    }
    let joins: [(usize, &[&[usize]]); 5] = [
        (0, &[&[5000], &[10], &[4097]]),
        (1, &[&[3, 2000], &[3, 1], &[3, 700]]),
        (1, &[&[3001, 1], &[3001, 2]]),
        (1, &[&[2, 5000, 1], &[2, 1, 1], &[2, 4100, 1]]),
        (0, &[&[1, 70], &[80, 70], &[0, 70], &[64, 70]]),
    ];
    for (axis, shapes) in joins {
        moved(gpu, &format!("concat along {axis}"), shapes, |g, x| g.concat(x, axis));
    }
}

#[test]
fn rows_by_number_beyond_a_binding_agree() {
    let Some(mut gpu) = narrow() else { return };
    let gpu = &mut gpu;
    let scattered = |count: usize, extent: usize| -> Indices {
        let rows = (0..count).map(|i| (i * 7919 % extent) as u32).collect::<Vec<_>>();
        Indices { axis: 1, rows: rows.into() }
    };
    // Shape, and how many rows of axis 1 are taken of how many.
    for (outer, extent, inner, count) in [
        (1, 3000, 7, 5),
        (1, 3000, 7, 901),
        (2, 50, 70, 91),
        (3, 3, 5000, 4),
        (5, 2000, 1, 1000),
        (2, 31, 300, 60),
        (40, 3, 64, 1),
    ] {
        let indices = scattered(count, extent);
        let scene = format!("{count} of {extent}");
        let (table, taken) = ([outer, extent, inner], [outer, count, inner]);
        moved(gpu, &format!("gather {scene}"), &[&table], |g, x| g.gather(x[0], indices.clone()));
        let case = Case::new(&[taken.into()], |g, x| g.scatter_add(x[0], indices.clone(), extent));
        case.check(gpu, &format!("scatter_add {scene} in {outer} rows of {inner}"));
    }
}

#[test]
fn what_is_added_in_parts_is_added_in_the_order_of_the_rows() {
    let (Some(mut cut), Some(mut whole)) = (narrow(), open(Options::default())) else { return };
    // 200 rows for each of three, two of them with sources.
    let rows: Vec<u32> = (0..400).map(|i| i % 2 * 2).collect();
    let indices = Indices { axis: 0, rows: rows.into() };
    let case = Case::new(&[[400, 70].into()], |g, x| g.scatter_add(x[0], indices.clone(), 3));
    let bits = |gpu: &mut Gpu| {
        let plan = case.load(gpu);
        let y = case.run(gpu, plan).expect("a run");
        y.concat().iter().map(|y| y.to_bits()).collect::<Vec<_>>()
    };
    let first = bits(&mut cut);
    assert!(first == bits(&mut whole), "seven windows and one");
    case.check(&mut cut, "sums");
}

#[test]
fn more_than_the_bytes_of_a_real_binding_is_transposed_and_summed() {
    // 35 million elements are 140 MB; a binding has 128 MiB by default.
    const ROWS: usize = 5000;
    const COLUMNS: usize = 7001;
    let options = Options { binding_limit: Some(128 << 20), ..Options::default() };
    let Some(mut gpu) = open(options) else { return };
    let mut graph = Graph::new();
    let x = graph.input("x", &[ROWS, COLUMNS].into()).expect("a leaf");
    let turned = graph.transpose(x, &[1, 0]).expect("a node");
    graph.set_output("turned", turned);
    let sum = graph.sum(x, &[0]).expect("a node");
    graph.set_output("sum", sum);
    let plan = gpu.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
    // Small integers: every sum is exact in any order.
    let data: Vec<f32> = (0..ROWS * COLUMNS).map(|i| (i % 8191 % 127) as f32).collect();
    gpu.write(plan, "x", &data).expect("an input");
    gpu.run(plan).expect("a run");
    let mut y = vec![f32::NAN; ROWS * COLUMNS];
    gpu.read(plan, "turned", &mut y).expect("an output");
    let same = |i: usize| y[i % COLUMNS * ROWS + i / COLUMNS] == data[i];
    assert!((0..y.len()).all(same), "every element is where it belongs");
    let mut sums = vec![f32::NAN; COLUMNS];
    gpu.read(plan, "sum", &mut sums).expect("an output");
    let column = |c: usize| data[c..].iter().step_by(COLUMNS).sum::<f32>();
    assert!((0..COLUMNS).all(|c| sums[c] == column(c)), "every column is summed");
}

#[test]
fn a_small_value_in_a_long_slot_is_bound_by_its_own_length() {
    // The slots of the first plan, which the second uses too, are longer than a binding.
    let Some(mut gpu) = narrow() else { return };
    let case = Case::new(&[[64, 100].into()], |g, x| {
        let wide = g.softmax(x[0])?;
        let wide = g.log_softmax(wide)?;
        g.softmax(wide)
    });
    case.check(&mut gpu, "rows");
    let case = Case::new(&[[8, 10].into()], |g, x| {
        let turned = g.transpose(x[0], &[1, 0])?;
        g.softmax(turned)
    });
    case.check(&mut gpu, "a small plan in the same slots");
}

#[test]
fn an_operand_that_cannot_be_cut_is_refused_with_the_bytes_it_needs() {
    let Some(mut gpu) = narrow() else { return };
    let case = Case::new(&[[3, 5000].into()], |g, x| g.log_softmax(x[0]));
    let plan = Plan::compile(&case.graph).expect("a plan");
    let error = gpu.load(plan).expect_err("a row of 20 000 bytes").to_string();
    assert!(error.contains("20000 bytes") && error.contains("16384"), "{error}");
}
