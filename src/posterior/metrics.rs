//! How good predictions are; here of classes: accuracy, likelihood, calibration, errors by class.
//! [`LabelReport`], [`NumberReport`] and [`MaskReport`] are of the other tasks.
//!
//! Everything is a pure function of the probabilities p, `[N, C]`, and the labels y:
//!
//! ```text
//! NLL   = -1/N Σ ln p(y)                        Brier = 1/N Σ Σ_c (p_c - [c = y])²
//! ECE   = Σ_b n_b/N |accuracy_b - confidence_b|, by bins of the largest probability
//! ```
//!
//! (Guo et al. 2017 for the ECE, Brier 1950.) Probabilities are what is averaged over posterior
//! draws, never logits: by Jensen's inequality the NLL of the average is at most the average NLL.

mod multilabel;
mod regression;
mod reliability;
mod segmentation;
mod summary;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

pub use self::multilabel::{Label, LabelReport};
pub use self::regression::{NumberReport, Output};
use self::reliability::Reliability;
pub use self::segmentation::{MaskClass, MaskReport, MaskScores};
pub use self::summary::{Measure, Summary};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor, contiguous};

/// Number of equal-width bins of the reported calibration error.
pub const BINS: usize = 15;

/// The smallest probability whose logarithm is taken; ones below it are counted and clamped.
pub const PROBABILITY_MIN: f64 = 1e-12;

/// How far the probabilities of an example may be from a sum of 1: `f32` sums over many classes.
const SUM_TOLERANCE: f64 = 1e-3;

/// Predictions with the labels they are measured by.
#[derive(Clone, Debug)]
pub struct Scored<'a> {
    probabilities: Cow<'a, [f32]>,
    labels: &'a [usize],
    classes: usize,
}

/// The negative log-likelihood of the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Nll {
    /// Mean over the examples, in nats.
    pub mean: f64,
    /// How many labels had a probability below [`PROBABILITY_MIN`] and count as if they had it.
    pub clamped: usize,
}

/// The predictions whose largest probability falls into `(low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Lower end, not included.
    pub low: f64,
    /// Upper end, included.
    pub high: f64,
    /// Number of predictions.
    pub count: usize,
    /// Mean largest probability; 0 in an empty bin.
    pub confidence: f64,
    /// Share of right predictions; 0 in an empty bin.
    pub accuracy: f64,
}

/// How one class fares. A ratio without cases is 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Class {
    /// Share of right ones among the predictions of this class.
    pub precision: f64,
    /// Share of right ones among the examples of this class.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Number of examples of this class.
    pub support: usize,
}

/// All measures of one set of predictions; prints as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Number of examples.
    pub count: usize,
    /// Share of right predictions.
    pub accuracy: f64,
    /// Negative log-likelihood.
    pub nll: Nll,
    /// Expected calibration error over `bins`.
    pub ece: f64,
    /// Multi-class Brier score, from 0 to 2.
    pub brier: f64,
    /// The reliability diagram, [`BINS`] bins.
    pub bins: Vec<Bin>,
    /// Counts by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<usize>>,
    /// Each class, by index.
    pub classes: Vec<Class>,
}

impl<'a> Scored<'a> {
    /// `probabilities: [N, C]` and the N labels below C.
    ///
    /// # Errors
    /// When the shapes disagree, nothing was predicted, a label is out of range, or a row is not a
    /// distribution; the error names the example.
    pub fn new(probabilities: &'a Tensor, labels: &'a [usize]) -> Result<Self> {
        let &[count, classes] = probabilities.shape() else {
            let shape = Shape::from(probabilities.shape());
            return Err(Error::mismatch(format!("probabilities have shape {shape}"))
                .hint("expected [examples, classes]"));
        };
        if count != labels.len() || count == 0 || classes == 0 {
            let labels = labels.len();
            let message = format!("{count} predictions of {classes} classes for {labels} labels");
            return Err(Error::mismatch(message).hint("expected one prediction for each label"));
        }
        let scored = Scored { probabilities: contiguous(probabilities), labels, classes };
        for (index, (row, label)) in scored.examples().enumerate() {
            if label >= classes {
                let message = format!("example {index} has label {label}");
                return Err(Error::mismatch(message).hint(format!("expected one below {classes}")));
            }
            let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
            // Written so that a sum that is not a number fails too.
            let is_distribution = (sum - 1.0).abs() <= SUM_TOLERANCE;
            if !is_distribution || row.iter().any(|&p| p < 0.0) {
                let message = format!("the probabilities of example {index} sum to {sum}");
                let hint = "expected numbers of at least 0 with a sum of 1; logits need a softmax";
                return Err(Error::invalid(message).hint(hint));
            }
        }
        Ok(scored)
    }

    /// Number of examples.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Share of examples whose label has the largest probability; of equal ones the first counts.
    pub fn accuracy(&self) -> f64 {
        self.mean(|row, label| f64::from(u8::from(largest(row).0 == label)))
    }

    /// Negative log-likelihood of the labels, finite even for labels held impossible.
    pub fn nll(&self) -> Nll {
        let of_label = |row: &[f32], label: usize| f64::from(row[label]);
        let below = |&(row, label): &(&[f32], usize)| of_label(row, label) < PROBABILITY_MIN;
        Nll {
            mean: self.mean(|row, label| -of_label(row, label).max(PROBABILITY_MIN).ln()),
            clamped: self.examples().filter(below).count(),
        }
    }

    /// Mean squared distance between the probabilities and the label's indicator.
    pub fn brier(&self) -> f64 {
        self.mean(|row, label| {
            let error = |(class, &p): (usize, &f32)| {
                (f64::from(p) - f64::from(u8::from(class == label))).powi(2)
            };
            row.iter().enumerate().map(error).sum()
        })
    }

    /// The reliability diagram over `count` bins of equal width.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn reliability(&self, count: usize) -> Vec<Bin> {
        assert!(count > 0, "a reliability diagram has at least one bin");
        let mut diagram = Reliability::new(count);
        for (row, label) in self.examples() {
            let (class, confidence) = largest(row);
            diagram.add(confidence, class == label);
        }
        diagram.bins()
    }

    /// Expected calibration error over `bins` equal-width bins.
    ///
    /// # Panics
    /// When `bins` is 0.
    pub fn ece(&self, bins: usize) -> f64 {
        calibration_error(&self.reliability(bins))
    }

    /// Number of examples by true class (row) and predicted class (column).
    pub fn confusion(&self) -> Vec<Vec<usize>> {
        let mut confusion = vec![vec![0; self.classes]; self.classes];
        for (row, label) in self.examples() {
            confusion[label][largest(row).0] += 1;
        }
        confusion
    }

    /// All measures.
    pub fn report(&self) -> Report {
        let bins = self.reliability(BINS);
        let confusion = self.confusion();
        Report {
            count: self.count(),
            accuracy: self.accuracy(),
            nll: self.nll(),
            ece: calibration_error(&bins),
            brier: self.brier(),
            bins,
            classes: by_class(&confusion),
            confusion,
        }
    }

    /// Each example's probabilities and label.
    fn examples(&self) -> impl Iterator<Item = (&[f32], usize)> {
        self.probabilities.chunks_exact(self.classes).zip(self.labels.iter().copied())
    }

    fn mean(&self, of: impl Fn(&[f32], usize) -> f64) -> f64 {
        self.examples().map(|(row, label)| of(row, label)).sum::<f64>() / self.count() as f64
    }
}

impl Report {
    /// The headline.
    pub fn summary(&self) -> Summary {
        let (score, nll, ece) = (self.accuracy, self.nll.mean, self.ece);
        Summary { measure: Measure::Accuracy, score, nll, ece }
    }
}

/// Precision, recall and F1 of each class of a confusion matrix.
pub fn by_class(confusion: &[Vec<usize>]) -> Vec<Class> {
    let ratio = |a: usize, b: usize| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let one = |class: usize| {
        let right = confusion[class][class];
        let support: usize = confusion[class].iter().sum();
        let predicted: usize = confusion.iter().map(|row| row[class]).sum();
        Class {
            precision: ratio(right, predicted),
            recall: ratio(right, support),
            f1: ratio(2 * right, support + predicted),
            support,
        }
    };
    (0..confusion.len()).map(one).collect()
}

/// Σ_b n_b/N |accuracy_b - confidence_b|
fn calibration_error(bins: &[Bin]) -> f64 {
    let total: usize = bins.iter().map(|bin| bin.count).sum();
    let gap = |bin: &Bin| bin.count as f64 * (bin.accuracy - bin.confidence).abs();
    bins.iter().map(gap).sum::<f64>() / total as f64
}

/// The first class of the largest probability, and that probability.
fn largest<T: Copy + PartialOrd + Into<f64>>(row: &[T]) -> (usize, f64) {
    let mut best = 0;
    for (class, &p) in row.iter().enumerate() {
        if p > row[best] {
            best = class;
        }
    }
    (best, row[best].into())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "examples  {:>8}", self.count)?;
        writeln!(f, "accuracy  {:>8.4}", self.accuracy)?;
        write!(f, "NLL       {:>8.4}", self.nll.mean)?;
        match self.nll.clamped {
            0 => writeln!(f)?,
            n => writeln!(f, "  ({n} below {PROBABILITY_MIN:e}, clamped)")?,
        }
        writeln!(f, "ECE       {:>8.4}  ({} bins)", self.ece, self.bins.len())?;
        writeln!(f, "Brier     {:>8.4}", self.brier)?;
        writeln!(f)?;
        writeln!(f, "class  precision  recall      F1  support")?;
        for (index, Class { precision, recall, f1, support }) in self.classes.iter().enumerate() {
            writeln!(f, "{index:>5}  {precision:>9.4}  {recall:>6.4}  {f1:>6.4}  {support:>7}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
