// depthwise: convolutions whose groups have one input channel, forward and towards the input; as
// products they would have a single row. One thread computes one element.

//!include grid

struct Params {
    geometry: Geometry,
    len: u32,
    // For the filter's gradient.
    first: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> w: array<f32>;
// The operand that is convolved: the input, or the result's cotangent.
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include convolution
//!include space
//!epilogue

@compute @workgroup_size(WORKGROUP)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = fold(group, grid) * WORKGROUP + lane;
    if i >= params.len {
        return;
    }
    let plane = output_plane();
    let channels = params.geometry.groups * params.geometry.out_channels;
    let channel = i / plane % channels;
    let n = i / (plane * channels);
    let source = origin(i % plane);
    let plane_number = n * params.geometry.groups + channel / params.geometry.out_channels;
    let start = params.geometry.first.x + plane_number * input_plane();
    var sum = 0.0;
    for (var a = 0u; a < KERNEL_H; a++) {
        for (var b = 0u; b < KERNEL_W; b++) {
            let at = source + vec2<i32>(vec2(a * DILATION_H, b * DILATION_W));
            if in_input(at) {
                let cell = u32(at.x) * params.geometry.input.y + u32(at.y);
                sum += w[(channel * KERNEL_H + a) * KERNEL_W + b] * x[start + cell];
            }
        }
    }
    finish(params.geometry.first.y + i, sum);
}

@compute @workgroup_size(WORKGROUP)
fn input_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = fold(group, grid) * WORKGROUP + lane;
    if i >= params.len {
        return;
    }
    let plane = input_plane();
    let channel = i / plane % params.geometry.groups;
    let n = i / (plane * params.geometry.groups);
    let cell = vec2(i % plane / params.geometry.input.y, i % params.geometry.input.y);
    let reach = cell + params.geometry.pad;
    let stride = vec2(STRIDE_H, STRIDE_W);
    var sum = 0.0;
    for (var a = 0u; a < KERNEL_H; a++) {
        for (var b = 0u; b < KERNEL_W; b++) {
            let offset = vec2(a * DILATION_H, b * DILATION_W);
            let at = (reach - offset) / stride;
            let meets = all(reach >= offset) && all((reach - offset) % stride == vec2(0u));
            if !meets || any(at >= params.geometry.output) {
                continue;
            }
            for (var m = 0u; m < params.geometry.out_channels; m++) {
                let o = channel * params.geometry.out_channels + m;
                let channels = params.geometry.groups * params.geometry.out_channels;
                let source = params.geometry.first.y + (n * channels + o) * output_plane();
                let ct = x[source + at.x * params.geometry.output.y + at.y];
                sum += w[(o * KERNEL_H + a) * KERNEL_W + b] * ct;
            }
        }
    }
    finish(params.geometry.first.x + i, sum);
}
