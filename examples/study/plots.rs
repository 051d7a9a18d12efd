//! Plots of what is measured against the number of labels, as SVG files.

use std::path::Path;

use priorfit::atomic_file;
use priorfit::error::Result;

use crate::records::Records;
use crate::rows::Row;
use crate::tables::{self, Mean, Of, put};

/// The drawing in its own units, and the margins that axes and legend need.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 186.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;
/// Horizontal lines of the grid.
const LINES: usize = 5;

/// A plot.
pub struct Plot {
    /// Behind `study-` in the file's name.
    pub name: &'static str,
    pub title: &'static str,
    of: Of,
}

/// All plots.
pub const FILES: [Plot; 4] = [
    Plot { name: "accuracy", title: "Accuracy, test", of: tables::SCORE },
    Plot { name: "nll", title: "NLL, test", of: tables::NLL },
    Plot { name: "shift-accuracy", title: "Accuracy, shifted", of: tables::SHIFT_SCORE },
    Plot { name: "shift-nll", title: "NLL, shifted", of: tables::SHIFT_NLL },
];

/// A row's points: number of labels and what was measured.
type Line = (Row, Vec<(f64, Mean)>);

/// Writes all plots.
pub fn write(records: &Records, folder: &Path) -> Result<()> {
    for plot in &FILES {
        let path = folder.join(format!("study-{}.svg", plot.name));
        let text = draw(plot.title, &lines(records, plot.of));
        atomic_file::write(&path, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

fn lines(records: &Records, of: Of) -> Vec<Line> {
    let rows = tables::rows(records, false).into_iter();
    let points = |row| {
        let shots = tables::shots(records, false).into_iter();
        let point = |shots: usize| {
            let n = (shots * records.setting.classes) as f64;
            Some((n, tables::mean(records, row, shots, of)?))
        };
        shots.filter_map(point).collect()
    };
    rows.map(|row| (row, points(row))).filter(|(_, points): &Line| !points.is_empty()).collect()
}

/// An axis: the lowest and the highest number.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// That holds all of these with room on both sides.
    fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        let room = (0.06 * (high - low)).max(1e-3);
        Axis { low: low - room, high: high + room }
    }

    /// Where in it a number is, from 0 to 1.
    fn part(self, x: f64) -> f64 {
        (x - self.low) / (self.high - self.low)
    }
}

/// The drawing; labels go by their logarithm.
fn draw(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x = Axis::around(points().map(|(n, _)| n.ln()));
    let y = Axis::around(points().flat_map(|(_, m)| {
        let error = if m.error.is_finite() { m.error } else { 0.0 };
        [m.mean - error, m.mean + error]
    }));
    let across = |n: f64| LEFT + x.part(n.ln()) * (WIDTH - LEFT - RIGHT);
    let down = |value: f64| HEIGHT - BOTTOM - y.part(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}</text>\n"
    );
    if lines.is_empty() {
        return svg + "</svg>\n";
    }
    for line in 0..=LINES {
        let value = y.low + (y.high - y.low) * line as f64 / LINES as f64;
        let (at, right) = (down(value), WIDTH - RIGHT);
        put(&mut svg, format_args!("<path stroke=\"#ddd\" d=\"M{LEFT} {at:.1}H{right}\"/>\n"));
        let (x, at) = (LEFT - 6.0, at + 4.0);
        put(
            &mut svg,
            format_args!("<text x=\"{x}\" y=\"{at:.1}\" text-anchor=\"end\">{value:.2}</text>\n"),
        );
    }
    let mut labels: Vec<f64> = points().map(|(n, _)| *n).collect();
    labels.sort_by(f64::total_cmp);
    labels.dedup();
    for n in labels {
        let (at, foot) = (across(n), HEIGHT - BOTTOM + 16.0);
        put(
            &mut svg,
            format_args!("<text x=\"{at:.1}\" y=\"{foot}\" text-anchor=\"middle\">{n}</text>\n"),
        );
    }
    let (middle, foot) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0);
    put(
        &mut svg,
        format_args!("<text x=\"{middle}\" y=\"{foot}\" text-anchor=\"middle\">labels</text>\n"),
    );
    for (number, (row, points)) in lines.iter().enumerate() {
        // Side by side, so that error bars do not hide each other.
        let shift = 3.0 * (number as f64 - (lines.len() - 1) as f64 / 2.0);
        let place = |(n, m): &(f64, Mean)| (across(*n) + shift, *m);
        let places: Vec<(f64, Mean)> = points.iter().map(place).collect();
        mark(&mut svg, *row, &places, down);
        legend(&mut svg, *row, number);
    }
    svg + "</svg>\n"
}

/// A line through a row's points, with error bars.
fn mark(svg: &mut String, row: Row, places: &[(f64, Mean)], down: impl Fn(f64) -> f64) {
    let colour = row.colour();
    let path: Vec<String> =
        places.iter().map(|(x, m)| format!("{x:.1},{:.1}", down(m.mean))).collect();
    let path = path.join(" ");
    put(svg, format_args!("<polyline fill=\"none\" stroke=\"{colour}\" points=\"{path}\"/>\n"));
    for (x, m) in places {
        let y = down(m.mean);
        put(
            svg,
            format_args!("<circle fill=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>\n"),
        );
        if m.error.is_finite() {
            let (low, high) = (down(m.mean - m.error), down(m.mean + m.error));
            put(
                svg,
                format_args!("<path stroke=\"{colour}\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>\n"),
            );
        }
    }
}

fn legend(svg: &mut String, row: Row, number: usize) {
    let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 10.0 + 18.0 * number as f64);
    let (colour, name) = (row.colour(), row.title());
    let (end, text, foot) = (x + 16.0, x + 22.0, y + 4.0);
    put(
        svg,
        format_args!(
            "<path stroke=\"{colour}\" stroke-width=\"3\" d=\"M{x} {y}H{end}\"/>\n\
             <text x=\"{text}\" y=\"{foot}\">{name}</text>\n"
        ),
    );
}
