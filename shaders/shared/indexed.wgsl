// Indexed: rows of one axis, taken or added by number.

//!include part

struct Params {
    part: Part,
    // Extent of the axis, rows taken or added, elements of a row.
    extent: u32,
    count: u32,
    inner: u32,
    // 1 when the result holds what an earlier launch added.
    joins: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
