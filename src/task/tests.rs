use super::*;
use crate::autodiff::vjp;
use crate::graph::LeafKind;
use crate::graph::eval::{Array, Env, outputs};
use crate::tensor::tensor;

/// Of numbers that PyTorch prints with ten digits, through constants in `f32`.
const CLOSE: f64 = 1e-6;
/// Step of a central difference, and the relative error of one.
const STEP: f64 = 1e-5;
const QUOTIENT: f64 = 1e-7;

type Build = dyn Fn(&mut Graph, ValueId) -> Result<ValueId>;

/// The loss at `at` and its gradient there.
fn loss_at(build: &Build, shape: &[usize], at: &[f64], inputs: &[(&str, &[f64])]) -> [Vec<f64>; 2] {
    let mut graph = Graph::new();
    let z = graph.param("z", &shape.into()).expect("a leaf");
    let loss = build(&mut graph, z).expect("a loss");
    let one = graph.constant(tensor(&[1], vec![1.0]).expect("one")).expect("a constant");
    let gradient = vjp(&mut graph, &[(loss, one)], &[z]).expect("a gradient")[0];
    graph.set_output("loss", loss);
    graph.set_output("gradient", gradient.expect("it depends on z"));
    let mut env = Env::new();
    env.set(LeafKind::Param, "z", Array::from_fn(&shape.into(), |i| at[i]));
    for (name, values) in inputs {
        let leaf = graph.leaf(LeafKind::Input, name).expect("an input");
        let shape = graph.shape(leaf).clone();
        env.set(LeafKind::Input, name, Array::from_fn(&shape, |i| values[i]));
    }
    let results = outputs(&graph, &env).expect("numbers");
    ["loss", "gradient"].map(|name| results[name].to_vec())
}

/// Loss and gradient are PyTorch's, and the gradient is the loss's difference quotient.
fn check(
    build: &Build,
    shape: &[usize],
    at: &[f64],
    inputs: &[(&str, &[f64])],
    loss: f64,
    expected: &[f64],
) {
    let [value, gradient] = loss_at(build, shape, at, inputs);
    assert!((value[0] - loss).abs() <= CLOSE * loss.abs().max(1.0), "{} and {loss}", value[0]);
    for (i, (&got, &expected)) in gradient.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= CLOSE, "gradient {i}: {got}, expected {expected}");
        let moved = |step: f64| {
            let mut at = at.to_vec();
            at[i] += step;
            loss_at(build, shape, &at, inputs)[0][0]
        };
        let quotient = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        // Where a term is as large as 90, cancellation costs two digits.
        let room = QUOTIENT * loss.abs().max(1.0);
        assert!((got - quotient).abs() <= room, "gradient {i}: {got}, quotient {quotient}");
    }
}

/// `binary_cross_entropy_with_logits`, from a new head's 0 to where a sigmoid is 0 or 1.
#[test]
fn labels_have_the_binary_cross_entropy_and_its_gradient() {
    let (z, y) = ([0., 2., -30., -1.5, 0.25, 90.], [1., 0., 0., 1., 1., 0.]);
    let gradient = [-0.25, 0.440398539, 0.0, -0.4087872381, -0.2189117496, 0.5];
    let targets: &[(&str, &[f64])] = &[(TARGETS, &y)];
    check(&binary_cross_entropy, &[2, 3], &z, targets, 47.548713944732306, &gradient);
}

#[test]
fn numbers_have_half_the_squared_error_and_its_gradient() {
    let (z, t) = ([0., 2., -3., -1.5, 0.25, 9.], [1., 0., 0.5, 1., 1., 10.]);
    let gradient = [-0.5, 1.0, -1.75, -1.25, -0.375, -0.5];
    check(&squared_error, &[2, 3], &z, &[(TARGETS, &t)], 6.265625, &gradient);
}

/// Features of two channels of 2 by 2 pixels.
const MAPS: [f32; 8] = [1., -2., 0.5, 3., 0., 1., 2., -1.];

/// `interpolate(conv2d(..), mode="bilinear", align_corners=False)` and `cross_entropy` with
/// `ignore_index`; the gradient is by the head's weight.
#[test]
fn masks_have_the_cross_entropy_of_the_pixels_that_count() {
    let build = |g: &mut Graph, w: ValueId| {
        let maps = g.constant(tensor(&[1, 2, 2, 2], MAPS.to_vec())?)?;
        let logits = decode(g, maps, w)?;
        pixel_cross_entropy(g, logits)
    };
    let w = [0.5, -1.0, 1.0, 0.25, -0.75, 2.0];
    let labels = [0., 1., 2., -1., 2., 2., 1., 0., -1., 1., 0., 2.];
    let gradient = [
        -0.05274010255587432,
        0.0012603906457734626,
        0.2702956715297526,
        -0.13343585273656827,
        -0.21755556897387826,
        0.13217546209079478,
    ];
    let inputs: &[(&str, &[f64])] =
        &[(TARGETS, &labels), (COUNTED, &[10.0]), (HEAD_BIAS, &[0.1, -0.2, 0.3])];
    check(&build, &[3, 2], &w, inputs, 1.4568507561942459, &gradient);
    // Nothing counts: no loss, no gradient, no division by zero.
    let nothing: &[(&str, &[f64])] =
        &[(TARGETS, &[-1.0; 12]), (COUNTED, &[0.0]), (HEAD_BIAS, &[0.1, -0.2, 0.3])];
    assert_eq!(loss_at(&build, &[3, 2], &w, nothing), [vec![0.0], vec![0.0; 6]]);
}

/// The dense head with its weight taken from `w` and its bias from an input.
fn decode(g: &mut Graph, maps: ValueId, w: ValueId) -> Result<ValueId> {
    let [n, f, h, width] = g.shape(maps)[..] else { panic!("maps") };
    let flat = g.transpose(maps, &[0, 2, 3, 1])?;
    let flat = g.reshape(flat, &[n * h * width, f].into())?;
    let product = g.matmul(flat, w, MatMul { transpose_a: false, transpose_b: true })?;
    let bias = g.input(HEAD_BIAS, &[3].into())?;
    let bias = g.reshape(bias, &[1, 3].into())?;
    let bias = g.broadcast(bias, &[n * h * width, 3].into())?;
    let coarse = g.add(product, bias)?;
    let coarse = g.reshape(coarse, &[n, h, width, 3].into())?;
    let coarse = g.transpose(coarse, &[0, 3, 1, 2])?;
    segmentation::upsample(g, coarse, [3, 4])
}

/// The logits that PyTorch's `interpolate` gives, by the head as it is used.
#[test]
fn the_decoder_interpolates_between_pixel_centres() {
    let mut g = Graph::new();
    let maps = g.constant(tensor(&[1, 2, 2, 2], MAPS.to_vec()).expect("maps")).expect("maps");
    let logits = dense_head(&mut g, maps, 3, [3, 4]).expect("a head");
    assert_eq!(g.shape(logits)[..], [1, 3, 4, 3]);
    g.set_output(LOGITS, logits);
    let mut env = Env::new();
    let (w, b) = ([0.5, -1.0, 1.0, 0.25, -0.75, 2.0], [0.1, -0.2, 0.3]);
    env.set(LeafKind::Param, HEAD_WEIGHT, Array::from_fn(&[3, 2].into(), |i| w[i]));
    env.set(LeafKind::Param, HEAD_BIAS, Array::from_fn(&[3].into(), |i| b[i]));
    let got = outputs(&g, &env).expect("numbers")[LOGITS].to_vec();
    let expected = [
        0.6, 0.8, -0.45, -0.025, 0.1125, 0.6125, -1.275, -1.2625, 2.7375, -1.9, -1.95, 3.8, -0.525,
        0.8, 1.7375, -0.30625, 0.675, 1.284375, 0.13125, 0.425, 0.378125, 0.35, 0.3, -0.075, -1.65,
        0.8, 3.925, -0.5875, 1.2375, 1.95625, 1.5375, 2.1125, -1.98125, 2.6, 2.55, -3.95,
    ];
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= CLOSE, "{got}, expected {expected}");
    }
    // The head on the features of single pixels is the same.
    let (positions, mut rows) = ([11, 0, 6, 2], Vec::new());
    pixel_features(&MAPS[..8], [2, 2], [3, 4], &positions, &mut rows);
    for (at, row) in positions.iter().zip(rows.chunks_exact(2)) {
        for class in 0..3 {
            let x = [0, 1].map(|f| f64::from(row[f]) * w[2 * class + f]);
            let expected = expected[3 * at + class];
            assert!((x[0] + x[1] + b[class] - expected).abs() <= 1e-6, "pixel {at}: {row:?}");
        }
    }
}

#[test]
fn outputs_become_probabilities_or_numbers_in_the_data_s_units() {
    let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let link = |task: Task, outputs: &[f64]| {
        let mut outputs = outputs.to_vec();
        task.link(&mut outputs);
        outputs
    };
    let p = link(Task::Classification { classes: names(2) }, &[0.0, 3f64.ln(), 800.0, -800.0]);
    assert!(p.iter().zip([0.25, 0.75, 1.0, 0.0]).all(|(p, e)| (p - e).abs() < 1e-12), "{p:?}");
    let p = link(Task::MultiLabel { labels: names(2) }, &[0.0, 3f64.ln(), 800.0, -800.0]);
    assert!(p.iter().zip([0.5, 0.75, 1.0, 0.0]).all(|(p, e)| (p - e).abs() < 1e-12), "{p:?}");
    let standard = |mean, std| Standard { mean, std, noise: None };
    let standard = vec![standard(10.0, 2.0), standard(-1.0, 0.5)];
    let task = Task::Regression { outputs: names(2), standard: standard.clone() };
    assert_eq!(link(task.clone(), &[0.0, 0.0, 1.0, -2.0]), [10.0, -1.0, 12.0, -2.0]);
    let mut rows = [10.0, -1.0, 12.0, -2.0];
    regression::standardise(&standard, &mut rows);
    assert_eq!(rows, [0.0, 0.0, 1.0, -2.0]);
    assert!(task.check().is_ok());
    let json = serde_json::to_string(&task).expect("JSON");
    assert_eq!(serde_json::from_str::<Task>(&json).expect("a task"), task);
}

#[test]
fn stored_tasks_that_cannot_be_are_refused() {
    let named = |count: usize| vec!["n".to_string(); count];
    let good = Standard { mean: 0.0, std: 1.0, noise: Some(1.0) };
    let regression =
        |standard: Standard| Task::Regression { outputs: named(1), standard: vec![standard] };
    for bad in [
        Task::Classification { classes: vec![] },
        Task::Segmentation { classes: named(257), ignore: 255 },
        Task::Regression { outputs: named(2), standard: vec![good] },
        regression(Standard { std: 0.0, ..good }),
        regression(Standard { mean: f64::NAN, ..good }),
        regression(Standard { noise: Some(-1.0), ..good }),
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}
