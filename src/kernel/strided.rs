//! Copies out of a strided view of the operand: what transposes and slices have in common.
//!
//! A [`View`] is a list of axes, each an extent and a stride in the operand, whose indices in
//! row-major order are the elements of the result. Axes that advance as one are merged first, so
//! that most copies have two or three. The last axis and the one that is contiguous in the operand
//! make up a panel, which is copied in blocks: both sides then touch few cache lines at a time.

use std::ops::Range;

use super::rows::GRAIN;
use crate::threads::{Parts, Threads};

/// The most axes a view has before merging.
pub const AXES: usize = 8;

/// Rows of a block of a panel.
const ROWS: usize = 64;

/// Columns of a block of a panel.
const COLUMNS: usize = 512;

/// Edge of the squares in which a panel is transposed.
const TILE: usize = 16;

/// One axis of a view.
#[derive(Clone, Copy, Debug, Default)]
struct Axis {
    extent: usize,
    stride: usize,
}

/// The elements `start + Σ index·stride` of an operand, in row-major order of the indices.
#[derive(Clone, Copy, Debug)]
pub struct View {
    start: usize,
    axes: [Axis; AXES],
    ndim: usize,
}

impl View {
    /// The view with these axes, `(extent, stride)`, outermost first.
    ///
    /// # Panics
    /// When more than [`AXES`] axes are left after those of extent 1 are dropped.
    pub fn new(start: usize, axes: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut view = View { start, axes: [Axis::default(); AXES], ndim: 0 };
        for (extent, stride) in axes.filter(|&(extent, _)| extent != 1) {
            let merges = |outer: &&mut Axis| outer.stride == extent * stride;
            match view.axes[..view.ndim].last_mut().filter(merges) {
                Some(outer) => *outer = Axis { extent: outer.extent * extent, stride },
                None => {
                    view.axes[view.ndim] = Axis { extent, stride };
                    view.ndim += 1;
                }
            }
        }
        view
    }

    /// Splits the axes into those that number the panels and the panel itself.
    fn panel(&self) -> Panel {
        let mut axes = self.axes;
        let mut places = [0; AXES];
        let mut place = 1;
        for axis in (0..self.ndim).rev() {
            places[axis] = place;
            place *= axes[axis].extent;
        }
        let one = Axis { extent: 1, stride: 1 };
        let columns = if self.ndim == 0 { one } else { axes[self.ndim - 1] };
        let outer = self.ndim.saturating_sub(1);
        let unit = axes[..outer].iter().position(|axis| axis.stride == 1);
        let Some(row_axis) = unit.or(outer.checked_sub(1)) else {
            return Panel { rows: one, row_place: columns.extent, columns, axes, places, outer };
        };
        let (rows, row_place) = (axes[row_axis], places[row_axis]);
        axes.copy_within(row_axis + 1..outer, row_axis);
        places.copy_within(row_axis + 1..outer, row_axis);
        Panel { rows, row_place, columns, axes, places, outer: outer - 1 }
    }
}

/// Two axes of a view to be copied block by block, and the axes that number such panels.
struct Panel {
    rows: Axis,
    /// Elements between rows in the result.
    row_place: usize,
    columns: Axis,
    axes: [Axis; AXES],
    /// Strides of `axes` in the result.
    places: [usize; AXES],
    outer: usize,
}

impl Panel {
    /// Where panel number `index` begins in the operand's view and in the result.
    fn origin(&self, mut index: usize) -> (usize, usize) {
        let (mut from, mut to) = (0, 0);
        for (axis, place) in self.axes[..self.outer].iter().zip(&self.places).rev() {
            from += index % axis.extent * axis.stride;
            to += index % axis.extent * place;
            index /= axis.extent;
        }
        (from, to)
    }

    /// Copies the block `rows` × `columns` of the panel that begins at `x` and at `to` in `out`.
    ///
    /// # Safety
    /// Nobody else accesses the block's elements of `out`.
    unsafe fn copy(
        &self,
        x: &[f32],
        out: &Parts<'_, f32>,
        to: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        if self.rows.stride == 1 && self.columns.stride != 1 {
            for across in tiles(columns) {
                for down in tiles(rows.clone()) {
                    // SAFETY: a tile is a part of the block.
                    unsafe { self.transpose_tile(x, out, to, down, across.clone()) };
                }
            }
            return;
        }
        for row in rows {
            let from = row * self.rows.stride + columns.start * self.columns.stride;
            let start = to + row * self.row_place + columns.start;
            // SAFETY: a part of a row of the block.
            let run = unsafe { out.part(start, columns.len()) };
            match self.columns.stride {
                1 => run.copy_from_slice(&x[from..from + run.len()]),
                stride => {
                    let elements = x[from..].iter().step_by(stride);
                    run.iter_mut().zip(elements).for_each(|(out, x)| *out = *x);
                }
            }
        }
    }

    /// Copies a tile whose rows are contiguous across in the operand, by way of a square buffer.
    ///
    /// # Safety
    /// Nobody else accesses the tile's elements of `out`.
    unsafe fn transpose_tile(
        &self,
        x: &[f32],
        out: &Parts<'_, f32>,
        to: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        let x = &x[rows.start + columns.start * self.columns.stride..];
        let at = |row: usize| to + row * self.row_place + columns.start;
        if rows.len() == TILE && columns.len() == TILE {
            for (row, line) in rows.zip(&square(x, self.columns.stride)) {
                // SAFETY: a row of the tile.
                unsafe { out.part(at(row), TILE) }.copy_from_slice(line);
            }
            return;
        }
        for (i, row) in rows.enumerate() {
            // SAFETY: a row of the tile.
            let line = unsafe { out.part(at(row), columns.len()) };
            let elements = x[i..].iter().step_by(self.columns.stride);
            line.iter_mut().zip(elements).for_each(|(out, x)| *out = *x);
        }
    }
}

/// The transpose of the square of [`TILE`] rows, `stride` apart, at the beginning of `x`.
#[inline]
fn square(x: &[f32], stride: usize) -> [[f32; TILE]; TILE] {
    let mut lines = [[0.0; TILE]; TILE];
    for i in (0..TILE).step_by(4) {
        let rows = [0, 1, 2, 3].map(|k| x[(i + k) * stride..][..TILE].as_chunks::<4>().0);
        for j in 0..TILE / 4 {
            let small = transpose_4x4(rows.map(|row| row[j]));
            for (line, run) in lines[4 * j..].iter_mut().zip(small) {
                line[i..i + 4].copy_from_slice(&run);
            }
        }
    }
    lines
}

/// The transpose of a square of four, in vector registers.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose_4x4(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{
        __m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps,
    };
    // SAFETY: both are four `f32` without padding, and SSE is part of the architecture.
    unsafe {
        let [a, b, c, d] = rows.map(|row| std::mem::transmute::<[f32; 4], __m128>(row));
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        let lines = [
            _mm_movelh_ps(ab, cd),
            _mm_movehl_ps(cd, ab),
            _mm_movelh_ps(ab_high, cd_high),
            _mm_movehl_ps(cd_high, ab_high),
        ];
        lines.map(|line| std::mem::transmute::<__m128, [f32; 4]>(line))
    }
}

/// The transpose of a square of four.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transpose_4x4(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    [0, 1, 2, 3].map(|i| rows.map(|row| row[i]))
}

/// `range` cut into pieces of at most [`TILE`].
fn tiles(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(TILE).map(move |start| start..(start + TILE).min(end))
}

/// Writes the elements of `view` of `x` to `out`, in order.
///
/// # Panics
/// When `out` has not as many elements as the view, or the view leaves `x`.
pub fn copy(threads: &Threads, view: &View, x: &[f32], out: &mut [f32]) {
    let len: usize = view.axes[..view.ndim].iter().map(|axis| axis.extent).product();
    assert_eq!(out.len(), len, "the result has the view's elements");
    if len == 0 {
        return;
    }
    let panel = view.panel();
    let down = panel.rows.extent.div_ceil(ROWS);
    let across = panel.columns.extent.div_ceil(COLUMNS);
    let blocks = len / (panel.rows.extent * panel.columns.extent) * down * across;
    let block_len = panel.rows.extent.min(ROWS) * panel.columns.extent.min(COLUMNS);
    let per_task = (GRAIN / block_len).max(1);
    let out = Parts::new(out);
    threads.run(blocks.div_ceil(per_task), |task, _| {
        for block in task * per_task..((task + 1) * per_task).min(blocks) {
            let (from, to) = panel.origin(block / (down * across));
            let row = block / across % down * ROWS;
            let column = block % across * COLUMNS;
            let rows = row..(row + ROWS).min(panel.rows.extent);
            let columns = column..(column + COLUMNS).min(panel.columns.extent);
            // SAFETY: blocks are disjoint, and each belongs to one task.
            unsafe { panel.copy(&x[view.start + from..], &out, to, rows, columns) };
        }
    });
}
