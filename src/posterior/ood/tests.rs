use super::*;
use crate::rng::{Key, Stream};

/// Every pair counted.
fn by_pairs(low: &[f64], high: &[f64]) -> f64 {
    let pair = |l: f64, h: f64| f64::from(u8::from(h > l)) + 0.5 * f64::from(u8::from(h == l));
    let wins: f64 = high.iter().map(|&h| low.iter().map(|&l| pair(l, h)).sum::<f64>()).sum();
    wins / (low.len() * high.len()) as f64
}

#[test]
fn the_area_is_that_of_all_pairs_with_equal_scores_too() {
    let mut random = Key::new(3, Stream::Probe).at(0);
    for (n, m, levels) in [(1, 1, 2.0), (17, 5, 4.0), (40, 60, 1e6)] {
        let mut scores = |count, shift: f64| -> Vec<f64> {
            let score = |_| (levels * f64::from(random.uniform())).floor() + shift;
            (0..count).map(score).collect()
        };
        let (low, high) = (scores(n, 0.0), scores(m, levels / 4.0));
        let found = Separation::of(&low, &high).expect("cases of both kinds").auroc;
        assert!((found - by_pairs(&low, &high)).abs() < 1e-12, "{found}");
    }
}

#[test]
fn extremes_have_their_values() {
    let of = |low: &[f64], high: &[f64]| Separation::of(low, high).expect("both kinds");
    assert_eq!(of(&[1.0, 2.0], &[3.0, 4.0]), Separation { auroc: 1.0, fpr95: 0.0 });
    assert_eq!(of(&[3.0, 4.0], &[1.0, 2.0]), Separation { auroc: 0.0, fpr95: 1.0 });
    assert_eq!(of(&[1.0; 3], &[1.0; 2]), Separation { auroc: 0.5, fpr95: 1.0 });
    // 19 of 20 high cases reach 1, which 1 of 4 low ones does.
    let high: Vec<f64> = (0..20).map(f64::from).collect();
    assert_eq!(of(&[0.0, 0.5, 0.9, 1.0], &high).fpr95, 0.25);
    assert_eq!(Separation::of(&[], &[1.0]), None);
}
