//! Dispatches to launches: which shaders run for a kernel, on which parts of its operands.
//!
//! A device binds only so much of a buffer at a time; work on more is cut along an axis on which
//! every operand's part is contiguous (images, rows, elements), or into pairs of windows
//! (`src/backend/gpu/lower/cut.rs`). Nothing here needs a device.

mod cut;
mod layout;
mod pool;
mod product;
mod reduce;
mod rows;
mod tapes;
mod update;

use std::ops::Range;

pub(super) use self::update::factor_shards;
use super::launch::Launch;
use crate::error::{Error, Result};
use crate::kernel::Kernel;

/// What a device can bind, how the factor columns of a prior are stored, and which variants of
/// kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most elements of a binding.
    pub binding: usize,
    /// Elements that a binding's start is a multiple of.
    pub align: usize,
    /// Whether factor columns are stored in half precision.
    pub half_factor: bool,
    /// Whether sums within a workgroup go through subgroups first.
    pub subgroups: bool,
    /// Whether products are formed from the device's own small matrices.
    pub cooperative: bool,
}

/// The launches of a kernel, in order.
///
/// # Errors
/// When an operand is larger than the device binds and cannot be cut; the error says what it needs.
pub(super) fn lower(kernel: &Kernel, limits: &Limits) -> Result<Vec<Launch>> {
    let (reads, writes) = kernel.binding_lens();
    check_len(match kernel {
        // The factor's columns are bound in shards, and numbered in each.
        Kernel::Update { len, .. } => *len,
        _ => reads.iter().chain(&writes).flatten().copied().max().unwrap_or(0),
    })?;
    if writes.first() == Some(&Some(0)) {
        return Ok(Vec::new());
    }
    match kernel {
        Kernel::Map(tape) => tapes::map(tape, limits),
        Kernel::Reduce(geometry) => reduce::reduce(geometry, limits),
        Kernel::MatMul(g, fused) => product::matmul(g, fused.as_ref(), limits),
        Kernel::Conv2d(g, fused) => product::conv2d(g, fused.as_ref(), limits),
        Kernel::Conv2dInputGrad(g, fused) => product::input_grad(g, fused.as_ref(), limits),
        Kernel::Conv2dFilterGrad(g) => product::filter_grad(g, limits),
        Kernel::MaxPool(g) => pool::windows("max_pool", g, limits),
        Kernel::MaxPoolGrad(g) => pool::max_pool_grad(g, limits),
        Kernel::SumPool(g) => pool::windows("sum_pool", g, limits),
        Kernel::SumPoolGrad(g) => pool::sum_pool_grad(g, limits),
        Kernel::Softmax { rows, columns } => rows::rows("softmax", *rows, *columns, limits),
        Kernel::LogSoftmax { rows, columns } => rows::rows("log_softmax", *rows, *columns, limits),
        Kernel::Transpose { shape, perm } => layout::transpose(shape, perm, limits),
        Kernel::Slice { shape, slice } => layout::slice(shape, slice, limits),
        Kernel::Pad { shape, axes } => layout::pad(shape, axes, limits),
        Kernel::Concat { shapes, axis } => layout::concat(shapes, *axis, limits),
        Kernel::Gather { shape, indices } => layout::gather(shape, indices, limits),
        Kernel::ScatterAdd { shape, indices } => layout::scatter_add(shape, indices, limits),
        Kernel::Update { update, len, rank } => update::update(update, *len, *rank, limits),
    }
}

/// Shaders number elements with 32 bits.
fn check_len(len: usize) -> Result<()> {
    if len > u32::MAX as usize {
        let message = format!("a value of {len} elements; expected at most {} on a GPU", u32::MAX);
        return Err(Error::unsupported(message).hint("use a smaller batch, or --device cpu"));
    }
    Ok(())
}

/// Cuts `count` items into parts such that each operand, `lens` elements an item, can be bound from
/// the last place before a part where a window may start: see [`items`].
fn parts(limits: &Limits, count: usize, lens: &[usize]) -> Result<Vec<Range<usize>>> {
    let widest = lens.iter().copied().max().unwrap_or(0).max(1);
    let most = limits.binding / widest;
    if count <= most {
        return Ok(std::iter::once(0..count).collect());
    }
    // Starts are aligned at every multiple of some number up to the alignment.
    let is_aligned =
        |step: &usize| lens.iter().all(|len| (step * len).is_multiple_of(limits.align));
    let unit = (1..limits.align).find(is_aligned).unwrap_or(limits.align);
    let ahead = limits.align - 1;
    let step = match most / unit * unit {
        0 => limits.binding.saturating_sub(ahead) / widest,
        step => step,
    };
    if step == 0 {
        return Err(uncuttable(limits, if most == 0 { widest } else { widest + ahead }));
    }
    Ok((0..count).step_by(step).map(|start| start..count.min(start + step)).collect())
}

/// The error of a part of `len` elements that cannot be cut further.
fn uncuttable(limits: &Limits, len: usize) -> Error {
    let (needed, offered) = (4 * len, 4 * limits.binding);
    Error::unsupported(format!(
        "the device binds at most {offered} bytes of a buffer at a time; a part that cannot be cut \
         further has {needed} bytes"
    ))
    .hint("use smaller images or batches, or another device")
}

/// The window of a part, in elements; none if it is the whole.
fn window(part: &Range<usize>, count: usize, len: usize) -> Option<(usize, usize)> {
    (part.len() < count).then_some((part.start * len, part.len() * len))
}

/// What a launch binds of a value.
#[derive(Clone, Copy)]
struct Items {
    window: Option<(usize, usize)>,
    /// Elements of the window that come before the part.
    first: u32,
}

/// The window of a part of `count` items of `len` elements; it starts where a window may, which is
/// up to an alignment before the part.
fn items(limits: &Limits, part: &Range<usize>, count: usize, len: usize) -> Items {
    let (start, end) = (part.start * len, part.end * len);
    let window_start = cut::aligned(limits, start);
    let window = window(&(window_start..end), count * len, 1);
    Items { window, first: (start - window_start) as u32 }
}
