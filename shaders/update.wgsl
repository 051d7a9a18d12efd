// update: a parameter's optimiser step with its Gaussian prior, in one pass over memory.
//
// Each thread takes four vectors of four elements. The K factor columns of a vector stay in
// registers between their two uses, so each is read once. A workgroup leaves its K + 1 compensated
// sums, which a `reduce` adds in order. The variant sets METHOD, RANK, SUMS, the accessors of what
// the prior stores, and how sums are added up; formulas and names are those of the processor's
// kernel.

//!include grid
//!include philox
//!include compensated

struct Params {
    // Elements of this launch, and its first in the parameter.
    len: u32,
    first: u32,
    // The first block whose sums this launch writes.
    first_block: u32,
    // Vectors between the factor's columns.
    pitch: u32,
    // The parameter's number among those that are trained.
    lane: u32,
    spare: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// The numbers of the optimiser, c, and s; see Hyper for their order.
@group(0) @binding(1) var<uniform> hyper: array<vec4<f32>, 4>;
@group(0) @binding(2) var<uniform> grad_scale: vec4<f32>;
@group(0) @binding(4) var<storage, read_write> theta: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> grad: array<vec4<f32>>;

const SGD: u32 = 0u;
const NESTEROV: u32 = 1u;
const ADAMW: u32 = 2u;
const SGLD: u32 = 3u;
const SGHMC: u32 = 4u;

// Vectors of a thread.
const VECTORS: u32 = 4u;

//!variant

// r δ, and the rate η of the prior.
struct Step {
    delta: vec4<f32>,
    eta: vec4<f32>,
    // What is added beside: noise.
    noise: vec4<f32>,
}

fn step(i: u32, d: vec4<f32>) -> Step {
    let rate = hyper[0].x;
    let beta1 = hyper[0].y;
    let beta2 = hyper[0].z;
    let g = grad_scale.x * grad[i];
    if METHOD == ADAMW {
        let m = beta1 * load_m(i) + (1.0 - beta1) * g;
        let v = beta2 * load_v(i) + (1.0 - beta2) * g * g;
        store_m(i, m);
        store_v(i, v);
        let eta = rate / (sqrt(v / hyper[1].w) + hyper[0].w);
        return Step(eta * (m / hyper[1].z), eta, vec4(0.0));
    }
    if METHOD == SGLD || METHOD == SGHMC {
        let beta = select(0.0, beta1, METHOD == SGHMC);
        let share = select(vec4(1.0), hyper[3].w / d, PRECONDITIONED);
        let eta = rate * share;
        return Step(eta * g - beta * load_m(i), eta, noise(i, beta, share, eta, d));
    }
    let m = beta1 * load_m(i) + g;
    store_m(i, m);
    let direct = select(m, g + beta1 * m, METHOD == NESTEROV);
    return Step(rate * direct, vec4(rate / (1.0 - beta1)), vec4(0.0));
}

// σ ξ of four elements; words of the key come as 16-bit integers.
fn noise(i: u32, beta: f32, share: vec4<f32>, eta: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
    if hyper[2].x == 0.0 {
        return vec4(0.0);
    }
    let seed = vec2(
        u32(hyper[2].y) | (u32(hyper[2].z) << 16u),
        u32(hyper[2].w) | (u32(hyper[3].x) << 16u),
    );
    let step = u32(hyper[3].y) | (u32(hyper[3].z) << 16u);
    let counter = vec4(params.first / 4u + i, params.lane, step, NOISE_STREAM);
    let h = eta * (WEIGHTED * hyper[1].y) * d;
    let spread = (1.0 - beta + h) * (2.0 + 2.0 * beta + h) / (2.0 * (1.0 + beta + h));
    return hyper[2].x * sqrt(share * spread) * normals(philox(counter, seed));
}

// 1 for elements of the parameter, 0 for the padding behind its end.
fn mask(i: u32) -> vec4<bool> {
    return vec4(i * 4u) + vec4(0u, 1u, 2u, 3u) < vec4(params.len);
}

fn add_all(sum: Sum, terms: vec4<f32>) -> Sum {
    return add(add(add(add(sum, terms.x), terms.y), terms.z), terms.w);
}

// What a workgroup does; the entry point is in the part that adds the sums up.
fn update(block: u32, lane: u32) {
    let blocks = (params.len + 4u * VECTORS * WORKGROUP - 1u) / (4u * VECTORS * WORKGROUP);
    if block >= blocks {
        return;
    }
    var sums: array<Sum, SUMS>;
    for (var b = 0u; b < VECTORS; b++) {
        let i = (block * VECTORS + b) * WORKGROUP + lane;
        if i * 4u >= params.len {
            continue;
        }
        let inside = mask(i);
        // The padding behind the end has no precision to divide by.
        let d = select(vec4(1.0), load_precision(i), inside);
        let step = step(i, d);
        var columns: array<vec4<f32>, COLUMNS>;
        var low_rank = vec4(0.0);
        for (var k = 0u; k < RANK; k++) {
            columns[k] = load_column(k, i);
            low_rank += columns[k] * coefficient(k);
        }
        let shrink = select(1.0, 1.0 - hyper[0].x * hyper[1].x, METHOD == ADAMW);
        let mean = load_mean(i);
        let pull = step.eta * (WEIGHTED * hyper[1].y) * d;
        let old = theta[i] * shrink - mean;
        let x = (old - step.delta + pull * low_rank + step.noise) / (1.0 + pull);
        if METHOD == SGHMC {
            // x' - x, without the rounding of θ.
            store_m(i, (pull * (low_rank - old) - step.delta + step.noise) / (1.0 + pull));
        }
        theta[i] = mean + x;
        let clean = select(vec4(0.0), x, inside);
        let dx = select(vec4(0.0), d * x, inside);
        for (var k = 0u; k < RANK; k++) {
            sums[k] = add_all(sums[k], columns[k] * dx);
        }
        sums[SUMS - 1u] = add_all(sums[SUMS - 1u], clean * dx);
    }
    if !HAS_SUMS {
        return;
    }
    add_up(block, lane, &sums);
}
