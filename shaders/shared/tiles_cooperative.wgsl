enable wgpu_cooperative_matrix;

// Tiles, multiplied by the device's own matrices: the same as `tiles`, but the eight subgroups of a
// workgroup each compute eight rows of a tile as eight small matrices. Devices with other subgroups
// compute something else, and are found out before this is used.

//!include tiling

const TILE: u32 = 64u;
const DEPTH: u32 = 16u;
const QUADS: u32 = 16u;

// A as [step, row], then B as [step, column]; in the end the tile as [row, column].
var<workgroup> stage: array<f32, TILE * TILE>;
const B_STAGE: u32 = DEPTH * TILE;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    // Workgroups beyond the last tile work along, since small matrices want uniform control flow,
    // and write nothing.
    let tile = fold(group, grid);
    let column0 = tile % params.tiling.column_tiles * TILE;
    let row0 = tile / params.tiling.column_tiles % params.tiling.row_tiles * TILE;
    let z = tile / (params.tiling.column_tiles * params.tiling.row_tiles);

    let a = walk_a(lane);
    let b = walk_b(lane ^ 64u);
    let rows = rows_of(z, row0 + a.quad * 4u);
    let columns = columns_of(z, column0 + b.quad * 4u);

    let first = subgroup % 8u * 8u;
    var c0 = coop_mat8x8<f32, C>();
    var c1 = coop_mat8x8<f32, C>();
    var c2 = coop_mat8x8<f32, C>();
    var c3 = coop_mat8x8<f32, C>();
    var c4 = coop_mat8x8<f32, C>();
    var c5 = coop_mat8x8<f32, C>();
    var c6 = coop_mat8x8<f32, C>();
    var c7 = coop_mat8x8<f32, C>();
    let range = sum_range(z);
    for (var k0 = range.x; k0 < range.y; k0 += DEPTH) {
        stage_a(a, rows, k0 + a.step, range.y);
        stage_b(b, columns, k0 + b.step, range.y);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += 8u) {
            let left = coopLoad<coop_mat8x8<f32, A>>(&stage[k * TILE + first], TILE);
            let at = B_STAGE + k * TILE;
            c0 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at], TILE), c0);
            c1 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 8u], TILE), c1);
            c2 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 16u], TILE), c2);
            c3 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 24u], TILE), c3);
            c4 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 32u], TILE), c4);
            c5 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 40u], TILE), c5);
            c6 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 48u], TILE), c6);
            c7 = coopMultiplyAdd(left, coopLoadT<coop_mat8x8<f32, B>>(&stage[at + 56u], TILE), c7);
        }
        workgroupBarrier();
    }

    let target_row = first * TILE;
    coopStoreT(c0, &stage[target_row], TILE);
    coopStoreT(c1, &stage[target_row + 8u], TILE);
    coopStoreT(c2, &stage[target_row + 16u], TILE);
    coopStoreT(c3, &stage[target_row + 24u], TILE);
    coopStoreT(c4, &stage[target_row + 32u], TILE);
    coopStoreT(c5, &stage[target_row + 40u], TILE);
    coopStoreT(c6, &stage[target_row + 48u], TILE);
    coopStoreT(c7, &stage[target_row + 56u], TILE);
    workgroupBarrier();
    let elements = select(0u, TILE * TILE, tile < params.tiling.tiles);
    for (var e = lane; e < elements; e += WORKGROUP) {
        let row = place_row(z, row0 + e / TILE);
        let column = place_column(z, column0 + e % TILE);
        if row != OUTSIDE && column != OUTSIDE {
            finish(row + column, stage[e]);
        }
    }
}

fn put_a(step: u32, quad: u32, elements: vec4<f32>) {
    put(step * TILE + quad * 4u, elements);
}

fn put_b(step: u32, quad: u32, elements: vec4<f32>) {
    put(B_STAGE + step * TILE + quad * 4u, elements);
}

fn put(at: u32, elements: vec4<f32>) {
    stage[at] = elements.x;
    stage[at + 1u] = elements.y;
    stage[at + 2u] = elements.z;
    stage[at + 3u] = elements.w;
}
