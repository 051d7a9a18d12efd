//! The report on labels, numbers and masks as a page.

use std::path::Path;

use priorfit::backend::Engine;
use priorfit::data::{Dataset, encode_grey, encode_mask};
use priorfit::error::Result;
use priorfit::posterior::metrics::{LabelReport, MaskReport, NumberReport};
use priorfit::posterior::{Evaluation, Part, Posterior, Score, Uncertainty};
use priorfit::task::Task;

use super::super::charts::{self, CLASSES, LABELS};
use super::super::examples::{card, cards};
use super::super::page::{document, write_history, write_rows, write_table};
use super::super::svg::{escape, put};
use super::{Report, Seen, Shown, likeliest, scores};
use crate::options::percent;

/// How many examples of each kind are shown; of masks, each has four pictures.
const SHOWN: usize = 12;
const MASKS_SHOWN: usize = 6;
/// The longest side of a picture, in pixels.
const SIDE: usize = 192;
/// The most numbers whose scatter is drawn.
const SCATTERS_MAX: usize = 8;

/// What a report is about.
pub(super) struct Subject<'a> {
    pub(super) folder: &'a Path,
    pub(super) posterior: &'a Posterior,
    pub(super) task: &'a Task,
    pub(super) data: (&'a Path, &'a Dataset),
    pub(super) seen: &'a Seen,
    /// Labels or numbers, `[N, outputs]`.
    pub(super) truth: &'a [f32],
    pub(super) foreign: Option<(&'a Path, &'a [Uncertainty])>,
    pub(super) report: &'a Report,
}

impl Subject<'_> {
    /// The whole page; masks that are shown are predicted again.
    pub(super) fn page(&self, engine: &Engine) -> Result<String> {
        let mut body = String::new();
        self.write_head(&mut body);
        match &self.report.evaluation {
            Evaluation::Labels(report) => self.write_labels(&mut body, report),
            Evaluation::Numbers(report) => self.write_numbers(&mut body, report),
            Evaluation::Masks(report) => self.write_masks(&mut body, report),
            Evaluation::Classes(_) => {}
        }
        self.write_foreign(&mut body);
        write_history(&mut body, self.posterior.description());
        body += "<h2>Examples</h2>\n";
        let uncertain = |at: usize| -self.seen.uncertainty[at].entropy;
        match self.report.evaluation {
            Evaluation::Masks(_) => {
                body += "<p>The image, what was predicted, what is true, and the entropy of each \
                         pixel: black is certain, white a guess.</p>\n<h3>Most wrong</h3>\n";
                body +=
                    &self.masks(&self.first(|at| -self.seen.errors[at], MASKS_SHOWN), engine)?;
                body += "\n<h3>Most uncertain</h3>\n";
                body += &self.masks(&self.first(uncertain, MASKS_SHOWN), engine)?;
            }
            _ => {
                body += "<h3>Farthest off</h3>\n";
                body += &self.rows(&self.first(|at| -self.distance(at), SHOWN))?;
                body += "\n<h3>Most uncertain</h3>\n";
                body += &self.rows(&self.first(uncertain, SHOWN))?;
            }
        }
        Ok(document(&body))
    }

    fn write_head(&self, page: &mut String) {
        let [folder, data] = [self.folder, self.data.0].map(|p| escape(&p.display().to_string()));
        let (what, draws) = (crate::tasks::describe(self.task), self.posterior.draws().len());
        put(
            page,
            format_args!(
                "<h1>Evaluation</h1><p>Posterior {folder}: {what}, draws of the weights: {draws}. \
                 Data {data}: {} examples.</p>\n<div class=\"row\">",
                self.data.1.len()
            ),
        );
        let summary = self.report.evaluation.summary();
        let score = summary.measure.to_string();
        let mut rows = vec![
            (score.as_str(), format!("{:.4}", summary.score)),
            ("negative log-likelihood, nats", format!("{:.4}", summary.nll)),
            ("expected calibration error", format!("{:.4}", summary.ece)),
            ("mean entropy, nats", format!("{:.4}", self.report.entropy)),
            ("of it disagreement of draws", format!("{:.4}", self.report.mutual_information)),
        ];
        if let Some(selective) = &self.report.selective {
            rows.push(("area under risk and coverage", format!("{:.4}", selective.aurc)));
            let apart = selective.right_from_wrong.as_ref();
            rows.extend(apart.map(|a| ("right from wrong by confidence", Shown(a).to_string())));
        }
        write_table(page, "Predictions", &rows);
        if let Some(promises) = &self.report.calibrated {
            let of =
                |found, promised| format!("{} ({} promised)", percent(found), percent(promised));
            let mut rows = vec![("temperature", format!("{:.4}", promises.temperature))];
            let coverage = promises.coverage.zip(promises.coverage_promised);
            rows.extend(coverage.map(|(f, p)| ("intervals that hold the number", of(f, p))));
            let alarms = of(promises.false_alarms, promises.false_alarms_promised);
            rows.push(("called unfamiliar", alarms));
            write_table(page, "Calibration", &rows);
        }
        if let (Some(ood), Some((path, _))) = (&self.report.ood, self.foreign) {
            let mut rows = vec![("images", ood.count.to_string())];
            let told = ood.by_score().into_iter().filter_map(|(name, s)| Some((name, s?)));
            rows.extend(told.map(|(name, s)| (name, Shown(s).to_string())));
            rows.extend(ood.detected.map(|share| ("called unfamiliar", percent(share))));
            write_table(page, &format!("Foreign images: {}", path.display()), &rows);
        }
        *page += "</div>\n";
    }

    fn write_labels(&self, page: &mut String, report: &LabelReport) {
        *page += "<h2>How honest the probabilities are</h2><div class=\"row\">\n";
        *page += &charts::reliability(&report.bins, report.ece, &LABELS);
        *page += &charts::confidence(&report.bins, &LABELS);
        *page += "</div>\n";
        self.write_selective(page);
        *page += "<h2>Each label</h2>\n";
        let rows = report.labels.iter().map(|label| {
            let ap = label.average_precision.map_or("-".to_string(), |ap| format!("{ap:.4}"));
            let numbers = [label.precision, label.recall, label.f1].map(|x| format!("{x:.4}"));
            [&[label.name.clone(), ap][..], &numbers, &[label.support.to_string()]].concat()
        });
        let titles = ["label", "average precision", "precision", "recall", "F1", "examples"];
        write_rows(page, &titles, rows);
    }

    fn write_numbers(&self, page: &mut String, report: &NumberReport) {
        *page += "<h2>How honest the intervals are</h2><div class=\"row\">\n";
        let curves: Vec<&[f64]> = report.outputs.iter().map(|o| &o.coverage[..]).collect();
        *page += &charts::coverage(&curves, report.ece);
        *page += "</div>\n<h2>Predicted and true</h2><div class=\"row\">\n";
        let width = report.outputs.len();
        for (at, output) in report.outputs.iter().enumerate().take(SCATTERS_MAX) {
            let points: Vec<[f64; 2]> = (at..self.truth.len())
                .step_by(width)
                .map(|at| [f64::from(self.truth[at]), self.seen.mean[at]])
                .collect();
            *page += &charts::scatter(&output.name, &points);
        }
        *page += "</div>\n<h2>Each number</h2>\n";
        let rows = report.outputs.iter().map(|o| {
            let numbers = [o.rmse, o.mae, o.r2, o.nll, o.coverage_90, o.half_width_90];
            [&[o.name.clone()][..], &numbers.map(|x| format!("{x:.4}"))].concat()
        });
        let titles =
            ["number", "RMSE", "MAE", "R²", "NLL", "coverage of 90 %", "half width of 90 %"];
        write_rows(page, &titles, rows);
    }

    fn write_masks(&self, page: &mut String, report: &MaskReport) {
        *page += "<h2>How honest the probabilities are</h2><div class=\"row\">\n";
        *page += &charts::reliability(&report.bins, report.ece, &CLASSES);
        *page += &charts::confidence(&report.bins, &CLASSES);
        *page += "</div>\n";
        self.write_selective(page);
        *page += "<h2>Each class</h2>\n";
        let rows = report.classes.iter().map(|class| {
            let iou = class.iou.map_or("-".to_string(), |iou| format!("{iou:.4}"));
            let numbers = [class.precision, class.recall].map(|x| format!("{x:.4}"));
            [&[class.name.clone(), iou][..], &numbers, &[class.support.to_string()]].concat()
        });
        write_rows(page, &["class", "IoU", "precision", "recall", "pixels"], rows);
        *page += "<h2>Which classes are taken for which</h2><div class=\"row\">\n";
        *page += &charts::confusion(&report.confusion, self.task.names());
        *page += "</div>\n";
    }

    fn write_selective(&self, page: &mut String) {
        if let Some(selective) = &self.report.selective {
            *page += "<h2>What abstaining would buy</h2><div class=\"row\">\n";
            *page += &charts::risk_coverage(selective, None);
            *page += "</div>\n";
        }
    }

    fn write_foreign(&self, page: &mut String) {
        let Some((_, foreign)) = self.foreign else { return };
        let calibration = self.posterior.description().calibration.as_ref();
        let score = calibration.map_or_else(
            || Score::for_draws(self.posterior.draws().len()),
            |calibration| calibration.familiarity.score,
        );
        let threshold = calibration.and_then(|c| c.familiarity.highest);
        let of = [scores(score, &self.seen.uncertainty), scores(score, foreign)];
        *page += "<h2>Foreign images</h2><div class=\"row\">\n";
        *page += &charts::foreign(score, [&of[0], &of[1]], threshold);
        *page += "</div>\n";
    }

    /// The first examples in the order of `key`.
    fn first(&self, key: impl Fn(usize) -> f64, count: usize) -> Vec<usize> {
        let mut examples: Vec<usize> = (0..self.data.1.len()).collect();
        examples.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
        examples.truncate(count);
        examples
    }

    /// How far a prediction is from the truth: of labels by probability, of numbers by their
    /// standard deviations.
    fn distance(&self, example: usize) -> f64 {
        let width = self.task.outputs();
        let of = |at: usize| {
            let off = (f64::from(self.truth[at]) - self.seen.mean[at]).abs();
            off / self.deviation(at)
        };
        (example * width..(example + 1) * width).map(of).sum()
    }

    /// Standard deviation of a predicted number, draws and noise together; 1 of labels.
    fn deviation(&self, at: usize) -> f64 {
        match self.task {
            Task::Regression { standard, .. } => {
                let noise = standard[at % standard.len()].noise.unwrap_or(0.0);
                (self.seen.variance[at] + noise).sqrt().max(f64::MIN_POSITIVE)
            }
            _ => 1.0,
        }
    }

    /// Examples with their labels or numbers.
    fn rows(&self, examples: &[usize]) -> Result<String> {
        let input = &self.posterior.description().preprocess;
        let (names, width) = (self.task.names(), self.task.outputs());
        let is_numbers = matches!(self.task, Task::Regression { .. });
        let each = examples.iter().map(|&example| {
            let picture = self.data.1.thumbnail(example, input, SIDE)?;
            let mut text = String::new();
            for (output, name) in names.iter().enumerate() {
                let (at, name) = (example * width + output, escape(name));
                let (mean, truth) = (self.seen.mean[at], self.truth[at]);
                if is_numbers {
                    let deviation = self.deviation(at);
                    put(&mut text, format_args!("<div><b>{name}</b> {mean:.4} ± {deviation:.4}"));
                    put(&mut text, format_args!(", is {truth:.4}</div>"));
                } else if mean > 0.5 || truth > 0.5 {
                    let is_wrong = (mean > 0.5) != (truth > 0.5);
                    let mark = if is_wrong { " class=\"wrong\"" } else { "" };
                    let note = if is_wrong && truth > 0.5 { ", is there" } else { "" };
                    let note = if is_wrong && truth <= 0.5 { ", is not there" } else { note };
                    let percent = 100.0 * mean;
                    let line = format_args!("<div{mark}><b>{name}</b> {percent:.1} %{note}</div>");
                    put(&mut text, line);
                }
            }
            put(&mut text, format_args!("<small>{}</small>", escape(&self.about(example))));
            Ok(card(picture.iter(), &text))
        });
        Ok(cards(&each.collect::<Result<String>>()?))
    }

    /// Images with their predicted masks, the true ones, and entropies.
    fn masks(&self, examples: &[usize], engine: &Engine) -> Result<String> {
        let some = self.data.1.subset(examples)?;
        let mut html = String::new();
        let mut add = |part: Part| {
            let len = part.mean.len() / part.examples.len().max(1);
            for (at, p) in part.examples.clone().zip(part.mean.chunks_exact(len.max(1))) {
                html += &self.mask(&some, at, examples[at], p, engine)?;
            }
            Ok(())
        };
        self.posterior.predict_parts(&some, engine, &mut |_| true, &mut add)?;
        Ok(cards(&html))
    }

    /// One of them: `p: [H, W, classes]`.
    fn mask(
        &self,
        some: &Dataset,
        at: usize,
        example: usize,
        p: &[f64],
        engine: &Engine,
    ) -> Result<String> {
        let input = &self.posterior.description().preprocess;
        let size = [input.height, input.width];
        let ignore = match self.task {
            Task::Segmentation { ignore, .. } => *ignore,
            _ => priorfit::data::IGNORED,
        };
        let classes = self.task.outputs();
        let predicted: Vec<u8> = p.chunks_exact(classes).map(|row| likeliest(row) as u8).collect();
        let mut truth = vec![0.0; size[0] * size[1]];
        some.fill_masks(&[at], input, None, &mut truth, engine.threads())?;
        let class = |&class: &f32| if class < 0.0 { ignore } else { class as u8 };
        let truth: Vec<u8> = truth.iter().map(class).collect();
        let most = (classes as f64).ln().max(f64::MIN_POSITIVE);
        let entropy = |row: &[f64]| -> f64 {
            row.iter().map(|&p| if p > 0.0 { -p * p.ln() } else { 0.0 }).sum()
        };
        let grey = |row| (255.0 * entropy(row) / most).round().clamp(0.0, 255.0) as u8;
        let grey: Vec<u8> = p.chunks_exact(classes).map(grey).collect();
        let pictures = [
            some.thumbnail(at, input, SIDE)?,
            Some(encode_mask(&predicted, size)?),
            Some(encode_mask(&truth, size)?),
            Some(encode_grey(&grey, size)?),
        ];
        let (wrong, about) = (percent(self.seen.errors[example]), escape(&self.about(example)));
        let text = format!("<div>{wrong} of the pixels wrong</div><small>{about}</small>");
        Ok(card(pictures.iter().flatten(), &text))
    }

    /// How unsure an example is, and what it is called.
    fn about(&self, example: usize) -> String {
        let Uncertainty { entropy, mutual_information } = self.seen.uncertainty[example];
        let name = self.data.1.path(example).and_then(Path::file_name);
        let name = name.map_or(format!("example {example}"), |name| name.display().to_string());
        format!("entropy {entropy:.2}, of draws {mutual_information:.2}; {name}")
    }
}
