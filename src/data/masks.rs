//! Masks: the class of each pixel, from indexed or grey PNG files or from arrays.
//!
//! A file's numbers are taken as they are: in a palette's file the indices, not the colours.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ndarray::{Array3, Axis};
use png::{BitDepth, ColorType};

use super::decode;
use crate::error::{Context, Error, Result};

#[cfg(test)]
mod tests;

/// The index of pixels that count for nothing, unless another is chosen.
pub const IGNORED: u8 = 255;
/// The most pixels a mask may have, as an image.
const PIXELS_MAX: u64 = 64 << 20;

/// The stored masks of a data set.
#[derive(Clone, Debug)]
pub(super) struct Masks {
    storage: Storage,
    ignore: u8,
}

#[derive(Clone, Debug)]
enum Storage {
    /// `[N, H, W]`, row-major.
    Array(Array3<u8>),
    Files(Vec<PathBuf>),
}

/// One mask.
#[derive(Debug)]
pub(super) struct Mask<'a> {
    pub pixels: Cow<'a, [u8]>,
    pub height: usize,
    pub width: usize,
}

impl Masks {
    /// Masks `[N, H, W]`, row-major.
    pub(super) fn array(masks: Array3<u8>) -> Self {
        Masks { storage: Storage::Array(masks), ignore: IGNORED }
    }

    /// Masks of `size: [H, W]` one after the other.
    pub(super) fn from_pixels(pixels: Vec<u8>, size: [usize; 2], ignore: u8) -> Result<Self> {
        let [height, width] = size;
        let count = pixels.len() / (height * width).max(1);
        let array = Array3::from_shape_vec((count, height, width), pixels);
        let array =
            array.map_err(|e| Error::internal("resized masks have one size").caused_by(e))?;
        Ok(Masks::array(array).ignoring(ignore))
    }

    /// Masks in PNG files, decoded when needed.
    pub(super) fn files(paths: Vec<PathBuf>) -> Self {
        Masks { storage: Storage::Files(paths), ignore: IGNORED }
    }

    /// The same with another index for pixels that count for nothing.
    pub(super) fn ignoring(&self, ignore: u8) -> Self {
        Masks { ignore, ..self.clone() }
    }

    pub(super) fn ignore(&self) -> u8 {
        self.ignore
    }

    pub(super) fn len(&self) -> usize {
        match &self.storage {
            Storage::Array(array) => array.len_of(Axis(0)),
            Storage::Files(paths) => paths.len(),
        }
    }

    /// The mask in `row`, which must exist.
    pub(super) fn load(&self, row: usize) -> Result<Mask<'_>> {
        match &self.storage {
            Storage::Array(array) => {
                let (_, height, width) = array.dim();
                let pixels = array.index_axis(Axis(0), row).to_slice().map(Cow::Borrowed);
                let pixels = pixels.ok_or_else(|| Error::internal("stored masks are row-major"))?;
                Ok(Mask { pixels, height, width })
            }
            Storage::Files(paths) => file(&paths[row]),
        }
    }

    /// What to call the mask in `row` in an error.
    pub(super) fn describe(&self, row: usize) -> String {
        match &self.storage {
            Storage::Array(_) => format!("the mask of example {row}"),
            Storage::Files(paths) => paths[row].display().to_string(),
        }
    }

    /// The file of the mask in `row`, if it has one.
    pub(super) fn path(&self, row: usize) -> Option<&Path> {
        match &self.storage {
            Storage::Array(_) => None,
            Storage::Files(paths) => paths.get(row).map(PathBuf::as_path),
        }
    }

    /// Every pixel is of a class below `classes`, or ignored.
    pub(super) fn check(&self, mask: &Mask<'_>, classes: usize) -> Result<()> {
        let is_unknown = |&index: &u8| usize::from(index) >= classes && index != self.ignore;
        match mask.pixels.iter().position(is_unknown) {
            None => Ok(()),
            Some(at) => {
                let (x, y, index) = (at % mask.width, at / mask.width, mask.pixels[at]);
                let message = format!("the pixel at x = {x}, y = {y} has class {index}");
                Err(Error::mismatch(message).hint(format!(
                    "expected 0 to {}, or {} for pixels to ignore (--ignore)",
                    classes.saturating_sub(1),
                    self.ignore,
                )))
            }
        }
    }

    /// One more than the largest index that is not ignored.
    pub(super) fn classes(&self) -> Result<usize> {
        let mut classes = 0;
        for row in 0..self.len() {
            let mask = self.load(row)?;
            let counted = mask.pixels.iter().filter(|&&index| index != self.ignore);
            classes = classes.max(counted.max().map_or(0, |&index| usize::from(index) + 1));
        }
        Ok(classes)
    }

    pub(super) fn gather(&self, rows: &[usize]) -> Self {
        let storage = match &self.storage {
            Storage::Array(array) => Storage::Array(array.select(Axis(0), rows)),
            Storage::Files(paths) => {
                Storage::Files(rows.iter().map(|&row| paths[row].clone()).collect())
            }
        };
        Masks { storage, ignore: self.ignore }
    }

    /// Every mask has its image's size.
    ///
    /// # Errors
    /// Names the first that has not.
    pub(super) fn check_sizes(&self, images: &[PathBuf]) -> Result<()> {
        let Storage::Files(paths) = &self.storage else { return Ok(()) };
        for (image, path) in images.iter().zip(paths) {
            let mask = header(path)?;
            let [height, width] = decode::size(image)?;
            if mask != [height, width] {
                let [h, w] = mask;
                let message = format!("{} has {w}x{h} pixels", path.display());
                return Err(Error::mismatch(message).hint(format!(
                    "expected {width}x{height}, as its image {} has",
                    image.display()
                )));
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<png::Decoder<BufReader<File>>> {
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    let limits = png::Limits { bytes: PIXELS_MAX as usize };
    let mut decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    decoder.set_transformations(png::Transformations::IDENTITY);
    Ok(decoder)
}

/// Height and width of a mask's file, which is of a kind that can be read.
fn header(path: &Path) -> Result<[usize; 2]> {
    let mut decoder = open(path)?;
    let info = decoder.read_header_info().map_err(undecodable);
    let size = info.and_then(|info| check_header(info)).context(|| path.display().to_string())?;
    Ok(size)
}

fn check_header(info: &png::Info<'_>) -> Result<[usize; 2]> {
    let is_index = matches!(info.color_type, ColorType::Indexed | ColorType::Grayscale);
    if !is_index || info.bit_depth == BitDepth::Sixteen {
        let (colour, depth) = (info.color_type, info.bit_depth as u8);
        return Err(Error::unsupported(format!("a mask of type {colour:?} with {depth} bits"))
            .hint(
                "expected an indexed or grey PNG of up to 8 bits that holds numbers of classes",
            ));
    }
    if u64::from(info.width) * u64::from(info.height) > PIXELS_MAX {
        return Err(Error::unsupported(format!(
            "a mask of {}x{} pixels; at most {PIXELS_MAX} pixels are decoded",
            info.width, info.height
        )));
    }
    Ok([info.height as usize, info.width as usize])
}

/// Decodes the mask in a file.
fn file(path: &Path) -> Result<Mask<'static>> {
    open(path).and_then(pixels).context(|| path.display().to_string())
}

fn pixels<R: Read + std::io::BufRead + std::io::Seek>(
    mut decoder: png::Decoder<R>,
) -> Result<Mask<'static>> {
    let [height, width] = check_header(decoder.read_header_info().map_err(undecodable)?)?;
    let mut reader = decoder.read_info().map_err(undecodable)?;
    let bits = reader.info().bit_depth as usize;
    let len = reader.output_buffer_size().ok_or_else(|| Error::malformed("too large a mask"))?;
    let mut packed = vec![0; len];
    let frame = reader.next_frame(&mut packed).map_err(undecodable)?;
    let line = frame.line_size.max(1);
    let pixels = match bits {
        8 => packed,
        _ => packed.chunks_exact(line).flat_map(|line| unpack(line, bits, width)).collect(),
    };
    if pixels.len() != height * width {
        return Err(Error::malformed("the mask's data and its size disagree"));
    }
    Ok(Mask { pixels: Cow::Owned(pixels), height, width })
}

/// The first `width` numbers of `bits` bits, the first in the highest bits of a byte.
fn unpack(line: &[u8], bits: usize, width: usize) -> impl Iterator<Item = u8> {
    let per_byte = 8 / bits;
    let mask = (1u16 << bits) as u8 - 1;
    let number = move |at: usize| line[at / per_byte] >> (8 - bits * (at % per_byte + 1)) & mask;
    (0..width).map(number)
}

#[cold]
fn undecodable(cause: png::DecodingError) -> Error {
    Error::malformed(format!("the mask does not decode: {cause}"))
        .hint("expected a PNG file")
        .caused_by(cause)
}

/// Classes `[height, width]` as an indexed PNG file whose colours tell neighbours apart.
///
/// # Errors
/// When there is no pixel, or `classes` has another length.
pub fn encode_mask(classes: &[u8], [height, width]: [usize; 2]) -> Result<Vec<u8>> {
    encode(classes, [height, width], ColorType::Indexed)
}

/// Grey values `[height, width]` as a PNG file.
///
/// # Errors
/// Those of [`encode_mask`].
pub fn encode_grey(values: &[u8], [height, width]: [usize; 2]) -> Result<Vec<u8>> {
    encode(values, [height, width], ColorType::Grayscale)
}

fn encode(pixels: &[u8], [height, width]: [usize; 2], colour: ColorType) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::internal("a mask is always a PNG").caused_by(e);
    if height * width == 0 || pixels.len() != height * width {
        return Err(Error::internal("a mask has one number for each pixel"));
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(colour);
    encoder.set_depth(BitDepth::Eight);
    if colour == ColorType::Indexed {
        encoder.set_palette(palette());
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// The usual colours of masks (Pascal VOC): each class's bits are spread over the high bits of
/// red, green and blue in turn.
fn palette() -> Vec<u8> {
    let colour = |class: u32| {
        (0..3).map(move |channel| {
            (0..3).fold(0u8, |value, round| {
                let bit = class >> (3 * round + channel) & 1;
                value | (bit << (7 - round)) as u8
            })
        })
    };
    (0..256).flat_map(colour).collect()
}
