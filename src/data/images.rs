//! How images are held, and one image as preprocessing sees it.

use std::borrow::Cow;
use std::path::PathBuf;

use ndarray::{Array4, Axis};

use super::decode;
use crate::error::{Error, Result};

/// The stored images of a data set.
#[derive(Debug)]
pub(super) enum Images {
    /// `[N, H, W, C]`, row-major.
    U8(Array4<u8>),
    /// `[N, C, H, W]`, row-major, already scaled.
    F32(Array4<f32>),
    /// Encoded files, decoded when needed.
    Files(Vec<PathBuf>),
}

/// One image.
#[derive(Debug)]
pub(super) enum Picture<'a> {
    /// Bytes in 0..=255 with channels innermost.
    Bytes(Raster<'a, u8>),
    /// Scaled numbers with channels outermost.
    Floats(Raster<'a, f32>),
}

/// Pixels as `[planes, height, width, interleaved]`; the channels are `planes * interleaved`.
#[derive(Debug)]
pub(super) struct Raster<'a, T: Clone> {
    pub pixels: Cow<'a, [T]>,
    pub planes: usize,
    pub height: usize,
    pub width: usize,
    pub interleaved: usize,
}

impl Images {
    /// Images of `size: [H, W, C]` one after the other.
    pub(super) fn from_bytes(pixels: Vec<u8>, size: [usize; 3]) -> Result<Self> {
        let [height, width, channels] = size;
        let count = pixels.len() / (height * width * channels).max(1);
        let array = Array4::from_shape_vec((count, height, width, channels), pixels);
        array
            .map(Images::U8)
            .map_err(|e| Error::internal("resized images have one size").caused_by(e))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Images::U8(array) => array.len_of(Axis(0)),
            Images::F32(array) => array.len_of(Axis(0)),
            Images::Files(paths) => paths.len(),
        }
    }

    /// There is an image, it has pixels, and they are numbers.
    pub(super) fn check(&self) -> Result<()> {
        let shape = match self {
            Images::U8(array) => array.shape(),
            Images::F32(array) => array.shape(),
            Images::Files(paths) => &[paths.len()],
        };
        if shape.contains(&0) {
            let shape = crate::tensor::Shape::from(shape);
            return Err(Error::invalid(format!(
                "there are no images: the array has shape {shape}"
            )));
        }
        let Images::F32(array) = self else { return Ok(()) };
        match array.indexed_iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some(((n, c, y, x), value)) => Err(Error::malformed(format!(
                "x[{n},{c},{y},{x}] is {value}; expected finite numbers"
            ))),
        }
    }

    /// Stored images have this height and width; files are not looked at.
    pub(super) fn check_size(&self, size: [usize; 2]) -> Result<()> {
        let own = match self {
            Images::U8(array) => [array.shape()[1], array.shape()[2]],
            Images::F32(array) => [array.shape()[2], array.shape()[3]],
            Images::Files(_) => return Ok(()),
        };
        match own == size {
            true => Ok(()),
            false => Err(Error::mismatch(format!(
                "masks of {}x{} pixels for images of {}x{}",
                size[1], size[0], own[1], own[0]
            ))),
        }
    }

    /// Those in `rows` alone, which must exist.
    pub(super) fn gather(&self, rows: &[usize]) -> Self {
        match self {
            Images::U8(array) => Images::U8(array.select(Axis(0), rows)),
            Images::F32(array) => Images::F32(array.select(Axis(0), rows)),
            Images::Files(paths) => {
                Images::Files(rows.iter().map(|&row| paths[row].clone()).collect())
            }
        }
    }

    /// The image in `row`, which must exist.
    pub(super) fn load(&self, row: usize) -> Result<Picture<'_>> {
        match self {
            Images::U8(array) => {
                let (_, height, width, interleaved) = array.dim();
                let pixels = stored(array, row)?;
                Ok(Picture::Bytes(Raster { pixels, planes: 1, height, width, interleaved }))
            }
            Images::F32(array) => {
                let (_, planes, height, width) = array.dim();
                let pixels = stored(array, row)?;
                Ok(Picture::Floats(Raster { pixels, planes, height, width, interleaved: 1 }))
            }
            Images::Files(paths) => decode::file(&paths[row]).map(Picture::Bytes),
        }
    }
}

fn stored<T: Clone>(array: &Array4<T>, row: usize) -> Result<Cow<'_, [T]>> {
    let image = array.index_axis(Axis(0), row).to_slice();
    image.map(Cow::Borrowed).ok_or_else(|| Error::internal("stored images are row-major"))
}

impl Picture<'_> {
    /// Height and width.
    pub(super) fn size(&self) -> [usize; 2] {
        match self {
            Picture::Bytes(raster) => [raster.height, raster.width],
            Picture::Floats(raster) => [raster.height, raster.width],
        }
    }
}

impl<T: Copy> Raster<'_, T> {
    pub(super) fn channels(&self) -> usize {
        self.planes * self.interleaved
    }

    /// One row of one plane: `[width, interleaved]`.
    pub(super) fn row(&self, plane: usize, y: usize) -> &[T] {
        let len = self.width * self.interleaved;
        let start = (plane * self.height + y) * len;
        &self.pixels[start..start + len]
    }

    /// The row that holds `channel`, and where in it the channel's first element lies.
    pub(super) fn channel_row(&self, channel: usize, y: usize) -> &[T] {
        &self.row(channel / self.interleaved, y)[channel % self.interleaved..]
    }
}
