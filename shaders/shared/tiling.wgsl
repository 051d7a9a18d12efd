// Tiling: how the result of a product is cut into tiles, and who brings what of them.

//!include grid

const OUTSIDE: u32 = 0xffffffffu;

struct Tiling {
    rows: u32,
    columns: u32,
    row_tiles: u32,
    column_tiles: u32,
    tiles: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

// What a thread brings of an operand: which four lines of the tile, from which of its steps on.
struct Walk {
    quad: u32,
    step: u32,
}

// Bindings of the operands.
const binding_a: u32 = 2u;
const binding_b: u32 = 3u;

// How many of four lines from `first` on come before `end`.
fn inside(first: u32, end: u32) -> u32 {
    return select(0u, min(4u, end - first), first < end);
}
