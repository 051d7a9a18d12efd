// Along: neighbouring threads bring neighbouring steps of the operand _x.

fn walk_x(lane: u32) -> Walk {
    return Walk(lane / DEPTH, lane % DEPTH);
}

//!include quads for _x
