// Space: the iteration space of a tape, and its functions beyond WGSL's own.

struct Space {
    // The element of the whole space that this launch calls 0.
    base: u32,
    rank: u32,
    spare: vec2<u32>,
    // Where the window of each operand that is not read in place starts.
    origins: array<vec4<u32>, 2>,
    extents: array<vec4<u32>, 2>,
    // Eight strides an operand.
    strides: array<vec4<u32>, 16>,
    constants: array<vec4<f32>, 8>,
}

@group(0) @binding(1) var<uniform> space: Space;

// Where element `index` of the launch lies in a broadcast or strided operand.
fn place(operand: u32, index: u32) -> u32 {
    var rest = index + space.base;
    var at = 0u;
    for (var axis = space.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let extent = space.extents[a / 4u][a % 4u];
        at += rest % extent * space.strides[operand * 2u + a / 4u][a % 4u];
        rest /= extent;
    }
    return at - space.origins[operand / 4u][operand % 4u];
}

fn constant(index: u32) -> f32 {
    return space.constants[index / 4u][index % 4u];
}

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn tape_sign(x: f32) -> f32 {
    return select(0.0, 1.0, x > 0.0) - select(0.0, 1.0, x < 0.0);
}

// NaN stays NaN: a diverged run must be seen.
fn tape_relu(x: f32) -> f32 {
    return select(x, 0.0, x < 0.0);
}

fn tape_clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let above = select(x, lo, x < lo);
    return select(above, hi, above > hi);
}

fn tape_max(a: f32, b: f32) -> f32 {
    return select(b, a, a > b || is_nan(a));
}

fn tape_min(a: f32, b: f32) -> f32 {
    return select(b, a, a < b || is_nan(a));
}

fn tape_sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

// Beyond 9 the result is 1 in single precision, and a builtin may overflow.
fn tape_tanh(x: f32) -> f32 {
    return tanh(tape_clamp(x, -9.0, 9.0));
}

// xᵖ; the builtin is defined for positive x only.
fn tape_pow(x: f32, p: f32) -> f32 {
    if p == 2.0 {
        return x * x;
    }
    if p == 3.0 {
        return x * x * x;
    }
    if p == 0.0 {
        return 1.0;
    }
    let whole = floor(p) == p;
    let odd = whole && floor(p * 0.5) * 2.0 != p;
    let size = pow(abs(x), p);
    let signed = select(size, -size, odd && x < 0.0);
    // 0/0 of values the compiler cannot see through.
    let nan = (x - x) / (x - x);
    return select(signed, nan, !whole && x < 0.0);
}

// erf x: a rational function of x, odd over even, with Eigen's minimax coefficients.
fn tape_erf(value: f32) -> f32 {
    let x = tape_clamp(value, -4.0, 4.0);
    let z = x * x;
    var odd = -2.7261423e-10 * z + 2.7706814e-8;
    odd = odd * z - 2.101024e-6;
    odd = odd * z - 5.6925064e-5;
    odd = odd * z - 7.349906e-4;
    odd = odd * z - 2.9546e-3;
    odd = odd * z - 1.6096033e-2;
    var even = -1.4566072e-5 * z - 2.1337406e-4;
    even = even * z - 1.682827e-3;
    even = even * z - 7.373329e-3;
    even = even * z - 1.4264739e-2;
    return x * (odd / even);
}

// Φ(x), the distribution of a standard normal number.
fn tape_normal(x: f32) -> f32 {
    return 0.5 + 0.5 * tape_erf(0.70710678 * x);
}

// x Φ(x)
fn tape_gelu(x: f32) -> f32 {
    return x * tape_normal(x);
}

// Φ(x) + x φ(x). From 20 on the density φ is 0, and the square of x a number.
fn tape_gelu_slope(value: f32) -> f32 {
    let x = tape_clamp(value, -20.0, 20.0);
    return tape_normal(x) + x * 0.3989423 * exp(-0.5 * x * x);
}
