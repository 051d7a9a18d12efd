//! Random changes of colour and sharpness, as contrastive learning uses them (Chen et al. 2020,
//! appendix A).
//!
//! A pixel of red, green and blue in [0, 1] is changed in this order, each part clamped to [0, 1]:
//!
//! ```text
//! brightness  x ← b x                          b in 1 ± 0.8s, at least 0
//! contrast    x ← c x + (1-c) mean(luma)       c in 1 ± 0.8s, at least 0
//! saturation  x ← a x + (1-a) luma(x)          a in 1 ± 0.8s, at least 0
//! hue         turned by h of the colour wheel  h in ± 0.2s
//! grey        x ← luma(x)                      with a chance
//! blur        a Gaussian of deviation σ        with a chance, σ in 0.1..2 pixels
//! ```
//!
//! The first four happen together with a chance of 0.8. Images that are not of three channels have
//! no luma but their mean, no saturation and no hue.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How often colours are jittered.
const JITTER_CHANCE: f32 = 0.8;
/// Range of brightness, contrast and saturation for s = 1.
const RANGE: f32 = 0.8;
/// Range of the hue for s = 1, in turns.
const HUE_RANGE: f32 = 0.2;
/// Deviations of the blur, in pixels.
const SIGMA: [f32; 2] = [0.1, 2.0];
/// The largest strength of the jitter: the hue then goes round the whole wheel.
const JITTER_MAX: f32 = 2.5;
/// Weights of red, green and blue in grey (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Random changes of colour and sharpness. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Colour {
    /// s, the strength of the jitter: 0.5 is usual for small images, 1 for large ones.
    pub jitter: f32,
    /// Chance that an image loses its colours.
    pub grey: f32,
    /// Chance that an image is blurred.
    pub blur: f32,
}

impl Colour {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the one that is out of its range.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f32, most: f32| match (0.0..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{name} is {value}; expected 0 to {most}"))),
        };
        within("the jitter of colours", self.jitter, JITTER_MAX)?;
        within("the chance of grey", self.grey, 1.0)?;
        within("the chance of blur", self.blur, 1.0)
    }

    /// The change that some random words stand for.
    pub(super) fn draw(&self, words: [[u32; 4]; 2]) -> Paint {
        let unit = |word: u32| crate::rng::unit(word);
        let [[b, c, a, h], [jittered, greyed, blurred, sigma]] = words;
        let mut paint = Paint::default();
        if unit(jittered) < JITTER_CHANCE {
            let factor = |word| (1.0 + RANGE * self.jitter * (2.0 * unit(word) - 1.0)).max(0.0);
            paint.factors = [factor(b), factor(c), factor(a)];
            paint.hue = HUE_RANGE * self.jitter * (2.0 * unit(h) - 1.0);
        }
        paint.is_grey = unit(greyed) < self.grey;
        if unit(blurred) < self.blur {
            paint.sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * unit(sigma);
        }
        paint
    }
}

/// A change of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Paint {
    /// Of brightness, contrast and saturation.
    factors: [f32; 3],
    /// In turns.
    hue: f32,
    is_grey: bool,
    /// In pixels; 0 does not blur.
    sigma: f32,
}

impl Default for Paint {
    fn default() -> Self {
        Paint { factors: [1.0; 3], hue: 0.0, is_grey: false, sigma: 0.0 }
    }
}

impl Paint {
    /// Changes an image `pixels: [C, H, W]` in [0, 1] of this width.
    pub(super) fn apply(&self, pixels: &mut [f32], channels: usize, width: usize) {
        let plane = pixels.len() / channels;
        let [brightness, contrast, saturation] = self.factors;
        pixels.iter_mut().for_each(|x| *x = (brightness * *x).clamp(0.0, 1.0));
        let mean = luma_mean(pixels, channels);
        pixels
            .iter_mut()
            .for_each(|x| *x = (contrast * *x + (1.0 - contrast) * mean).clamp(0.0, 1.0));
        if channels == 3 {
            for at in 0..plane {
                let mut rgb = [0, 1, 2].map(|c| pixels[c * plane + at]);
                let grey = luma(rgb);
                rgb = rgb.map(|x| (saturation * x + (1.0 - saturation) * grey).clamp(0.0, 1.0));
                if self.hue != 0.0 {
                    rgb = turned(rgb, self.hue);
                }
                if self.is_grey {
                    rgb = [luma(rgb).clamp(0.0, 1.0); 3];
                }
                (0..3).for_each(|c| pixels[c * plane + at] = rgb[c]);
            }
        }
        if self.sigma > 0.0 {
            pixels.chunks_exact_mut(plane).for_each(|plane| blur(plane, width, self.sigma));
        }
    }
}

fn luma(rgb: [f32; 3]) -> f32 {
    LUMA.iter().zip(rgb).map(|(weight, x)| weight * x).sum()
}

/// The mean of luma, or of all channels when they are not three.
fn luma_mean(pixels: &[f32], channels: usize) -> f32 {
    let plane = pixels.len() / channels;
    let mean = |plane: &[f32]| {
        plane.iter().map(|&x| f64::from(x)).sum::<f64>() / plane.len().max(1) as f64
    };
    match channels {
        3 => luma([0, 1, 2].map(|c| mean(&pixels[c * plane..][..plane]) as f32)),
        _ => mean(pixels) as f32,
    }
}

/// A colour with its hue turned, its saturation and value (Smith 1978) as they were.
fn turned(rgb: [f32; 3], turn: f32) -> [f32; 3] {
    let [r, g, b] = rgb;
    let (value, least) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = value - least;
    if chroma <= 0.0 {
        return rgb;
    }
    let sixth = if value == r {
        (g - b) / chroma
    } else if value == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let hue = (sixth / 6.0 + turn).rem_euclid(1.0);
    // f(n) = v - v s max(0, min(k, 4 - k, 1)), k = (n + 6h) mod 6, for n = 5, 3, 1.
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = (n + 6.0 * hue).rem_euclid(6.0);
        (value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)).clamp(0.0, 1.0)
    })
}

/// Smooths rows, then columns; beyond an edge lies its last pixel.
fn blur(plane: &mut [f32], width: usize, sigma: f32) {
    let radius = (3.0 * sigma).ceil() as usize;
    let weight = |at: usize| (-0.5 * (at as f32 / sigma).powi(2)).exp();
    let total = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f32>();
    let weights: Vec<f32> = (0..=radius).map(|at| weight(at) / total).collect();
    let smooth = |line: &[f32]| -> Vec<f32> {
        let last = line.len().saturating_sub(1);
        let at = |i: usize| {
            let pair =
                |(d, w): (usize, &f32)| w * (line[i.saturating_sub(d)] + line[(i + d).min(last)]);
            weights[0] * line[i] + weights.iter().enumerate().skip(1).map(pair).sum::<f32>()
        };
        (0..line.len()).map(at).collect()
    };
    for row in plane.chunks_exact_mut(width) {
        let smoothed = smooth(row);
        row.copy_from_slice(&smoothed);
    }
    for column in 0..width {
        let line: Vec<f32> = plane.iter().skip(column).step_by(width).copied().collect();
        let places = plane.iter_mut().skip(column).step_by(width);
        places.zip(smooth(&line)).for_each(|(place, x)| *place = x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Stream};

    fn paints(colour: Colour) -> Vec<Paint> {
        let key = Key::new(3, Stream::Augment);
        (0..400).map(|i| colour.draw([key.block(0, 2 * i), key.block(0, 2 * i + 1)])).collect()
    }

    #[test]
    fn what_is_drawn_keeps_to_its_range_and_chance() {
        let found = paints(Colour { jitter: 0.5, grey: 0.2, blur: 0.5 });
        let inside = |x: f32| (0.6..=1.4).contains(&x);
        assert!(found.iter().flat_map(|p| p.factors).all(inside));
        assert!(found.iter().all(|p| p.hue.abs() <= 0.1));
        assert!(found.iter().all(|p| p.sigma == 0.0 || (0.1..=2.0).contains(&p.sigma)));
        let count = |holds: fn(&Paint) -> bool| found.iter().filter(|p| holds(p)).count();
        // Four standard deviations of 400 draws.
        let [jittered, grey, blurred] =
            [count(|p| p.hue != 0.0), count(|p| p.is_grey), count(|p| p.sigma > 0.0)];
        assert!((288..=352).contains(&jittered), "{jittered} jittered");
        assert!((48..=112).contains(&grey), "{grey} grey");
        assert!((160..=240).contains(&blurred), "{blurred} blurred");
        assert!(paints(Colour::default()).iter().all(|p| *p == Paint::default()));
        // A strong jitter leaves no factor below zero.
        let strong = paints(Colour { jitter: 2.5, ..Colour::default() });
        assert!(strong.iter().flat_map(|p| p.factors).all(|x| x >= 0.0));
    }

    #[test]
    fn colours_turn_lose_their_hue_and_blur() {
        let red = [1.0, 0.0, 0.0];
        let near = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(turned(red, 1.0 / 3.0), [0.0, 1.0, 0.0]));
        assert!(near(turned(red, -1.0 / 3.0), [0.0, 0.0, 1.0]));
        assert!(near(turned([0.2, 0.7, 0.4], 1.0), [0.2, 0.7, 0.4]));
        assert!(near(turned([0.5; 3], 0.3), [0.5; 3]));
        let mut pixels = [0.9, 0.1, 0.3, 0.2, 0.6, 0.4];
        let grey = Paint { is_grey: true, ..Paint::default() };
        grey.apply(&mut pixels, 3, 2);
        assert_eq!(pixels[0], pixels[2]);
        assert_eq!(pixels[1], pixels[5]);
        let mut plane = vec![0.0; 49];
        plane[24] = 1.0;
        blur(&mut plane, 7, 0.6);
        let total: f32 = plane.iter().sum();
        assert!((total - 1.0).abs() < 1e-5, "a blur moves light and makes none: {total}");
        assert!(plane[24] < 0.6 && plane[23] == plane[25] && plane[17] == plane[31]);
    }

    #[test]
    fn every_change_stays_within_what_an_image_can_be() {
        let mut normals = Key::new(8, Stream::Probe).at(0);
        for channels in [1, 3, 4] {
            for paint in paints(Colour { jitter: 2.5, grey: 0.3, blur: 0.5 }) {
                let mut pixels: Vec<f32> = (0..channels * 12).map(|_| normals.uniform()).collect();
                paint.apply(&mut pixels, channels, 4);
                assert!(pixels.iter().all(|x| (0.0..=1.0 + 1e-5).contains(x)), "{paint:?}");
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let wrong = [
            (Colour { jitter: -1.0, ..Colour::default() }, "the jitter of colours is -1"),
            (Colour { grey: 1.5, ..Colour::default() }, "the chance of grey is 1.5"),
            (Colour { blur: f32::NAN, ..Colour::default() }, "the chance of blur is NaN"),
        ];
        for (colour, part) in wrong {
            let error = colour.check().expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
