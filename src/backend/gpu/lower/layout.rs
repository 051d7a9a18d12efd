//! Kernels that only move elements.

use std::sync::Arc;

use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params::{self, axes};
use crate::graph::{Indices, PadAxis, Slice};
use crate::tensor::Shape;

/// Axis `i` of the result is axis `perm[i]` of the operand.
pub(super) fn transpose(shape: &Shape, perm: &[usize]) -> Vec<Launch> {
    let strides = shape.strides();
    let view = perm.iter().map(|&axis| (shape[axis], strides[axis]));
    vec![strided("transpose", 0, view)]
}

/// Every step-th index of a range of one axis.
pub(super) fn slice(shape: &Shape, slice: &Slice) -> Vec<Launch> {
    let strides = shape.strides();
    let view = shape.iter().zip(&strides).enumerate().map(|(axis, (&extent, &stride))| {
        let taken = (slice.count(), stride * slice.step);
        if axis == slice.axis { taken } else { (extent, stride) }
    });
    vec![strided("slice", slice.start * strides[slice.axis], view)]
}

/// A copy of where `view` (extents and strides) says.
fn strided(
    shader: &'static str,
    start: usize,
    view: impl Iterator<Item = (usize, usize)>,
) -> Launch {
    let (extents, strides): (Vec<usize>, Vec<usize>) =
        view.filter(|&(extent, _)| extent != 1).unzip();
    let len = extents.iter().product();
    let params = params::Strided {
        len: len as u32,
        rank: extents.len() as u32,
        start: start as u32,
        spare: 0,
        extents: axes(extents),
        strides: axes(strides),
    };
    Builder::new(shader, &params).read(2, 0).write(3, 0).elements(len)
}

/// Zeros around and between.
pub(super) fn pad(shape: &Shape, pads: &[PadAxis]) -> Vec<Launch> {
    let padded = || shape.iter().zip(pads).map(|(&extent, pad)| pad.padded(extent));
    let len = padded().product();
    let params = params::Pad {
        len: len as u32,
        rank: shape.ndim() as u32,
        spare: [0; 2],
        padded: axes(padded()),
        extents: axes(shape.iter().copied()),
        low: axes(pads.iter().map(|pad| pad.low)),
        step: axes(pads.iter().map(|pad| pad.interior + 1)),
    };
    vec![Builder::new("pad", &params).read(2, 0).write(3, 0).elements(len)]
}

/// One launch for each operand.
pub(super) fn concat(shapes: &[Shape], axis: usize) -> Vec<Launch> {
    let run = |shape: &Shape| shape[axis..].iter().product::<usize>();
    let row_len: usize = shapes.iter().map(run).sum();
    let mut start = 0;
    let mut launches = Vec::new();
    for (operand, shape) in shapes.iter().enumerate() {
        let (len, run) = (shape.len(), run(shape));
        let [len32, run32, start32, row32] = [len, run, start, row_len].map(|x| x as u32);
        let params = params::Concat { len: len32, run: run32, start: start32, row_len: row32 };
        if len > 0 {
            let builder = Builder::new("concat", &params).read(2, operand).write(3, 0);
            launches.push(builder.elements(len));
        }
        start += run;
    }
    launches
}

/// Given rows of one axis.
pub(super) fn gather(shape: &Shape, indices: &Indices) -> Vec<Launch> {
    let len = shape.with(indices.axis, indices.rows.len()).len();
    let builder = Builder::new("gather", &rows(shape, indices, len)).read(2, 0).write(3, 0).bind(
        4,
        Access::Read,
        Bound::Table(Arc::clone(&indices.rows)),
    );
    vec![builder.elements(len)]
}

/// Rows added at given places; `shape` is the result's.
pub(super) fn scatter_add(shape: &Shape, indices: &Indices) -> Vec<Launch> {
    let len = shape.len();
    let sources = sources(shape[indices.axis], &indices.rows);
    let builder = Builder::new("scatter_add", &rows(shape, indices, len))
        .read(2, 0)
        .write(3, 0)
        .bind(4, Access::Read, Bound::Table(sources));
    vec![builder.elements(len)]
}

fn rows(shape: &Shape, indices: &Indices, len: usize) -> params::Rows {
    params::Rows {
        len: len as u32,
        extent: shape[indices.axis] as u32,
        count: indices.rows.len() as u32,
        inner: shape[indices.axis + 1..].iter().product::<usize>() as u32,
    }
}

/// For each of `extent` rows where its sources start, one more for the end, then the sources.
fn sources(extent: usize, rows: &[u32]) -> Arc<[u32]> {
    let mut of_row: Vec<Vec<u32>> = vec![Vec::new(); extent];
    for (source, &row) in rows.iter().enumerate() {
        of_row[row as usize].push(source as u32);
    }
    let mut table = vec![0];
    let mut start = 0;
    for sources in &of_row {
        start += sources.len() as u32;
        table.push(start);
    }
    table.extend(of_row.into_iter().flatten());
    // An empty list of sources is still a binding.
    table.push(0);
    table.into()
}
