// map: a tape run over its iteration space, one element a thread.

//!include grid
//!include space

struct Params {
    len: u32,
    // Elements before the first, so that windows start where a device wants them.
    skipped: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

//!tape

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = fold(group, grid) * WORKGROUP + lane;
    if i < params.skipped || i >= params.len {
        return;
    }
    out[i] = value(i);
}
