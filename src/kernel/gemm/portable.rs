//! Plain Rust that compilers vectorise: tiles of up to 4 rows and 16 columns.

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

/// Eight elements, in as many registers as the target needs.
#[derive(Clone, Copy)]
struct Eight([f32; 8]);

impl Vector for Eight {
    const LANES: usize = 8;
    /// The first lane, and the one after the last.
    type Mask = [usize; 2];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Eight([0.0; 8])
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Eight([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has eight elements at `from`.
        Eight(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has eight elements at `to`.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // Where fusing is not an instruction it is a library call, far slower than two roundings.
        let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
        Eight(std::array::from_fn(|i| match fused {
            true => self.0[i].mul_add(b.0[i], c.0[i]),
            false => self.0[i] * b.0[i] + c.0[i],
        }))
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Eight(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }

    #[inline(always)]
    unsafe fn mask(start: usize, end: usize) -> [usize; 2] {
        [start, end]
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const f32, [start, end]: [usize; 2]) -> Self {
        let mut eight = [0.0; 8];
        for (i, to) in eight.iter_mut().enumerate().take(end).skip(start) {
            // SAFETY: the caller has the elements in the mask.
            *to = unsafe { *from.wrapping_add(i) };
        }
        Eight(eight)
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, [start, end]: [usize; 2]) {
        for (i, from) in self.0.into_iter().enumerate().take(end).skip(start) {
            // SAFETY: the caller has room for the elements in the mask.
            unsafe { *to.wrapping_add(i) = from };
        }
    }
}

unsafe fn run<const ROWS: usize, const VECTORS: usize>(args: TileArgs<'_>) {
    // SAFETY: the caller's contract is the tile's.
    unsafe { tile::<Eight, ROWS, VECTORS>(args) }
}

const fn row<const ROWS: usize>() -> [TileFn; 2] {
    [run::<ROWS, 1>, run::<ROWS, 2>]
}

unsafe fn pack(block: &Block<'_>, to: &mut [f32]) {
    // SAFETY: plain Rust needs no features.
    unsafe { block.pack::<[f32; LINE]>(to) }
}

unsafe fn pack_rows(side: &Side<'_>, to: &mut [f32]) {
    // SAFETY: plain Rust needs no features, and the rest of the contract is the caller's.
    unsafe { dots::pack_rows::<[f32; LINE]>(side, to) }
}

unsafe fn filter(from: &[f32], weights: &[f32], taps: &Taps, positions: Positions<'_>) {
    // SAFETY: plain Rust needs no features.
    unsafe { taps::filter::<Eight>(from, weights, taps, positions) }
}

unsafe fn correlate(ct: &[f32], extents: [usize; 2], from: &[f32], taps: &Taps, sums: &mut [f32]) {
    // SAFETY: plain Rust needs no features.
    unsafe { taps::correlate::<Eight>(ct, extents, from, taps, sums) }
}

unsafe fn pad(padded: &Padded, plane: &[f32], to: &mut [f32]) {
    // SAFETY: plain Rust needs no features.
    unsafe { planes::pad::<[f32; LINE]>(padded, plane, to) }
}

unsafe fn copy_rows(from: (&[f32], usize), to: (&mut [f32], usize), extents: [usize; 2]) {
    // SAFETY: plain Rust needs no features.
    unsafe { planes::copy_rows::<[f32; LINE]>(from, to, extents) }
}

unsafe fn transform<T: Transform>(from: &[f32], stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: plain Rust needs no features.
    unsafe { winograd::transform::<Eight, T>(from, stride, to, to_stride) }
}

unsafe fn scatter(lines: &[f32; LINES], mask: u16, to: *mut f32, stride: usize) {
    // SAFETY: plain Rust needs no features, and the rest of the contract is the caller's.
    unsafe { winograd::scatter::<[f32; LINE]>(lines, mask, to, stride) }
}

unsafe fn deal(row: &[f32], before: usize, to: &mut [f32], places: &Dealing<'_>) {
    // SAFETY: plain Rust needs no features.
    unsafe { winograd::deal::<[f32; LINE]>(row, before, to, places) }
}

unsafe fn weave(lines: &[f32; LINES], to: &mut [f32; 4 * STEP * LINE]) {
    // SAFETY: plain Rust needs no features.
    unsafe { winograd::weave::<[f32; LINE]>(lines, to) }
}

unsafe fn turn(lines: &[f32], tiles: usize, channels: u16, to: *mut f32, strides: [usize; 2]) {
    // SAFETY: plain Rust needs no features, and the rest of the contract is the caller's.
    unsafe { winograd::turn::<[f32; LINE]>(lines, tiles, channels, to, strides) }
}

/// The kernels, for any processor.
pub(super) const ISA: Isa = Isa {
    name: "portable",
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
    tiles: &[row::<1>(), row::<2>(), row::<3>(), row::<4>()],
};
