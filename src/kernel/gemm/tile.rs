//! The register tile: C[i, j] = Σₖ A[k, i] B[k, j], written once for all vector types.

use super::line::prefetch;

/// How many cycles ahead of use rows of A are asked for.
const PREFETCH_CYCLES: usize = 2;

/// A register of consecutive `f32`; the methods need the processor features of the type.
pub(super) trait Vector: Copy {
    /// Number of elements.
    const LANES: usize;
    /// Some of the lanes.
    type Mask: Copy;

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
    /// Selects the lanes `start..end`, of `LANES`.
    unsafe fn mask(start: usize, end: usize) -> Self::Mask;
    /// Reads the elements in the mask; zero outside.
    unsafe fn load_masked(from: *const f32, mask: Self::Mask) -> Self;
    /// Writes the elements in the mask.
    unsafe fn store_masked(self, to: *mut f32, mask: Self::Mask);
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
    /// Always `step`, but runs of `len` that are `stride` apart.
    Runs { step: usize, len: usize, stride: usize },
    /// Cycles that are `stride` apart, each with its own element at the same offsets; k begins with
    /// the `first` of them.
    Cycles { offsets: &'a [usize], first: usize, stride: usize },
}

impl Steps<'_> {
    /// From the strip's start, which is that of its first cycle, to the furthest element of a row.
    fn reach(&self, k: usize) -> usize {
        match *self {
            Steps::Runs { step, len, stride } => {
                let last = k.saturating_sub(1);
                last / len.max(1) * stride + k.min(len).saturating_sub(1) * step
            }
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
        let k = data.len() / rows;
        Strip { data, rows, k, stride: 1, steps: Steps::Runs { step: rows, len: k, stride: 0 } }
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

/// Most places of [`Hints`].
const HINTS_MAX: usize = 16;

/// Memory that is needed after a tile: the cache lines at some places, and at those of as many rows
/// as the tile has. Asked for all at once they would hold up the tile's own loads, so that it asks
/// for one at each step of k.
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    places: [*const f32; HINTS_MAX],
    len: usize,
    /// From one row to the next.
    stride: usize,
}

impl Hints {
    /// No places yet, for rows that are `stride` apart.
    pub fn new(stride: usize) -> Self {
        Hints { places: [std::ptr::null(); HINTS_MAX], len: 0, stride }
    }

    /// All places.
    pub fn places(&self) -> &[*const f32] {
        &self.places[..self.len.min(HINTS_MAX)]
    }

    /// The places so many elements further on.
    pub fn moved(mut self, by: usize) -> Self {
        for place in &mut self.places[..self.len.min(HINTS_MAX)] {
            *place = place.wrapping_add(by);
        }
        self
    }

    /// Adds a place, which may be any address, while there is room.
    pub fn push(&mut self, place: *const f32) {
        if let Some(slot) = self.places.get_mut(self.len) {
            *slot = place;
            self.len += 1;
        }
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
    /// What to ask for on the way.
    pub hints: &'a Hints,
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
    let TileArgs { a, mut b, c, row_stride, write, hints } = args;
    let Strip { data, k, stride: lane, steps, .. } = a;
    let mut a = data.as_ptr();
    let mut places = hints.places();
    // SAFETY: the strips hold `k` rows of these widths, the result the rows written below.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        match steps {
            Steps::Runs { step, len, stride } => {
                let mut left = k;
                while left > 0 {
                    let (mut at, mut run) = (a, len.min(left));
                    while let [place, rest @ ..] = places
                        && run > 0
                    {
                        let mut place = *place;
                        for _ in 0..ROWS.min(run) {
                            prefetch(place);
                            add_outer(&mut sums, (at, lane), b);
                            at = at.wrapping_add(step);
                            b = b.add(VECTORS * V::LANES);
                            place = place.wrapping_add(hints.stride);
                        }
                        (places, run) = (rest, run.saturating_sub(ROWS));
                    }
                    for _ in 0..run {
                        add_outer(&mut sums, (at, lane), b);
                        at = at.wrapping_add(step);
                        b = b.add(VECTORS * V::LANES);
                    }
                    a = a.wrapping_add(stride);
                    left = left.saturating_sub(len);
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
        for place in places {
            (0..ROWS).for_each(|row| prefetch(place.wrapping_add(row * hints.stride)));
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
