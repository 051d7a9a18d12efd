// reduce: sums or maxima over some axes of a tape's result.
//
// `lanes` threads share an output; a workgroup works on 256 / lanes of them. Each thread combines
// every lanes-th element in order, and a tree combines the threads; sums are compensated in both.
// Few outputs are cut into segments, whose results a second launch combines: the order of all sums
// depends on the geometry alone.

//!include grid
//!include space
//!include compensated

struct Params {
    outputs: u32,
    // Elements that one output combines, and those of a segment.
    reduced: u32,
    segment: u32,
    // Binary logarithm of the threads that share an output.
    lanes_log: u32,
    // 1 when neighbours in memory belong to different outputs.
    inner_kept: u32,
    kept_rank: u32,
    reduced_rank: u32,
    spare: u32,
    // What lies before the first element in the bound part of the space, and of the result.
    first: u32,
    out_first: u32,
    // 1 when the result holds what an earlier launch combined.
    joins: u32,
    spare1: u32,
    kept_extents: array<vec4<u32>, 2>,
    kept_strides: array<vec4<u32>, 2>,
    reduced_extents: array<vec4<u32>, 2>,
    reduced_strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

override LARGEST: bool;

//!tape

var<workgroup> combined: array<Sum, WORKGROUP>;

fn kept(output: u32) -> u32 {
    var rest = output;
    var at = params.first;
    for (var axis = params.kept_rank; axis > 0u; axis--) {
        let a = axis - 1u;
        let extent = params.kept_extents[a / 4u][a % 4u];
        at += rest % extent * params.kept_strides[a / 4u][a % 4u];
        rest /= extent;
    }
    return at;
}

fn reduced(index: u32) -> u32 {
    var rest = index;
    var at = 0u;
    for (var axis = params.reduced_rank; axis > 1u; axis--) {
        let a = axis - 1u;
        let extent = params.reduced_extents[a / 4u][a % 4u];
        at += rest % extent * params.reduced_strides[a / 4u][a % 4u];
        rest /= extent;
    }
    return at + rest * params.reduced_strides[0].x;
}

fn combine(a: Sum, b: Sum) -> Sum {
    if LARGEST {
        return Sum(tape_max(a.x, b.x), 0.0);
    }
    return join(a, b);
}

// One thread's share of an output.
fn share(output: u32, first: u32, end: u32, step: u32) -> Sum {
    let base = kept(output);
    var sum = Sum(select(0.0, bitcast<f32>(0xff800000u + params.spare), LARGEST), 0.0);
    for (var r = first; r < end; r += step) {
        let element = value(base + reduced(r));
        if LARGEST {
            sum.x = tape_max(sum.x, element);
        } else {
            sum = add(sum, element);
        }
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let lanes = 1u << params.lanes_log;
    let outputs = WORKGROUP / lanes;
    let blocks = (params.outputs + outputs - 1u) / outputs;
    let block = fold(group, grid);
    let segment = block / blocks;
    let kept_lane = select(lane / lanes, lane % outputs, params.inner_kept != 0u);
    let reduced_lane = select(lane % lanes, lane / outputs, params.inner_kept != 0u);
    let stride = select(1u, outputs, params.inner_kept != 0u);
    let output = block % blocks * outputs + kept_lane;
    let start = segment * params.segment;
    let end = min(params.reduced, start + params.segment);
    var sum = Sum();
    if output < params.outputs {
        sum = share(output, start + reduced_lane, end, lanes);
    }
    combined[lane] = sum;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if reduced_lane < half {
            combined[lane] = combine(combined[lane], combined[lane + half * stride]);
        }
        workgroupBarrier();
    }
    if reduced_lane == 0u && output < params.outputs {
        let at = params.out_first + segment * params.outputs + output;
        var result = combined[lane];
        if params.joins != 0u {
            result = combine(Sum(out[at], 0.0), result);
        }
        out[at] = total(result);
    }
}
