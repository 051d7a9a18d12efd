// Matrix: lines of the operand _x at equal distances. The includer defines distance_x(), and
// offset_x(k), where step `k` lies from the first.

// Four lines: where the first begins, and how many are inside.
struct Lines_x {
    start: u32,
    count: u32,
}

fn quad_x(lines: Lines_x, k: u32) -> vec4<f32> {
    return load_x(lines.start + offset_x(k), distance_x(), lines.count);
}

// Four steps that lie beside each other, of each line.
fn lines_x(lines: Lines_x, k: u32) -> mat4x4<f32> {
    let at = lines.start + offset_x(k);
    return mat4x4(
        line_x(at, 0u < lines.count),
        line_x(at + distance_x(), 1u < lines.count),
        line_x(at + 2u * distance_x(), 2u < lines.count),
        line_x(at + 3u * distance_x(), 3u < lines.count),
    );
}

fn line_x(start: u32, inside: bool) -> vec4<f32> {
    return load_x(start, 1u, select(0u, 4u, inside));
}
