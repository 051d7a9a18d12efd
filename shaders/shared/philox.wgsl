// Philox4x32-10 (Salmon et al. 2011): counter-based random bits, the same as the processor's.

// The high and low word of a product.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    let cross = a_high * b_low + (low >> 16u);
    let middle = a_low * b_high + (cross & 0xffffu);
    return vec2(a_high * b_high + (cross >> 16u) + (middle >> 16u), a * b);
}

fn philox(start: vec4<u32>, start_key: vec2<u32>) -> vec4<u32> {
    var counter = start;
    var key = start_key;
    for (var round = 0u; round < 10u; round++) {
        let p0 = multiply_wide(counter.x, 0xd2511f53u);
        let p1 = multiply_wide(counter.z, 0xcd9e8d57u);
        counter = vec4(p1.x ^ counter.y ^ key.x, p1.y, p0.x ^ counter.w ^ key.y, p0.y);
        key += vec2(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}

// Four standard normals from four random words, by two pairs (Box and Muller 1958).
fn normals(bits: vec4<u32>) -> vec4<f32> {
    let unit = (vec4<f32>(bits >> vec4(9u)) + 0.5) * (1.0 / 8388608.0);
    let radius = sqrt(-2.0 * log(unit.xz));
    let angle = 6.2831853 * unit.yw;
    let a = radius * cos(angle);
    let b = radius * sin(angle);
    return vec4(a.x, b.x, a.y, b.y);
}
