//! Sums over the taps of one plane, for depthwise convolutions.
//!
//! Planes are stored with their padding, so that a tap is a constant offset for all positions and
//! the rows of a plane are one long row.

use super::line::{LINE, Line, first, prefetch};
use super::tile::{Vector, Write};

/// The number of taps correlated at once.
pub(crate) const TAPS_AT_ONCE: usize = 9;
/// Lengths of sums over taps are multiples of this.
pub(crate) const FLAT_UNIT: usize = 64;
/// How many elements ahead of use a plane is asked for; a processor does not foresee masked loads.
const PREFETCH: usize = 512;
/// Registers summed at once.
const REGISTERS: usize = 4;

/// A tap of a filter: where its elements are, and its weight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlatTap {
    pub offset: usize,
    pub weight: f32,
}

/// `to[n] (+)= Σ weight · from[n + offset]`
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type FilterFn = unsafe fn(&[f32], &[FlatTap], Write, &mut [f32]);

/// `Σₙ ct[n] · from[n + offset]` for each offset.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type CorrelateFn =
    unsafe fn(&[f32], &[f32], &[usize; TAPS_AT_ONCE]) -> [f32; TAPS_AT_ONCE];

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

/// How a plane is laid out with its padding: for each phase of the stride an image of `extent`.
/// Element (y, x) of phase (i, j) is the plane's element at `(y, x)·stride + (i, j) + origin`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    pub plane: [usize; 2],
    pub stride: [usize; 2],
    pub origin: [isize; 2],
    pub extent: [usize; 2],
}

impl Padded {
    /// Elements of one phase.
    pub fn phase_len(&self) -> usize {
        self.extent[0] * self.extent[1]
    }

    /// Elements of all phases.
    fn phases_len(&self) -> usize {
        self.stride[0] * self.stride[1] * self.phase_len()
    }

    /// Elements of a padded plane, and those that blocks may read beyond it.
    pub fn len(&self) -> usize {
        (self.phases_len() + self.extent[1] + FLAT_UNIT).next_multiple_of(FLAT_UNIT)
    }

    /// Elements of `rows` rows as one row, in whole blocks.
    pub fn flat_len(&self, rows: usize) -> usize {
        (rows * self.extent[1]).next_multiple_of(FLAT_UNIT)
    }

    /// From a position to the element `down` and `right` of its own.
    pub fn offset(&self, down: usize, right: usize) -> usize {
        let [rows, columns] = self.stride;
        let phase = down % rows * columns + right % columns;
        phase * self.phase_len() + down / rows * self.extent[1] + right / columns
    }
}

/// See [`PadFn`].
#[inline(always)]
pub(super) unsafe fn pad<L: Line>(padded: &Padded, plane: &[f32], to: &mut [f32]) {
    let [height, width] = padded.plane;
    assert!(plane.len() == height * width && to.len() == padded.len(), "planes are whole");
    to[padded.phases_len()..].fill(0.0);
    let [rows, columns] = padded.stride;
    for (y, i) in (0..padded.extent[0]).flat_map(|y| (0..rows).map(move |i| (y, i))) {
        let at = (y * rows + i) as isize + padded.origin[0];
        let inside = at >= 0 && (at as usize) < height;
        let row = if inside { &plane[at as usize * width..][..width] } else { &[] };
        for j in 0..columns {
            let phase = i * columns + j;
            let start = phase * padded.phase_len() + y * padded.extent[1];
            let to = &mut to[start..start + padded.extent[1]];
            // A load of nothing from an address of nothing is slow.
            if row.is_empty() {
                to.fill(0.0);
                continue;
            }
            // SAFETY: the features are the caller's.
            unsafe { pad_row::<L>(row, columns, j as isize + padded.origin[1], to) };
        }
    }
}

/// `to[x] = from[x·stride + origin]`, zero outside.
#[inline(always)]
unsafe fn pad_row<L: Line>(from: &[f32], stride: usize, origin: isize, to: &mut [f32]) {
    let len = from.len() as isize;
    let ceil = |at: isize| (at.max(0) as usize).div_ceil(stride);
    let (begin, end) = match stride {
        1 => ((-origin).max(0) as usize, (len - origin).max(0) as usize),
        _ => (ceil(-origin), ceil(len - origin)),
    };
    for start in (0..to.len()).step_by(LINE) {
        let here = first(end.saturating_sub(start)) & !first(begin.saturating_sub(start));
        let whole = first(to.len() - start);
        let from = from.as_ptr().wrapping_offset((start * stride) as isize + origin);
        prefetch(from.wrapping_add(PREFETCH));
        // SAFETY: the elements `begin..end` come from inside the row, `whole` ends with `to`.
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
    taps: &[FlatTap],
    write: Write,
    to: &mut [f32],
) {
    let reach = taps.iter().map(|tap| tap.offset).max().unwrap_or(0);
    assert!(to.len().is_multiple_of(FLAT_UNIT), "whole blocks are written");
    assert!(reach + to.len() <= from.len(), "all taps lie in the plane");
    for start in (0..to.len()).step_by(REGISTERS * V::LANES) {
        // SAFETY: blocks divide the unit, and all reads and writes were checked above.
        unsafe {
            let to = to.as_mut_ptr().add(start);
            let from = from.as_ptr().add(start);
            let mut sums = [V::zero(); REGISTERS];
            if write == Write::Add {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(to.add(i * V::LANES));
                }
            }
            for tap in taps {
                let (weight, from) = (V::splat(tap.weight), from.add(tap.offset));
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = weight.mul_add(V::load(from.add(i * V::LANES)), *sum);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                sum.store(to.add(i * V::LANES));
            }
        }
    }
}

/// See [`CorrelateFn`].
#[inline(always)]
pub(super) unsafe fn correlate<V: Vector>(
    ct: &[f32],
    from: &[f32],
    offsets: &[usize; TAPS_AT_ONCE],
) -> [f32; TAPS_AT_ONCE] {
    let reach = offsets.iter().copied().max().unwrap_or(0);
    assert!(ct.len().is_multiple_of(FLAT_UNIT), "whole blocks are read");
    assert!(reach + ct.len() <= from.len(), "all taps lie in the plane");
    // SAFETY: registers divide the unit, and all reads were checked above; a line holds a register.
    unsafe {
        let mut sums = [V::zero(); TAPS_AT_ONCE];
        for start in (0..ct.len()).step_by(V::LANES) {
            let factor = V::load(ct.as_ptr().add(start));
            for (sum, &offset) in sums.iter_mut().zip(offsets) {
                *sum = factor.mul_add(V::load(from.as_ptr().add(start + offset)), *sum);
            }
        }
        let mut totals = [0.0; TAPS_AT_ONCE];
        for (total, sum) in totals.iter_mut().zip(&sums) {
            let mut lanes = [0.0; LINE];
            sum.store(lanes.as_mut_ptr());
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
            }
            *total = lanes[0];
        }
        totals
    }
}
