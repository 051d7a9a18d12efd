// conv2d: out[o, (n, y, x)] = Σ w[o, (c, i, j)] x[n, c, y·stride + i·dilation - pad, ...], per
// group; windows are gathered where a matrix product would read its second matrix.

struct Params {
    tiling: Tiling,
    geometry: Geometry,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include convolution
//!include space
//!epilogue
//!include matrix for _a

// Four columns: where their images' planes start, and the first positions that they see.
struct Lines_b {
    start: vec4<u32>,
    y: vec4<u32>,
    x: vec4<u32>,
}

fn depth() -> u32 {
    return params.geometry.in_channels * KERNEL_H * KERNEL_W;
}

fn plane_extent() -> vec2<u32> {
    return params.geometry.input;
}

fn rows_of(z: u32, row: u32) -> Lines_a {
    let start = (z * params.tiling.rows + row) * depth();
    return Lines_a(start, inside(row, params.tiling.rows));
}

fn distance_a() -> u32 {
    return depth();
}

fn offset_a(k: u32) -> u32 {
    return k;
}

fn columns_of(z: u32, column: u32) -> Lines_b {
    let columns = column + vec4(0u, 1u, 2u, 3u);
    let n = columns / output_plane();
    let position = columns % output_plane();
    let channel = (n * params.geometry.groups + z) * params.geometry.in_channels;
    let y = position / params.geometry.output.y * STRIDE_H - params.geometry.pad.x;
    let x = position % params.geometry.output.y * STRIDE_W - params.geometry.pad.y;
    let is_column = columns < vec4(params.tiling.columns);
    let start = params.geometry.first.x + channel * input_plane();
    return Lines_b(start, y, select(vec4(FAR), x, is_column));
}

fn quad_b(columns: Lines_b, k: u32) -> vec4<f32> {
    let channel = k / (KERNEL_H * KERNEL_W);
    let tap = k % (KERNEL_H * KERNEL_W);
    let start = columns.start + channel * input_plane();
    let y = columns.y + tap / KERNEL_W * DILATION_H;
    let x = columns.x + tap % KERNEL_W * DILATION_W;
    return gather(start, y, x);
}

fn sum_range(z: u32) -> vec2<u32> {
    return vec2(0u, depth());
}

fn place_row(z: u32, row: u32) -> u32 {
    let place = params.geometry.first.y + (z * params.tiling.rows + row) * output_plane();
    return select(OUTSIDE, place, row < params.tiling.rows);
}

fn place_column(z: u32, column: u32) -> u32 {
    let plane = output_plane();
    let channels = params.geometry.groups * params.geometry.out_channels;
    let place = column / plane * channels * plane + column % plane;
    return select(OUTSIDE, place, column < params.tiling.columns);
}
