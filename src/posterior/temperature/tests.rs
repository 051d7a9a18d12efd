use super::*;
use crate::rng::{Key, Stream};

/// Logits [N, 4] and labels drawn from their softmax.
fn calibrated(count: usize) -> (Array2<f32>, Vec<usize>) {
    let mut random = Key::new(8, Stream::Probe).at(0);
    let logits = Array2::from_shape_fn((count, 4), |_| 1.5 * random.normal());
    let labels = logits
        .rows()
        .into_iter()
        .map(|row| {
            let mut rest = f64::from(random.uniform());
            let is_passed = |&label: &usize| {
                rest -= of_label(row, label, 1.0);
                rest > 0.0
            };
            (0..4).take_while(is_passed).count().min(3)
        })
        .collect();
    (logits, labels)
}

fn fitted(draws: &[Array2<f32>], labels: &[usize]) -> f64 {
    let mut search = Search::new(Truth::Classes(labels.to_vec()));
    draws.iter().for_each(|logits| search.add(logits));
    best(&search.nll(draws.len()))
}

#[test]
fn a_known_temperature_is_recovered() {
    let (logits, labels) = calibrated(20_000);
    for scale in [0.2f32, 1.0, 3.7, 12.0] {
        let found = fitted(&[&logits * scale], &labels);
        // ln T has a standard error of 0.013 at this size (by the curvature of the likelihood).
        assert!((found / f64::from(scale)).ln().abs() < 0.04, "{found} for {scale}");
    }
}

/// What the search finds between the points of its grid is where the cost is least.
#[test]
fn the_minimum_is_found_between_the_points() {
    let (logits, labels) = calibrated(500);
    let draws = [&logits * 2.0, &logits * 3.0 + 0.1];
    let found = fitted(&draws, &labels);
    let cost = |temperature: f64| {
        let rows = draws.iter().map(|draw| {
            let rows = draw.rows().into_iter().zip(&labels);
            rows.map(|(row, &label)| of_label(row, label, 1.0 / temperature)).collect::<Vec<_>>()
        });
        let rows: Vec<Vec<f64>> = rows.collect();
        let mean = |i: usize| (rows[0][i] + rows[1][i]) / 2.0;
        (0..labels.len()).map(|i| -mean(i).ln()).sum::<f64>() + temperature.ln().powi(2) / 2.0
    };
    for step in [0.99, 1.01] {
        assert!(cost(found) < cost(found * step), "{found}");
    }
}

/// Few examples, all of them right: the likelihood alone has no minimum.
#[test]
fn separable_examples_keep_the_temperature_finite() {
    let logits = Array2::from_shape_fn((10, 2), |(i, c)| if i % 2 == c { 4.0 } else { -4.0 });
    let labels: Vec<usize> = (0..10).map(|i| i % 2).collect();
    let found = fitted(&[logits], &labels);
    assert!((0.3..1.0).contains(&found), "{found}");
    let hopeless = Array2::from_elem((10, 2), 1e30f32);
    assert_eq!(fitted(&[hopeless], &labels), 1.0);
}

/// Labels drawn from sigmoids: all of them have one temperature.
#[test]
fn labels_have_a_temperature_too() {
    let mut random = Key::new(9, Stream::Probe).at(0);
    let logits = Array2::from_shape_fn((8_000, 3), |_| 2.0 * random.normal());
    let labels = logits.map(|&x| f32::from(random.uniform() < 1.0 / (1.0 + (-x).exp())));
    let truth = Truth::Labels(labels.into_iter().collect());
    for scale in [0.3f32, 1.0, 4.0] {
        let found = best_temperature(&[&logits * scale], truth.clone(), 1.0);
        // As above, of as many likelihoods that are worth somewhat less.
        assert!((found / f64::from(scale)).ln().abs() < 0.05, "{found} for {scale}");
    }
    // What counts for little leaves the temperature where the prior has it.
    assert!(best_temperature(&[&logits * 4.0], truth, 1e-9).ln().abs() < 0.01);
}
