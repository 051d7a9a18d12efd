use ndarray::{Array1, array};

use super::*;
use crate::rng::{Key, Sequence, Stream};

#[test]
fn the_quantile_is_the_one_of_finite_samples() {
    let scores: Vec<f64> = (1..=9).rev().map(f64::from).collect();
    // ⌈10 · 0.9⌉ = 9, ⌈10 · 0.5⌉ = 5, ⌈10 · 0.51⌉ = 6; ⌈10 · 0.95⌉ = 10 is more than there are.
    assert_eq!(quantile(&scores, 0.9), Some(9.0));
    assert_eq!(quantile(&scores, 0.5), Some(5.0));
    assert_eq!(quantile(&scores, 0.51), Some(6.0));
    assert_eq!(quantile(&scores, 0.95), None);
    assert_eq!(quantile(&[], 0.5), None);
}

#[test]
fn sets_are_never_empty_and_hold_everything_where_nothing_is_promised() {
    let sets = PredictionSets::fit(&[0.9, 0.8, 0.99], 0.5).expect("a share");
    assert_eq!(sets.probability_min, 0.9);
    assert_eq!(sets.set(array![0.2, 0.5, 0.3].view()), [1]);
    assert_eq!(sets.set(array![0.05, 0.95].view()), [1]);
    let few = PredictionSets::fit(&[0.9, 0.8, 0.99], 0.9).expect("a share");
    assert_eq!(few.set(array![0.0, 1.0, 0.0].view()), [0, 1, 2]);
    for coverage in [0.0, 1.0, f64::NAN] {
        let error = PredictionSets::fit(&[0.5], coverage).expect_err("refused").to_string();
        assert!(error.contains("coverage"), "{error}");
    }
}

/// Predictions that are wrong about how sure they are, and a label from the true distribution.
fn example(random: &mut Sequence) -> (Array1<f64>, usize) {
    let logits = [(); 5].map(|()| 2.0 * f64::from(random.normal()));
    let softmax = |factor: f64| {
        let weights = logits.map(|x| (factor * x).exp());
        weights.map(|x| x / weights.iter().sum::<f64>())
    };
    let mut rest = f64::from(random.uniform());
    let mut is_passed = |p: &f64| {
        rest -= p;
        rest > 0.0
    };
    let label = softmax(1.0).iter().take_while(|p| is_passed(p)).count().min(4);
    (Array1::from(softmax(3.0).to_vec()), label)
}

/// Over many repetitions, sets fitted to n examples hold a new label as often as promised: the
/// coverage is at least 1-α, and at most 1/(n+1) more where the likeliest class adds nothing.
#[test]
fn coverage_is_as_promised_over_repetitions() {
    const REPETITIONS: u64 = 20_000;
    for (n, coverage) in [(19, 0.9), (40, 0.8), (99, 0.95)] {
        let mut held = 0;
        for repetition in 0..REPETITIONS {
            let mut random = Key::new(n, Stream::Probe).at(repetition);
            let of_labels: Vec<f64> = (0..n)
                .map(|_| example(&mut random))
                .map(|(probabilities, label)| probabilities[label])
                .collect();
            let sets = PredictionSets::fit(&of_labels, coverage).expect("a share");
            let (probabilities, label) = example(&mut random);
            held += usize::from(sets.set(probabilities.view()).contains(&label));
        }
        let found = held as f64 / REPETITIONS as f64;
        // Four standard errors of a binomial share.
        let error = 4.0 * (coverage * (1.0 - coverage) / REPETITIONS as f64).sqrt();
        let highest = coverage + 1.0 / (n as f64 + 1.0);
        assert!((coverage - error..highest + error).contains(&found), "{found} of {coverage}");
    }
}
