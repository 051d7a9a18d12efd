// Blocks: an operand _x that is stored along the sum comes as vectors. A quarter of the threads
// bring four steps of four lines each, and turn them: what threads share are vectors across lines.

fn walk_x(lane: u32) -> Walk {
    return Walk(lane / (DEPTH / 4u), lane % (DEPTH / 4u) * 4u);
}

fn stage_x(walk: Walk, lines: Lines_x, k: u32, end: u32) {
    if walk.quad >= QUADS {
        return;
    }
    var steps = mat4x4<f32>();
    if k < end {
        steps = transpose(lines_x(lines, k));
    }
    put_x(walk.step, walk.quad, steps[0]);
    put_x(walk.step + 1u, walk.quad, steps[1]);
    put_x(walk.step + 2u, walk.quad, steps[2]);
    put_x(walk.step + 3u, walk.quad, steps[3]);
}
