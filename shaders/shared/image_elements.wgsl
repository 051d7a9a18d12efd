// Image, element by element: what windows see of it.

@group(0) @binding(binding_b) var<storage, read> image: array<f32>;

// The image at four positions of planes that start at `start`, 0 around them. Positions above and
// left of a plane are numbers that wrapped, and so lie beyond it.
fn gather(start: vec4<u32>, y: vec4<u32>, x: vec4<u32>) -> vec4<f32> {
    return vec4(
        cell(start.x, y.x, x.x),
        cell(start.y, y.y, x.y),
        cell(start.z, y.z, x.z),
        cell(start.w, y.w, x.w),
    );
}

fn cell(start: u32, y: u32, x: u32) -> f32 {
    if y >= plane_extent().x || x >= plane_extent().y {
        return 0.0;
    }
    return image[start + y * plane_extent().y + x];
}
