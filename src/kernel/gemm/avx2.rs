//! AVX2 with FMA: tiles of up to 6 rows and 16 columns (12 sums in 16 registers).

mod line;

use std::arch::x86_64::*;

use self::line::Pair;
use super::dots::{self, Side};
use super::isa::Isa;
use super::line::LINE;
use super::pack::Block;
use super::planes::{self, Padded};
use super::taps::{self, Positions, Taps};
use super::tile::{TileArgs, TileFn, Vector, tile};
use super::winograd::{
    self, Cotangent, Dealing, Filter, FilterGrad, Input, LINES, Output, STEP, Transform, Winograd,
};

impl Vector for __m256 {
    const LANES: usize = 8;
    type Mask = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has the features and 8 elements at `from`.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has the features and 8 elements at `to`.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: the caller has the features.
        unsafe { _mm256_add_ps(self, b) }
    }

    #[inline(always)]
    unsafe fn mask(start: usize, end: usize) -> __m256i {
        // SAFETY: the caller has the features.
        unsafe {
            let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(start as i32), numbers);
            let until = _mm256_cmpgt_epi32(_mm256_set1_epi32(end as i32), numbers);
            _mm256_andnot_si256(before, until)
        }
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const f32, mask: __m256i) -> Self {
        // SAFETY: the caller has the features and the elements in the mask.
        unsafe { _mm256_maskload_ps(from, mask) }
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, mask: __m256i) {
        // SAFETY: the caller has the features and the elements in the mask.
        unsafe { _mm256_maskstore_ps(to, mask, self) }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn run<const ROWS: usize, const VECTORS: usize>(args: TileArgs<'_>) {
    // SAFETY: the caller's contract is the tile's.
    unsafe { tile::<__m256, ROWS, VECTORS>(args) }
}

const fn row<const ROWS: usize>() -> [TileFn; 2] {
    [run::<ROWS, 1>, run::<ROWS, 2>]
}

#[target_feature(enable = "avx2,fma")]
unsafe fn pack(block: &Block<'_>, to: &mut [f32]) {
    // SAFETY: the caller has the features.
    unsafe { block.pack::<Pair>(to) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn pack_rows(side: &Side<'_>, to: &mut [f32]) {
    // SAFETY: the caller has the features, and the rest of the contract is the caller's.
    unsafe { dots::pack_rows::<Pair>(side, to) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn filter(from: &[f32], weights: &[f32], taps: &Taps, positions: Positions<'_>) {
    // SAFETY: the caller has the features.
    unsafe { taps::filter::<__m256>(from, weights, taps, positions) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn correlate(ct: &[f32], extents: [usize; 2], from: &[f32], taps: &Taps, sums: &mut [f32]) {
    // SAFETY: the caller has the features.
    unsafe { taps::correlate::<__m256>(ct, extents, from, taps, sums) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn pad(padded: &Padded, plane: &[f32], to: &mut [f32]) {
    // SAFETY: the caller has the features.
    unsafe { planes::pad::<Pair>(padded, plane, to) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn copy_rows(from: (&[f32], usize), to: (&mut [f32], usize), extents: [usize; 2]) {
    // SAFETY: the caller has the features.
    unsafe { planes::copy_rows::<Pair>(from, to, extents) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn transform<T: Transform>(from: &[f32], stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller has the features.
    unsafe { winograd::transform::<__m256, T>(from, stride, to, to_stride) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn scatter(lines: &[f32; LINES], mask: u16, to: *mut f32, stride: usize) {
    // SAFETY: the caller has the features, and the rest of the contract is the caller's.
    unsafe { winograd::scatter::<Pair>(lines, mask, to, stride) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn deal(row: &[f32], before: usize, to: &mut [f32], places: &Dealing<'_>) {
    // SAFETY: the caller has the features.
    unsafe { winograd::deal::<Pair>(row, before, to, places) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn weave(lines: &[f32; LINES], to: &mut [f32; 4 * STEP * LINE]) {
    // SAFETY: the caller has the features.
    unsafe { winograd::weave::<Pair>(lines, to) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn turn(lines: &[f32], tiles: usize, channels: u16, to: *mut f32, strides: [usize; 2]) {
    // SAFETY: the caller has the features, and the rest of the contract is the caller's.
    unsafe { winograd::turn::<Pair>(lines, tiles, channels, to, strides) }
}

/// The kernels; to be used only where the processor has AVX2 and FMA.
pub(super) const ISA: Isa = Isa {
    name: "avx2",
    lanes: 8,
    columns: 16,
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
    tiles: &[row::<1>(), row::<2>(), row::<3>(), row::<4>(), row::<5>(), row::<6>()],
};
