// Strided: elements copied from where strides say, in row-major order.

//!include part

struct Params {
    part: Part,
    rank: u32,
    start: u32,
    spare: vec2<u32>,
    extents: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Where element `index` of the launch is copied from.
fn source(index: u32) -> Held {
    var rest = params.part.first + index;
    var at = params.start;
    for (var axis = params.rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let extent = params.extents[a / 4u][a % 4u];
        at += rest % extent * params.strides[a / 4u][a % 4u];
        rest /= extent;
    }
    return held(at);
}
