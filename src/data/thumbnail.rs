//! Examples as small PNG images, for people to look at.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::images::Images;
use super::{Dataset, Preprocess, preprocess::interleave};
use crate::error::{Error, Result};

#[cfg(test)]
mod tests;

impl Dataset {
    /// Example `index` as a network with this preprocessing sees it, but at most `side` pixels wide
    /// and high: a PNG file's bytes. Numbers are spread over all shades. None where the network's
    /// input has neither one channel nor three.
    ///
    /// # Errors
    /// Those of [`Dataset::fill`].
    pub fn thumbnail(
        &self,
        index: usize,
        preprocess: &Preprocess,
        side: usize,
    ) -> Result<Option<Vec<u8>>> {
        let colour = match preprocess.channels {
            1 => ExtendedColorType::L8,
            3 => ExtendedColorType::Rgb8,
            _ => return Ok(None),
        };
        let [height, width] = fitted([preprocess.height, preprocess.width], side);
        let small = Preprocess { height, width, ..preprocess.geometry() };
        small.check()?;
        let mut planes = vec![0.0; small.image_len()];
        self.fill_one(index, &small, None, &mut planes)?;
        if let Images::F32(_) = *self.images {
            spread(&mut planes);
        }
        let mut pixels = vec![0; planes.len()];
        interleave(&planes, small.channels, &mut pixels);
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&pixels, width as u32, height as u32, colour)
            .map_err(|e| Error::internal("pixels of a known size are a PNG").caused_by(e))?;
        Ok(Some(png))
    }
}

/// The size of the same aspect whose longer side is at most `side`.
fn fitted(size: [usize; 2], side: usize) -> [usize; 2] {
    let longest = size[0].max(size[1]);
    if longest <= side { size } else { size.map(|s| (s * side / longest).max(1)) }
}

/// Maps the smallest number to 0 and the largest to 255.
fn spread(numbers: &mut [f32]) {
    let (low, high) = numbers
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let scale = if high > low { 255.0 / (high - low) } else { 0.0 };
    numbers.iter_mut().for_each(|x| *x = ((*x - low) * scale).round());
}
