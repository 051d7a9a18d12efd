//! Random variations of training images.
//!
//! Each is a pure function of the run's seed, the step and the example, so that a run replays
//! exactly whatever the number of threads and after any interruption.

use serde::{Deserialize, Serialize};

use super::colour::{Colour, Paint};
use super::preprocess::Preprocess;
use super::resample::Window;
use crate::error::{Error, Result};
use crate::rng::{Key, Stream};

/// The range of aspect ratios of [`Crop::Resized`] is `1/R..=R`, as usual for ImageNet.
const ASPECT_MAX: f64 = 4.0 / 3.0;

/// Random words of one image: a view has 2⁴⁸ blocks, of them 2⁴⁰ for where the image is looked at
/// and as many for its colours, two for each example.
const VIEW: u32 = 48;
const COLOURS: u64 = 1 << 40;

/// What varies. The default varies nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// Which part of the image is seen.
    pub crop: Crop,
    /// Whether images are mirrored.
    pub flip: Flip,
}

/// Which part of the image is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Crop {
    /// The one that [`Preprocess`] chooses.
    #[default]
    None,
    /// The preprocessed image moved by up to `pixels` along each axis, black coming in.
    Padded {
        /// Largest move, smaller than the image.
        pixels: usize,
    },
    /// A random part of the full image, resized.
    Resized {
        /// Smallest part of the image's area, in (0, 1].
        area_min: f32,
    },
}

/// Whether images are mirrored. Mirrored digits and text change their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flip {
    /// Never.
    #[default]
    Off,
    /// Left and right are exchanged every second time, at random.
    Horizontal,
}

/// An [`Augment`] at one step of a run.
#[derive(Clone, Copy, Debug)]
pub struct Augmentation {
    augment: Augment,
    colour: Colour,
    key: Key,
    step: u64,
    view: u8,
}

/// The variation of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Variation {
    /// Replaces the part that preprocessing chooses.
    pub window: Option<Window>,
    /// Target pixel `(y, x)` shows `(y + shift[0], x + shift[1])`.
    pub shift: [isize; 2],
    pub flip: Flip,
    /// Changes the colours.
    pub paint: Option<Paint>,
}

impl Augment {
    /// The variations of training step `step` in the run seeded with `seed`.
    pub fn at(self, seed: u64, step: u64) -> Augmentation {
        let (key, colour) = (Key::new(seed, Stream::Augment), Colour::default());
        Augmentation { augment: self, colour, key, step, view: 0 }
    }
}

impl Augmentation {
    /// Other variations of the same examples: view 0 is the one without this.
    pub fn view(self, view: u8) -> Self {
        Augmentation { view, ..self }
    }

    /// The same with varying colours, for images of bytes.
    pub fn coloured(self, colour: Colour) -> Self {
        Augmentation { colour, ..self }
    }

    /// Every setting is in its range.
    pub(super) fn check(&self, preprocess: &Preprocess) -> Result<()> {
        self.colour.check()?;
        match self.augment.crop {
            Crop::Padded { pixels } if pixels >= preprocess.height.min(preprocess.width) => {
                Err(Error::invalid(format!(
                    "a crop moves images by up to {pixels} pixels; expected less than their size, \
                     {}x{}",
                    preprocess.height, preprocess.width,
                )))
            }
            Crop::Resized { area_min } if !(area_min > 0.0 && area_min <= 1.0) => {
                Err(Error::invalid(format!("area_min is {area_min}; expected a part in (0, 1]")))
            }
            _ => Ok(()),
        }
    }

    /// The variation of example `index`, an image of `size: [H, W]`.
    pub(super) fn draw(&self, index: usize, size: [usize; 2]) -> Variation {
        let mut variation = Variation::default();
        let first = (u64::from(self.view) << VIEW) + 2 * index as u64;
        let block = |index: u64| self.key.block(self.step, index);
        let [mirror, y, x, _] = block(first);
        if self.augment.flip == Flip::Horizontal && mirror >> 31 == 1 {
            variation.flip = Flip::Horizontal;
        }
        match self.augment.crop {
            Crop::None => {}
            Crop::Padded { pixels } => variation.shift = [shift(y, pixels), shift(x, pixels)],
            Crop::Resized { area_min } => {
                let words = block(first + 1);
                variation.window = Some(window(words, f64::from(area_min), size));
            }
        }
        if self.colour != Colour::default() {
            let words = [0, 1].map(|i| block(COLOURS + first + i));
            variation.paint = Some(self.colour.draw(words));
        }
        variation
    }
}

/// Uniform in [0, 1).
fn unit(word: u32) -> f64 {
    f64::from(word) / 4_294_967_296.0
}

/// Uniform in `-pixels..=pixels`.
fn shift(word: u32, pixels: usize) -> isize {
    (unit(word) * (2 * pixels + 1) as f64) as isize - pixels as isize
}

/// A random part of at least `area_min` of the image, unless its shape does not fit in.
fn window(words: [u32; 4], area_min: f64, size: [usize; 2]) -> Window {
    let [area, aspect, top, left] = words.map(unit);
    let (full_height, full_width) = (size[0] as f64, size[1] as f64);
    let area = (area_min + area * (1.0 - area_min)) * full_height * full_width;
    let aspect = ASPECT_MAX.powf(2.0 * aspect - 1.0);
    let height = (area / aspect).sqrt().clamp(1.0, full_height);
    let width = (area * aspect).sqrt().clamp(1.0, full_width);
    let (top, left) = (top * (full_height - height), left * (full_width - width));
    Window { top, left, height, width }
}
