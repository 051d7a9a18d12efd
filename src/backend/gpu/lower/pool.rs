//! Pooling windows and their gradients, image by image.

use std::ops::Range;

use super::{Items, Limits, items, parts};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params;
use crate::error::Result;
use crate::graph::Pool2d;

/// Elements of one image before and after.
fn image_lens(g: &Pool2d) -> [usize; 2] {
    [g.channels * g.input[0] * g.input[1], g.channels * g.output[0] * g.output[1]]
}

/// What is bound of images before and after.
fn images(g: &Pool2d, part: &Range<usize>, limits: &Limits) -> [Items; 2] {
    image_lens(g).map(|len| items(limits, part, g.batch, len))
}

fn params(g: &Pool2d, len: usize, images: [Items; 2]) -> params::Window {
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
        first: images.map(|items| items.first),
    }
}

/// `max_pool` or `sum_pool`.
pub(super) fn windows(shader: &'static str, g: &Pool2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let len = part.len() * after;
        let images = images(g, &part, limits);
        Builder::new(shader, &params(g, len, images))
            .bind_window(2, Access::Read, Bound::Operand(0), images[0].window)
            .bind_window(3, Access::Write, Bound::Result(0), images[1].window)
            .elements(len)
    };
    Ok(parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect())
}

/// The gradient of `max_pool`: operands `x, ct`.
pub(super) fn max_pool_grad(g: &Pool2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let len = part.len() * before;
        let images = images(g, &part, limits);
        Builder::new("max_pool_grad", &params(g, len, images))
            .bind_window(2, Access::Read, Bound::Operand(0), images[0].window)
            .bind_window(3, Access::Read, Bound::Operand(1), images[1].window)
            .bind_window(4, Access::Write, Bound::Result(0), images[0].window)
            .elements(len)
    };
    Ok(parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect())
}

/// The gradient of `sum_pool`: operand `ct`.
pub(super) fn sum_pool_grad(g: &Pool2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let len = part.len() * before;
        let images = images(g, &part, limits);
        Builder::new("sum_pool_grad", &params(g, len, images))
            .bind_window(2, Access::Read, Bound::Operand(0), images[1].window)
            .bind_window(3, Access::Write, Bound::Result(0), images[0].window)
            .elements(len)
    };
    Ok(parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect())
}
