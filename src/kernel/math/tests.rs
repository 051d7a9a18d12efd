use super::*;
use crate::graph::eval::{Array, eval_op};
use crate::graph::{Op, Unary};

/// Bit patterns between two inputs of the sweep: a prime, so that mantissas vary.
const STRIDE: usize = 4099;

/// Inputs over the whole range of `f32`, both infinities and NaN among them.
fn sweep() -> Vec<f32> {
    let mut inputs: Vec<f32> = (0..=u32::MAX).step_by(STRIDE).map(f32::from_bits).collect();
    inputs.extend((-9000..9000).map(|i| i as f32 / 83.0));
    inputs.extend([0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX]);
    inputs.extend([f32::MIN_POSITIVE, f32::from_bits(1), 88.722_84, -87.336_55, -103.972_08]);
    inputs
}

/// Checks `f` against the interpreter's `unary`: the error is below `relative`·|want| + `absolute`.
fn check(unary: Unary, f: impl Fn(f32) -> f32, relative: f64, absolute: f64) {
    let inputs = sweep();
    let x = Array::from_fn(&[inputs.len()].into(), |i| f64::from(inputs[i]));
    let want = &eval_op(Op::Unary(unary), &[x]).expect("one operand of any shape")[0];
    let (mut worst, mut at) = (0.0, 0.0);
    for (&x, &want) in inputs.iter().zip(want.iter()) {
        let got = f64::from(f(x));
        if want.is_nan() || want.abs() > f64::from(f32::MAX) {
            let same = if want.is_nan() { got.is_nan() } else { got == f64::from(want as f32) };
            assert!(same || want.abs() < 3.403e38, "{unary:?}({x:e}) = {got:e}, not {want:e}");
            continue;
        }
        let error = (got - want).abs() / (relative * want.abs() + absolute);
        assert!(!error.is_nan(), "{unary:?}({x:e}) = {got:e}, not {want:e}");
        if error > worst {
            (worst, at) = (error, x);
        }
    }
    assert!(worst <= 1.0, "{unary:?}({at:e}) errs by {worst} times the documented bound");
}

/// The bound 2^-bits.
fn bound(bits: i32) -> f64 {
    2f64.powi(-bits)
}

#[test]
fn exp_keeps_its_bound() {
    check(Unary::Exp, exp::<false>, bound(23), bound(149));
    check(Unary::Exp, exp::<true>, bound(23), bound(149));
}

#[test]
fn ln_keeps_its_bound() {
    check(Unary::Log, ln, bound(23), bound(149));
}

#[test]
fn tanh_keeps_its_bound() {
    check(Unary::Tanh, tanh::<false>, bound(21), bound(149));
    check(Unary::Tanh, tanh::<true>, bound(21), bound(149));
}

#[test]
fn erf_keeps_its_bound() {
    check(Unary::Erf, erf::<false>, bound(21), bound(149));
    check(Unary::Erf, erf::<true>, bound(21), bound(149));
}

#[test]
fn sigmoid_keeps_its_bound() {
    check(Unary::Sigmoid, sigmoid::<false>, bound(22), bound(126));
    check(Unary::Sigmoid, sigmoid::<true>, bound(22), bound(126));
}

#[test]
fn gelu_keeps_its_bound() {
    let inputs: Vec<f32> = sweep().into_iter().filter(|&x| x != f32::NEG_INFINITY).collect();
    let x = Array::from_fn(&[inputs.len()].into(), |i| f64::from(inputs[i]));
    let want = &eval_op(Op::Unary(Unary::Gelu), &[x]).expect("one operand of any shape")[0];
    for gelu in [gelu::<false>, gelu::<true>] {
        for (&x, &want) in inputs.iter().zip(want.iter()) {
            let (got, most) = (f64::from(gelu(x)), bound(21) * f64::from(x).abs() + bound(149));
            let same = got == want || got.is_nan() && want.is_nan();
            assert!(same || (got - want).abs() <= most, "gelu({x:e}) = {got:e}, not {want:e}");
        }
    }
}

#[test]
fn gelu_slope_keeps_its_bound() {
    check(Unary::GeluSlope, gelu_slope::<false>, 0.0, bound(21));
    check(Unary::GeluSlope, gelu_slope::<true>, 0.0, bound(21));
}

#[test]
fn sin_cos_turns_keeps_its_bound() {
    let fractions = (0..1 << 20).map(|i| (i as f32 + 0.5) / (1 << 20) as f32);
    let turns = (-4000..4000).map(|i| i as f32 / 8.0);
    for u in fractions.chain(turns) {
        let (sin, cos) = sin_cos_turns(u);
        let want = (std::f64::consts::TAU * f64::from(u)).sin_cos();
        let error = (f64::from(sin) - want.0).abs().max((f64::from(cos) - want.1).abs());
        assert!(error < bound(23), "{u} turns: {sin}, {cos}, not {want:?}");
    }
}
