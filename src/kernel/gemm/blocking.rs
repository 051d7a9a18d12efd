//! How a product is cut into blocks, tasks and scratch memory.

use std::ops::Range;

use super::isa::Isa;
use super::line::LINE;
use super::operand::Strips;
use super::pack::SPANS_MAX;

/// Longest sum of one block; a strip of A this long stays in the first-level cache.
const K_MAX: usize = 384;
/// Most columns of a task.
const COLUMNS_MAX: usize = 256;
/// Most columns of a task whose sums are so short that its block of B is no larger for it: rows of
/// results as long as an epilogue takes at a time.
const COLUMNS_MAX_SHORT: usize = 512;
/// Most rows of a task; with [`K_MAX`] and [`COLUMNS_MAX`] its blocks fit a second-level cache.
const ROWS_MAX: usize = 512;
/// Tasks are not made smaller than this many rows or columns for the sake of balance.
const TASK_MIN: usize = 64;
/// Tasks wanted for each worker, so that a slow one does not hold up the rest.
const TASKS_PER_WORKER: usize = 4;
/// Most strips of A that one task packs.
const PACK_STRIPS_MAX: usize = SPANS_MAX;
/// Elements of A or B that are packed ahead of use.
const PACKED_MAX: usize = 1 << 20;

/// The extents of a batch of products; `batch` counts groups and segments of K.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub groups: usize,
    /// Pieces of K that are separate products, group-major in the batch.
    pub segments: usize,
    pub m: usize,
    pub n: usize,
    /// All of K.
    pub k: usize,
}

impl Extents {
    /// Number of products.
    pub fn batch(&self) -> usize {
        self.groups * self.segments
    }

    /// Length of all segments but the last.
    pub fn segment_len(&self) -> usize {
        self.k.div_ceil(self.segments.max(1)).next_multiple_of(LINE)
    }

    /// The part of K that a batch element sums over.
    pub fn segment(&self, batch: usize) -> Range<usize> {
        let len = self.segment_len();
        let start = (batch % self.segments * len).min(self.k);
        start..(start + len).min(self.k)
    }
}

/// What all threads pack before any multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// A, if it is the side with fewer lanes.
    A,
    /// Columns of B that several tasks share.
    B,
    /// Nothing: there is one task of rows.
    Nothing,
}

/// The block sizes for some extents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    /// Rows of a strip of A.
    pub strip: usize,
    /// Rows of a task, a multiple of `strip`.
    pub rows: usize,
    /// Columns of a task, a multiple of the full tile.
    pub columns: usize,
    /// Longest block of K.
    pub k: usize,
    /// Rows of A packed at once, a multiple of `rows`.
    pub packed_rows: usize,
    /// Batch elements of A packed at once.
    pub packed_batch: usize,
    /// Columns of B packed at once, a multiple of `columns`.
    pub packed_columns: usize,
    pub ahead: Ahead,
    /// K of a batch element, at most.
    pub segment_len: usize,
}

impl Blocking {
    /// How to cut a product whose A is packed, or read in place.
    pub fn new(isa: &Isa, extents: &Extents, workers: usize, packs_a: bool) -> Self {
        let Extents { m, n, .. } = *extents;
        let strip = m.div_ceil(m.div_ceil(isa.rows()).max(1)).max(1);
        let segment_len = extents.segment_len().min(extents.k);
        let (rows, columns) = task_extents(isa, extents, strip, workers, packs_a);
        let row_fits = PACKED_MAX / (segment_len.max(1) * rows);
        let packed_rows = (row_fits.max(1) * rows).min(m.next_multiple_of(rows));
        let packed_batch = match packed_rows < m {
            true => 1,
            false => PACKED_MAX / (segment_len.max(1) * m.max(1)),
        };
        let columns = columns.min(n.next_multiple_of(isa.columns));
        let column_fits = PACKED_MAX / (segment_len.max(1) * columns.max(1));
        let all_columns = n.next_multiple_of(columns.max(1));
        Blocking {
            strip,
            rows,
            columns,
            ahead: match packs_a && m < n {
                true => Ahead::A,
                false if rows < m => Ahead::B,
                false => Ahead::Nothing,
            },
            packed_columns: (column_fits.max(1) * columns).min(all_columns),
            k: even_part(segment_len, K_MAX),
            packed_rows,
            packed_batch: packed_batch.clamp(1, extents.batch().max(1)),
            segment_len,
        }
    }

    /// Rows of A that one task packs, of `rows` in each of `batch` products.
    pub fn pack_rows(&self, batch: usize, rows: usize, workers: usize) -> usize {
        let strips = batch * rows.div_ceil(self.strip) / (TASKS_PER_WORKER * workers);
        strips.clamp(1, PACK_STRIPS_MAX) * self.strip
    }

    /// Columns of B that one task packs, of `columns` in each of `blocks` of K, at most those of a
    /// task that multiplies.
    pub fn pack_columns(&self, isa: &Isa, blocks: usize, columns: usize, workers: usize) -> usize {
        let strips = blocks * columns.div_ceil(isa.columns) / (TASKS_PER_WORKER * workers);
        (strips.max(1) * isa.columns).min(self.columns)
    }

    /// Strips of A.
    pub fn a_strips(&self) -> Strips {
        Strips { width: self.strip, unit: 1 }
    }

    /// Strips of B.
    pub fn b_strips(isa: &Isa) -> Strips {
        Strips { width: isa.columns, unit: LINE }
    }

    /// Elements of packed A, or B.
    pub fn packed_len(&self) -> usize {
        let lanes = match self.ahead {
            Ahead::A => self.packed_batch * self.packed_rows,
            Ahead::B => self.packed_columns,
            Ahead::Nothing => 0,
        };
        (lanes * self.segment_len).next_multiple_of(LINE)
    }

    /// Elements of a packed block of B.
    pub fn panel_len(&self) -> usize {
        self.k * self.columns
    }

    /// Elements of a task's unfinished rows.
    pub fn sums_len(&self) -> usize {
        let rows = if self.k < self.segment_len { self.rows } else { self.strip };
        rows * self.columns
    }

    /// Elements that a worker needs for a block of B, sums, and a strip of A.
    pub fn local_len(&self) -> usize {
        let strip = (self.k * self.strip).next_multiple_of(LINE);
        self.panel_len() + self.sums_len() + strip
    }

    /// Elements of scratch for `workers`, with room to align it.
    pub fn scratch_len(&self, workers: usize) -> usize {
        self.packed_len() + workers * self.local_len() + LINE
    }
}

/// The length of equal parts of `len`, none above `most`.
fn even_part(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(4).min(len)
}

/// Rows and columns of one task. Where A is packed, the side with fewer lanes is cut last, so that
/// each lane of the other is packed once.
fn task_extents(
    isa: &Isa,
    extents: &Extents,
    strip: usize,
    workers: usize,
    packs_a: bool,
) -> (usize, usize) {
    let Extents { m, n, .. } = *extents;
    let round = |len: usize, most: usize, unit: usize| {
        len.div_ceil(len.div_ceil(most).max(1)).max(1).next_multiple_of(unit)
    };
    let short = extents.segment_len() * COLUMNS_MAX_SHORT <= K_MAX * COLUMNS_MAX;
    let mut most_columns = if short { COLUMNS_MAX_SHORT } else { COLUMNS_MAX };
    let mut most_rows = ROWS_MAX;
    loop {
        let (rows, columns) = (round(m, most_rows, strip), round(n, most_columns, isa.columns));
        let tasks = extents.batch() * m.div_ceil(rows) * n.div_ceil(columns);
        if tasks >= TASKS_PER_WORKER * workers || rows.max(columns) <= TASK_MIN {
            return (rows, columns);
        }
        let by_rows = match packs_a {
            true if m < n => columns <= TASK_MIN,
            true => rows > TASK_MIN,
            false => rows > columns,
        };
        match by_rows {
            true => most_rows = rows / 2,
            false => most_columns = columns / 2,
        }
    }
}
