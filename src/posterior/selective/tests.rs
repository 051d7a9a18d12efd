use super::*;
use crate::rng::{Key, Stream};

#[test]
fn the_curve_by_hand() {
    let curve = RiskCoverage::of(&[0.9, 0.6, 0.8, 0.7], &[true, false, true, false]);
    assert_eq!(curve.points, [[0.25, 0.0], [0.5, 0.0], [0.75, 1.0 / 3.0], [1.0, 0.5]]);
    assert!((curve.aurc - (1.0 / 3.0 + 0.5) / 4.0).abs() < 1e-15);
    assert_eq!(curve.aurc, curve.aurc_best);
    assert_eq!(curve.right_from_wrong.map(|s| s.auroc), Some(1.0));
    let worst = RiskCoverage::of(&[0.6, 0.9, 0.7, 0.8], &[true, false, true, false]);
    assert!(worst.aurc > worst.aurc_best);
    assert_eq!(worst.right_from_wrong.map(|s| s.auroc), Some(0.0));
}

/// A confidence that is the same for all says nothing: the risk is the error rate throughout.
#[test]
fn equal_confidence_gives_the_error_rate() {
    let curve = RiskCoverage::of(&[0.5; 8], &[true, true, false, true, true, true, false, true]);
    assert_eq!(curve.points, [[1.0, 0.25]]);
    assert!((curve.aurc - 0.25).abs() < 1e-15);
    let right = RiskCoverage::of(&[0.5, 0.7], &[true; 2]);
    assert_eq!((right.aurc, right.aurc_best, right.right_from_wrong), (0.0, 0.0, None));
}

#[test]
fn the_bound_on_a_rate_is_that_of_the_binomial() {
    // No errors among n: (1-p)ⁿ = δ.
    assert!((rate_bound(0, 50, 0.05) - (1.0 - 0.05f64.powf(1.0 / 50.0))).abs() < 1e-12);
    // P(X ≤ 1) = (1-p)² + 2p(1-p) = 1 - p² of two.
    assert!((rate_bound(1, 2, 0.19) - 0.9).abs() < 1e-12);
    assert_eq!(rate_bound(3, 3, 0.05), 1.0);
    // So many that the first terms are too small for `f64`.
    let bound = rate_bound(50_000, 100_000, 0.025);
    assert!((bound - 0.5031).abs() < 1e-4, "{bound}");
}

/// Answers whose chance of being right is their confidence.
fn answers(count: usize, seed: u64) -> (Vec<f64>, Vec<bool>) {
    let mut random = Key::new(seed, Stream::Probe).at(0);
    let confidence: Vec<f64> =
        (0..count).map(|_| 0.5 + 0.5 * f64::from(random.uniform())).collect();
    let right = confidence.iter().map(|&p| f64::from(random.uniform()) < p).collect();
    (confidence, right)
}

/// The true risk above θ is (1-θ)/2: a promise of 0.1 needs θ ≥ 0.8, and holds 19 times of 20.
#[test]
fn a_promised_risk_is_kept() {
    let thresholds: Vec<f64> = (0..200)
        .map(|seed| {
            let (confidence, right) = answers(5_000, seed);
            let fit = Abstention::fit(&confidence, &right, Target::Risk(0.1)).expect("found");
            fit.confidence_min
        })
        .collect();
    let broken = thresholds.iter().filter(|&&threshold| threshold < 0.8).count();
    assert!(broken <= 10, "{broken} of 200");
    let mean = thresholds.iter().sum::<f64>() / 200.0;
    assert!(mean < 0.88, "it answers much less than it could: {mean}");
}

#[test]
fn a_wanted_coverage_is_met_and_what_cannot_be_promised_is_refused() {
    let (confidence, right) = answers(100, 0);
    let fit = Abstention::fit(&confidence, &right, Target::Coverage(0.3)).expect("found");
    assert_eq!(confidence.iter().filter(|&&p| fit.answers(p)).count(), 30);
    let refusal =
        |target| Abstention::fit(&confidence, &right, target).expect_err("refused").to_string();
    let error = refusal(Target::Risk(0.001));
    assert!(error.contains("no threshold") && error.contains("the least"), "{error}");
    assert!(refusal(Target::Risk(1.0)).contains("wrong answers is 1"));
    assert!(refusal(Target::Coverage(f64::NAN)).contains("share of answers is NaN"));
}
