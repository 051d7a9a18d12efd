//! Kernels that only move elements, or add them where they are moved to.

use std::iter::once;
use std::ops::Range;
use std::sync::Arc;

use super::cut::{Pair, pairs, span};
use super::{Limits, window};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params::{self, Uniform, axes};
use crate::error::Result;
use crate::graph::{Indices, PadAxis, Slice};
use crate::kernel::tape::View;
use crate::tensor::Shape;

/// Axis `i` of the result is axis `perm[i]` of the operand.
pub(super) fn transpose(shape: &Shape, perm: &[usize], limits: &Limits) -> Result<Vec<Launch>> {
    let strides = shape.strides();
    let view = perm.iter().map(|&axis| (shape[axis], strides[axis]));
    strided("transpose", shape.len(), 0, view, limits)
}

/// Every step-th index of a range of one axis.
pub(super) fn slice(shape: &Shape, slice: &Slice, limits: &Limits) -> Result<Vec<Launch>> {
    let strides = shape.strides();
    let view = shape.iter().zip(&strides).enumerate().map(|(axis, (&extent, &stride))| {
        let taken = (slice.count(), stride * slice.step);
        if axis == slice.axis { taken } else { (extent, stride) }
    });
    strided("slice", shape.len(), slice.start * strides[slice.axis], view, limits)
}

/// A copy of where `view` (extents and strides) says in an operand of `operand_len` elements.
fn strided(
    shader: &'static str,
    operand_len: usize,
    start: usize,
    view: impl Iterator<Item = (usize, usize)>,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let (extents, strides): (Vec<usize>, Vec<usize>) =
        view.filter(|&(extent, _)| extent != 1).unzip();
    let len = extents.iter().product();
    let view = View(strides);
    let spans = |near: &Range<usize>| {
        let span = span(&extents, &view, near);
        once(start + span.start..start + span.end).collect()
    };
    let launch = |pair: Pair| {
        let params = params::Strided {
            part: part(&pair),
            rank: extents.len() as u32,
            start: start as u32,
            spare: [0; 2],
            extents: axes(extents.iter().copied()),
            strides: axes(view.0.iter().copied()),
        };
        take(shader, &params, &pair, len, operand_len).elements(pair.near.len())
    };
    Ok(pairs(limits, len, operand_len, spans)?.into_iter().map(launch).collect())
}

/// The windows of a launch, as shaders read them.
fn part(pair: &Pair) -> params::Part {
    params::Part {
        first: pair.near.start as u32,
        len: pair.near.len() as u32,
        other_first: pair.other.start as u32,
        other_len: pair.other.len() as u32,
    }
}

/// A launch that fills a window of the result with what a window of the operand holds.
fn take(
    shader: &'static str,
    params: &impl Uniform,
    pair: &Pair,
    len: usize,
    operand_len: usize,
) -> Builder {
    let (x, out) = (window(&pair.other, operand_len, 1), window(&pair.near, len, 1));
    Builder::new(shader, params).bind_window(2, Access::Read, Bound::Operand(0), x).bind_window(
        3,
        Access::Write,
        Bound::Result(0),
        out,
    )
}

/// Zeros around and between.
pub(super) fn pad(shape: &Shape, pads: &[PadAxis], limits: &Limits) -> Result<Vec<Launch>> {
    let padded = || shape.iter().zip(pads).map(|(&extent, pad)| pad.padded(extent));
    let len = padded().product();
    // Padding keeps the order of elements.
    let before = |index: usize| elements_before(shape, pads, index);
    let spans = |near: &Range<usize>| once(before(near.start)..before(near.end)).collect();
    let launch = |pair: Pair| {
        let params = params::Pad {
            part: part(&pair),
            rank: shape.ndim() as u32,
            spare0: 0,
            spare1: 0,
            spare2: 0,
            padded: axes(padded()),
            extents: axes(shape.iter().copied()),
            low: axes(pads.iter().map(|pad| pad.low)),
            step: axes(pads.iter().map(|pad| pad.interior + 1)),
        };
        take("pad", &params, &pair, len, shape.len()).elements(pair.near.len())
    };
    Ok(pairs(limits, len, shape.len(), spans)?.into_iter().map(launch).collect())
}

/// How many elements of the operand come before element `index` of the padded result.
fn elements_before(shape: &Shape, pads: &[PadAxis], index: usize) -> usize {
    let mut rest = index;
    let mut before = 0;
    for (axis, (&extent, pad)) in shape.iter().zip(pads).enumerate() {
        let within = axis + 1..shape.ndim();
        let padded: usize = within.clone().map(|a| pads[a].padded(shape[a])).product();
        let past = (rest / padded).saturating_sub(pad.low);
        let count = past.div_ceil(pad.interior + 1).min(extent);
        before += count * shape[within].iter().product::<usize>();
        let is_element = rest / padded >= pad.low
            && past.is_multiple_of(pad.interior + 1)
            && past / (pad.interior + 1) < extent;
        if !is_element {
            break;
        }
        rest %= padded;
    }
    before
}

/// Each operand's runs to their places.
pub(super) fn concat(shapes: &[Shape], axis: usize, limits: &Limits) -> Result<Vec<Launch>> {
    let run = |shape: &Shape| shape[axis..].iter().product::<usize>();
    let row_len: usize = shapes.iter().map(run).sum();
    let out_len = shapes.iter().map(|shape| shape.len()).sum();
    let mut start = 0;
    let mut launches = Vec::new();
    for (operand, shape) in shapes.iter().enumerate().filter(|(_, shape)| !shape.is_empty()) {
        let (len, run) = (shape.len(), run(shape));
        let place = |i: usize| i / run * row_len + start + i % run;
        let spans =
            |near: &Range<usize>| once(place(near.start)..place(near.end - 1) + 1).collect();
        launches.extend(pairs(limits, len, out_len, spans)?.iter().map(|pair| {
            let [run, start, row_len] = [run, start, row_len].map(|x| x as u32);
            let params = params::Concat { part: part(pair), run, start, row_len, spare: 0 };
            let (x, out) = (window(&pair.near, len, 1), window(&pair.other, out_len, 1));
            Builder::new("concat", &params)
                .bind_window(2, Access::Read, Bound::Operand(operand), x)
                .bind_window(3, Access::Write, Bound::Result(0), out)
                .elements(pair.near.len())
        }));
        start += run;
    }
    Ok(launches)
}

/// Given rows of one axis.
pub(super) fn gather(shape: &Shape, indices: &Indices, limits: &Limits) -> Result<Vec<Launch>> {
    let (extent, count) = (shape[indices.axis], indices.rows.len());
    let len = shape.with(indices.axis, count).len();
    let inner = row_len(shape, indices);
    let spans = |near: &Range<usize>| {
        let source = |row: usize| row / count * extent + indices.rows[row % count] as usize;
        let spans = rows(near, inner).map(|(row, columns)| shifted(&columns, source(row) * inner));
        sorted(spans)
    };
    let launch = |pair: Pair| {
        take("gather", &params_of(shape, indices, &pair), &pair, len, shape.len())
            .bind(4, Access::Read, Bound::Table(Arc::clone(&indices.rows)))
            .elements(pair.near.len())
    };
    Ok(pairs(limits, len, shape.len(), spans)?.into_iter().map(launch).collect())
}

/// Rows added at given places; `shape` is the result's.
pub(super) fn scatter_add(
    shape: &Shape,
    indices: &Indices,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let (extent, count) = (shape[indices.axis], indices.rows.len());
    let operand_len = shape.with(indices.axis, count).len();
    let inner = row_len(shape, indices);
    let sources = sources(extent, &indices.rows);
    let table = table(&sources);
    let spans = |near: &Range<usize>| {
        let spans = rows(near, inner).flat_map(|(row, columns)| {
            let first = row / extent * count;
            let of_row = sources[row % extent].iter();
            of_row.map(move |&source| shifted(&columns, (first + source as usize) * inner))
        });
        sorted(spans)
    };
    let launch = |pair: Pair| {
        let params = params_of(shape, indices, &pair);
        take("scatter_add", &params, &pair, shape.len(), operand_len)
            .bind(4, Access::Read, Bound::Table(Arc::clone(&table)))
            .elements(pair.near.len())
    };
    Ok(pairs(limits, shape.len(), operand_len, spans)?.into_iter().map(launch).collect())
}

/// Elements of a row.
fn row_len(shape: &Shape, indices: &Indices) -> usize {
    shape[indices.axis + 1..].iter().product()
}

fn params_of(shape: &Shape, indices: &Indices, pair: &Pair) -> params::Rows {
    params::Rows {
        part: part(pair),
        extent: shape[indices.axis] as u32,
        count: indices.rows.len() as u32,
        inner: row_len(shape, indices) as u32,
        joins: u32::from(!pair.first),
    }
}

/// The rows that a range of elements touches, and which of each row's elements.
fn rows(
    range: &Range<usize>,
    row_len: usize,
) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let range = range.clone();
    (range.start / row_len..range.end.div_ceil(row_len)).map(move |row| {
        let column = |at: usize| at.clamp(range.start, range.end) - row * row_len;
        (row, column(row * row_len)..column((row + 1) * row_len))
    })
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

fn sorted(spans: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable_by_key(|span| span.start);
    spans
}

/// For each of `extent` rows its sources, in order.
fn sources(extent: usize, rows: &[u32]) -> Vec<Vec<u32>> {
    let mut of_row: Vec<Vec<u32>> = vec![Vec::new(); extent];
    for (source, &row) in rows.iter().enumerate() {
        of_row[row as usize].push(source as u32);
    }
    of_row
}

/// For each row where its sources start, one more for the end, then the sources.
fn table(sources: &[Vec<u32>]) -> Arc<[u32]> {
    let mut table = vec![0];
    let mut start = 0;
    for sources in sources {
        start += sources.len() as u32;
        table.push(start);
    }
    table.extend(sources.iter().flatten());
    // An empty list of sources is still a binding.
    table.push(0);
    table.into()
}
