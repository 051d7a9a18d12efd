// sum_pool_grad: each element gets the cotangents of all windows that cover it.

//!include window

@group(0) @binding(2) var<storage, read> ct: array<f32>;
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
    let plane_len = params.input.x * params.input.y;
    let plane = i / plane_len;
    let cell = i % plane_len;
    let windows = params.output.x * params.output.y;
    var sum = 0.0;
    for (var a = 0u; a < params.kernel.x; a++) {
        let row = output_at(cell / params.input.y, a, 0u);
        for (var b = 0u; b < params.kernel.y && row != OUTSIDE; b++) {
            let column = output_at(cell % params.input.y, b, 1u);
            if column != OUTSIDE {
                let source = params.first.y + plane * windows;
                sum += ct[source + row * params.output.y + column];
            }
        }
    }
    out[params.first.x + i] = sum;
}
