//! Max pool: the largest element of each window.

use super::rows::split_rows;
use super::vectorised::{Vectorised, widest};
use super::window::{each, taps};
use crate::graph::Pool2d;
use crate::threads::Threads;

/// Writes the largest element of each window of `x: [N, C, H, W]` to `out: [N, C, OH, OW]`: NaN
/// where there is one, -∞ where a window is all padding.
///
/// # Panics
/// When a slice has not the length that `geometry` gives.
pub fn max_pool(threads: &Threads, geometry: &Pool2d, x: &[f32], out: &mut [f32]) {
    let plane = geometry.input[0] * geometry.input[1];
    assert_eq!(x.len(), geometry.batch * geometry.channels * plane, "x fits the geometry");
    let windows = geometry.output[0] * geometry.output[1];
    split_rows(threads, out, windows, |first, out| {
        let x = &x[first * plane..];
        widest(MaxPool { geometry, x, out });
    });
}

/// Some planes.
struct MaxPool<'a> {
    geometry: &'a Pool2d,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for MaxPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let g = self.geometry;
        self.out.fill(f32::NEG_INFINITY);
        for (row, out) in self.out.chunks_exact_mut(g.output[1]).enumerate() {
            let plane = row / g.output[0] * g.input[0] * g.input[1];
            for tap in taps(g, row % g.output[0]) {
                let windows = out[tap.window..][..tap.len].iter_mut();
                each(windows, &self.x[plane + tap.x..], tap.step, |largest, x| {
                    *largest = if x > *largest || x.is_nan() { x } else { *largest };
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::graph::eval::Array;
    use crate::kernel::oracle::{check, noise};
    use crate::kernel::window::tests::cases;

    #[test]
    fn windows_of_every_kind() {
        for g in cases() {
            let x = noise(&g.input_shape(), 10);
            check(Op::MaxPool(g), &[x], 0.0, |threads, x, out| max_pool(threads, &g, &x[0], out));
        }
    }

    #[test]
    fn nan_wins() {
        for g in cases() {
            let x = noise(&g.input_shape(), 11);
            let x = Array::from_fn(x.shape(), |i| if i % 13 == 3 { f64::NAN } else { x[i] });
            check(Op::MaxPool(g), &[x], 0.0, |threads, x, out| max_pool(threads, &g, &x[0], out));
        }
    }
}
