//! PNG and JPEG files to bytes, within limits.
//!
//! Greyscale files give one channel, all others three; transparency is dropped, as the usual
//! training pipelines do. The orientation that a camera recorded is applied.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::images::Raster;
use crate::error::{Context, Error, Result};

#[cfg(test)]
mod tests;

/// The most pixels an image may have.
const PIXELS_MAX: u64 = 64 << 20;
/// The longest side an image may have.
const SIDE_MAX: u32 = 65_535;
/// The largest file that is read: more than any image of `PIXELS_MAX` needs.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// What a decoder may allocate: 16-bit RGBA of `PIXELS_MAX`, twice.
const DECODER_BYTES_MAX: u64 = PIXELS_MAX * 8 * 2;

/// Decodes the image in a file.
///
/// # Errors
/// When it cannot be read, is not a PNG or JPEG image, or is too large; the file is named.
pub(super) fn file(path: &Path) -> Result<Raster<'static, u8>> {
    let metadata = path.metadata().map_err(|e| Error::io("cannot open", path, e))?;
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{} is not a file", path.display())));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "{}: an image file of {} bytes; at most {FILE_BYTES_MAX} are read",
            path.display(),
            metadata.len(),
        )));
    }
    let mut encoded = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut encoded))
        .map_err(|e| Error::io("cannot read", path, e))?;
    bytes(&encoded).context(|| path.display().to_string())
}

/// Height and width of the image in a file, from its header.
///
/// # Errors
/// Those of [`file`] that the header shows.
pub(super) fn size(path: &Path) -> Result<[usize; 2]> {
    let read = || {
        let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
        let reader = ImageReader::new(BufReader::new(file)).with_guessed_format();
        let mut reader = reader.map_err(|e| Error::malformed("not an image").caused_by(e))?;
        reader.limits(limits());
        let mut decoder = reader.into_decoder().map_err(undecodable)?;
        let (width, height) = decoder.dimensions();
        let size = [height as usize, width as usize];
        Ok(match decoder.orientation().map_err(undecodable)? {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => [size[1], size[0]],
            _ => size,
        })
    };
    read().context(|| path.display().to_string())
}

/// Decodes an image in memory.
pub(super) fn bytes(encoded: &[u8]) -> Result<Raster<'static, u8>> {
    let reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format();
    let mut reader = reader.map_err(|e| Error::malformed("not an image").caused_by(e))?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err(Error::unsupported("not a PNG or JPEG image")
            .hint("convert the file, or move it out of the folder"));
    }
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(encoded) {
        return Err(Error::malformed("the image does not decode: its data is cut short")
            .hint("remove or replace the file"));
    }
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Error::unsupported(format!(
            "an image of {width}x{height} pixels; at most {PIXELS_MAX} pixels are decoded"
        ))
        .hint("shrink the image"));
    }
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(raster(image))
}

/// Whether the end marker follows the image data. The decoder would fill a missing part with grey.
fn jpeg_is_whole(encoded: &[u8]) -> bool {
    let mut rest = encoded.get(2..).unwrap_or_default();
    // Segments before the image data carry their length; a thumbnail in one has markers of its own.
    while let [0xFF, marker, high, low, ..] = *rest {
        if marker == 0xDA {
            return rest.windows(2).any(|pair| pair == [0xFF, 0xD9]);
        }
        let len = usize::from(u16::from_be_bytes([high, low]));
        let next = if marker == 0xFF { 1 } else { 2 + len };
        rest = rest.get(next..).unwrap_or_default();
    }
    // Not the usual structure: the decoder judges.
    true
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    limits
}

#[cold]
fn undecodable(cause: image::ImageError) -> Error {
    Error::malformed(format!("the image does not decode: {cause}"))
        .hint("remove or replace the file")
        .caused_by(cause)
}

fn raster(image: DynamicImage) -> Raster<'static, u8> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (pixels, interleaved) = match image.color().has_color() {
        true => (image.into_rgb8().into_raw(), 3),
        // The luma of a grey pixel is the pixel itself.
        false => (image.into_luma8().into_raw(), 1),
    };
    Raster { pixels: Cow::Owned(pixels), planes: 1, height, width, interleaved }
}
