// Window: the geometry of pooling.

//!include grid

struct Params {
    len: u32,
    spare: u32,
    input: vec2<u32>,
    output: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    pad: vec2<u32>,
    dilation: vec2<u32>,
    // Where the images before and after begin in what is bound of them.
    first: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;

// Where a tap of an output's window lies in its plane; u32 max where it is padding.
const OUTSIDE: u32 = 0xffffffffu;

fn tap(output: vec2<u32>, at: vec2<u32>) -> u32 {
    let position = output * params.stride + at * params.dilation;
    let inside = all(position >= params.pad) && all(position - params.pad < params.input);
    let cell = position - params.pad;
    return select(OUTSIDE, cell.x * params.input.y + cell.y, inside);
}

// The output along one axis of which tap number `at` lies on `position`; OUTSIDE if there is none.
fn output_at(position: u32, at: u32, axis: u32) -> u32 {
    let reach = position + params.pad[axis];
    let offset = at * params.dilation[axis];
    if reach < offset || (reach - offset) % params.stride[axis] != 0u {
        return OUTSIDE;
    }
    let output = (reach - offset) / params.stride[axis];
    return select(OUTSIDE, output, output < params.output[axis]);
}
