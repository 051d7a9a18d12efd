//! Learning curves, from the history that a posterior's description keeps.

use std::collections::BTreeMap;

use priorfit::posterior::metrics::Measure;
use serde_json::Value;

use super::svg::{Axis, Chart};

/// A number by epoch, for each chain of the run.
struct Curve {
    style: &'static str,
    name: &'static str,
    chains: Vec<Vec<[f64; 2]>>,
}

/// What tasks are judged by; a history has one of them.
const MEASURES: [(Measure, &str); 4] = [
    (Measure::Accuracy, "Accuracy"),
    (Measure::MeanAveragePrecision, "Mean average precision"),
    (Measure::RSquared, "Coefficient of determination"),
    (Measure::MeanIou, "Mean intersection over union"),
];

/// Losses, penalty, and the task's measure where there were held-out examples; nothing without a
/// history.
pub fn charts(history: &[Value]) -> String {
    let curve = |path: &[&str], style, name| Curve::new(history, path, style, name);
    let loss = curve(&["loss"], "a", "training loss");
    let nll = curve(&["validation", "nll"], "b", "held-out NLL");
    let penalty = curve(&["penalty"], "a", "penalty");
    let mut html = chart("Loss", "nats", &[loss, nll]);
    html += &chart("Penalty of the prior", "penalty", &[penalty]);
    for (measure, title) in MEASURES {
        let key = measure.key();
        html += &chart(title, title, &[curve(&["validation", key], "b", "held-out")]);
    }
    html
}

impl Curve {
    /// The number at `path` of every epoch that has one.
    fn new(history: &[Value], path: &[&str], style: &'static str, name: &'static str) -> Self {
        let mut chains: BTreeMap<u64, Vec<[f64; 2]>> = BTreeMap::new();
        for entry in history {
            let value = path.iter().try_fold(entry, |at, key| at.get(key)).and_then(Value::as_f64);
            let epoch = entry.get("epoch").and_then(Value::as_f64);
            let chain = entry.get("chain").and_then(Value::as_u64).unwrap_or(1);
            if let (Some(epoch), Some(value)) = (epoch, value) {
                chains.entry(chain).or_default().push([epoch, value]);
            }
        }
        Curve { style, name, chains: chains.into_values().collect() }
    }
}

fn chart(title: &str, label: &str, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| curve.chains.iter().flatten());
    let Some(first) = points().map(|point| point[0]).min_by(f64::total_cmp) else {
        return String::new();
    };
    let [last, high] =
        [0, 1].map(|axis| points().map(|point| point[axis]).fold(f64::NEG_INFINITY, f64::max));
    let ends = curves.iter().filter_map(|curve| {
        let points = curve.chains.first()?;
        let (from, to) = (points.first()?[1], points.last()?[1]);
        Some(format!("{} from {from:.4} to {to:.4}", curve.name))
    });
    let description = format!("By epoch: {}.", ends.collect::<Vec<_>>().join("; "));
    let x = Axis { label: "epoch", low: first, high: last };
    let mut chart = Chart::new(title, description, x, Axis { label, low: 0.0, high });
    for curve in curves {
        for (chain, points) in curve.chains.iter().enumerate() {
            chart.line(points, curve.style, if chain == 0 { curve.name } else { "" });
        }
    }
    chart.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::charts;

    #[test]
    fn every_chain_has_its_line_and_nothing_has_no_chart() {
        let epoch = |chain: u32, epoch: u32, loss: f32| {
            json!({ "chain": chain, "epoch": epoch, "loss": loss, "penalty": 0.1,
                    "validation": { "nll": loss, "accuracy": 0.5 } })
        };
        let history = [epoch(1, 1, 2.0), epoch(1, 2, 1.0), epoch(2, 1, 3.0), epoch(2, 2, 1.5)];
        let html = charts(&history);
        assert_eq!(html.matches("<polyline").count(), 4 + 2 + 2);
        assert!(html.contains("training loss from 2.0000 to 1.0000"), "{html}");
        assert_eq!(html.matches("<li>").count(), 2 + 1 + 1);
        // What is not a history of ours is not drawn.
        assert_eq!(charts(&[json!({ "epoch": "one" }), json!(7)]), "");
    }
}
