// concat: one operand's runs written to their places in the joined rows.

//!include part

struct Params {
    part: Part,
    // Elements of the operand in a row, where they start, and the length of a joined row.
    run: u32,
    start: u32,
    row_len: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    let row = number / params.run * params.row_len;
    let place = held(row + params.start + number % params.run);
    if place.inside {
        out[place.at] = x[i];
    }
}
