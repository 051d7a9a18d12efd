//! `.npz` files: a zip archive with the arrays `x` and, for labelled data, `y`.
//!
//! Every declared size is checked against the others and against what the file can hold before
//! memory is taken: type and shape against the entry's size, that against its compressed size by
//! the best ratio of deflate, and that against the file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array, Dimension, IntoDimension, ShapeBuilder};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::CLASSES_MAX;
use super::images::Images;
use super::masks::Masks;
use super::npy::{self, Element, Header, Number, Order};
use super::targets::Targets;
use crate::error::{Context, Error, Result};

#[cfg(test)]
mod tests;

/// The most memory an archive's arrays may take.
const ARRAYS_BYTES_MAX: u64 = 4 << 30;
/// Deflate never does better than 1032:1 (258 bytes for two bits).
const DEFLATE_RATIO_MAX: u64 = 1032;

/// Whether the file begins like a zip archive.
pub(super) fn is_archive(path: &Path) -> Result<bool> {
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .map_err(|e| Error::io("cannot read", path, e))?;
    Ok(magic == b"PK\x03\x04" || magic == b"PK\x05\x06")
}

/// Reads images, and targets with the number of their columns (1, but for labels and numbers).
///
/// # Errors
/// When the archive or an array is malformed, or has another type or shape than documented at
/// [`Dataset::npz`](super::Dataset::npz).
pub(super) fn read(mut reader: impl Read + Seek) -> Result<(Images, Option<(Targets, usize)>)> {
    let file_bytes = reader.seek(SeekFrom::End(0)).map_err(npy::unreadable)?;
    let mut archive = ZipArchive::new(reader).map_err(not_an_archive)?;
    let names = ["x", "y"].map(|array| entry_name(&archive, array));
    let Some(x) = &names[0] else { return Err(no_x(&archive)) };
    let images = open(&mut archive, x, file_bytes, images).context(|| "array x".to_string())?;
    let targets = |entry: &mut dyn Read, header: &Header| targets(entry, header, &images);
    let targets = (names[1].as_ref())
        .map(|y| open(&mut archive, y, file_bytes, targets))
        .transpose()
        .context(|| "array y".to_string())?;
    Ok((images, targets))
}

fn entry_name<R: Read + Seek>(archive: &ZipArchive<R>, array: &str) -> Option<String> {
    let names = [format!("{array}.npy"), array.to_string()];
    names.into_iter().find(|name| archive.index_for_name(name).is_some())
}

/// Reads the array in the entry `name` with `read`, between checks of its declared and actual size.
fn open<R: Read + Seek, T>(
    archive: &mut ZipArchive<R>,
    name: &str,
    file_bytes: u64,
    read: impl FnOnce(&mut dyn Read, &Header) -> Result<T>,
) -> Result<T> {
    let mut entry = archive.by_name(name).map_err(not_an_archive)?;
    let ratio = match entry.compression() {
        CompressionMethod::Stored => 1,
        CompressionMethod::Deflated => DEFLATE_RATIO_MAX,
        other => {
            return Err(Error::unsupported(format!("the array is compressed with {other}"))
                .hint("write the file with np.savez or np.savez_compressed"));
        }
    };
    let (size, packed) = (entry.size(), entry.compressed_size());
    if packed > file_bytes || size > packed.saturating_mul(ratio) {
        return Err(Error::malformed(format!(
            "the entry claims {size} bytes from {packed} in a file of {file_bytes}, \
             which cannot be"
        )));
    }
    let header = npy::read_header(&mut entry)?;
    check_size(&header, size)?;
    let value = read(&mut entry, &header)?;
    // Reading to the end verifies the checksum.
    match entry.read(&mut [0]).map_err(npy::unreadable)? {
        0 => Ok(value),
        _ => Err(Error::malformed("the entry goes on after the array's end")),
    }
}

/// Type and shape agree with the entry's size, which is within the limit.
fn check_size(header: &Header, size: u64) -> Result<()> {
    let data_bytes = header.data_bytes()? as u64;
    if data_bytes.checked_add(header.offset as u64) != Some(size) {
        return Err(Error::malformed(format!(
            "{} of shape {} takes {data_bytes} bytes after a header of {}, \
             but the entry has {size}",
            header.element, header.shape, header.offset,
        )));
    }
    if data_bytes > ARRAYS_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "an array of {data_bytes} bytes; at most {ARRAYS_BYTES_MAX} are read"
        ))
        .hint("use a folder of images, which are decoded one batch at a time"));
    }
    Ok(())
}

/// Reads `x`.
fn images(mut reader: &mut dyn Read, header: &Header) -> Result<Images> {
    let Element { kind, bytes, endian } = header.element;
    let len = header.shape.checked_len()?;
    let dims = match (kind, bytes, &header.shape[..]) {
        (Number::Unsigned, 1, &[n, h, w]) => [n, h, w, 1],
        (Number::Unsigned, 1, &[a, b, c, d]) | (Number::Float, 4, &[a, b, c, d]) => [a, b, c, d],
        _ => {
            return Err(Error::unsupported(format!(
                "{} of shape {}; expected uint8 [N,H,W,C] or [N,H,W], or float32 [N,C,H,W]",
                header.element, header.shape,
            ))
            .hint("convert it with x.astype and x.transpose before np.savez"));
        }
    };
    if kind == Number::Unsigned {
        let pixels = npy::read_elements(&mut reader, len, 1, |bytes| bytes[0])?;
        return row_major(dims, header.order, pixels).map(Images::U8);
    }
    let decode = |bytes: &[u8]| npy::float32(bytes, endian);
    let numbers = npy::read_elements(&mut reader, len, 4, decode)?;
    row_major(dims, header.order, numbers).map(Images::F32)
}

/// The elements, stored in `order`, as a row-major array.
fn row_major<T: Clone, D: Dimension>(
    dims: impl IntoDimension<Dim = D>,
    order: Order,
    elements: Vec<T>,
) -> Result<Array<T, D>> {
    let shape = dims.into_dimension().set_f(order == Order::ColumnMajor);
    let array = Array::from_shape_vec(shape, elements)
        .map_err(|e| Error::malformed(format!("an array that cannot be: {e}")).caused_by(e))?;
    match array.is_standard_layout() {
        true => Ok(array),
        false => Ok(array.as_standard_layout().into_owned()),
    }
}

/// Reads `y`: classes `[N]`, labels or numbers `[N, D]`, or masks `[N, H, W]`.
fn targets(reader: &mut dyn Read, header: &Header, images: &Images) -> Result<(Targets, usize)> {
    let count = images.len();
    let is_float = header.element.kind == Number::Float;
    match header.shape[..] {
        [n, ..] if n != count => {}
        [_] | [_, 1] if is_float => {
            return Ok((Targets::Numbers(floats(reader, header, count)?.into()), 1));
        }
        [_, width] if is_float => {
            let values = floats(reader, header, count * width)?;
            let rows = row_major([count, width], header.order, values)?;
            return Ok((Targets::Numbers(rows.into_iter().collect()), width));
        }
        [_] | [_, 1] if header.element.kind != Number::Bool => {
            let values = integers(reader, header, count, |value| value)?.into_iter().enumerate();
            let labels = values.map(|(index, value)| label(index, value)).collect::<Result<_>>()?;
            return Ok((Targets::Classes(labels), 1));
        }
        [_, width] => {
            let values = integers(reader, header, count * width, |value| value as f32)?;
            let rows = row_major([count, width], header.order, values)?;
            let is_labels = rows.iter().all(|&value| value == 0.0 || value == 1.0);
            let values = rows.into_iter().collect();
            return Ok(match is_labels {
                true => (Targets::Labels(values), width),
                false => (Targets::Numbers(values), width),
            });
        }
        [_, height, width] if !is_float => {
            images.check_size([height, width])?;
            let len = count * height * width;
            let pixels = integers(reader, header, len, |value| u8::try_from(value).ok())?;
            let pixels: Option<Vec<u8>> = pixels.into_iter().collect();
            let pixels = pixels.ok_or_else(|| {
                Error::malformed("a mask holds a number that is no class; expected 0 to 255")
            })?;
            let array = row_major([count, height, width], header.order, pixels)?;
            return Ok((Targets::Masks(Arc::new(Masks::array(array))), 1));
        }
        _ => {}
    }
    Err(Error::mismatch(format!(
        "{} labels of shape {} for {count} images",
        header.element, header.shape,
    ))
    .hint(format!(
        "expected integers [{count}] (classes), [{count},C] (labels) or [{count},H,W] (masks), or \
         floats [{count}] or [{count},D] (numbers)"
    )))
}

fn integers<T>(
    mut reader: &mut dyn Read,
    header: &Header,
    len: usize,
    of: impl Fn(i128) -> T,
) -> Result<Vec<T>> {
    let element = header.element;
    let decode = |bytes: &[u8]| of(npy::integer(bytes, element));
    npy::read_elements(&mut reader, len, element.bytes, decode)
}

fn floats(mut reader: &mut dyn Read, header: &Header, len: usize) -> Result<Vec<f32>> {
    let Element { bytes, endian, .. } = header.element;
    match bytes {
        4 => npy::read_elements(&mut reader, len, 4, |bytes| npy::float32(bytes, endian)),
        8 => npy::read_elements(&mut reader, len, 8, |bytes| npy::float64(bytes, endian) as f32),
        _ => {
            let message = format!("{} numbers; expected float32 or float64", header.element);
            Err(Error::unsupported(message)
                .hint("convert them with y.astype('float32') before np.savez"))
        }
    }
}

fn label(index: usize, value: i128) -> Result<usize> {
    let label = usize::try_from(value).ok().filter(|&label| label < CLASSES_MAX);
    label.ok_or_else(|| {
        Error::malformed(format!(
            "y[{index}] is {value}; expected a class index from 0 to {}",
            CLASSES_MAX - 1,
        ))
    })
}

#[cold]
fn not_an_archive(cause: ZipError) -> Error {
    Error::malformed(format!("not a readable .npz archive: {cause}")).caused_by(cause)
}

#[cold]
fn no_x<R: Read + Seek>(archive: &ZipArchive<R>) -> Error {
    let names = archive.file_names_raw().take(8).map(String::from_utf8_lossy);
    let found = names.collect::<Vec<_>>().join(", ");
    Error::malformed(format!("the archive has no array x; it has [{found}]"))
        .hint("write it with np.savez(path, x=images, y=labels)")
}
