// scatter_add: rows added into a zero tensor. Each element of the result sums what belongs to it,
// in the order of the rows, so no two threads meet; launches that see a part of the rows each go on
// where the one before ended.

//!include indexed

// For each row of the result, where its sources start; then the sources.
@group(0) @binding(4) var<storage, read> sources: array<u32>;

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
    let column = number % params.inner;
    let row = number / params.inner;
    let target_row = row % params.extent;
    let outer = row / params.extent;
    var sum = 0.0;
    if params.joins != 0u {
        sum = out[i];
    }
    let end = sources[target_row + 1u];
    for (var s = sources[target_row]; s < end; s++) {
        let source = outer * params.count + sources[params.extent + 1u + s];
        let element = held(source * params.inner + column);
        if element.inside {
            sum += x[element.at];
        }
    }
    out[i] = sum;
}
