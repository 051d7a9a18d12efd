// matmul: batched products out[z] = A[z] B[z], either operand stored transposed, and convolutions
// without a window, which are such products: their columns are the positions of all images. The
// variant declares the operands and load_a and load_b, which bring four elements at a given
// distance, of which `count` are inside: as one vector where they are neighbours and vectors line
// up.

struct Params {
    tiling: Tiling,
    depth: u32,
    // Distance of neighbours along the sum, across rows or columns, and across the batch.
    a_step: u32,
    a_row: u32,
    a_batch: u32,
    b_step: u32,
    b_column: u32,
    b_batch: u32,
    // Columns of an image, and the distance of images in B.
    plane: u32,
    b_image: u32,
    // Distance of rows and of images in the result.
    out_row: u32,
    out_image: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include space
//!epilogue

// Four neighbouring rows or columns: where the first begins, and how many are inside.
struct Rows {
    start: u32,
    count: u32,
}

struct Columns {
    start: u32,
    count: u32,
}

fn inside(first: u32, end: u32) -> u32 {
    return select(0u, min(4u, end - first), first < end);
}

fn rows_of(z: u32, row: u32) -> Rows {
    let start = z * params.a_batch + row * params.a_row;
    return Rows(start, inside(row, params.tiling.rows));
}

fn columns_of(z: u32, column: u32) -> Columns {
    let image = column / params.plane * params.b_image;
    let start = z * params.b_batch + image + column % params.plane * params.b_column;
    return Columns(start, inside(column, params.tiling.columns));
}

fn quad_a(rows: Rows, k: u32) -> vec4<f32> {
    return load_a(rows.start + k * params.a_step, params.a_row, rows.count);
}

fn quad_b(columns: Columns, k: u32) -> vec4<f32> {
    return load_b(columns.start + k * params.b_step, params.b_column, columns.count);
}

fn sum_range(z: u32) -> vec2<u32> {
    return vec2(0u, params.depth);
}

fn place_row(z: u32, row: u32) -> u32 {
    let place = (z * params.tiling.rows + row) * params.out_row;
    return select(OUTSIDE, place, row < params.tiling.rows);
}

fn place_column(z: u32, column: u32) -> u32 {
    let place = column / params.plane * params.out_image + column % params.plane;
    return select(OUTSIDE, place, column < params.tiling.columns);
}
