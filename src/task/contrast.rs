//! Contrastive learning without labels: SimCLR (Chen et al. 2020).
//!
//! Each example is seen twice, changed at random. A projector turns features `[2B, F]` into
//! projections `[2B, D]`, rows i and i + B being the views of example i. The loss (NT-Xent) is that
//! of telling, for each row, its other view from all other rows by cosine similarity:
//!
//! ```text
//! z = p/|p|,  s = z zᵀ/τ,  loss = -1/2B Σᵢ log( exp s[i, i'] / Σ_{j≠i} exp s[i, j] )
//! ```
//!
//! The projector (two layers with a ReLU between them) is trained with the backbone, then thrown
//! away.

use crate::error::{Error, Result};
use crate::graph::{Graph, MatMul, Unary, ValueId};
use crate::prior::Weights;
use crate::rng::{Key, Stream};
use crate::tensor::tensor;

/// Names of the projector's parameters: weight `[F, F]` and bias `[F]`, weight `[D, F]` and bias
/// `[D]`.
pub const PROJECTOR: [&str; 4] = [
    "priorfit.projector.0.weight",
    "priorfit.projector.0.bias",
    "priorfit.projector.1.weight",
    "priorfit.projector.1.bias",
];

/// Added to |p|², so that a projection of zero has a direction: none.
const TINY: f32 = 1e-12;

/// What a row's similarity to itself is lowered by; far beyond 2/τ, so that its share is zero.
const NEVER: f32 = 1e6;

/// The least accepted temperature.
pub const TEMPERATURE_MIN: f32 = 1e-3;

/// The projector on features `[N, F]`: projections `[N, width]`.
///
/// # Errors
/// When the features are not `[N, F]`.
pub fn projector(graph: &mut Graph, features: ValueId, width: usize) -> Result<ValueId> {
    let origin = graph.set_origin("projector");
    let [_, f] = graph.shape(features)[..] else {
        return Err(Error::internal("a projector takes flat features"));
    };
    let hidden = dense(graph, features, [PROJECTOR[0], PROJECTOR[1]], f)?;
    let hidden = graph.unary(Unary::Relu, hidden)?;
    let projections = dense(graph, hidden, [PROJECTOR[2], PROJECTOR[3]], width)?;
    graph.set_origin(origin);
    Ok(projections)
}

/// x Wᵀ + b of `x: [N, F]`.
fn dense(graph: &mut Graph, x: ValueId, names: [&str; 2], width: usize) -> Result<ValueId> {
    let [n, f] = graph.shape(x)[..] else {
        return Err(Error::internal("a dense layer takes a matrix"));
    };
    let weight = graph.param(names[0], &[width, f].into())?;
    let bias = graph.param(names[1], &[width].into())?;
    let product = graph.matmul(x, weight, MatMul { transpose_a: false, transpose_b: true })?;
    let bias = graph.reshape(bias, &[1, width].into())?;
    let bias = graph.broadcast(bias, &[n, width].into())?;
    graph.add(product, bias)
}

/// A projector for `features` features, to begin with: normals of variance 2/F and 1/F (He et al.
/// 2015), biases of zero.
///
/// # Errors
/// When there are no features.
pub fn new_projector(features: usize, width: usize, seed: u64) -> Result<Weights> {
    let mut normals = Key::new(seed, Stream::Init).at(0);
    let mut normal = |shape: [usize; 2], variance: f32| {
        let numbers = (0..shape[0] * shape[1]).map(|_| variance.sqrt() * normals.normal());
        tensor(&shape, numbers.collect())
    };
    let f = features as f32;
    let first = normal([features, features], 2.0 / f)?;
    let second = normal([width, features], 1.0 / f)?;
    let zeros = |len: usize| tensor(&[len], vec![0.0; len]);
    let layers = [first, zeros(features)?, second, zeros(width)?];
    Ok(PROJECTOR.iter().map(|name| name.to_string()).zip(layers).collect())
}

/// NT-Xent of `projections: [2B, D]` at temperature `tau`: `[1]`.
///
/// # Errors
/// When the projections are not an even number of rows.
pub fn nt_xent(graph: &mut Graph, projections: ValueId, tau: f32) -> Result<ValueId> {
    let origin = graph.set_origin("loss");
    let &[rows, width] = &graph.shape(projections)[..] else {
        return Err(Error::internal("projections are a matrix"));
    };
    if rows % 2 != 0 {
        return Err(Error::internal("each example has two views"));
    }
    let square = graph.mul(projections, projections)?;
    let norm = graph.sum(square, &[1])?;
    let norm = graph.shift(norm, TINY)?;
    let inverse = graph.unary(Unary::Rsqrt, norm)?;
    let inverse = graph.broadcast(inverse, &[rows, width].into())?;
    let z = graph.mul(projections, inverse)?;
    let s = graph.matmul(z, z, MatMul { transpose_a: false, transpose_b: true })?;
    let s = graph.scale(s, 1.0 / tau)?;
    let at = |column: fn(usize, usize) -> usize, value: f32| {
        let mut matrix = vec![0.0; rows * rows];
        (0..rows).for_each(|row| matrix[row * rows + column(row, rows)] = value);
        tensor(&[rows, rows], matrix)
    };
    let itself = graph.constant(at(|row, _| row, -NEVER)?)?;
    let s = graph.add(s, itself)?;
    let log_p = graph.log_softmax(s)?;
    let other = graph.constant(at(|row, rows| (row + rows / 2) % rows, -1.0 / rows as f32)?)?;
    let product = graph.mul(log_p, other)?;
    let loss = graph.sum_all(product)?;
    graph.set_origin(origin);
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autodiff::vjp;
    use crate::graph::LeafKind;
    use crate::graph::eval::{Array, Env, outputs};
    use crate::tensor::Shape;

    /// Loss and its gradient at p[i, j] = (1 + 0.3 i) sin(1 + 7 i + 3 j²), in `f64`.
    fn evaluate(shape: [usize; 2], tau: f32, moved: Option<(usize, f64)>) -> (f64, Vec<f64>) {
        let mut graph = Graph::new();
        let shape: Shape = shape.into();
        let p = graph.input("p", &shape).expect("a leaf");
        let loss = nt_xent(&mut graph, p, tau).expect("a loss");
        let one = graph.constant(tensor(&[1], vec![1.0]).expect("a number")).expect("a leaf");
        let gradient = vjp(&mut graph, &[(loss, one)], &[p]).expect("a gradient");
        graph.set_output("loss", loss);
        graph.set_output("gradient", gradient[0].expect("it depends on p"));
        let mut env = Env::new();
        let point = Array::from_fn(&shape, |at| {
            let (i, j) = ((at / shape[1]) as f64, (at % shape[1]) as f64);
            let step = moved.filter(|&(place, _)| place == at).map_or(0.0, |(_, step)| step);
            (1.0 + 7.0 * i + 3.0 * j * j).sin() * (1.0 + 0.3 * i) + step
        });
        env.set(LeafKind::Input, "p", point);
        let found = outputs(&graph, &env).expect("values");
        (found["loss"][0], found["gradient"].iter().copied().collect())
    }

    /// PyTorch 2 in float64: `F.cross_entropy(s, t)` of `s = z @ z.T / tau` with an infinite
    /// diagonal, `z = F.normalize(p, dim=1)`, and its gradient in p.
    #[test]
    fn it_is_the_loss_and_the_gradient_of_pytorch() {
        // Constants such as 1/τ are single precision.
        const SINGLE: f64 = 1e-6;
        let few = [
            0.224_463_890_06,
            -0.036_758_823_714,
            -0.515_744_932_706,
            0.852_664_964_316,
            -0.319_757_130_319,
            -1.274_276_975_449,
            -0.633_359_326_18,
            0.309_313_543_402,
            0.673_538_903_984,
            -1.505_489_692_099,
            1.091_138_616_86,
            0.247_765_716_175,
        ];
        let (loss, gradient) = evaluate([4, 3], 0.1, None);
        assert!((loss - 1.930_786_992_890_409).abs() < SINGLE, "{loss}");
        for (found, expected) in gradient.iter().zip(few) {
            assert!((found - expected).abs() < 10.0 * SINGLE, "{found} is not {expected}");
        }
        let (loss, gradient) = evaluate([6, 4], 0.5, None);
        assert!((loss - 3.295_470_122_363_568_5).abs() < SINGLE, "{loss}");
        assert!((gradient[3] - 0.217_424_710_249).abs() < SINGLE);
        assert!((gradient[23] + 0.003_389_968_096).abs() < SINGLE);
    }

    #[test]
    fn its_gradient_is_the_slope() {
        const STEP: f64 = 1e-5;
        let (_, gradient) = evaluate([6, 4], 0.5, None);
        for (at, slope) in gradient.iter().enumerate() {
            let above = evaluate([6, 4], 0.5, Some((at, STEP))).0;
            let below = evaluate([6, 4], 0.5, Some((at, -STEP))).0;
            let quotient = (above - below) / (2.0 * STEP);
            assert!((slope - quotient).abs() < 1e-8, "{at}: {slope} is not {quotient}");
        }
    }

    /// With B = 1 the only other row is the other view.
    #[test]
    fn one_example_has_nothing_to_be_told_from() {
        let (loss, gradient) = evaluate([2, 3], 0.5, None);
        assert!(loss.abs() < 1e-12 && gradient.iter().all(|g| g.abs() < 1e-12));
        let mut graph = Graph::new();
        let p = graph.input("p", &[3, 2].into()).expect("a leaf");
        assert!(nt_xent(&mut graph, p, 0.5).is_err(), "three views");
    }
}
