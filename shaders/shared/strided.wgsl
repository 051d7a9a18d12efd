// Strided: elements copied from where strides say, in row-major order.

//!include grid

struct Params {
    len: u32,
    rank: u32,
    start: u32,
    spare: u32,
    extents: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn source(index: u32) -> u32 {
    var rest = index;
    var at = params.start;
    for (var axis = params.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let extent = params.extents[a / 4u][a % 4u];
        at += rest % extent * params.strides[a / 4u][a % 4u];
        rest /= extent;
    }
    return at;
}
