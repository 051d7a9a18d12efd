// Quads: every thread brings one step of four lines.

fn stage_x(walk: Walk, lines: Lines_x, k: u32, end: u32) {
    var quad = vec4(0.0);
    if k < end {
        quad = quad_x(lines, k);
    }
    put_x(walk.step, walk.quad, quad);
}
