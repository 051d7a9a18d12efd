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
    if i >= params.len {
        return;
    }
    let column = i % params.inner;
    let row = i / params.inner;
    let source = row / params.count * params.extent + rows[row % params.count];
    out[i] = x[source * params.inner + column];
}
