// Add up: the sums of a workgroup's threads, first within subgroups, so that one barrier is enough.

// Most subgroups of a workgroup: those of the smallest size there is.
const SUBGROUPS: u32 = 64u;

var<workgroup> combined: array<f32, SUMS * SUBGROUPS>;

// This thread's subgroup, the subgroups of the workgroup, and its place in its own.
var<private> subgroup: vec3<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) number: u32,
    @builtin(num_subgroups) count: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    subgroup = vec3(number, count, place);
    update(fold(group, grid), lane);
}

// Adds the threads' sums and stores the results of `block`, in an order that the device's subgroups
// fix.
fn add_up(block: u32, lane: u32, sums: ptr<function, array<f32, SUMS>>) {
    for (var k = 0u; k < SUMS; k++) {
        let sum = subgroupAdd((*sums)[k]);
        if subgroup.z == 0u {
            combined[k * SUBGROUPS + subgroup.x] = sum;
        }
    }
    workgroupBarrier();
    for (var k = lane; k < SUMS; k += WORKGROUP) {
        var sum = 0.0;
        for (var s = 0u; s < subgroup.y; s++) {
            sum += combined[k * SUBGROUPS + s];
        }
        store_sum(block, k, sum);
    }
}
