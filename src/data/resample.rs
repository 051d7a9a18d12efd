//! Separable resampling with a triangle filter, widened when shrinking so that nothing aliases:
//! `out(o) = Σ_k w(k) in(k)`, `w(k) ∝ max(0, 1 − |k + ½ − c(o)| / s)`,
//! `c(o) = start + (o + ½) r`, `s = max(r, 1)`, with `r` source pixels to each target pixel.
//!
//! Works a target row at a time, so its scratch is one source row whatever the image's height.

use std::borrow::Cow;

use super::images::Raster;

#[cfg(test)]
mod tests;

/// A part of an image in source pixels, edges included; it need not fall on whole pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    pub top: f64,
    pub left: f64,
    pub height: f64,
    pub width: f64,
}

/// The weighted source positions of each target position along one axis.
struct Taps {
    /// For each target: first source position and range in `weights`.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<f32>,
}

impl Taps {
    /// Taps from `source` positions, of which the part `start..start + len` becomes `target` ones.
    /// The part must lie inside the source, whose neighbouring pixels still count at its edges.
    fn new(source: usize, start: f64, len: f64, target: usize) -> Self {
        let ratio = len / target as f64;
        let reach = ratio.max(1.0);
        let mut taps = Taps { spans: Vec::with_capacity(target), weights: Vec::new() };
        for at in 0..target {
            let centre = (start + (at as f64 + 0.5) * ratio).clamp(0.0, source as f64);
            let first = ((centre - reach + 0.5).max(0.0) as usize).min(source - 1);
            let last = ((centre + reach + 0.5) as usize).clamp(first + 1, source);
            let weight = |k: usize| (1.0 - (k as f64 + 0.5 - centre).abs() / reach).max(0.0);
            let total: f64 = (first..last).map(weight).sum();
            let begin = taps.weights.len();
            taps.weights.extend((first..last).map(|k| (weight(k) / total) as f32));
            taps.spans.push((first, begin..taps.weights.len()));
        }
        taps
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.spans.iter().map(|(first, range)| (*first, &self.weights[range.clone()]))
    }
}

/// The part of `source` inside `window`, resampled to `height` by `width`, one plane a channel.
pub(super) fn resample<T: Copy + Into<f32>>(
    source: &Raster<'_, T>,
    window: Window,
    height: usize,
    width: usize,
) -> Raster<'static, f32> {
    let rows = Taps::new(source.height, window.top, window.height, height);
    let columns = Taps::new(source.width, window.left, window.width, width);
    let mut pixels = vec![0.0; source.channels() * height * width];
    let mut mixed = vec![0.0; source.width * source.interleaved];
    for plane in 0..source.planes {
        for (y, (first, weights)) in rows.iter().enumerate() {
            mix_rows(source, plane, first, weights, &mut mixed);
            for offset in 0..source.interleaved {
                let channel = plane * source.interleaved + offset;
                let out = &mut pixels[(channel * height + y) * width..][..width];
                mix_columns(&mixed[offset..], source.interleaved, &columns, out);
            }
        }
    }
    let planes = source.channels();
    Raster { pixels: Cow::Owned(pixels), planes, height, width, interleaved: 1 }
}

/// `mixed = Σ_k weights[k] row[first + k]`.
fn mix_rows<T: Copy + Into<f32>>(
    source: &Raster<'_, T>,
    plane: usize,
    first: usize,
    weights: &[f32],
    mixed: &mut [f32],
) {
    mixed.fill(0.0);
    for (k, &weight) in weights.iter().enumerate() {
        let row = source.row(plane, first + k);
        mixed.iter_mut().zip(row).for_each(|(sum, &pixel)| *sum += weight * pixel.into());
    }
}

/// `out[x] = Σ_k weights[k] mixed[(first + k) stride]`.
fn mix_columns(mixed: &[f32], stride: usize, columns: &Taps, out: &mut [f32]) {
    for (pixel, (first, weights)) in out.iter_mut().zip(columns.iter()) {
        let sources = mixed[first * stride..].iter().step_by(stride);
        *pixel = weights.iter().zip(sources).map(|(weight, source)| weight * source).sum();
    }
}
