//! Products and convolutions against f64 loops, on every instruction set of this machine.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::graph::{Conv2d, MatMul};
use crate::kernel::conv2d::{self, conv2d_on};
use crate::kernel::conv2d_filter_grad::{self, conv2d_filter_grad_on};
use crate::kernel::conv2d_input_grad::{self, conv2d_input_grad_on};
use crate::kernel::matmul::{self, Product, matmul_on};
use crate::kernel::{Epilogue, gemm::Isa, winograd};
use crate::rng::{Key, Sequence, Stream};
use crate::threads::Threads;

/// Rounding errors of a sum of n products grow like √n for random signs; eight standard deviations.
const ROUNDING_DEVIATIONS: f64 = 8.0;

/// Largest error accepted of a sum of `terms` products of numbers of magnitude one.
fn tolerance(terms: usize) -> f64 {
    ROUNDING_DEVIATIONS * f64::from(f32::EPSILON) * (terms.max(1) as f64)
}

fn random(len: usize, step: u64) -> Vec<f32> {
    let mut sequence = Key::new(11, Stream::Probe).at(step);
    (0..len).map(|_| 2.0 * sequence.uniform() - 1.0).collect()
}

/// Adds one to each element and counts the visits.
struct PlusOne(Vec<AtomicU32>);

impl PlusOne {
    fn new(len: usize) -> Self {
        PlusOne((0..len).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Epilogue for PlusOne {
    fn apply(&self, start: usize, values: &[f32], to: &mut [f32], _: usize) {
        for ((to, value), visits) in to.iter_mut().zip(values).zip(&self.0[start..]) {
            *to = value + 1.0;
            visits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hint(&self, _: usize, _: &mut super::Hints) {}
}

/// Compares `out`, computed with [`PlusOne`], to `expected` without it.
fn check(case: &str, out: &[f32], expected: &[f64], terms: usize, visits: &PlusOne) {
    assert_eq!(out.len(), expected.len(), "{case}");
    for (i, (&got, &want)) in out.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - want - 1.0).abs();
        assert!(error <= tolerance(terms), "{case}: element {i} is {got}, expected {want} + 1");
    }
    let once = visits.0.iter().all(|visits| visits.load(Ordering::Relaxed) == 1);
    assert!(once, "{case}: the epilogue visits each element once");
}

fn reference_product(g: &Product, a: &[f32], b: &[f32]) -> Vec<f64> {
    let Product { batch, m, n, k, how } = *g;
    let mut out = vec![0.0; batch * m * n];
    for (at, out) in out.iter_mut().enumerate() {
        let (batch, i, j) = (at / (m * n), at / n % m, at % n);
        for k0 in 0..k {
            let a_at = if how.transpose_a { k0 * m + i } else { i * k + k0 };
            let b_at = if how.transpose_b { j * k + k0 } else { k0 * n + j };
            *out += f64::from(a[batch * m * k + a_at]) * f64::from(b[batch * k * n + b_at]);
        }
    }
    out
}

fn run_product(isa: &'static Isa, threads: &Threads, g: &Product) -> (Vec<f32>, PlusOne) {
    let (a, b) = (random(g.batch * g.m * g.k, 1), random(g.batch * g.k * g.n, 2));
    let mut out = vec![f32::NAN; g.batch * g.m * g.n];
    let visits = PlusOne::new(out.len());
    let mut scratch = vec![f32::NAN; matmul::scratch_len_on(isa, g, threads.count())];
    matmul_on(isa, threads, g, (&a, &b), &mut out, &mut scratch, Some(&visits));
    (out, visits)
}

fn check_product(isa: &'static Isa, threads: &Threads, g: Product) {
    let (a, b) = (random(g.batch * g.m * g.k, 1), random(g.batch * g.k * g.n, 2));
    let (out, visits) = run_product(isa, threads, &g);
    let case = format!("{} {g:?} on {} threads", isa.name, threads.count());
    check(&case, &out, &reference_product(&g, &a, &b), g.k, &visits);
}

const HOWS: [MatMul; 4] = [
    MatMul { transpose_a: false, transpose_b: false },
    MatMul { transpose_a: false, transpose_b: true },
    MatMul { transpose_a: true, transpose_b: false },
    MatMul { transpose_a: true, transpose_b: true },
];

#[test]
fn products_of_awkward_extents() {
    let extents = [
        [1, 1, 1, 1],
        [3, 5, 7, 11],
        [2, 13, 31, 17],
        [1, 14, 32, 16],
        [1, 15, 33, 383],
        [2, 29, 65, 384],
        [1, 6, 16, 385],
        [1, 97, 257, 15],
        [1, 1, 300, 40],
        [1, 300, 1, 40],
        [5, 19, 19, 32],
    ];
    for isa in Isa::available() {
        for threads in [1, 2, 3].map(Threads::new) {
            for ([batch, m, n, k], how) in extents.iter().flat_map(|e| HOWS.map(|how| (*e, how))) {
                check_product(isa, &threads, Product { batch, m, n, k, how });
            }
        }
    }
}

#[test]
fn products_of_nothing() {
    let threads = Threads::new(2);
    for isa in Isa::available() {
        for [batch, m, n, k] in [[0, 2, 3, 4], [2, 0, 3, 4], [2, 3, 0, 4], [2, 3, 40, 0]] {
            check_product(isa, &threads, Product { batch, m, n, k, how: HOWS[1] });
        }
    }
}

#[test]
fn products_larger_than_the_packed_part() {
    let threads = Threads::new(2);
    let g = Product { batch: 1, m: 1100, n: 5, k: 8000, how: HOWS[0] };
    check_product(Isa::best(), &threads, g);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let g = Product { batch: 2, m: 77, n: 300, k: 900, how: HOWS[2] };
    let conv = Conv2d {
        batch: 3,
        in_channels: 5,
        out_channels: 6,
        input: [40, 41],
        output: [40, 41],
        ..small()
    };
    let minimal = filtered_minimally()[3];
    // One thread transforms their filters a strip at a time, and three all of them at first.
    let deep = [[2048, 56], [56, 2048]].map(|c| Conv2d { batch: 5, ..square(c, 14) });
    let [one, two, three] = [1, 2, 3].map(|count| {
        let threads = Threads::new(count);
        let product = run_product(Isa::best(), &threads, &g).0;
        let convs = [conv, minimal, deep[0], deep[1]];
        let results = convs.map(|g| run_convolution(Isa::best(), &threads, &g));
        let results = results.into_iter().flatten().map(|(out, _)| out);
        results.chain([product]).flatten().map(|x: f32| x.to_bits()).collect::<Vec<_>>()
    });
    assert!(one == two && two == three);
}

/// Calls `visit` with the positions in x, w and out of every product of a convolution.
fn each_product(g: &Conv2d, mut visit: impl FnMut(usize, usize, usize)) {
    let ([h, w], [oh, ow], [kh, kw]) = (g.input, g.output, g.kernel);
    let (c_group, o_group) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let outputs = g.batch * g.out_channels * oh * ow;
    for (out, tap) in (0..outputs).flat_map(|out| (0..c_group * kh * kw).map(move |t| (out, t))) {
        let (x, y) = (out % ow, out / ow % oh);
        let (o, image) = (out / (ow * oh) % g.out_channels, out / (ow * oh) / g.out_channels);
        let (j, i, c) = (tap % kw, tap / kw % kh, tap / (kw * kh));
        let row = (y * g.stride[0] + i * g.dilation[0]).wrapping_sub(g.pad[0]);
        let column = (x * g.stride[1] + j * g.dilation[1]).wrapping_sub(g.pad[1]);
        if row < h && column < w {
            let channel = image * g.in_channels + o / o_group * c_group + c;
            visit((channel * h + row) * w + column, o * c_group * kh * kw + tap, out);
        }
    }
}

/// The convolution and both cotangents; [`PlusOne`] is applied to the filter's afterwards.
fn run_convolution(isa: &'static Isa, threads: &Threads, g: &Conv2d) -> [(Vec<f32>, PlusOne); 3] {
    let (x, w) = (random(g.input_shape().len(), 3), random(g.filter_shape().len(), 4));
    let ct = random(g.output_shape().len(), 5);
    let [mut out, mut dx, mut dw] = [ct.len(), x.len(), w.len()].map(|len| vec![f32::NAN; len]);
    let [out_visits, dx_visits, dw_visits] = [ct.len(), x.len(), w.len()].map(PlusOne::new);
    let workers = threads.count();
    let mut scratch = vec![f32::NAN; conv2d::scratch_len_on(isa, g, workers)];
    conv2d_on(isa, threads, g, (&x, &w), &mut out, &mut scratch, Some(&out_visits));
    let mut scratch = vec![f32::NAN; conv2d_input_grad::scratch_len_on(isa, g, workers)];
    conv2d_input_grad_on(isa, threads, g, (&ct, &w), &mut dx, &mut scratch, Some(&dx_visits));
    let mut scratch = vec![f32::NAN; conv2d_filter_grad::scratch_len_on(isa, g, workers)];
    conv2d_filter_grad_on(isa, threads, g, (&x, &ct), &mut dw, &mut scratch);
    dw_visits.apply_in_place(0, &mut dw, 0);
    [(out, out_visits), (dx, dx_visits), (dw, dw_visits)]
}

fn check_convolution(isa: &'static Isa, threads: &Threads, g: &Conv2d) {
    let (x, w) = (random(g.input_shape().len(), 3), random(g.filter_shape().len(), 4));
    let ct = random(g.output_shape().len(), 5);
    let [mut out, mut dx, mut dw] = [ct.len(), x.len(), w.len()].map(|len| vec![0.0; len]);
    each_product(g, |at_x, at_w, at_out| {
        out[at_out] += f64::from(x[at_x]) * f64::from(w[at_w]);
        dx[at_x] += f64::from(ct[at_out]) * f64::from(w[at_w]);
        dw[at_w] += f64::from(x[at_x]) * f64::from(ct[at_out]);
    });
    let taps = g.kernel[0] * g.kernel[1];
    let terms = [
        g.in_channels / g.groups * taps,
        g.out_channels / g.groups * taps,
        g.batch * g.output[0] * g.output[1],
    ];
    let results = run_convolution(isa, threads, g);
    for (((name, (got, visits)), want), terms) in
        ["out", "dx", "dw"].iter().zip(results).zip([out, dx, dw]).zip(terms)
    {
        let case = format!("{name} {} {g:?} on {} threads", isa.name, threads.count());
        check(&case, &got, &want, terms, &visits);
    }
}

/// 3x3 with padding 1 from 4 to 6 channels on 2 images of 7x9.
fn small() -> Conv2d {
    Conv2d {
        batch: 2,
        in_channels: 4,
        out_channels: 6,
        groups: 1,
        input: [7, 9],
        output: [7, 9],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
    }
}

fn square(channels: [usize; 2], extent: usize) -> Conv2d {
    let [in_channels, out_channels] = channels;
    Conv2d { in_channels, out_channels, input: [extent; 2], output: [extent; 2], ..small() }
}

fn depthwise(channels: usize, multiplier: usize) -> Conv2d {
    Conv2d {
        in_channels: channels,
        out_channels: channels * multiplier,
        groups: channels,
        ..small()
    }
}

fn convolutions() -> Vec<Conv2d> {
    let strided = Conv2d { input: [9, 12], output: [5, 6], stride: [2, 2], ..small() };
    vec![
        small(),
        Conv2d { kernel: [1, 1], pad: [0, 0], ..small() },
        Conv2d { output: [5, 7], pad: [0, 0], ..small() },
        Conv2d { output: [9, 12], pad: [2, 4], ..small() },
        Conv2d { output: [6, 8], pad: [0, 1], ..small() },
        strided,
        Conv2d { kernel: [1, 1], pad: [0, 0], ..strided },
        Conv2d { kernel: [1, 1], pad: [0, 0], output: [5, 7], ..strided },
        Conv2d { kernel: [1, 1], pad: [0, 0], stride: [2, 3], output: [5, 4], ..strided },
        Conv2d { kernel: [5, 2], pad: [3, 0], ..strided },
        Conv2d { stride: [3, 1], output: [3, 12], ..strided },
        Conv2d { stride: [3, 4], dilation: [2, 2], output: [3, 2], ..strided },
        Conv2d { dilation: [2, 3], pad: [2, 3], ..small() },
        Conv2d { dilation: [2, 1], stride: [2, 2], ..strided },
        Conv2d { groups: 2, ..small() },
        Conv2d { groups: 2, ..strided },
        Conv2d { input: [1, 2], output: [2, 1], pad: [2, 1], ..small() },
        Conv2d { output: [11, 12], pad: [6, 5], ..small() },
        Conv2d { batch: 5, ..square([3, 29], 4) },
        Conv2d { batch: 3, ..square([17, 15], 7) },
        Conv2d { batch: 9, ..square([13, 14], 1) },
        Conv2d { batch: 7, ..square([13, 14], 2) },
        Conv2d { batch: 1, ..square([65, 16], 9) },
        Conv2d {
            kernel: [7, 7],
            pad: [3, 3],
            stride: [2, 2],
            output: [8, 8],
            ..square([3, 9], 16)
        },
        Conv2d { batch: 4, input: [40, 33], output: [40, 33], ..square([2, 5], 0) },
        Conv2d { kernel: [18, 2], pad: [9, 1], output: [8, 10], ..small() },
        Conv2d { kernel: [2, 19], pad: [1, 9], ..depthwise(2, 1) },
        Conv2d { kernel: [12, 12], pad: [6, 6], ..depthwise(2, 1) },
        Conv2d { stride: [3, 2], output: [3, 5], ..depthwise(3, 1) },
        Conv2d { kernel: [1, 1], pad: [0, 0], stride: [2, 2], output: [4, 5], ..depthwise(3, 2) },
        // Even columns meet no tap, and are more than the odd ones.
        Conv2d { kernel: [1, 1], pad: [1, 1], stride: [2, 2], output: [3, 4], ..depthwise(3, 1) },
        depthwise(2, 5),
        depthwise(5, 1),
        depthwise(3, 2),
        Conv2d { stride: [2, 2], output: [4, 5], ..depthwise(5, 1) },
        Conv2d { stride: [2, 1], output: [4, 9], ..depthwise(2, 3) },
        Conv2d { dilation: [3, 2], pad: [3, 2], ..depthwise(4, 1) },
        Conv2d { kernel: [7, 7], pad: [3, 3], ..depthwise(3, 1) },
        Conv2d { input: [40, 37], output: [40, 37], ..depthwise(3, 1) },
        Conv2d { input: [40, 37], output: [20, 19], stride: [2, 2], ..depthwise(3, 1) },
        Conv2d { input: [2, 2], output: [2, 2], kernel: [5, 5], pad: [2, 2], ..depthwise(3, 1) },
    ]
}

/// Convolutions that are done by minimal filtering.
fn filtered_minimally() -> Vec<Conv2d> {
    let wide = Conv2d { batch: 7, in_channels: 17, out_channels: 31, ..small() };
    vec![
        wide,
        Conv2d { batch: 16, ..square([16, 16], 4) },
        Conv2d { batch: 21, ..square([33, 16], 8) },
        Conv2d { batch: 3, ..square([16, 45], 14) },
        Conv2d { output: [5, 7], pad: [0, 0], ..wide },
        Conv2d { output: [9, 11], pad: [2, 2], ..wide },
        Conv2d { output: [5, 11], pad: [0, 2], ..wide },
        Conv2d { output: [7, 7], pad: [1, 0], ..wide },
        Conv2d { batch: 1, input: [40, 33], output: [40, 33], ..wide },
        Conv2d { batch: 2, input: [5, 261], output: [4, 262], ..wide },
        Conv2d { batch: 1, input: [9, 1023], output: [9, 1023], ..square([16, 16], 0) },
        // Few tiles for the filters.
        Conv2d { batch: 4, ..square([16, 500], 8) },
        Conv2d { batch: 4, ..square([500, 16], 8) },
    ]
}

#[test]
fn minimal_filtering_of_awkward_geometry() {
    for isa in Isa::available() {
        for threads in [1, 3].map(Threads::new) {
            for g in filtered_minimally() {
                assert!(winograd::applies(&g), "{g:?}");
                check_convolution(isa, &threads, &g);
            }
        }
    }
}

/// So many tiles and channels that sums for the filters have to be kept from block to block.
#[test]
fn minimal_filtering_of_more_than_is_transformed_at_once() {
    let g = Conv2d { batch: 64, ..square([250, 40], 5) };
    assert!(winograd::applies(&g));
    check_convolution(Isa::best(), &Threads::new(3), &g);
}

/// Root mean square of the errors of `got`.
fn rms_error(got: impl Iterator<Item = f32>, want: &[f64]) -> f64 {
    let squares: f64 = got.zip(want).map(|(got, want)| (f64::from(got) - want).powi(2)).sum();
    (squares / want.len() as f64).sqrt()
}

/// The points were chosen so that errors are about twice those of plain sums; with the usual 0, ±1,
/// ±2 they would be four times.
#[test]
fn minimal_filtering_rounds_little_more_than_plain_sums() {
    let g = square([64, 16], 24);
    assert!(winograd::applies(&g));
    let (x, w) = (random(g.input_shape().len(), 3), random(g.filter_shape().len(), 4));
    let len = g.output_shape().len();
    let (mut want, mut plain) = (vec![0.0; len], vec![0f32; len]);
    each_product(&g, |at_x, at_w, at_out| {
        want[at_out] += f64::from(x[at_x]) * f64::from(w[at_w]);
        plain[at_out] += x[at_x] * w[at_w];
    });
    let [(out, _), ..] = run_convolution(Isa::best(), &Threads::new(1), &g);
    let ratio =
        rms_error(out.iter().map(|out| out - 1.0), &want) / rms_error(plain.iter().copied(), &want);
    assert!(ratio < 3.0, "{ratio}");
}

#[test]
fn convolutions_of_awkward_geometry() {
    for isa in Isa::available() {
        for threads in [1, 2, 3].map(Threads::new) {
            for g in convolutions() {
                check_convolution(isa, &threads, &g);
            }
        }
    }
}

/// Shapes drawn at random; more of them with `PRIORFIT_SHAPES`.
const SHAPES: u64 = 200;
/// Most products of a shape with more than one image.
const PRODUCTS_MAX: usize = 1_000_000;

fn shapes() -> impl Iterator<Item = Sequence> {
    let asked = std::env::var("PRIORFIT_SHAPES").ok().and_then(|text| text.parse().ok());
    (0..asked.unwrap_or(SHAPES)).map(|shape| Key::new(12, Stream::Probe).at(shape))
}

/// A number of `range`, each as likely.
fn draw(sequence: &mut Sequence, range: RangeInclusive<usize>) -> usize {
    let count = (range.end() - range.start() + 1) as f32;
    (range.start() + (sequence.uniform() * count) as usize).min(*range.end())
}

/// A convolution of any kind; those with kernels of their own (3x3, 1x1, depthwise) more often.
fn drawn_convolution(sequence: &mut Sequence) -> Conv2d {
    let kind = draw(sequence, 0..=5);
    let mut pair = |most: usize| [0, 1].map(|_| draw(sequence, 1..=most));
    let (input, kernel, stride, dilation) = match kind {
        0 => (pair(20), [3, 3], [1, 1], [1, 1]),
        1 => (pair(20), [1, 1], [1, 1], [1, 1]),
        _ => (pair(24), pair(6), pair(3), pair(2)),
    };
    let pad = kernel.map(|taps| draw(sequence, 0..=taps.min(3) - 1));
    let output = [0, 1].map(|axis| {
        let reach = (kernel[axis] - 1) * dilation[axis];
        let whole = (input[axis] + 2 * pad[axis]).saturating_sub(reach + 1) / stride[axis] + 1;
        whole + draw(sequence, 0..=1)
    });
    let (few, more) = (draw(sequence, 1..=20), draw(sequence, 1..=40));
    let [in_channels, out_channels, groups] = match kind {
        0 => [16 + few, 16 + more, 1],
        2 => [few, few * draw(sequence, 1..=3), few],
        3 => [2 * few, 2 * more, 2],
        _ => [few, more, 1],
    };
    let batch = draw(sequence, 1..=5);
    Conv2d {
        batch,
        in_channels,
        out_channels,
        groups,
        input,
        output,
        kernel,
        stride,
        pad,
        dilation,
    }
}

#[test]
fn shapes_drawn_at_random() {
    let threads = Threads::new(2);
    for (shape, mut sequence) in shapes().enumerate() {
        let mut g = drawn_convolution(&mut sequence);
        let taps = g.in_channels / g.groups * g.kernel[0] * g.kernel[1];
        let products = g.out_channels * g.output[0] * g.output[1] * taps;
        g.batch = g.batch.min(PRODUCTS_MAX / products).max(1);
        let [m, n, k] = [0; 3].map(|_| draw(&mut sequence, 1..=70));
        let product = Product { batch: draw(&mut sequence, 1..=3), m, n, k, how: HOWS[shape % 4] };
        for isa in Isa::available() {
            check_convolution(isa, &threads, &g);
            check_product(isa, &threads, product);
        }
    }
}

#[test]
fn convolutions_of_nothing() {
    let threads = Threads::new(2);
    for isa in Isa::available() {
        check_convolution(isa, &threads, &Conv2d { batch: 0, ..small() });
        check_convolution(isa, &threads, &Conv2d { output: [0, 9], ..small() });
        check_convolution(isa, &threads, &Conv2d { in_channels: 0, ..small() });
        check_convolution(isa, &threads, &Conv2d { out_channels: 0, ..small() });
        let empty = Conv2d { input: [0, 9], pad: [4, 1], ..small() };
        check_convolution(isa, &threads, &empty);
        check_convolution(isa, &threads, &Conv2d { batch: 0, ..depthwise(3, 1) });
        check_convolution(isa, &threads, &Conv2d { out_channels: 0, ..depthwise(3, 1) });
        check_convolution(isa, &threads, &Conv2d { output: [0, 9], ..depthwise(3, 2) });
        check_convolution(isa, &threads, &Conv2d { groups: 3, in_channels: 3, ..empty });
    }
}

#[test]
#[should_panic(expected = "length of w")]
fn a_filter_of_the_wrong_length_is_refused() {
    let (threads, g) = (Threads::new(1), small());
    let [x, mut out] = [g.input_shape(), g.output_shape()].map(|shape| vec![0.0; shape.len()]);
    conv2d::conv2d(&threads, &g, &x, &[0.0; 7], &mut out, &mut [], None);
}
