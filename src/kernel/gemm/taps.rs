//! Sums over the taps of one plane, for depthwise convolutions.
//!
//! The plane is read where it lies: masks and a line of zeros stand for what is around it. Tiles of
//! results are one register wide and up to [`TALL`] rows high, and all their rows stay in
//! registers; an element that is read once serves all taps of its column, each for another row.

use super::line::{LINE, prefetch};
use super::tile::{Hints, Vector, Write};

/// Most taps of a filter.
pub(crate) const TAPS_MAX: usize = 128;
/// Rows of a tile.
const ROWS: usize = 7;
/// Rows of a tile where there are 32 registers.
const TALL: usize = 2 * ROWS;
/// Stands for a row outside the plane.
const ZEROS: [f32; LINE] = [0.0; LINE];

/// Neighbouring taps below each other.
#[derive(Clone, Copy, Debug, Default)]
struct Column {
    /// The first tap.
    first: usize,
    count: usize,
    /// Where the plane begins that it reads.
    start: usize,
    /// How far below and right of a result its first tap reads.
    down: isize,
    right: isize,
}

/// The taps of a filter, column by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taps {
    /// The number in the filter of each tap.
    numbers: [usize; TAPS_MAX],
    columns: [Column; TAPS_MAX],
    count: usize,
    column_count: usize,
    /// Rows and columns of a plane.
    plane: [usize; 2],
    /// Taps of each column if all have as many, else 1.
    height: usize,
}

impl Taps {
    /// No taps, for planes of these rows and columns.
    pub fn new(plane: [usize; 2]) -> Self {
        Taps {
            numbers: [0; TAPS_MAX],
            columns: [Column::default(); TAPS_MAX],
            count: 0,
            column_count: 0,
            plane,
            height: 0,
        }
    }

    /// Adds a column of taps with these numbers, each a row below the one before. It reads the
    /// plane that begins at `start`, the first tap `down` and `right` of a result's position.
    pub fn push(
        &mut self,
        start: usize,
        [down, right]: [isize; 2],
        numbers: impl Iterator<Item = usize>,
    ) {
        let first = self.count;
        for number in numbers {
            self.numbers[self.count] = number;
            self.count += 1;
        }
        let count = self.count - first;
        if count == 0 {
            return;
        }
        self.height = if [0, count].contains(&self.height) { count } else { 1 };
        self.columns[self.column_count] = Column { first, count, start, down, right };
        self.column_count += 1;
    }

    /// The number of each tap.
    pub fn numbers(&self) -> &[usize] {
        &self.numbers[..self.count]
    }

    fn columns(&self) -> &[Column] {
        &self.columns[..self.column_count]
    }

    /// Panics unless all planes lie in as many elements.
    fn check(&self, from: usize) {
        let plane = self.plane[0] * self.plane[1];
        let fits = |column: &Column| column.start <= from && plane <= from - column.start;
        assert!(self.columns().iter().all(fits), "all planes are whole");
    }
}

/// Where the results of a filter go.
pub(crate) struct Positions<'a> {
    /// Results, row by row.
    pub to: &'a mut [f32],
    /// Rows and columns.
    pub extents: [usize; 2],
    pub write: Write,
    /// Memory that is needed when results are there, as it is laid out as they are.
    pub hints: &'a Hints,
}

/// `to[y, x] (+)= Σ weights[number] · plane[y + down, x + right]` over the taps, zero outside the
/// plane: `from, weights, taps, positions`.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type FilterFn = unsafe fn(&[f32], &[f32], &Taps, Positions<'_>);

/// `Σ ct[y, x] · plane[y + down, x + right]` for each tap, over cotangents of `[rows, columns]` one
/// after the other, added to the tap's line of partial sums: `ct, extents, from, taps, sums`.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type CorrelateFn = unsafe fn(&[f32], [usize; 2], &[f32], &Taps, &mut [f32]);

/// Some positions of `[rows, columns]`: as many rows as a kernel has, if there are, and a register
/// of columns.
#[derive(Clone, Copy)]
struct Tile {
    row: usize,
    column: usize,
    extents: [usize; 2],
}

impl Tile {
    /// The first position.
    fn start(&self) -> usize {
        self.row * self.extents[1] + self.column
    }

    /// Rows from the first on.
    fn rows(&self) -> usize {
        self.extents[0] - self.row
    }

    /// Asks for the rows that the tile below reads, or that of the next plane: they are too far
    /// apart for a processor to foresee.
    #[inline(always)]
    fn ask_below<const ROWS: usize>(&self, from: &[f32], taps: &Taps) {
        let [_, width] = taps.plane;
        let start = from.as_ptr().wrapping_add((self.row + ROWS) * width + self.column);
        (0..ROWS).for_each(|row| prefetch(start.wrapping_add(row * width)));
    }

    /// The lanes that are positions.
    #[inline(always)]
    unsafe fn mask<V: Vector>(&self) -> V::Mask {
        // SAFETY: the features are the caller's.
        unsafe { V::mask(0, V::LANES.min(self.extents[1] - self.column)) }
    }
}

/// The rows that a column's taps read for a tile.
struct Lines<'a, V: Vector> {
    /// The first tap's row for the tile's first one, from the tile's first column on; any address
    /// if that is outside the plane.
    start: *const f32,
    /// The number of that row, which wraps round above the plane.
    row: usize,
    plane: [usize; 2],
    mask: V::Mask,
    from: std::marker::PhantomData<&'a [f32]>,
}

impl<'a, V: Vector> Lines<'a, V> {
    /// None if no lane is in the plane.
    #[inline(always)]
    unsafe fn new(from: &'a [f32], taps: &Taps, column: &Column, tile: &Tile) -> Option<Self> {
        let [_, width] = taps.plane;
        let left = tile.column as isize + column.right;
        let first = (-left).clamp(0, V::LANES as isize) as usize;
        let end = (width as isize - left).clamp(0, V::LANES as isize) as usize;
        if first >= end {
            return None;
        }
        let row = tile.row as isize + column.down;
        let start = from.as_ptr().wrapping_add(column.start);
        Some(Lines {
            start: start.wrapping_offset(row * width as isize + left),
            row: row as usize,
            plane: taps.plane,
            // SAFETY: the features are the caller's.
            mask: unsafe { V::mask(first, end) },
            from: std::marker::PhantomData,
        })
    }

    /// The row that is `down` below the first.
    #[inline(always)]
    unsafe fn line(&self, down: usize) -> V {
        let inside = self.row.wrapping_add(down) < self.plane[0];
        let at =
            if inside { self.start.wrapping_add(down * self.plane[1]) } else { ZEROS.as_ptr() };
        // SAFETY: the row is in the plane, or zeros, and the mask stops at its ends.
        unsafe { V::load_masked(at, self.mask) }
    }
}

/// Calls a macro with the number of each row that a column of up to seven taps reads for a tile: a
/// loop would have to be unrolled before its sums can be registers.
macro_rules! each_row {
    ($visit:ident, $rows:expr) => {
        each_row!($visit, $rows, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19)
    };
    ($visit:ident, $rows:expr, $($row:literal)*) => {
        $(if $row < $rows { $visit!($row) })*
    };
}

/// Calls a tile's kernel for all tiles, with constants for its rows and the height of columns.
macro_rules! each_tile {
    ($vector:ty, $extents:expr, $height:expr, $kernel:ident ( $($operand:expr),* )) => {{
        let mut row = 0;
        while row < $extents[0] {
            let tall = <$vector>::LANES == LINE && $extents[0] - row > ROWS;
            for column in (0..$extents[1]).step_by(<$vector>::LANES) {
                let tile = Tile { row, column, extents: $extents };
                match (tall, $height) {
                    (true, 2) => $kernel::<$vector, TALL, 2>($($operand,)* tile),
                    (true, 3) => $kernel::<$vector, TALL, 3>($($operand,)* tile),
                    (true, 5) => $kernel::<$vector, TALL, 5>($($operand,)* tile),
                    (true, 7) => $kernel::<$vector, TALL, 7>($($operand,)* tile),
                    (true, _) => $kernel::<$vector, TALL, 1>($($operand,)* tile),
                    (false, 2) => $kernel::<$vector, ROWS, 2>($($operand,)* tile),
                    (false, 3) => $kernel::<$vector, ROWS, 3>($($operand,)* tile),
                    (false, 5) => $kernel::<$vector, ROWS, 5>($($operand,)* tile),
                    (false, 7) => $kernel::<$vector, ROWS, 7>($($operand,)* tile),
                    (false, _) => $kernel::<$vector, ROWS, 1>($($operand,)* tile),
                }
            }
            row += if tall { TALL } else { ROWS };
        }
    }};
}

/// See [`FilterFn`].
#[inline(always)]
pub(super) unsafe fn filter<V: Vector>(
    from: &[f32],
    weights: &[f32],
    taps: &Taps,
    mut positions: Positions<'_>,
) {
    let extents = positions.extents;
    taps.check(from.len());
    assert!(positions.to.len() == extents[0] * extents[1], "all positions have a place");
    let mut ordered = [0.0; TAPS_MAX];
    for (weight, &number) in ordered.iter_mut().zip(taps.numbers()) {
        *weight = weights[number];
    }
    // SAFETY: planes and places were checked; the features are the caller's.
    unsafe {
        each_tile!(V, extents, taps.height, filter_tile(from, &ordered, taps, &mut positions))
    }
}

/// # Safety
/// The processor has the features, planes are whole, `to` has room for all positions, and columns
/// have multiples of `HEIGHT` taps.
#[inline(always)]
unsafe fn filter_tile<V: Vector, const ROWS: usize, const HEIGHT: usize>(
    from: &[f32],
    weights: &[f32; TAPS_MAX],
    taps: &Taps,
    positions: &mut Positions<'_>,
    tile: Tile,
) {
    let Positions { to, write, hints, .. } = positions;
    // SAFETY: the caller's contract.
    unsafe {
        tile.ask_below::<ROWS>(from, taps);
        for place in hints.places() {
            let start = place.wrapping_add(tile.start());
            let rows = 0..ROWS.min(tile.rows());
            rows.for_each(|row| prefetch(start.wrapping_add(row * tile.extents[1])));
        }
        let mut sums = [V::zero(); ROWS];
        for column in taps.columns() {
            let Some(lines) = Lines::<V>::new(from, taps, column, &tile) else { continue };
            for part in (0..column.count).step_by(HEIGHT) {
                let mut factors = [V::zero(); HEIGHT];
                for (i, factor) in factors.iter_mut().enumerate() {
                    *factor = V::splat(*weights.get_unchecked(column.first + part + i));
                }
                macro_rules! add_row {
                    ($row:literal) => {{
                        let line = lines.line(part + $row);
                        for (tap, factor) in factors.iter().enumerate() {
                            if $row >= tap && $row - tap < ROWS {
                                sums[$row - tap] = factor.mul_add(line, sums[$row - tap]);
                            }
                        }
                    }};
                }
                each_row!(add_row, ROWS + HEIGHT - 1);
            }
        }
        let mask = tile.mask::<V>();
        let to = to.as_mut_ptr().add(tile.start());
        for (row, &sum) in sums.iter().enumerate() {
            if row < tile.rows() {
                let to = to.add(row * tile.extents[1]);
                let sum = match write {
                    Write::Set => sum,
                    Write::Add => sum.add(V::load_masked(to, mask)),
                };
                sum.store_masked(to, mask);
            }
        }
    }
}

/// See [`CorrelateFn`].
#[inline(always)]
pub(super) unsafe fn correlate<V: Vector>(
    ct: &[f32],
    extents: [usize; 2],
    from: &[f32],
    taps: &Taps,
    sums: &mut [f32],
) {
    taps.check(from.len());
    assert!(ct.len() == extents[0] * extents[1], "all positions have a cotangent");
    assert!(sums.len() == taps.count * LINE, "each tap has a line of sums");
    // SAFETY: planes, cotangents and sums were checked; the features are the caller's.
    unsafe { each_tile!(V, extents, taps.height, correlate_tile(ct, from, taps, sums)) }
}

/// # Safety
/// The processor has the features, planes are whole, there is a cotangent for each position and a
/// line of sums for each tap, and columns have multiples of `HEIGHT` taps.
#[inline(always)]
unsafe fn correlate_tile<V: Vector, const ROWS: usize, const HEIGHT: usize>(
    ct: &[f32],
    from: &[f32],
    taps: &Taps,
    sums: &mut [f32],
    tile: Tile,
) {
    // SAFETY: the caller's contract; a line holds a register.
    unsafe {
        tile.ask_below::<ROWS>(from, taps);
        let mask = tile.mask::<V>();
        let ct = ct.as_ptr().add(tile.start());
        let mut factors = [V::zero(); ROWS];
        for (row, factor) in factors.iter_mut().enumerate() {
            if row < tile.rows() {
                let ct = ct.add(row * tile.extents[1]);
                prefetch(ct.wrapping_add(ROWS * tile.extents[1]));
                *factor = V::load_masked(ct, mask);
            }
        }
        for column in taps.columns() {
            let Some(lines) = Lines::<V>::new(from, taps, column, &tile) else { continue };
            for part in (0..column.count).step_by(HEIGHT) {
                let mut totals = [V::zero(); HEIGHT];
                macro_rules! add_row {
                    ($row:literal) => {{
                        let line = lines.line(part + $row);
                        for (tap, total) in totals.iter_mut().enumerate() {
                            if $row >= tap && $row - tap < ROWS {
                                *total = factors[$row - tap].mul_add(line, *total);
                            }
                        }
                    }};
                }
                each_row!(add_row, ROWS + HEIGHT - 1);
                for (i, total) in totals.into_iter().enumerate() {
                    let sums = sums.as_mut_ptr().add((column.first + part + i) * LINE);
                    total.add(V::load(sums)).store(sums);
                }
            }
        }
    }
}
