// Add up: the sums of a workgroup's threads, first within subgroups, so that one barrier is enough.

// Most subgroups of a workgroup: those of the smallest size there is. SUMS is at most 32.
const SUBGROUPS: u32 = 64u;

var<workgroup> combined: array<Sum, SUMS * SUBGROUPS>;

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

// The sum over a subgroup of at most 128 threads (Rump, Ogita and Oishi, Accurate floating-point
// summation, 2008). Each number is cut at a place that all share, 24 bits below a power of two that
// exceeds every partial sum of theirs: the upper parts add up without rounding, in any order.
fn add_subgroup(sum: Sum) -> Sum {
    let largest = bitcast<u32>(subgroupMax(abs(sum.x))) & 0x7f800000u;
    // 2^8 times the largest's power of two, or the largest power there is.
    let anchor = bitcast<f32>(min(largest + (8u << 23u), 254u << 23u));
    let upper = opaque(opaque(anchor + sum.x) - anchor);
    return Sum(subgroupAdd(upper), subgroupAdd(sum.x - upper + sum.y));
}

// Adds the threads' sums and stores the results of `block`, in an order that the device's subgroups
// fix.
fn add_up(block: u32, lane: u32, sums: ptr<function, array<Sum, SUMS>>) {
    for (var k = 0u; k < SUMS; k++) {
        let sum = add_subgroup((*sums)[k]);
        if subgroup.z == 0u {
            combined[k * SUBGROUPS + subgroup.x] = sum;
        }
    }
    workgroupBarrier();
    for (var k = lane; k < SUMS; k += WORKGROUP) {
        var sum = Sum();
        for (var s = 0u; s < subgroup.y; s++) {
            sum = join(sum, combined[k * SUBGROUPS + s]);
        }
        store_sum(block, k, total(sum));
    }
}
