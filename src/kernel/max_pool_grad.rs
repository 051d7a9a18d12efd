//! Max pool's gradient: each cotangent goes to the first largest element of its window.

use super::rows::split_rows;
use super::vectorised::{Vectorised, widest};
use super::window::{each, taps};
use crate::graph::Pool2d;
use crate::threads::Threads;

/// Windows searched side by side.
const BLOCK: usize = 128;

/// The origin of a window that has seen no element yet.
const NOWHERE: i32 = i32::MIN;

/// Writes the cotangent of `x: [N, C, H, W]` for `ct: [N, C, OH, OW]` to `out`. NaN counts as
/// largest; the cotangent of a window that is all padding goes nowhere.
///
/// # Panics
/// When a slice has not the length that `geometry` gives, or a plane has 2³¹ elements.
pub fn max_pool_grad(threads: &Threads, geometry: &Pool2d, x: &[f32], ct: &[f32], out: &mut [f32]) {
    let plane = geometry.input[0] * geometry.input[1];
    let windows = geometry.output[0] * geometry.output[1];
    let planes = geometry.batch * geometry.channels;
    assert!(i32::try_from(plane).is_ok(), "the elements of a plane have 31-bit numbers");
    assert_eq!([x.len(), ct.len()], [planes * plane, planes * windows], "x, ct fit the geometry");
    split_rows(threads, out, plane, |first, out| {
        out.fill(0.0);
        for (i, out) in out.chunks_exact_mut(plane).enumerate() {
            let x = &x[(first + i) * plane..];
            let ct = &ct[(first + i) * windows..][..windows];
            for (p, ct) in ct.chunks_exact(geometry.output[1].max(1)).enumerate() {
                scatter_row(geometry, p, x, ct, out);
            }
        }
    });
}

/// Adds row `p` of a plane's cotangents to the elements they belong to; `x` begins with the plane.
fn scatter_row(geometry: &Pool2d, p: usize, x: &[f32], ct: &[f32], out: &mut [f32]) {
    for (i, ct) in ct.chunks(BLOCK).enumerate() {
        let start = i * BLOCK;
        let origins = widest(Search { geometry, p, start, len: ct.len(), x });
        for ((window, &origin), ct) in (start..).zip(&origins).zip(ct) {
            if origin != NOWHERE {
                let element = origin as isize + (window * geometry.stride[1]) as isize;
                out[element as usize] += ct;
            }
        }
    }
}

/// The search for the first largest elements of the windows `start..start + len` of row `p`, which
/// finds the origin of each: the element less the window's number times the stride.
struct Search<'a> {
    geometry: &'a Pool2d,
    p: usize,
    start: usize,
    len: usize,
    x: &'a [f32],
}

impl Vectorised for Search<'_> {
    type Output = [i32; BLOCK];

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> [i32; BLOCK] {
        let (mut largest, mut origins) = ([f32::NEG_INFINITY; BLOCK], [NOWHERE; BLOCK]);
        for tap in taps(self.geometry, self.p) {
            let from = tap.window.max(self.start);
            let to = (tap.window + tap.len).min(self.start + self.len);
            if from >= to {
                continue;
            }
            let range = from - self.start..to - self.start;
            let windows = largest[range.clone()].iter_mut().zip(&mut origins[range]);
            // The same for all windows, which keeps their numbers out of the loop.
            let here = (tap.x as isize - (tap.window * tap.step) as isize) as i32;
            let x = &self.x[tap.x + (from - tap.window) * tap.step..];
            each(windows, x, tap.step, |(largest, origin), x| {
                let nan = x.is_nan() & !largest.is_nan();
                let wins = (x > *largest) | nan | (*origin == NOWHERE);
                *largest = if wins { x } else { *largest };
                *origin = if wins { here } else { *origin };
            });
        }
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::graph::eval::Array;
    use crate::kernel::oracle::{ROUNDING, check, noise};
    use crate::kernel::window::tests::cases;

    fn check_with(distort: impl Fn(usize, f64) -> f64) {
        for g in cases() {
            let x = noise(&g.input_shape(), 12);
            let x = Array::from_fn(x.shape(), |i| distort(i, x[i]));
            let ct = noise(&g.output_shape(), 13);
            check(Op::MaxPoolGrad(g), &[x, ct], ROUNDING, |threads, x, out| {
                max_pool_grad(threads, &g, &x[0], &x[1], out);
            });
        }
    }

    #[test]
    fn windows_of_every_kind() {
        check_with(|_, x| x);
    }

    #[test]
    fn the_first_of_equals_wins() {
        check_with(|_, x| x.round());
        check_with(|_, _| f64::NEG_INFINITY);
    }

    #[test]
    fn the_first_nan_wins() {
        check_with(|i, x| if i % 5 == 3 { f64::NAN } else { x });
    }
}
