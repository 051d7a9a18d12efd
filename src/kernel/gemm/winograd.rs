//! The transforms of Winograd's minimal filtering (Lavin and Gray 2016), sixteen tiles at a time.
//!
//! A 3x3 filter over a 6x6 tile gives 4x4 results. Both are read as polynomials in two variables,
//! evaluated at six points, multiplied there, and interpolated: 36 products instead of 144. The
//! same points serve the filter's cotangent, where a 4x4 tile of the result's cotangent is laid
//! over the 6x6 tile and gives 3x3. The points 0, ±2/3, ±3/2 and infinity keep rounding errors
//! within twice those of plain sums (compare Barabasz et al. 2020); the usual 0, ±1, ±2 would
//! double them again.

use super::line::{LINE, Line, first, prefetch};
use super::tile::Vector;

/// Points of a tile.
pub(crate) const POINTS: usize = 36;
/// Length of up to [`POINTS`] lines.
pub(crate) const LINES: usize = POINTS * LINE;
/// Positions of a result's tile along an axis; also what a plane is dealt into.
pub(crate) const STEP: usize = 4;
/// Positions of an input's tile along an axis.
pub(crate) const REACH: usize = STEP + 2;

/// How many elements ahead of use a plane is asked for; a processor does not foresee masked loads.
const PREFETCH: usize = 512;

/// The points beside 0 and infinity, each with both signs. Their product is 1.
const A: f32 = 2.0 / 3.0;
const B: f32 = 3.0 / 2.0;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// Transforms lines: `from, stride, to, stride`. Both are row-major, and neighbours are a stride
/// apart.
///
/// # Safety
/// The processor has the kernel's features, and all lines of the result may be written.
pub(crate) type TransformFn = unsafe fn(&[f32], usize, *mut f32, usize);

/// Writes the first of each of [`POINTS`] lines: `lines, mask, to, stride`. Line `i` goes to
/// `to + i·stride`; elements outside the mask are not written.
///
/// # Safety
/// The processor has the kernel's features, and the elements in the mask may be written.
pub(crate) type ScatterFn = unsafe fn(&[f32; LINES], u16, *mut f32, usize);

/// Deals a row with zeros around it out: `row, before, to, places`. Element `4i + j` of the row,
/// counted from `before` zeros before its first, goes to element `i` of the `j`-th position, for
/// each `j` below [`Dealing::positions`].
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type DealFn = unsafe fn(&[f32], usize, &mut [f32], &Dealing<'_>);

/// Where a row is dealt to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dealing<'a> {
    /// Where the first position begins, for each place that the row is dealt to.
    pub starts: &'a [usize],
    /// From one position to the next.
    pub stride: usize,
    /// [`STEP`], or [`REACH`] where tiles reach into their neighbours.
    pub positions: usize,
    /// Lines that are written to each position.
    pub count: usize,
}

/// The inverse for the first 16 lines, which are four rows of four: element `j` of row `i`, tile
/// `t`, goes to `to[i·64 + 4t + j]`.
///
/// # Safety
/// The processor has the kernel's features.
pub(crate) type WeaveFn = unsafe fn(&[f32; LINES], &mut [f32; 4 * STEP * LINE]);

/// Turns tiles and channels: `lines, tiles, channels, to, [stride, width]`. The lines are those of
/// up to 16 channels, [`LINES`] each. For each point, the `i`-th of the first `tiles` tiles gets
/// its channels in the mask written next to each other, at `to + point·stride + i·width`.
///
/// # Safety
/// The processor has the kernel's features, and what is written may be.
pub(crate) type TurnFn = unsafe fn(&[f32], usize, u16, *mut f32, [usize; 2]);

/// The transforms of one instruction set.
#[derive(Debug)]
pub(crate) struct Winograd {
    /// 6x6 inputs to their points.
    pub input: TransformFn,
    /// 3x3 filters to their points.
    pub filter: TransformFn,
    /// Points to 4x4 results.
    pub output: TransformFn,
    /// 4x4 cotangents of results to their points.
    pub cotangent: TransformFn,
    /// Points to 3x3 cotangents of filters.
    pub filter_grad: TransformFn,
    pub scatter: ScatterFn,
    pub deal: DealFn,
    pub weave: WeaveFn,
    pub turn: TurnFn,
}

/// A transform along one axis, of `FROM` numbers to `TO`; those beyond are not looked at.
pub(super) trait Transform {
    const FROM: usize;
    const TO: usize;

    /// # Safety
    /// The processor has the features of `V`.
    unsafe fn apply<V: Vector>(from: [V; 6]) -> [V; 6];
}

/// `a + factor · b`
#[inline(always)]
unsafe fn plus<V: Vector>(a: V, factor: f32, b: V) -> V {
    // SAFETY: the features are the caller's.
    unsafe { V::splat(factor).mul_add(b, a) }
}

#[inline(always)]
unsafe fn times<V: Vector>(factor: f32, b: V) -> V {
    // SAFETY: the features are the caller's.
    unsafe { V::splat(factor).mul_add(b, V::zero()) }
}

/// What a tile of the input is worth at each point: the transpose of interpolation.
pub(super) struct Input;

impl Transform for Input {
    const FROM: usize = 6;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>(d: [V; 6]) -> [V; 6] {
        // SAFETY: the features are the caller's.
        unsafe {
            let (a_even, a_odd) = (plus(d[4], -B2, d[2]), plus(d[3], -B2, d[1]));
            let (b_even, b_odd) = (plus(d[4], -A2, d[2]), plus(d[3], -A2, d[1]));
            [
                plus(d[0].add(d[4]), -(A2 + B2), d[2]),
                plus(a_even, A, a_odd),
                plus(a_even, -A, a_odd),
                plus(b_even, B, b_odd),
                plus(b_even, -B, b_odd),
                plus(d[1].add(d[5]), -(A2 + B2), d[3]),
            ]
        }
    }
}

/// One over the product of the differences of ±A to the other points, and of ±B.
const SCALE_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const SCALE_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// A polynomial's values `even ± odd` at a point of both signs, scaled.
#[inline(always)]
unsafe fn both<V: Vector>(even: V, point: f32, odd: V, scale: f32) -> [V; 2] {
    // SAFETY: the features are the caller's.
    unsafe {
        let even = times(scale, even);
        [plus(even, scale * point, odd), plus(even, -scale * point, odd)]
    }
}

/// A filter of three taps at the points.
pub(super) struct Filter;

impl Transform for Filter {
    const FROM: usize = 3;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>(g: [V; 6]) -> [V; 6] {
        // SAFETY: the features are the caller's.
        unsafe {
            let [a, minus_a] = both(plus(g[0], A2, g[2]), A, g[1], SCALE_A);
            let [b, minus_b] = both(plus(g[0], B2, g[2]), B, g[1], SCALE_B);
            [g[0], a, minus_a, b, minus_b, g[2]]
        }
    }
}

/// Four cotangents at the points.
pub(super) struct Cotangent;

impl Transform for Cotangent {
    const FROM: usize = 4;
    const TO: usize = 6;

    #[inline(always)]
    unsafe fn apply<V: Vector>(g: [V; 6]) -> [V; 6] {
        // SAFETY: the features are the caller's.
        unsafe {
            let [a, minus_a] = both(plus(g[0], A2, g[2]), A, plus(g[1], A2, g[3]), SCALE_A);
            let [b, minus_b] = both(plus(g[0], B2, g[2]), B, plus(g[1], B2, g[3]), SCALE_B);
            [g[0], a, minus_a, b, minus_b, g[3]]
        }
    }
}

/// Sums and differences of the values at a point of both signs: those at ±A, then those at ±B.
#[inline(always)]
unsafe fn halves<V: Vector>(m: [V; 6]) -> [V; 4] {
    // SAFETY: the features are the caller's.
    unsafe { [m[1].add(m[2]), plus(m[1], -1.0, m[2]), m[3].add(m[4]), plus(m[3], -1.0, m[4])] }
}

/// The four results of the products at the points.
pub(super) struct Output;

impl Transform for Output {
    const FROM: usize = 6;
    const TO: usize = 4;

    #[inline(always)]
    unsafe fn apply<V: Vector>(m: [V; 6]) -> [V; 6] {
        // SAFETY: the features are the caller's.
        unsafe {
            let [a_even, a_odd, b_even, b_odd] = halves(m);
            [
                m[0].add(a_even).add(b_even),
                plus(times(A, a_odd), B, b_odd),
                plus(times(A2, a_even), B2, b_even),
                plus(plus(m[5], A2 * A, a_odd), B2 * B, b_odd),
                V::zero(),
                V::zero(),
            ]
        }
    }
}

/// The three taps of the products at the points.
pub(super) struct FilterGrad;

impl Transform for FilterGrad {
    const FROM: usize = 6;
    const TO: usize = 3;

    #[inline(always)]
    unsafe fn apply<V: Vector>(m: [V; 6]) -> [V; 6] {
        // SAFETY: the features are the caller's.
        unsafe {
            let [a_even, a_odd, b_even, b_odd] = halves(m);
            [
                m[0].add(a_even).add(b_even),
                plus(times(A, a_odd), B, b_odd),
                plus(plus(m[5], A2, a_even), B2, b_even),
                V::zero(),
                V::zero(),
                V::zero(),
            ]
        }
    }
}

/// See [`TransformFn`].
#[inline(always)]
pub(super) unsafe fn transform<V: Vector, T: Transform>(
    from: &[f32],
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    let reach = (T::FROM * T::FROM - 1) * from_stride;
    assert!(reach + LINE <= from.len(), "all lines lie in the slice");
    for at in (0..LINE).step_by(V::LANES) {
        // SAFETY: lines were checked to lie in `from`; the rest is the caller's contract.
        unsafe {
            // Transformed columns, row by row: the second pass finds a row without picking it from
            // all columns.
            let mut rows = [[V::zero(); 6]; 6];
            for j in 0..T::FROM {
                let mut column = [V::zero(); 6];
                for (i, line) in column.iter_mut().enumerate().take(T::FROM) {
                    *line = V::load(from.as_ptr().add((i * T::FROM + j) * from_stride + at));
                }
                for (row, value) in rows.iter_mut().zip(T::apply(column)) {
                    row[j] = value;
                }
            }
            for (i, row) in rows.into_iter().enumerate().take(T::TO) {
                for (j, line) in T::apply(row).iter().enumerate().take(T::TO) {
                    line.store(to.add((i * T::TO + j) * to_stride + at));
                }
            }
        }
    }
}

/// See [`ScatterFn`].
#[inline(always)]
pub(super) unsafe fn scatter<L: Line>(
    lines: &[f32; LINES],
    mask: u16,
    to: *mut f32,
    stride: usize,
) {
    for (point, line) in lines.chunks_exact(LINE).enumerate() {
        // SAFETY: a chunk is a line; the rest is the caller's contract.
        unsafe {
            let line = L::zero().load(line.as_ptr(), u16::MAX);
            line.store(to.wrapping_add(point * stride), mask);
        }
    }
}

/// See [`DealFn`].
#[inline(always)]
pub(super) unsafe fn deal<L: Line>(row: &[f32], before: usize, to: &mut [f32], places: &Dealing) {
    let &Dealing { starts, stride, positions, count } = places;
    assert!((STEP..=REACH).contains(&positions), "positions are those of a tile");
    for start in starts {
        let reach = start + (positions - 1) * stride + count * LINE;
        assert!(reach <= to.len(), "all positions have room");
    }
    // SAFETY: the positions were checked; the features are the caller's.
    unsafe {
        let mut lines = dealt::<L>(row, before, 0);
        for index in 0..count {
            let next = dealt::<L>(row, before, index + 1);
            let all = [
                lines[0],
                lines[1],
                lines[2],
                lines[3],
                lines[0].ahead(next[0]),
                lines[1].ahead(next[1]),
            ];
            for start in starts {
                for (position, line) in all.into_iter().enumerate().take(positions) {
                    let at = start + position * stride + index * LINE;
                    line.store(to.as_mut_ptr().add(at), u16::MAX);
                }
            }
            lines = next;
        }
    }
}

/// Four lines of a row, dealt.
#[inline(always)]
unsafe fn dealt<L: Line>(row: &[f32], before: usize, index: usize) -> [L; STEP] {
    // SAFETY: a line is read only where it lies in the row; the features are the caller's.
    unsafe {
        let mut lines = [L::zero(); STEP];
        let end = before + row.len();
        if index * STEP * LINE >= end {
            return lines;
        }
        // A loop and no closure: a function of its own would lack the features.
        for (i, line) in lines.iter_mut().enumerate() {
            let start = (index * STEP + i) * LINE;
            let inside = first(end.saturating_sub(start)) & !first(before.saturating_sub(start));
            let from = row.as_ptr().wrapping_add(start).wrapping_sub(before);
            prefetch(from.wrapping_add(PREFETCH));
            // A load of nothing from an address of nothing is slow.
            if inside != 0 {
                *line = line.load(from, inside);
            }
        }
        L::deal(lines)
    }
}

/// See [`WeaveFn`].
#[inline(always)]
pub(super) unsafe fn weave<L: Line>(lines: &[f32; LINES], to: &mut [f32; 4 * STEP * LINE]) {
    let rows = lines.as_chunks::<{ STEP * LINE }>().0;
    for (row, to) in rows.iter().zip(to.as_chunks_mut::<{ STEP * LINE }>().0) {
        // SAFETY: both chunks are four lines; the features are the caller's.
        unsafe {
            let mut lines = [L::zero(); STEP];
            for (i, line) in lines.iter_mut().enumerate() {
                *line = line.load(row.as_ptr().add(i * LINE), u16::MAX);
            }
            for (i, line) in L::weave(lines).into_iter().enumerate() {
                line.store(to.as_mut_ptr().add(i * LINE), u16::MAX);
            }
        }
    }
}

/// See [`TurnFn`].
#[inline(always)]
pub(super) unsafe fn turn<L: Line>(
    lines: &[f32],
    tiles: usize,
    channels: u16,
    to: *mut f32,
    [stride, width]: [usize; 2],
) {
    let count = lines.len() / LINES;
    assert!(count <= LINE, "channels are at most a line");
    for point in 0..POINTS {
        // SAFETY: each channel has all points; the rest is the caller's contract.
        unsafe {
            let mut rows = [L::zero(); LINE];
            for (channel, row) in rows[..count].iter_mut().enumerate() {
                let from = lines.as_ptr().add(channel * LINES + point * LINE);
                *row = row.load(from, u16::MAX);
            }
            let to = to.wrapping_add(point * stride);
            for (tile, row) in L::transpose(rows).into_iter().enumerate().take(tiles) {
                row.store(to.wrapping_add(tile * width), channels);
            }
        }
    }
}
