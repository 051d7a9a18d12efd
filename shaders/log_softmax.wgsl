// log_softmax: x - ln Σ exp(x) along each row.

//!include rows

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let lanes = 1u << params.lanes_log;
    let row = fold(group, grid) * (WORKGROUP / lanes) + lane / lanes;
    let max = largest(lane, row);
    let total = log(exponentials(lane, row, max));
    if row >= params.rows {
        return;
    }
    for (var c = lane % lanes; c < params.columns; c += lanes) {
        let at = place(row, c);
        out[at] = (x[at] - max) - total;
    }
}
