// Tiles: the matrix product under all products and convolutions.
//
// A workgroup computes a TILE x TILE piece of the result; each of its 256 threads holds
// (4 REPEAT)² elements in registers. Steps of DEPTH along the sum are staged in workgroup memory:
// every thread brings four rows' elements of A and four columns' of B, as one vector each. Which
// way threads walk through memory (along the sum, or across rows or columns) is chosen so that
// neighbours read neighbours. The includer defines:
//
//   Rows, Columns                what finds the elements of four neighbouring rows or columns
//   rows_of(z, row), columns_of(z, column)
//   quad_a(Rows, k), quad_b(Columns, k)     one element of each, 0 outside
//   sum_range(z)                 first and end of the sum
//   place_row(z, row), place_column(z, column)   their sum is the element's index in the result;
//                                OUTSIDE where there is none
//   finish(index, value)         writes an element

//!include tiling

// TILE is 64 or 128, set by the variant.
const DEPTH: u32 = 1024u / TILE;
const QUADS: u32 = TILE / 4u;
const REPEAT: u32 = TILE / 64u;
// One more than a row of vectors, so that threads that walk along the sum hit different banks.
const PITCH: u32 = QUADS + 1u;

var<workgroup> tile_a: array<vec4<f32>, DEPTH * PITCH>;
var<workgroup> tile_b: array<vec4<f32>, DEPTH * PITCH>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = fold(group, grid);
    if tile >= params.tiling.tiles {
        return;
    }
    let column0 = tile % params.tiling.column_tiles * TILE;
    let row0 = tile / params.tiling.column_tiles % params.tiling.row_tiles * TILE;
    let z = tile / (params.tiling.column_tiles * params.tiling.row_tiles);

    // What this thread stages: four neighbouring rows and columns at one step of the sum.
    let a_quad = select(lane % QUADS, lane / DEPTH, A_ALONG_SUM);
    let a_step = select(lane / QUADS, lane % DEPTH, A_ALONG_SUM);
    let b_quad = select(lane % QUADS, lane / DEPTH, B_ALONG_SUM);
    let b_step = select(lane / QUADS, lane % DEPTH, B_ALONG_SUM);
    let row = row0 + a_quad * 4u;
    let column = column0 + b_quad * 4u;
    let rows = rows_of(z, row);
    let columns = columns_of(z, column);

    // What this thread computes.
    let tx = lane % 16u;
    let ty = lane / 16u;
    var sums: array<vec4<f32>, 4u * REPEAT * REPEAT>;
    let range = sum_range(z);
    for (var k0 = range.x; k0 < range.y; k0 += DEPTH) {
        var a = vec4(0.0);
        var b = vec4(0.0);
        let ka = k0 + a_step;
        let kb = k0 + b_step;
        if ka < range.y {
            a = quad_a(rows, ka);
        }
        if kb < range.y {
            b = quad_b(columns, kb);
        }
        tile_a[a_step * PITCH + a_quad] = a;
        tile_b[b_step * PITCH + b_quad] = b;
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            for (var i = 0u; i < REPEAT; i++) {
                let a = tile_a[k * PITCH + ty + 16u * i];
                for (var j = 0u; j < REPEAT; j++) {
                    let b = tile_b[k * PITCH + tx + 16u * j];
                    let at = (i * REPEAT + j) * 4u;
                    sums[at] += a.x * b;
                    sums[at + 1u] += a.y * b;
                    sums[at + 2u] += a.z * b;
                    sums[at + 3u] += a.w * b;
                }
            }
        }
        workgroupBarrier();
    }

    for (var j = 0u; j < REPEAT; j++) {
        let column = column0 + (tx + 16u * j) * 4u;
        let places = vec4(
            place_column(z, column),
            place_column(z, column + 1u),
            place_column(z, column + 2u),
            place_column(z, column + 3u),
        );
        for (var i = 0u; i < REPEAT; i++) {
            for (var r = 0u; r < 4u; r++) {
                let row = place_row(z, row0 + (ty + 16u * i) * 4u + r);
                let sum = sums[(i * REPEAT + j) * 4u + r];
                write(row, places.x, sum.x);
                write(row, places.y, sum.y);
                write(row, places.z, sum.z);
                write(row, places.w, sum.w);
            }
        }
    }
}

fn write(row: u32, column: u32, sum: f32) {
    if row != OUTSIDE && column != OUTSIDE {
        finish(row + column, sum);
    }
}
