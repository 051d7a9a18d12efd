//! Copies of planes: with zeros around them, dealt out by the stride, or row by row.

use super::line::{LINE, Line, first, prefetch};

/// Elements that may be read beyond the last of a padded plane.
const BEYOND: usize = 64;
/// How many elements ahead of use a plane is asked for; a processor does not foresee masked loads.
const PREFETCH: usize = 512;

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
    /// Zeros after the last image.
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
        let len = self.before + self.phases_len() + self.after + BEYOND;
        len.next_multiple_of(BEYOND)
    }

    /// The element of a phase that is `down` rows and `right` columns from its first.
    pub fn offset(&self, phase: usize, down: usize, right: isize) -> usize {
        let start = self.before + phase * self.phase_len() + down * self.extent[1];
        start.strict_add_signed(right)
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
    for (y, i) in (0..padded.extent[0]).flat_map(|y| (0..rows).map(move |i| (y, i))) {
        let at = (y * rows + i) as isize + padded.origin;
        let inside = at >= 0 && (at as usize) < height;
        let row = if inside { &plane[at as usize * width..][..width] } else { &[] };
        if columns == 2 {
            let (even, odd) = images[2 * i * padded.phase_len()..].split_at_mut(padded.phase_len());
            let to =
                [even, odd].map(|phase| &mut phase[y * padded.extent[1]..][..padded.extent[1]]);
            // SAFETY: the features are the caller's.
            unsafe { halve_row::<L>(row, to) };
            continue;
        }
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

/// `to[j][x] = from[2x + j]`, zero outside; both are as long.
#[inline(always)]
unsafe fn halve_row<L: Line>(from: &[f32], [even, odd]: [&mut [f32]; 2]) {
    assert!(even.len() == odd.len(), "both halves have as much room");
    for start in (0..even.len()).step_by(LINE) {
        let left = from.len().saturating_sub(2 * start);
        let whole = first(even.len() - start);
        let from = from.as_ptr().wrapping_add(2 * start);
        // SAFETY: the elements of the masks come from inside the row, `whole` ends with the halves.
        unsafe {
            let mut lines = [L::zero(); 2];
            for (i, line) in lines.iter_mut().enumerate() {
                let from = from.wrapping_add(i * LINE);
                prefetch(from.wrapping_add(PREFETCH));
                // A load of nothing from an address of nothing is slow.
                if left > i * LINE {
                    *line = line.load(from, first(left - i * LINE));
                }
            }
            let [first, second] = lines[0].halve(lines[1]);
            first.store(even.as_mut_ptr().add(start), whole);
            second.store(odd.as_mut_ptr().add(start), whole);
        }
    }
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
