//! Sum pool: the sum of each window, padding counted as zero.

use super::rows::split_rows;
use super::softmax::sum;
use super::vectorised::{Vectorised, widest};
use super::window::{each, taps};
use crate::graph::Pool2d;
use crate::threads::Threads;

/// Writes the sum of each window of `x: [N, C, H, W]` to `out: [N, C, OH, OW]`.
///
/// # Panics
/// When a slice has not the length that `geometry` gives.
pub fn sum_pool(threads: &Threads, geometry: &Pool2d, x: &[f32], out: &mut [f32]) {
    let plane = geometry.input[0] * geometry.input[1];
    assert_eq!(x.len(), geometry.batch * geometry.channels * plane, "x fits the geometry");
    let windows = geometry.output[0] * geometry.output[1];
    split_rows(threads, out, windows, |first, out| {
        let x = &x[first * plane..];
        widest(SumPool { geometry, x, out });
    });
}

/// Some planes.
struct SumPool<'a> {
    geometry: &'a Pool2d,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for SumPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let g = self.geometry;
        if g.output == [1, 1] && g.kernel == g.input && g.pad == [0, 0] && g.dilation == [1, 1] {
            return sum_planes(self.x, self.out, g.input[0] * g.input[1]);
        }
        self.out.fill(0.0);
        for (row, out) in self.out.chunks_exact_mut(g.output[1]).enumerate() {
            let plane = row / g.output[0] * g.input[0] * g.input[1];
            for tap in taps(g, row % g.output[0]) {
                let windows = out[tap.window..][..tap.len].iter_mut();
                each(windows, &self.x[plane + tap.x..], tap.step, |sum, x| *sum += x);
            }
        }
    }
}

/// The global pool: each window is its whole plane.
#[inline(always)]
fn sum_planes(x: &[f32], out: &mut [f32], plane: usize) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(plane)) {
        *out = sum(x, |x| x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::kernel::oracle::{ROUNDING, check, noise};
    use crate::kernel::window::tests::cases;

    #[test]
    fn windows_of_every_kind() {
        for g in cases() {
            let x = noise(&g.input_shape(), 14);
            check(Op::SumPool(g), &[x], ROUNDING, |threads, x, out| {
                sum_pool(threads, &g, &x[0], out);
            });
        }
    }
}
