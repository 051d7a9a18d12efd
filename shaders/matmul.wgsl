// matmul: batched products out[z] = A[z] B[z], either operand stored transposed, and convolutions
// without a window, which are such products: their columns are the positions of all images.

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
    // Where the operands and the result begin in what is bound of them.
    a_first: u32,
    b_first: u32,
    out_first: u32,
    spare0: u32,
    spare1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include space
//!epilogue

//!include matrix for _a
//!include matrix for _b

fn rows_of(z: u32, row: u32) -> Lines_a {
    let start = params.a_first + z * params.a_batch + row * params.a_row;
    return Lines_a(start, inside(row, params.tiling.rows));
}

fn columns_of(z: u32, column: u32) -> Lines_b {
    let image = params.b_first + column / params.plane * params.b_image;
    let start = image + z * params.b_batch + column % params.plane * params.b_column;
    return Lines_b(start, inside(column, params.tiling.columns));
}

fn distance_a() -> u32 {
    return params.a_row;
}

fn distance_b() -> u32 {
    return params.b_column;
}

fn offset_a(k: u32) -> u32 {
    return k * params.a_step;
}

fn offset_b(k: u32) -> u32 {
    return k * params.b_step;
}

fn sum_range(z: u32) -> vec2<u32> {
    return vec2(0u, params.depth);
}

fn place_row(z: u32, row: u32) -> u32 {
    let place = params.out_first + (z * params.tiling.rows + row) * params.out_row;
    return select(OUTSIDE, place, row < params.tiling.rows);
}

fn place_column(z: u32, column: u32) -> u32 {
    let place = column / params.plane * params.out_image + column % params.plane;
    return select(OUTSIDE, place, column < params.tiling.columns);
}
