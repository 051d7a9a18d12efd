use super::*;
use crate::prior::tests::{F32, close, gaussian, header, small, vector, weights};
use crate::rng::Stream;

/// Weights at which a prior has known values.
struct Known<'a> {
    prior: Prior,
    theta: &'a [f32],
    quadratic: f64,
    /// log p with its constant at λ = 1.
    log_density: f64,
    gradient: &'a [f64],
}

#[track_caller]
fn check(known: &Known<'_>) {
    let Known { prior, theta, quadratic, log_density, gradient } = known;
    let theta = weights(&[("w", theta)]);
    close(prior.quadratic(&theta, 1.0).expect("finite"), *quadratic, F32);
    close(prior.log_density_normalized(&theta, 1.0).expect("finite"), *log_density, F32);
    let found = prior.gradient(&theta, 1.0).expect("finite");
    for (&found, &expected) in found["w"].iter().zip(*gradient) {
        close(f64::from(found), expected, F32);
    }
}

/// T1, with the row (1, 1) as two rows (1, 1)/√2.
#[test]
fn one_direction_in_the_plane() {
    let row = [0.5f32.sqrt(); 2];
    let prior = gaussian(&[0.0; 2], &[1.0, 2.0], &[&row, &row], 0.0);
    close(prior.logdet(1.0).expect("finite"), 5f64.ln(), F32);
    check(&Known {
        prior,
        theta: &[1.0, 2.0],
        quadratic: 1.4,
        log_density: -3.3425960226,
        gradient: &[0.2, 0.6],
    });
}

/// T2: the conventions in circulation at λ = 4, ε = 0.1, as the canonical prior they come to.
#[test]
fn foreign_conventions_have_their_own_values() {
    let cases = [
        ([4.1, 8.1], 4.0, 0.1773127271, -4.6421045598, [-0.0345869270, 0.1059498271]),
        ([4.1, 8.1], 2.0, 0.3475185953, -4.2150569596, [0.0499939032, 0.1487623460]),
        ([2.1, 4.1], 2f32.sqrt(), 0.6901475488, -3.7054500982, [0.0999524036, 0.2950975726]),
    ];
    for (d, w, quadratic, log_density, gradient) in cases {
        let row = [w * 0.5f32.sqrt(); 2];
        let prior = gaussian(&[0.0; 2], &d, &[&row, &row], 0.1);
        check(&Known { prior, theta: &[1.0, 2.0], quadratic, log_density, gradient: &gradient });
    }
}

const T3_MEAN: [f32; 4] = [0.5, -1.0, 0.0, 2.0];
const T3_D: [f32; 4] = [0.5, 1.0, 2.0, 4.0];
const T3_W: [[f32; 4]; 2] = [[1.0, 0.0, -1.0, 2.0], [0.5; 4]];
const T3_THETA: [f32; 4] = [1.0, 0.0, 1.0, 0.0];

fn t3() -> Prior {
    gaussian(&T3_MEAN, &T3_D, &[&T3_W[0], &T3_W[1]], 0.25)
}

/// T3: rank 2, rank 0, and the mean.
#[test]
fn two_directions_in_four_dimensions() {
    let inverse = t3().capacitance_inverse(0).expect("definite");
    // C = [[4.5, 1], [1, 1.9375]]
    let determinant = 4.5 * 1.9375 - 1.0;
    for (found, c) in inverse.iter().zip([1.9375, -1.0, -1.0, 4.5]) {
        close(*found, c / determinant, F32);
    }
    close(t3().logdet(1.0).expect("finite"), 3.4299467949, F32);
    let gradient = [0.8623481781, 0.6761133603, 0.2105263158, -0.4534412955];
    let (quadratic, log_density) = (2.2246963563, -6.5030757084);
    check(&Known { prior: t3(), theta: &T3_THETA, quadratic, log_density, gradient: &gradient });
    let prior = gaussian(&T3_MEAN, &T3_D, &[], 0.25);
    let (quadratic, log_density) = (3.0, -5.8689013134);
    let gradient = [1.0, 1.0, 0.5, -0.5];
    check(&Known { prior, theta: &T3_THETA, quadratic, log_density, gradient: &gradient });
    let log_density = -5.3907275303;
    let gradient = [0.0; 4];
    check(&Known {
        prior: t3(),
        theta: &T3_MEAN,
        quadratic: 0.0,
        log_density,
        gradient: &gradient,
    });
}

/// T4: every way to write the same Gaussian gives the same numbers.
#[test]
fn equal_gaussians_have_equal_densities() {
    let (a, b) = (&T3_W[0], &T3_W[1]);
    let zero = [0.0; 4];
    let half = a.map(|x| x * 0.5f32.sqrt());
    let (sin, cos) = 0.7f32.sin_cos();
    let mix = |p: f32, q: f32| std::array::from_fn::<f32, 4, _>(|i| p * a[i] + q * b[i]);
    let (left, right) = (mix(cos, -sin), mix(sin, cos));
    let rows: [&[&[f32]]; 4] =
        [&[b, a], &[a, &zero, b, &zero], &[&left, &right], &[&half, &half, b]];
    let theta = weights(&[("w", &T3_THETA)]);
    let expected = t3().gradient(&theta, 1.0).expect("finite");
    for rows in rows {
        let prior = gaussian(&T3_MEAN, &T3_D, rows, 0.25);
        close(prior.quadratic(&theta, 1.0).expect("finite"), 2.2246963563, F32);
        close(prior.logdet(1.0).expect("finite"), 3.4299467949, F32);
        let gradient = prior.gradient(&theta, 1.0).expect("finite");
        for (&found, &expected) in gradient["w"].iter().zip(&expected["w"]) {
            close(f64::from(found), f64::from(expected), F32);
        }
    }
}

/// T4: a prior of two tensors is the prior of their concatenation, in either order.
#[test]
fn parameters_share_one_low_rank() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let flat = t3();
        let whole = &flat.parameters()[0];
        let part = |name: &str, span: std::ops::Range<usize>| {
            let cut = |x: &Tensor| vector(&elements(x)[span.clone()]);
            let dev: Vec<f32> = rows(whole).flat_map(|row| row[span.clone()].to_vec()).collect();
            let dev = tensor(&[2, span.len()], dev).expect("fills");
            Parameter::new(name, cut(&whole.mean), cut(&whole.var), Some(dev))
        };
        let parts = vec![part(first, 0..1), part(second, 1..4)];
        let split = Prior::new(header(2, 0.25), parts).expect("valid");
        let theta = weights(&[(first, &T3_THETA[..1]), (second, &T3_THETA[1..])]);
        close(split.quadratic(&theta, 1.0).expect("finite"), 2.2246963563, F32);
        close(split.logdet(1.0).expect("finite"), 3.4299467949, F32);
        let gradient = split.gradient(&theta, 1.0).expect("finite");
        close(f64::from(gradient[first][0]), 0.8623481781, F32);
        close(f64::from(gradient[second][2]), -0.4534412955, F32);
    }
}

/// Central differences in `f32` weights: the step's rounding and the third derivative (zero).
const DIFFERENCES: f64 = 1e-5;

/// T4: the gradient is that of -log p, x · gradient is the quadratic form, and the low rank only
/// ever loosens the prior.
#[test]
fn density_and_gradient_agree() {
    let prior = small();
    let theta = prior.sample(&Key::new(1, Stream::Draw), 0, 3.0).expect("draws");
    let (lambda, step) = (2.5, 0.0625);
    let gradient = prior.gradient(&theta, lambda).expect("finite");
    let mut product = 0.0;
    for parameter in prior.parameters() {
        let x = deviation(parameter, &theta[parameter.name()]).expect("fits");
        for (index, x) in x.iter().enumerate() {
            let at = |offset: f32| {
                let mut moved = theta.clone();
                let shape = parameter.shape();
                let mut values = contiguous(&theta[parameter.name()]).into_owned();
                values[index] += offset;
                let moved_to = values[index];
                moved.insert(parameter.name.clone(), tensor(&shape, values).expect("fills"));
                (prior.log_density(&moved, lambda).expect("finite"), f64::from(moved_to))
            };
            let ((high, to), (low, from)) = (at(step), at(-step));
            let found = f64::from(contiguous(&gradient[parameter.name()])[index]);
            close(-(high - low) / (to - from), found, DIFFERENCES);
            product += x * found;
        }
    }
    let quadratic = prior.quadratic(&theta, lambda).expect("finite");
    close(product, quadratic, F32 * 12.0);
    let diagonal = prior.project(&prior.blocks[0], &theta).expect("fits").1 / lambda;
    assert!((0.0..=diagonal).contains(&quadratic), "{quadratic} of {diagonal}");
    let diagonal: f64 = prior.parameters().iter().map(|p| prior.diagonal_logdet(p)).sum();
    assert!(prior.logdet(1.0).expect("finite") >= diagonal);
}

/// T5: λ factors out of everything.
#[test]
fn strength_scales_exactly() {
    let theta = weights(&[("w", &T3_THETA)]);
    let at_one = t3().quadratic(&theta, 1.0).expect("finite");
    for lambda in [1e-4, 1e2, 1e8] {
        assert_eq!(t3().quadratic(&theta, lambda).expect("finite"), at_one / lambda);
        let shift = t3().logdet(lambda).expect("finite") - t3().logdet(1.0).expect("finite");
        close(shift, 4.0 * lambda.ln(), 1e-12);
        let found = t3().log_density(&theta, lambda).expect("finite");
        close(found, -0.5 * (4.0 * lambda.ln() + at_one / lambda), 1e-12);
    }
    close(t3().quadratic(&theta, 1e8).expect("finite") * 1e8, 2.2246963563, F32);
    for lambda in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        t3().quadratic(&theta, lambda).expect_err("no strength");
        t3().sample(&Key::new(1, Stream::Draw), 0, lambda).expect_err("no strength");
    }
}

#[test]
fn projections_are_the_sums_a_step_reports() {
    let found = t3().projections("w", &vector(&T3_THETA)).expect("fits");
    // u = Wᵀd⁻¹x with d⁻¹x = (1, 1, 0.5, -0.5).
    for (found, expected) in found.iter().zip([-0.5, 1.0, 3.0]) {
        close(*found, expected, F32);
    }
    assert_eq!(found.len(), 3);
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let error = small().quadratic(&weights(&[("a", &[0.0; 5])]), 1.0).expect_err("b is missing");
    let expected = "the weights lack parameter 'b' of the prior";
    assert!(error.to_string().starts_with(expected), "{error}");
    let error = small().quadratic(&weights(&[("a", &[0.0; 4])]), 1.0).expect_err("too short");
    let expected = "parameter 'a': the weights have shape [4]; the prior has [5]";
    assert_eq!(error.to_string(), expected);
}

/// T19: draws have the covariance W Wᵀ + d and E[quadratic] = D, from both sides.
#[test]
fn draws_follow_the_prior() {
    const DRAWS: u64 = 20_000;
    // Variances far from 1, so that a standard deviation cannot pass for a variance.
    let d = [0.04, 0.09];
    let prior = gaussian(&[1.0, -1.0], &d, &[&[0.3, 0.0], &[0.1, 0.2]], 0.01);
    let key = Key::new(11, Stream::Draw);
    let lambda = 4.0;
    let (mut quadratic, mut covariance) = (0.0, [0.0; 3]);
    for draw in 0..DRAWS {
        let theta = prior.sample(&key, draw, lambda).expect("draws");
        quadratic += prior.quadratic(&theta, lambda).expect("finite") / DRAWS as f64;
        let x = f64::from(theta["w"][0]) - 1.0;
        let y = f64::from(theta["w"][1]) + 1.0;
        let products = [x * x, x * y, y * y];
        covariance.iter_mut().zip(products).for_each(|(c, p)| *c += p / DRAWS as f64);
    }
    // Five standard errors: Var[quadratic] = 2D, and Var[xy] is at most 2 max(diag)².
    let error = 5.0 / (DRAWS as f64).sqrt();
    close(quadratic, 2.0, error * 2.0);
    let expected = [0.14 * lambda, 0.02 * lambda, 0.13 * lambda];
    for (found, expected) in covariance.iter().zip(expected) {
        let bound = error * 2f64.sqrt() * 0.14 * lambda;
        assert!((found - expected).abs() < bound, "{found} is not {expected} within {bound}");
    }
    let again = prior.sample(&key, 7, 1.0).expect("draws");
    assert_eq!(again, prior.sample(&key, 7, 1.0).expect("draws"));
    assert_ne!(again, prior.sample(&key, 8, 1.0).expect("draws"));
}

/// T21: a device that stores and multiplies in `f32` but sums in `f64` loses nothing that matters.
#[test]
fn single_precision_is_enough_for_the_gradient() {
    const LEN: usize = 100_000;
    const RANK: usize = 20;
    let mut normals = Key::new(5, Stream::Probe).at(0);
    let mut draw = |scale: f32, len: usize| -> Vec<f32> {
        (0..len).map(|_| scale * normals.normal()).collect()
    };
    let mean = vector(&draw(0.1, LEN));
    let theta: Vec<f32> = draw(0.1, LEN);
    let var = vector(&draw(1e-2, LEN)).mapv(|x| x * x).into_shared();
    let dev = tensor(&[RANK, LEN], draw(1e-2, RANK * LEN)).expect("fills");
    let parameter = Parameter::new("w", mean, var, Some(dev));
    let prior = Prior::new(header(RANK, 1e-5), vec![parameter]).expect("valid");
    let theta = weights(&[("w", &theta)]);
    let exact = prior.gradient(&theta, 1.0).expect("finite");

    let precision = prior.precision("w").expect("known");
    let factor = prior.factor("w").expect("known").expect("low rank");
    let x = &theta["w"] - &prior.mean("w").expect("known");
    let y = &x * &precision;
    let columns: Vec<&[f32]> = elements(&factor).chunks(LEN).collect();
    let sum = |row: &&[f32]| row.iter().zip(&y).map(|(w, y)| f64::from(w * y)).sum::<f64>();
    let u: Vec<f64> = columns.iter().map(sum).collect();
    let inverse = prior.capacitance_inverse(0).expect("definite");
    let s: Vec<f32> = inverse.chunks(RANK).map(|row| dot(row, &u) as f32).collect();
    let (mut error, mut norm) = (0.0, 0.0);
    for i in 0..LEN {
        let low_rank: f32 = columns.iter().zip(&s).map(|(row, s)| row[i] * s).sum();
        let found = f64::from(precision[i] * (x[i] - low_rank));
        let expected = f64::from(exact["w"][i]);
        error += (found - expected).powi(2);
        norm += expected.powi(2);
    }
    let relative = (error / norm).sqrt();
    assert!(relative < 1e-5, "relative error {relative}");
}
