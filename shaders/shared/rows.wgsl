// Rows: what is done along each row of a matrix; `lanes` threads share a row.

//!include grid

struct Params {
    rows: u32,
    columns: u32,
    // Binary logarithm of the threads that share a row.
    lanes_log: u32,
    spare: u32,
    // Where the first row begins in what is bound.
    first: u32,
    spare1: u32,
    spare2: u32,
    spare3: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn place(row: u32, column: u32) -> u32 {
    return params.first + row * params.columns + column;
}

var<workgroup> combined: array<f32, WORKGROUP>;

// The largest of the lanes' numbers.
fn row_max(lane: u32, mine: f32) -> f32 {
    let lanes = 1u << params.lanes_log;
    combined[lane] = mine;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if lane % lanes < half {
            let other = combined[lane + half];
            combined[lane] = select(combined[lane], other, other > combined[lane]);
        }
        workgroupBarrier();
    }
    let result = combined[lane / lanes * lanes];
    workgroupBarrier();
    return result;
}

// The sum of the lanes' numbers.
fn row_sum(lane: u32, mine: f32) -> f32 {
    let lanes = 1u << params.lanes_log;
    combined[lane] = mine;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if lane % lanes < half {
            combined[lane] += combined[lane + half];
        }
        workgroupBarrier();
    }
    let result = combined[lane / lanes * lanes];
    workgroupBarrier();
    return result;
}

// The largest element of this thread's row, NaN left out.
fn largest(lane: u32, row: u32) -> f32 {
    let lanes = 1u << params.lanes_log;
    var mine = bitcast<f32>(0xff800000u + params.spare);
    if row < params.rows {
        for (var c = lane % lanes; c < params.columns; c += lanes) {
            let candidate = x[place(row, c)];
            mine = select(mine, candidate, candidate > mine);
        }
    }
    return row_max(lane, mine);
}

// Σ exp(x - max) along this thread's row.
fn exponentials(lane: u32, row: u32, max: f32) -> f32 {
    let lanes = 1u << params.lanes_log;
    var mine = 0.0;
    if row < params.rows {
        for (var c = lane % lanes; c < params.columns; c += lanes) {
            mine += exp(x[place(row, c)] - max);
        }
    }
    return row_sum(lane, mine);
}
