// Grids: launches of any number of workgroups below the limit of a dimension.

const WORKGROUP: u32 = 256u;

// The workgroup that this part of a launch begins with.
@group(1) @binding(0) var<uniform> first_workgroup: u32;

// The number of a workgroup in a grid that was folded into two dimensions.
fn fold(id: vec3<u32>, grid: vec3<u32>) -> u32 {
    return first_workgroup + id.y * grid.x + id.x;
}
