// Add up: the sums of a workgroup's threads, through workgroup memory.

// Sums that are added at a time: all that fits the memory of any device's workgroup.
const ROUND: u32 = 8u;

var<workgroup> combined: array<Sum, ROUND * WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    update(fold(group, grid), lane);
}

// Adds the threads' sums and stores the results of `block`, in an order that nothing changes.
fn add_up(block: u32, lane: u32, sums: ptr<function, array<Sum, SUMS>>) {
    for (var round = 0u; round < (SUMS + ROUND - 1u) / ROUND; round++) {
        for (var j = 0u; j < ROUND; j++) {
            let k = round * ROUND + j;
            if k < SUMS {
                combined[j * WORKGROUP + lane] = (*sums)[k];
            }
        }
        workgroupBarrier();
        add_round(block, round, lane);
    }
}

// Adds ROUND sums over the workgroup: 32 threads each.
fn add_round(block: u32, round: u32, lane: u32) {
    let j = lane / 32u;
    let l = lane % 32u;
    var sum = Sum();
    for (var q = 0u; q < WORKGROUP / 32u; q++) {
        sum = join(sum, combined[j * WORKGROUP + l + 32u * q]);
    }
    workgroupBarrier();
    combined[lane] = sum;
    workgroupBarrier();
    for (var half = 16u; half > 0u; half /= 2u) {
        if l < half {
            combined[lane] = join(combined[lane], combined[lane + half]);
        }
        workgroupBarrier();
    }
    let k = round * ROUND + j;
    if l == 0u && k < SUMS {
        store_sum(block, k, total(combined[lane]));
    }
    workgroupBarrier();
}
