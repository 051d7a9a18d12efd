//! AVX-512: tiles of up to 14 rows and 32 columns (28 sums in 32 registers).

use std::arch::x86_64::*;

use super::dots::{self, Side};
use super::isa::Isa;
use super::line::{LINE, Line, first};
use super::pack::Block;
use super::planes::{self, Padded};
use super::taps::{self, Positions, Taps};
use super::tile::{TileArgs, TileFn, Vector, tile};
use super::winograd::{
    self, Cotangent, Dealing, Filter, FilterGrad, Input, LINES, Output, STEP, Transform, Winograd,
};

impl Vector for __m512 {
    const LANES: usize = 16;
    type Mask = u16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the feature.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the feature.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has the feature and 16 elements at `from`.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has the feature and 16 elements at `to`.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller has the feature.
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller has the feature.
        unsafe { _mm512_add_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn mask(start: usize, end: usize) -> u16 {
        first(end) & !first(start)
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const f32, mask: u16) -> Self {
        // SAFETY: the caller has the feature and the elements in the mask.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, mask: u16) {
        // SAFETY: the caller has the feature and the elements in the mask.
        unsafe { _mm512_mask_storeu_ps(to, mask, self) }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn run<const ROWS: usize, const VECTORS: usize>(args: TileArgs<'_>) {
    // SAFETY: the caller's contract is the tile's.
    unsafe { tile::<__m512, ROWS, VECTORS>(args) }
}

const fn row<const ROWS: usize>() -> [TileFn; 2] {
    [run::<ROWS, 1>, run::<ROWS, 2>]
}

impl Line for __m512 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the feature.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32, mask: u16) -> Self {
        // SAFETY: the caller has the feature and the elements in the mask.
        unsafe {
            match mask {
                u16::MAX => _mm512_loadu_ps(from),
                _ => _mm512_mask_loadu_ps(self, mask, from),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_even(self, from: *const f32, mask: u16) -> Self {
        let spread = spread(mask);
        // SAFETY: the caller has the feature and the elements in the mask.
        unsafe {
            let low = _mm512_maskz_loadu_ps(spread as u16, from);
            let high = _mm512_maskz_loadu_ps((spread >> 16) as u16, from.wrapping_add(LINE));
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let line = _mm512_permutex2var_ps(low, even, high);
            _mm512_mask_mov_ps(self, mask, line)
        }
    }

    #[inline(always)]
    unsafe fn gather(self, from: *const f32, offsets: &[isize; LINE], mask: u16) -> Self {
        let at = offsets.as_ptr().cast::<__m512i>();
        // SAFETY: the caller has the feature and the elements in the mask.
        unsafe {
            let (low, high) = (_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1)));
            let zero = _mm256_setzero_ps();
            let low = _mm512_mask_i64gather_ps::<4>(zero, mask as u8, low, from);
            let high = _mm512_mask_i64gather_ps::<4>(zero, (mask >> 8) as u8, high, from);
            let low = _mm512_castps256_ps512(low);
            let line = _mm512_insertf64x4::<1>(_mm512_castps_pd(low), _mm256_castps_pd(high));
            _mm512_mask_mov_ps(self, mask, _mm512_castpd_ps(line))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: u16) {
        // SAFETY: the caller has the feature and the elements in the mask.
        unsafe {
            match mask {
                u16::MAX => _mm512_storeu_ps(to, self),
                _ => _mm512_mask_storeu_ps(to, mask, self),
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; LINE]) -> [Self; LINE] {
        // SAFETY: the caller has the feature. Pairs of rows are interleaved, then pairs of pairs,
        // then quarters of registers are exchanged twice.
        unsafe {
            let mut pairs = rows;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
            }
            let mut fours = pairs;
            for i in 0..8 {
                let (from, to) = (i / 2 * 4 + i % 2, i / 2 * 4 + i % 2 * 2);
                let low = _mm512_castps_pd(pairs[from]);
                let high = _mm512_castps_pd(pairs[from + 2]);
                fours[to] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                fours[to + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
            }
            let mut eights = fours;
            for i in 0..8 {
                let at = i / 4 * 8 + i % 4;
                eights[at] = _mm512_shuffle_f32x4::<0x88>(fours[at], fours[at + 4]);
                eights[at + 4] = _mm512_shuffle_f32x4::<0xdd>(fours[at], fours[at + 4]);
            }
            let mut columns = eights;
            for i in 0..8 {
                columns[i] = _mm512_shuffle_f32x4::<0x88>(eights[i], eights[i + 8]);
                columns[i + 8] = _mm512_shuffle_f32x4::<0xdd>(eights[i], eights[i + 8]);
            }
            columns
        }
    }

    #[inline(always)]
    unsafe fn deal(lines: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller has the feature.
        unsafe { turn_within(turn_quarters(lines)) }
    }

    #[inline(always)]
    unsafe fn weave(lines: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller has the feature.
        unsafe { turn_quarters(turn_within(lines)) }
    }

    #[inline(always)]
    unsafe fn ahead(self, next: Self) -> Self {
        // SAFETY: the caller has the feature.
        unsafe {
            let (line, next) = (_mm512_castps_si512(self), _mm512_castps_si512(next));
            _mm512_castsi512_ps(_mm512_alignr_epi32::<1>(next, line))
        }
    }

    #[inline(always)]
    unsafe fn halve(self, next: Self) -> [Self; 2] {
        // SAFETY: the caller has the feature.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            [_mm512_permutex2var_ps(self, even, next), _mm512_permutex2var_ps(self, odd, next)]
        }
    }
}

/// Transposes the 4x4 elements that the same quarter of four registers holds, for all quarters.
#[inline(always)]
unsafe fn turn_within([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: the caller has the feature.
    unsafe {
        let pairs = [
            _mm512_unpacklo_ps(a, b),
            _mm512_unpackhi_ps(a, b),
            _mm512_unpacklo_ps(c, d),
            _mm512_unpackhi_ps(c, d),
        ]
        .map(|pair| _mm512_castps_pd(pair));
        [
            _mm512_unpacklo_pd(pairs[0], pairs[2]),
            _mm512_unpackhi_pd(pairs[0], pairs[2]),
            _mm512_unpacklo_pd(pairs[1], pairs[3]),
            _mm512_unpackhi_pd(pairs[1], pairs[3]),
        ]
        .map(|four| _mm512_castpd_ps(four))
    }
}

/// Transposes the 4x4 quarters of four registers.
#[inline(always)]
unsafe fn turn_quarters([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: the caller has the feature.
    unsafe {
        let low = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
        let high = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
        [
            _mm512_shuffle_f32x4::<0x88>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0x88>(high[0], high[1]),
            _mm512_shuffle_f32x4::<0xdd>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0xdd>(high[0], high[1]),
        ]
    }
}

/// Bit `2i` of the result is bit `i` of `mask`.
#[inline(always)]
fn spread(mask: u16) -> u32 {
    let mut bits = u32::from(mask);
    bits = (bits | bits << 8) & 0x00ff_00ff;
    bits = (bits | bits << 4) & 0x0f0f_0f0f;
    bits = (bits | bits << 2) & 0x3333_3333;
    (bits | bits << 1) & 0x5555_5555
}

#[target_feature(enable = "avx512f")]
unsafe fn pack(block: &Block<'_>, to: &mut [f32]) {
    // SAFETY: the caller has the feature.
    unsafe { block.pack::<__m512>(to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn pack_rows(side: &Side<'_>, to: &mut [f32]) {
    // SAFETY: the caller has the feature, and the rest of the contract is the caller's.
    unsafe { dots::pack_rows::<__m512>(side, to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn filter(from: &[f32], weights: &[f32], taps: &Taps, positions: Positions<'_>) {
    // SAFETY: the caller has the feature.
    unsafe { taps::filter::<__m512>(from, weights, taps, positions) }
}

#[target_feature(enable = "avx512f")]
unsafe fn correlate(ct: &[f32], extents: [usize; 2], from: &[f32], taps: &Taps, sums: &mut [f32]) {
    // SAFETY: the caller has the feature.
    unsafe { taps::correlate::<__m512>(ct, extents, from, taps, sums) }
}

#[target_feature(enable = "avx512f")]
unsafe fn pad(padded: &Padded, plane: &[f32], to: &mut [f32]) {
    // SAFETY: the caller has the feature.
    unsafe { planes::pad::<__m512>(padded, plane, to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn copy_rows(from: (&[f32], usize), to: (&mut [f32], usize), extents: [usize; 2]) {
    // SAFETY: the caller has the feature.
    unsafe { planes::copy_rows::<__m512>(from, to, extents) }
}

#[target_feature(enable = "avx512f")]
unsafe fn transform<T: Transform>(from: &[f32], stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller has the feature.
    unsafe { winograd::transform::<__m512, T>(from, stride, to, to_stride) }
}

#[target_feature(enable = "avx512f")]
unsafe fn scatter(lines: &[f32; LINES], mask: u16, to: *mut f32, stride: usize) {
    // SAFETY: the caller has the feature, and the rest of the contract is the caller's.
    unsafe { winograd::scatter::<__m512>(lines, mask, to, stride) }
}

#[target_feature(enable = "avx512f")]
unsafe fn deal(row: &[f32], before: usize, to: &mut [f32], places: &Dealing<'_>) {
    // SAFETY: the caller has the feature.
    unsafe { winograd::deal::<__m512>(row, before, to, places) }
}

#[target_feature(enable = "avx512f")]
unsafe fn weave(lines: &[f32; LINES], to: &mut [f32; 4 * STEP * LINE]) {
    // SAFETY: the caller has the feature.
    unsafe { winograd::weave::<__m512>(lines, to) }
}

#[target_feature(enable = "avx512f")]
unsafe fn turn(lines: &[f32], tiles: usize, channels: u16, to: *mut f32, strides: [usize; 2]) {
    // SAFETY: the caller has the feature, and the rest of the contract is the caller's.
    unsafe { winograd::turn::<__m512>(lines, tiles, channels, to, strides) }
}

/// The kernels; to be used only where the processor has AVX-512F.
pub(super) const ISA: Isa = Isa {
    name: "avx512",
    lanes: 16,
    columns: 32,
    pack,
    pack_rows,
    filter,
    correlate,
    pad,
    copy_rows,
    winograd: Winograd {
        input: transform::<Input>,
        filter: transform::<Filter>,
        output: transform::<Output>,
        cotangent: transform::<Cotangent>,
        filter_grad: transform::<FilterGrad>,
        scatter,
        deal,
        weave,
        turn,
    },
    tiles: &[
        row::<1>(),
        row::<2>(),
        row::<3>(),
        row::<4>(),
        row::<5>(),
        row::<6>(),
        row::<7>(),
        row::<8>(),
        row::<9>(),
        row::<10>(),
        row::<11>(),
        row::<12>(),
        row::<13>(),
        row::<14>(),
    ],
};
