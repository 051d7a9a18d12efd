//! Lines of two AVX2 registers.

use std::arch::x86_64::*;

use crate::kernel::gemm::line::{LINE, Line, each, first};

/// Elements of a register.
const HALF: usize = 8;

/// Sixteen elements, the first eight in the first register.
#[derive(Clone, Copy)]
pub(super) struct Pair(__m256, __m256);

impl Line for Pair {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the features.
        unsafe { Pair(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32, mask: u16) -> Self {
        let beyond = from.wrapping_add(HALF);
        // SAFETY: the caller has the features and the elements in the mask.
        unsafe {
            if mask == u16::MAX {
                return Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(beyond));
            }
            let [low, high] = lanes(mask);
            let loaded = Pair(_mm256_maskload_ps(from, low), _mm256_maskload_ps(beyond, high));
            self.replaced(loaded, [low, high])
        }
    }

    #[inline(always)]
    unsafe fn load_even(self, from: *const f32, mask: u16) -> Self {
        // SAFETY: the caller has the features and the elements in the mask.
        unsafe {
            if mask == u16::MAX {
                let low = even(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF)));
                // The last register ends with the last element: there is none after it.
                let third = _mm256_loadu_ps(from.add(2 * HALF));
                let last = _mm256_loadu_ps(from.add(3 * HALF - 1));
                return Pair(low, in_order(_mm256_shuffle_ps::<0xd8>(third, last)));
            }
            let low = even(quarter(from, mask, 0), quarter(from, mask, 1));
            let high = even(quarter(from, mask, 2), quarter(from, mask, 3));
            let loaded = Pair(low, high);
            self.replaced(loaded, lanes(mask))
        }
    }

    #[inline(always)]
    unsafe fn gather(self, from: *const f32, offsets: &[isize; LINE], mask: u16) -> Self {
        // SAFETY: the caller has the features and the elements in the mask.
        unsafe {
            let mut elements = self.elements();
            each(mask, |i| elements[i] = *from.wrapping_offset(offsets[i]));
            Self::of(&elements)
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: u16) {
        // SAFETY: the caller has the features and the elements in the mask.
        unsafe {
            if mask == u16::MAX {
                _mm256_storeu_ps(to, self.0);
                return _mm256_storeu_ps(to.add(HALF), self.1);
            }
            // Masked stores are slow on many processors.
            let count = mask.trailing_ones() as usize;
            if mask == first(count) {
                return self.store_first(to, count);
            }
            let elements = self.elements();
            each(mask, |i| *to.add(i) = elements[i]);
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; LINE]) -> [Self; LINE] {
        // SAFETY: the caller has the features. Blocks of 8x8 are transposed and change places.
        unsafe {
            // Loops and no closures: functions of their own would lack the features.
            let mut columns = [Self::zero(); LINE];
            let (mut low, mut high) = ([_mm256_setzero_ps(); HALF], [_mm256_setzero_ps(); HALF]);
            for i in 0..HALF {
                (low[i], high[i]) = (rows[i].0, rows[i].1);
            }
            let (low, high) = (transpose8(low), transpose8(high));
            for i in 0..HALF {
                (columns[i].0, columns[HALF + i].0) = (low[i], high[i]);
            }
            let (mut low, mut high) = ([_mm256_setzero_ps(); HALF], [_mm256_setzero_ps(); HALF]);
            for i in 0..HALF {
                (low[i], high[i]) = (rows[HALF + i].0, rows[HALF + i].1);
            }
            let (low, high) = (transpose8(low), transpose8(high));
            for i in 0..HALF {
                (columns[i].1, columns[HALF + i].1) = (low[i], high[i]);
            }
            columns
        }
    }

    #[inline(always)]
    unsafe fn deal([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller has the features.
        unsafe {
            let low = turn_within(exchange([a.0, a.1, b.0, b.1]));
            let high = turn_within(exchange([c.0, c.1, d.0, d.1]));
            [
                Pair(low[0], high[0]),
                Pair(low[1], high[1]),
                Pair(low[2], high[2]),
                Pair(low[3], high[3]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn weave([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller has the features.
        unsafe {
            let low = gather_back(turn_within([a.0, b.0, c.0, d.0]));
            let high = gather_back(turn_within([a.1, b.1, c.1, d.1]));
            [
                Pair(low[0], low[1]),
                Pair(low[2], low[3]),
                Pair(high[0], high[1]),
                Pair(high[2], high[3]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn ahead(self, next: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { Pair(ahead(self.0, self.1), ahead(self.1, next.0)) }
    }

    #[inline(always)]
    unsafe fn halve(self, next: Self) -> [Self; 2] {
        // SAFETY: the caller has the features.
        unsafe {
            [
                Pair(even(self.0, self.1), even(next.0, next.1)),
                Pair(odd(self.0, self.1), odd(next.0, next.1)),
            ]
        }
    }
}

impl Pair {
    #[inline(always)]
    unsafe fn of(elements: &[f32; LINE]) -> Self {
        let from = elements.as_ptr();
        // SAFETY: the caller has the features, an array of a line two registers.
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF))) }
    }

    #[inline(always)]
    unsafe fn elements(self) -> [f32; LINE] {
        let mut elements = [0.0; LINE];
        // SAFETY: the caller has the features, an array of a line two registers.
        unsafe {
            _mm256_storeu_ps(elements.as_mut_ptr(), self.0);
            _mm256_storeu_ps(elements.as_mut_ptr().add(HALF), self.1);
        }
        elements
    }

    /// `self` with the selected elements of another.
    #[inline(always)]
    unsafe fn replaced(self, by: Self, [low, high]: [__m256i; 2]) -> Self {
        // SAFETY: the caller has the features.
        unsafe {
            let (low, high) = (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
            Pair(_mm256_blendv_ps(self.0, by.0, low), _mm256_blendv_ps(self.1, by.1, high))
        }
    }

    /// Writes the first `count` elements, fewer than a line, by powers of two.
    #[inline(always)]
    unsafe fn store_first(self, mut to: *mut f32, count: usize) {
        // SAFETY: the caller has the features and room for `count` elements.
        unsafe {
            let mut rest = self.0;
            if count & 8 != 0 {
                _mm256_storeu_ps(to, rest);
                (to, rest) = (to.add(8), self.1);
            }
            let mut few = _mm256_castps256_ps128(rest);
            if count & 4 != 0 {
                _mm_storeu_ps(to, few);
                (to, few) = (to.add(4), _mm256_extractf128_ps::<1>(rest));
            }
            if count & 2 != 0 {
                _mm_storel_pd(to.cast(), _mm_castps_pd(few));
                (to, few) = (to.add(2), _mm_movehl_ps(few, few));
            }
            if count & 1 != 0 {
                _mm_store_ss(to, few);
            }
        }
    }
}

/// The even ones of eight elements, as far as the mask's `i`-th four bits select them.
#[inline(always)]
unsafe fn quarter(from: *const f32, mask: u16, i: usize) -> __m256 {
    // SAFETY: the caller has the features and the elements in the mask.
    unsafe {
        let lanes = selected(mask >> (4 * i), _mm256_setr_epi32(1, 0, 2, 0, 4, 0, 8, 0));
        let even = _mm256_setr_epi32(-1, 0, -1, 0, -1, 0, -1, 0);
        _mm256_maskload_ps(from.wrapping_add(HALF * i), _mm256_and_si256(lanes, even))
    }
}

/// All bits of the lanes whose bit is set in `mask`.
#[inline(always)]
unsafe fn lanes(mask: u16) -> [__m256i; 2] {
    // SAFETY: the caller has the features.
    unsafe {
        let low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let high = _mm256_slli_epi32::<8>(low);
        [selected(mask, low), selected(mask, high)]
    }
}

/// All bits of the lanes whose one of `bits` is in `mask`, and of those without any.
#[inline(always)]
unsafe fn selected(mask: u16, bits: __m256i) -> __m256i {
    // SAFETY: the caller has the features.
    unsafe {
        let mask = _mm256_set1_epi32(i32::from(mask));
        _mm256_cmpeq_epi32(_mm256_and_si256(mask, bits), bits)
    }
}

/// The elements of a register from the second on, then the first of the next.
#[inline(always)]
unsafe fn ahead(a: __m256, next: __m256) -> __m256 {
    // SAFETY: the caller has the features. Halves are shifted by an element, each filled up from
    // the one after it.
    unsafe {
        let after = _mm256_castps_si256(_mm256_permute2f128_ps::<0x21>(a, next));
        _mm256_castsi256_ps(_mm256_alignr_epi8::<4>(after, _mm256_castps_si256(a)))
    }
}

/// The even elements of two registers, one after the other.
#[inline(always)]
unsafe fn even(low: __m256, high: __m256) -> __m256 {
    // SAFETY: the caller has the features.
    unsafe { in_order(_mm256_shuffle_ps::<0x88>(low, high)) }
}

/// The odd elements of two registers, one after the other.
#[inline(always)]
unsafe fn odd(low: __m256, high: __m256) -> __m256 {
    // SAFETY: the caller has the features.
    unsafe { in_order(_mm256_shuffle_ps::<0xdd>(low, high)) }
}

/// Pairs that were taken from two registers in turns, those of the first first.
#[inline(always)]
unsafe fn in_order(mixed: __m256) -> __m256 {
    // SAFETY: the caller has the features.
    unsafe { _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(_mm256_castps_pd(mixed))) }
}

/// Row `i` of the result is element `i` of every row.
#[inline(always)]
unsafe fn transpose8(rows: [__m256; HALF]) -> [__m256; HALF] {
    let [a, b, c, d, e, f, g, h] = rows;
    // SAFETY: the caller has the features. Within halves first, then halves are exchanged.
    unsafe {
        let (above, below) = (turn_within([a, b, c, d]), turn_within([e, f, g, h]));
        let mut columns = [_mm256_setzero_ps(); HALF];
        for i in 0..4 {
            columns[i] = _mm256_permute2f128_ps::<0x20>(above[i], below[i]);
            columns[4 + i] = _mm256_permute2f128_ps::<0x31>(above[i], below[i]);
        }
        columns
    }
}

/// Transposes the 4x4 elements that the same half of four registers holds, for both halves.
#[inline(always)]
unsafe fn turn_within([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller has the features.
    unsafe {
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab, cd),
            _mm256_shuffle_ps::<0xee>(ab, cd),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    }
}

/// Eight halves in order become those of which register `i` holds the `i`-th and the `i + 4`-th.
#[inline(always)]
unsafe fn exchange([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller has the features.
    unsafe {
        [
            _mm256_permute2f128_ps::<0x20>(a, c),
            _mm256_permute2f128_ps::<0x31>(a, c),
            _mm256_permute2f128_ps::<0x20>(b, d),
            _mm256_permute2f128_ps::<0x31>(b, d),
        ]
    }
}

/// The inverse of [`exchange`].
#[inline(always)]
unsafe fn gather_back([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller has the features.
    unsafe {
        [
            _mm256_permute2f128_ps::<0x20>(a, b),
            _mm256_permute2f128_ps::<0x20>(c, d),
            _mm256_permute2f128_ps::<0x31>(a, b),
            _mm256_permute2f128_ps::<0x31>(c, d),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernels run it: with the features.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn moved(data: &[f32; 2 * LINE - 1], mask: u16) -> [[f32; LINE]; 4] {
        let offsets = std::array::from_fn(|i| (i * 7 % 31) as isize);
        let from = data.as_ptr();
        // SAFETY: all elements are in the data, and a line in each result.
        unsafe {
            let line = Pair::of(&[-1.0; LINE]);
            let mut stored = [-2.0; LINE];
            line.load(from, u16::MAX).store(stored.as_mut_ptr(), mask);
            let loaded = line.load(from, mask).elements();
            let even = line.load_even(from, mask).elements();
            [loaded, even, line.gather(from, &offsets, mask).elements(), stored]
        }
    }

    fn in_plain_rust(data: &[f32; 2 * LINE - 1], mask: u16) -> [[f32; LINE]; 4] {
        let offsets = std::array::from_fn(|i| (i * 7 % 31) as isize);
        let from = data.as_ptr();
        // SAFETY: as above.
        unsafe {
            let line = [-1.0; LINE];
            let mut stored = [-2.0; LINE];
            line.load(from, u16::MAX).store(stored.as_mut_ptr(), mask);
            [
                line.load(from, mask),
                line.load_even(from, mask),
                line.gather(from, &offsets, mask),
                stored,
            ]
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn turned(rows: [[f32; LINE]; LINE]) -> [[[f32; LINE]; LINE]; 4] {
        // SAFETY: the caller has the features.
        unsafe {
            let mut lines = [Pair::zero(); LINE];
            for (line, row) in lines.iter_mut().zip(&rows) {
                *line = Pair::of(row);
            }
            let mut turned = [[[0.0; LINE]; LINE]; 4];
            for (to, line) in turned[0].iter_mut().zip(Pair::transpose(lines)) {
                *to = line.elements();
            }
            let four = [lines[0], lines[1], lines[2], lines[3]];
            for (to, line) in turned[1].iter_mut().zip(Pair::deal(four)) {
                *to = line.elements();
            }
            for (to, line) in turned[2].iter_mut().zip(Pair::weave(four)) {
                *to = line.elements();
            }
            turned[3][0] = lines[0].ahead(lines[1]).elements();
            turned
        }
    }

    #[test]
    fn lines_move_as_in_plain_rust() {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return eprintln!("skipped: this processor has no AVX2");
        }
        let data = std::array::from_fn(|i| i as f32);
        for mask in 0..=u16::MAX {
            // SAFETY: the features were found.
            let moved = unsafe { moved(&data, mask) };
            assert_eq!(moved, in_plain_rust(&data, mask), "mask {mask:016b}");
        }
        let rows = std::array::from_fn(|i| std::array::from_fn(|j| (LINE * i + j) as f32));
        // SAFETY: the features were found; plain Rust needs none.
        unsafe {
            let four = [rows[0], rows[1], rows[2], rows[3]];
            let [transposed, dealt, woven, ahead] = turned(rows);
            assert_eq!(transposed, <[f32; LINE]>::transpose(rows));
            assert_eq!(dealt[..4], <[f32; LINE]>::deal(four));
            assert_eq!(woven[..4], <[f32; LINE]>::weave(four));
            assert_eq!(ahead[0], rows[0].ahead(rows[1]));
        }
    }
}
