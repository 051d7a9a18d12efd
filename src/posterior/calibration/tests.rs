use ndarray::array;

use super::*;

fn predictions() -> Predictions {
    let probabilities = array![[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]];
    let entropy =
        probabilities.rows().into_iter().map(crate::posterior::entropy).collect::<Vec<_>>();
    Predictions { probabilities, entropy, mutual_information: vec![0.0; 3], draws: vec![1; 3] }
}

#[test]
fn thresholds_come_from_the_predictions_and_give_verdicts() {
    let settings = CalibrationSettings {
        coverage: 0.5,
        abstention: Some(Target::Coverage(0.6)),
        false_alarms: 0.5,
        ..CalibrationSettings::default()
    };
    let predictions = predictions();
    let fitted = Calibration::fit((1.5, 7), &predictions, &[0, 1, 1], &settings).expect("a fit");
    assert_eq!((fitted.temperature, fitted.temperature_examples), (1.5, 7));
    assert_eq!(fitted.threshold_examples, 3);
    // Of 0.9, 0.8 and 0.4 the second; two of three answers; the second of three entropies.
    assert_eq!(fitted.sets.map(|s| s.probability_min), Some(0.8));
    assert_eq!(fitted.abstention.map(|a| a.confidence_min), Some(0.8));
    assert_eq!(fitted.familiarity.highest, Some(predictions.entropy[1]));
    let verdicts: Vec<Verdict> = (0..3).map(|i| fitted.verdict(&predictions, i)).collect();
    let sure = |class| Verdict { set: vec![class], abstains: false, unfamiliar: false };
    let unsure = Verdict { set: vec![0], abstains: true, unfamiliar: true };
    assert_eq!(verdicts, [sure(0), sure(1), unsure]);
}

#[test]
fn numbers_out_of_their_range_are_named() {
    let settings = CalibrationSettings::default();
    let fitted = Calibration::fit((1.0, 1), &predictions(), &[0, 1, 0], &settings).expect("a fit");
    assert_eq!(
        fitted.sets.map(|s| s.probability_min),
        Some(0.0),
        "three are too few for a coverage of 0.9"
    );
    let task = Task::Classification { classes: vec!["0".to_string(), "1".to_string()] };
    fitted.check(&task).expect("sound");
    let refused = |change: &dyn Fn(&mut Calibration), says: &str| {
        let mut spoilt = fitted.clone();
        change(&mut spoilt);
        let error = spoilt.check(&task).expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&|c| c.temperature = 0.0, "temperature is 0");
    refused(&|c| c.temperature = f64::NAN, "temperature is NaN");
    refused(&|c| c.sets.as_mut().expect("sets").coverage = 1.5, "coverage is 1.5");
    refused(&|c| c.sets.as_mut().expect("sets").probability_min = -0.1, "sets is -0.1");
    refused(&|c| c.sets = None, "another task");
    refused(&|c| c.familiarity.highest = Some(f64::INFINITY), "familiar examples is inf");
}

/// Draws that contradict each other are the better sign, where there are several.
#[test]
fn disagreement_tells_the_unfamiliar_once_there_are_draws() {
    let settings = CalibrationSettings { false_alarms: 0.5, ..CalibrationSettings::default() };
    let several =
        Predictions { mutual_information: vec![0.1, 0.3, 0.2], draws: vec![4; 3], ..predictions() };
    let fitted = Calibration::fit((1.0, 1), &several, &[0, 1, 0], &settings).expect("a fit");
    let Familiarity { score, highest, .. } = fitted.familiarity;
    assert_eq!((score, highest), (Score::MutualInformation, Some(0.2)));
    let unfamiliar: Vec<bool> = (0..3).map(|i| fitted.verdict(&several, i).unfamiliar).collect();
    assert_eq!(unfamiliar, [false, true, false]);
}
