//! How good predicted sets of labels are.
//!
//! Everything is a function of the marginal probabilities p `[N, C]` and of y `[N, C]`, 0 or 1:
//!
//! ```text
//! NLL = -1/N Σ Σ_c (y ln p + (1 - y) ln(1 - p))
//! ECE = Σ_b n_b/(N C) |frequency_b - probability_b|, by bins of all marginals
//! AP  = Σ_k (R_k - R_{k-1}) P_k of a label, over the thresholds k in falling order
//! F1  = 2 TP/(2 TP + FP + FN) at probability ½; micro: of all counts together, macro: mean of all
//! ```

use std::fmt;

use serde::Serialize;

use super::reliability::Reliability;
use super::{BINS, Bin, Measure, PROBABILITY_MIN, Summary, calibration_error};
use crate::error::{Error, Result};

/// How one label fares. A ratio without cases is 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// Area under the curve of precision over recall; none where no example has the label.
    pub average_precision: Option<f64>,
    /// Share of right ones where it is predicted.
    pub precision: f64,
    /// Share of predicted ones among the examples that have it.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Number of examples that have it.
    pub support: usize,
}

/// All measures; prints as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelReport {
    /// Number of examples.
    pub count: usize,
    /// Mean of the labels' average precisions.
    pub mean_average_precision: f64,
    /// F1 of all decisions together.
    pub micro_f1: f64,
    /// Mean of the labels' F1.
    pub macro_f1: f64,
    /// Mean over the examples, in nats.
    pub nll: f64,
    /// Expected calibration error of the marginals over `bins`.
    pub ece: f64,
    /// The reliability diagram of the marginals.
    pub bins: Vec<Bin>,
    /// Each label.
    pub labels: Vec<Label>,
}

/// Right and wrong decisions about a label.
#[derive(Clone, Copy, Default)]
struct Decisions {
    /// Predicted and there, predicted and not there, there and not predicted.
    hits: usize,
    false_alarms: usize,
    misses: usize,
}

impl Decisions {
    fn add(&mut self, predicted: bool, there: bool) {
        self.hits += usize::from(predicted && there);
        self.false_alarms += usize::from(predicted && !there);
        self.misses += usize::from(!predicted && there);
    }

    fn f1(&self) -> f64 {
        ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)
    }
}

fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

impl LabelReport {
    /// From `probabilities` and `truth` (0 or 1), both `[N, names]`.
    ///
    /// # Errors
    /// When they differ in length or there is nothing, or a probability is outside of [0, 1].
    pub fn new(probabilities: &[f64], truth: &[f32], names: &[String]) -> Result<Self> {
        let width = names.len();
        let count = probabilities.len() / width.max(1);
        if count == 0 || probabilities.len() != count * width || truth.len() != count * width {
            let (p, y) = (probabilities.len(), truth.len());
            return Err(Error::mismatch(format!("{p} probabilities for {y} of {width} labels")));
        }
        if let Some(p) = probabilities.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            return Err(Error::invalid(format!("a label has probability {p}")));
        }
        let (mut nll, mut diagram) = (0.0, Reliability::new(BINS));
        let mut decisions = vec![Decisions::default(); width];
        for (at, (&p, &y)) in probabilities.iter().zip(truth).enumerate() {
            let there = y > 0.5;
            nll -= if there { p } else { 1.0 - p }.max(PROBABILITY_MIN).ln();
            diagram.add(p, there);
            decisions[at % width].add(p > 0.5, there);
        }
        let column = |column: usize| {
            let pairs = probabilities.iter().zip(truth).skip(column).step_by(width);
            average_precision(pairs.map(|(&p, &y)| (p, y > 0.5)).collect())
        };
        let label = |(index, name): (usize, &String)| {
            let Decisions { hits, false_alarms, misses } = decisions[index];
            Label {
                name: name.clone(),
                average_precision: column(index),
                precision: ratio(hits, hits + false_alarms),
                recall: ratio(hits, hits + misses),
                f1: decisions[index].f1(),
                support: hits + misses,
            }
        };
        let labels: Vec<Label> = names.iter().enumerate().map(label).collect();
        let total = decisions.iter().fold(Decisions::default(), |sum, d| Decisions {
            hits: sum.hits + d.hits,
            false_alarms: sum.false_alarms + d.false_alarms,
            misses: sum.misses + d.misses,
        });
        let known: Vec<f64> = labels.iter().filter_map(|label| label.average_precision).collect();
        let bins = diagram.bins();
        Ok(LabelReport {
            count,
            mean_average_precision: known.iter().sum::<f64>() / known.len().max(1) as f64,
            micro_f1: total.f1(),
            macro_f1: labels.iter().map(|label| label.f1).sum::<f64>() / width as f64,
            nll: nll / count as f64,
            ece: calibration_error(&bins),
            bins,
            labels,
        })
    }

    /// The headline.
    pub fn summary(&self) -> Summary {
        let measure = Measure::MeanAveragePrecision;
        Summary { measure, score: self.mean_average_precision, nll: self.nll, ece: self.ece }
    }
}

/// Precision at each recall, the mean; equal scores are one threshold.
fn average_precision(mut scored: Vec<(f64, bool)>) -> Option<f64> {
    let support = scored.iter().filter(|(_, there)| *there).count();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let (mut seen, mut hits, mut area) = (0, 0, 0.0);
    for group in scored.chunk_by(|(a, _), (b, _)| a == b) {
        let new = group.iter().filter(|(_, there)| *there).count();
        seen += group.len();
        hits += new;
        area += new as f64 * ratio(hits, seen);
    }
    (support > 0).then(|| area / support as f64)
}

impl fmt::Display for LabelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "examples  {:>8}", self.count)?;
        writeln!(f, "mAP       {:>8.4}", self.mean_average_precision)?;
        writeln!(f, "micro F1  {:>8.4}", self.micro_f1)?;
        writeln!(f, "macro F1  {:>8.4}", self.macro_f1)?;
        writeln!(f, "NLL       {:>8.4}", self.nll)?;
        writeln!(f, "ECE       {:>8.4}  (marginals, {} bins)", self.ece, self.bins.len())?;
        writeln!(f)?;
        let width = self.labels.iter().map(|l| l.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}      AP  precision  recall      F1  support", "label")?;
        for Label { name, average_precision, precision, recall, f1, support } in &self.labels {
            match average_precision {
                Some(ap) => write!(f, "{name:width$}  {ap:>6.4}")?,
                None => write!(f, "{name:width$}       -")?,
            }
            writeln!(f, "  {precision:>9.4}  {recall:>6.4}  {f1:>6.4}  {support:>7}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["a", "b", "c"].map(str::to_string).to_vec()
    }

    /// Counted and summed by hand; the first label is the example of scikit-learn's documentation.
    #[test]
    fn every_measure_is_as_by_hand() {
        let p = [0.1, 0.9, 0.2, 0.4, 0.8, 0.2, 0.35, 0.3, 0.2, 0.8, 0.2, 0.2];
        let y = [0., 1., 0., 0., 0., 0., 1., 1., 0., 1., 0., 0.];
        let report = LabelReport::new(&p, &y, &names()).expect("a report");
        let ap: Vec<Option<f64>> = report.labels.iter().map(|l| l.average_precision).collect();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} and {b}");
        // Thresholds 0.8 (1 of 1), 0.4 (1 of 2), 0.35 (2 of 3).
        close(ap[0].expect("some"), 0.5 * 1.0 + 0.5 * 2.0 / 3.0);
        close(ap[1].expect("some"), 0.5 * 1.0 + 0.5 * 2.0 / 3.0);
        assert_eq!(ap[2], None);
        close(report.mean_average_precision, 5.0 / 6.0);
        // Label a: one hit, one miss. Label b: one hit, one false alarm, one miss.
        close(report.labels[0].f1, 2.0 / 3.0);
        close(report.labels[1].f1, 0.5);
        close(report.micro_f1, 4.0 / 7.0);
        close(report.macro_f1, (2.0 / 3.0 + 0.5) / 3.0);
        let each = p.iter().zip(y).map(|(&p, y)| if y == 1.0 { p } else { 1.0 - p });
        close(report.nll, -each.map(f64::ln).sum::<f64>() / 4.0);
        assert_eq!(report.summary().score, report.mean_average_precision);
    }

    #[test]
    fn equal_scores_are_one_threshold() {
        let ap = average_precision(vec![(0.5, true), (0.5, false), (0.5, false), (0.5, true)]);
        assert_eq!(ap, Some(0.5));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert!(LabelReport::new(&[], &[], &names()).is_err());
        assert!(LabelReport::new(&[0.5; 3], &[0.0; 6], &names()).is_err());
        assert!(LabelReport::new(&[1.5, 0.5, 0.5], &[0.0; 3], &names()).is_err());
        assert!(LabelReport::new(&[f64::NAN, 0.5, 0.5], &[0.0; 3], &names()).is_err());
    }
}
