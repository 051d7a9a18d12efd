//! Examples in a report: pictures with what was predicted and how surely.

use priorfit::data::Dataset;
use priorfit::error::Result;
use priorfit::posterior::{Description, Predictions};

use super::svg::{escape, put};

/// How many of each kind are shown.
const SHOWN: usize = 12;
/// The longest side of a picture, in pixels.
const SIDE: usize = 96;
/// The most classes of a prediction set that are listed.
const SET_MAX: usize = 5;

/// Examples with their predictions; labels where they are known.
pub struct Examples<'a> {
    pub about: &'a Description,
    pub data: &'a Dataset,
    pub predicted: &'a Predictions,
    pub labels: Option<&'a [usize]>,
}

impl Examples<'_> {
    /// The mistakes that were made most surely.
    pub fn surest_mistakes(&self) -> Result<String> {
        let confidence = self.predicted.confidence();
        let is_wrong =
            |&i: &usize| self.labels.is_some_and(|labels| self.predicted.class(i) != labels[i]);
        let wrong = (0..self.predicted.len()).filter(is_wrong).collect();
        self.grid(wrong, |i| -confidence[i])
    }

    /// The examples of the highest entropy.
    pub fn most_uncertain(&self) -> Result<String> {
        self.grid((0..self.predicted.len()).collect(), |i| -self.predicted.entropy[i])
    }

    /// The examples of the lowest entropy.
    pub fn least_uncertain(&self) -> Result<String> {
        self.grid((0..self.predicted.len()).collect(), |i| self.predicted.entropy[i])
    }

    /// The first of `examples` in the order of `key`.
    fn grid(&self, mut examples: Vec<usize>, key: impl Fn(usize) -> f64) -> Result<String> {
        examples.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
        examples.truncate(SHOWN);
        if examples.is_empty() {
            return Ok("<p>None.</p>".to_string());
        }
        let each = examples.into_iter().map(|example| self.card(example));
        Ok(cards(&each.collect::<Result<String>>()?))
    }

    fn card(&self, example: usize) -> Result<String> {
        let name = |class: usize| escape(&self.about.task.names()[class]);
        let class = self.predicted.class(example);
        let is_wrong = self.labels.is_some_and(|labels| labels[example] != class);
        let file = match self.data.path(example) {
            Some(path) => path.file_name().map_or_else(String::new, |f| f.display().to_string()),
            None => format!("example {example}"),
        };
        let picture = self.data.thumbnail(example, &self.about.preprocess, SIDE)?;
        let mut text = String::new();
        let p = self.predicted.probabilities[[example, class]];
        let mark = if is_wrong { " class=\"wrong\"" } else { "" };
        put(&mut text, format_args!("<div{mark}><b>{}</b> {:.1} %</div>", name(class), 100.0 * p));
        if let Some(labels) = self.labels.filter(|_| is_wrong) {
            let label = labels[example];
            let p = 100.0 * self.predicted.probabilities[[example, label]];
            put(&mut text, format_args!("<div>is {} ({p:.1} %)</div>", name(label)));
        }
        let (entropy, information) =
            (self.predicted.entropy[example], self.predicted.mutual_information[example]);
        put(
            &mut text,
            format_args!("<small>entropy {entropy:.2}, of draws {information:.2}</small>"),
        );
        if let Some(calibration) = &self.about.calibration {
            let verdict = calibration.verdict(self.predicted, example);
            let mut set: Vec<String> = verdict.set.iter().take(SET_MAX).map(|&c| name(c)).collect();
            if verdict.set.len() > SET_MAX {
                set.push(format!("and {} more", verdict.set.len() - SET_MAX));
            }
            put(&mut text, format_args!("<small>set: {}</small>", set.join(", ")));
            for (holds, remark) in
                [(verdict.abstains, "abstains"), (verdict.unfamiliar, "unfamiliar")]
            {
                if holds {
                    put(&mut text, format_args!("<small class=\"badge\">{remark}</small>"));
                }
            }
        }
        put(&mut text, format_args!("<small>{}</small>", escape(&file)));
        Ok(card(picture.iter(), &text))
    }
}

/// Cards side by side.
pub fn cards(cards: &str) -> String {
    format!("<div class=\"cards\">{cards}</div>")
}

/// Pictures, PNG files' bytes, with a text that is HTML.
pub fn card<'a>(pictures: impl Iterator<Item = &'a Vec<u8>>, text: &str) -> String {
    let mut card = String::from("<div class=\"card\">");
    for png in pictures {
        let png = base64(png);
        put(&mut card, format_args!("<img alt=\"\" src=\"data:image/png;base64,{png}\"/>"));
    }
    card + text + "</div>"
}

/// Bytes in the alphabet of RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let sextet = bits >> (18 - 6 * at) & 63;
            text.push(if at <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    /// The vectors of RFC 4648.
    #[test]
    fn base64_is_the_standard_one() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")];
        let more = [("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in vectors.into_iter().chain(more) {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
