//! Packing: writes a block of an operand as strips `[k][lane]`, zero beyond the last lane.

use std::ops::Range;

use super::line::{LINE, Line, first, prefetch};
use super::operand::{Matrix, Operand, Strips, Tap, Windows};
use super::span::Span;

/// What to pack.
#[derive(Clone, Debug)]
pub(crate) struct Block<'a> {
    pub operand: &'a Operand<'a>,
    pub group: usize,
    pub lanes: Range<usize>,
    pub k: Range<usize>,
    pub strips: Strips,
}

/// Packs a block into the first [`Block::len`] elements.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type PackFn = unsafe fn(&Block<'_>, &mut [f32]);

/// Most lines of lanes or of k of one block.
pub(super) const SPANS_MAX: usize = 32;

/// How many channels ahead of use positions are asked for.
const PREFETCH_CHANNELS: usize = 8;
/// How many rows of a matrix ahead of use its lanes are asked for.
const PREFETCH_ROWS: usize = 8;
/// How many runs of k ahead of use the lanes of a matrix are asked for.
const PREFETCH_RUNS: usize = 12;
/// How many positions ahead of use a channel is asked for.
const PREFETCH_POSITIONS: usize = 192;

/// Up to sixteen neighbouring lanes of a strip.
#[derive(Clone, Copy, Default)]
struct Column {
    /// The first lane.
    lane: usize,
    /// Lanes of the operand; those after them are padding.
    count: usize,
    /// The place of the first lane at the block's first k.
    to: usize,
    /// Lanes of the strip: from one k to the next.
    width: usize,
    /// Lanes to write.
    mask: u16,
    /// Lanes to read.
    read: u16,
}

impl Block<'_> {
    /// Elements of the packed block.
    pub fn len(&self) -> usize {
        self.lanes.len().next_multiple_of(self.strips.unit) * self.k.len()
    }

    /// Packs into the first elements of `to`.
    ///
    /// # Safety
    /// The processor has the features of `L`.
    #[inline(always)]
    pub(super) unsafe fn pack<L: Line>(&self, to: &mut [f32]) {
        if self.lanes.is_empty() || self.k.is_empty() {
            return;
        }
        let to = to[..self.len()].as_mut_ptr();
        // SAFETY: the features are the caller's contract, the length was just checked.
        unsafe {
            match self.operand {
                Operand::Matrix(matrix) if matrix.lane_stride == 1 => self.rows::<L>(matrix, to),
                Operand::Matrix(matrix) if matrix.k_strides[2] == 1 => {
                    self.transposed::<L>(matrix, to);
                }
                Operand::Matrix(matrix) => self.scattered::<L>(matrix, to),
                Operand::Windows(windows) => self.windows::<L>(windows, to),
                Operand::WindowsTransposed(windows) => self.windows_transposed::<L>(windows, to),
            }
        }
    }

    /// The block's lanes, strip by strip.
    #[inline(always)]
    fn columns(&self) -> impl Iterator<Item = Column> {
        let (lanes, k) = (self.lanes.clone(), self.k.len());
        self.strips.of(lanes.len()).flat_map(move |(start, width)| {
            let lanes = lanes.clone();
            (0..width).step_by(LINE).map(move |at| Column {
                lane: lanes.start + start + at,
                count: lanes.len().saturating_sub(start + at).min(LINE),
                to: start * k + at,
                width,
                mask: first(width - at),
                read: first(lanes.len().saturating_sub(start + at)),
            })
        })
    }

    /// A matrix with neighbouring lanes next to each other.
    ///
    /// # Safety
    /// The processor has the features of `L`, and `to` has room for the block; so for all below.
    #[inline(always)]
    unsafe fn rows<L: Line>(&self, matrix: &Matrix<'_>, to: *mut f32) {
        let mut columns = [Column::default(); SPANS_MAX];
        let count = columns.iter_mut().zip(self.columns()).map(|(to, from)| *to = from).count();
        let columns = &mut columns[..count];
        let mut k = self.k.start;
        while k < self.k.end {
            let (inner, step) = (matrix.k_extents[1], matrix.k_strides[2]);
            let run = (inner - k % inner).min(self.k.end - k);
            let start = matrix.start + self.group * matrix.group_stride + matrix.k_offset(k);
            let last = start + (run - 1) * step;
            assert!(last + self.lanes.end <= matrix.data.len(), "lanes are in bounds");
            for column in columns.iter_mut() {
                // Lanes that are not written may hold anything.
                let only = column.mask == first(column.count);
                let whole = only && last + column.lane + LINE <= matrix.data.len();
                column.read = if whole { u16::MAX } else { first(column.count) };
            }
            for i in 0..run {
                let row = matrix.data.as_ptr().wrapping_add(start + i * step);
                let index = k - self.k.start + i;
                for column in columns.iter() {
                    let from = row.wrapping_add(column.lane);
                    prefetch(from.wrapping_add(PREFETCH_ROWS * step));
                    // SAFETY: the last row has `count` lanes left, or 16 elements up to the end of
                    // the matrix, so all have; `mask` lanes fit the strip.
                    unsafe {
                        let line = L::zero().load(from, column.read);
                        line.store(to.add(column.to + index * column.width), column.mask);
                    }
                }
            }
            k += run;
        }
    }

    /// A matrix with neighbours in k next to each other, at least in runs.
    #[inline(always)]
    unsafe fn transposed<L: Line>(&self, matrix: &Matrix<'_>, to: *mut f32) {
        let mut k = self.k.start;
        while k < self.k.end {
            let inner = matrix.k_extents[1];
            let run = (inner - k % inner).min(self.k.end - k).min(LINE);
            let start = matrix.start + self.group * matrix.group_stride + matrix.k_offset(k);
            let next = matrix.k_offset(k + PREFETCH_RUNS * run);
            let ahead = next.wrapping_sub(matrix.k_offset(k));
            for column in self.columns() {
                let first_lane = start + column.lane * matrix.lane_stride;
                let last = first_lane + column.count.saturating_sub(1) * matrix.lane_stride;
                assert!(
                    column.count == 0 || last + run <= matrix.data.len(),
                    "lanes are in bounds"
                );
                let from = matrix.data.as_ptr();
                let mask = first(run);
                for i in 0..column.count {
                    let lane = first_lane + i * matrix.lane_stride;
                    prefetch(from.wrapping_add(lane.wrapping_add(ahead)));
                }
                // SAFETY: the last lane's run ends inside the data, so all do.
                unsafe {
                    let mut rows = [L::zero(); LINE];
                    for (i, row) in rows[..column.count].iter_mut().enumerate() {
                        *row = row.load(from.add(first_lane + i * matrix.lane_stride), mask);
                    }
                    let rows = transpose(rows, column.count);
                    self.store(rows, run, k, column, to);
                }
            }
            k += run;
        }
    }

    /// Any other matrix.
    #[inline(always)]
    unsafe fn scattered<L: Line>(&self, matrix: &Matrix<'_>, to: *mut f32) {
        let mut offsets = [0; LINE];
        for (i, offset) in offsets.iter_mut().enumerate() {
            *offset = (i * matrix.lane_stride) as isize;
        }
        for (index, k) in self.k.clone().enumerate() {
            let start = matrix.start + self.group * matrix.group_stride + matrix.k_offset(k);
            let last = start + (self.lanes.end - 1) * matrix.lane_stride;
            assert!(last < matrix.data.len(), "lanes are in bounds");
            for column in self.columns() {
                let from =
                    matrix.data.as_ptr().wrapping_add(start + column.lane * matrix.lane_stride);
                // SAFETY: the last lane is in the data, so all are; `mask` lanes fit the strip.
                unsafe {
                    let line = L::zero().gather(from, &offsets, column.read);
                    line.store(to.add(column.to + index * column.width), column.mask);
                }
            }
        }
    }

    /// Lanes are positions. Channels go outermost, so that planes are read a row at a time.
    #[inline(always)]
    unsafe fn windows<L: Line>(&self, windows: &Windows<'_>, to: *mut f32) {
        self.check(windows, self.lanes.end, self.k.end);
        let data = windows.data[self.group * windows.group_stride..].as_ptr();
        let mut spans = [Span::EMPTY; SPANS_MAX];
        let mut columns = [Column::default(); SPANS_MAX];
        let mut count = 0;
        for column in self.columns() {
            spans[count].set(windows, column.lane, column.count);
            columns[count] = column;
            count += 1;
        }
        let (spans, columns) = (&spans[..count], &columns[..count]);
        // SAFETY: the geometry was checked; the rest is the caller's contract.
        unsafe {
            match windows.is_plain() {
                true => self.planes::<L>(windows, data, (spans, columns), to),
                false => self.taps::<L>(windows, data, (spans, columns), to),
            }
        }
    }

    /// [`Block::windows`] where k counts channels.
    #[inline(always)]
    unsafe fn planes<L: Line>(
        &self,
        windows: &Windows<'_>,
        data: *const f32,
        (spans, columns): (&[Span], &[Column]),
        to: *mut f32,
    ) {
        let plane = windows.plane[0] * windows.plane[1];
        for (index, k) in self.k.clone().enumerate() {
            let channel = data.wrapping_add(k * plane);
            let ahead = channel.wrapping_add(PREFETCH_CHANNELS * plane);
            for (span, column) in spans.iter().zip(columns) {
                span.prefetch_plain(ahead);
                // SAFETY: the caller's contract; the strip has room.
                unsafe {
                    let line: L = span.load_plain(channel);
                    line.store(to.add(column.to + index * column.width), column.mask);
                }
            }
        }
    }

    /// [`Block::windows`] where k counts the taps of channels.
    #[inline(always)]
    unsafe fn taps<L: Line>(
        &self,
        windows: &Windows<'_>,
        data: *const f32,
        (spans, columns): (&[Span], &[Column]),
        to: *mut f32,
    ) {
        let taps = windows.taps[0] * windows.taps[1];
        let mut first_tap = windows.tap(self.k.start);
        let mut k = self.k.start;
        while k < self.k.end {
            let end = (k - k % taps + taps).min(self.k.end);
            let ahead = first_tap.channel + PREFETCH_CHANNELS;
            let (row, last) = (windows.taps[0] - 1, windows.taps[1] - 1);
            for (span, column) in spans.iter().zip(columns) {
                span.prefetch(windows, data, Tap { channel: ahead, ..Tap::default() });
                span.prefetch(windows, data, Tap { channel: ahead, row, column: last });
                let mut tap = first_tap;
                for k in k - self.k.start..end - self.k.start {
                    // SAFETY: the caller's contract; the strip has room.
                    unsafe {
                        let line: L = span.load(windows, data, tap);
                        line.store(to.add(column.to + k * column.width), column.mask);
                    }
                    tap = windows.next(tap);
                }
            }
            first_tap = Tap { channel: first_tap.channel + 1, ..Tap::default() };
            k = end;
        }
    }

    /// Lanes are (channel, tap). Positions go innermost, so that planes are read in order.
    #[inline(always)]
    unsafe fn windows_transposed<L: Line>(&self, windows: &Windows<'_>, to: *mut f32) {
        self.check(windows, self.k.end, self.lanes.end);
        let data = windows.data[self.group * windows.group_stride..].as_ptr();
        let mut spans = [Span::EMPTY; SPANS_MAX];
        let starts = || self.k.clone().step_by(LINE);
        for (span, k) in spans.iter_mut().zip(starts()) {
            span.set(windows, k, (self.k.end - k).min(LINE));
        }
        let spans = &spans[..self.k.len().div_ceil(LINE)];
        if windows.is_plain() {
            // SAFETY: the geometry was checked; the rest is the caller's contract.
            return unsafe { self.planes_transposed::<L>(windows, data, spans, to) };
        }
        for column in self.columns() {
            let mut taps = [Tap::default(); LINE];
            let mut tap = windows.tap(column.lane);
            for to in &mut taps[..column.count] {
                *to = tap;
                tap = windows.next(tap);
            }
            for (span, k) in spans.iter().zip(starts()) {
                // SAFETY: the geometry was checked; the strip has room.
                unsafe {
                    let mut rows = [L::zero(); LINE];
                    for (row, &tap) in rows.iter_mut().zip(&taps[..column.count]) {
                        span.prefetch(windows, data.wrapping_add(PREFETCH_POSITIONS), tap);
                        *row = span.load(windows, data, tap);
                    }
                    let rows = transpose(rows, column.count);
                    self.store(rows, self.k.end - k, k, column, to);
                }
            }
        }
    }

    /// [`Block::windows_transposed`] where lanes are channels.
    #[inline(always)]
    unsafe fn planes_transposed<L: Line>(
        &self,
        windows: &Windows<'_>,
        data: *const f32,
        spans: &[Span],
        to: *mut f32,
    ) {
        let plane = windows.plane[0] * windows.plane[1];
        for column in self.columns() {
            for (span, k) in spans.iter().zip(self.k.clone().step_by(LINE)) {
                let mut channel = data.wrapping_add(column.lane * plane);
                // SAFETY: the caller's contract; the strip has room.
                unsafe {
                    let mut rows = [L::zero(); LINE];
                    for row in &mut rows[..column.count] {
                        span.prefetch_plain(channel.wrapping_add(PREFETCH_POSITIONS));
                        *row = span.load_plain(channel);
                        channel = channel.wrapping_add(plane);
                    }
                    let rows = transpose(rows, column.count);
                    self.store(rows, self.k.end - k, k, column, to);
                }
            }
        }
    }

    /// Writes neighbouring lanes for `count` values of k, but at most a line, from `k` on.
    #[inline(always)]
    unsafe fn store<L: Line>(
        &self,
        rows: [L; LINE],
        count: usize,
        k: usize,
        column: Column,
        to: *mut f32,
    ) {
        let first_index = k - self.k.start;
        for (index, row) in rows.into_iter().enumerate() {
            if index < count {
                let index = first_index + index;
                // SAFETY: by the caller's contract the strip has room.
                unsafe { row.store(to.add(column.to + index * column.width), column.mask) };
            }
        }
    }

    /// Panics unless as many positions and (channel, tap) pairs, neither zero, lie in the data.
    fn check(&self, windows: &Windows<'_>, positions: usize, taps: usize) {
        let plane = windows.plane[0] * windows.plane[1];
        let image = (positions - 1) / (windows.grid[0] * windows.grid[1]);
        let channels = windows.tap(taps - 1).channel + 1;
        let end =
            self.group * windows.group_stride + image * windows.image_stride + channels * plane;
        assert!(end <= windows.data.len(), "all windows lie in the data");
    }
}

/// Transposes rows of which only the first `count` are not zero.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn transpose<L: Line>(rows: [L; LINE], count: usize) -> [L; LINE] {
    const HALF: usize = LINE / 2;
    // SAFETY: the features are the caller's contract.
    unsafe {
        if count > HALF {
            return L::transpose(rows);
        }
        // Half of the work, as compilers see which rows are zero.
        let mut few = [L::zero(); LINE];
        few[..HALF].copy_from_slice(&rows[..HALF]);
        L::transpose(few)
    }
}
