// Convolution: the geometry of a convolution, its small numbers known when a pipeline is made.

struct Geometry {
    batch: u32,
    // Channels of a group.
    in_channels: u32,
    out_channels: u32,
    groups: u32,
    input: vec2<u32>,
    output: vec2<u32>,
    pad: vec2<u32>,
    // Where the images before and after begin in what is bound of them.
    first: vec2<u32>,
}

// A position outside of every plane, whatever is added to it.
const FAR: u32 = 0x80000000u;

override KERNEL_H: u32;
override KERNEL_W: u32;
override STRIDE_H: u32;
override STRIDE_W: u32;
override DILATION_H: u32;
override DILATION_W: u32;

fn input_plane() -> u32 {
    return params.geometry.input.x * params.geometry.input.y;
}

fn output_plane() -> u32 {
    return params.geometry.output.x * params.geometry.output.y;
}

// Where output position `p` looks first, in the padded input.
fn origin(p: u32) -> vec2<i32> {
    let y = p / params.geometry.output.y * STRIDE_H;
    let x = p % params.geometry.output.y * STRIDE_W;
    return vec2<i32>(vec2(y, x)) - vec2<i32>(params.geometry.pad);
}

// Whether a position lies in the input.
fn in_input(at: vec2<i32>) -> bool {
    return all(at >= vec2(0)) && all(at < vec2<i32>(params.geometry.input));
}
