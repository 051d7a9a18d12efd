//! Pooling windows in one or two dimensions.

use tract_onnx::tract_core::ops::cnn::{MaxPool, PoolSpec, SumPool};
use tract_onnx::tract_core::ops::nn::DataFormat;
use tract_onnx::tract_hir::internal::*;

use super::{Lowered, Lowering};
use crate::error::{Error, Result};
use crate::graph::{Pool2d, ValueId};
use crate::tensor::{Shape, tensor};

/// The sizes of a window in two dimensions; with one, the height is 1.
pub(super) struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pad: [usize; 2],
    pub input: [usize; 2],
    pub output: [usize; 2],
}

/// The window of `spec` over `x: [N, C, W]` or `[N, C, H, W]`; nothing for other layouts.
///
/// # Errors
/// When the window does not fit into the padded input.
pub(super) fn window(spec: &PoolSpec, x: &Shape) -> Result<Option<Window>> {
    let spatial = spec.kernel_shape.len();
    let known = spec.data_format == DataFormat::NCHW && x.ndim() == spatial + 2;
    if !known || !(1..=2).contains(&spatial) {
        return Ok(None);
    }
    if spec.kernel_shape.contains(&0) {
        return Err(Error::malformed("a window of extent 0"));
    }
    let pair = |values: &[usize], outer: usize| match *values {
        [width] => [outer, width],
        [height, width, ..] => [height, width],
        [] => [outer; 2],
    };
    let padding = spec.computed_padding(&x[2..]);
    let pad: Vec<usize> = padding.iter().map(|axis| axis.pad_before).collect();
    let output: Vec<usize> = padding.iter().map(|axis| axis.convoluted).collect();
    for (axis, padded) in padding.iter().enumerate() {
        let field = (spec.kernel_shape[axis] - 1) * spec.dilation(axis) + 1;
        let extent = x[axis + 2] + padded.pad_before + padded.pad_after;
        if field > extent {
            return Err(Error::mismatch(format!("a window of {field} does not fit into {extent}"))
                .hint("give a larger input"));
        }
    }
    Ok(Some(Window {
        kernel: pair(&spec.kernel_shape, 1),
        stride: pair(&spec.strides(), 1),
        dilation: pair(&spec.dilations(), 1),
        pad: pair(&pad, 0),
        input: pair(&x[2..], 1),
        output: pair(&output, 1),
    }))
}

/// `[N, C, W]` as `[N, C, 1, W]`.
pub(super) fn with_height(l: &mut Lowering<'_>, x: ValueId) -> Result<ValueId> {
    let shape = l.graph.shape(x);
    match shape.ndim() {
        3 => {
            let shape = [shape[0], shape[1], 1, shape[2]].into();
            l.graph.reshape(x, &shape)
        }
        _ => Ok(x),
    }
}

fn geometry(spec: &PoolSpec, x: &Shape) -> Result<Option<Pool2d>> {
    let Some(window) = window(spec, x)? else { return Ok(None) };
    Ok(Some(Pool2d {
        batch: x[0],
        channels: x[1],
        input: window.input,
        output: window.output,
        kernel: window.kernel,
        stride: window.stride,
        pad: window.pad,
        dilation: window.dilation,
    }))
}

pub(super) fn max_pool(l: &mut Lowering<'_>, node: &TypedNode, op: &MaxPool) -> Lowered {
    let x = l.operand(node, 0)?;
    let shape = l.graph.shape(x).clone();
    let Some(geometry) = geometry(&op.pool_spec, &shape)? else { return Ok(None) };
    let x = with_height(l, x)?;
    let pooled = l.graph.max_pool(x, geometry)?;
    without_height(l, pooled, shape.ndim()).map(Some)
}

fn without_height(l: &mut Lowering<'_>, x: ValueId, ndim: usize) -> Result<ValueId> {
    let shape = l.graph.shape(x);
    match ndim {
        3 => {
            let shape = [shape[0], shape[1], shape[3]].into();
            l.graph.reshape(x, &shape)
        }
        _ => Ok(x),
    }
}

/// Sums of windows, divided by how many elements they hold when it is an average.
pub(super) fn sum_pool(l: &mut Lowering<'_>, node: &TypedNode, op: &SumPool) -> Lowered {
    let x = l.operand(node, 0)?;
    let shape = l.graph.shape(x).clone();
    let Some(geometry) = geometry(&op.pool_spec, &shape)? else { return Ok(None) };
    let x = with_height(l, x)?;
    let mut pooled = l.graph.sum_pool(x, geometry)?;
    if op.normalize {
        let counts = counts(&geometry, op.count_include_pad);
        let scale = counts.into_iter().map(|count| 1.0 / count.max(1) as f32).collect();
        let [height, width] = geometry.output;
        let scale = l.graph.constant(tensor(&[1, 1, height, width], scale)?)?;
        let to = l.graph.shape(pooled).clone();
        let scale = l.graph.broadcast(scale, &to)?;
        pooled = l.graph.mul(pooled, scale)?;
    }
    without_height(l, pooled, shape.ndim()).map(Some)
}

/// The divisor at each place: the whole window, or only what lies on the input.
fn counts(g: &Pool2d, include_pad: bool) -> Vec<usize> {
    let along = |axis: usize, at: usize| {
        (0..g.kernel[axis])
            .filter(|&tap| {
                let place = at * g.stride[axis] + tap * g.dilation[axis];
                include_pad || (place >= g.pad[axis] && place - g.pad[axis] < g.input[axis])
            })
            .count()
    };
    let rows = (0..g.output[0]).map(|row| along(0, row));
    rows.flat_map(|row| (0..g.output[1]).map(move |column| row * along(1, column))).collect()
}
