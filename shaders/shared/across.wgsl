// Across: neighbouring threads bring neighbouring lines of the operand _x.

fn walk_x(lane: u32) -> Walk {
    return Walk(lane % QUADS, lane / QUADS);
}

//!include quads for _x
