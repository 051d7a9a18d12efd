//! The gradient against central finite differences.
//!
//! A direction moves one tensor, or all at once, by standard normals times the root mean square of
//! the tensor's weights, so that a step h is a relative change of h. With f the projected outputs:
//!
//! ```text
//! error = |g·d - (f(θ+hd) - f(θ-hd))/2h| / max(|difference|, √Σ|g|²σ², floor)
//! ```
//!
//! The second term is the standard deviation of g·d over such directions, which keeps a derivative
//! that happens to cancel from being judged by its remainder; the floor, a share of the largest
//! such deviation, does so for gradients that are zero by symmetry.
//!
//! Differences are taken in `f64` by the interpreter while that is affordable, else in the engine's
//! own `f32`. Networks have kinks. A direction that crosses one within h has no derivative there,
//! and is tried again with smaller steps. An activation within `f32`'s rounding of a kink makes the
//! engine's gradient that of the other side, so what disagrees is tried again at another point: a
//! wrong gradient is wrong at all of them.

use priorfit::error::{Error, Result};

use super::engine::{Engine, LANES, Moves, dot, normal};

/// Share of the largest derivative below which a difference is rounding.
const FLOOR: f64 = 1e-3;
/// Most multiply-adds of a network whose differences the interpreter takes.
const EXACT_MULTIPLY_ADDS_MAX: u64 = 10_000_000_000;
/// Most multiply-adds that the interpreter spends on one direction for each tensor.
const SINGLE_TENSORS_BUDGET: u64 = 4_000_000_000;
/// Most multiply-adds that it spends on directions that move all tensors, after the first.
const JOINT_BUDGET: u64 = 8_000_000_000;
/// Points that are tried.
const POINTS: u64 = 8;
/// Relative steps in `f64`: rounding is 1e-16 of the outputs, so 1e-6 leaves ten digits.
const EXACT_STEPS: [f64; 2] = [1e-6, 1e-8];
/// Relative steps in `f32`: outputs have six digits, of which a difference needs three.
const STEPS: [f64; 4] = [1e-2, 3e-3, 1e-3, 3e-4];
/// Most directions that move all tensors.
const JOINT: usize = 4;

/// The comparison of all directions.
pub struct Found {
    /// The largest relative error.
    pub error: f64,
    /// Its direction.
    pub worst: String,
    /// Number of directions.
    pub directions: usize,
    /// How the differences were taken.
    pub method: String,
}

/// A direction in the space of all weights.
struct Direction {
    name: String,
    moves: Moves,
    /// √Σ|g|²σ² over the tensors it moves.
    deviation: f64,
}

/// How differences are taken.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    /// By the interpreter.
    Exact,
    /// By the engine.
    Single,
}

/// Compares the engine's gradient with differences, at further points until one is within
/// `tolerance`.
pub fn compare(engine: &mut Engine, seed: u64, tolerance: f64) -> Result<Found> {
    let mut best: Option<Found> = None;
    for point in 0..POINTS {
        let seed = seed.wrapping_add(point);
        engine.leave_kinks(seed)?;
        engine.differentiate()?;
        let found = compare_here(engine, seed, tolerance)?;
        if best.as_ref().is_none_or(|best| found.error < best.error) {
            best = Some(found);
        }
        if best.as_ref().is_some_and(|best| best.error <= tolerance) {
            break;
        }
    }
    best.ok_or_else(|| Error::internal("at least one point is tried"))
}

/// Compares along all directions at the present point, up to the first that is not within
/// `tolerance`.
fn compare_here(engine: &mut Engine, seed: u64, tolerance: f64) -> Result<Found> {
    let (method, subjects) = choose(engine);
    let largest = (0..engine.weights.len()).map(|i| deviation(engine, i)).fold(0.0, f64::max);
    let floor = (FLOOR * largest).max(f64::MIN_POSITIVE);
    let mut found = Found {
        error: 0.0,
        worst: "none".to_string(),
        directions: subjects.len(),
        method: method.describe(),
    };
    for (lane, subject) in subjects.into_iter().enumerate() {
        let direction = Direction::new(engine, subject, seed, lane as u64);
        let mut best = f64::INFINITY;
        for &step in method.steps() {
            let error = error(engine, &direction, step, method, floor)?;
            best = if error.is_nan() { best } else { best.min(error) };
            if best <= tolerance {
                break;
            }
        }
        if best > found.error {
            (found.error, found.worst) = (best, direction.name);
        }
        if best > tolerance {
            break;
        }
    }
    Ok(found)
}

/// How differences are taken, and which tensors the directions move: one, or all.
fn choose(engine: &Engine) -> (Method, Vec<Option<usize>>) {
    let (cost, tensors) = (2 * engine.multiply_adds(), engine.weights.len());
    if cost > 2 * EXACT_MULTIPLY_ADDS_MAX {
        return (Method::Single, vec![None; JOINT]);
    }
    let joint = (JOINT_BUDGET / cost.max(1)).clamp(1, JOINT as u64);
    let mut subjects = vec![None; joint as usize];
    if cost.saturating_mul(tensors as u64) <= SINGLE_TENSORS_BUDGET {
        subjects.extend((0..tensors).map(Some));
    }
    (Method::Exact, subjects)
}

impl Method {
    fn steps(self) -> &'static [f64] {
        match self {
            Method::Exact => &EXACT_STEPS,
            Method::Single => &STEPS,
        }
    }

    fn describe(self) -> String {
        let (precision, steps) = match self {
            Method::Exact => ("f64", &EXACT_STEPS[..]),
            Method::Single => ("f32, since the network is large", &STEPS[..]),
        };
        format!("relative steps from {:.0e} in {precision}", steps[0])
    }
}

impl Direction {
    /// A direction that moves one tensor, or all; `lane` tells equal ones apart.
    fn new(engine: &Engine, subject: Option<usize>, seed: u64, lane: u64) -> Self {
        let chosen = match subject {
            Some(index) => index..index + 1,
            None => 0..engine.weights.len(),
        };
        let one = |index: usize| {
            let weight = &engine.weights[index];
            let scale = weight.scale() as f32;
            let noise = normal(seed, (3 + lane) * LANES + index as u64, weight.value.len());
            (index, noise.into_iter().map(|x| scale * x).collect())
        };
        let squares = chosen.clone().map(|index| deviation(engine, index).powi(2));
        Direction {
            name: match subject {
                Some(index) => format!("'{}'", engine.weights[index].name),
                None => "all parameters together".to_string(),
            },
            deviation: squares.sum::<f64>().sqrt(),
            moves: chosen.map(one).collect(),
        }
    }
}

/// The relative error of one directional derivative.
fn error(
    engine: &mut Engine,
    direction: &Direction,
    step: f64,
    method: Method,
    floor: f64,
) -> Result<f64> {
    let moves = &direction.moves;
    let along = |(index, by): &(usize, Vec<f32>)| dot(&engine.weights[*index].gradient, by);
    let derivative: f64 = moves.iter().map(along).sum();
    let (plus, minus) = match method {
        Method::Exact => exact_pair(engine, step, moves)?,
        Method::Single => (engine.projected(step, moves)?, engine.projected(-step, moves)?),
    };
    let difference = (plus - minus) / (2.0 * step);
    let scale = difference.abs().max(direction.deviation).max(floor);
    Ok((derivative - difference).abs() / scale)
}

/// f(θ+hd) and f(θ-hd), at the same time.
fn exact_pair(engine: &Engine, step: f64, moves: &Moves) -> Result<(f64, f64)> {
    let (oracle, weights) = (&engine.oracle, &engine.weights[..]);
    std::thread::scope(|scope| {
        let minus = scope.spawn(|| oracle.projected(weights, -step, moves));
        let plus = oracle.projected(weights, step, moves)?;
        let minus = minus.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((plus, minus))
    })
}

/// |g|σ of one tensor.
fn deviation(engine: &Engine, index: usize) -> f64 {
    let weight = &engine.weights[index];
    weight.scale() * dot(&weight.gradient, &weight.gradient).sqrt()
}
