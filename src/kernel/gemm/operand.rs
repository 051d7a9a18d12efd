//! Where the elements of A and B lie.
//!
//! An operand is a matrix `[lane, k]`: lanes are rows of A or columns of B, k is summed over.
//! Windows of a convolution are never written out as a matrix; they are gathered when packed.

use super::line::LINE;

/// One side of a product, for every group of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a> {
    /// An ordinary matrix.
    Matrix(Matrix<'a>),
    /// Lanes are positions, k are (channel, tap).
    Windows(Windows<'a>),
    /// Lanes are (channel, tap), k are positions.
    WindowsTransposed(Windows<'a>),
}

/// A matrix whose k is up to three nested loops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    /// Element (0, 0) of group 0.
    pub start: usize,
    pub group_stride: usize,
    pub lane_stride: usize,
    /// Extents of k but the slowest, which is not needed to address.
    pub k_extents: [usize; 2],
    pub k_strides: [usize; 3],
}

/// Most elements of a cycle of k that is kept.
const CYCLE_MAX: usize = 64;

/// The inner two loops of a matrix's k.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cycle {
    offsets: [usize; CYCLE_MAX],
    len: usize,
}

impl Cycle {
    /// Where the elements of a cycle lie.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets[..self.len]
    }
}

impl Matrix<'_> {
    /// The inner two loops of k, unless they are too long to keep.
    pub(super) fn cycle(&self) -> Option<Cycle> {
        let len = self.k_extents[0] * self.k_extents[1];
        let mut offsets = [0; CYCLE_MAX];
        for (k, offset) in offsets.get_mut(..len)?.iter_mut().enumerate() {
            *offset = self.k_offset(k);
        }
        Some(Cycle { offsets, len })
    }

    /// From k = 0 to `k`.
    pub fn k_offset(&self, k: usize) -> usize {
        let [mid, inner] = self.k_extents;
        let [s0, s1, s2] = self.k_strides;
        k / (mid * inner) * s0 + k / inner % mid * s1 + k % inner * s2
    }
}

/// Every window position of a batch of images, for tap (i, j) and position (y, x) the element at
/// row `y·stride + origin + i·tap_step` of the plane, and zero outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows<'a> {
    pub data: &'a [f32],
    pub group_stride: usize,
    pub image_stride: usize,
    pub plane: [usize; 2],
    /// Positions of one image.
    pub grid: [usize; 2],
    pub stride: [usize; 2],
    pub origin: [isize; 2],
    pub taps: [usize; 2],
    pub tap_step: [isize; 2],
}

/// Where an index into (channel, tap row, tap column) stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tap {
    pub channel: usize,
    pub row: usize,
    pub column: usize,
}

impl Windows<'_> {
    /// Whether each position has one tap, its own element, and a line touches two images at most.
    pub fn is_plain(&self) -> bool {
        let same = self.plane == self.grid && self.stride == [1, 1];
        let long = self.plane[0] * self.plane[1] >= LINE;
        same && long && self.origin == [0, 0] && self.taps == [1, 1]
    }

    /// The tap with number `index`.
    pub(super) fn tap(&self, index: usize) -> Tap {
        let [rows, columns] = self.taps;
        let (row, column) = (index / columns % rows, index % columns);
        Tap { channel: index / (rows * columns), row, column }
    }

    /// The tap after `tap`.
    #[inline(always)]
    pub(super) fn next(&self, mut tap: Tap) -> Tap {
        tap.column += 1;
        if tap.column == self.taps[1] {
            (tap.column, tap.row) = (0, tap.row + 1);
            if tap.row == self.taps[0] {
                (tap.row, tap.channel) = (0, tap.channel + 1);
            }
        }
        tap
    }

    /// From a position's element under no tap to the one under `tap`, which may lie outside.
    #[inline(always)]
    pub(super) fn tap_offset(&self, tap: Tap) -> isize {
        let row = self.origin[0] + tap.row as isize * self.tap_step[0];
        let column = self.origin[1] + tap.column as isize * self.tap_step[1];
        (tap.channel * self.plane[0] * self.plane[1]) as isize
            + row * self.plane[1] as isize
            + column
    }
}

/// How lanes are cut into strips: neighbouring lanes stored as `[k][lane]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strips {
    /// Lanes of all strips but the last.
    pub width: usize,
    /// The last strip's width is a multiple of this.
    pub unit: usize,
}

impl Strips {
    /// The strips of `count` lanes: first lane, and width with padding.
    pub fn of(self, count: usize) -> impl Iterator<Item = (usize, usize)> {
        let padded = count.next_multiple_of(self.unit);
        (0..padded).step_by(self.width).map(move |at| (at, self.width.min(padded - at)))
    }
}
