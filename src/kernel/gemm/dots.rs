//! Products C[i, j] = Σₖ A[i, k] B[j, k] whose sides both have neighbours in k next to each other.
//!
//! Rows of A are read where they lie; those of B are turned, a run of k at a time, into strips that
//! stay in the second-level cache while all rows of A pass by. The order of every sum depends on
//! the extents alone, not on the number of threads.

use std::ops::Range;

use super::isa::Isa;
use super::line::{LINE, Line, first, prefetch};
use super::pack::transpose;
use super::tile::{Steps, Strip, Write};
use super::{add_segments, aligned, multiply_strip};
use crate::threads::{Parts, Threads};

/// Longest run of k: a strip of A as long stays in the first-level cache.
const RUN: usize = 448;
/// Most rows of A of a task.
const ROWS_MAX: usize = 256;
/// Most rows of B of a task: a run of theirs stays in the second-level cache.
const COLUMNS_MAX: usize = 96;
/// Rows of B of a task are a multiple of this, as far as there are some: the columns of full tiles.
const COLUMNS_UNIT: usize = 2 * LINE;
/// Tasks wanted; where there are fewer blocks, k is cut into segments.
const TASKS_WANTED: usize = 32;
/// Shortest segment of k.
const SEGMENT_MIN: usize = 2048;
/// How many elements ahead of use rows of B are asked for.
const PREFETCH: usize = 64;

/// One side of a product: in each image rows of neighbours in k.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub data: &'a [f32],
    /// Rows of an image.
    pub count: usize,
    /// Elements from one image to the next.
    pub image_stride: usize,
    /// Elements from one group of rows to the next.
    pub group_stride: usize,
    /// Where each row of a group starts.
    pub offsets: &'a [usize],
}

impl<'a> Rows<'a> {
    /// Rows of `len` elements, one after the other.
    pub fn dense(data: &'a [f32], count: usize, len: usize) -> Self {
        Rows { data, count, image_stride: count * len, group_stride: len, offsets: &[0] }
    }

    /// Where a row starts in the first image of a run.
    fn start(&self, run: &Run, row: usize) -> usize {
        let (group, row) = (row / self.offsets.len(), row % self.offsets.len());
        let first = run.images.start * self.image_stride + run.elements.start;
        first + group * self.group_stride + self.offsets[row]
    }

    /// Panics unless all rows of some images have `len` elements.
    fn check(&self, images: usize, len: usize) {
        assert!(self.count.is_multiple_of(self.offsets.len()), "groups are whole");
        let last = self.offsets.iter().max().copied().unwrap_or(0);
        let groups = self.count / self.offsets.len();
        if images > 0 && groups > 0 {
            let start = (images - 1) * self.image_stride + (groups - 1) * self.group_stride + last;
            assert!(start + len <= self.data.len(), "operands are whole");
        }
    }
}

/// A product whose k is the elements of the rows of all images.
#[derive(Clone, Copy)]
pub(crate) struct Dots<'a> {
    pub isa: &'static Isa,
    /// Groups of one row.
    pub a: Rows<'a>,
    pub b: Rows<'a>,
    pub images: usize,
    /// Elements of a row of one image, at least one.
    pub len: usize,
}

/// Rows to be turned: for each run of `len` elements, `image_stride` apart, those of all rows.
pub(crate) struct Side<'a> {
    /// The rows in the first image.
    pub starts: &'a [*const f32],
    pub images: usize,
    pub image_stride: usize,
    pub len: usize,
    /// Lanes of a strip.
    pub width: usize,
}

/// Packs rows as strips `[image][element][lane]`, zero from the last row to the next whole line.
///
/// # Safety
/// The processor has the kernel's features, and all rows of all images exist.
pub(crate) type PackRowsFn = unsafe fn(&Side<'_>, &mut [f32]);

/// [`PackRowsFn`] with lines of a type.
///
/// # Safety
/// As for [`PackRowsFn`]. Inlined into callers that enable the features of `L`.
#[inline(always)]
pub(super) unsafe fn pack_rows<L: Line>(side: &Side<'_>, to: &mut [f32]) {
    let Side { starts, images, image_stride, len, width } = *side;
    let (lanes, k) = (starts.len().next_multiple_of(LINE), images * len);
    let to = to[..lanes * k].as_mut_ptr();
    for (line, starts) in starts.chunks(LINE).enumerate() {
        let (strip, lane) = (line * LINE / width * width, line * LINE % width);
        let width = width.min(lanes - strip);
        // SAFETY: the rows are the caller's contract, the strips fit the result's checked length.
        unsafe {
            let mut to = to.add(strip * k + lane);
            for image in 0..images {
                for at in (0..len).step_by(LINE) {
                    let (count, from) = ((len - at).min(LINE), image * image_stride + at);
                    let mut rows = [L::zero(); LINE];
                    for (row, start) in rows.iter_mut().zip(starts) {
                        prefetch(start.wrapping_add(from + PREFETCH));
                        *row = row.load(start.add(from), first(count));
                    }
                    for row in transpose(rows, starts.len()).into_iter().take(count) {
                        row.store(to, u16::MAX);
                        to = to.add(width);
                    }
                }
            }
        }
    }
}

/// Part of k: the same elements of some images.
struct Run {
    images: Range<usize>,
    elements: Range<usize>,
}

/// Number of runs of k.
fn runs(images: usize, len: usize) -> usize {
    match len <= RUN {
        true => images.div_ceil(RUN / len.max(1)),
        false => images * len.div_ceil(RUN),
    }
}

/// How a product is cut into tasks.
struct Blocking {
    /// Rows of A, and of B, of a task.
    rows: [usize; 2],
    segments: usize,
    /// Runs of k of a segment.
    segment_runs: usize,
}

impl Blocking {
    fn new(a: usize, b: usize, images: usize, len: usize) -> Self {
        let columns = even_part(b.div_ceil(COLUMNS_UNIT), COLUMNS_MAX / COLUMNS_UNIT);
        let rows = [even_part(a, ROWS_MAX).max(1), columns.max(1) * COLUMNS_UNIT];
        let tasks = a.div_ceil(rows[0]) * b.div_ceil(rows[1]);
        let runs = runs(images, len);
        let most = (images * len / SEGMENT_MIN).clamp(1, runs.max(1));
        let segments = TASKS_WANTED.div_ceil(tasks.max(1)).min(most);
        let segment_runs = runs.div_ceil(segments).max(1);
        Blocking { rows, segments: runs.div_ceil(segment_runs).max(1), segment_runs }
    }

    /// Those of `runs` that belong to a segment.
    fn segment(&self, segment: usize, runs: usize) -> Range<usize> {
        let start = (segment * self.segment_runs).min(runs);
        start..(start + self.segment_runs).min(runs)
    }

    /// Elements of a worker's sums and of its strips of B.
    fn local_lens(&self) -> [usize; 2] {
        [self.rows[0] * self.rows[1], panel_len(self.rows[1])]
    }

    /// Elements of the partial sums of all segments.
    fn partial_len(&self, a: usize, b: usize) -> usize {
        if self.segments == 1 { 0 } else { self.segments * a * b }
    }
}

/// Elements that a run of some rows of B needs.
pub(crate) fn panel_len(rows: usize) -> usize {
    rows.next_multiple_of(LINE) * RUN
}

/// The length of equal parts of `len`, none above `most`.
fn even_part(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1))
}

/// Equal parts of a range, none above `most`.
fn parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let count = range.len().div_ceil(most).max(1);
    let (least, more) = (range.len() / count, range.len() % count);
    (0..count).map(move |part| {
        let start = range.start + part * least + part.min(more);
        start..start + least + usize::from(part < more)
    })
}

impl Dots<'_> {
    fn runs(&self) -> usize {
        runs(self.images, self.len)
    }

    fn run(&self, number: usize) -> Run {
        if self.len <= RUN {
            let step = RUN / self.len;
            let start = number * step;
            return Run { images: start..(start + step).min(self.images), elements: 0..self.len };
        }
        let count = self.len.div_ceil(RUN);
        let (image, part) = (number / count, number % count);
        let step = self.len.div_ceil(count).next_multiple_of(LINE);
        let start = (part * step).min(self.len);
        Run { images: image..image + 1, elements: start..(start + step).min(self.len) }
    }

    /// Adds the products of all runs to a block of C whose rows are `width` apart and have room for
    /// whole lines. `panel` is scratch of [`panel_len`] of the columns.
    ///
    /// # Panics
    /// When an operand, the block or the scratch is shorter than it has to be.
    pub fn add_block(
        &self,
        [rows, columns]: [Range<usize>; 2],
        width: usize,
        panel: &mut [f32],
        c: &mut [f32],
    ) {
        self.check();
        for run in 0..self.runs() {
            self.add_run(&self.run(run), [rows.clone(), columns.clone()], width, panel, c);
        }
    }

    /// Panics unless the operands are whole.
    fn check(&self) {
        assert!(self.a.offsets.len() == 1, "rows of A are as far apart");
        assert!(self.len > 0, "rows hold an element");
        [self.a, self.b].iter().for_each(|side| side.check(self.images, self.len));
    }

    /// Adds the products of a run, of operands that were checked, to a block of C.
    fn add_run(
        &self,
        run: &Run,
        [rows, columns]: [Range<usize>; 2],
        width: usize,
        panel: &mut [f32],
        c: &mut [f32],
    ) {
        let (images, len) = (run.images.len(), run.elements.len());
        self.pack(run, columns.clone(), panel);
        let steps = Steps::Runs { step: 1, len, stride: self.a.image_stride };
        for strip in parts(rows.clone(), self.isa.rows()) {
            let a = &self.a.data[self.a.start(run, strip.start)..];
            let a = Strip::in_place(a, [strip.len(), images * len], self.a.group_stride, steps);
            let sums = &mut c[(strip.start - rows.start) * width..];
            let b = (&*panel, columns.len().next_multiple_of(LINE));
            multiply_strip(self.isa, a, b, sums, width, Write::Add);
        }
    }

    /// Turns a run of some rows of B.
    fn pack(&self, run: &Run, rows: Range<usize>, panel: &mut [f32]) {
        assert!(rows.end <= self.b.count, "a block is in C");
        let width = self.isa.columns;
        let mut starts = [std::ptr::null(); COLUMNS_MAX];
        for (start, row) in starts.iter_mut().zip(rows.clone()) {
            *start = self.b.data.as_ptr().wrapping_add(self.b.start(run, row));
        }
        let side = Side {
            starts: &starts[..rows.len()],
            images: run.images.len(),
            image_stride: self.b.image_stride,
            len: run.elements.len(),
            width,
        };
        // SAFETY: an instruction set is only handed out where the processor has it; the operands
        // were checked.
        unsafe { (self.isa.pack_rows)(&side, panel) }
    }
}

/// A product that is summed up from parts of k.
pub(crate) struct Sum<'a> {
    threads: &'a Threads,
    blocking: Blocking,
    out: &'a mut [f32],
    partial: &'a mut [f32],
    locals: &'a mut [f32],
    started: bool,
}

impl<'a> Sum<'a> {
    /// Elements of scratch for parts of `images` with rows of `len`.
    pub fn scratch_len([a, b]: [usize; 2], images: usize, len: usize, workers: usize) -> usize {
        let blocking = Blocking::new(a, b, images, len);
        let local_len: usize = blocking.local_lens().iter().sum();
        blocking.partial_len(a, b) + workers * local_len + LINE
    }

    /// The sum of no parts yet, of which the first has as many images as any.
    ///
    /// # Panics
    /// When the scratch is shorter than it has to be.
    pub fn new(
        threads: &'a Threads,
        [a, b]: [usize; 2],
        [images, len]: [usize; 2],
        out: &'a mut [f32],
        scratch: &'a mut [f32],
    ) -> Self {
        let blocking = Blocking::new(a, b, images, len);
        let local_len: usize = blocking.local_lens().iter().sum();
        let (locals, partial) = aligned(scratch).split_at_mut(threads.count() * local_len);
        Sum { threads, blocking, out, partial, locals, started: false }
    }

    /// Adds the product of a part.
    ///
    /// # Panics
    /// When an operand is shorter than it has to be, or has more images than was said.
    pub fn add(&mut self, dots: &Dots<'_>) {
        let (m, n) = (dots.a.count, dots.b.count);
        assert!(self.out.len() == m * n, "the result is whole");
        dots.check();
        if self.out.is_empty() {
            return;
        }
        let Blocking { rows: [most_rows, most_columns], segments, segment_runs } = self.blocking;
        let ([sums_len, panel_len], runs) = (self.blocking.local_lens(), dots.runs());
        assert!(runs <= segments * segment_runs, "no part has more images than was said");
        let [row_tasks, column_tasks] = [m.div_ceil(most_rows), n.div_ceil(most_columns)];
        let add = std::mem::replace(&mut self.started, true);
        let locals = Parts::new(self.locals);
        let target = Parts::new(if segments == 1 { &mut *self.out } else { &mut *self.partial });
        self.threads.run(segments * row_tasks * column_tasks, |task, worker| {
            let segment = task / (row_tasks * column_tasks);
            let row = task / column_tasks % row_tasks * most_rows;
            let column = task % column_tasks * most_columns;
            let rows = row..(row + most_rows).min(m);
            let columns = column..(column + most_columns).min(n);
            let local_len = sums_len + panel_len;
            // SAFETY: a worker runs one task at a time.
            let local = unsafe { locals.part(worker * local_len, local_len) };
            let (panel, c) = local.split_at_mut(panel_len);
            c.fill(0.0);
            for run in self.blocking.segment(segment, runs) {
                let block = [rows.clone(), columns.clone()];
                dots.add_run(&dots.run(run), block, most_columns, panel, c);
            }
            for (row, from) in rows.zip(c.chunks_exact(most_columns)) {
                let start = (segment * m + row) * n + column;
                // SAFETY: each task has its own block of the result of its segment.
                let to = unsafe { target.part(start, columns.len()) };
                let from = &from[..columns.len()];
                match add {
                    true => to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
                    false => to.copy_from_slice(from),
                }
            }
        });
    }

    /// Writes the sum.
    pub fn finish(self) {
        let (segments, len) = (self.blocking.segments, self.out.len());
        if !self.started {
            self.out.fill(0.0);
        } else if segments > 1 {
            add_segments(self.threads, segments, len, self.partial, self.out);
        }
    }
}
