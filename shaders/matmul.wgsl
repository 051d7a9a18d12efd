// matmul: batched products out[z] = A[z] B[z], either operand stored transposed.

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
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include tiles
//!include space
//!epilogue

struct Row {
    start: u32,
}

struct Column {
    start: u32,
}

fn row_of(z: u32, row: u32) -> Row {
    return Row(select(OUTSIDE, z * params.a_batch + row * params.a_row, row < params.tiling.rows));
}

fn column_of(z: u32, column: u32) -> Column {
    let start = z * params.b_batch + column * params.b_column;
    return Column(select(OUTSIDE, start, column < params.tiling.columns));
}

fn load_a(row: Row, k: u32) -> f32 {
    if row.start == OUTSIDE {
        return 0.0;
    }
    return a[row.start + k * params.a_step];
}

fn load_b(column: Column, k: u32) -> f32 {
    if column.start == OUTSIDE {
        return 0.0;
    }
    return b[column.start + k * params.b_step];
}

fn sum_range(z: u32) -> vec2<u32> {
    return vec2(0u, params.depth);
}

fn place_row(z: u32, row: u32) -> u32 {
    let place = (z * params.tiling.rows + row) * params.tiling.columns;
    return select(OUTSIDE, place, row < params.tiling.rows);
}

fn place_column(z: u32, column: u32) -> u32 {
    return select(OUTSIDE, column, column < params.tiling.columns);
}
