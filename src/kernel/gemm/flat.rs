//! Sums over the taps of one plane, for depthwise convolutions.
//!
//! Planes are stored row by row without room between the rows, so that a tap is a constant offset
//! for all positions and a plane is one long row. What a tap would read across the end of a row
//! belongs to the next one: masks take it away, one for all taps that look equally far sideways.

use std::marker::PhantomData;

use super::line::{LINE, Line, first, prefetch};
use super::tile::{Vector, Write};

/// Most taps of a filter.
pub(crate) const TAPS_MAX: usize = 128;
/// The most elements that are read or computed at once; what lies beyond the last is dropped.
pub(crate) const FLAT_UNIT: usize = 64;
/// How many elements ahead of use a plane is asked for; a processor does not foresee masked loads.
const PREFETCH: usize = 512;
/// Registers summed at once.
const REGISTERS: usize = 4;
/// Registers summed at once where a filter's weights need as many as they do.
const SQUARE_REGISTERS: usize = 2;

/// A tap of a filter: its number in the filter, and where it reads from the first position.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlatTap {
    pub number: usize,
    pub offset: usize,
}

/// Neighbouring taps that look equally far sideways.
#[derive(Clone, Copy, Debug, Default)]
struct Column {
    /// The tap after the last.
    end: usize,
    /// Where the mask of the positions that have these taps starts; none where all have.
    mask: Option<usize>,
}

/// A [`Column`] with its taps and the number of the first.
#[derive(Clone, Copy)]
struct ColumnTaps<'a> {
    first: usize,
    taps: &'a [FlatTap],
    mask: Option<usize>,
}

/// The taps of a filter, column by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taps {
    taps: [FlatTap; TAPS_MAX],
    columns: [Column; TAPS_MAX],
    count: usize,
    column_count: usize,
}

impl Taps {
    /// No taps.
    pub const NONE: Taps = Taps {
        taps: [FlatTap { number: 0, offset: 0 }; TAPS_MAX],
        columns: [Column { end: 0, mask: None }; TAPS_MAX],
        count: 0,
        column_count: 0,
    };

    /// Adds a column of taps with its mask.
    pub fn push(&mut self, mask: Option<usize>, taps: impl Iterator<Item = FlatTap>) {
        for tap in taps {
            self.taps[self.count] = tap;
            self.count += 1;
        }
        self.columns[self.column_count] = Column { end: self.count, mask };
        self.column_count += 1;
    }

    /// All taps.
    pub fn all(&self) -> &[FlatTap] {
        &self.taps[..self.count]
    }

    #[inline(always)]
    fn columns(&self) -> impl Iterator<Item = ColumnTaps<'_>> {
        let columns = &self.columns[..self.column_count];
        columns.iter().scan(0, |start, &Column { end, mask }| {
            let first = std::mem::replace(start, end);
            Some(ColumnTaps { first, taps: &self.taps[first..end], mask })
        })
    }

    /// The columns of a filter of 3x3 taps.
    fn square(&self) -> Option<[ColumnTaps<'_>; 3]> {
        let mut columns = self.columns();
        let three = [columns.next()?, columns.next()?, columns.next()?];
        let only = columns.next().is_none() && three.iter().all(|column| column.taps.len() == 3);
        only.then_some(three)
    }

    /// Panics unless `len` positions can be computed from as many elements and masks.
    fn check(&self, len: usize, from: usize, masks: usize) {
        let reach = self.all().iter().map(|tap| tap.offset).max().unwrap_or(0);
        let mask = self.columns[..self.column_count].iter().filter_map(|column| column.mask).max();
        let len = len.next_multiple_of(FLAT_UNIT);
        assert!(reach + len <= from, "all taps lie in the plane");
        assert!(mask.is_none_or(|start| start + len <= masks), "all masks are there");
    }
}

/// `to[n] (+)= Σ weights[number] · from[n + offset]` over the taps whose mask selects `n`:
/// `from, weights, taps, masks, to`.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type FilterFn = unsafe fn(&[f32], &[f32], &Taps, &[f32], Write, &mut [f32]);

/// `Σₙ ct[n] · from[n + offset]` for each tap, over the `n` that its mask selects, added to the
/// tap's line of partial sums: `ct, from, taps, masks, sums`.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type CorrelateFn = unsafe fn(&[f32], &[f32], &Taps, &[f32], &mut [f32]);

/// Copies a plane to its padded form.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type PadFn = unsafe fn(&Padded, &[f32], &mut [f32]);

/// Copies the first `width` elements of each of `rows` rows: `(from, from_stride), (to, to_stride),
/// [rows, width]`.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type RowsFn = unsafe fn((&[f32], usize), (&mut [f32], usize), [usize; 2]);

/// How a plane is laid out with the rows above and below it: for each phase of the stride an image
/// of `extent`. Element (y, x) of phase (i, j) is the plane's element `(y, x)·stride + (i, j)`,
/// counted from the row `origin`, and zero where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    pub plane: [usize; 2],
    pub stride: [usize; 2],
    pub origin: isize,
    pub extent: [usize; 2],
    /// Zeros before the first image: taps look so far back from its start.
    pub before: usize,
    /// Zeros after the last image, but for those that blocks read beyond their end.
    pub after: usize,
}

impl Padded {
    /// Elements of one phase.
    fn phase_len(&self) -> usize {
        self.extent[0] * self.extent[1]
    }

    /// Elements of all phases.
    fn phases_len(&self) -> usize {
        self.stride[0] * self.stride[1] * self.phase_len()
    }

    /// Elements of a padded plane.
    pub fn len(&self) -> usize {
        let len = self.before + self.phases_len() + self.after + FLAT_UNIT;
        len.next_multiple_of(FLAT_UNIT)
    }

    /// The element of a phase that is `down` rows and `right` columns from its first.
    pub fn offset(&self, phase: usize, down: usize, right: isize) -> usize {
        let start = self.before + phase * self.phase_len() + down * self.extent[1];
        start.strict_add_signed(right)
    }
}

/// Bits that select element `n` of rows of `width` where `n % width + right` is in the row, too.
pub(crate) fn fill_mask(width: usize, right: isize, mask: &mut [f32]) {
    let selected = f32::from_bits(u32::MAX);
    let shift = right.unsigned_abs().min(width);
    for row in mask.chunks_mut(width) {
        row.fill(selected);
        let outside = match right < 0 {
            true => 0..shift.min(row.len()),
            false => (width - shift).min(row.len())..row.len(),
        };
        row[outside].fill(0.0);
    }
}

/// See [`PadFn`].
#[inline(always)]
pub(super) unsafe fn pad<L: Line>(padded: &Padded, plane: &[f32], to: &mut [f32]) {
    let [height, width] = padded.plane;
    assert!(plane.len() == height * width && to.len() == padded.len(), "planes are whole");
    let (before, to) = to.split_at_mut(padded.before);
    let (images, after) = to.split_at_mut(padded.phases_len());
    before.fill(0.0);
    after.fill(0.0);
    let [rows, columns] = padded.stride;
    if [rows, columns] == [1, 1] && padded.extent[1] == width {
        return pad_whole(padded, plane, images);
    }
    for (y, i) in (0..padded.extent[0]).flat_map(|y| (0..rows).map(move |i| (y, i))) {
        let at = (y * rows + i) as isize + padded.origin;
        let inside = at >= 0 && (at as usize) < height;
        let row = if inside { &plane[at as usize * width..][..width] } else { &[] };
        for j in 0..columns {
            let phase = i * columns + j;
            let start = phase * padded.phase_len() + y * padded.extent[1];
            let to = &mut images[start..start + padded.extent[1]];
            // A load of nothing from an address of nothing is slow.
            if row.len() <= j {
                to.fill(0.0);
                continue;
            }
            // SAFETY: the features are the caller's.
            unsafe { pad_row::<L>(&row[j..], columns, to) };
        }
    }
}

/// [`pad`] where rows stay next to each other.
fn pad_whole(padded: &Padded, plane: &[f32], to: &mut [f32]) {
    let [height, width] = padded.plane;
    let end = padded.extent[0] as isize + padded.origin;
    let (first, end) = (padded.origin.max(0) as usize, end.clamp(0, height as isize) as usize);
    let above = (-padded.origin).max(0) as usize;
    let (above, rest) = to.split_at_mut((above * width).min(to.len()));
    let inside = &plane[first.min(end) * width..end * width];
    above.fill(0.0);
    rest[..inside.len()].copy_from_slice(inside);
    rest[inside.len()..].fill(0.0);
}

/// `to[x] = from[x·stride]`, zero outside.
#[inline(always)]
unsafe fn pad_row<L: Line>(from: &[f32], stride: usize, to: &mut [f32]) {
    let end = if stride == 1 { from.len() } else { from.len().div_ceil(stride) };
    for start in (0..to.len()).step_by(LINE) {
        let here = first(end.saturating_sub(start));
        let whole = first(to.len() - start);
        let from = from.as_ptr().wrapping_add(start * stride);
        prefetch(from.wrapping_add(PREFETCH));
        // SAFETY: the elements before `end` come from inside the row, `whole` ends with `to`.
        unsafe {
            let line = match stride {
                1 => L::zero().load(from, here & whole),
                2 => L::zero().load_even(from, here & whole),
                _ => {
                    let offsets = std::array::from_fn(|i| (i * stride) as isize);
                    L::zero().gather(from, &offsets, here & whole)
                }
            };
            line.store(to.as_mut_ptr().add(start), whole);
        }
    }
}

/// See [`RowsFn`].
#[inline(always)]
pub(super) unsafe fn copy_rows<L: Line>(
    (from, from_stride): (&[f32], usize),
    (to, to_stride): (&mut [f32], usize),
    [rows, width]: [usize; 2],
) {
    if rows == 0 || width == 0 {
        return;
    }
    assert!((rows - 1) * from_stride + width <= from.len(), "all rows exist");
    assert!((rows - 1) * to_stride + width <= to.len(), "all rows have a place");
    for (row, start) in (0..rows).flat_map(|y| (0..width).step_by(LINE).map(move |x| (y, x))) {
        let mask = first(width - start);
        prefetch(from.as_ptr().wrapping_add(row * from_stride + start + PREFETCH));
        // SAFETY: both rows were checked, and the mask stops at their ends.
        unsafe {
            let line = L::zero().load(from.as_ptr().add(row * from_stride + start), mask);
            line.store(to.as_mut_ptr().add(row * to_stride + start), mask);
        }
    }
}

/// See [`FilterFn`].
#[inline(always)]
pub(super) unsafe fn filter<V: Vector>(
    from: &[f32],
    weights: &[f32],
    taps: &Taps,
    masks: &[f32],
    write: Write,
    to: &mut [f32],
) {
    taps.check(to.len(), from.len(), masks.len());
    assert!(taps.all().iter().all(|tap| tap.number < weights.len()), "each tap has its weight");
    let from = [from.as_ptr(), weights.as_ptr(), masks.as_ptr()];
    // SAFETY: all reads were checked above.
    unsafe {
        match taps.square() {
            Some(columns) => {
                let square = Square::<V>::new(&columns, from);
                filter_blocks(&square, write, to);
            }
            None => filter_blocks(&AnyTaps::<V> { taps, from, vector: PhantomData }, write, to),
        }
    }
}

/// Computes as many positions at once as registers allow.
trait FilterBlock {
    /// Number of positions.
    const LEN: usize;

    /// Positions from `start` on.
    ///
    /// # Safety
    /// The processor has the features, all elements and masks of the positions exist, and `to` has
    /// room for them.
    unsafe fn filter(&self, start: usize, write: Write, to: *mut f32);
}

/// All positions of `to`; those of the last block, if it is not whole, in a copy of them.
///
/// # Safety
/// As for [`FilterBlock::filter`].
#[inline(always)]
unsafe fn filter_blocks<B: FilterBlock>(block: &B, write: Write, to: &mut [f32]) {
    let (blocks, rest) = to.split_at_mut(to.len() / B::LEN * B::LEN);
    // SAFETY: the caller's contract; whole blocks and a unit have room.
    unsafe {
        for start in (0..blocks.len()).step_by(B::LEN) {
            block.filter(start, write, blocks.as_mut_ptr().add(start));
        }
        if !rest.is_empty() {
            let mut last = [0.0; FLAT_UNIT];
            if write == Write::Add {
                last[..rest.len()].copy_from_slice(rest);
            }
            block.filter(blocks.len(), write, last.as_mut_ptr());
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// Any filter, whose taps are read anew for each block.
struct AnyTaps<'a, V> {
    taps: &'a Taps,
    /// Elements, weights and masks.
    from: [*const f32; 3],
    vector: PhantomData<V>,
}

impl<V: Vector> FilterBlock for AnyTaps<'_, V> {
    const LEN: usize = REGISTERS * V::LANES;

    #[inline(always)]
    unsafe fn filter(&self, start: usize, write: Write, to: *mut f32) {
        let [from, weights, masks] = self.from;
        // SAFETY: the caller's contract.
        unsafe {
            let mut totals = [V::zero(); REGISTERS];
            if write == Write::Add {
                for (i, total) in totals.iter_mut().enumerate() {
                    *total = V::load(to.add(i * V::LANES));
                }
            }
            for ColumnTaps { taps, mask, .. } in self.taps.columns() {
                let mut sums = [V::zero(); REGISTERS];
                for tap in taps {
                    let weight = V::splat(*weights.add(tap.number));
                    let from = from.add(start + tap.offset);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = weight.mul_add(V::load(from.add(i * V::LANES)), *sum);
                    }
                }
                for (i, (total, &sum)) in totals.iter_mut().zip(&sums).enumerate() {
                    *total = total.add(match mask {
                        Some(mask) => sum.and(V::load(masks.add(mask + start + i * V::LANES))),
                        None => sum,
                    });
                }
            }
            for (i, total) in totals.iter().enumerate() {
                total.store(to.add(i * V::LANES));
            }
        }
    }
}

/// A filter of 3x3 taps, whose weights stay in registers.
struct Square<V> {
    weights: [[V; 3]; 3],
    /// By column and row, the first element.
    from: [[*const f32; 3]; 3],
    masks: [Option<*const f32>; 3],
}

impl<V: Vector> Square<V> {
    /// # Safety
    /// The processor has the features, and all weights exist.
    #[inline(always)]
    unsafe fn new(columns: &[ColumnTaps<'_>; 3], [from, weights, masks]: [*const f32; 3]) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            let mut square =
                Square { weights: [[V::zero(); 3]; 3], from: [[from; 3]; 3], masks: [None; 3] };
            for (j, &ColumnTaps { taps, mask, .. }) in columns.iter().enumerate() {
                square.masks[j] = mask.map(|mask| masks.wrapping_add(mask));
                for (i, tap) in taps.iter().enumerate() {
                    square.weights[j][i] = V::splat(*weights.add(tap.number));
                    square.from[j][i] = from.wrapping_add(tap.offset);
                }
            }
            square
        }
    }
}

impl<V: Vector> FilterBlock for Square<V> {
    const LEN: usize = SQUARE_REGISTERS * V::LANES;

    #[inline(always)]
    unsafe fn filter(&self, start: usize, write: Write, to: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            for i in 0..SQUARE_REGISTERS {
                let (start, to) = (start + i * V::LANES, to.add(i * V::LANES));
                let mut total = match write {
                    Write::Set => V::zero(),
                    Write::Add => V::load(to),
                };
                for j in 0..3 {
                    let mut sum = V::zero();
                    for (&weight, from) in self.weights[j].iter().zip(self.from[j]) {
                        sum = weight.mul_add(V::load(from.add(start)), sum);
                    }
                    total = total.add(match self.masks[j] {
                        Some(mask) => sum.and(V::load(mask.add(start))),
                        None => sum,
                    });
                }
                total.store(to);
            }
        }
    }
}

/// See [`CorrelateFn`].
#[inline(always)]
pub(super) unsafe fn correlate<V: Vector>(
    ct: &[f32],
    from: &[f32],
    taps: &Taps,
    masks: &[f32],
    sums: &mut [f32],
) {
    taps.check(ct.len(), from.len(), masks.len());
    assert!(sums.len() == taps.count * LINE, "each tap has a line of sums");
    let (whole, rest) = ct.split_at(ct.len() / V::LANES * V::LANES);
    let mut last = [0.0; LINE];
    last[..rest.len()].copy_from_slice(rest);
    let rest = &last[..rest.len().next_multiple_of(V::LANES)];
    let sums = sums.as_mut_ptr();
    // SAFETY: all reads were checked above, and each tap has a line of sums.
    unsafe {
        for (start, ct) in [(0, whole), (whole.len(), rest)] {
            let from = from.as_ptr().add(start);
            let masks = masks.as_ptr().wrapping_add(start);
            let column = |ColumnTaps { first, taps, mask }| Correlated {
                taps,
                mask: mask.map(|mask: usize| masks.wrapping_add(mask)),
                sums: sums.wrapping_add(first * LINE),
            };
            if let Some(columns) = taps.square() {
                let columns = columns.map(column);
                correlate_columns::<V, 3, 3>(ct, from, &columns);
                continue;
            }
            for column in taps.columns().map(column) {
                for (index, taps) in column.taps.chunks(9).enumerate() {
                    let sums = column.sums.add(9 * index * LINE);
                    let part = [Correlated { taps, sums, ..column }];
                    match taps.len() {
                        ..=5 => correlate_columns::<V, 1, 5>(ct, from, &part),
                        6..=7 => correlate_columns::<V, 1, 7>(ct, from, &part),
                        _ => correlate_columns::<V, 1, 9>(ct, from, &part),
                    }
                }
            }
        }
    }
}

/// Taps of a column, their mask, and their lines of sums.
#[derive(Clone, Copy)]
struct Correlated<'a> {
    taps: &'a [FlatTap],
    mask: Option<*const f32>,
    sums: *mut f32,
}

/// [`correlate`] for up to `TAPS` taps of each of some columns, and whole registers.
///
/// # Safety
/// The processor has the features, all elements and masks exist, and there are as many lines of
/// sums as taps.
#[inline(always)]
unsafe fn correlate_columns<V: Vector, const COLUMNS: usize, const TAPS: usize>(
    ct: &[f32],
    from: *const f32,
    columns: &[Correlated<'_>; COLUMNS],
) {
    // SAFETY: the caller's contract; a line holds a register.
    unsafe {
        let mut totals = [[V::zero(); TAPS]; COLUMNS];
        let mut offsets = [[0; TAPS]; COLUMNS];
        for (column, (totals, offsets)) in columns.iter().zip(totals.iter_mut().zip(&mut offsets)) {
            for (i, tap) in column.taps.iter().enumerate() {
                totals[i] = V::load(column.sums.add(i * LINE));
                offsets[i] = tap.offset;
            }
        }
        for start in (0..ct.len()).step_by(V::LANES) {
            let whole = V::load(ct.as_ptr().add(start));
            for (column, (totals, offsets)) in columns.iter().zip(totals.iter_mut().zip(&offsets)) {
                let factor = match column.mask {
                    Some(mask) => whole.and(V::load(mask.add(start))),
                    None => whole,
                };
                for (total, &offset) in totals.iter_mut().zip(offsets) {
                    *total = factor.mul_add(V::load(from.add(start + offset)), *total);
                }
            }
        }
        for (column, totals) in columns.iter().zip(&totals) {
            for (i, total) in totals.iter().enumerate().take(column.taps.len()) {
                total.store(column.sums.add(i * LINE));
            }
        }
    }
}
