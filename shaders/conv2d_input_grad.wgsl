// conv2d_input_grad: dx[c, (n, h, w)] = Σ w[o, c, i, j] ct[n, o, (h + pad - i·dilation)/stride, ..],
// per group. With a stride, positions of the same remainder form a phase of their own, which only
// every stride-th tap reaches: no product with a zero is formed.

struct Params {
    tiling: Tiling,
    geometry: Geometry,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Phases of an axis: the stride, or 1 where a dilation makes taps meet positions unevenly.
override PHASES_H: u32;
override PHASES_W: u32;

//!include convolution
//!include space
//!epilogue

// Four rows: where the first begins, and how many are inside.
struct Lines_a {
    start: u32,
    count: u32,
    // The first tap that reaches this phase, and the number of those that do.
    first: vec2<u32>,
    taps: vec2<u32>,
}

// Four columns: where their images' planes start.
struct Lines_b {
    start: vec4<u32>,
    // Positions in the padded input.
    y: vec4<u32>,
    x: vec4<u32>,
    first: vec2<u32>,
    taps: vec2<u32>,
}

fn plane_extent() -> vec2<u32> {
    return params.geometry.output;
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

// Where columns lie in the input: their rows, and their places in these.
fn rows_at(z: u32, columns: vec4<u32>) -> vec4<u32> {
    let across = extents();
    return columns % (across.x * across.y) / across.y * PHASES_H + phase_of(z).x;
}

fn places_at(z: u32, columns: vec4<u32>) -> vec4<u32> {
    let across = extents();
    return columns % (across.x * across.y) % across.y * PHASES_W + phase_of(z).y;
}

fn rows_of(z: u32, row: u32) -> Lines_a {
    let channels = params.geometry.in_channels;
    let slab = group_of(z) * params.geometry.out_channels * channels + row;
    let start = slab * KERNEL_H * KERNEL_W;
    return Lines_a(start, inside(row, channels), first_tap(z), taps(z));
}

fn columns_of(z: u32, column: u32) -> Lines_b {
    let across = extents();
    let columns = column + vec4(0u, 1u, 2u, 3u);
    let n = columns / (across.x * across.y);
    let channel = (n * params.geometry.groups + group_of(z)) * params.geometry.out_channels;
    let y = rows_at(z, columns) + params.geometry.pad.x;
    let x = places_at(z, columns) + params.geometry.pad.y;
    let is_column = columns < vec4(params.tiling.columns);
    let start = params.geometry.first.y + channel * output_plane();
    return Lines_b(start, y, select(vec4(FAR), x, is_column), first_tap(z), taps(z));
}

// The output channel and the tap of step `k` of the sum.
fn step_of(k: u32, first: vec2<u32>, count: vec2<u32>) -> vec3<u32> {
    let channel = k / (count.x * count.y);
    let t = k % (count.x * count.y);
    let tap = first + vec2(t / count.y, t % count.y) * vec2(PHASES_H, PHASES_W);
    return vec3(channel, tap);
}

fn quad_a(rows: Lines_a, k: u32) -> vec4<f32> {
    let step = step_of(k, rows.first, rows.taps);
    let slab = step.x * params.geometry.in_channels * KERNEL_H * KERNEL_W;
    let start = rows.start + slab + step.y * KERNEL_W + step.z;
    return load_a(start, KERNEL_H * KERNEL_W, rows.count);
}

fn quad_b(columns: Lines_b, k: u32) -> vec4<f32> {
    let step = step_of(k, columns.first, columns.taps);
    let y = met(columns.y - step.y * DILATION_H, STRIDE_H);
    let x = met(columns.x - step.z * DILATION_W, STRIDE_W);
    return gather(columns.start + step.x * output_plane(), y, x);
}

// Which outputs see what lies so far behind the first position that an output sees; FAR if none
// does. Distances to the other side wrapped, and give outputs that there are not.
fn met(distance: vec4<u32>, stride: u32) -> vec4<u32> {
    return select(vec4(FAR), distance / stride, distance % stride == vec4(0u));
}

fn sum_range(z: u32) -> vec2<u32> {
    let count = taps(z);
    return vec2(0u, params.geometry.out_channels * count.x * count.y);
}

fn place_row(z: u32, row: u32) -> u32 {
    let channel = group_of(z) * params.geometry.in_channels + row;
    let place = params.geometry.first.x + channel * input_plane();
    return select(OUTSIDE, place, row < params.geometry.in_channels);
}

fn place_column(z: u32, column: u32) -> u32 {
    let across = extents();
    let at = vec2(rows_at(z, vec4(column)).x, places_at(z, vec4(column)).x);
    let n = column / (across.x * across.y);
    let channels = params.geometry.groups * params.geometry.in_channels;
    let place = n * channels * input_plane() + at.x * params.geometry.input.y + at.y;
    let inside = column < params.tiling.columns && all(at < params.geometry.input);
    return select(OUTSIDE, place, inside);
}
