//! How good predicted numbers and their intervals are.
//!
//! A prediction is a normal distribution with mean m and variance v, which holds the draws'
//! disagreement and the noise of the targets. For each output:
//!
//! ```text
//! NLL = 1/N Σ ½ (ln 2πv + (y - m)²/v)          R² = 1 - Σ (y - m)²/Σ (y - ȳ)²
//! coverage(p) = share of |y - m| ≤ z_p √v, z_p the half width of the central interval of level p
//! ECE = mean over p = 0.1, 0.2, .., 0.9 of |coverage(p) - p|       (after Kuleshov et al. 2018)
//! ```

use std::f64::consts::PI;
use std::fmt;

use serde::Serialize;

use super::{Measure, Summary};
use crate::error::{Error, Result};

/// Half widths of the central intervals of the levels 0.1, 0.2, .., 0.9 of the standard normal.
const HALF_WIDTHS: [f64; 9] = [
    0.125_661_347,
    0.253_347_103,
    0.385_320_466,
    0.524_400_513,
    0.674_489_750,
    0.841_621_234,
    1.036_433_389,
    1.281_551_566,
    1.644_853_627,
];

/// How one output fares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Root of the mean squared error, in its units.
    pub rmse: f64,
    /// Mean absolute error, in its units.
    pub mae: f64,
    /// Coefficient of determination: 1 is perfect, 0 what the mean of these targets would reach; 0
    /// where all targets are equal.
    pub r2: f64,
    /// Mean negative log-likelihood, in nats.
    pub nll: f64,
    /// Share of targets within the central intervals of 10 %, 20 %, .. 90 %.
    pub coverage: [f64; 9],
    /// The last of them.
    pub coverage_90: f64,
    /// Mean distance of coverage from its level.
    pub ece: f64,
    /// Mean half width of the intervals of 90 %.
    pub half_width_90: f64,
}

/// All measures; prints as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberReport {
    /// Number of examples.
    pub count: usize,
    /// Mean over the outputs.
    pub r2: f64,
    /// Mean over the examples of all outputs together, in nats.
    pub nll: f64,
    /// Mean over the outputs.
    pub coverage_90: f64,
    /// Mean over the outputs.
    pub ece: f64,
    /// Each output.
    pub outputs: Vec<Output>,
}

impl NumberReport {
    /// From the predictions' `mean` and `variance` and the `truth`, each `[N, names]`.
    ///
    /// # Errors
    /// When they differ in length, there is nothing, or a variance is not positive.
    pub fn new(mean: &[f64], variance: &[f64], truth: &[f32], names: &[String]) -> Result<Self> {
        let width = names.len();
        let count = mean.len() / width.max(1);
        let lengths = [mean.len(), variance.len(), truth.len()];
        if count == 0 || lengths != [count * width; 3] {
            return Err(Error::mismatch(format!("{lengths:?} numbers for {width} outputs")));
        }
        if let Some(v) = variance.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
            return Err(Error::invalid(format!("a prediction has variance {v}")));
        }
        let output = |(column, name): (usize, &String)| {
            let at = |row: usize| row * width + column;
            let cases: Vec<[f64; 3]> = (0..count)
                .map(|row| [mean[at(row)], variance[at(row)], f64::from(truth[at(row)])])
                .collect();
            Output::new(name, &cases)
        };
        let outputs: Vec<Output> = names.iter().enumerate().map(output).collect();
        let average = |of: fn(&Output) -> f64| outputs.iter().map(of).sum::<f64>() / width as f64;
        Ok(NumberReport {
            count,
            r2: average(|o| o.r2),
            nll: average(|o| o.nll) * width as f64,
            coverage_90: average(|o| o.coverage_90),
            ece: average(|o| o.ece),
            outputs,
        })
    }

    /// The headline.
    pub fn summary(&self) -> Summary {
        Summary { measure: Measure::RSquared, score: self.r2, nll: self.nll, ece: self.ece }
    }
}

impl Output {
    /// From `[mean, variance, truth]` of each example.
    fn new(name: &str, cases: &[[f64; 3]]) -> Self {
        let n = cases.len() as f64;
        let average = |of: &dyn Fn(&[f64; 3]) -> f64| cases.iter().map(of).sum::<f64>() / n;
        let square = average(&|[m, _, y]| (y - m).powi(2));
        let centre = average(&|[_, _, y]| *y);
        let spread = average(&|[_, _, y]| (y - centre).powi(2));
        let coverage = HALF_WIDTHS.map(|half| {
            average(&|[m, v, y]| f64::from(u8::from((y - m).abs() <= half * v.sqrt())))
        });
        let gaps = coverage.iter().enumerate();
        let gaps = gaps.map(|(i, &found)| (found - (i + 1) as f64 / 10.0).abs());
        let widest = HALF_WIDTHS[HALF_WIDTHS.len() - 1];
        Output {
            name: name.to_string(),
            rmse: square.sqrt(),
            mae: average(&|[m, _, y]| (y - m).abs()),
            r2: if spread > 0.0 { 1.0 - square / spread } else { 0.0 },
            nll: average(&|[m, v, y]| 0.5 * ((2.0 * PI * v).ln() + (y - m).powi(2) / v)),
            coverage,
            coverage_90: coverage[coverage.len() - 1],
            ece: gaps.sum::<f64>() / HALF_WIDTHS.len() as f64,
            half_width_90: average(&|[_, v, _]| widest * v.sqrt()),
        }
    }
}

impl fmt::Display for NumberReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "examples  {:>8}", self.count)?;
        writeln!(f, "R2        {:>8.4}", self.r2)?;
        writeln!(f, "NLL       {:>8.4}", self.nll)?;
        writeln!(f, "coverage  {:>8.4}  (of 90 % intervals)", self.coverage_90)?;
        writeln!(f, "ECE       {:>8.4}  (coverage, 9 levels)", self.ece)?;
        writeln!(f)?;
        let width = self.outputs.iter().map(|o| o.name.chars().count()).max().unwrap_or(0).max(6);
        writeln!(f, "{:width$}        RMSE         MAE      R2  90 % ±", "output")?;
        for Output { name, rmse, mae, r2, half_width_90, .. } in &self.outputs {
            writeln!(f, "{name:width$}  {rmse:>10.4}  {mae:>10.4}  {r2:>6.4}  {half_width_90:.4}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Stream};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| n.to_string()).collect()
    }

    #[test]
    fn every_measure_is_as_by_hand() {
        let (mean, variance) = ([1.0, 10.0, 3.0, 20.0], [1.0, 4.0, 4.0, 4.0]);
        let truth = [2.0, 10.0, 1.0, 24.0];
        let report = NumberReport::new(&mean, &variance, &truth, &names(2)).expect("a report");
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} and {b}");
        let [first, second] = &report.outputs[..] else { panic!("two outputs") };
        close(first.rmse, 2.5f64.sqrt());
        close(first.mae, 1.5);
        close(first.r2, 1.0 - 2.5 / 0.25);
        close(second.r2, 1.0 - 8.0 / 49.0);
        let nll = |v: f64, e: f64| 0.5 * ((2.0 * PI * v).ln() + e * e / v);
        close(first.nll, (nll(1.0, 1.0) + nll(4.0, 2.0)) / 2.0);
        close(report.nll, first.nll + second.nll);
        // 4 is two deviations off, more than 1.645.
        close(second.coverage_90, 0.5);
        close(report.r2, (first.r2 + second.r2) / 2.0);
        close(first.half_width_90, 1.5 * 1.644853627);
    }

    /// Normal errors of the predicted size are covered as promised, those twice as large are not.
    #[test]
    fn coverage_tells_honest_widths_from_narrow_ones() {
        let mut sequence = Key::new(3, Stream::Probe).at(0);
        let truth: Vec<f32> = (0..20_000).map(|_| sequence.normal()).collect();
        let mean = vec![0.0; truth.len()];
        let report = |variance: f64| {
            let variance = vec![variance; truth.len()];
            NumberReport::new(&mean, &variance, &truth, &names(1)).expect("a report")
        };
        let (honest, narrow) = (report(1.0), report(0.25));
        // Three standard errors of a share of 20,000 are 0.01 at most.
        assert!((honest.coverage_90 - 0.9).abs() < 0.01 && honest.ece < 0.01, "{honest:?}");
        assert!(narrow.coverage_90 < 0.65 && narrow.ece > 0.1, "{narrow:?}");
        assert!(honest.nll < narrow.nll);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert!(NumberReport::new(&[], &[], &[], &names(1)).is_err());
        assert!(NumberReport::new(&[1.0], &[1.0], &[1.0, 2.0], &names(1)).is_err());
        assert!(NumberReport::new(&[1.0], &[0.0], &[1.0], &names(1)).is_err());
        let constant = NumberReport::new(&[1.0], &[1.0], &[1.0], &names(1)).expect("a report");
        assert_eq!(constant.r2, 0.0);
    }
}
