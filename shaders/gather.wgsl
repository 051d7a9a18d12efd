// gather: given rows of one axis.

//!include indexed

@group(0) @binding(4) var<storage, read> rows: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = fold(group, grid) * WORKGROUP + lane;
    if i >= params.part.len {
        return;
    }
    let number = params.part.first + i;
    let row = number / params.inner;
    let source = row / params.count * params.extent + rows[row % params.count];
    let element = held(source * params.inner + number % params.inner);
    if element.inside {
        out[i] = x[element.at];
    }
}
