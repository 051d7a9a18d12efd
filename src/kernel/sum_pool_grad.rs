//! Sum pool's gradient: each cotangent goes to all elements of its window.

use super::rows::split_rows;
use super::vectorised::{Vectorised, widest};
use super::window::taps;
use crate::graph::Pool2d;
use crate::threads::Threads;

/// Writes the cotangent of `x: [N, C, H, W]` for `ct: [N, C, OH, OW]` to `out`.
///
/// # Panics
/// When a slice has not the length that `geometry` gives.
pub fn sum_pool_grad(threads: &Threads, geometry: &Pool2d, ct: &[f32], out: &mut [f32]) {
    let plane = geometry.input[0] * geometry.input[1];
    let windows = geometry.output[0] * geometry.output[1];
    assert_eq!(ct.len(), geometry.batch * geometry.channels * windows, "ct fits the geometry");
    split_rows(threads, out, plane, |first, out| {
        let ct = &ct[first * windows..];
        widest(SumPoolGrad { geometry, ct, out });
    });
}

/// Some planes.
struct SumPoolGrad<'a> {
    geometry: &'a Pool2d,
    ct: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorised for SumPoolGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let g = self.geometry;
        self.out.fill(0.0);
        for (n, plane) in self.out.chunks_exact_mut(g.input[0] * g.input[1]).enumerate() {
            for p in 0..g.output[0] {
                let ct = &self.ct[(n * g.output[0] + p) * g.output[1]..][..g.output[1]];
                for tap in taps(g, p) {
                    let ct = &ct[tap.window..][..tap.len];
                    match tap.step {
                        1 => plane[tap.x..].iter_mut().zip(ct).for_each(|(x, ct)| *x += ct),
                        step => {
                            let elements = plane[tap.x..].iter_mut().step_by(step);
                            elements.zip(ct).for_each(|(x, ct)| *x += ct);
                        }
                    }
                }
            }
        }
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
            let ct = noise(&g.output_shape(), 15);
            check(Op::SumPoolGrad(g), &[ct], ROUNDING, |threads, x, out| {
                sum_pool_grad(threads, &g, &x[0], out);
            });
        }
    }
}
