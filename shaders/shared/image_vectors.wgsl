// Image, by vectors: what windows see of it where neighbouring results see neighbours, one row
// after the other. A tap shifts them all alike: the two vectors that cover four are brought, or the
// one if they start where it does.

@group(0) @binding(binding_b) var<storage, read> image: array<vec4<f32>>;

// The image at four positions that follow each other in memory, 0 around it. Positions above and
// left of the plane are numbers that wrapped, and so lie beyond it.
fn gather(start: vec4<u32>, y: vec4<u32>, x: vec4<u32>) -> vec4<f32> {
    let held = (y < vec4(plane_extent().x)) & (x < vec4(plane_extent().y));
    if !any(held) {
        return vec4(0.0);
    }
    // One of four is in the image, so the first is at most three before it.
    let at = start.x + y.x * plane_extent().y + x.x;
    let left = image[select(at / 4u, 0u, at > 0xfffffff0u)];
    let shift = at % 4u;
    var right = left;
    if shift != 0u {
        right = image[(at + 4u) / 4u];
    }
    let by_two = shift >= 2u;
    let near = select(left, vec4(left.zw, right.xy), by_two);
    let next = select(right.x, right.z, by_two);
    let shifted = select(near, vec4(near.yzw, next), shift % 2u == 1u);
    return select(vec4(0.0), shifted, held);
}
