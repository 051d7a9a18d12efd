//! A sample of the pixels of masks. Neighbours tell nearly the same, and what all pixels of all
//! images take would not fit in memory.

use super::Truth;
use crate::data::{Dataset, Preprocess};
use crate::error::Result;
use crate::rng::{Key, Stream};
use crate::task::Task;
use crate::threads::Threads;

/// The most pixels that are looked at, but one of each image at least.
pub(crate) const PIXELS_MAX: usize = 1 << 14;
/// Images whose masks are decoded at once.
const IMAGES: usize = 32;

/// Some pixels of each image that count, with their classes.
#[derive(Clone, Debug)]
pub(crate) struct Pixels {
    /// Of each image, y·W + x of its pixels, rising.
    positions: Vec<Vec<usize>>,
    /// Of each image, their classes.
    classes: Vec<Vec<usize>>,
}

impl Pixels {
    /// At most `most` pixels of the masks of `data`, but one of each image at least; `seed` decides
    /// which. Those that are ignored are left out, so that an image that has many of them counts
    /// less, as it does in the loss.
    ///
    /// # Errors
    /// Those of [`Dataset::fill_masks`].
    pub(crate) fn sample(
        data: &Dataset,
        preprocess: &Preprocess,
        most: usize,
        seed: u64,
        threads: &Threads,
    ) -> Result<Self> {
        let all = preprocess.height * preprocess.width;
        let count = (most / data.len().max(1)).max(1);
        let (mut positions, mut classes) = (Vec::new(), Vec::new());
        let mut masks = vec![0.0; IMAGES.min(data.len()) * all];
        let images: Vec<usize> = (0..data.len()).collect();
        for batch in images.chunks(IMAGES) {
            let masks = &mut masks[..batch.len() * all];
            data.fill_masks(batch, preprocess, None, masks, threads)?;
            for (&image, mask) in batch.iter().zip(masks.chunks_exact(all)) {
                let mut chosen: Vec<usize> = match count < all {
                    true => {
                        let mut random = Key::new(seed, Stream::Split).at(PIXELS + image as u64);
                        (0..count).map(|_| random.below(all)).collect()
                    }
                    false => (0..all).collect(),
                };
                chosen.sort_unstable();
                chosen.dedup();
                chosen.retain(|&at| mask[at] >= 0.0);
                classes.push(chosen.iter().map(|&at| mask[at] as usize).collect());
                positions.push(chosen);
            }
        }
        Ok(Pixels { positions, classes })
    }

    /// Number of images.
    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// The chosen positions of an image.
    pub(crate) fn of(&self, image: usize) -> &[usize] {
        &self.positions[image]
    }

    /// The classes of the chosen pixels of these images, one image after the other.
    pub(crate) fn classes(&self, images: &[usize]) -> Vec<usize> {
        images.iter().flat_map(|&image| self.classes[image].iter().copied()).collect()
    }

    /// Takes those of `image` from its `outputs: [H, W, width]`, one after the other.
    pub(crate) fn pick(&self, image: usize, outputs: &[f32], width: usize, into: &mut Vec<f32>) {
        for &at in &self.positions[image] {
            into.extend_from_slice(&outputs[at * width..(at + 1) * width]);
        }
    }
}

/// What is true of the outputs of some examples, where a temperature has a meaning: of each, or of
/// masks of each of their `pixels`; with what a row counts, since an image counts as one example.
pub(crate) fn truth(
    task: &Task,
    data: &Dataset,
    examples: &[usize],
    pixels: Option<&Pixels>,
) -> Result<Option<(Truth, f64)>> {
    if let Some(pixels) = pixels {
        let classes = pixels.classes(examples);
        let weight = examples.len() as f64 / classes.len().max(1) as f64;
        return Ok(Some((Truth::Classes(classes), weight)));
    }
    Ok(match task {
        Task::Classification { .. } => Some((Truth::Classes(data.labels(examples)?), 1.0)),
        Task::MultiLabel { .. } => {
            let mut labels = vec![0.0; examples.len() * task.outputs()];
            data.fill_rows(examples, &mut labels)?;
            Some((Truth::Labels(labels), 1.0))
        }
        Task::Regression { .. } | Task::Segmentation { .. } => None,
    })
}

/// The first step of [`Stream::Split`] that chooses pixels; those before are numbers of classes and
/// the division of held-out examples.
const PIXELS: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use ndarray::{Array3, Array4};

    use super::*;

    #[test]
    fn pixels_that_count_are_chosen_with_their_classes() {
        let images = Array4::<u8>::zeros((3, 4, 5, 1));
        let masks = Array3::from_shape_fn((3, 4, 5), |(n, y, x)| match (n, x) {
            (2, _) => 255,
            (_, 0) => 255,
            _ => (y % 2) as u8,
        });
        let names = ["even", "odd"].map(str::to_string).to_vec();
        let data = Dataset::from_images_u8(images.view(), None, vec![]).expect("images");
        let data = data.with_masks(masks.view(), names).expect("masks");
        let (input, threads) = (Preprocess::new(1, 4, 5), Threads::new(1));
        let sample = |most| Pixels::sample(&data, &input, most, 1, &threads).expect("a sample");
        let all = sample(60);
        assert_eq!([0, 1, 2].map(|image| all.of(image).len()), [16, 16, 0]);
        let some = sample(24);
        for image in 0..2 {
            assert!((1..=8).contains(&some.of(image).len()));
            assert!(some.of(image).windows(2).all(|at| at[0] < at[1]));
            let rows: Vec<usize> = some.of(image).iter().map(|at| at / 5 % 2).collect();
            assert_eq!(some.classes(&[image]), rows);
        }
        assert!(some.of(0) != some.of(1), "each image has its own");
        let outputs: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let mut picked = Vec::new();
        some.pick(1, &outputs, 2, &mut picked);
        let expected = some.of(1).iter().flat_map(|&at| [2 * at, 2 * at + 1].map(|x| x as f32));
        assert_eq!(picked, expected.collect::<Vec<f32>>());
    }
}
