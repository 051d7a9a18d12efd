// depthwise_filter_grad: one workgroup sums one tap of one filter over all positions of all images;
// each thread takes every 256th position, and a tree adds the threads.

//!include grid

struct Params {
    geometry: Geometry,
    // Workgroups: taps of all filters.
    len: u32,
    // Where the results go: parts of the images have results of their own.
    first: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> ct: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include convolution

var<workgroup> combined: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tap = fold(group, grid);
    if tap >= params.len {
        return;
    }
    let o = tap / (KERNEL_H * KERNEL_W);
    let a = tap / KERNEL_W % KERNEL_H;
    let b = tap % KERNEL_W;
    let channel = o / params.geometry.out_channels;
    let channels = params.geometry.groups * params.geometry.out_channels;
    let offset = vec2<i32>(vec2(a * DILATION_H, b * DILATION_W));
    let plane = output_plane();
    var sum = 0.0;
    for (var k = lane; k < params.geometry.batch * plane; k += WORKGROUP) {
        let n = k / plane;
        let at = origin(k % plane) + offset;
        if in_input(at) {
            let cell = u32(at.x) * params.geometry.input.y + u32(at.y);
            let source = (n * params.geometry.groups + channel) * input_plane();
            let seen = x[params.geometry.first.x + source + cell];
            let place = params.geometry.first.y + (n * channels + o) * plane;
            sum += seen * ct[place + k % plane];
        }
    }
    combined[lane] = sum;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if lane < half {
            combined[lane] += combined[lane + half];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        out[params.first + tap] = combined[0];
    }
}
