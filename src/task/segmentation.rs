//! A class for each pixel: a linear decoder, upsampling, and a cross-entropy over the pixels that
//! count.

use super::{COUNTED, HEAD_BIAS, HEAD_WEIGHT, TARGETS};
use crate::error::{Error, Result};
use crate::graph::{Binary, Conv2d, Graph, MatMul, Unary, ValueId};
use crate::tensor::{Shape, Tensor, tensor};

/// Checks that features are maps `[N, C, h, w]`.
pub(super) fn check_map(graph: &Graph, features: ValueId) -> Result<ValueId> {
    let shape = graph.shape(features);
    match shape[..] {
        [_, _, _, _] => Ok(features),
        _ => Err(Error::unsupported(format!(
            "features of shape {shape}; segmentation needs maps [N, C, h, w]"
        ))
        .hint("choose a value before the pooling with --features NAME")),
    }
}

/// A linear decoder on maps `[N, F, h, w]`: a convolution by 1x1 filters, the weights
/// `[classes, F]` and `[classes]`, and bilinear interpolation to `size`: logits
/// `[N, H, W, classes]`.
///
/// # Errors
/// When the features are no maps.
pub fn dense_head(
    graph: &mut Graph,
    features: ValueId,
    classes: usize,
    size: [usize; 2],
) -> Result<ValueId> {
    let origin = graph.set_origin("head");
    let [n, f, h, w] = graph.shape(features)[..] else {
        return Err(Error::internal("the decoder takes maps"));
    };
    let weight = graph.param(HEAD_WEIGHT, &[classes, f].into())?;
    let bias = graph.param(HEAD_BIAS, &[classes].into())?;
    let geometry = Conv2d {
        batch: n,
        in_channels: f,
        out_channels: classes,
        groups: 1,
        input: [h, w],
        output: [h, w],
        kernel: [1; 2],
        stride: [1; 2],
        pad: [0; 2],
        dilation: [1; 2],
    };
    let filter = graph.reshape(weight, &geometry.filter_shape())?;
    let coarse = graph.conv2d(features, filter, geometry)?;
    let bias = graph.reshape(bias, &[1, classes, 1, 1].into())?;
    let bias = graph.broadcast(bias, &[n, classes, h, w].into())?;
    let coarse = graph.add(coarse, bias)?;
    let logits = upsample(graph, coarse, size)?;
    graph.set_origin(origin);
    Ok(logits)
}

/// Maps `[N, C, h, w]` resized to `[N, H, W, C]`, one axis at a time. The axis is brought to the
/// front, where the map is one product `[to, from] · [from, rest]`; the larger result is the
/// second.
pub(super) fn upsample(
    graph: &mut Graph,
    x: ValueId,
    [height, width]: [usize; 2],
) -> Result<ValueId> {
    let x = graph.transpose(x, &[3, 2, 0, 1])?;
    let x = interpolate(graph, x, width)?;
    let x = graph.transpose(x, &[1, 2, 0, 3])?;
    let x = interpolate(graph, x, height)?;
    graph.transpose(x, &[1, 0, 2, 3])
}

/// Linear interpolation of the first axis to `to` positions.
fn interpolate(graph: &mut Graph, x: ValueId, to: usize) -> Result<ValueId> {
    let shape = graph.shape(x).clone();
    let from = shape[0];
    if from == to {
        return Ok(x);
    }
    let map = graph.constant(tensor(&[to, from], weights(from, to))?)?;
    let flat = graph.reshape(x, &[from, shape.len() / from.max(1)].into())?;
    let product = graph.matmul(map, flat, MatMul::default())?;
    graph.reshape(product, &shape.with(0, to))
}

/// The linear map `[to, from]` between samples at the centres of equal cells, clamped at the ends:
/// position (i + ½) from/to - ½ lies between its two neighbours.
fn weights(from: usize, to: usize) -> Vec<f32> {
    let mut map = vec![0.0; to * from];
    for (at, row) in map.chunks_exact_mut(from.max(1)).enumerate() {
        for (neighbour, part) in neighbours(at, from, to) {
            row[neighbour] += part;
        }
    }
    map
}

/// The linear maps `[H, h]` and `[W, w]` of [`dense_head`]'s interpolation between maps of two
/// sizes: each result is rows · map · columnsᵀ.
///
/// # Errors
/// When a map has no extent.
pub fn interpolation([h, w]: [usize; 2], [height, width]: [usize; 2]) -> Result<[Tensor; 2]> {
    if h == 0 || w == 0 {
        return Err(Error::mismatch("a feature map without extent"));
    }
    Ok([tensor(&[height, h], weights(h, height))?, tensor(&[width, w], weights(w, width))?])
}

/// The two samples that position `at` lies between, and what each counts.
fn neighbours(at: usize, from: usize, to: usize) -> [(usize, f32); 2] {
    let last = (from - 1) as f64;
    let position = ((at as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, last);
    let low = position as usize;
    let part = (position - low as f64) as f32;
    [(low, 1.0 - part), ((low + 1).min(from - 1), part)]
}

/// The features of some pixels of an image: `map: [F, h, w]` interpolated at `positions` (y·W + x)
/// of `size: [H, W]`, one row of F after the other. The head on these is the one that
/// [`dense_head`] has there, since both maps are linear.
pub fn pixel_features(
    map: &[f32],
    [h, w]: [usize; 2],
    [height, width]: [usize; 2],
    positions: &[usize],
    into: &mut Vec<f32>,
) {
    for at in positions {
        let (rows, columns) = (neighbours(at / width, h, height), neighbours(at % width, w, width));
        for plane in map.chunks_exact((h * w).max(1)) {
            let row = |y: usize| columns.map(|(x, part)| part * plane[y * w + x]);
            into.push(rows.map(|(y, part)| part * row(y).iter().sum::<f32>()).iter().sum());
        }
    }
}

/// Σ over the pixels of the cross-entropy of softmax(`logits`) against the classes in [`TARGETS`]
/// `[N, H, W]`, over their number in [`COUNTED`]: `[1]`. A class below 0 counts for nothing.
///
/// # Errors
/// When the logits are not `[N, H, W, classes]`.
pub fn pixel_cross_entropy(graph: &mut Graph, logits: ValueId) -> Result<ValueId> {
    let shape: Shape = graph.shape(logits).clone();
    let [n, h, w, classes] = shape[..] else {
        return Err(Error::internal("the logits of pixels have four dimensions"));
    };
    let targets = graph.input(TARGETS, &[n, h, w].into())?;
    let counted = graph.input(COUNTED, &[1].into())?;
    let truth = indicator(graph, targets, &shape, classes)?;
    let log_p = graph.log_softmax(logits)?;
    let product = graph.mul(truth, log_p)?;
    let sum = graph.sum_all(product)?;
    let one = graph.constant(tensor(&[1], vec![1.0])?)?;
    let counted = graph.binary(Binary::Max, counted, one)?;
    let mean = graph.div(sum, counted)?;
    graph.unary(Unary::Neg, mean)
}

/// 1 where the class of the last axis is that of the pixel in `targets: [N, H, W]`, else 0. Made
/// here and not on the host, which would have to hand over `classes` numbers for each pixel.
fn indicator(
    graph: &mut Graph,
    targets: ValueId,
    shape: &Shape,
    classes: usize,
) -> Result<ValueId> {
    let [n, h, w] = graph.shape(targets)[..] else {
        return Err(Error::internal("the targets of pixels have three dimensions"));
    };
    let targets = graph.reshape(targets, &[n, h, w, 1].into())?;
    let targets = graph.broadcast(targets, shape)?;
    let numbers = (0..classes).map(|class| class as f32).collect();
    let numbers = graph.constant(tensor(&[1, 1, 1, classes], numbers)?)?;
    let numbers = graph.broadcast(numbers, shape)?;
    let distance = graph.sub(targets, numbers)?;
    let distance = graph.unary(Unary::Abs, distance)?;
    let half = graph.splat(0.5, shape)?;
    graph.binary(Binary::Less, distance, half)
}
