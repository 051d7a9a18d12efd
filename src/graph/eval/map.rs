//! Element-wise functions.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use crate::graph::{Binary, Unary};

/// y = f(x), element by element.
pub(super) fn unary(f: Unary, x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| unary_at(f, x)).collect()
}

/// y = f(a, b), element by element.
pub(super) fn binary(f: Binary, a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(&a, &b)| binary_at(f, a, b)).collect()
}

/// y = a where cond ≠ 0, else b.
pub(super) fn select(cond: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
    let pairs = a.iter().zip(b);
    cond.iter().zip(pairs).map(|(&cond, (&a, &b))| if cond != 0.0 { a } else { b }).collect()
}

fn unary_at(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign => sign(x),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Tanh => x.tanh(),
        Unary::Erf => erf(x),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Gelu => x * normal_distribution(x),
        Unary::GeluSlope => gelu_slope(x),
        Unary::Relu => larger(x, 0.0),
        Unary::Clamp(lo, hi) => smaller(larger(x, f64::from(lo)), f64::from(hi)),
        Unary::Powf(power) => x.powf(f64::from(power)),
    }
}

fn binary_at(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => larger(a, b),
        Binary::Min => smaller(a, b),
        Binary::Less => f64::from(u8::from(a < b)),
    }
}

/// -1, 0 or 1.
fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// max(a, b); NaN when either is.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

/// min(a, b); NaN when either is.
fn smaller(a: f64, b: f64) -> f64 {
    if a < b || a.is_nan() { a } else { b }
}

/// Φ(x) = ½ (1 + erf(x/√2))
fn normal_distribution(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// Φ(x) + x φ(x) with φ(x) = e^(-x²/2) / √2π, which is 0 at ±40 and beyond.
fn gelu_slope(x: f64) -> f64 {
    let x = x.clamp(-40.0, 40.0);
    let density = 0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI * (-0.5 * x * x).exp();
    normal_distribution(x) + x * density
}

/// erf x = 2/√π e^(-x²) Σₙ 2ⁿ x²ⁿ⁺¹ / (1·3·...·(2n+1)) (Abramowitz and Stegun 7.1.6).
///
/// All terms have one sign, so nothing cancels; from |x| = 6 on, 1 - |erf x| is below 2⁻⁵³.
pub(super) fn erf(x: f64) -> f64 {
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > f64::EPSILON / 4.0 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}
