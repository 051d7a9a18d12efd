//! What the tests of kernels share: operands, and the comparison with the reference interpreter.

use crate::graph::Op;
use crate::graph::eval::{Array, eval_op};
use crate::rng::{Key, Stream};
use crate::tensor::Shape;
use crate::threads::Threads;

/// Largest error of a few `f32` operations on numbers near 1, relative to max(1, |want|).
pub(super) const ROUNDING: f64 = 2e-6;

/// An array of `shape` with standard normal elements that `f32` holds exactly.
pub(super) fn noise(shape: &[usize], seed: u64) -> Array {
    let mut sequence = Key::new(seed, Stream::Probe).at(0);
    Array::from_fn(&shape.into(), |_| f64::from(sequence.normal()))
}

/// The elements as a kernel takes them.
pub(super) fn elements(x: &Array) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Checks the elements of a result; NaN and infinities must be in the same places.
pub(super) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, scene: &str) {
    assert_eq!(got.len(), want.len(), "{scene}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got);
        let close = (got - want).abs() <= tolerance * want.abs().max(1.0);
        let same = got == want || got.is_nan() && want.is_nan();
        assert!(close || same, "{scene}: element {i} is {got}, expected {want}");
    }
}

/// Runs `kernel(threads, operands, out)` on a poisoned `out` with one, two and three threads, and
/// checks each result against `op`'s meaning and all of them for equality.
pub(super) fn check(
    op: Op,
    operands: &[Array],
    tolerance: f64,
    kernel: impl Fn(&Threads, &[Vec<f32>], &mut [f32]),
) {
    let shapes: Vec<&Shape> = operands.iter().map(Array::shape).collect();
    let scene = format!("{op} {op:?} on {shapes:?}");
    let want = &eval_op(op, operands).expect("the operands fit")[0];
    let operands: Vec<Vec<f32>> = operands.iter().map(elements).collect();
    let results = [1, 2, 3].map(|count| {
        let mut out = vec![f32::NAN; want.len()];
        kernel(&Threads::new(count), &operands, &mut out);
        assert_close(&out, want, tolerance, &scene);
        out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{scene}: threads change it");
}
