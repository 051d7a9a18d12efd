//! Pooling windows and their gradients, image by image.

use std::ops::Range;

use super::{Limits, parts, window};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params;
use crate::error::Result;
use crate::graph::Pool2d;

/// Elements of one image before and after.
fn image_lens(g: &Pool2d) -> [usize; 2] {
    [g.channels * g.input[0] * g.input[1], g.channels * g.output[0] * g.output[1]]
}

fn params(g: &Pool2d, len: usize) -> params::Window {
    let pair = |values: [usize; 2]| values.map(|value| value as u32);
    params::Window {
        len: len as u32,
        spare: 0,
        input: pair(g.input),
        output: pair(g.output),
        kernel: pair(g.kernel),
        stride: pair(g.stride),
        pad: pair(g.pad),
        dilation: pair(g.dilation),
        spare2: [0; 2],
    }
}

/// `max_pool` or `sum_pool`.
pub(super) fn windows(shader: &'static str, g: &Pool2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let len = part.len() * after;
        Builder::new(shader, &params(g, len))
            .bind_window(2, Access::Read, Bound::Operand(0), window(&part, g.batch, before))
            .bind_window(3, Access::Write, Bound::Result(0), window(&part, g.batch, after))
            .elements(len)
    };
    Ok(parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect())
}

/// The gradient of `max_pool`: operands `x, ct`.
pub(super) fn max_pool_grad(g: &Pool2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let len = part.len() * before;
        Builder::new("max_pool_grad", &params(g, len))
            .bind_window(2, Access::Read, Bound::Operand(0), window(&part, g.batch, before))
            .bind_window(3, Access::Read, Bound::Operand(1), window(&part, g.batch, after))
            .bind_window(4, Access::Write, Bound::Result(0), window(&part, g.batch, before))
            .elements(len)
    };
    Ok(parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect())
}

/// The gradient of `sum_pool`: operand `ct`.
pub(super) fn sum_pool_grad(g: &Pool2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let len = part.len() * before;
        Builder::new("sum_pool_grad", &params(g, len))
            .bind_window(2, Access::Read, Bound::Operand(0), window(&part, g.batch, after))
            .bind_window(3, Access::Write, Bound::Result(0), window(&part, g.batch, before))
            .elements(len)
    };
    Ok(parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect())
}
