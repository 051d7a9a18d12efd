use super::*;
use crate::rng::{Key, Stream};
use crate::tensor::tensor;

/// Probabilities are stored in `f32`.
const F32: f64 = 1e-6;

fn rows<const C: usize>(rows: &[[f32; C]]) -> Tensor {
    tensor(&[rows.len(), C], rows.concat()).expect("fills")
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
}

/// Four examples of three classes, one of them wrong.
fn four() -> (Tensor, [usize; 4]) {
    let probabilities =
        rows(&[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.25, 0.25, 0.5]]);
    (probabilities, [0, 1, 1, 2])
}

#[test]
fn measures_by_hand() {
    let (probabilities, labels) = four();
    let scored = Scored::new(&probabilities, &labels).expect("valid");
    let report = scored.report();
    close(report.accuracy, 0.75, 0.0);
    let nll = -(0.7f64.ln() + 0.8f64.ln() + 0.3f64.ln() + 0.5f64.ln()) / 4.0;
    close(report.nll.mean, nll, F32);
    assert_eq!(report.nll.clamped, 0);
    // 0.09 + 0.04 + 0.01, then 0.01 + 0.04 + 0.01, 0.25 + 0.49 + 0.04, 0.0625 · 2 + 0.25.
    close(report.brier, (0.14 + 0.06 + 0.78 + 0.375) / 4.0, F32);
    assert_eq!(report.confusion, [[1, 0, 0], [1, 1, 0], [0, 0, 1]]);
    let Class { precision, recall, f1, support } = report.classes[0];
    assert_eq!((precision, recall, support), (0.5, 1.0, 1));
    close(f1, 2.0 / 3.0, F32);
    assert_eq!((report.classes[1].precision, report.classes[1].recall), (1.0, 0.5));
    // The two of confidence 0.5 share a bin with accuracy 0.5.
    close(report.ece, (0.3 + 0.2) / 4.0, F32);
    assert_eq!(scored.ece(BINS), report.ece);
}

#[test]
fn bins_are_closed_above_and_cover_every_prediction() {
    let probabilities = rows(&[[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.49, 0.51]]);
    let scored = Scored::new(&probabilities, &[0, 0, 0, 1]).expect("valid");
    let bins = scored.reliability(2);
    let counts: Vec<usize> = bins.iter().map(|bin| bin.count).collect();
    assert_eq!(counts, [1, 3]);
    assert_eq!((bins[0].low, bins[0].high, bins[1].high), (0.0, 0.5, 1.0));
    close(bins[1].confidence, (1.0 + 0.75 + 0.51) / 3.0, F32);
    close(bins[1].accuracy, 2.0 / 3.0, F32);
    assert_eq!(scored.reliability(1)[0].count, 4);
}

/// T18: labels drawn from the probabilities themselves are calibrated, and an overconfident
/// version of the same predictions is not.
#[test]
fn the_calibration_error_of_calibrated_predictions_vanishes() {
    let mut random = Key::new(1, Stream::Probe).at(0);
    let [(few, _), (many, overconfident)] = [500, 50_000].map(|count: usize| {
        let p: Vec<f32> = (0..count).map(|_| random.uniform()).collect();
        let labels: Vec<usize> = p.iter().map(|&p| usize::from(random.uniform() < p)).collect();
        let pairs: Vec<[f32; 2]> = p.iter().map(|&p| [1.0 - p, p]).collect();
        let sharpen = |&p: &f32| p * p / (p * p + (1.0 - p) * (1.0 - p));
        let sharp: Vec<[f32; 2]> = p.iter().map(sharpen).map(|p| [1.0 - p, p]).collect();
        let ece = |rows_of: &[[f32; 2]]| {
            let probabilities = rows(rows_of);
            Scored::new(&probabilities, &labels).expect("valid").ece(BINS)
        };
        (ece(&pairs), ece(&sharp))
    });
    // Each of the 8 bins in use has a standard error of √(0.25/6250) = 0.0063 at most.
    assert!(many < 0.01 && many < few, "{many} with many, {few} with few");
    assert!(overconfident > 0.05, "{overconfident}");
}

/// T18: a label held impossible costs a lot, but not everything, and is reported.
#[test]
fn impossible_labels_keep_the_likelihood_finite() {
    let probabilities = rows(&[[1.0, 0.0], [1.0, 0.0]]);
    let report = Scored::new(&probabilities, &[1, 0]).expect("valid").report();
    close(report.nll.mean, -0.5 * PROBABILITY_MIN.ln(), F32);
    assert_eq!(report.nll.clamped, 1);
    assert!(report.to_string().contains("(1 below 1e-12, clamped)"));
}

/// T18: averaging probabilities never costs likelihood; identical members change nothing.
#[test]
fn the_average_of_members_is_no_worse_than_their_average() {
    let mut random = Key::new(2, Stream::Probe).at(0);
    let members: Vec<Tensor> = (0..5)
        .map(|_| {
            let draws = (0..40).map(|_| {
                let logits = [(); 3].map(|()| (2.0 * random.normal()).exp());
                logits.map(|x| x / logits.iter().sum::<f32>())
            });
            rows(&draws.collect::<Vec<_>>())
        })
        .collect();
    let labels: Vec<usize> = (0..40).map(|i| i % 3).collect();
    let nll = |p: &Tensor| Scored::new(p, &labels).expect("valid").nll().mean;
    let average = |members: &[Tensor]| {
        let sum = members.iter().fold(Tensor::zeros(members[0].raw_dim()), |sum, p| sum + p);
        sum.mapv(|x| x / members.len() as f32).into_shared()
    };
    let mean_of_nlls = members.iter().map(nll).sum::<f64>() / members.len() as f64;
    assert!(nll(&average(&members)) < mean_of_nlls - 0.1);
    let same = vec![members[0].clone(); 4];
    close(nll(&average(&same)), nll(&members[0]), F32);
}

#[test]
fn predictions_that_cannot_be_measured_are_refused() {
    let refusal = |p: Tensor, labels: &[usize]| {
        Scored::new(&p, labels).expect_err("must be refused").to_string()
    };
    let half = rows(&[[0.5, 0.5]]);
    let cases = [
        (tensor(&[2], vec![0.5; 2]).expect("fills"), vec![0], "probabilities have shape [2]; exp"),
        (half.clone(), vec![0, 1], "1 predictions of 2 classes for 2 labels; expected one"),
        (tensor(&[0, 2], vec![]).expect("fills"), vec![], "0 predictions of 2 classes for 0"),
        (half.clone(), vec![2], "example 0 has label 2; expected one below 2"),
        (rows(&[[2.0, -1.0]]), vec![0], "the probabilities of example 0 sum to 1; expected num"),
        (rows(&[[3.0, 1.0]]), vec![0], "the probabilities of example 0 sum to 4; expected num"),
        (rows(&[[f32::NAN, 1.0]]), vec![0], "the probabilities of example 0 sum to NaN"),
    ];
    for (probabilities, labels, expected) in cases {
        let message = refusal(probabilities, &labels);
        assert!(message.starts_with(expected), "{message}\n{expected}");
    }
}

#[test]
fn a_report_prints_as_a_table_and_serialises() {
    let (probabilities, labels) = four();
    let report = Scored::new(&probabilities, &labels).expect("valid").report();
    let expected = "\
examples         4
accuracy    0.7500
NLL         0.6192
ECE         0.1250  (15 bins)
Brier       0.3387

class  precision  recall      F1  support
    0     0.5000  1.0000  0.6667        1
    1     1.0000  0.5000  0.6667        2
    2     1.0000  1.0000  1.0000        1
";
    assert_eq!(report.to_string(), expected);
    let json = serde_json::to_value(&report).expect("serialises");
    assert_eq!(json["confusion"][1][0], 1);
    assert_eq!(json["bins"].as_array().map(Vec::len), Some(BINS));
}
