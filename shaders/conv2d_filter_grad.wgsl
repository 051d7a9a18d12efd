// conv2d_filter_grad: dw[o, (c, i, j)] = Σ ct[o, (n, y, x)] x[n, c, y·stride + i·dilation - pad, ..],
// per group. The sum over all positions is cut into segments, whose results a second launch adds.

struct Params {
    tiling: Tiling,
    geometry: Geometry,
    segments: u32,
    segment: u32,
    // Elements of the whole filter.
    filter_len: u32,
    // The first segment of this launch.
    first_segment: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> ct: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include quads
//!include convolution
//!variant

struct Row {
    start: u32,
}

struct Column {
    start: u32,
    offset: vec2<i32>,
}

fn group_of(z: u32) -> u32 {
    return z / params.segments;
}

fn row_of(z: u32, row: u32) -> Row {
    let start = (group_of(z) * params.tiling.rows + row) * output_plane();
    return Row(select(OUTSIDE, start, row < params.tiling.rows));
}

fn column_of(z: u32, column: u32) -> Column {
    let channel = column / (KERNEL_H * KERNEL_W);
    let tap = column % (KERNEL_H * KERNEL_W);
    let offset = vec2<i32>(vec2(tap / KERNEL_W * DILATION_H, tap % KERNEL_W * DILATION_W));
    let start = (group_of(z) * params.geometry.in_channels + channel) * input_plane();
    return Column(select(OUTSIDE, start, column < params.tiling.columns), offset);
}

fn load_a(row: Row, k: u32) -> f32 {
    if row.start == OUTSIDE {
        return 0.0;
    }
    let plane = output_plane();
    let channels = params.geometry.groups * params.geometry.out_channels;
    return ct[k / plane * channels * plane + row.start + k % plane];
}

fn load_b(column: Column, k: u32) -> f32 {
    let plane = output_plane();
    let at = origin(k % plane) + column.offset;
    if column.start == OUTSIDE || !in_input(at) {
        return 0.0;
    }
    let channels = params.geometry.groups * params.geometry.in_channels;
    let cell = u32(at.x) * params.geometry.input.y + u32(at.y);
    return x[k / plane * channels * input_plane() + column.start + cell];
}

fn sum_range(z: u32) -> vec2<u32> {
    let first = z % params.segments * params.segment;
    return vec2(first, min(params.geometry.batch * output_plane(), first + params.segment));
}

fn place_row(z: u32, row: u32) -> u32 {
    let segment = params.first_segment + z % params.segments;
    let place = segment * params.filter_len
        + (group_of(z) * params.tiling.rows + row) * params.tiling.columns;
    return select(OUTSIDE, place, row < params.tiling.rows);
}

fn place_column(z: u32, column: u32) -> u32 {
    return select(OUTSIDE, column, column < params.tiling.columns);
}

fn finish(index: u32, sum: f32) {
    out[index] = sum;
}
