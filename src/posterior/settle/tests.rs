use ndarray::Array1;

use super::*;
use crate::rng::{Key, Stream};

const EXAMPLES: u64 = 4_000;
const DRAWS: usize = 64;

/// Draws of one example's probabilities, which lean more or less to its first class.
fn draws(example: u64) -> Vec<[f64; 3]> {
    let mut random = Key::new(11, Stream::Probe).at(example);
    let lean = 3.0 * f64::from(random.uniform());
    let draw = |_| {
        let logits = [lean, 0.0, 0.0].map(|mean| (mean + 2.0 * f64::from(random.normal())).exp());
        logits.map(|x| x / logits.iter().sum::<f64>())
    };
    (0..DRAWS).map(draw).collect()
}

fn leader(sums: &Array1<f64>) -> usize {
    (0..sums.len()).fold(0, |best, class| if sums[class] > sums[best] { class } else { best })
}

/// The share of examples that end in another class than that of all draws, and of draws saved.
fn outcome(exit: EarlyExit) -> (f64, f64) {
    let (mut wrong, mut used) = (0, 0);
    for example in 0..EXAMPLES {
        let draws = draws(example);
        let all = draws.iter().fold(Array1::zeros(3), |sum, p| sum + Array1::from(p.to_vec()));
        let mut sums = Array1::zeros(3);
        for (seen, p) in (1..).zip(&draws) {
            sums += &Array1::from(p.to_vec());
            used += 1;
            if exit.is_settled(sums.view(), seen, DRAWS) {
                break;
            }
        }
        wrong += usize::from(leader(&sums) != leader(&all));
    }
    let [wrong, used] = [wrong, used].map(|count| count as f64 / EXAMPLES as f64);
    (wrong, 1.0 - used / DRAWS as f64)
}

#[test]
fn a_certain_exit_never_changes_a_class_and_saves_draws() {
    assert_eq!(outcome(EarlyExit::Never), (0.0, 0.0));
    let (wrong, saved) = outcome(EarlyExit::Certain);
    assert_eq!(wrong, 0.0);
    assert!(saved > 0.15, "{saved}");
}

#[test]
fn a_likely_exit_keeps_its_error_and_saves_more() {
    let (_, certain) = outcome(EarlyExit::Certain);
    for error in [0.3, 0.05] {
        let (wrong, saved) = outcome(EarlyExit::Likely { error });
        assert!(wrong <= error, "{wrong} of {error}");
        assert!(saved > certain, "{saved} of {certain}");
    }
}

/// The second could catch up exactly: the first of equals might be another.
#[test]
fn a_tie_that_may_come_is_not_settled() {
    let settled = |sums: [f64; 2], seen| {
        EarlyExit::Certain.is_settled(Array1::from(sums.to_vec()).view(), seen, 4)
    };
    assert!(!settled([2.0, 0.0], 2));
    assert!(settled([2.5, 0.5], 3));
    assert!(!settled([1.5, 0.5], 2));
}

#[test]
fn the_error_is_a_probability() {
    for error in [0.0, 1.0, -0.1, f64::NAN] {
        let message = EarlyExit::Likely { error }.check().expect_err("refused").to_string();
        assert!(message.contains("wrong early exit"), "{message}");
    }
}
