// conv2d_input_grad: dx[c, (n, h, w)] = Σ w[o, c, i, j] ct[n, o, (h + pad - i·dilation)/stride, ..],
// per group. With a stride, positions of the same remainder form a phase of their own, which only
// every stride-th tap reaches: no product with a zero is formed.

struct Params {
    tiling: Tiling,
    geometry: Geometry,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> ct: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Phases of an axis: the stride, or 1 where a dilation makes taps meet positions unevenly.
override PHASES_H: u32;
override PHASES_W: u32;

//!include quads
//!include convolution
//!include space
//!epilogue

struct Row {
    start: u32,
    // The first tap that reaches this phase, and the number of those that do.
    first: vec2<u32>,
    taps: vec2<u32>,
}

struct Column {
    start: u32,
    // Position in the padded input.
    at: vec2<u32>,
    first: vec2<u32>,
    taps: vec2<u32>,
}

fn phase_of(z: u32) -> vec2<u32> {
    return vec2(z / PHASES_W % PHASES_H, z % PHASES_W);
}

fn group_of(z: u32) -> u32 {
    return z / (PHASES_H * PHASES_W);
}

fn first_tap(z: u32) -> vec2<u32> {
    return (phase_of(z) + params.geometry.pad) % vec2(PHASES_H, PHASES_W);
}

fn taps(z: u32) -> vec2<u32> {
    let phases = vec2(PHASES_H, PHASES_W);
    return (vec2(KERNEL_H, KERNEL_W) + phases - 1u - first_tap(z)) / phases;
}

// Positions of every phase along each axis, in the widest phase.
fn extents() -> vec2<u32> {
    let phases = vec2(PHASES_H, PHASES_W);
    return (params.geometry.input + phases - 1u) / phases;
}

fn position(z: u32, column: u32) -> vec2<u32> {
    let across = extents();
    let p = column % (across.x * across.y);
    return vec2(p / across.y, p % across.y) * vec2(PHASES_H, PHASES_W) + phase_of(z);
}

fn row_of(z: u32, row: u32) -> Row {
    let channels = params.geometry.in_channels;
    let slab = group_of(z) * params.geometry.out_channels * channels + row;
    let start = slab * KERNEL_H * KERNEL_W;
    return Row(select(OUTSIDE, start, row < channels), first_tap(z), taps(z));
}

fn column_of(z: u32, column: u32) -> Column {
    let across = extents();
    let n = column / (across.x * across.y);
    let channel = (n * params.geometry.groups + group_of(z)) * params.geometry.out_channels;
    let start = select(OUTSIDE, channel * output_plane(), column < params.tiling.columns);
    return Column(start, position(z, column) + params.geometry.pad, first_tap(z), taps(z));
}

// The output channel and the tap of step `k` of the sum.
fn step_of(k: u32, first: vec2<u32>, count: vec2<u32>) -> vec3<u32> {
    let channel = k / (count.x * count.y);
    let t = k % (count.x * count.y);
    let tap = first + vec2(t / count.y, t % count.y) * vec2(PHASES_H, PHASES_W);
    return vec3(channel, tap);
}

fn load_a(row: Row, k: u32) -> f32 {
    if row.start == OUTSIDE {
        return 0.0;
    }
    let step = step_of(k, row.first, row.taps);
    let slab = step.x * params.geometry.in_channels * KERNEL_H * KERNEL_W;
    return w[row.start + slab + step.y * KERNEL_W + step.z];
}

fn load_b(column: Column, k: u32) -> f32 {
    let step = step_of(k, column.first, column.taps);
    let offset = step.yz * vec2(DILATION_H, DILATION_W);
    let stride = vec2(STRIDE_H, STRIDE_W);
    let reach = column.at - offset;
    let at = reach / stride;
    let meets = all(column.at >= offset) && all(reach % stride == vec2(0u));
    if column.start == OUTSIDE || !meets || any(at >= params.geometry.output) {
        return 0.0;
    }
    return ct[column.start + step.x * output_plane() + at.x * params.geometry.output.y + at.y];
}

fn sum_range(z: u32) -> vec2<u32> {
    let count = taps(z);
    return vec2(0u, params.geometry.out_channels * count.x * count.y);
}

fn place_row(z: u32, row: u32) -> u32 {
    let place = (group_of(z) * params.geometry.in_channels + row) * input_plane();
    return select(OUTSIDE, place, row < params.geometry.in_channels);
}

fn place_column(z: u32, column: u32) -> u32 {
    let across = extents();
    let at = position(z, column);
    let n = column / (across.x * across.y);
    let channels = params.geometry.groups * params.geometry.in_channels;
    let place = n * channels * input_plane() + at.x * params.geometry.input.y + at.y;
    let inside = column < params.tiling.columns && all(at < params.geometry.input);
    return select(OUTSIDE, place, inside);
}
