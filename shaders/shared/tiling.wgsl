// Tiling: how the result of a product is cut into tiles, and how threads walk through its operands.

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

// Whether neighbouring threads read neighbours along the sum, or across rows or columns.
override A_ALONG_SUM: bool;
override B_ALONG_SUM: bool;
