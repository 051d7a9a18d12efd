//! Products C[i, j] = Σₖ A[i, k] B[j, k] whose sides both have neighbours in k next to each other.
//!
//! Such operands need no packing. A register holds neighbours in k, and a tile of registers the
//! sums of a few rows of each side, which are added up where a run of k ends. Runs are so short
//! that the rows of a tile of A and of some tiles of B stay in the first-level cache. The order of
//! every sum depends on the extents alone, not on the number of threads.

use std::ops::Range;

use super::add_segments;
use super::isa::Isa;
use super::line::LINE;
use super::tile::Vector;
use crate::threads::{Parts, Threads};

/// Longest run of k.
const RUN: usize = 448;
/// Tiles of B whose rows stay in the first-level cache with those of a tile of A.
const PANEL: usize = 4;
/// Most rows of each side of a task.
const BLOCK: usize = 96;
/// Tasks wanted; where there are fewer blocks, k is cut into segments.
const TASKS_WANTED: usize = 32;
/// Shortest segment of k.
const SEGMENT_MIN: usize = 2048;

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

    /// Where some rows start, at most a block of them, in the first image of a run.
    fn starts(&self, run: &Run, rows: Range<usize>) -> [*const f32; BLOCK] {
        let first = run.images.start * self.image_stride + run.elements.start;
        let (mut group, mut row) =
            (rows.start / self.offsets.len(), rows.start % self.offsets.len());
        let mut starts = [std::ptr::null(); BLOCK];
        for start in &mut starts[..rows.len()] {
            let at = first + group * self.group_stride + self.offsets[row];
            *start = self.data.as_ptr().wrapping_add(at);
            row += 1;
            if row == self.offsets.len() {
                (group, row) = (group + 1, 0);
            }
        }
        starts
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
    pub a: Rows<'a>,
    pub b: Rows<'a>,
    pub images: usize,
    /// Elements of a row of one image, at least a line.
    pub len: usize,
}

/// Most rows of A of a tile of any instruction set.
const TILE_ROWS: usize = 6;
/// Most rows of B of a tile of any instruction set.
const TILE_COLUMNS: usize = 4;

/// The operands of one tile.
#[derive(Clone, Copy)]
pub(crate) struct DotArgs {
    /// The rows of A and of B.
    a: [*const f32; TILE_ROWS],
    b: [*const f32; TILE_COLUMNS],
    /// Elements from one image to the next, of A and B.
    image_strides: [usize; 2],
    images: usize,
    /// Elements of a row, at least those of a register unless there are some before it.
    len: usize,
    /// First element of the result, to which the sums are added.
    c: *mut f32,
    c_stride: usize,
}

/// A tile kernel of fixed extents.
///
/// # Safety
/// The processor has the kernel's features, and the pointers are valid for its extents.
pub(crate) type DotFn = unsafe fn(&DotArgs);

/// Bits of a register that ends after its first `n` lanes at element `LINE - n`.
static LAST_LANES: [u32; 2 * LINE] = {
    let mut bits = [0; 2 * LINE];
    let mut i = LINE;
    while i < bits.len() {
        bits[i] = u32::MAX;
        i += 1;
    }
    bits
};

/// The sums of `ROWS` rows of A with `COLUMNS` rows of B.
///
/// # Safety
/// As for [`DotFn`]. Inlined into callers that enable the features of `V`.
#[inline(always)]
pub(super) unsafe fn dots<V: Vector, const ROWS: usize, const COLUMNS: usize>(args: &DotArgs) {
    let DotArgs { image_strides, images, len, c, c_stride, .. } = *args;
    let rest = len % V::LANES;
    // SAFETY: all rows of all images hold `len` elements, and the result `ROWS` x `COLUMNS`. Where
    // rows end within a register, the one that ends with them lies in the operand, too.
    unsafe {
        let mut sums = [[V::zero(); COLUMNS]; ROWS];
        let last = V::load(LAST_LANES.as_ptr().add(LINE - V::LANES + rest).cast());
        for image in 0..images {
            let (mut a, mut b) = ([args.a[0]; ROWS], [args.b[0]; COLUMNS]);
            for (to, from) in a.iter_mut().zip(args.a) {
                *to = from.add(image * image_strides[0]);
            }
            for (to, from) in b.iter_mut().zip(args.b) {
                *to = from.add(image * image_strides[1]);
            }
            let mut at = 0;
            while at + V::LANES <= len {
                add_products(a, b, at, None, &mut sums);
                at += V::LANES;
            }
            if rest != 0 {
                for a in &mut a {
                    *a = a.add(len).sub(V::LANES);
                }
                for b in &mut b {
                    *b = b.add(len).sub(V::LANES);
                }
                add_products(a, b, 0, Some(last), &mut sums);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            let mut four = [V::zero(); TILE_COLUMNS];
            four[..COLUMNS].copy_from_slice(row);
            for (j, sum) in V::sums(four).into_iter().enumerate().take(COLUMNS) {
                *c.add(i * c_stride + j) += sum;
            }
        }
    }
}

/// Adds the products of the registers at `at`, as far as `mask` selects lanes.
///
/// # Safety
/// The registers exist.
#[inline(always)]
unsafe fn add_products<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    a: [*const f32; ROWS],
    b: [*const f32; COLUMNS],
    at: usize,
    mask: Option<V>,
    sums: &mut [[V; COLUMNS]; ROWS],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut columns = [V::zero(); COLUMNS];
        for (column, b) in columns.iter_mut().zip(b) {
            *column = V::load(b.add(at));
        }
        for (row, a) in sums.iter_mut().zip(a) {
            let mut factor = V::load(a.add(at));
            if let Some(mask) = mask {
                factor = factor.and(mask);
            }
            for (sum, &column) in row.iter_mut().zip(&columns) {
                *sum = factor.mul_add(column, *sum);
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
        let rows = [a, b].map(|count| even_part(count, BLOCK).max(1));
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

    /// Elements of the partial sums of all segments.
    fn partial_len(&self, a: usize, b: usize) -> usize {
        if self.segments == 1 { 0 } else { self.segments * a * b }
    }
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

    /// Adds the products of all runs to a block of C, at most [`BLOCK`] rows and columns whose rows
    /// are `width` apart.
    ///
    /// # Panics
    /// When an operand or the block is shorter than it has to be.
    pub fn add_block(&self, [rows, columns]: [Range<usize>; 2], width: usize, c: &mut [f32]) {
        assert!(self.len >= LINE, "rows hold a line");
        assert!(rows.len() <= BLOCK && columns.len() <= BLOCK.min(width), "a block is small");
        assert!(rows.end <= self.a.count && columns.end <= self.b.count, "a block is in C");
        assert!(rows.len() * width <= c.len(), "the block has room");
        [self.a, self.b].iter().for_each(|side| side.check(self.images, self.len));
        for run in 0..self.runs() {
            self.add_run(&self.run(run), [rows.clone(), columns.clone()], width, c);
        }
    }

    /// Adds the products of a run to a block of C whose rows are `width` apart.
    fn add_run(&self, run: &Run, [rows, columns]: [Range<usize>; 2], width: usize, c: &mut [f32]) {
        let [most_rows, most_columns] = [self.isa.dots.len(), self.isa.dots[0].len()];
        let a = self.a.starts(run, rows.clone());
        let b = self.b.starts(run, columns.clone());
        for panel in parts(columns.clone(), PANEL * most_columns) {
            for rows_of_tile in parts(rows.clone(), most_rows) {
                for columns_of_tile in parts(panel.clone(), most_columns) {
                    let (row, column) = (rows_of_tile.start, columns_of_tile.start);
                    let [i, j] = [row - rows.start, column - columns.start];
                    let args = DotArgs {
                        a: std::array::from_fn(|tile| a[(i + tile).min(BLOCK - 1)]),
                        b: std::array::from_fn(|tile| b[(j + tile).min(BLOCK - 1)]),
                        image_strides: [self.a, self.b].map(|side| side.image_stride),
                        images: run.images.len(),
                        len: run.elements.len(),
                        c: c[i * width + j..].as_mut_ptr(),
                        c_stride: width,
                    };
                    let tile = self.isa.dots[rows_of_tile.len() - 1][columns_of_tile.len() - 1];
                    // SAFETY: an instruction set is only handed out where the processor has it;
                    // the rows and images are the operands', whose lengths were checked, and a
                    // row that is cut is longer than a register.
                    unsafe { tile(&args) };
                }
            }
        }
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
        blocking.partial_len(a, b) + workers * blocking.rows[0] * blocking.rows[1]
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
        let (partial, locals) = scratch.split_at_mut(blocking.partial_len(a, b));
        let locals = &mut locals[..threads.count() * blocking.rows[0] * blocking.rows[1]];
        Sum { threads, blocking, out, partial, locals, started: false }
    }

    /// Adds the product of a part.
    ///
    /// # Panics
    /// When an operand is shorter than it has to be, or has more images than was said.
    pub fn add(&mut self, dots: &Dots<'_>) {
        let (m, n) = (dots.a.count, dots.b.count);
        assert!(dots.len >= LINE, "rows hold a line");
        assert!(self.out.len() == m * n, "the result is whole");
        [dots.a, dots.b].iter().for_each(|side| side.check(dots.images, dots.len));
        if self.out.is_empty() {
            return;
        }
        let Blocking { rows: [most_rows, most_columns], segments, segment_runs } = self.blocking;
        let (local_len, runs) = (most_rows * most_columns, dots.runs());
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
            // SAFETY: a worker runs one task at a time.
            let c = unsafe { locals.part(worker * local_len, rows.len() * columns.len()) };
            c.fill(0.0);
            for run in self.blocking.segment(segment, runs) {
                let block = [rows.clone(), columns.clone()];
                dots.add_run(&dots.run(run), block, columns.len(), c);
            }
            for (row, from) in rows.zip(c.chunks_exact(columns.len())) {
                let start = (segment * m + row) * n + column;
                // SAFETY: each task has its own block of the result of its segment.
                let to = unsafe { target.part(start, from.len()) };
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
