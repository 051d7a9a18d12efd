// pad: zeros around and between the elements along each axis.

//!include grid

struct Params {
    len: u32,
    rank: u32,
    spare: vec2<u32>,
    // Extents of the result and of the operand.
    padded: array<vec4<u32>, 2>,
    extents: array<vec4<u32>, 2>,
    low: array<vec4<u32>, 2>,
    // One more than the zeros between neighbours.
    step: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// The operand's element at element `index` of the result, if that is not padding.
fn element(index: u32) -> f32 {
    var rest = index;
    var at = 0u;
    var stride = 1u;
    for (var axis = params.rank; axis > 0u; axis--) {
        let quad = (axis - 1u) / 4u;
        let part = (axis - 1u) % 4u;
        let padded = params.padded[quad][part];
        let position = rest % padded;
        rest /= padded;
        let low = params.low[quad][part];
        let step = params.step[quad][part];
        let extent = params.extents[quad][part];
        if position < low || (position - low) % step != 0u || (position - low) / step >= extent {
            return 0.0;
        }
        at += (position - low) / step * stride;
        stride *= extent;
    }
    return x[at];
}

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
    out[i] = element(i);
}
