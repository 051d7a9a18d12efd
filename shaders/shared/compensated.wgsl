// Compensated sums (Neumaier): what a sum is off by is carried along and added in the end, so that
// neither the number of terms nor their sizes matter. The includer's params have a `spare` of zero.

// A sum as it was rounded, and what it lost.
alias Sum = vec2<f32>;

// The number itself. Compilers may reorder sums, and some do by default; what they would simplify
// to zero is hidden from them behind a uniform.
fn opaque(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.spare);
}

fn add(sum: Sum, term: f32) -> Sum {
    let next = opaque(sum.x + term);
    let is_larger = abs(sum.x) >= abs(term);
    let large = select(term, sum.x, is_larger);
    let small = select(sum.x, term, is_larger);
    return Sum(next, sum.y + (opaque(large - next) + small));
}

fn join(a: Sum, b: Sum) -> Sum {
    let sum = add(a, b.x);
    return Sum(sum.x, sum.y + b.y);
}

fn total(sum: Sum) -> f32 {
    // An infinite sum lost nothing that could be told.
    return select(sum.x, sum.x + sum.y, abs(sum.x) < 3.0e38);
}
