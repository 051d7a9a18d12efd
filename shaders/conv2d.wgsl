// conv2d: out[o, (n, y, x)] = Σ w[o, (c, i, j)] x[n, c, y·stride + i·dilation - pad, ...], per
// group; windows are gathered where a matrix product would read its second matrix.

struct Params {
    tiling: Tiling,
    geometry: Geometry,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include quads
//!include convolution
//!include space
//!epilogue

struct Row {
    start: u32,
}

struct Column {
    start: u32,
    at: vec2<i32>,
}

fn depth() -> u32 {
    return params.geometry.in_channels * KERNEL_H * KERNEL_W;
}

fn row_of(z: u32, row: u32) -> Row {
    let start = (z * params.tiling.rows + row) * depth();
    return Row(select(OUTSIDE, start, row < params.tiling.rows));
}

fn column_of(z: u32, column: u32) -> Column {
    let n = column / output_plane();
    let channel = (n * params.geometry.groups + z) * params.geometry.in_channels;
    let start = select(OUTSIDE, channel * input_plane(), column < params.tiling.columns);
    return Column(start, origin(column % output_plane()));
}

fn load_a(row: Row, k: u32) -> f32 {
    if row.start == OUTSIDE {
        return 0.0;
    }
    return w[row.start + k];
}

fn load_b(column: Column, k: u32) -> f32 {
    let channel = k / (KERNEL_H * KERNEL_W);
    let tap = k % (KERNEL_H * KERNEL_W);
    let step = vec2<i32>(vec2(tap / KERNEL_W * DILATION_H, tap % KERNEL_W * DILATION_W));
    let at = column.at + step;
    if column.start == OUTSIDE || !in_input(at) {
        return 0.0;
    }
    let cell = u32(at.x) * params.geometry.input.y + u32(at.y);
    return x[column.start + channel * input_plane() + cell];
}

fn sum_range(z: u32) -> vec2<u32> {
    return vec2(0u, depth());
}

fn place_row(z: u32, row: u32) -> u32 {
    let place = (z * params.tiling.rows + row) * output_plane();
    return select(OUTSIDE, place, row < params.tiling.rows);
}

fn place_column(z: u32, column: u32) -> u32 {
    let plane = output_plane();
    let channels = params.geometry.groups * params.geometry.out_channels;
    let place = column / plane * channels * plane + column % plane;
    return select(OUTSIDE, place, column < params.tiling.columns);
}
