// sum_pool: the sum over each window, padding counted as zero.

//!include window

@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = fold(group, grid) * WORKGROUP + lane;
    if i >= params.len {
        return;
    }
    let windows = params.output.x * params.output.y;
    let plane = params.first.x + i / windows * params.input.x * params.input.y;
    let window = vec2(i % windows / params.output.y, i % params.output.y);
    var sum = 0.0;
    for (var a = 0u; a < params.kernel.x; a++) {
        for (var b = 0u; b < params.kernel.y; b++) {
            let at = tap(window, vec2(a, b));
            if at != OUTSIDE {
                sum += x[plane + at];
            }
        }
    }
    out[params.first.y + i] = sum;
}
