//! From an image of any size to the backbone's input.
//!
//! The order is fixed: choose a part and resize it, convert the channels, round bytes to whole
//! values, move and mirror, scale, normalise. Rounding makes an image that was resized and stored
//! as bytes give the same numbers as the original. Numbers (`f32` arrays) are neither rounded nor
//! scaled.

use serde::{Deserialize, Serialize};

use super::augment::{Flip, Variation};
use super::colour::Paint;
use super::images::{Picture, Raster};
use super::resample::{Window, resample};
use super::{Dataset, parallel};
use crate::error::{Error, Result};
use crate::threads::Threads;

#[cfg(test)]
mod tests;

/// The longest side a backbone's input may have.
const SIDE_MAX: usize = 16_384;
/// The most channels a backbone's input may have.
const CHANNELS_MAX: usize = 1_024;
/// The most numbers a backbone's input may have for one image.
const IMAGE_LEN_MAX: usize = 1 << 28;
/// The largest byte.
const BYTE_MAX: f32 = 255.0;
/// A channel that varies less than this part of its scale is constant and is not divided by it.
const STD_MIN: f64 = 1e-6;
/// Weights of red, green and blue in grey (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// How examples become the backbone's input. Stored with an adapted model and applied again when it
/// predicts; [`Preprocess::check`] runs before every use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Channels of the input; grey and colour images are converted into each other.
    pub channels: usize,
    /// Height of the input in pixels.
    pub height: usize,
    /// Width of the input in pixels.
    pub width: usize,
    /// What happens to images of another size.
    pub resize: Resize,
    /// Factor from bytes to numbers, usually 1/255.
    pub scale: f32,
    /// What is subtracted and divided by after scaling.
    pub statistics: Statistics,
}

/// What happens to images that do not have the input's size; those that have it are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Resize {
    /// The whole image is stretched to the input's size.
    Stretch,
    /// The largest centred part with the input's aspect is resized.
    CentreCrop {
        /// How much of that part's sides is kept, in (0, 1]; 0.875 is usual for ImageNet.
        part: f32,
    },
}

/// Mean and standard deviation of each channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, positive.
    pub std: Vec<f32>,
}

/// Mean and standard deviation that most backbones trained on ImageNet expect: `[mean, std]`.
pub const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Construction and validation.
impl Preprocess {
    /// For a backbone with this input: centred crop of the whole shorter side, bytes scaled to
    /// [0, 1], no normalisation.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        Preprocess {
            channels,
            height,
            width,
            resize: Resize::CentreCrop { part: 1.0 },
            scale: 1.0 / 255.0,
            statistics: Statistics::identity(channels),
        }
    }

    /// The same with other statistics.
    #[must_use]
    pub fn normalised(self, statistics: Statistics) -> Self {
        Preprocess { statistics, ..self }
    }

    /// Numbers of one preprocessed image, `C·H·W`.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Every setting is in its range.
    ///
    /// # Errors
    /// When one is not; it is named.
    pub fn check(&self) -> Result<()> {
        let bound = |what: &str, value: usize, max: usize| match (1..=max).contains(&value) {
            true => Ok(()),
            false => Err(invalid(format!("{what}: {value}; expected 1 to {max}"))),
        };
        bound("channels", self.channels, CHANNELS_MAX)?;
        bound("height", self.height, SIDE_MAX)?;
        bound("width", self.width, SIDE_MAX)?;
        let image_len = self.channels.checked_mul(self.height * self.width);
        bound("numbers of an image", image_len.unwrap_or(usize::MAX), IMAGE_LEN_MAX)?;
        if let Resize::CentreCrop { part } = self.resize
            && !(part > 0.0 && part <= 1.0)
        {
            return Err(invalid(format!("the part kept by the crop is {part}; expected (0, 1]")));
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            return Err(invalid(format!("scale is {}; expected a positive number", self.scale)));
        }
        self.statistics.check(self.channels)
    }

    /// Only what changes the pixels: no scaling, no normalisation.
    pub(super) fn geometry(&self) -> Self {
        let statistics = Statistics::identity(self.channels);
        Preprocess { scale: 1.0, statistics, ..self.clone() }
    }
}

impl Statistics {
    /// Statistics that leave the numbers as they are.
    pub fn identity(channels: usize) -> Self {
        Statistics { mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    fn check(&self, channels: usize) -> Result<()> {
        for (what, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != channels {
                let len = values.len();
                return Err(invalid(format!("{what} has {len} values for {channels} channels")));
            }
        }
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            if !mean.is_finite() {
                return Err(invalid(format!("mean[{channel}] is {mean}; expected a number")));
            }
            if !(std.is_normal() && *std > 0.0) {
                let what = format!("std[{channel}] is {std}; expected a positive number");
                return Err(invalid(what));
            }
        }
        Ok(())
    }
}

#[cold]
fn invalid(what: String) -> Error {
    Error::invalid(format!("preprocessing: {what}"))
}

/// Statistics of data.
impl Preprocess {
    /// Mean and standard deviation of each channel over all pixels of `dataset`, resized and scaled
    /// but not normalised. Does not depend on the number of threads. A constant channel gets
    /// standard deviation 1.
    ///
    /// # Errors
    /// When the data set is empty, and those of [`Dataset::fill`].
    pub fn statistics(&self, dataset: &Dataset, threads: &Threads) -> Result<Statistics> {
        if dataset.is_empty() {
            return Err(Error::invalid("an empty data set has no mean and standard deviation"));
        }
        let plain = self.clone().normalised(Statistics::identity(self.channels));
        plain.check()?;
        // Sums of each example apart, added up in order: the same result on any number of threads.
        let mut sums = vec![[0.0f64; 2]; dataset.len() * self.channels];
        let parts = sums.chunks_exact_mut(self.channels).collect();
        parallel::try_each(threads, parts, |index, part: &mut [[f64; 2]]| {
            let mut image = vec![0.0; plain.image_len()];
            dataset.fill_one(index, &plain, None, &mut image)?;
            let planes = image.chunks_exact(plain.height * plain.width);
            planes.zip(part).for_each(|(plane, sums)| *sums = moments(plane));
            Ok(())
        })?;
        let pixels = (dataset.len() * self.height * self.width) as f64;
        Ok((0..self.channels).map(|c| summary(&sums[c..], self.channels, pixels)).collect())
    }
}

/// Sum and sum of squares.
fn moments(plane: &[f32]) -> [f64; 2] {
    plane.iter().map(|&x| f64::from(x)).fold([0.0; 2], |[a, b], x| [a + x, b + x * x])
}

/// Mean and standard deviation of one channel from its sums, `stride` apart.
fn summary(sums: &[[f64; 2]], stride: usize, pixels: f64) -> (f32, f32) {
    let every = sums.iter().step_by(stride);
    let [sum, squares] = every.fold([0.0; 2], |[a, b], [x, y]| [a + x, b + y]);
    let mean = sum / pixels;
    let std = (squares / pixels - mean * mean).max(0.0).sqrt();
    let constant = std <= STD_MIN * mean.abs().max(STD_MIN);
    (mean as f32, if constant { 1.0 } else { std as f32 })
}

impl FromIterator<(f32, f32)> for Statistics {
    fn from_iter<I: IntoIterator<Item = (f32, f32)>>(channels: I) -> Self {
        let (mean, std) = channels.into_iter().unzip();
        Statistics { mean, std }
    }
}

/// How source channels make target channels.
#[derive(Clone, Copy, PartialEq)]
enum Channels {
    /// Target `c` is source `c`; sources left over (transparency) are dropped.
    Keep,
    /// Every target is the only source.
    Spread,
    /// The target is the luma of the first three sources.
    Luma,
}

impl Channels {
    fn new(source: usize, target: usize) -> Result<Self> {
        match (source, target) {
            (4, 3) => Ok(Channels::Keep),
            _ if source == target => Ok(Channels::Keep),
            (1, 3) => Ok(Channels::Spread),
            (3 | 4, 1) => Ok(Channels::Luma),
            _ => Err(Error::mismatch(format!(
                "images with {source} channels cannot become the {target} of the backbone's input"
            ))
            .hint("uint8 arrays are [N,H,W,C] and float32 arrays [N,C,H,W]")),
        }
    }
}

/// Whether values become whole numbers again after resizing.
#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    Whole,
    Off,
}

/// Application to one image.
impl Preprocess {
    /// Writes `out: [C, H, W]`. The settings have been checked.
    pub(super) fn apply(
        &self,
        picture: &Picture<'_>,
        variation: &Variation,
        out: &mut [f32],
    ) -> Result<()> {
        match picture {
            Picture::Bytes(bytes) => match &variation.paint {
                None => self.fit(bytes, variation, Rounding::Whole, out),
                Some(paint) => {
                    self.geometry().fit(bytes, variation, Rounding::Whole, out)?;
                    self.paint(paint, out);
                    Ok(())
                }
            },
            Picture::Floats(_) if variation.paint.is_some() => {
                Err(Error::unsupported("colours can vary only in images of bytes")
                    .hint("give uint8 images, or vary no colours"))
            }
            Picture::Floats(floats) => self.fit(floats, variation, Rounding::Off, out),
        }
    }

    /// Changes the colours of an image of bytes that has its size, and normalises it.
    fn paint(&self, paint: &Paint, out: &mut [f32]) {
        out.iter_mut().for_each(|x| *x /= BYTE_MAX);
        paint.apply(out, self.channels, self.width);
        for (channel, plane) in out.chunks_exact_mut(self.height * self.width).enumerate() {
            let (mean, std) = (self.statistics.mean[channel], self.statistics.std[channel]);
            plane.iter_mut().for_each(|x| *x = (*x * BYTE_MAX * self.scale - mean) / std);
        }
    }

    /// Resizes when needed, then finishes.
    fn fit<T: Copy + Into<f32>>(
        &self,
        source: &Raster<'_, T>,
        variation: &Variation,
        rounding: Rounding,
        out: &mut [f32],
    ) -> Result<()> {
        let channels = Channels::new(source.channels(), self.channels)?;
        match variation.window.or_else(|| self.window(source.height, source.width)) {
            None => self.finish(source, channels, variation, rounding, out),
            Some(window) => {
                let resized = resample(source, window, self.height, self.width);
                self.finish(&resized, channels, variation, rounding, out);
            }
        }
        Ok(())
    }

    /// The part of an image to be resized; none when it has the right size already.
    fn window(&self, height: usize, width: usize) -> Option<Window> {
        if [height, width] == [self.height, self.width] {
            return None;
        }
        let (full_height, full_width) = (height as f64, width as f64);
        let (height, width) = match self.resize {
            Resize::Stretch => (full_height, full_width),
            Resize::CentreCrop { part } => {
                let (target_height, target_width) = (self.height as f64, self.width as f64);
                let ratio = (full_height / target_height).min(full_width / target_width);
                let ratio = ratio * f64::from(part);
                (target_height * ratio, target_width * ratio)
            }
        };
        let (top, left) = ((full_height - height) / 2.0, (full_width - width) / 2.0);
        Some(Window { top, left, height, width })
    }

    /// Everything after resizing, from an image of the target's size.
    fn finish<T: Copy + Into<f32>>(
        &self,
        source: &Raster<'_, T>,
        channels: Channels,
        variation: &Variation,
        rounding: Rounding,
        out: &mut [f32],
    ) {
        let scale = if rounding == Rounding::Whole { self.scale } else { 1.0 };
        for (at, row) in out.chunks_exact_mut(self.width).enumerate() {
            let (channel, y) = (at / self.height, at % self.height);
            row.fill(0.0);
            let y = y.checked_add_signed(variation.shift[0]).filter(|&y| y < self.height);
            if let Some(y) = y {
                read_row(source, channels, [channel, y], variation.shift[1], row);
            }
            if rounding == Rounding::Whole {
                // Bytes were not negative and nor are their mixtures, so this rounds to nearest.
                row.iter_mut().for_each(|value| *value = f32::from((*value + 0.5) as u8));
            }
            if variation.flip == Flip::Horizontal {
                row.reverse();
            }
            let (mean, std) = (self.statistics.mean[channel], self.statistics.std[channel]);
            row.iter_mut().for_each(|value| *value = (*value * scale - mean) / std);
        }
    }
}

/// Adds one row of one target channel, `place: [channel, y]`, moved by `shift`, to `row`.
fn read_row<T: Copy + Into<f32>>(
    source: &Raster<'_, T>,
    channels: Channels,
    place: [usize; 2],
    shift: isize,
    row: &mut [f32],
) {
    let [channel, y] = place;
    let shown = row.len().saturating_sub(shift.unsigned_abs());
    let (from, to) = (shift.max(0) as usize, (-shift).max(0) as usize);
    let mut add = |channel: usize, weight: f32| {
        let pixels = &source.channel_row(channel, y)[from * source.interleaved..];
        let target = &mut row[to..][..shown];
        target
            .iter_mut()
            .zip(pixels.chunks(source.interleaved))
            .for_each(|(sum, pixel)| *sum += weight * pixel[0].into());
    };
    match channels {
        Channels::Keep => add(channel, 1.0),
        Channels::Spread => add(0, 1.0),
        Channels::Luma => LUMA.into_iter().enumerate().for_each(|(c, weight)| add(c, weight)),
    }
}

/// Whole numbers `planes: [C, H, W]` as bytes `out: [H, W, C]`.
pub(super) fn interleave(planes: &[f32], channels: usize, out: &mut [u8]) {
    let plane_len = planes.len() / channels;
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = planes[at % channels * plane_len + at / channels] as u8;
    }
}
