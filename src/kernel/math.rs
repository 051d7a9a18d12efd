//! Transcendental functions of one `f32` without branches, tables or calls.
//!
//! Written so that a loop over a slice that calls them becomes vector code at any width; the same
//! operations in the same order give the same bits at every width. Those with a parameter `FUSED`
//! multiply and add in one operation where it is true, for processors that can: code compiled
//! without that instruction would call a function for each. Each function states its largest error
//! against the exact value, keeps NaN, and takes any input.

/// Whether everything compiled for this target has fused operations.
pub const TARGET_FUSES: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Adding and subtracting 1.5 · 2²³ rounds to an integer.
const ROUND: f32 = 12_582_912.0;

/// `x`, at least `lo` and at most `hi`; NaN stays.
#[inline(always)]
fn bounded(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// 2ⁿ for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// ab + c
#[inline(always)]
fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// c₀ xⁿ + c₁ xⁿ⁻¹ + ..., by Horner's rule.
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients.into_iter().reduce(|sum, c| mul_add::<FUSED>(sum, x, c)).unwrap_or(0.0)
}

/// eˣ, within a relative error of 2⁻²³, or the smallest subnormal number.
///
/// eˣ = 2ⁿ e^r with n = round(x / ln 2); the polynomial for e^r, |r| ≤ ln 2 / 2, is `expf` of
/// Cephes (Moshier 1992).
#[inline(always)]
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = bounded(x, -104.0, 89.0);
    let shifted = mul_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FUSED>(n, -LN2_LOW, mul_add::<FUSED>(n, -LN2_HIGH, x));
    let tail = polynomial::<FUSED, _>(
        r,
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5],
    );
    // Two factors, because 2ⁿ itself leaves the range of normal numbers at both ends.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let e_r = mul_add::<FUSED>(tail * r, r, r) + 1.0;
    e_r * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// ln x, within a relative error of 2⁻²³; -∞ at 0, NaN below.
///
/// ln x = k ln 2 + ln(1 + f) with √½ ≤ 1 + f < √2, and s = f / (2 + f): the scheme and
/// coefficients of FreeBSD's `logf` (msun, Sun Microsystems 1993).
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_138_1;
    const LN2_LOW: f32 = 9.058_001e-6;
    const SQRT_HALF: u32 = 0x3F35_04F3;
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits().wrapping_sub(SQRT_HALF);
    let k = ((bits as i32) >> 23) as f32 - if subnormal { 23.0 } else { 0.0 };
    let f = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(SQRT_HALF)) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let tail =
        z * polynomial::<false, _>(z, [0.242_790_79, 0.284_987_87, 0.400_009_72, 0.666_666_6]);
    let square = 0.5 * f * f;
    let y = s * (square + tail) + k * LN2_LOW - square + f + k * LN2_HIGH;
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    // False for NaN too.
    if x >= 0.0 { y } else { f32::NAN }
}

/// tanh x, within a relative error of 2⁻²¹.
///
/// A rational function of x, odd over even; the minimax coefficients are Eigen's (`ptanh`).
#[inline(always)]
pub fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let x = bounded(x, -7.905_311, 7.905_311);
    let z = x * x;
    let odd = polynomial::<FUSED, _>(
        z,
        [
            -2.760_768_5e-16,
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297e-8,
            1.485_722_4e-5,
            6.372_619e-4,
            4.893_524_6e-3,
        ],
    );
    let even =
        polynomial::<FUSED, _>(z, [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3]);
    x * (odd / even)
}

/// erf x, within a relative error of 2⁻²¹.
///
/// A rational function of x, odd over even; the minimax coefficients are Eigen's (`perf`).
#[inline(always)]
pub fn erf<const FUSED: bool>(x: f32) -> f32 {
    let x = bounded(x, -4.0, 4.0);
    let z = x * x;
    let odd = polynomial::<FUSED, _>(
        z,
        [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_4e-5,
            -7.349_906e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let even = polynomial::<FUSED, _>(
        z,
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2],
    );
    x * (odd / even)
}

/// 1/(1 + e⁻ˣ), within a relative error of 2⁻²², or 2⁻¹²⁶.
#[inline(always)]
pub fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// x Φ(x), where Φ is the distribution of a standard normal number, within 2⁻²¹ |x|; -∞ or NaN
/// at -∞.
#[inline(always)]
pub fn gelu<const FUSED: bool>(x: f32) -> f32 {
    x * normal_distribution::<FUSED>(x)
}

/// Φ(x) + x φ(x), the slope of x Φ(x), within 2⁻²¹.
#[inline(always)]
pub fn gelu_slope<const FUSED: bool>(x: f32) -> f32 {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    // Its density is 0 from there on, and its square a number.
    let x = bounded(x, -20.0, 20.0);
    let density = DENSITY_AT_0 * exp::<FUSED>(-0.5 * x * x);
    mul_add::<FUSED>(x, density, normal_distribution::<FUSED>(x))
}

/// Φ(x) = ½ + ½ erf(x/√2), within 2⁻²¹.
#[inline(always)]
fn normal_distribution<const FUSED: bool>(x: f32) -> f32 {
    let half = 0.5 * erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2);
    half + 0.5
}

/// sin 2πu and cos 2πu for |u| ≤ 2²⁰, each within 2⁻²³ of the exact value.
///
/// u is reduced to the nearest quarter turn, which is exact; the polynomials for the remaining
/// angle of at most π/4 are `sinf` and `cosf` of Cephes (Moshier 1992).
#[inline(always)]
pub fn sin_cos_turns(u: f32) -> (f32, f32) {
    let shifted = 4.0 * u + ROUND;
    let quarter = shifted - ROUND;
    let angle = (u - 0.25 * quarter) * std::f32::consts::TAU;
    let z = angle * angle;
    let sin = polynomial::<false, _>(z, [-1.951_529_6e-4, 8.332_161e-3, -0.166_666_55]) * z * angle
        + angle;
    let cos = polynomial::<false, _>(z, [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]) * z * z;
    let cos = cos - 0.5 * z + 1.0;
    let turn = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let (sin, cos) = if turn & 1 == 0 { (sin, cos) } else { (cos, -sin) };
    if turn & 2 == 0 { (sin, cos) } else { (-sin, -cos) }
}

#[cfg(test)]
mod tests;
