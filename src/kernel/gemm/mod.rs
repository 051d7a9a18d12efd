//! Blocked matrix products C = A B for matrices and convolutions.
//!
//! The blocks follow Goto and van de Geijn (ACM TOMS 34, 2008), but A is read where it lies if its
//! rows are runs of k or short cycles of it. Of two sides that have to be packed all threads pack
//! the one with fewer lanes first; then each task packs what it needs of the other: a block of B,
//! or a strip of A at a time, into the first-level cache. A task runs register tiles over the block
//! and hands finished rows to the `Target` while they are in cache. The order of every sum depends
//! on the extents alone, not on the number of threads. Nothing is allocated; `scratch_len` says how
//! much memory to bring.

mod blocking;
pub(crate) mod dots;
mod isa;
mod line;
mod operand;
mod pack;
mod planes;
mod portable;
mod span;
mod taps;
mod target;
mod tile;
mod winograd;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::threads::{Parts, Threads};

use blocking::{Ahead, Blocking};
use operand::{Cycle, Strips};
use pack::Block;
use tile::TileArgs;

pub(crate) use blocking::Extents;
pub(crate) use isa::Isa;
pub(crate) use line::{LINE, first};
pub(crate) use operand::{Matrix, Operand, Windows};
pub(crate) use planes::Padded;
pub(crate) use taps::{Positions, TAPS_MAX, Taps};
use target::Places as TargetPlaces;
pub(crate) use target::{Layout, Target};
pub use tile::Hints;
use tile::Steps;
pub(crate) use tile::{Strip, Write};
pub(crate) use winograd::{Dealing, LINES, POINTS, REACH, STEP, TransformFn};

/// Shortest cycle of k in which A is read where it lies.
const CYCLE_MIN: usize = 2;
/// Elements of partial sums that one task adds.
const ADDED: usize = 4096;

/// Elements of scratch that [`gemm`] needs.
pub(crate) fn scratch_len(isa: &Isa, extents: &Extents, workers: usize) -> usize {
    let len = |packs_a| Blocking::new(isa, extents, workers, packs_a).scratch_len(workers);
    len(true).max(len(false))
}

/// A batch of products on one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Gemm<'a> {
    pub isa: &'static Isa,
    pub extents: Extents,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
}

impl<'a> Gemm<'a> {
    /// How tiles read A where it lies, if its rows are runs of k, or such that a few rows of a
    /// cycle of k fill the lines of memory that they touch.
    fn a_in_place(&self) -> Option<InPlace<'a>> {
        let Operand::Matrix(matrix) = self.a else { return None };
        if matrix.k_strides[2] == 1 && matrix.k_extents[1] >= self.extents.k {
            return Some(InPlace { matrix, cycle: None });
        }
        if matrix.lane_stride == 1 {
            return None;
        }
        let cycle = matrix.cycle().filter(|cycle| cycle.offsets().len() >= CYCLE_MIN)?;
        Some(InPlace { matrix, cycle: Some(cycle) })
    }

    /// Packs a block of an operand of one batch element.
    fn pack(
        &self,
        operand: &Operand<'_>,
        batch: usize,
        lanes: Range<usize>,
        k: Range<usize>,
        strips: Strips,
        to: &mut [f32],
    ) {
        let group = batch / self.extents.segments;
        let block = Block { operand, group, lanes, k, strips };
        // SAFETY: an instruction set is only handed out where the processor has it.
        unsafe { (self.isa.pack)(&block, to) }
    }
}

/// A that is not packed.
struct InPlace<'a> {
    matrix: Matrix<'a>,
    /// Unless rows are runs of k.
    cycle: Option<Cycle>,
}

impl InPlace<'_> {
    /// Some rows of a group over a part of K.
    fn strip(&self, group: usize, rows: Range<usize>, k: Range<usize>) -> Strip<'_> {
        let Matrix { data, start, group_stride, lane_stride, k_strides, .. } = self.matrix;
        let start = start + group * group_stride + rows.start * lane_stride;
        let (start, steps) = match &self.cycle {
            None => (start + k.start, Steps::Runs { step: 1, len: k.len(), stride: 0 }),
            Some(cycle) => {
                let (offsets, stride) = (cycle.offsets(), k_strides[0]);
                let (cycles, first) = (k.start / offsets.len(), k.start % offsets.len());
                (start + cycles * stride, Steps::Cycles { offsets, first, stride })
            }
        };
        Strip::in_place(&data[start..], [rows.len(), k.len()], lane_stride, steps)
    }
}

/// Computes all products and stores each finished element once.
///
/// # Panics
/// When `scratch` is shorter than `scratch_len`.
pub(crate) fn gemm(threads: &Threads, gemm: &Gemm<'_>, target: &Target<'_>, scratch: &mut [f32]) {
    let extents = &gemm.extents;
    let in_place = gemm.a_in_place();
    let blocking = Blocking::new(gemm.isa, extents, threads.count(), in_place.is_none());
    let needed = blocking.scratch_len(threads.count());
    assert!(scratch.len() >= needed, "{} kernels need {needed} of scratch", gemm.isa.name);
    if extents.m == 0 || extents.n == 0 {
        return;
    }
    let (batches, rows, columns) = match blocking.ahead {
        Ahead::A => (blocking.packed_batch, blocking.packed_rows, extents.n),
        Ahead::B => (1, extents.m, blocking.packed_columns),
        Ahead::Nothing => (extents.batch(), extents.m, extents.n),
    };
    let in_place = in_place.as_ref();
    let (packed, locals) = aligned(scratch).split_at_mut(blocking.packed_len());
    for batch in parts(extents.batch(), batches) {
        for rows in parts(extents.m, rows) {
            for columns in parts(extents.n, columns) {
                let batch = batch.clone();
                let rows = rows.clone();
                let part = Part { gemm, blocking: &blocking, in_place, batch, rows, columns };
                part.pack(threads, packed);
                part.multiply(threads, packed, locals, target);
            }
        }
    }
}

/// The parts of `0..len`, all but the last of `most`.
fn parts(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(most.max(1)).map(move |first| first..(first + most).min(len))
}

/// The products for which an operand is packed at one time.
struct Part<'a> {
    gemm: &'a Gemm<'a>,
    blocking: &'a Blocking,
    in_place: Option<&'a InPlace<'a>>,
    batch: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Part<'_> {
    /// Elements of packed A of one batch element.
    fn packed_stride(&self) -> usize {
        self.rows.len() * self.blocking.segment_len
    }

    /// Blocks of a batch element's K; one empty block if there is nothing to sum.
    fn blocks(&self, batch: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (segment, step) = (self.gemm.extents.segment(batch), self.blocking.k.max(1));
        (0..segment.len().div_ceil(step).max(1)).map(move |block| {
            let start = segment.start + block * step;
            start..(start + step).min(segment.end)
        })
    }

    /// Packs what is to be packed before tasks run.
    fn pack(&self, threads: &Threads, packed: &mut [f32]) {
        match self.blocking.ahead {
            Ahead::A => self.pack_rows(threads, packed),
            Ahead::B => self.pack_columns(threads, packed),
            Ahead::Nothing => {}
        }
    }

    /// Packs A: by batch element and block of K, strips of rows.
    fn pack_rows(&self, threads: &Threads, packed: &mut [f32]) {
        let step = self.blocking.pack_rows(self.batch.len(), self.rows.len(), threads.count());
        let tasks = self.rows.len().div_ceil(step);
        let packed = Parts::new(packed);
        threads.run(self.batch.len() * tasks, |task, _| {
            let (index, first) = (task / tasks, task % tasks * step);
            let batch = self.batch.start + index;
            let segment = self.gemm.extents.segment(batch);
            let lanes = first..(first + step).min(self.rows.len());
            let rows = self.rows.start + lanes.start..self.rows.start + lanes.end;
            for k in self.blocks(batch) {
                let block = (k.start - segment.start) * self.rows.len();
                let start = index * self.packed_stride() + block + lanes.start * k.len();
                // SAFETY: rows of different tasks and blocks do not overlap.
                let to = unsafe { packed.part(start, lanes.len() * k.len()) };
                self.gemm.pack(&self.gemm.a, batch, rows.clone(), k, self.blocking.a_strips(), to);
            }
        });
    }

    /// Packs B of the part's one batch element: by block of K, strips of columns.
    fn pack_columns(&self, threads: &Threads, packed: &mut [f32]) {
        let (batch, isa) = (self.batch.start, self.gemm.isa);
        let blocks = self.blocks(batch).count();
        let step = self.blocking.pack_columns(isa, blocks, self.columns.len(), threads.count());
        let tasks = self.columns.len().div_ceil(step);
        let packed = Parts::new(packed);
        threads.run(blocks * tasks, |task, _| {
            let Some(k) = self.blocks(batch).nth(task / tasks) else { return };
            let first = self.columns.start + task % tasks * step;
            let columns = first..(first + step).min(self.columns.end);
            let len = columns.len().next_multiple_of(LINE) * k.len();
            // SAFETY: columns of different tasks and blocks do not overlap.
            let to = unsafe { packed.part(self.panel_start(batch, first, &k), len) };
            self.gemm.pack(&self.gemm.b, batch, columns, k, Blocking::b_strips(isa), to);
        });
    }

    /// Where the columns from `first` on begin in packed B.
    fn panel_start(&self, batch: usize, first: usize, k: &Range<usize>) -> usize {
        let block = k.start - self.gemm.extents.segment(batch).start;
        block * self.columns.len().next_multiple_of(LINE) + (first - self.columns.start) * k.len()
    }

    /// Some rows of A over a block of K: where they lie, packed before, or packed into `local`.
    fn strip<'s>(
        &'s self,
        packed: &'s [f32],
        batch: usize,
        rows: Range<usize>,
        k: Range<usize>,
        local: &'s mut [f32],
    ) -> Strip<'s> {
        let extents = &self.gemm.extents;
        let (count, len) = (rows.len(), rows.len() * k.len());
        if self.blocking.ahead == Ahead::A {
            let first = k.start - extents.segment(batch).start;
            let start = first * self.rows.len() + rows.start * k.len();
            return Strip::packed(&packed[start..start + len], count);
        }
        if let Some(a) = self.in_place.filter(|_| !k.is_empty()) {
            return a.strip(batch / extents.segments, rows, k);
        }
        self.gemm.pack(&self.gemm.a, batch, rows, k, self.blocking.a_strips(), local);
        Strip::packed(&local[..len], count)
    }

    /// Runs the tasks of this part.
    fn multiply(&self, threads: &Threads, packed: &[f32], locals: &mut [f32], target: &Target<'_>) {
        let row_tasks = self.rows.len().div_ceil(self.blocking.rows);
        let column_tasks = self.columns.len().div_ceil(self.blocking.columns);
        let local_len = self.blocking.local_len();
        let locals = Parts::new(locals);
        threads.run(self.batch.len() * row_tasks * column_tasks, |task, worker| {
            let index = task / (row_tasks * column_tasks);
            let row = task / column_tasks % row_tasks * self.blocking.rows;
            let column = self.columns.start + task % column_tasks * self.blocking.columns;
            // SAFETY: a worker runs one task at a time.
            let local = unsafe { locals.part(worker * local_len, local_len) };
            let packed = match self.blocking.ahead {
                Ahead::A => &packed[index * self.packed_stride()..][..self.packed_stride()],
                Ahead::B | Ahead::Nothing => &*packed,
            };
            let task = Task {
                part: self,
                batch: self.batch.start + index,
                rows: row..(row + self.blocking.rows).min(self.rows.len()),
                columns: column..(column + self.blocking.columns).min(self.columns.end),
                packed,
                target,
                worker,
            };
            task.run(local);
        });
    }
}

/// One block of C. Rows count from the part's first.
struct Task<'a> {
    part: &'a Part<'a>,
    batch: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    packed: &'a [f32],
    target: &'a Target<'a>,
    worker: usize,
}

impl Task<'_> {
    fn run(&self, local: &mut [f32]) {
        let (gemm, blocking) = (self.part.gemm, self.part.blocking);
        let Blocking { strip, columns: stride, ahead, .. } = *blocking;
        let (panel, local) = local.split_at_mut(blocking.panel_len());
        let (sums, a_strip) = local.split_at_mut(blocking.sums_len());
        let segment = gemm.extents.segment(self.batch);
        for k in self.part.blocks(self.batch) {
            let panel = match ahead {
                Ahead::B => {
                    &self.packed[self.part.panel_start(self.batch, self.columns.start, &k)..]
                }
                Ahead::A | Ahead::Nothing => {
                    let (columns, strips) = (self.columns.clone(), Blocking::b_strips(gemm.isa));
                    gemm.pack(&gemm.b, self.batch, columns, k.clone(), strips, panel);
                    &*panel
                }
            };
            let (first, last) = (k.start == segment.start, k.end == segment.end);
            let whole = first && last;
            for row in self.rows.clone().step_by(strip) {
                let rows = row..(row + strip).min(self.rows.end);
                let at = if whole { 0 } else { (row - self.rows.start) * stride };
                let sums = &mut sums[at..at + rows.len() * stride];
                let a = self.part.strip(self.packed, self.batch, rows.clone(), k.clone(), a_strip);
                let write = if first { Write::Set } else { Write::Add };
                self.multiply_strip(a, rows.start, panel, sums, write, last);
                if last {
                    self.store(rows, sums);
                }
            }
        }
    }

    /// One strip of A times all strips of B. Before the `last` block of k, each tile asks for the
    /// places of its results: they lie in rows far apart, which no processor foresees.
    fn multiply_strip(
        &self,
        a: Strip<'_>,
        row: usize,
        panel: &[f32],
        sums: &mut [f32],
        write: Write,
        last: bool,
    ) {
        let (isa, stride) = (self.part.gemm.isa, self.part.blocking.columns);
        let columns = self.columns.len().next_multiple_of(LINE);
        let first_row = self.part.rows.start + row;
        let mut places = last
            .then(|| self.target.places((self.batch, first_row, self.columns.start), isa.columns));
        let hints = || places.as_mut().map_or(Hints::new(0), TargetPlaces::next);
        multiply_strip_with(isa, a, (panel, columns), sums, stride, write, hints);
    }

    /// Hands finished rows to the target.
    fn store(&self, rows: Range<usize>, sums: &[f32]) {
        let row_sums = sums.chunks_exact(self.part.blocking.columns);
        for (row, values) in rows.zip(row_sums) {
            let at = (self.batch, self.part.rows.start + row, self.columns.start);
            let values = &values[..self.columns.len()];
            // SAFETY: tasks have disjoint blocks of C.
            unsafe { self.target.store(at, values, self.worker) };
        }
    }
}

/// One strip of A times all strips of B, together `columns` wide, into rows of sums
/// that are `stride` apart.
pub(crate) fn multiply_strip(
    isa: &Isa,
    a: Strip<'_>,
    b: (&[f32], usize),
    sums: &mut [f32],
    stride: usize,
    write: Write,
) {
    multiply_strip_with(isa, a, b, sums, stride, write, || Hints::new(0));
}

/// [`multiply_strip`] whose tiles ask for what `hints` says, called ahead of each.
#[inline(always)]
pub(crate) fn multiply_strip_with(
    isa: &Isa,
    a: Strip<'_>,
    (panel, columns): (&[f32], usize),
    sums: &mut [f32],
    stride: usize,
    write: Write,
    mut hints: impl FnMut() -> Hints,
) {
    let Strip { rows, k, .. } = a;
    assert!(columns.is_multiple_of(LINE) && columns <= stride, "sums have room for whole lines");
    assert!(panel.len() >= columns * k && sums.len() >= rows * stride, "operands are whole");
    for column in (0..columns).step_by(isa.columns) {
        let hints = hints();
        let width = isa.columns.min(columns - column);
        let args = TileArgs {
            a,
            // SAFETY: strips before this one hold `column · k` elements of the panel.
            b: unsafe { panel.as_ptr().add(column * k) },
            // SAFETY: `column` is inside the first row.
            c: unsafe { sums.as_mut_ptr().add(column) },
            row_stride: stride,
            write,
            hints: &hints,
        };
        // SAFETY: the strip of A has k rows of `rows`, that of B k rows of `width` elements,
        // and `width` columns lie inside each of `rows` rows of sums.
        unsafe { isa.tiles[rows - 1][width / isa.lanes - 1](args) };
    }
}

/// Sums `partial: [groups, segments, len]` over segments into `out: [groups, len]`.
pub(crate) fn add_segments(
    threads: &Threads,
    segments: usize,
    len: usize,
    partial: &[f32],
    out: &mut [f32],
) {
    let runs = len.div_ceil(ADDED);
    let tasks = out.len().checked_div(len).unwrap_or(0) * runs;
    let out = Parts::new(out);
    threads.run(tasks, |task, _| {
        let (group, first) = (task / runs, task % runs * ADDED);
        let count = ADDED.min(len - first);
        // SAFETY: each task has its own run.
        let to = unsafe { out.part(group * len + first, count) };
        let segment = |s: usize| &partial[(group * segments + s) * len + first..][..count];
        to.copy_from_slice(segment(0));
        for s in 1..segments {
            to.iter_mut().zip(segment(s)).for_each(|(to, from)| *to += from);
        }
    });
}

/// Scratch memory from its first whole line on.
pub(crate) fn aligned(scratch: &mut [f32]) -> &mut [f32] {
    let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    &mut scratch[start..]
}
