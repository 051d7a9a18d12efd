// max_pool: the largest element of each window; padding never wins, NaN does.

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
    // -∞, written so that it is no constant expression.
    var largest = bitcast<f32>(0xff800000u + params.spare);
    for (var a = 0u; a < params.kernel.x; a++) {
        for (var b = 0u; b < params.kernel.y; b++) {
            let at = tap(window, vec2(a, b));
            if at != OUTSIDE {
                let candidate = x[plane + at];
                let nan = candidate != candidate;
                largest = select(largest, candidate, candidate > largest || nan);
            }
        }
    }
    out[params.first.y + i] = largest;
}
