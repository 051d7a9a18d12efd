use ndarray::array;

use super::*;

fn average(draws: &[Array2<f64>]) -> Predictions {
    let (examples, classes) = draws[0].dim();
    let all: Vec<usize> = (0..examples).collect();
    let mut average = Average::new(examples, classes);
    draws.iter().for_each(|draw| average.add(&all, draw));
    average.finish()
}

/// T18: identical draws are one model, and nothing is left to learn about their weights.
#[test]
fn identical_draws_are_a_single_model() {
    let one = softmax(&array![[1.0f32, -2.0, 0.5], [0.0, 0.0, 0.0], [9.0, 1.0, -3.0]]);
    let alone = average(std::slice::from_ref(&one));
    assert_eq!(alone.probabilities, one);
    assert_eq!(alone.mutual_information, [0.0; 3]);
    let many = average(&[(); 7].map(|()| one.clone()));
    assert!((&many.probabilities - &one).iter().all(|x| x.abs() < 1e-15));
    assert!(many.mutual_information.iter().all(|&x| x < 1e-14), "{:?}", many.mutual_information);
    assert_eq!(many.draws, [7; 3]);
    assert_eq!(many.classes(), [0, 0, 0]);
}

/// Draws that are each certain of another class leave only uncertainty about the weights: ln S of
/// it. Draws that all guess leave none.
#[test]
fn mutual_information_has_its_closed_forms() {
    let certain = |class: usize| Array2::from_shape_fn((1, 4), |(_, c)| f64::from(c == class));
    let two = average(&[certain(0), certain(1)]);
    let four = average(&[certain(0), certain(1), certain(2), certain(3)]);
    for (predictions, expected) in [(two, 2.0f64.ln()), (four, 4.0f64.ln())] {
        assert!((predictions.entropy[0] - expected).abs() < 1e-15);
        assert!((predictions.mutual_information[0] - expected).abs() < 1e-15);
    }
    let guess = average(&[array![[0.25; 4]], array![[0.25; 4]]]);
    assert!((guess.entropy[0] - 4.0f64.ln()).abs() < 1e-15);
    assert_eq!(guess.mutual_information, [0.0]);
}

#[test]
fn examples_are_averaged_over_the_draws_they_had() {
    let mut average = Average::new(2, 2);
    average.add(&[0, 1], &array![[0.5, 0.5], [0.25, 0.75]]);
    average.add(&[1], &array![[0.75, 0.25]]);
    let predictions = average.finish();
    assert_eq!(predictions.draws, [1, 2]);
    assert_eq!(predictions.probabilities, array![[0.5, 0.5], [0.5, 0.5]]);
    assert_eq!(predictions.confidence(), [0.5, 0.5]);
}

#[test]
fn a_temperature_divides_the_logits() {
    let logits = array![[3.0f32, 1.0], [-400.0, 400.0]];
    assert_eq!(tempered(&logits, 2.0), softmax(&array![[1.5f32, 0.5], [-200.0, 200.0]]));
    assert!(tempered(&logits, 1e-3).iter().all(|p| p.is_finite()));
}
