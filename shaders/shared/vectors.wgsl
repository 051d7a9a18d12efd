// Vectors: the operand _x, read by fours, which lie beside each other and start where a vector does.

@group(0) @binding(binding_x) var<storage, read> operand_x: array<vec4<f32>>;

// Four elements, all inside or none.
fn load_x(start: u32, distance: u32, count: u32) -> vec4<f32> {
    if count == 0u {
        return vec4(0.0);
    }
    return operand_x[start / 4u];
}
