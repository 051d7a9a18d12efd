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
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

//!include convolution
//!variant
//!include matrix for _a

// Four columns: where their channels' planes start in an image, and what their taps add to the
// first positions that outputs see.
struct Lines_b {
    start: vec4<u32>,
    y: vec4<u32>,
    x: vec4<u32>,
}

fn group_of(z: u32) -> u32 {
    return z / params.segments;
}

fn plane_extent() -> vec2<u32> {
    return params.geometry.input;
}

fn rows_of(z: u32, row: u32) -> Lines_a {
    let channel = group_of(z) * params.tiling.rows + row;
    let start = params.geometry.first.y + channel * output_plane();
    return Lines_a(start, inside(row, params.tiling.rows));
}

fn distance_a() -> u32 {
    return output_plane();
}

fn offset_a(k: u32) -> u32 {
    let plane = output_plane();
    let channels = params.geometry.groups * params.geometry.out_channels;
    return k / plane * channels * plane + k % plane;
}

fn columns_of(z: u32, column: u32) -> Lines_b {
    let columns = column + vec4(0u, 1u, 2u, 3u);
    let channel = columns / (KERNEL_H * KERNEL_W);
    let tap = columns % (KERNEL_H * KERNEL_W);
    let start = (group_of(z) * params.geometry.in_channels + channel) * input_plane();
    let y = tap / KERNEL_W * DILATION_H - params.geometry.pad.x;
    let x = tap % KERNEL_W * DILATION_W - params.geometry.pad.y;
    let is_column = columns < vec4(params.tiling.columns);
    return Lines_b(start, y, select(vec4(FAR), x, is_column));
}

// Where the image of step `k` begins.
fn image_of(k: u32) -> u32 {
    let channels = params.geometry.groups * params.geometry.in_channels;
    return params.geometry.first.x + k / output_plane() * channels * input_plane();
}

fn quad_b(columns: Lines_b, k: u32) -> vec4<f32> {
    let position = k % output_plane();
    let y = position / params.geometry.output.y * STRIDE_H;
    let x = position % params.geometry.output.y * STRIDE_W;
    return gather(image_of(k) + columns.start, y + columns.y, x + columns.x);
}

// Four positions of an image that is at least four wide.
fn lines_b(columns: Lines_b, k: u32) -> mat4x4<f32> {
    let position = k % output_plane();
    let width = params.geometry.output.y;
    let ahead = position % width + vec4(0u, 1u, 2u, 3u);
    let is_next_row = ahead >= vec4(width);
    let y = (position / width + select(vec4(0u), vec4(1u), is_next_row)) * STRIDE_H;
    let x = (ahead - select(vec4(0u), vec4(width), is_next_row)) * STRIDE_W;
    let start = image_of(k) + columns.start;
    return mat4x4(
        gather(vec4(start.x), y + columns.y.x, x + columns.x.x),
        gather(vec4(start.y), y + columns.y.y, x + columns.x.y),
        gather(vec4(start.z), y + columns.y.z, x + columns.x.z),
        gather(vec4(start.w), y + columns.y.w, x + columns.x.w),
    );
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
