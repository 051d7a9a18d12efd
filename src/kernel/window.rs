//! Which elements of a plane a pooling window covers.

use std::ops::Range;

use crate::graph::Pool2d;

/// One element of every window in one row of the result: for `i` in `0..len`, the element
/// `x + i·step` of the operand's plane belongs to the window `window + i` of the result's row.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    pub x: usize,
    pub window: usize,
    pub len: usize,
    pub step: usize,
}

/// Each place in the windows of row `p` of the result, in row-major order of the places, without
/// the windows that have padding there.
#[inline(always)]
pub(super) fn taps(g: &Pool2d, p: usize) -> impl Iterator<Item = Tap> {
    let rows = (0..g.kernel[0]).filter_map(move |tap| index(g, 0, p, tap));
    rows.flat_map(|y| (0..g.kernel[1]).map(move |column| (y, column))).filter_map(|(y, column)| {
        let windows = inside(g, column);
        let start = (windows.start * g.stride[1] + column * g.dilation[1]).checked_sub(g.pad[1])?;
        (!windows.is_empty()).then(|| Tap {
            x: y * g.input[1] + start,
            window: windows.start,
            len: windows.len(),
            step: g.stride[1],
        })
    })
}

/// The operand's index along `axis` of place `tap` of window `out`, unless it is padding.
#[inline(always)]
fn index(g: &Pool2d, axis: usize, out: usize, tap: usize) -> Option<usize> {
    (out * g.stride[axis] + tap * g.dilation[axis])
        .checked_sub(g.pad[axis])
        .filter(|&index| index < g.input[axis])
}

/// The windows across whose place `tap` is not padding.
#[inline(always)]
fn inside(g: &Pool2d, tap: usize) -> Range<usize> {
    let offset = tap * g.dilation[1];
    let start = g.pad[1].saturating_sub(offset).div_ceil(g.stride[1]);
    let end = (g.input[1] + g.pad[1]).saturating_sub(offset).div_ceil(g.stride[1]);
    start..end.min(g.output[1]).max(start)
}

/// Calls `f` with each of `windows` and its element of `x`, every `step`-th. The common steps are
/// loops of their own, which become vector code.
#[inline(always)]
pub(super) fn each<W>(
    windows: impl ExactSizeIterator<Item = W>,
    x: &[f32],
    step: usize,
    f: impl Fn(W, f32),
) {
    match step {
        1 => {
            for (window, &x) in windows.zip(x) {
                f(window, x);
            }
        }
        2 if x.len() >= 2 * windows.len() => {
            for (window, pair) in windows.zip(x.as_chunks::<2>().0) {
                f(window, pair[0]);
            }
        }
        step => windows.zip(x.iter().step_by(step)).for_each(|(window, &x)| f(window, x)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Awkward windows: none, one, strided, padded, dilated, larger than the plane, all padding.
    pub(in super::super) fn cases() -> Vec<Pool2d> {
        let g = |input, output, kernel, stride, pad, dilation| Pool2d {
            batch: 2,
            channels: 3,
            input,
            output,
            kernel: [kernel; 2],
            stride: [stride; 2],
            pad: [pad; 2],
            dilation: [dilation; 2],
        };
        vec![
            g([1, 1], [1, 1], 1, 1, 0, 1),
            g([7, 5], [0, 3], 2, 1, 0, 1),
            g([0, 5], [1, 1], 2, 1, 1, 1),
            g([7, 5], [6, 4], 2, 1, 0, 1),
            g([13, 11], [7, 6], 3, 2, 1, 1),
            g([14, 12], [7, 6], 2, 2, 0, 1),
            g([29, 131], [29, 131], 3, 1, 1, 1),
            g([29, 261], [15, 131], 3, 2, 1, 1),
            g([17, 19], [5, 6], 3, 3, 0, 1),
            g([17, 19], [9, 9], 3, 2, 2, 2),
            g([7, 7], [1, 1], 7, 1, 0, 1),
            g([9, 40], [1, 1], 40, 40, 0, 1),
            g([3, 2], [4, 4], 2, 2, 3, 1),
            g([64, 67], [32, 33], 3, 2, 1, 1),
            Pool2d { kernel: [1, 3], stride: [2, 1], ..g([8, 9], [4, 7], 1, 1, 0, 1) },
            Pool2d { batch: 0, ..g([8, 9], [7, 8], 2, 1, 0, 1) },
        ]
    }

    #[test]
    fn taps_come_in_row_major_order_within_the_plane() {
        for g in cases() {
            for p in 0..g.output[0] {
                let mut last = vec![None; g.output[1]];
                for (tap, i) in taps(&g, p).flat_map(|tap| (0..tap.len).map(move |i| (tap, i))) {
                    let x = tap.x + i * tap.step;
                    assert!(x < g.input[0] * g.input[1], "{g:?}");
                    assert!(last[tap.window + i].replace(x).is_none_or(|last| last < x));
                }
            }
        }
    }
}
