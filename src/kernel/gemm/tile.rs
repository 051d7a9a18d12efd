//! The register tile: C[i, j] = Σₖ A[k, i] B[k, j], written once for all vector types.

use super::line::prefetch;

/// How many cycles ahead of use rows of A are asked for.
const PREFETCH_CYCLES: usize = 2;

/// A register of consecutive `f32`; the methods need the processor features of the type.
pub(super) trait Vector: Copy {
    /// Number of elements.
    const LANES: usize;

    /// All zero.
    unsafe fn zero() -> Self;
    /// `value` in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// Reads `LANES` elements.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` elements.
    unsafe fn store(self, to: *mut f32);
    /// `self · b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self + b`
    unsafe fn add(self, b: Self) -> Self;
    /// The bits that are set in both.
    unsafe fn and(self, mask: Self) -> Self;
    /// The sum of all lanes of each.
    unsafe fn sums(four: [Self; 4]) -> [f32; 4];
}

/// Whether a tile replaces or is added to what its destination holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// The first block of K.
    Set,
    /// Every later one.
    Add,
}

/// Some rows of A and a run of k.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    data: &'a [f32],
    pub rows: usize,
    pub k: usize,
    /// From one row to the next.
    stride: usize,
    steps: Steps<'a>,
}

/// From one k to the next in A.
#[derive(Clone, Copy)]
pub(crate) enum Steps<'a> {
    /// Always as far.
    Even(usize),
    /// Cycles that are `stride` apart, each with its own element at the same offsets; k begins with
    /// the `first` of them.
    Cycles { offsets: &'a [usize], first: usize, stride: usize },
}

impl Steps<'_> {
    /// From the strip's start, which is that of its first cycle, to the furthest element of a row.
    fn reach(&self, k: usize) -> usize {
        match *self {
            Steps::Even(step) => k.saturating_sub(1) * step,
            Steps::Cycles { offsets, first, stride } => {
                let last = offsets.iter().max().copied().unwrap_or(0);
                (first + k).saturating_sub(1) / offsets.len() * stride + last
            }
        }
    }
}

impl<'a> Strip<'a> {
    /// A packed strip, `[k][rows]`.
    pub fn packed(data: &'a [f32], rows: usize) -> Self {
        Strip { data, rows, k: data.len() / rows, stride: 1, steps: Steps::Even(rows) }
    }

    /// Rows where they lie, `stride` apart.
    ///
    /// # Panics
    /// When the data is shorter.
    pub fn in_place(
        data: &'a [f32],
        [rows, k]: [usize; 2],
        stride: usize,
        steps: Steps<'a>,
    ) -> Self {
        let last = rows.saturating_sub(1) * stride + steps.reach(k);
        assert!(last < data.len(), "all rows lie in the data");
        Strip { data, rows, k, stride, steps }
    }
}

/// The operands of one tile.
#[derive(Clone, Copy)]
pub(crate) struct TileArgs<'a> {
    /// Rows of A.
    pub a: Strip<'a>,
    /// B strip `[k][columns]`.
    pub b: *const f32,
    /// First element of the result.
    pub c: *mut f32,
    /// Elements from one row of the result to the next.
    pub row_stride: usize,
    /// What happens to the old result.
    pub write: Write,
}

/// A tile kernel of fixed extents.
///
/// # Safety
/// The processor has the kernel's features, and the pointers are valid for its extents.
pub(crate) type TileFn = unsafe fn(TileArgs<'_>);

/// The tile of `ROWS` rows and `VECTORS` registers of columns.
///
/// # Safety
/// As for [`TileFn`]. Inlined into callers that enable the features of `V`.
#[inline(always)]
pub(super) unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(args: TileArgs<'_>) {
    let TileArgs { a: Strip { data, k, stride: lane, steps, .. }, mut b, c, row_stride, write } =
        args;
    let mut a = data.as_ptr();
    // SAFETY: the strips hold `k` rows of these widths, the result the rows written below.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        match steps {
            Steps::Even(step) => {
                for _ in 0..k {
                    add_outer(&mut sums, (a, lane), b);
                    a = a.wrapping_add(step);
                    b = b.add(VECTORS * V::LANES);
                }
            }
            Steps::Cycles { offsets, first, stride } => {
                let mut at = first;
                for _ in 0..k {
                    add_outer(&mut sums, (a.add(*offsets.get_unchecked(at)), lane), b);
                    b = b.add(VECTORS * V::LANES);
                    at += 1;
                    if at == offsets.len() {
                        (at, a) = (0, a.wrapping_add(stride));
                        for i in 0..ROWS {
                            prefetch(a.wrapping_add(PREFETCH_CYCLES * stride + i * lane));
                        }
                    }
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                let to = c.add(i * row_stride + j * V::LANES);
                match write {
                    Write::Set => sum.store(to),
                    Write::Add => sum.add(V::load(to)).store(to),
                }
            }
        }
    }
}

/// Adds the products of one k: those of each row's element in A with the registers of B.
#[inline(always)]
unsafe fn add_outer<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    (a, lane): (*const f32, usize),
    b: *const f32,
) {
    // SAFETY: the caller has the features, an element in each row and all registers of B.
    unsafe {
        let mut columns = [V::zero(); VECTORS];
        for (j, column) in columns.iter_mut().enumerate() {
            *column = V::load(b.add(j * V::LANES));
        }
        for (i, row) in sums.iter_mut().enumerate() {
            let factor = V::splat(*a.add(i * lane));
            for (sum, &column) in row.iter_mut().zip(&columns) {
                *sum = factor.mul_add(column, *sum);
            }
        }
    }
}
