//! Speed of products and convolutions, in GFLOP/s: the best of several repetitions on all threads.
//!
//! Arguments choose the rows whose name contains one of them: `cargo bench --bench kernels 3x3`.

use std::time::Instant;

use priorfit::graph::{Conv2d, MatMul};
use priorfit::kernel::matmul::{Product, matmul};
use priorfit::kernel::{conv2d, conv2d_filter_grad, conv2d_input_grad};
use priorfit::threads::Threads;

/// Seconds spent on each number, at least.
const SECONDS: f64 = 0.15;
/// Repetitions of each number, at least.
const REPETITIONS: usize = 5;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    let threads = Threads::available();
    println!("{:<34}{:>9}{:>9}{:>9}{:>9}", "convolution", "forward", "input", "filter", "all");
    for (name, g) in convolutions().into_iter().filter(|(name, _)| wanted(name)) {
        convolution(&threads, &name, &g);
    }
    println!("{:<34}{:>9}", "product", "GFLOP/s");
    for (name, g) in products().into_iter().filter(|(name, _)| wanted(name)) {
        product(&threads, &name, &g);
    }
}

/// Convolutions of a small residual network on pictures of 32 pixels, batch 32.
fn small() -> impl Iterator<Item = (String, Conv2d)> {
    let plain = [[3, 32, 32], [32, 32, 32], [64, 64, 16], [128, 128, 8]];
    let halved_ones = [[32, 64, 32], [64, 128, 16]];
    let plain = plain.map(|[from, to, extent]| ("3x3", conv([from, to], extent)));
    let large = halved_ones.map(|[from, to, extent]| ("3x3/2", halved(conv([from, to], extent))));
    let points =
        halved_ones.map(|[from, to, extent]| ("1x1/2", halved(pointwise([from, to], extent))));
    plain.into_iter().chain(large).chain(points).map(|(kind, g)| {
        let name = format!("small {kind} {}-{} {}", g.in_channels, g.out_channels, g.input[0]);
        (name, Conv2d { batch: 32, ..g })
    })
}

/// A 3x3 convolution with padding 1 on `extent²` pixels, batch 8.
fn conv(channels: [usize; 2], extent: usize) -> Conv2d {
    Conv2d {
        batch: 8,
        in_channels: channels[0],
        out_channels: channels[1],
        groups: 1,
        input: [extent; 2],
        output: [extent; 2],
        kernel: [3; 2],
        stride: [1; 2],
        pad: [1; 2],
        dilation: [1; 2],
    }
}

fn pointwise(channels: [usize; 2], extent: usize) -> Conv2d {
    Conv2d { kernel: [1; 2], pad: [0; 2], ..conv(channels, extent) }
}

fn halved(g: Conv2d) -> Conv2d {
    Conv2d { stride: [2; 2], output: g.input.map(|extent| extent.div_ceil(2)), ..g }
}

fn depthwise(channels: usize, extent: usize) -> Conv2d {
    Conv2d { groups: channels, ..conv([channels; 2], extent) }
}

fn convolutions() -> Vec<(String, Conv2d)> {
    let stem = Conv2d { kernel: [7; 2], pad: [3; 2], ..conv([3, 64], 224) };
    let mut all = vec![("stem 7x7/2 3-64 224".to_string(), halved(stem))];
    for (channels, extent) in [(64, 56), (128, 28), (256, 14), (512, 7)] {
        all.push((format!("3x3 {channels} {extent}"), conv([channels; 2], extent)));
    }
    all.extend(small());
    for (channels, extent) in [(64, 56), (128, 28), (256, 14)] {
        let g = halved(conv([channels, 2 * channels], extent));
        all.push((format!("3x3/2 {channels}-{} {extent}", 2 * channels), g));
        let g = halved(pointwise([channels, 2 * channels], extent));
        all.push((format!("1x1/2 {channels}-{} {extent}", 2 * channels), g));
    }
    for (from, to, extent) in [
        (64, 64, 56),
        (64, 256, 56),
        (256, 64, 56),
        (128, 512, 28),
        (512, 128, 28),
        (256, 1024, 14),
        (1024, 256, 14),
        (512, 2048, 7),
        (2048, 512, 7),
        (16, 96, 112),
        (24, 144, 56),
        (144, 24, 56),
        (384, 64, 14),
        (960, 160, 7),
    ] {
        all.push((format!("1x1 {from}-{to} {extent}"), pointwise([from, to], extent)));
    }
    for (channels, extent) in [(32, 112), (144, 56), (192, 28), (384, 14), (960, 7)] {
        all.push((format!("depthwise 3x3 {channels} {extent}"), depthwise(channels, extent)));
    }
    for (channels, extent) in [(96, 112), (144, 56), (576, 14)] {
        let g = halved(depthwise(channels, extent));
        all.push((format!("depthwise 3x3/2 {channels} {extent}"), g));
    }
    let large = Conv2d { kernel: [7; 2], pad: [3; 2], ..depthwise(80, 28) };
    all.push(("depthwise 7x7 80 28".to_string(), large));
    all.push(("groups 32 3x3 128 56".to_string(), Conv2d { groups: 32, ..conv([128; 2], 56) }));
    all
}

fn products() -> Vec<(String, Product)> {
    let plain = MatMul::default();
    let mut all = vec![(
        "matmul 1024 1024 1024".to_string(),
        Product { batch: 1, m: 1024, n: 1024, k: 1024, how: plain },
    )];
    for [batch, m, n, k] in [
        [1, 1576, 768, 192],
        [1, 768, 192, 1576],
        [1, 192, 768, 1576],
        [24, 197, 197, 64],
        [24, 197, 64, 197],
        [1, 8, 1000, 512],
    ] {
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false)] {
            let how = MatMul { transpose_a, transpose_b };
            let letter = |transposed| if transposed { "t" } else { "" };
            let (a, b) = (letter(transpose_a), letter(transpose_b));
            let name = format!("matmul {batch} x {m} {n} {k} a{a} b{b}");
            all.push((name, Product { batch, m, n, k, how }));
        }
    }
    all
}

/// Small numbers of both signs.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

/// Seconds of the fastest of several calls.
fn fastest(mut call: impl FnMut()) -> f64 {
    let (begin, mut best, mut count) = (Instant::now(), f64::INFINITY, 0);
    while count < REPETITIONS || begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
        count += 1;
    }
    best
}

fn convolution(threads: &Threads, name: &str, g: &Conv2d) {
    let workers = threads.count();
    let (x, w) = (values(g.input_shape().len()), values(g.filter_shape().len()));
    let ct = values(g.output_shape().len());
    let (mut out, mut dx, mut dw) = (ct.clone(), x.clone(), w.clone());
    let scratch = [
        conv2d::scratch_len(g, workers),
        conv2d_input_grad::scratch_len(g, workers),
        conv2d_filter_grad::scratch_len(g, workers),
    ];
    let mut scratch = vec![0.0; scratch.into_iter().max().unwrap_or(0)];
    let times = [
        fastest(|| conv2d::conv2d(threads, g, &x, &w, &mut out, &mut scratch, None)),
        fastest(|| {
            conv2d_input_grad::conv2d_input_grad(threads, g, &ct, &w, &mut dx, &mut scratch, None);
        }),
        fastest(|| {
            conv2d_filter_grad::conv2d_filter_grad(threads, g, &x, &ct, &mut dw, &mut scratch);
        }),
    ];
    let flops = 2.0 * g.multiply_adds() as f64 * 1e-9;
    let [forward, input, filter] = times.map(|time| flops / time);
    let all = 3.0 * flops / times.iter().sum::<f64>();
    println!("{name:<34}{forward:>9.1}{input:>9.1}{filter:>9.1}{all:>9.1}");
}

fn product(threads: &Threads, name: &str, g: &Product) {
    let (a, b) = (values(g.batch * g.m * g.k), values(g.batch * g.k * g.n));
    let mut out = vec![0.0; g.batch * g.m * g.n];
    let mut scratch = vec![0.0; priorfit::kernel::matmul::scratch_len(g, threads.count())];
    let time = fastest(|| matmul(threads, g, &a, &b, &mut out, &mut scratch, None));
    let flops = 2.0 * (g.batch * g.m * g.n * g.k) as f64 * 1e-9;
    println!("{name:<34}{:>9.1}", flops / time);
}
