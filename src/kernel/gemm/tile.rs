//! The register tile: C[i, j] = Σₖ A[k, i] B[k, j], written once for all vector types.

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
    /// From one row to the next, and from one k.
    strides: [usize; 2],
}

impl<'a> Strip<'a> {
    /// A packed strip, `[k][rows]`.
    pub fn packed(data: &'a [f32], rows: usize) -> Self {
        Strip { data, rows, k: data.len() / rows, strides: [1, rows] }
    }

    /// Rows where they lie, `stride` apart.
    ///
    /// # Panics
    /// When the data is shorter.
    pub fn in_place(data: &'a [f32], [rows, k]: [usize; 2], stride: usize) -> Self {
        let end = rows.saturating_sub(1) * stride + k;
        assert!(end <= data.len(), "all rows lie in the data");
        Strip { data, rows, k, strides: [stride, 1] }
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
    let TileArgs { a: Strip { data, k, strides: [lane, step], .. }, mut b, c, row_stride, write } =
        args;
    let mut a = data.as_ptr();
    // SAFETY: the strips hold `k` rows of these widths, the result the rows written below.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        for _ in 0..k {
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
            a = a.wrapping_add(step);
            b = b.add(VECTORS * V::LANES);
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
