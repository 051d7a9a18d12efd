//! The report as one HTML file that needs nothing else: no scripts, no fonts, no other files. It is
//! well-formed XML too, so that any tool can read it. All text that is not ours is escaped.

use std::path::Path;

use priorfit::data::Dataset;
use priorfit::error::Result;
use priorfit::posterior::{Description, Posterior, Predictions, Score};
use serde_json::Value;

use super::examples::Examples;
use super::svg::{escape, put};
use super::{Calibrated, Ood, Report, Shown, charts, learning};
use crate::options::percent;

/// What a report is about.
pub struct Subject<'a> {
    pub folder: &'a Path,
    pub posterior: &'a Posterior,
    pub data: (&'a Path, &'a Dataset),
    pub labels: &'a [usize],
    pub predicted: &'a Predictions,
    pub foreign: Option<(&'a Path, &'a Dataset, &'a Predictions)>,
    pub report: &'a Report,
}

impl Subject<'_> {
    /// The whole page.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn page(&self) -> Result<String> {
        let mut body = String::new();
        self.write_head(&mut body);
        self.write_charts(&mut body);
        self.write_examples(&mut body)?;
        Ok(document(&body))
    }

    fn write_head(&self, page: &mut String) {
        let metrics = &self.report.metrics;
        let [folder, data] = [self.folder, self.data.0].map(|p| escape(&p.display().to_string()));
        let (draws, classes) = (self.posterior.draws().len(), self.report.names.len());
        put(
            page,
            format_args!(
                "<h1>Evaluation</h1><p>Posterior {folder}: {classes} classes, {draws} {}. \
                 Data {data}: {} examples.</p>\n<div class=\"row\">",
                if draws == 1 { "draw of the weights" } else { "draws of the weights" },
                metrics.count
            ),
        );
        let selective = &self.report.selective;
        let mut rows = vec![
            ("accuracy", percent(metrics.accuracy)),
            ("negative log-likelihood, nats", format!("{:.4}", metrics.nll.mean)),
            ("expected calibration error", format!("{:.4}", metrics.ece)),
            ("Brier score", format!("{:.4}", metrics.brier)),
            ("mean entropy, nats", format!("{:.4}", self.report.entropy)),
            ("of it disagreement of draws", format!("{:.4}", self.report.mutual_information)),
            ("area under risk and coverage", format!("{:.4}", selective.aurc)),
        ];
        if let Some(separation) = &selective.right_from_wrong {
            rows.push(("right from wrong by confidence", Shown(separation).to_string()));
        }
        write_table(page, "Predictions", &rows);
        if let Some(calibrated) = &self.report.calibrated {
            write_calibrated(page, calibrated);
        }
        if let (Some(ood), Some((path, ..))) = (&self.report.ood, &self.foreign) {
            write_foreign(page, ood, path);
        }
        *page += "</div>\n";
    }

    fn write_charts(&self, page: &mut String) {
        let (report, metrics) = (self.report, &self.report.metrics);
        let calibration = self.posterior.description().calibration.as_ref();
        let answered = report.calibrated.as_ref().map(|calibrated| calibrated.answered);
        let abstention = calibration.and_then(|c| c.abstention.as_ref()).zip(answered);
        *page += "<h2>How honest the probabilities are</h2><div class=\"row\">\n";
        *page += &charts::reliability(&metrics.bins, metrics.ece, &charts::CLASSES);
        *page += &charts::confidence(&metrics.bins, &charts::CLASSES);
        *page += "</div>\n<h2>What abstaining buys</h2><div class=\"row\">\n";
        *page += &charts::risk_coverage(&report.selective, abstention);
        *page += "</div>\n";
        if let Some((_, _, foreign)) = self.foreign {
            let threshold = calibration.and_then(|c| c.familiarity.highest);
            let score = calibration.map_or_else(
                || Score::for_draws(self.posterior.draws().len()),
                |calibration| calibration.familiarity.score,
            );
            *page += "<h2>Foreign images</h2><div class=\"row\">\n";
            let scores = [self.predicted, foreign].map(|predicted| score.of(predicted));
            *page += &charts::foreign(score, scores, threshold);
            *page += "</div>\n";
        }
        *page += "<h2>Which classes are taken for which</h2><div class=\"row\">\n";
        *page += &charts::confusion(&metrics.confusion, &report.names);
        *page += "</div>\n";
        write_history(page, self.posterior.description());
    }

    fn write_examples(&self, page: &mut String) -> Result<()> {
        let (about, predicted) = (self.posterior.description(), self.predicted);
        let examples = Examples { about, data: self.data.1, predicted, labels: Some(self.labels) };
        *page += "<h2>Examples</h2><h3>Surest mistakes</h3>\n";
        *page += &examples.surest_mistakes()?;
        *page += "\n<h3>Most uncertain</h3>\n";
        *page += &examples.most_uncertain()?;
        if let Some((_, data, predicted)) = self.foreign {
            let foreign = Examples { about, data, predicted, labels: None };
            *page += "\n<h3>Foreign images that look most familiar</h3>\n";
            *page += &foreign.least_uncertain()?;
        }
        Ok(())
    }
}

fn write_calibrated(page: &mut String, calibrated: &Calibrated) {
    let of = |found, promised| format!("{} ({} promised)", percent(found), percent(promised));
    let rows = [
        ("temperature", format!("{:.4}", calibrated.temperature)),
        ("sets that hold the class", of(calibrated.coverage, calibrated.coverage_promised)),
        ("classes of a set", format!("{:.2}", calibrated.set_size)),
        ("answered", percent(calibrated.answered)),
        ("wrong among them", percent(calibrated.risk)),
        ("called unfamiliar", of(calibrated.false_alarms, calibrated.false_alarms_promised)),
    ];
    write_table(page, "Calibration", &rows);
}

fn write_foreign(page: &mut String, ood: &Ood, path: &Path) {
    let mut rows = vec![("images", ood.count.to_string())];
    for (name, separation) in [
        ("told apart by entropy", &ood.entropy),
        ("by mutual information", &ood.mutual_information),
        ("by 1 − probability", &ood.doubt),
    ] {
        rows.extend(separation.as_ref().map(|found| (name, Shown(found).to_string())));
    }
    rows.extend(ood.detected.map(|share| ("called unfamiliar", percent(share))));
    write_table(page, &format!("Foreign images: {}", path.display()), &rows);
}

/// A page with this body.
pub fn document(body: &str) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head>\
         <meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; img-src data:\"/><title>Evaluation</title><style>",
    );
    page += include_str!("page.css");
    put(&mut page, format_args!("</style></head><body><main>\n{body}</main></body></html>\n"));
    page
}

/// The learning curves of a posterior.
pub fn write_history(page: &mut String, about: &Description) {
    *page += "<h2>How it was learned</h2><div class=\"row\">\n";
    let history = about.provenance.get("history");
    match learning::charts(history.and_then(Value::as_array).map_or(&[], Vec::as_slice)) {
        none if none.is_empty() => *page += "<p>The posterior tells no history.</p>",
        curves => *page += &curves,
    }
    *page += "</div>\n";
    if let Some(choice) = about.provenance.get("choice") {
        write_choice(page, choice);
    }
}

/// What cross-validation compared, and what it kept; as much as the provenance tells.
fn write_choice(page: &mut String, choice: &Value) {
    let Some(candidates) = choice["candidates"].as_array() else { return };
    let kept = choice["kept"].as_u64();
    let number = |value: &Value, digits| {
        value.as_f64().map_or("–".to_string(), |number| format!("{number:.digits$}"))
    };
    let draws = choice.get("draws").filter(|draws| draws.is_object());
    let has_draws = draws.is_some() && choice["keeps_draws"] == true;
    let row = |name: String, is_kept: bool, candidate: &Value| {
        let strength = candidate["strength"].as_f64();
        let held_out = &candidate["held_out"];
        vec![
            if is_kept { "kept".to_string() } else { String::new() },
            name,
            strength.map_or("–".to_string(), |strength| format!("{strength:.2e}")),
            number(&candidate["temperature"], 3),
            number(&held_out["score"], 4),
            number(&held_out["nll"], 4),
            number(&held_out["ece"], 4),
        ]
    };
    let held_out = choice["held_out"].as_u64().unwrap_or_default();
    put(page, format_args!("<h3>What {held_out} held-out training examples decided</h3>"));
    if kept == Some(0) {
        *page += "<p>Training all weights did not better the linear probe's likelihood.</p>";
    }
    if draws.is_some() && !has_draws {
        *page += "<p>An average over draws predicted worse than the linear probe.</p>";
    }
    let titles = ["", "run to", "strength", "temperature", "score", "NLL", "ECE"];
    let on_path = candidates.iter().enumerate().map(|(at, candidate)| {
        let steps = candidate["steps"].as_u64().unwrap_or_default();
        let name = if at == 0 { "linear probe".to_string() } else { format!("{steps} steps") };
        row(name, kept == Some(at as u64) && !has_draws, candidate)
    });
    let of_draws = draws.map(|draws| row("draws".to_string(), has_draws, draws));
    write_rows(page, &titles, on_path.chain(of_draws));
}

/// A table with a title for each column.
pub fn write_rows(page: &mut String, titles: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    *page += "<table><thead><tr>";
    titles.iter().for_each(|title| put(page, format_args!("<th>{}</th>", escape(title))));
    *page += "</tr></thead><tbody>";
    for row in rows {
        *page += "<tr>";
        row.iter().for_each(|cell| put(page, format_args!("<td>{}</td>", escape(cell))));
        *page += "</tr>";
    }
    *page += "</tbody></table>\n";
}

/// A table of names and values.
pub fn write_table(page: &mut String, caption: &str, rows: &[(&str, String)]) {
    put(page, format_args!("<table><caption>{}</caption><tbody>", escape(caption)));
    for (name, value) in rows {
        let (name, value) = (escape(name), escape(value));
        put(page, format_args!("<tr><td>{name}</td><td>{value}</td></tr>"));
    }
    *page += "</tbody></table>\n";
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_says_what_cross_validation_kept() {
        let held_out = |nll: f64| json!({"measure": "accuracy", "score": 0.5, "nll": nll});
        let candidates = json!([
            {"steps": 0, "strength": null, "temperature": 1.0, "held_out": held_out(1.25)},
            {"steps": 40, "strength": 0.5, "temperature": 1.5, "held_out": held_out(1.5)},
        ]);
        let text = |choice: &Value| {
            let mut page = String::new();
            write_choice(&mut page, choice);
            page
        };
        let page = text(&json!({"held_out": 50, "kept": 0, "candidates": candidates}));
        for part in ["50 held-out", "did not better", "<td>kept</td><td>linear probe", "1.2500"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let page = text(&json!({"held_out": 50, "kept": 1, "candidates": candidates}));
        assert!(page.contains("<td>kept</td><td>40 steps</td><td>5.00e-1</td>"), "{page}");
        assert!(!page.contains("did not better"));
        for (keeps, mark) in [(true, "kept"), (false, "")] {
            let draws = json!({"temperature": 1.0, "held_out": held_out(1.125)});
            let page = text(&json!({"held_out": 50, "kept": 1, "candidates": candidates,
                "draws": draws, "keeps_draws": keeps}));
            assert!(page.contains(&format!("<td>{mark}</td><td>draws</td>")), "{page}");
            assert_eq!(page.contains("predicted worse"), !keeps);
            assert_eq!(page.contains("<td>kept</td><td>40 steps</td>"), !keeps);
        }
        // What is not a choice of ours is not told.
        assert_eq!(text(&json!("kept")), "");
    }
}
