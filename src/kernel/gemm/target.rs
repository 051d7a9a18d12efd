//! Where finished rows of a product go.

use super::line::LINE;
use super::tile::Hints;
use crate::kernel::Epilogue;
use crate::threads::Parts;

/// The destination of C, for every batch element of it. Column `n` is position `n % image_len` of
/// image `n / image_len`.
pub(crate) struct Target<'a> {
    pub out: Parts<'a, f32>,
    pub batch_stride: usize,
    pub row_stride: usize,
    pub image_len: usize,
    pub image_stride: usize,
    pub layout: Layout,
    pub epilogue: Option<&'a dyn Epilogue>,
}

/// How the positions of one image lie in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// One after the other.
    Dense,
    /// Position (y, x) of a grid `width` wide is at `start + y·rows + x·columns`; for these the
    /// epilogue is the caller's.
    Grid {
        /// Positions in one row of the grid.
        width: usize,
        /// The first position.
        start: usize,
        /// From one row of the grid to the next.
        rows: usize,
        /// From one position to the next.
        columns: usize,
    },
}

/// Walks along the columns of some rows of a [`Target`].
pub(super) struct Places<'a> {
    target: &'a Target<'a>,
    /// Where the first row of the image begins.
    image: usize,
    position: usize,
    step: usize,
}

impl Places<'_> {
    /// The next columns of each row, and what the epilogue needs for them.
    pub fn next(&mut self) -> Hints {
        let Target { row_stride, image_len, image_stride, .. } = *self.target;
        let mut hints = Hints::new(row_stride);
        if !matches!(self.target.layout, Layout::Dense) {
            return hints;
        }
        for line in (0..self.step).step_by(LINE) {
            let start = self.image + self.position + line;
            hints.push(self.target.out.hint(start));
            if let Some(epilogue) = self.target.epilogue {
                epilogue.hint(start, &mut hints);
            }
        }
        self.position += self.step;
        while self.position >= image_len {
            self.position -= image_len;
            self.image += image_stride;
        }
        hints
    }
}

impl Target<'_> {
    /// Stores `values` as the elements `column..` of a row, after the epilogue.
    ///
    /// # Safety
    /// No other thread stores the same elements.
    pub unsafe fn store(
        &self,
        (batch, row, mut column): (usize, usize, usize),
        mut values: &[f32],
        worker: usize,
    ) {
        let base = batch * self.batch_stride + row * self.row_stride;
        while !values.is_empty() {
            let (image, position) = (column / self.image_len, column % self.image_len);
            let taken = values.len().min(self.image_len - position);
            let (run, rest) = values.split_at(taken);
            // SAFETY: the caller's contract, for a part of the row.
            unsafe { self.store_run(base + image * self.image_stride, position, run, worker) };
            values = rest;
            column += taken;
        }
    }

    /// The places of rows from an element on, `step` columns at a time.
    pub(super) fn places(
        &self,
        (batch, row, column): (usize, usize, usize),
        step: usize,
    ) -> Places<'_> {
        let (image, position) = (column / self.image_len, column % self.image_len);
        let row = batch * self.batch_stride + row * self.row_stride;
        Places { target: self, image: row + image * self.image_stride, position, step }
    }

    /// # Safety
    /// As for [`Target::store`].
    unsafe fn store_run(&self, base: usize, position: usize, run: &[f32], worker: usize) {
        match self.layout {
            Layout::Dense => {
                let start = base + position;
                // SAFETY: the caller's contract.
                let to = unsafe { self.out.part(start, run.len()) };
                match self.epilogue {
                    Some(epilogue) => epilogue.apply(start, run, to, worker),
                    None => to.copy_from_slice(run),
                }
            }
            Layout::Grid { width, start, rows, columns } => {
                let (mut at, mut run) = (position, run);
                while !run.is_empty() {
                    let (y, x) = (at / width, at % width);
                    let count = run.len().min(width - x);
                    let first = base + start + y * rows + x * columns;
                    // SAFETY: the caller's contract, for every `columns`-th element.
                    let to = unsafe { self.out.part(first, (count - 1) * columns + 1) };
                    let to = to.iter_mut().step_by(columns);
                    to.zip(&run[..count]).for_each(|(to, &value)| *to = value);
                    (at, run) = (at + count, &run[count..]);
                }
            }
        }
    }
}
