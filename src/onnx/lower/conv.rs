//! Convolutions in one or two dimensions.

use tract_onnx::tract_core::ops::cnn::{Conv, Deconv, KernelFormat};
use tract_onnx::tract_hir::internal::*;

use super::pool::{Window, window, with_height};
use super::{Lowered, Lowering, shape_of};
use crate::error::{Error, Result};
use crate::graph::{Conv2d, ValueId};
use crate::tensor::Shape;

/// `x: [N, C, H, W]`, filter and bias to `[N, O, OH, OW]`.
pub(super) fn conv(l: &mut Lowering<'_>, node: &TypedNode, op: &Conv) -> Lowered {
    let x = l.operand(node, 0)?;
    let shape = l.graph.shape(x).clone();
    let Some(window) = window(&op.pool_spec, &shape)? else { return Ok(None) };
    if op.kernel_fmt != KernelFormat::OIHW || op.q_params.is_some() {
        return Ok(None);
    }
    let geometry = geometry(&window, &shape, op.pool_spec.output_channels, op.group)?;
    let filter = l.operand(node, 1)?;
    let filter = l.graph.reshape(filter, &geometry.filter_shape())?;
    let x = with_height(l, x)?;
    let product = l.graph.conv2d(x, filter, geometry)?;
    let biased = add_bias(l, node, product)?;
    let shape = shape_of(&node.outputs[0].fact)?;
    l.graph.reshape(biased, &shape).map(Some)
}

fn geometry(window: &Window, x: &Shape, out_channels: usize, groups: usize) -> Result<Conv2d> {
    if groups == 0 || !x[1].is_multiple_of(groups) {
        return Err(Error::malformed(format!("{groups} groups of {} channels", x[1])));
    }
    Ok(Conv2d {
        batch: x[0],
        in_channels: x[1],
        out_channels,
        groups,
        input: window.input,
        output: window.output,
        kernel: window.kernel,
        stride: window.stride,
        pad: window.pad,
        dilation: window.dilation,
    })
}

/// Adds operand 2, a number or one for each channel, unless it is 0.
fn add_bias(l: &mut Lowering<'_>, node: &TypedNode, product: ValueId) -> Result<ValueId> {
    if node.inputs.len() < 3 || l.known_splat(node, 2)? == Some(0.0) {
        return Ok(product);
    }
    let bias = l.operand(node, 2)?;
    let channels = l.graph.shape(bias).len();
    let bias = l.graph.reshape(bias, &[1, channels, 1, 1].into())?;
    let to = l.graph.shape(product).clone();
    let bias = l.graph.broadcast(bias, &to)?;
    l.graph.add(product, bias)
}

/// A transposed convolution: the input's cotangent of the convolution it transposes.
pub(super) fn deconv(l: &mut Lowering<'_>, node: &TypedNode, op: &Deconv) -> Lowered {
    let ct = l.operand(node, 0)?;
    let shape = l.graph.shape(ct).clone();
    let result = shape_of(&node.outputs[0].fact)?;
    let Some(over) = window(&op.pool_spec, &result)? else { return Ok(None) };
    if op.kernel_format != KernelFormat::OIHW {
        return Ok(None);
    }
    let padding = super::typed::guarded("padding", || {
        op.pool_spec.padding.compute_for_deconv(
            &shape[2..],
            &op.pool_spec.kernel_shape,
            &op.pool_spec.dilations(),
            &op.pool_spec.strides(),
            &op.adjustments,
        )
    })?;
    let before: Vec<usize> = padding.iter().map(|axis| axis.pad_before).collect();
    let ct = with_height(l, ct)?;
    let extents = l.graph.shape(ct).clone();
    let geometry = Conv2d {
        output: [extents[2], extents[3]],
        pad: match before[..] {
            [width] => [0, width],
            [height, width, ..] => [height, width],
            [] => [0, 0],
        },
        ..geometry(&over, &result, shape[1], op.group)?
    };
    let filter = l.operand(node, 1)?;
    let filter = filter_of_deconv(l, filter, &geometry)?;
    let product = l.graph.conv2d_input_grad(ct, filter, geometry)?;
    let biased = add_bias(l, node, product)?;
    l.graph.reshape(biased, &result).map(Some)
}

/// tract's `[O/groups · .., I, KH, KW]` filter, made of ONNX's `[I, O/groups, KH, KW]`, as the
/// latter: outputs of the transposed convolution are inputs of the one it transposes.
fn filter_of_deconv(l: &mut Lowering<'_>, filter: ValueId, g: &Conv2d) -> Result<ValueId> {
    let (groups, inside) = (g.groups, g.out_channels / g.groups);
    let per_group = g.in_channels / groups;
    let [height, width] = g.kernel;
    let split = l.graph.reshape(filter, &[groups, per_group, inside, height, width].into())?;
    let turned = l.graph.transpose(split, &[0, 2, 1, 3, 4])?;
    l.graph.reshape(turned, &g.filter_shape())
}
