use super::*;
use crate::graph::{
    Binary, Conv2d, Hyper, Indices, MatMul, Method, PadAxis, Pool2d, PriorTerm, Reduction, Slice,
    Unary, Update,
};
use crate::rng::{Key, Stream};

/// Rounding of a handful of `f64` operations on numbers near 1.
const EXACT: f64 = 1e-14;

fn array(shape: &[usize], data: &[f64]) -> Array {
    Array::new(&shape.into(), data.to_vec()).expect("the data fill the shape")
}

fn eval(op: Op, operands: &[Array]) -> Vec<Array> {
    eval_op(op, operands).expect("the operands fit")
}

/// Checks the only result of `op` against `expected`.
fn check(op: Op, operands: &[Array], expected: &[f64]) {
    let result = &eval(op.clone(), operands)[0];
    assert_eq!(result.len(), expected.len(), "{op}");
    for (got, want) in result.iter().zip(expected) {
        let close = (got - want).abs() <= EXACT * want.abs().max(1.0);
        assert!(close || got == want || got.is_nan() && want.is_nan(), "{op}: {result:?}");
    }
}

fn conv(input: [usize; 2], kernel: [usize; 2]) -> Conv2d {
    Conv2d {
        batch: 1,
        in_channels: 1,
        out_channels: 1,
        groups: 1,
        input,
        output: [input[0] - kernel[0] + 1, input[1] - kernel[1] + 1],
        kernel,
        stride: [1, 1],
        pad: [0, 0],
        dilation: [1, 1],
    }
}

fn pool(input: [usize; 2], output: [usize; 2], pad: usize) -> Pool2d {
    Pool2d {
        batch: 1,
        channels: 1,
        input,
        output,
        kernel: [2, 2],
        stride: [1, 1],
        pad: [pad; 2],
        dilation: [1, 1],
    }
}

#[test]
fn unary_functions_have_their_textbook_values() {
    let x = array(&[3], &[-0.5, 0.0, 2.0]);
    let check = |f, expected: [f64; 3]| check(Op::Unary(f), std::slice::from_ref(&x), &expected);
    check(Unary::Neg, [0.5, 0.0, -2.0]);
    check(Unary::Abs, [0.5, 0.0, 2.0]);
    check(Unary::Sign, [-1.0, 0.0, 1.0]);
    check(Unary::Exp, [0.606_530_659_712_633_4, 1.0, 7.389_056_098_930_65]);
    check(Unary::Log, [f64::NAN, f64::NEG_INFINITY, std::f64::consts::LN_2]);
    check(Unary::Sqrt, [f64::NAN, 0.0, std::f64::consts::SQRT_2]);
    check(Unary::Rsqrt, [f64::NAN, f64::INFINITY, std::f64::consts::FRAC_1_SQRT_2]);
    check(Unary::Recip, [-2.0, f64::INFINITY, 0.5]);
    check(Unary::Tanh, [-0.462_117_157_260_009_76, 0.0, 0.964_027_580_075_816_9]);
    check(Unary::Erf, [-0.520_499_877_813_046_5, 0.0, 0.995_322_265_018_952_7]);
    check(Unary::Sigmoid, [0.377_540_668_798_145_4, 0.5, 0.880_797_077_977_882_4]);
    check(Unary::Gelu, [-0.15426876936299344, 0.0, 1.9544997361036416]);
    check(Unary::GeluSlope, [0.13250487534383712, 0.5, 1.085231801078197]);
    check(Unary::Relu, [0.0, 0.0, 2.0]);
    check(Unary::Clamp(-0.25, 1.0), [-0.25, 0.0, 1.0]);
    check(Unary::Powf(3.0), [-0.125, 0.0, 8.0]);
}

#[test]
fn erf_matches_high_precision_values() {
    // mpmath, 17 digits.
    let known = [
        (1e-9, 1.128_379_167_095_512_6e-9),
        (0.1, 0.112_462_916_018_284_9),
        (1.0, 0.842_700_792_949_714_9),
        (3.0, 0.999_977_909_503_001_4),
        (5.9, 1.0),
        (7.0, 1.0),
        (f64::INFINITY, 1.0),
    ];
    for (x, want) in known {
        assert!((map::erf(x) - want).abs() <= EXACT * want, "erf({x}) = {}", map::erf(x));
        assert_eq!(map::erf(-x), -map::erf(x));
    }
    assert!(map::erf(f64::NAN).is_nan());
}

#[test]
fn nan_propagates_through_comparing_ops() {
    let (nan, one) = (array(&[1], &[f64::NAN]), array(&[1], &[1.0]));
    for f in [Unary::Sign, Unary::Relu, Unary::Clamp(0.0, 1.0)] {
        check(Op::Unary(f), std::slice::from_ref(&nan), &[f64::NAN]);
    }
    for f in [Binary::Max, Binary::Min] {
        check(Op::Binary(f), &[nan.clone(), one.clone()], &[f64::NAN]);
        check(Op::Binary(f), &[one.clone(), nan.clone()], &[f64::NAN]);
    }
    let row = array(&[1, 2], &[f64::NAN, 1.0]);
    check(Op::Reduce(Reduction::Max, vec![1]), std::slice::from_ref(&row), &[f64::NAN]);
    let g = Pool2d { kernel: [1, 2], ..pool([1, 2], [1, 1], 0) };
    let shaped = array(&[1, 1, 1, 2], &row);
    check(Op::MaxPool(g), &[shaped], &[f64::NAN]);
}

#[test]
fn binary_functions_and_select() {
    let (a, b) = (array(&[3], &[1.0, 2.0, 3.0]), array(&[3], &[2.0, 2.0, -1.0]));
    let pair = [a.clone(), b.clone()];
    let check2 = |f, expected: [f64; 3]| check(Op::Binary(f), &pair, &expected);
    check2(Binary::Add, [3.0, 4.0, 2.0]);
    check2(Binary::Sub, [-1.0, 0.0, 4.0]);
    check2(Binary::Mul, [2.0, 4.0, -3.0]);
    check2(Binary::Div, [0.5, 1.0, -3.0]);
    check2(Binary::Max, [2.0, 2.0, 3.0]);
    check2(Binary::Min, [1.0, 2.0, -1.0]);
    check2(Binary::Less, [1.0, 0.0, 0.0]);
    let cond = array(&[3], &[0.0, -1.0, 0.5]);
    check(Op::Select, &[cond, a, b], &[2.0, 2.0, 3.0]);
}

#[test]
fn layout_ops_move_the_right_elements() {
    let x = array(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let check1 = |op, expected: &[f64]| check(op, std::slice::from_ref(&x), expected);
    check1(Op::Reshape([3, 2].into()), &x);
    check1(Op::Transpose(vec![1, 0]), &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    check1(Op::Slice(Slice { axis: 1, start: 0, end: 3, step: 2 }), &[1.0, 3.0, 4.0, 6.0]);
    let pads = [PadAxis { low: 1, ..PadAxis::default() }, PadAxis { low: 0, high: 1, interior: 1 }];
    let mut padded = vec![0.0; 6];
    padded.extend([1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0, 5.0, 0.0, 6.0, 0.0]);
    check1(Op::Pad(pads.to_vec()), &padded);
    let rows = Indices { axis: 1, rows: [2, 0, 2].into() };
    check1(Op::Gather(rows.clone()), &[3.0, 1.0, 3.0, 6.0, 4.0, 6.0]);
    check1(Op::ScatterAdd(rows, 4), &[2.0, 0.0, 4.0, 0.0, 5.0, 0.0, 10.0, 0.0]);
    let column = array(&[2, 1], &[7.0, 8.0]);
    check(Op::Concat(1), &[x.clone(), column.clone()], &[1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 8.0]);
    check(Op::Broadcast([2, 2].into()), &[column], &[7.0, 7.0, 8.0, 8.0]);
}

#[test]
fn a_three_dimensional_transpose_follows_its_definition() {
    let x = Array::from_fn(&[2, 3, 4].into(), |i| i as f64);
    let y = &eval(Op::Transpose(vec![2, 0, 1]), std::slice::from_ref(&x))[0];
    assert_eq!(y.shape(), &Shape::from([4, 2, 3]));
    for (i, j, k) in (0..24).map(|i| (i / 12, i / 4 % 3, i % 4)) {
        assert_eq!(y[(k * 2 + i) * 3 + j], x[(i * 3 + j) * 4 + k]);
    }
}

#[test]
fn reductions_products_and_softmax() {
    let x = array(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let check1 = |op, expected: &[f64]| check(op, std::slice::from_ref(&x), expected);
    check1(Op::Reduce(Reduction::Sum, vec![0]), &[5.0, 7.0, 9.0]);
    check1(Op::Reduce(Reduction::Max, vec![1]), &[3.0, 6.0]);
    check1(Op::Reduce(Reduction::Sum, vec![0, 1]), &[21.0]);
    let (e1, e2) = (1f64.exp(), 2f64.exp());
    let (sum, row) = (1.0 + e1 + e2, [0.0, 1.0, 2.0]);
    let softmax = row.map(|x: f64| x.exp() / sum);
    check1(Op::Softmax, &[softmax, softmax].concat());
    let log_softmax = row.map(|x| x - sum.ln());
    check1(Op::LogSoftmax, &[log_softmax, log_softmax].concat());
    let huge = array(&[1, 2], &[1e300, 1e300]);
    check(Op::Softmax, &[huge], &[0.5, 0.5]);
}

#[test]
fn matmul_takes_either_operand_transposed() {
    let a = array(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = array(&[1, 3, 2], &[1.0, 0.0, 2.0, 1.0, 0.0, -1.0]);
    let product = [5.0, -1.0, 14.0, -1.0];
    let flip = |x: &Array| eval(Op::Transpose(vec![0, 2, 1]), std::slice::from_ref(x))[0].clone();
    for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let a = if transpose_a { flip(&a) } else { a.clone() };
        let b = if transpose_b { flip(&b) } else { b.clone() };
        check(Op::MatMul(MatMul { transpose_a, transpose_b }), &[a, b], &product);
    }
    let empty = [array(&[2, 0], &[]), array(&[0, 1], &[])];
    check(Op::MatMul(MatMul::default()), &empty, &[0.0, 0.0]);
}

#[test]
fn a_small_convolution_by_hand() {
    let x = array(&[1, 1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let w = array(&[1, 1, 2, 2], &[1.0, 10.0, 100.0, 1000.0]);
    check(Op::Conv2d(conv([2, 3], [2, 2])), &[x.clone(), w.clone()], &[5421.0, 6532.0]);
    let g = Conv2d { pad: [1, 1], stride: [2, 2], output: [1, 2], ..conv([2, 3], [2, 2]) };
    check(Op::Conv2d(g), &[x, w], &[1000.0, 3200.0]);
}

/// Both gradients are the adjoints of the convolution: ⟨y(x, w), ct⟩ = ⟨x, ct_x⟩ = ⟨w, ct_w⟩.
#[test]
fn convolution_gradients_are_adjoint() {
    let g = Conv2d {
        batch: 2,
        in_channels: 4,
        out_channels: 6,
        groups: 2,
        input: [7, 5],
        output: [4, 6],
        kernel: [3, 2],
        stride: [2, 1],
        pad: [1, 1],
        dilation: [1, 1],
    };
    for g in [g, Conv2d { dilation: [2, 3], pad: [2, 2], output: [4, 6], ..g }] {
        let x = wave(&g.input_shape(), 0.7);
        let w = wave(&g.filter_shape(), 1.3);
        let ct = wave(&g.output_shape(), 0.3);
        let y = &eval(Op::Conv2d(g), &[x.clone(), w.clone()])[0];
        let ct_x = &eval(Op::Conv2dInputGrad(g), &[ct.clone(), w.clone()])[0];
        let ct_w = &eval(Op::Conv2dFilterGrad(g), &[x.clone(), ct.clone()])[0];
        let inner = dot(y, &ct);
        assert!(inner.abs() > 0.1, "the test would pass on zeros");
        assert!((inner - dot(&x, ct_x)).abs() < 1e3 * EXACT, "{g:?}");
        assert!((inner - dot(&w, ct_w)).abs() < 1e3 * EXACT, "{g:?}");
    }
}

fn wave(shape: &Shape, frequency: f64) -> Array {
    Array::from_fn(shape, |i| (frequency * i as f64 + 0.2).sin())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn padding_never_wins_and_the_first_largest_takes_the_cotangent() {
    let x = array(&[1, 1, 2, 2], &[-1.0, -1.0, -3.0, -1.0]);
    let ct = array(&[1, 1, 1, 1], &[5.0]);
    let g = pool([2, 2], [1, 1], 0);
    check(Op::MaxPool(g), std::slice::from_ref(&x), &[-1.0]);
    check(Op::MaxPoolGrad(g), &[x.clone(), ct], &[5.0, 0.0, 0.0, 0.0]);
    let padded = pool([2, 2], [3, 3], 1);
    let largest = [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -3.0, -1.0, -1.0];
    check(Op::MaxPool(padded), std::slice::from_ref(&x), &largest);
    let ct = array(&[1, 1, 3, 3], &[1.0; 9]);
    check(Op::MaxPoolGrad(padded), &[x.clone(), ct.clone()], &[4.0, 2.0, 1.0, 2.0]);
    let sums = [-1.0, -2.0, -1.0, -4.0, -6.0, -2.0, -3.0, -4.0, -1.0];
    check(Op::SumPool(padded), &[x], &sums);
    check(Op::SumPoolGrad(padded), &[ct], &[4.0; 4]);
}

const HYPER: [f64; Hyper::COUNT] =
    [0.1, 0.5, 0.75, 0.25, 0.2, 0.3, 0.4, 0.6, 0.5, 3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.6];

/// The four leading operands of an update of one element, θ = 2, c·g = 3.
fn leading() -> Vec<Array> {
    let hyper = array(&[Hyper::COUNT], &HYPER);
    vec![array(&[1], &[2.0]), array(&[1], &[6.0]), hyper, array(&[1], &[0.5])]
}

fn check_update(update: Update, operands: &[&[f64]], expected: &[&[f64]]) {
    let mut all = leading();
    all.extend(operands.iter().map(|x| array(&[x.len()], x)));
    if let PriorTerm::LowRank { rank } = update.prior {
        let factor = all.len() - 2;
        all[factor] = array(&[rank, 1], &all[factor]);
    }
    let results = eval(Op::Update(update), &all);
    assert_eq!(results.len(), expected.len());
    for (got, want) in results.iter().flat_map(|r| r.iter()).zip(expected.concat()) {
        assert!((got - want).abs() < EXACT * want.abs().max(1.0), "{update:?}: {results:?}");
    }
}

#[test]
fn sgd_steps_by_hand() {
    // m' = 0.5·4 + 3 = 5; the step is 0.1·m', or 0.1·(3 + 0.5·5) with Nesterov; η = 0.2.
    let sgd = |nesterov, prior| Update { method: Method::Sgd { nesterov }, prior };
    check_update(sgd(false, PriorTerm::None), &[&[4.0]], &[&[1.5], &[5.0]]);
    check_update(sgd(true, PriorTerm::None), &[&[4.0]], &[&[1.45], &[5.0]]);
    let x = 1.5 / 1.06;
    let at_zero = PriorTerm::Isotropic { centred: false };
    check_update(sgd(false, at_zero), &[&[4.0]], &[&[x], &[5.0], &[x * x]]);
    let x = 0.5 / 1.06;
    let centred = PriorTerm::Isotropic { centred: true };
    check_update(sgd(false, centred), &[&[4.0], &[1.0]], &[&[1.0 + x], &[5.0], &[x * x]]);
    // With d⁻¹ = 2, η w d⁻¹ = 0.12.
    let x = 0.5 / 1.12;
    let operands: [&[f64]; 3] = [&[4.0], &[1.0], &[2.0]];
    let expected: [&[f64]; 3] = [&[1.0 + x], &[5.0], &[2.0 * x * x]];
    check_update(sgd(false, PriorTerm::Diagonal), &operands, &expected);
    // W s = 3·0.5 - 1·2 = -0.5.
    let x = (0.5 - 0.12 * 0.5) / 1.12;
    let operands: [&[f64]; 5] = [&[4.0], &[1.0], &[2.0], &[3.0, -1.0], &[0.5, 2.0]];
    let expected: [&[f64]; 3] = [&[1.0 + x], &[5.0], &[6.0 * x, -2.0 * x, 2.0 * x * x]];
    check_update(sgd(false, PriorTerm::LowRank { rank: 2 }), &operands, &expected);
}

#[test]
fn adamw_steps_by_hand() {
    // m' = 0.5·4 + 0.5·3 = 3.5, v' = 0.75·1 + 0.25·9 = 3; θ shrinks by 0.98 to 1.96.
    let eta = 0.1 / ((3.0f64 / 0.6).sqrt() + 0.25);
    let step = eta * 3.5 / 0.4;
    let adam = |prior| Update { method: Method::AdamW, prior };
    let moments: [&[f64]; 2] = [&[3.5], &[3.0]];
    let bare = [1.96 - step];
    check_update(adam(PriorTerm::None), &[&[4.0], &[1.0]], &[&bare, moments[0], moments[1]]);
    let x = (0.96 - step) / (1.0 + eta * 0.3 * 2.0);
    let expected: [&[f64]; 4] = [&[1.0 + x], moments[0], moments[1], &[2.0 * x * x]];
    check_update(adam(PriorTerm::Diagonal), &[&[4.0], &[1.0], &[1.0], &[2.0]], &expected);
}

#[test]
fn sgld_steps_by_hand() {
    // Seed 3, step 2: block 0 of lane 7 begins with these words.
    let [a, b, ..] = Key::new(3, Stream::Noise).block(2, 7 << 32);
    let [a, b] = [a, b].map(|word| (f64::from(word >> 9) + 0.5) / f64::from(1 << 23));
    let noise = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    let sgld =
        |preconditioned, prior| Update { method: Method::Sgld { lane: 7, preconditioned }, prior };
    let bare = [2.0 - 0.1 * 3.0 + 0.5 * noise];
    check_update(sgld(false, PriorTerm::None), &[], &[&bare]);
    check_update(
        sgld(true, PriorTerm::None),
        &[],
        &[&[2.0 - 0.1 * 0.6 * 3.0 + 0.5 * 0.6f64.sqrt() * noise]],
    );
    // With d⁻¹ = 2, h = η w d⁻¹ = 0.1 · 0.3 · 2, and σᵢ² = σ²(1 + h/2).
    let x = (2.0 - 0.1 * 3.0 + 0.5 * 1.03f64.sqrt() * noise - 1.0) / 1.06;
    let expected: [&[f64]; 2] = [&[1.0 + x], &[2.0 * x * x]];
    check_update(sgld(false, PriorTerm::Diagonal), &[&[1.0], &[2.0]], &expected);
    // With κ d = 0.6/2, rᵢ = 0.03 and h = 0.018.
    let sigma = 0.5 * (0.3 * 1.009f64).sqrt();
    let x = (2.0 - 0.03 * 3.0 + sigma * noise - 1.0) / 1.018;
    let expected: [&[f64]; 2] = [&[1.0 + x], &[2.0 * x * x]];
    check_update(sgld(true, PriorTerm::Diagonal), &[&[1.0], &[2.0]], &expected);
}

#[test]
fn sghmc_steps_by_hand() {
    let [a, b, ..] = Key::new(3, Stream::Noise).block(2, 7 << 32);
    let [a, b] = [a, b].map(|word| (f64::from(word >> 9) + 0.5) / f64::from(1 << 23));
    let noise = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    let sghmc = |prior| Update { method: Method::Sghmc { lane: 7, preconditioned: false }, prior };
    // β = 0.5: σᵢ² = (1-β) σ² without a prior, and m' = β m - r g + σᵢ ξ.
    let m = 0.5 * 4.0 - 0.1 * 3.0 + 0.5 * 0.5f64.sqrt() * noise;
    check_update(sghmc(PriorTerm::None), &[&[4.0]], &[&[2.0 + m], &[m]]);
    // h = 0.06: σᵢ² = σ² (0.56 · 3.06) / (2 · 1.56).
    let sigma = 0.5 * (0.56 * 3.06 / 3.12f64).sqrt();
    let m = (0.5 * 4.0 - 0.1 * 3.0 + sigma * noise - 0.06 * 1.0) / 1.06;
    let expected: [&[f64]; 3] = [&[2.0 + m], &[m], &[2.0 * (1.0 + m) * (1.0 + m)]];
    check_update(sghmc(PriorTerm::Diagonal), &[&[4.0], &[1.0], &[2.0]], &expected);
}

#[test]
fn a_step_moves_resident_leaves_and_outputs_ignore_what_they_do_not_need() {
    let mut graph = Graph::new();
    let scalar = [1].into();
    let w = graph.param("w", &scalar).expect("a new leaf");
    let x = graph.input("x", &scalar).expect("a new leaf");
    let unused = graph.input("unused", &scalar).expect("a new leaf");
    graph.unary(Unary::Exp, unused).expect("shapes fit");
    let next = graph.add(w, x).expect("shapes fit");
    let twice = graph.add(next, next).expect("shapes fit");
    graph.set_output("twice", twice);
    graph.set_output("old", w);
    graph.set_next(w, next);
    let mut env = Env::new();
    env.set(LeafKind::Param, "w", array(&[1], &[1.0]));
    let error = step(&graph, &mut env).expect_err("x has no value").to_string();
    assert!(error.contains("'x'"), "{error}");
    env.set(LeafKind::Input, "x", array(&[2], &[0.0; 2]));
    let error = outputs(&graph, &env).expect_err("x has another shape").to_string();
    assert!(error.contains("'x' is [2]; expected [1]"), "{error}");
    env.set(LeafKind::Input, "x", array(&[1], &[0.5]));
    for n in 1..4 {
        let results = step(&graph, &mut env).expect("all leaves have values");
        let n = f64::from(n);
        assert_eq!(results["twice"][..], [2.0 + n]);
        assert_eq!(results["old"][..], [0.5 + 0.5 * n]);
        let w = env.get(LeafKind::Param, "w").expect("it was set");
        assert_eq!(w[..], [1.0 + 0.5 * n]);
    }
}
