// Tiles: the matrix product under all products and convolutions.
//
// A workgroup computes a TILE x TILE piece of the result; each of its 256 threads holds
// (4 REPEAT)² elements in registers. Steps of DEPTH along the sum are staged in workgroup memory
// as vectors of four lines: rows of A, columns of B. How threads walk through an operand (across
// its lines, along the sum, or in blocks) is chosen by the variant so that neighbours read
// neighbours, by vectors where these line up. The includer defines:
//
//   Lines_a, Lines_b             what finds the elements of four neighbouring lines
//   rows_of(z, row), columns_of(z, column)
//   quad_a(Lines_a, k), quad_b(Lines_b, k)      one element of each line, 0 outside
//   lines_a(Lines_a, k), lines_b(Lines_b, k)    four steps of each line, where there are blocks
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

    // What this thread stages; blocks of A and of B are brought by different threads.
    let a = walk_a(lane);
    let b = walk_b(lane ^ 64u);
    let rows = rows_of(z, row0 + a.quad * 4u);
    let columns = columns_of(z, column0 + b.quad * 4u);

    // What this thread computes.
    let tx = lane % 16u;
    let ty = lane / 16u;
    var sums: array<vec4<f32>, 4u * REPEAT * REPEAT>;
    let range = sum_range(z);
    for (var k0 = range.x; k0 < range.y; k0 += DEPTH) {
        stage_a(a, rows, k0 + a.step, range.y);
        stage_b(b, columns, k0 + b.step, range.y);
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

fn put_a(step: u32, quad: u32, elements: vec4<f32>) {
    tile_a[step * PITCH + quad] = elements;
}

fn put_b(step: u32, quad: u32, elements: vec4<f32>) {
    tile_b[step * PITCH + quad] = elements;
}

fn write(row: u32, column: u32, sum: f32) {
    if row != OUTSIDE && column != OUTSIDE {
        finish(row + column, sum);
    }
}
