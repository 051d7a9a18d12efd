// Grids: launches of any number of workgroups below the limit of a dimension.

const WORKGROUP: u32 = 256u;

// The number of a workgroup in a grid that was folded into two dimensions.
fn fold(id: vec3<u32>, grid: vec3<u32>) -> u32 {
    return id.y * grid.x + id.x;
}
