// Elements: the operand _x, read one by one.

@group(0) @binding(binding_x) var<storage, read> operand_x: array<f32>;

// Four elements at a distance, of which `count` are inside; 0 for the others.
fn load_x(start: u32, distance: u32, count: u32) -> vec4<f32> {
    var quad = vec4(0.0);
    if count > 0u {
        quad.x = operand_x[start];
    }
    if count > 1u {
        quad.y = operand_x[start + distance];
    }
    if count > 2u {
        quad.z = operand_x[start + 2u * distance];
    }
    if count > 3u {
        quad.w = operand_x[start + 3u * distance];
    }
    return quad;
}
