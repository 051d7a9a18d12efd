//! Sixteen elements at a time: the moves that packing is made of.

/// Elements of a line.
pub(crate) const LINE: usize = 16;

/// Sixteen consecutive `f32`; the methods need the processor features of the type. Bit `i` of a
/// mask stands for element `i`; elements outside the mask are neither read nor written.
pub(super) trait Line: Copy {
    /// All zero.
    unsafe fn zero() -> Self;
    /// `self` with the elements in `mask` replaced by those at `from`.
    unsafe fn load(self, from: *const f32, mask: u16) -> Self;
    /// `self` with the elements `i` in `mask` replaced by those at `from + 2i`.
    unsafe fn load_even(self, from: *const f32, mask: u16) -> Self;
    /// `self` with the elements `i` in `mask` replaced by those at `from + offsets[i]`.
    unsafe fn gather(self, from: *const f32, offsets: &[isize; LINE], mask: u16) -> Self;
    /// Writes the elements in `mask`.
    unsafe fn store(self, to: *mut f32, mask: u16);
    /// Row `i` of the result is element `i` of every row.
    unsafe fn transpose(rows: [Self; LINE]) -> [Self; LINE];
    /// Element `4i + j` of the four lines, one after the other, becomes element `i` of line `j`.
    unsafe fn deal(lines: [Self; 4]) -> [Self; 4];
    /// The inverse of [`Line::deal`].
    unsafe fn weave(lines: [Self; 4]) -> [Self; 4];
    /// The elements from the second on, then the first of the line after it.
    unsafe fn ahead(self, next: Self) -> Self;
    /// Every second element of this line and the one after it: from the first on, and from the
    /// second on.
    unsafe fn halve(self, next: Self) -> [Self; 2];
}

/// The mask of the first `count` elements.
#[inline(always)]
pub(crate) fn first(count: usize) -> u16 {
    if count >= LINE { u16::MAX } else { (1 << count) - 1 }
}

/// Asks for the cache line at `at`, which may be any address.
#[inline(always)]
pub(crate) fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, part of every x86-64 processor, that never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// In plain Rust.
impl Line for [f32; LINE] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; LINE]
    }

    #[inline(always)]
    unsafe fn load(mut self, from: *const f32, mask: u16) -> Self {
        if mask == u16::MAX {
            // SAFETY: the caller has all elements.
            return unsafe { from.cast::<[f32; LINE]>().read_unaligned() };
        }
        each(mask, |i| {
            // SAFETY: the caller has the elements in the mask.
            self[i] = unsafe { *from.wrapping_add(i) };
        });
        self
    }

    #[inline(always)]
    unsafe fn load_even(mut self, from: *const f32, mask: u16) -> Self {
        each(mask, |i| {
            // SAFETY: the caller has the elements in the mask.
            self[i] = unsafe { *from.wrapping_add(2 * i) };
        });
        self
    }

    #[inline(always)]
    unsafe fn gather(mut self, from: *const f32, offsets: &[isize; LINE], mask: u16) -> Self {
        each(mask, |i| {
            // SAFETY: the caller has the elements in the mask.
            self[i] = unsafe { *from.wrapping_offset(offsets[i]) };
        });
        self
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: u16) {
        if mask == u16::MAX {
            // SAFETY: the caller has all elements.
            return unsafe { to.cast::<[f32; LINE]>().write_unaligned(self) };
        }
        each(mask, |i| {
            // SAFETY: the caller has the elements in the mask.
            unsafe { *to.add(i) = self[i] };
        });
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; LINE]) -> [Self; LINE] {
        let mut columns = [[0.0; LINE]; LINE];
        for (i, row) in rows.iter().enumerate() {
            for (j, column) in columns.iter_mut().enumerate() {
                column[i] = row[j];
            }
        }
        columns
    }

    #[inline(always)]
    unsafe fn deal(lines: [Self; 4]) -> [Self; 4] {
        std::array::from_fn(|j| std::array::from_fn(|i| lines[i / 4][i % 4 * 4 + j]))
    }

    #[inline(always)]
    unsafe fn weave(lines: [Self; 4]) -> [Self; 4] {
        std::array::from_fn(|j| std::array::from_fn(|i| lines[i % 4][j * 4 + i / 4]))
    }

    #[inline(always)]
    unsafe fn ahead(self, next: Self) -> Self {
        std::array::from_fn(|i| if i + 1 < LINE { self[i + 1] } else { next[0] })
    }

    #[inline(always)]
    unsafe fn halve(self, next: Self) -> [Self; 2] {
        let element = |i: usize| if i < LINE { self[i] } else { next[i - LINE] };
        [0, 1].map(|first| std::array::from_fn(|i| element(2 * i + first)))
    }
}

/// Calls `visit` with the number of each set bit.
#[inline(always)]
pub(super) fn each(mut mask: u16, mut visit: impl FnMut(usize)) {
    while mask != 0 {
        visit(mask.trailing_zeros() as usize);
        mask &= mask - 1;
    }
}
