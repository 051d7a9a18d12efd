//! Reliability diagrams, filled one prediction at a time.

use super::Bin;

/// Bins of equal width over [0, 1].
#[derive(Clone, Debug)]
pub(crate) struct Reliability(Vec<Bin>);

impl Reliability {
    /// `count` empty bins, at least 1.
    pub(crate) fn new(count: usize) -> Self {
        let width = 1.0 / count as f64;
        let bin = |index: usize| Bin {
            low: index as f64 * width,
            high: (index + 1) as f64 * width,
            count: 0,
            confidence: 0.0,
            accuracy: 0.0,
        };
        Reliability((0..count).map(bin).collect())
    }

    /// Adds an event that was given the probability `confidence`, and whether it came about.
    pub(crate) fn add(&mut self, confidence: f64, came_about: bool) {
        let count = self.0.len();
        // Bins are closed above; what rounds above 1 belongs to the last.
        let index = (confidence * count as f64).ceil() as usize;
        let bin = &mut self.0[index.clamp(1, count) - 1];
        bin.count += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(came_about));
    }

    /// The bins with their means.
    pub(crate) fn bins(&self) -> Vec<Bin> {
        let mut bins = self.0.clone();
        for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
            bin.confidence /= bin.count as f64;
            bin.accuracy /= bin.count as f64;
        }
        bins
    }
}
