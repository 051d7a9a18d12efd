//! Charts as SVG elements of a page. Colours are classes of the page's style sheet.

use std::fmt::Write;

/// The drawing in its own units, and the margins that axes need.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// About how many ticks an axis has.
const TICKS: f64 = 5.0;

/// One axis: what is along it, and from where to where.
pub struct Axis<'a> {
    /// What is along it.
    pub label: &'a str,
    /// The number at its lower end.
    pub low: f64,
    /// The number at its upper end.
    pub high: f64,
}

/// A chart that is being drawn.
pub struct Chart<'a> {
    title: &'a str,
    description: String,
    x: Axis<'a>,
    y: Axis<'a>,
    marks: String,
    /// Style and name of each series.
    legend: Vec<(&'a str, &'a str)>,
}

impl<'a> Chart<'a> {
    /// An empty chart; the description is for those who cannot see it.
    pub fn new(title: &'a str, description: String, x: Axis<'a>, y: Axis<'a>) -> Self {
        let spread = |axis: Axis<'a>| match axis.high > axis.low {
            true => axis,
            false => Axis { high: axis.low + 1.0, ..axis },
        };
        let (x, y) = (spread(x), spread(y));
        Chart { title, description, x, y, marks: String::new(), legend: Vec::new() }
    }

    /// A line through `points` of one style, with a name for the legend unless it is empty. Points
    /// that are not finite are left out.
    pub fn line(&mut self, points: &[[f64; 2]], style: &'a str, name: &'a str) {
        let path: Vec<String> = points
            .iter()
            .filter(|point| point.iter().all(|x| x.is_finite()))
            .map(|&[x, y]| format!("{:.1},{:.1}", self.across(x), self.down(y)))
            .collect();
        // A single point is drawn as one.
        if let [only] = &path[..] {
            let (x, y) = only.split_once(',').unwrap_or(("0", "0"));
            put(
                &mut self.marks,
                format_args!("<circle class=\"{style}\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>"),
            );
        }
        let path = path.join(" ");
        put(&mut self.marks, format_args!("<polyline class=\"line {style}\" points=\"{path}\"/>"));
        if !name.is_empty() {
            self.legend.push((style, name));
        }
    }

    /// A dot; nothing where it is not finite.
    pub fn point(&mut self, [x, y]: [f64; 2], style: &str) {
        if x.is_finite() && y.is_finite() {
            let (x, y) = (self.across(x), self.down(y));
            put(
                &mut self.marks,
                format_args!("<circle class=\"{style}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>"),
            );
        }
    }

    /// A bar over `from..to`, between two heights, with a text that shows when it is pointed at.
    pub fn bar(&mut self, [from, to]: [f64; 2], [low, high]: [f64; 2], style: &str, tip: &str) {
        let (left, right) = (self.across(from), self.across(to));
        let (top, bottom) = (self.down(low.max(high)), self.down(low.min(high)));
        let (width, height, tip) = ((right - left).max(0.0), bottom - top, escape(tip));
        put(
            &mut self.marks,
            format_args!(
                "<rect class=\"{style}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
                 height=\"{height:.1}\"><title>{tip}</title></rect>"
            ),
        );
    }

    /// Names a style that bars have.
    pub fn name(&mut self, style: &'a str, name: &'a str) {
        self.legend.push((style, name));
    }

    /// A vertical line at `x` over the whole height.
    pub fn mark(&mut self, x: f64, style: &'a str, name: &'a str) {
        let (low, high) = (self.y.low, self.y.high);
        self.line(&[[x, low], [x, high]], style, name);
    }

    /// The element.
    pub fn finish(self) -> String {
        let mut svg = open(self.title, &self.description, [WIDTH, HEIGHT]);
        for tick in ticks(&self.x) {
            let (x, foot) = (self.across(tick), HEIGHT - BOTTOM);
            put(&mut svg, format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{foot}\"/>"));
            let (y, text) = (foot + 16.0, number(tick));
            put(&mut svg, format_args!("<text class=\"mid\" x=\"{x:.1}\" y=\"{y}\">{text}</text>"));
        }
        for tick in ticks(&self.y) {
            let (y, right) = (self.down(tick), WIDTH - RIGHT);
            put(&mut svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
            let (x, y, text) = (LEFT - 6.0, y + 4.0, number(tick));
            put(&mut svg, format_args!("<text class=\"end\" x=\"{x}\" y=\"{y:.1}\">{text}</text>"));
        }
        svg += &self.marks;
        let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0);
        let label = escape(self.x.label);
        put(&mut svg, format_args!("<text class=\"mid\" x=\"{x}\" y=\"{y}\">{label}</text>"));
        let (y, label) = ((TOP + HEIGHT - BOTTOM) / 2.0, escape(self.y.label));
        put(
            &mut svg,
            format_args!(
                "<text class=\"mid\" transform=\"translate(14 {y}) rotate(-90)\">{label}</text>"
            ),
        );
        svg += "</svg>";
        let legend = self.legend.iter().map(|(style, name)| {
            format!("<li><span class=\"key {style}\"></span>{}</li>", escape(name))
        });
        let legend: String = legend.collect();
        let title = escape(self.title);
        let list = if legend.is_empty() { legend } else { format!("<ul>{legend}</ul>") };
        format!("<figure><figcaption>{title}</figcaption>{svg}{list}</figure>")
    }

    fn across(&self, x: f64) -> f64 {
        let part = ((x - self.x.low) / (self.x.high - self.x.low)).clamp(0.0, 1.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, y: f64) -> f64 {
        let part = ((y - self.y.low) / (self.y.high - self.y.low)).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

/// The start of an element of this size with its title and description.
pub fn open(title: &str, description: &str, [width, height]: [f64; 2]) -> String {
    let (title, description) = (escape(title), escape(description));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {width} {height}\">\
         <title>{title}</title><desc>{description}</desc>"
    )
}

/// Text as the content of an element or attribute, whatever it holds. What XML has no place for
/// becomes a replacement character.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            '\t' | '\n' | '\r' => safe.push(' '),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                safe.push('\u{fffd}');
            }
            // Marks that turn the direction of the text after them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Appends formatted text.
pub fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(more);
}

/// Round numbers within an axis.
fn ticks(axis: &Axis<'_>) -> Vec<f64> {
    let raw = (axis.high - axis.low) / TICKS;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&s| s >= raw * 0.999);
    let step = step.unwrap_or(raw);
    let first = (axis.low / step - 1e-9).ceil() as i64;
    let last = (axis.high / step + 1e-9).floor() as i64;
    (first..=last.min(first + 20)).map(|k| k as f64 * step).collect()
}

/// A tick in few digits.
fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_string(),
        a if !(1e-3..1e5).contains(&a) => format!("{x:.0e}"),
        _ => format!("{}", (x * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_only_text() {
        let text = "</title><script>alert('1')</script>&\"\u{0}\u{202e}\n";
        let expected = "&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\
                        \u{fffd}\u{fffd} ";
        assert_eq!(escape(text), expected);
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let of = |low, high| ticks(&Axis { label: "", low, high });
        assert_eq!(of(0.0, 1.0).len(), 6);
        assert_eq!(of(0.0, 30.0), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(of(1.0, 3.0), [1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!([0.0, 0.30000000000000004, 2e-7, 20.0].map(number), ["0", "0.3", "2e-7", "20"]);
    }

    #[test]
    fn what_is_out_of_range_or_not_a_number_stays_within_the_frame() {
        let axis = || Axis { label: "x", low: 0.0, high: 0.0 };
        let mut chart = Chart::new("t", "d".to_string(), axis(), axis());
        chart.line(&[[0.5, f64::NAN], [7.0, -3.0]], "a", "one");
        let svg = chart.finish();
        let (right, foot) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        assert!(svg.contains(&format!("points=\"{right:.1},{foot:.1}\"")), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
