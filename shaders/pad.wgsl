// pad: zeros around and between the elements along each axis.

//!include part

struct Params {
    part: Part,
    rank: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
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

const PADDING: u32 = 0xffffffffu;

// The number of the operand's element at element `index` of the result.
fn source(index: u32) -> u32 {
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
            return PADDING;
        }
        at += (position - low) / step * stride;
        stride *= extent;
    }
    return at;
}

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
    let at = source(params.part.first + i);
    if at == PADDING {
        out[i] = 0.0;
        return;
    }
    let element = held(at);
    if element.inside {
        out[i] = x[element.at];
    }
}
