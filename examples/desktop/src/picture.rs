//! Pictures of one size, as the backbone sees them but for their normalisation.

use std::path::Path;
use std::sync::Arc;

use ndarray::{Array4, ArrayView4};
use priorfit::data::{Dataset, Preprocess, Resize, Statistics};
use priorfit::threads::Threads;
use priorfit::{Error, Result};

use crate::drawing::Drawing;

/// Width and height of every picture; the bundled backbone's input.
pub const SIDE: usize = 16;

/// A grey picture: ink is bright, paper dark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture(Arc<[u8]>);

impl Picture {
    /// What was drawn; none of an empty drawing.
    ///
    /// # Errors
    /// None that a drawing could cause.
    pub fn of_drawing(drawing: &Drawing) -> Result<Option<Self>> {
        let Some(digit) = drawing.to_digit() else { return Ok(None) };
        let data = Dataset::from_images_u8(digit.view(), None, Vec::new())?;
        Self::of_example(&data, 0, Resize::Stretch).map(Some)
    }

    /// The middle of an image file. One with bright paper is inverted.
    ///
    /// # Errors
    /// When the file is no image that priorfit reads.
    pub fn of_file(path: &Path) -> Result<Self> {
        let data = Dataset::from_files(vec![path.to_path_buf()])?;
        let picture = Self::of_example(&data, 0, Resize::CentreCrop { part: 1.0 })?;
        Ok(picture.with_dark_paper())
    }

    /// An example of a data set.
    ///
    /// # Errors
    /// When there is no such example, or it cannot be read.
    pub fn of_example(data: &Dataset, index: usize, resize: Resize) -> Result<Self> {
        let plain = Preprocess::new(1, SIDE, SIDE).normalised(Statistics::identity(1));
        let plain = Preprocess { resize, scale: 1.0, ..plain };
        let mut numbers = [0.0; SIDE * SIDE];
        data.fill(&[index], &plain, None, &mut numbers, &Threads::new(1))?;
        Ok(Picture(numbers.iter().map(|x| x.round().clamp(0.0, 255.0) as u8).collect()))
    }

    /// Its rows, one after the other.
    pub fn pixels(&self) -> &[u8] {
        &self.0
    }

    /// All of them as one array `[N, H, W, 1]`.
    ///
    /// # Errors
    /// None: every picture has one size.
    pub fn stack<'a>(pictures: impl Iterator<Item = &'a Picture>) -> Result<Array4<u8>> {
        let pixels: Vec<u8> = pictures.flat_map(|picture| picture.0.iter().copied()).collect();
        let shape = (pixels.len() / (SIDE * SIDE), SIDE, SIDE, 1);
        let view = ArrayView4::from_shape(shape, &pixels)
            .map_err(|e| Error::internal("pictures of one size are an array").caused_by(e))?;
        Ok(view.to_owned())
    }

    /// As a data set of one unlabelled example.
    ///
    /// # Errors
    /// None: a picture is an example.
    pub fn to_dataset(&self) -> Result<Dataset> {
        let array = Self::stack(std::iter::once(self))?;
        Dataset::from_images_u8(array.view(), None, Vec::new())
    }

    /// Inverted, if most of its border is bright.
    fn with_dark_paper(self) -> Self {
        let is_border = |i: &usize| {
            let (row, column) = (i / SIDE, i % SIDE);
            [row, column].iter().any(|&at| at == 0 || at == SIDE - 1)
        };
        let border: Vec<u8> = (0..self.0.len()).filter(is_border).map(|i| self.0[i]).collect();
        let bright = border.iter().filter(|&&x| x > 127).count();
        match 2 * bright > border.len() {
            true => Picture(self.0.iter().map(|x| 255 - x).collect()),
            false => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a grey square of this shade with a dot in the middle.
    fn image(folder: &Path, paper: u8, ink: u8) -> std::path::PathBuf {
        let path = folder.join(format!("{paper}.png"));
        let mut pixels = vec![paper; 40 * 30];
        (12..18).for_each(|row| pixels[row * 40 + 17..row * 40 + 23].fill(ink));
        let file = std::fs::File::create(&path).expect("a file");
        let mut encoder = png::Encoder::new(file, 40, 30);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().expect("a header");
        writer.write_image_data(&pixels).expect("pixels");
        path
    }

    #[test]
    fn ink_is_bright_whatever_the_paper() {
        let folder = tempfile::tempdir().expect("a folder");
        for (paper, ink) in [(255, 0), (0, 255)] {
            let picture = Picture::of_file(&image(folder.path(), paper, ink)).expect("a picture");
            assert_eq!(picture.pixels()[0], 0, "paper is dark");
            assert_eq!(picture.pixels()[8 * SIDE + 8], 255, "ink is bright");
        }
    }

    #[test]
    fn a_file_that_is_no_image_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notes.png");
        std::fs::write(&path, "no picture").expect("written");
        let error = Picture::of_file(&path).expect_err("no image").to_string();
        assert!(error.contains("notes.png"), "{error}");
        assert!(Picture::of_file(&folder.path().join("none.png")).is_err());
    }

    #[test]
    fn drawings_become_pictures_and_pictures_examples() {
        let mut drawing = Drawing::default();
        assert_eq!(Picture::of_drawing(&drawing).expect("none"), None);
        drawing.begin([0.5, 0.1]);
        drawing.extend([0.5, 0.9]);
        let picture = Picture::of_drawing(&drawing).expect("drawn").expect("not empty");
        assert!(picture.pixels()[8 * SIDE + 7] > 100);
        assert_eq!(picture.pixels()[8 * SIDE], 0);
        let data = picture.to_dataset().expect("a data set");
        let again = Picture::of_example(&data, 0, Resize::Stretch).expect("the example");
        assert_eq!(again, picture);
    }
}
