//! How good predicted masks are, from counts that are filled image by image.
//!
//! ```text
//! IoU_c = TP/(TP + FP + FN) of the pixels of class c;  mIoU = mean over the classes that occur
//! ```
//!
//! NLL and ECE are those of a classification of pixels. Pixels that are ignored count for nothing.

use std::fmt;

use serde::Serialize;

use super::reliability::Reliability;
use super::{BINS, Bin, Measure, PROBABILITY_MIN, Summary, by_class, calibration_error, largest};
use crate::error::{Error, Result};

/// Counts of pixels.
#[derive(Clone, Debug)]
pub struct MaskScores {
    names: Vec<String>,
    /// By true class (row) and predicted class (column).
    confusion: Vec<Vec<usize>>,
    nll: f64,
    diagram: Reliability,
}

/// How one class fares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MaskClass {
    /// Its name.
    pub name: String,
    /// Intersection over union; none where the class is neither there nor predicted.
    pub iou: Option<f64>,
    /// Share of its pixels that are found.
    pub recall: f64,
    /// Share of right ones among the pixels predicted as this class.
    pub precision: f64,
    /// Number of its pixels.
    pub support: usize,
}

/// All measures; prints as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MaskReport {
    /// Number of pixels that count.
    pub pixels: usize,
    /// Mean over the classes that occur.
    pub mean_iou: f64,
    /// Share of right pixels.
    pub pixel_accuracy: f64,
    /// Mean over the pixels, in nats.
    pub nll: f64,
    /// Expected calibration error over `bins`.
    pub ece: f64,
    /// The reliability diagram.
    pub bins: Vec<Bin>,
    /// Each class.
    pub classes: Vec<MaskClass>,
    /// Pixels by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<usize>>,
}

impl MaskScores {
    /// No pixel yet, of the classes `names`.
    pub fn new(names: &[String]) -> Self {
        MaskScores {
            names: names.to_vec(),
            confusion: vec![vec![0; names.len()]; names.len()],
            nll: 0.0,
            diagram: Reliability::new(BINS),
        }
    }

    /// Adds pixels: `probabilities: [n, classes]` and the class of each, below 0 where it counts
    /// for nothing.
    ///
    /// # Errors
    /// When they differ in number, or a class is none.
    pub fn add(&mut self, probabilities: &[f64], truth: &[f32]) -> Result<()> {
        let classes = self.names.len();
        if probabilities.len() != truth.len() * classes {
            return Err(Error::mismatch("every pixel has a class and its probabilities"));
        }
        for (row, &class) in probabilities.chunks_exact(classes.max(1)).zip(truth) {
            if class < 0.0 {
                continue;
            }
            let class = class as usize;
            let Some(counts) = self.confusion.get_mut(class) else {
                return Err(Error::mismatch(format!("class {class} is none of {classes}")));
            };
            let (best, confidence) = largest(row);
            counts[best] += 1;
            self.nll -= row[class].max(PROBABILITY_MIN).ln();
            self.diagram.add(confidence, best == class);
        }
        Ok(())
    }

    /// All measures of what was added.
    ///
    /// # Errors
    /// When no pixel counts.
    pub fn report(&self) -> Result<MaskReport> {
        let pixels: usize = self.confusion.iter().flatten().sum();
        if pixels == 0 {
            return Err(Error::invalid("no pixel of the masks counts"));
        }
        let right: usize = (0..self.names.len()).map(|class| self.confusion[class][class]).sum();
        let each = by_class(&self.confusion);
        let class = |(index, name): (usize, &String)| {
            let hits = self.confusion[index][index];
            let predicted: usize = self.confusion.iter().map(|row| row[index]).sum();
            let union = each[index].support + predicted - hits;
            MaskClass {
                name: name.clone(),
                iou: (union > 0).then(|| hits as f64 / union as f64),
                recall: each[index].recall,
                precision: each[index].precision,
                support: each[index].support,
            }
        };
        let classes: Vec<MaskClass> = self.names.iter().enumerate().map(class).collect();
        let known: Vec<f64> = classes.iter().filter_map(|class| class.iou).collect();
        let bins = self.diagram.bins();
        Ok(MaskReport {
            pixels,
            mean_iou: known.iter().sum::<f64>() / known.len().max(1) as f64,
            pixel_accuracy: right as f64 / pixels as f64,
            nll: self.nll / pixels as f64,
            ece: calibration_error(&bins),
            bins,
            classes,
            confusion: self.confusion.clone(),
        })
    }
}

impl MaskReport {
    /// The headline.
    pub fn summary(&self) -> Summary {
        Summary { measure: Measure::MeanIou, score: self.mean_iou, nll: self.nll, ece: self.ece }
    }
}

impl fmt::Display for MaskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pixels          {:>10}", self.pixels)?;
        writeln!(f, "mean IoU        {:>10.4}", self.mean_iou)?;
        writeln!(f, "pixel accuracy  {:>10.4}", self.pixel_accuracy)?;
        writeln!(f, "NLL             {:>10.4}", self.nll)?;
        writeln!(f, "ECE             {:>10.4}  ({} bins)", self.ece, self.bins.len())?;
        writeln!(f)?;
        let width = self.classes.iter().map(|c| c.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}     IoU  precision  recall     pixels", "class")?;
        for MaskClass { name, iou, recall, precision, support } in &self.classes {
            match iou {
                Some(iou) => write!(f, "{name:width$}  {iou:>6.4}")?,
                None => write!(f, "{name:width$}       -")?,
            }
            writeln!(f, "  {precision:>9.4}  {recall:>6.4}  {support:>9}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_parts_add_up_and_ignored_pixels_count_for_nothing() {
        let names = ["a", "b", "c", "d"].map(str::to_string);
        let mut scores = MaskScores::new(&names);
        let row = |best: usize| {
            let mut row = [0.1; 4];
            row[best] = 0.7;
            row
        };
        // Truth a a b b c, predicted a b b b a; one more pixel is ignored.
        scores.add(&[row(0), row(1), row(1)].concat(), &[0.0, 0.0, 1.0]).expect("pixels");
        scores.add(&[row(1), row(3), row(0)].concat(), &[1.0, -1.0, 2.0]).expect("pixels");
        let report = scores.report().expect("a report");
        assert_eq!(report.pixels, 5);
        let iou: Vec<Option<f64>> = report.classes.iter().map(|class| class.iou).collect();
        assert_eq!(iou, [Some(1.0 / 3.0), Some(2.0 / 3.0), Some(0.0), None]);
        assert!((report.mean_iou - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(report.pixel_accuracy, 0.6);
        let nll = -(3.0 * 0.7f64.ln() + 2.0 * 0.1f64.ln()) / 5.0;
        assert!((report.nll - nll).abs() < 1e-12 && (report.ece - 0.1).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let mut scores = MaskScores::new(&["a".to_string()]);
        assert!(scores.add(&[1.0], &[1.0]).is_err());
        assert!(scores.add(&[1.0, 1.0], &[0.0]).is_err());
        scores.add(&[1.0], &[-1.0]).expect("an ignored pixel");
        assert!(scores.report().is_err());
    }
}
