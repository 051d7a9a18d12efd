//! Tables, paired differences and goals, as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use priorfit::atomic_file;
use priorfit::error::{Error, Result};

use crate::plots;
use crate::records::{Measured, Record, Records};
use crate::rows::Row;

/// What the written part of the document lies between.
const BEGIN: &str = "<!-- written by examples/study from here -->";
const END: &str = "<!-- to here -->";

/// Largest calibration error, from this many labels on.
const ECE_MOST: f64 = 0.05;
const ECE_FROM: usize = 200;
/// The default's likelihood is to be better than tuned L2-SP's up to this many labels.
const FEW: usize = 200;

/// Mean and standard error over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    pub mean: f64,
    /// Not a number of a single one.
    pub error: f64,
}

impl Mean {
    /// Of these values; none of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let error = (squares / (n - 1.0) / n).sqrt();
        (!values.is_empty()).then_some(Mean { mean, error })
    }

    fn text(self, scale: f64, digits: usize) -> String {
        let Mean { mean, error } = Mean { mean: self.mean * scale, error: self.error * scale };
        match error.is_finite() {
            true => format!("{mean:.digits$} ± {error:.digits$}"),
            false => format!("{mean:.digits$}"),
        }
    }
}

/// What is measured of a run.
pub type Of = fn(&Record) -> Option<f64>;

/// The numbers of a table.
pub const SCORE: Of = |record| Some(record.test.score);
pub const NLL: Of = |record| Some(record.test.nll);
const ECE: Of = |record| Some(record.test.ece);
const PLAIN_NLL: Of = |record| record.plain.map(|plain| plain.nll);
pub const SHIFT_SCORE: Of = |record| record.shift.map(|shift| shift.score);
pub const SHIFT_NLL: Of = |record| record.shift.map(|shift| shift.nll);
const SHIFT_ECE: Of = |record| record.shift.map(|Measured { ece, .. }| ece);
const SECONDS: Of = |record| Some(record.seconds);

/// Mean of a row over the seeds; none of what only some of them have.
pub fn mean(records: &Records, row: Row, shots: usize, of: Of) -> Option<Mean> {
    let seeds = values(records, row, shots, |_| Some(1.0)).len();
    let found: Vec<_> = values(records, row, shots, of).iter().map(|(_, x)| *x).collect();
    if found.len() == seeds { Mean::of(&found) } else { None }
}

/// Mean of `row` less `other` over the seeds that both have.
fn difference(records: &Records, row: Row, other: Row, shots: usize, of: Of) -> Option<Mean> {
    let others = values(records, other, shots, of);
    let paired = values(records, row, shots, of).into_iter().filter_map(|(seed, x)| {
        others.iter().find(|(other, _)| *other == seed).map(|(_, y)| x - y)
    });
    Mean::of(&paired.collect::<Vec<_>>())
}

fn values(records: &Records, row: Row, shots: usize, of: Of) -> Vec<(u64, f64)> {
    let of_row = records.all.iter().filter(|r| r.row == row && r.shots == shots);
    of_row.filter_map(|record| Some((record.seed, of(record)?))).collect()
}

/// All shots of rows of classes, or of masks.
pub fn shots(records: &Records, masks: bool) -> BTreeSet<usize> {
    records.all.iter().filter(|r| r.row.is_of_masks() == masks).map(|r| r.shots).collect()
}

/// All rows of classes, or of masks.
pub fn rows(records: &Records, masks: bool) -> BTreeSet<Row> {
    records.all.iter().map(|r| r.row).filter(|row| row.is_of_masks() == masks).collect()
}

/// Writes the tables into `study.md`, and returns the goals.
pub fn write(records: &Records, folder: &Path) -> Result<String> {
    let path = folder.join("study.md");
    let goals = goals(records);
    let written = format!(
        "{BEGIN}\n{}\n{goals}\n{}{}\n{END}",
        setting(records),
        classes(records),
        masks(records)
    );
    let text = match path.exists() {
        false => format!("# Study\n\n{written}\n"),
        true => {
            let text = fs::read_to_string(&path).map_err(|e| {
                Error::invalid(format!("cannot read {}", path.display())).caused_by(e)
            })?;
            replaced(&text, &written).ok_or_else(|| {
                Error::malformed(format!("{} has no place for the tables", path.display()))
                    .hint(format!("put the lines `{BEGIN}` and `{END}` where they belong"))
            })?
        }
    };
    atomic_file::write(&path, |file| file.write_all(text.as_bytes()))?;
    Ok(goals)
}

/// `text` with `written` in the place of what was written before.
fn replaced(text: &str, written: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{written}{after}"))
}

fn setting(records: &Records) -> String {
    let s = &records.setting;
    let seeds: BTreeSet<u64> = records.all.iter().map(|record| record.seed).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let measured = match s.has_test {
        true => "the first of each test set",
        false => "of those that were not drawn",
    };
    format!(
        "\nSeeds {}; labels drawn from {} images; at most {} images measured, {measured}; {} \
         steps. Mean ± standard error over the seeds. Seconds are a core's own, with everything \
         that was searched for or cross-validated; draws are forward passes for each prediction. \
         Differences are paired by seed. NLL of tuned rows is at the temperature of the held-out \
         examples; beside it that at temperature 1.\n",
        seeds.join(", "),
        s.pool,
        s.images,
        s.steps
    )
}

/// A number of a table; nothing where there is none.
fn cell(mean: Option<Mean>, scale: f64, digits: usize) -> String {
    mean.map_or(String::new(), |mean| mean.text(scale, digits))
}

fn classes(records: &Records) -> String {
    let mut text = String::new();
    for shots in shots(records, false) {
        let n = shots * records.setting.classes;
        put(&mut text, format_args!("\n### {n} labels\n\n"));
        text += "| | accuracy % | NLL | at T = 1 | ECE | less default: accuracy | NLL | shifted: \
                 accuracy % | NLL | ECE | seconds | draws |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for row in rows(records, false) {
            let of = |of, scale, digits| cell(mean(records, row, shots, of), scale, digits);
            let less = |of, scale, digits| {
                let less = difference(records, row, Row::Default, shots, of);
                cell(less.filter(|_| row != Row::Default), scale, digits)
            };
            if mean(records, row, shots, SCORE).is_none() {
                continue;
            }
            let draws = records.all.iter().filter(|r| r.row == row && r.shots == shots);
            let draws = draws.map(|record| record.draws).max().unwrap_or(1);
            put(
                &mut text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {draws} |\n",
                    row.title(),
                    of(SCORE, 100.0, 1),
                    of(NLL, 1.0, 3),
                    of(PLAIN_NLL, 1.0, 3),
                    of(ECE, 1.0, 3),
                    less(SCORE, 100.0, 1),
                    less(NLL, 1.0, 3),
                    of(SHIFT_SCORE, 100.0, 1),
                    of(SHIFT_NLL, 1.0, 3),
                    of(SHIFT_ECE, 1.0, 3),
                    mean(records, row, shots, SECONDS).map_or(0.0, |s| s.mean).round(),
                ),
            );
        }
    }
    if !text.is_empty() {
        for plot in plots::FILES {
            put(&mut text, format_args!("\n![{}](study-{}.svg)\n", plot.title, plot.name));
        }
    }
    text
}

fn masks(records: &Records) -> String {
    let mut text = String::new();
    for shots in shots(records, true) {
        put(&mut text, format_args!("\n### {shots} images with masks\n\n"));
        text += "| | mean IoU % | NLL of a pixel | ECE | seconds |\n|---|---|---|---|---|\n";
        for row in rows(records, true) {
            let of = |of, scale, digits| cell(mean(records, row, shots, of), scale, digits);
            put(
                &mut text,
                format_args!(
                    "| {} | {} | {} | {} | {} |\n",
                    row.title(),
                    of(SCORE, 100.0, 1),
                    of(NLL, 1.0, 3),
                    of(ECE, 1.0, 3),
                    of(SECONDS, 1.0, 0),
                ),
            );
        }
    }
    text
}

/// Whether each goal holds, as a list.
fn goals(records: &Records) -> String {
    let mut text = String::from("\n### Goals\n\n");
    for row in [Row::Default, Row::Learned] {
        for shots in shots(records, false) {
            for line in goals_of(records, row, shots) {
                put(&mut text, format_args!("- {line}\n"));
            }
        }
    }
    text
}

/// The goals of one row at one number of labels, as far as there are results.
fn goals_of(records: &Records, row: Row, shots: usize) -> Vec<String> {
    let n = shots * records.setting.classes;
    let mut lines = Vec::new();
    let mut say = |what: String, holds: bool, found: String| {
        let answer = if holds { "holds" } else { "fails" };
        lines.push(format!("{}, {n} labels: {what}: **{answer}** ({found})", row.title()));
    };
    for (of, name, sign, digits) in [(SCORE, "accuracy", 1.0, 3), (NLL, "NLL", -1.0, 3)] {
        if let Some((best, less)) = best_tuned(records, row, shots, of, sign) {
            let what = format!("{name} within one standard error of the best tuned row, or better");
            let holds = sign * less.mean >= -less.error.max(0.0);
            say(what, holds, format!("{} less {}", less.text(1.0, digits), best.title()));
        }
    }
    if let (true, Some(ece)) = (n >= ECE_FROM, mean(records, row, shots, ECE)) {
        let what = format!("ECE of at most {ECE_MOST}");
        say(what, ece.mean <= ECE_MOST, ece.text(1.0, 3));
    }
    let less = difference(records, row, Row::L2Sp, shots, NLL);
    if let (true, Some(less)) = (n <= FEW, less) {
        let what = "better NLL than tuned L2-SP".to_string();
        say(what, less.mean < 0.0, format!("{} less", less.text(1.0, 3)));
    }
    lines
}

/// The tuned row with the best mean, and how much `row` has more.
fn best_tuned(records: &Records, row: Row, shots: usize, of: Of, sign: f64) -> Option<(Row, Mean)> {
    let tuned = rows(records, false).into_iter().filter(|row| row.is_tuned());
    let means = tuned.filter_map(|row| Some((row, sign * mean(records, row, shots, of)?.mean)));
    let (best, _) = means.max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some((best, difference(records, row, best, shots, of)?))
}

/// Appends formatted text.
pub fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Setting;

    fn record(row: Row, seed: u64, score: f64, nll: f64) -> Record {
        let test = Measured { score, nll, ece: 0.04 };
        Record {
            row,
            shots: 5,
            seed,
            test,
            plain: None,
            shift: None,
            seconds: 1.0,
            choice_seconds: 0.0,
            predict_seconds: 0.0,
            draws: 1,
            strength: None,
            head_variance: None,
            temperature: 1.0,
            choice: None,
        }
    }

    fn records(all: Vec<Record>) -> Records {
        let setting = Setting {
            backbone: String::new(),
            pool: 100,
            classes: 10,
            images: 10,
            has_test: true,
            steps: 1,
            variances: vec![1.0],
            decays: vec![1.0],
            mask_size: Vec::new(),
        };
        Records::of(setting, all)
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        let Mean { mean, error } = Mean::of(&[1.0, 2.0, 3.0]).expect("three values");
        assert_eq!(mean, 2.0);
        assert!((error - 1.0 / 3f64.sqrt()).abs() < 1e-15);
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(Mean::of(&[0.5]).expect("one value").text(100.0, 1), "50.0");
    }

    #[test]
    fn what_some_seeds_have_is_no_mean_of_the_row() {
        let mut of_one = record(Row::Swag, 1, 0.5, 1.0);
        of_one.plain = Some(of_one.test);
        let some = records(vec![of_one.clone(), record(Row::Swag, 2, 0.5, 1.0)]);
        assert_eq!(mean(&some, Row::Swag, 5, PLAIN_NLL), None);
        assert!(mean(&some, Row::Swag, 5, NLL).is_some());
        assert!(mean(&records(vec![of_one]), Row::Swag, 5, PLAIN_NLL).is_some());
    }

    /// The default is 0.5 ± 0.5 points below L2-SP, which is within one standard error, and has the
    /// worse likelihood with every seed.
    #[test]
    fn goals_are_judged_by_paired_differences() {
        let records = records(vec![
            record(Row::L2Sp, 1, 0.50, 1.0),
            record(Row::L2Sp, 2, 0.70, 1.2),
            record(Row::WeightDecay, 1, 0.40, 1.1),
            record(Row::Default, 2, 0.70, 1.3),
            record(Row::Default, 1, 0.49, 1.1),
        ]);
        let text = goals(&records);
        let accuracy = "default, 50 labels: accuracy within one standard error of the best tuned \
                        row, or better: **holds** (-0.005 ± 0.005 less L2-SP, tuned)";
        assert!(text.contains(accuracy), "{text}");
        assert!(text.contains("NLL than tuned L2-SP: **fails** (0.100 ± 0.000 less)"), "{text}");
        assert!(!text.contains("ECE"), "asked from 200 labels on: {text}");
        let table = classes(&records);
        assert!(table.contains("| default | 59.5 ± 10.5 | 1.200 ± 0.100 |"), "{table}");
    }

    #[test]
    fn what_is_written_by_hand_stays() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&text, &format!("{BEGIN}\nnew\n{END}")).expect("a place");
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced("no place", "new"), None);
    }
}
