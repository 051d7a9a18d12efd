// slice: every step-th index of a range of one axis.

//!include strided

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
    let source = source(i);
    if source.inside {
        out[i] = x[source.at];
    }
}
