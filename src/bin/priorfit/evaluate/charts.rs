//! The charts of a report.

use priorfit::posterior::metrics::Bin;
use priorfit::posterior::{Abstention, RiskCoverage, Score};

use super::svg::{Axis, Chart, escape, open, put};

/// The most points of a curve that are drawn.
const POINTS_MAX: usize = 400;
/// The most classes of a confusion matrix that is drawn.
const MATRIX_MAX: usize = 40;
/// The most pairs of classes that are listed.
const PAIRS_MAX: usize = 10;
/// From here on a confusion matrix shows shares instead of counts.
const COUNTS_SHOWN: usize = 10_000;
/// Bars of a histogram.
const BARS: usize = 30;

/// What a probability is of.
pub struct Words {
    sure: &'static str,
    holds: &'static str,
    fails: &'static str,
    what: &'static str,
}

/// The largest probability, of being right.
pub const CLASSES: Words =
    Words { sure: "confidence", holds: "right", fails: "wrong", what: "predictions" };
/// The probability of each label.
pub const LABELS: Words =
    Words { sure: "probability", holds: "there", fails: "absent", what: "labels" };

fn share(label: &str) -> Axis<'_> {
    Axis { label, low: 0.0, high: 1.0 }
}

/// Frequency against probability, with the gap to the diagonal.
pub fn reliability(bins: &[Bin], ece: f64, words: &Words) -> String {
    let Words { sure, holds, what, .. } = words;
    let description = format!(
        "Share of {what} that are {holds} by {sure}, in {} bins. The expected calibration error is \
         {ece:.4}: the mean distance from the diagonal.",
        bins.len()
    );
    let (frequency, gap) = (format!("share that is {holds}"), format!("gap to the {sure}"));
    let axes = (share(sure), share(&frequency));
    let mut chart = Chart::new("Reliability", description, axes.0, axes.1);
    for bin in bins.iter().filter(|bin| bin.count > 0) {
        let Bin { low, high, count, confidence, accuracy } = *bin;
        let tip = format!("{count} {what}: {sure} {confidence:.3}, {holds} {accuracy:.3}");
        chart.bar([low, high], [0.0, accuracy], "a", &tip);
        chart.bar([low, high], [accuracy, confidence], "gap", &tip);
    }
    chart.line(&[[0.0, 0.0], [1.0, 1.0]], "ideal", "ideal");
    chart.name("a", holds);
    chart.name("gap", &gap);
    chart.finish()
}

/// How many predictions have which probability.
pub fn confidence(bins: &[Bin], words: &Words) -> String {
    let Words { sure, holds, fails, what } = words;
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let description = format!("Number of {what} by {sure}; the fullest bin has {most}.");
    let y = Axis { label: what, low: 0.0, high: most as f64 };
    let title = format!("How many have which {sure}");
    let mut chart = Chart::new(&title, description, share(sure), y);
    for bin in bins.iter().filter(|bin| bin.count > 0) {
        let right = bin.accuracy * bin.count as f64;
        let tip = format!("{} {what}, {right:.0} of them {holds}", bin.count);
        chart.bar([bin.low, bin.high], [0.0, right], "a", &tip);
        chart.bar([bin.low, bin.high], [right, bin.count as f64], "b", &tip);
    }
    chart.name("a", holds);
    chart.name("b", fails);
    chart.finish()
}

/// Risk at every coverage, beside the best order of the same errors.
pub fn risk_coverage(curve: &RiskCoverage, abstention: Option<(&Abstention, f64)>) -> String {
    let RiskCoverage { points, aurc, aurc_best, .. } = curve;
    let error = points.last().map_or(0.0, |last| last[1]);
    let highest = points.iter().map(|point| point[1]).fold(error, f64::max).max(0.01);
    let description = format!(
        "Share of wrong answers when only the surest are given. All answered: {error:.4} wrong. \
         Area under the curve {aurc:.4}, at best {aurc_best:.4}."
    );
    let y = Axis { label: "share of answers that is wrong", low: 0.0, high: highest };
    let mut chart = Chart::new("Risk and coverage", description, share("share answered"), y);
    let drawn = thinned(points);
    let best: Vec<[f64; 2]> = (0..=100)
        .map(|percent| f64::from(percent) / 100.0)
        .map(|coverage| [coverage, ((coverage - 1.0 + error) / coverage.max(1e-9)).max(0.0)])
        .collect();
    chart.line(&best, "ideal", "errors last");
    chart.line(&drawn, "a", "by confidence");
    if let Some((_, answered)) = abstention {
        chart.mark(answered, "b", "answered with the calibration");
    }
    chart.finish()
}

/// At most about [`POINTS_MAX`] of the points, the last among them.
pub fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let every = points.len().div_ceil(POINTS_MAX).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last);
    kept.map(|(_, point)| *point).collect()
}

/// Found against promised coverage of central intervals of 10, 20, .. 90 %, a curve each.
pub fn coverage(curves: &[&[f64]], ece: f64) -> String {
    let description = format!(
        "Share of numbers within the central intervals of 10 to 90 %. The mean distance from the \
         diagonal is {ece:.4}."
    );
    let axes = (share("promised"), share("share within the interval"));
    let mut chart = Chart::new("Coverage", description, axes.0, axes.1);
    chart.line(&[[0.0, 0.0], [1.0, 1.0]], "ideal", "as promised");
    for (at, curve) in curves.iter().enumerate() {
        let levels = (1..=curve.len()).map(|level| level as f64 / (curve.len() + 1) as f64);
        let points: Vec<[f64; 2]> = levels.zip(curve.iter()).map(|(x, &y)| [x, y]).collect();
        chart.line(&points, "a", if at == 0 { "found, a line for each number" } else { "" });
    }
    chart.finish()
}

/// Predicted against true numbers.
pub fn scatter(name: &str, points: &[[f64; 2]]) -> String {
    let ends = points.iter().flatten().copied();
    let low = ends.clone().fold(f64::INFINITY, f64::min);
    let high = ends.fold(f64::NEG_INFINITY, f64::max);
    let description = format!(
        "Predicted against true {name}, from {low:.4} to {high:.4}; on the line both agree."
    );
    let axis = |label| Axis { label, low, high };
    let mut chart = Chart::new(name, description, axis("true"), axis("predicted"));
    chart.line(&[[low, low], [high, high]], "ideal", "");
    thinned(points).into_iter().for_each(|point| chart.point(point, "a faint"));
    chart.finish()
}

/// Scores of the data's and of foreign images, as shares.
pub fn foreign(score: Score, scores: [&[f64]; 2], threshold: Option<f64>) -> String {
    // The entropy of a density may be below 0.
    let all = || scores.iter().flat_map(|scores| scores.iter()).copied();
    let low = all().fold(0.0, f64::min);
    let top = all().fold(low + 1e-3, f64::max);
    let shares = |scores: &[f64]| {
        let mut bars = vec![0.0; BARS];
        for score in scores {
            let bar = ((score - low) / (top - low) * BARS as f64) as usize;
            bars[bar.min(BARS - 1)] += 1.0 / scores.len() as f64;
        }
        bars
    };
    let (ours, theirs) = (shares(scores[0]), shares(scores[1]));
    let highest = ours.iter().chain(&theirs).copied().fold(0.0, f64::max);
    let label = match score {
        Score::Entropy => "entropy, nats",
        Score::MutualInformation => "mutual information, nats",
    };
    let description = format!("Distribution of {label}, for the data and for foreign images.");
    let x = Axis { label, low, high: top };
    let y = Axis { label: "share of images", low: 0.0, high: highest };
    let mut chart = Chart::new("Foreign images", description, x, y);
    for (bars, style) in [(&ours, "a faint"), (&theirs, "b faint")] {
        for (at, &share) in bars.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let ends =
                [at as f64, at as f64 + 1.0].map(|end| low + end * (top - low) / BARS as f64);
            let tip = format!("{:.1} % from {:.2} to {:.2}", 100.0 * share, ends[0], ends[1]);
            chart.bar(ends, [0.0, share], style, &tip);
        }
    }
    chart.name("a", "data");
    chart.name("b", "foreign");
    if let Some(threshold) = threshold {
        chart.mark(threshold, "ideal", "unfamiliar from here");
    }
    chart.finish()
}

/// The confusion matrix, if it is not too large to be read, and the most frequent confusions.
pub fn confusion(matrix: &[Vec<usize>], names: &[String]) -> String {
    let mut html = String::new();
    if matrix.len() <= MATRIX_MAX {
        html += &heat_map(matrix, names);
    }
    let off = |(class, row): (usize, &Vec<usize>)| {
        let wrong = row.iter().enumerate().filter(|&(predicted, &n)| predicted != class && n > 0);
        wrong.map(|(predicted, &count)| (count, class, predicted)).collect::<Vec<_>>()
    };
    let mut pairs: Vec<(usize, usize, usize)> = matrix.iter().enumerate().flat_map(off).collect();
    pairs.sort_by_key(|&(count, ..)| std::cmp::Reverse(count));
    if pairs.is_empty() {
        return html;
    }
    html += "<table><caption>Most frequent confusions</caption><thead><tr><th>class</th>\
             <th>taken for</th><th>times</th></tr></thead><tbody>";
    for &(count, class, predicted) in pairs.iter().take(PAIRS_MAX) {
        let [class, predicted] = [class, predicted].map(|class| escape(&names[class]));
        put(
            &mut html,
            format_args!("<tr><td>{class}</td><td>{predicted}</td><td>{count}</td></tr>"),
        );
    }
    html + "</tbody></table>"
}

/// Shares of each class's examples by predicted class.
fn heat_map(matrix: &[Vec<usize>], names: &[String]) -> String {
    const CELL: f64 = 26.0;
    const LABEL: f64 = 110.0;
    let classes = matrix.len();
    let side = LABEL + CELL * classes as f64 + 4.0;
    let description = "Each row is a true class, each column a predicted one; the darker a cell, \
                       the larger the share of its row.";
    // Counts of pixels have no room.
    let shows_shares = matrix.iter().flatten().any(|&count| count >= COUNTS_SHOWN);
    let mut svg = open("Confusion matrix", description, [side, side]);
    for (class, row) in matrix.iter().enumerate() {
        let total = row.iter().sum::<usize>().max(1) as f64;
        let at = LABEL + CELL * class as f64;
        let (middle, name) = (at + CELL / 2.0 + 4.0, escape(&shortened(&names[class])));
        let (end, foot) = (LABEL - 6.0, LABEL - 6.0);
        put(&mut svg, format_args!("<text class=\"end\" x=\"{end}\" y=\"{middle}\">{name}</text>"));
        put(
            &mut svg,
            format_args!(
                "<text transform=\"translate({middle} {foot}) rotate(-60)\">{name}</text>"
            ),
        );
        for (predicted, &count) in row.iter().enumerate() {
            let (x, share) = (LABEL + CELL * predicted as f64, count as f64 / total);
            let style = if predicted == class { "a" } else { "b" };
            let tip = format!("{} taken for {}: {count}", names[class], names[predicted]);
            put(
                &mut svg,
                format_args!(
                    "<rect class=\"cell {style}\" x=\"{x}\" y=\"{at}\" width=\"{CELL}\" \
                     height=\"{CELL}\" fill-opacity=\"{share:.3}\"><title>{}</title></rect>",
                    escape(&tip)
                ),
            );
            let text = match shows_shares {
                true => format!("{:.0}", 100.0 * share),
                false => count.to_string(),
            };
            if text != "0" {
                let (x, style) = (x + CELL / 2.0, if share > 0.5 { "on" } else { "count" });
                put(
                    &mut svg,
                    format_args!(
                        "<text class=\"mid {style}\" x=\"{x}\" y=\"{middle}\">{text}</text>"
                    ),
                );
            }
        }
    }
    let unit = if shows_shares { ", in % of the row" } else { "" };
    format!(
        "<figure class=\"wide\"><figcaption>Confusion: true class by row, predicted by \
             column{unit}</figcaption>{svg}</svg></figure>"
    )
}

/// A name that fits beside the matrix.
fn shortened(name: &str) -> String {
    const LENGTH_MAX: usize = 15;
    match name.char_indices().nth(LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_string(),
    }
}
