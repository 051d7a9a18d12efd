use super::*;
use crate::prior::elements;
use crate::prior::tests::{BACKBONE, F32, close, vector, weights};

fn header() -> Header {
    Header::new(BACKBONE, 1e-6)
}

/// The prior of these snapshots of one vector `w`.
fn fit(snapshots: &[&[f32]], max_rank: usize) -> Prior {
    let mut moments = Moments::new(max_rank).expect("a possible rank");
    for snapshot in snapshots {
        moments.collect(&weights(&[("w", snapshot)])).expect("fits");
    }
    moments.finish(header()).expect("moves")
}

/// QᵀQ/(K-1) between weights `i` and `j`.
fn low_rank(prior: &Prior, i: usize, j: usize) -> f64 {
    let dev = prior.parameters()[0].dev().expect("low rank");
    let rows = elements(dev).chunks(prior.dimension());
    let sum: f64 = rows.map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
    sum / (prior.rank() as f64 - 1.0)
}

/// T11: deviations are from the running mean, not from the final one, and only the last K count.
#[test]
fn five_snapshots_of_one_weight() {
    let prior = fit(&[&[1.0], &[2.0], &[3.0], &[4.0], &[5.0]], 3);
    let parameter = &prior.parameters()[0];
    assert_eq!((parameter.mean()[0], parameter.var()[0]), (3.0, 2.0));
    assert_eq!(elements(parameter.dev().expect("low rank")), [1.0, 1.5, 2.0]);
    close(low_rank(&prior, 0, 0), 3.625, F32);
    let factor = prior.factor("w").expect("known").expect("low rank");
    for (factor, expected) in factor.iter().zip([1.0, 1.5, 2.0]) {
        close(f64::from(*factor), expected / 2.0, F32);
    }
    assert_eq!((prior.rank(), prior.header().learned.snapshots), (3, 5));
    assert_eq!(prior.header().learned.method, "SWAG");
}

/// T12: a first deviation that is still kept changes nothing, and is not stored.
#[test]
fn the_zero_deviation_is_left_out_without_changing_the_covariance() {
    let prior = fit(&[&[0.0, 0.0], &[1.0, 2.0], &[2.0, 1.0], &[3.0, 4.0]], 4);
    let parameter = &prior.parameters()[0];
    assert_eq!(elements(parameter.mean()), [1.5, 1.75]);
    assert_eq!(elements(parameter.var()), [1.25, 2.1875]);
    assert_eq!(prior.rank(), 3);
    close(low_rank(&prior, 0, 0), 1.1666667, F32);
    close(low_rank(&prior, 0, 1), 1.2916667, F32);
    close(low_rank(&prior, 1, 1), 2.0208333, F32);
}

#[test]
fn two_deviations_keep_the_zero_one() {
    let prior = fit(&[&[0.0, 1.0], &[2.0, 3.0]], 20);
    assert_eq!(elements(prior.parameters()[0].dev().expect("low rank")), [0.0, 0.0, 1.0, 1.0]);
    close(low_rank(&prior, 0, 0), 1.0, F32);
}

#[test]
fn a_diagonal_fit_keeps_no_deviations() {
    let prior = fit(&[&[0.0, 1.0], &[2.0, 3.0]], 0);
    assert_eq!(prior.rank(), 0);
    assert!(prior.parameters()[0].dev().is_none());
}

/// T13: a spread far below the resolution of w² in `f32`.
#[test]
fn a_small_spread_beside_a_large_mean_survives() {
    let snapshots: Vec<f32> = (0..50).map(|t| 1000.0 + 1e-3 * t as f32).collect();
    let rows: Vec<&[f32]> = snapshots.chunks(1).collect();
    let found = f64::from(fit(&rows, 0).parameters()[0].var()[0]);
    let n = snapshots.len() as f64;
    let mean = snapshots.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
    let expected = snapshots.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n;
    assert!((found / expected - 1.0).abs() < 1e-3, "{found} is not {expected}");
    let square = snapshots.iter().map(|w| w * w).sum::<f32>() / n as f32;
    let naive = square - (snapshots.iter().sum::<f32>() / n as f32).powi(2);
    assert!((f64::from(naive) / expected - 1.0).abs() > 1.0, "the naive form collapses: {naive}");
}

#[test]
fn too_few_snapshots_or_deviations_are_refused() {
    for count in [0, 1] {
        let mut moments = Moments::new(3).expect("a possible rank");
        for _ in 0..count {
            moments.collect(&weights(&[("w", &[1.0])])).expect("fits");
        }
        let error = moments.finish(header()).expect_err("no variance");
        let expected = format!("{count} snapshots have no variance; collect at least 2");
        assert_eq!(error.to_string(), expected);
    }
    for rank in [1, 1025] {
        let error = Moments::new(rank).expect_err("no such rank");
        let expected = "deviations; expected 0 or a number from 2 to 1024";
        assert_eq!(error.to_string(), format!("cannot keep {rank} {expected}"));
    }
}

#[test]
fn snapshots_that_do_not_fit_leave_the_moments_alone() {
    let mut moments = Moments::new(2).expect("a possible rank");
    moments.collect(&weights(&[("w", &[1.0, 2.0])])).expect("fits");
    let cases = [
        (weights(&[("v", &[1.0, 2.0])]), "1 weights do not bear the names of the first snapshot's"),
        (weights(&[("w", &[1.0])]), "parameter 'w' has shape [1]; expected [2] as in the first"),
        (weights(&[("w", &[1.0, f32::NAN])]), "parameter 'w' holds NaN; lower the learning rate"),
    ];
    for (snapshot, expected) in cases {
        let error = moments.collect(&snapshot).expect_err("does not fit");
        let expected = format!("snapshot 2: {expected}");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    assert_eq!(moments.count(), 1);
    moments.collect(&weights(&[("w", &[3.0, 4.0])])).expect("fits");
    let prior = moments.finish(header()).expect("moves");
    assert_eq!(prior.mean("w").expect("known"), vector(&[2.0, 3.0]));
}

#[test]
fn a_weight_that_never_moves_needs_a_floor() {
    let mut moments = Moments::new(0).expect("diagonal");
    for _ in 0..3 {
        moments.collect(&weights(&[("w", &[1.0])])).expect("fits");
    }
    moments.clone().finish(header()).expect("eps is its variance");
    let error = moments.finish(Header::new(BACKBONE, 0.0)).expect_err("no variance");
    let expected = "parameter 'w': var at element 0 is 0.0; expected var/2 + eps > 0";
    assert!(error.to_string().starts_with(expected), "{error}");
}
