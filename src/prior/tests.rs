use super::*;
use crate::error::Kind;
use crate::tensor::tensor;

/// `f32` storage of the parts, relative.
pub(super) const F32: f64 = 3e-7;

pub(super) const BACKBONE: &str =
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub(super) fn vector(values: &[f32]) -> Tensor {
    tensor(&[values.len()], values.to_vec()).expect("one axis")
}

pub(super) fn header(rank: usize, eps: f32) -> Header {
    Header { rank, ..Header::new(BACKBONE, eps) }
}

/// The prior N(mean, diag(d) + W Wᵀ) of one vector `w` with the rows of Wᵀ given.
pub(super) fn gaussian(mean: &[f32], d: &[f32], w: &[&[f32]], eps: f32) -> Prior {
    let scale = (2.0 * (w.len() as f32 - 1.0)).sqrt();
    let var = d.iter().map(|d| 2.0 * (d - eps)).collect::<Vec<_>>();
    let dev = w.iter().flat_map(|row| row.iter().map(|x| scale * x)).collect::<Vec<_>>();
    let dev = (!w.is_empty()).then(|| tensor(&[w.len(), d.len()], dev).expect("rows"));
    let parameter = Parameter::new("w", vector(mean), vector(&var), dev);
    Prior::new(header(w.len(), eps), vec![parameter]).expect("valid")
}

pub(super) fn weights(parts: &[(&str, &[f32])]) -> Weights {
    parts.iter().map(|(name, values)| (name.to_string(), vector(values))).collect()
}

/// Three parameters of rank 2, with awkward shapes and names.
pub(super) fn small() -> Prior {
    let fill = |shape: &[usize], offset: f32| {
        let len = Shape::from(shape).len();
        let values = (0..len).map(|i| offset + 0.25 * (i as f32 * 1.7).sin()).collect();
        tensor(shape, values).expect("fills")
    };
    let parameter = |name: &str, shape: &[usize]| {
        let dev = fill(&[&[2], shape].concat(), 0.0);
        Parameter::new(name, fill(shape, -1.0), fill(shape, 0.5), Some(dev))
    };
    let parameters =
        vec![parameter("layer/1.weight", &[2, 1, 3]), parameter("b", &[]), parameter("a", &[5])];
    let mut header = header(2, 1e-6);
    header.num_data = 50_000;
    header.notes = "a \"quoted\" note, ε included".to_string();
    header.learned = Learned {
        epochs: Some(3.0),
        learning_rate: Some(0.02),
        method: "SWAG".into(),
        schedule: "constant".into(),
        snapshots: 12,
    };
    Prior::new(header, parameters).expect("valid")
}

#[track_caller]
pub(super) fn close(found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1.0), "{found} is not {expected}");
}

/// The message of a prior of one parameter `w` that must be refused.
#[track_caller]
fn refusal(header: Header, parts: (&[f32], &[f32], Option<Tensor>)) -> String {
    let parameter = Parameter::new("w", vector(parts.0), vector(parts.1), parts.2);
    let error = Prior::new(header, vec![parameter]).expect_err("must be refused");
    assert!(matches!(error.kind(), Kind::Malformed | Kind::Unsupported), "{error:?}");
    error.to_string()
}

#[test]
fn impossible_gaussians_are_refused_by_name_and_element() {
    let dev = |rows: usize, x: f32| Some(tensor(&[rows, 2], vec![x; rows * 2]).expect("fills"));
    let cases = [
        (0, 0.1, [0.0, f32::NAN], [1.0; 2], None, "mean at element 1 is NaN; expected a finite"),
        (0, 0.1, [0.0; 2], [-1.0, 1.0], None, "var at element 0 is -1.0; expected a finite number"),
        (0, 0.1, [0.0; 2], [1.0, f32::INFINITY], None, "var at element 1 is inf; expected"),
        (0, 0.0, [0.0; 2], [1.0, 0.0], None, "var at element 1 is 0.0; expected var/2 + eps > 0"),
        (0, 0.0, [0.0; 2], [1e-40, 1.0], None, "var at element 0 is 1e-40; expected var/2 + eps"),
        (2, 0.1, [0.0; 2], [1.0; 2], dev(2, f32::NAN), "dev at element 0 is NaN; expected a"),
        (2, 0.1, [0.0; 2], [1.0; 2], None, "dev is absent; expected of rank 2 that it has shape"),
        (2, 0.1, [0.0; 2], [1.0; 2], dev(3, 0.0), "dev has shape [3,2]; expected of rank 2"),
    ];
    for (rank, eps, mean, var, dev, expected) in cases {
        let message = refusal(header(rank, eps), (&mean, &var, dev));
        let expected = format!("parameter 'w': {expected}");
        assert!(message.starts_with(&expected), "{message}\n{expected}");
    }
    let message = refusal(header(0, 0.1), (&[0.0], &[1.0, 1.0], None));
    assert_eq!(message, "parameter 'w': var has shape [2]; expected [1]");
    let message = refusal(header(0, 0.1), (&[0.0], &[1.0], dev(2, 0.0)));
    let expected = "dev has shape [2,2]; expected of rank 0 that it is absent";
    assert_eq!(message, format!("parameter 'w': {expected}"));
    let message = refusal(header(0, 0.1), (&[], &[], None));
    assert_eq!(message, "parameter 'w': a parameter needs a name and at least one element");
}

#[test]
fn impossible_headers_are_refused_with_the_reason() {
    let good = header(0, 0.1);
    let cases = [
        (header(1, 0.1), "rank is 1; expected 0 or at least 2: one deviation has no covariance"),
        (header(1025, 0.1), "rank is 1025; expected 1024 at most"),
        (header(0, -0.1), "eps is -0.1; expected a number of at least 0"),
        (header(0, f32::NAN), "eps is NaN; expected a number of at least 0"),
        (
            Header { version: 3, ..good.clone() },
            "the prior file has version 3; expected version 1 or",
        ),
        (Header { version: 2, ..good.clone() }, "a prior of version 2 has 0 blocks; expected none"),
        (Header { convention: "A".into(), ..good.clone() }, "the prior follows the convention 'A'"),
        (Header { backbone: "AB".into(), ..good.clone() }, "backbone 'AB' is not a fingerprint"),
    ];
    for (header, expected) in cases {
        let message = refusal(header, (&[0.0], &[1.0], None));
        assert!(message.starts_with(expected), "{message}\n{expected}");
    }
    let mut unbounded = good.clone();
    unbounded.learned.learning_rate = Some(f32::INFINITY);
    let message = refusal(unbounded, (&[0.0], &[1.0], None));
    assert_eq!(message, "the learning rate or the epochs are not finite");
    let empty = Prior::new(good.clone(), vec![]).expect_err("covers nothing");
    assert_eq!(empty.to_string(), "the prior covers no parameter");
    let one = |name: &str| Parameter::new(name, vector(&[0.0]), vector(&[1.0]), None);
    let twice = Prior::new(good.clone(), vec![one("w"), one("v"), one("w")]).expect_err("twice");
    assert_eq!(twice.to_string(), "parameter 'w' appears twice");
    Prior::new(good, vec![one("")]).expect_err("nameless");
}

#[test]
fn accessors_give_the_parts_of_the_formulas() {
    let prior = gaussian(&[1.0, 2.0], &[0.5, 2.0], &[&[1.0, 0.0], &[0.5, -2.0]], 0.25);
    assert_eq!(prior.dimension(), 2);
    assert_eq!(prior.mean("w").expect("known"), vector(&[1.0, 2.0]));
    assert_eq!(prior.precision("w").expect("known"), vector(&[2.0, 0.5]));
    let factor = prior.factor("w").expect("known").expect("of rank 2");
    assert_eq!(factor.shape(), [2, 2]);
    for (found, expected) in factor.iter().zip([1.0, 0.0, 0.5, -2.0]) {
        close(f64::from(*found), expected, F32);
    }
    assert!(gaussian(&[0.0], &[1.0], &[], 0.0).factor("w").expect("known").is_none());
    let error = prior.mean("v").expect_err("unknown");
    assert!(error.to_string().starts_with("the prior has no parameter 'v'"), "{error}");
}

#[test]
fn tensors_of_any_layout_are_read_in_row_major_order() {
    let columns = tensor(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("fills");
    let transposed = columns.clone().reversed_axes();
    let parameter = Parameter::new("w", transposed.clone(), transposed, None);
    let prior = Prior::new(header(0, 0.0), vec![parameter]).expect("valid");
    let found = prior.precision("w").expect("known");
    let expected = [2.0, 0.5, 1.0, 0.4, 2.0 / 3.0, 1.0 / 3.0];
    assert!(found.iter().eq(expected.iter()), "{found}");
}

#[test]
fn a_diagonal_prior_keeps_every_marginal_variance() {
    let prior = gaussian(&[1.0, 2.0], &[0.5, 2.0], &[&[1.0, 0.0], &[0.5, -2.0]], 0.25);
    let diagonal = prior.diagonal().expect("valid");
    assert_eq!(diagonal.rank(), 0);
    let precision = diagonal.precision("w").expect("known");
    // 0.5 + 1 + 0.25 and 2 + 0 + 4.
    close(f64::from(precision[0]), 1.0 / 1.75, F32);
    close(f64::from(precision[1]), 1.0 / 6.0, F32);
    assert_eq!(diagonal.mean("w").expect("known"), prior.mean("w").expect("known"));
    assert_eq!(diagonal.header().notes, "marginal variances of a low-rank prior");
}

/// T6: with W = 0 and d = s the gradient is weight decay 1/s around the mean.
#[test]
fn isotropic_priors_are_weight_decay_towards_their_mean() {
    let theta = weights(&[("w", &[3.0, -2.0])]);
    let prior = gaussian(&[1.0, 2.0], &[0.5, 2.0], &[&[1.0, 0.0], &[0.5, -2.0]], 0.25);
    for isotropic in [
        prior.isotropic(0.1).expect("valid"),
        Prior::from_backbone(&weights(&[("w", &[1.0, 2.0])]), 0.1, BACKBONE).expect("valid"),
    ] {
        // The penalty is -log p/N: at N = 10 its gradient is 1.0 (θ - μ).
        let gradient = isotropic.gradient(&theta, 1.0).expect("finite");
        close(f64::from(gradient["w"][0]) / 10.0, 2.0, F32);
        close(f64::from(gradient["w"][1]) / 10.0, -4.0, F32);
    }
    for variance in [0.0, -1.0, f64::NAN, 1e-60, 1e60] {
        let error = prior.isotropic(variance).expect_err("no variance");
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }
}

#[test]
fn the_equivalent_isotropic_prior_has_the_same_volume() {
    let prior = gaussian(&[1.0, 2.0], &[0.5, 2.0], &[&[1.0, 0.0], &[0.5, -2.0]], 0.25);
    let variance = prior.equivalent_variance().expect("finite");
    // |S| = 1.75 · 6 - 1 for S = [[1.75, -1], [-1, 6]].
    close(variance, 9.5f64.sqrt(), F32);
    let isotropic = prior.isotropic(variance).expect("valid");
    close(isotropic.logdet(1.0).expect("finite"), prior.logdet(1.0).expect("finite"), F32);
}

#[test]
fn a_prior_around_other_weights_keeps_its_covariance() {
    let prior = small();
    let moved = |p: &Parameter| (p.name().to_string(), p.mean().mapv(|x| x + 1.0).into());
    let mean: Weights = prior.parameters().iter().map(moved).collect();
    let around = prior.recentred(&mean).expect("the same names");
    let capacitance = |prior: &Prior| prior.capacitance_inverse(0).expect("definite");
    assert_eq!(capacitance(&around), capacitance(&prior));
    assert!(around.parameters().iter().all(|p| p.mean() == mean[p.name()]));
    let without = Weights::from([("a".to_string(), mean["a"].clone())]);
    let error = prior.recentred(&without).expect_err("a name is missing").to_string();
    assert!(error.contains("no new mean of"), "{error}");
    let mut other = mean;
    other.insert("a".to_string(), tensor(&[1, 1], vec![0.0]).expect("one number"));
    let error = prior.recentred(&other).expect_err("another shape").to_string();
    assert!(error.contains("the new mean of a is [1, 1]"), "{error}");
}

#[test]
fn a_restricted_prior_is_the_marginal() {
    let prior = small();
    let part = prior.restrict(["layer/1.weight", "a"]).expect("known names");
    let names: Vec<&str> = part.parameters().iter().map(Parameter::name).collect();
    assert_eq!((names, part.dimension()), (vec!["a", "layer/1.weight"], 11));
    assert_eq!(part.precision("a").expect("known"), prior.precision("a").expect("known"));
    assert_ne!(
        part.capacitance_inverse(0).expect("definite"),
        prior.capacitance_inverse(0).expect("definite")
    );
    let error = prior.restrict(["a", "c"]).expect_err("unknown name");
    assert!(error.to_string().starts_with("the prior has no parameter 'c'"), "{error}");
    assert_eq!(prior.restrict([]).expect_err("empty").kind(), Kind::InvalidArgument);
}

fn shapes(names: &[(&str, &[usize])]) -> Vec<(String, Shape)> {
    names.iter().map(|(name, shape)| (name.to_string(), Shape::from(*shape))).collect()
}

fn matches(prior: &Prior, backbone: &[(String, Shape)], fingerprint: &str) -> Result<()> {
    prior.matches(backbone.iter().map(|(name, shape)| (name.as_str(), shape)), fingerprint)
}

#[test]
fn a_prior_matches_the_backbone_it_was_learned_around() {
    let backbone = shapes(&[("b", &[]), ("layer/1.weight", &[2, 1, 3]), ("a", &[5])]);
    matches(&small(), &backbone, BACKBONE).expect("they belong together");
    let other = "f".repeat(64);
    let error = matches(&small(), &backbone, &other).expect_err("another backbone");
    assert_eq!(error.kind(), Kind::Mismatch);
    assert_eq!(
        error.to_string(),
        "the prior was learned around another backbone: its weights have the fingerprint \
         001122334455, these ffffffffffff; use the backbone that came with the prior"
    );
}

#[test]
fn one_error_lists_what_both_sides_lack() {
    let mut backbone = shapes(&[("layer/1.weight", &[2, 3]), ("a", &[5])]);
    backbone.extend((0..6).map(|i| (format!("new.{i}"), Shape::from([1]))));
    let error = matches(&small(), &backbone, BACKBONE).expect_err("different networks");
    assert_eq!(
        error.to_string(),
        "the prior's 3 parameters are not the backbone's 8: 6 only in the backbone: 'new.0', \
         'new.1', 'new.2', 'new.3' and 2 more; 1 only in the prior: 'b'; 1 of different shapes: \
         'layer/1.weight' [2,1,3] in the prior, [2,3] in the backbone; use the backbone that came \
         with the prior"
    );
}

#[test]
fn stats_say_where_the_variance_comes_from() {
    let row: &[f32] = &[2.0, 0.0, 0.0];
    let prior = gaussian(&[0.0; 3], &[0.75, 1.25, 2.25], &[row, row], 0.25);
    let stats = prior.stats();
    let Spread { count, mean, median, min, max, floor_share, low_rank_share } = stats.overall;
    assert_eq!((count, median, min, max), (3, 2.0, 1.0, 4.0));
    close(mean, 7.0 / 3.0, F32);
    // Σ d = 4.25, Σ diag(W Wᵀ) = 8.
    close(floor_share, 0.75 / 12.25, F32);
    close(low_rank_share, 8.0 / 12.25, F32);
    close(stats.effective_rank, 1.0, F32);
    assert_eq!(stats.parameters[0].spread, stats.overall);
    let two = gaussian(&[0.0; 2], &[1.0; 2], &[&[2.0, 0.0], &[0.0, 2.0]], 0.25);
    close(two.stats().effective_rank, 2.0, F32);
    assert_eq!(gaussian(&[0.0], &[1.0], &[], 0.0).stats().effective_rank, 0.0);
}
