//! The headline of a report, the same three numbers for every task.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// What a task is judged by, in a number that is larger the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Share of examples whose likeliest class is right.
    Accuracy,
    /// Mean over the labels of the average precision.
    MeanAveragePrecision,
    /// Mean over the outputs of the coefficient of determination.
    RSquared,
    /// Mean over the classes of intersection over union.
    MeanIou,
}

impl Measure {
    const ALL: [Measure; 4] =
        [Measure::Accuracy, Measure::MeanAveragePrecision, Measure::RSquared, Measure::MeanIou];

    /// Its name in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy",
            Measure::MeanAveragePrecision => "mean_average_precision",
            Measure::RSquared => "r2",
            Measure::MeanIou => "mean_iou",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Measure::Accuracy => "accuracy",
            Measure::MeanAveragePrecision => "mAP",
            Measure::RSquared => "R2",
            Measure::MeanIou => "mIoU",
        })
    }
}

/// The headline metrics. As JSON the score stands under its measure's name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// What `score` is.
    pub measure: Measure,
    /// Larger is better, 1 at most.
    pub score: f64,
    /// Mean negative log-likelihood in nats: of an example with all its labels or numbers, or of a
    /// pixel.
    pub nll: f64,
    /// Expected calibration error; of numbers, how far the coverage of intervals is off.
    pub ece: f64,
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry(self.measure.key(), &self.score)?;
        map.serialize_entry("nll", &self.nll)?;
        map.serialize_entry("ece", &self.ece)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Summary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // JSON has no other word for what is no number.
        let map = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        let get = |key: &'static str| match map.get(key) {
            Some(value) => Ok(value.unwrap_or(f64::NAN)),
            None => Err(D::Error::missing_field(key)),
        };
        let measure = Measure::ALL.into_iter().find(|measure| map.contains_key(measure.key()));
        let measure = measure.ok_or_else(|| D::Error::missing_field("a measure"))?;
        Ok(Summary { measure, score: get(measure.key())?, nll: get("nll")?, ece: get("ece")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_as_it_was_written() {
        for measure in Measure::ALL {
            let summary = Summary { measure, score: 0.1 + 0.2, nll: 1.5e-7, ece: 0.0 };
            let text = serde_json::to_string(&summary).expect("JSON");
            assert_eq!(serde_json::from_str::<Summary>(&text).expect("a summary"), summary);
        }
        for broken in ["{}", r#"{"accuracy":1.0,"nll":1.0}"#, r#"{"nll":1.0,"ece":0.0}"#] {
            assert!(serde_json::from_str::<Summary>(broken).is_err(), "{broken}");
        }
    }
}
