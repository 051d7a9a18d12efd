//! `.npz` files: a zip archive with the arrays `x` and, for labelled data, `y`.
//!
//! Every declared size is checked against the others and against what the file can hold before
//! memory is taken: type and shape against the entry's size, that against its compressed size by
//! the best ratio of deflate, and that against the file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ndarray::{Array4, ShapeBuilder};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::CLASSES_MAX;
use super::images::Images;
use super::npy::{self, Element, Header, Number, Order};
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

/// Reads images and labels.
///
/// # Errors
/// When the archive or an array is malformed, or has another type or shape than documented at
/// [`Dataset::npz`](super::Dataset::npz).
pub(super) fn read(mut reader: impl Read + Seek) -> Result<(Images, Option<Vec<usize>>)> {
    let file_bytes = reader.seek(SeekFrom::End(0)).map_err(npy::unreadable)?;
    let mut archive = ZipArchive::new(reader).map_err(not_an_archive)?;
    let names = ["x", "y"].map(|array| entry_name(&archive, array));
    let Some(x) = &names[0] else { return Err(no_x(&archive)) };
    let images = open(&mut archive, x, file_bytes, images).context(|| "array x".to_string())?;
    let count = images.len();
    let labels = (names[1].as_ref())
        .map(|y| open(&mut archive, y, file_bytes, |entry, header| labels(entry, header, count)))
        .transpose()
        .context(|| "array y".to_string())?;
    Ok((images, labels))
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
fn row_major<T: Clone>(dims: [usize; 4], order: Order, elements: Vec<T>) -> Result<Array4<T>> {
    let array = Array4::from_shape_vec(dims.set_f(order == Order::ColumnMajor), elements)
        .map_err(|e| Error::malformed(format!("an array that cannot be: {e}")).caused_by(e))?;
    match array.is_standard_layout() {
        true => Ok(array),
        false => Ok(array.as_standard_layout().into_owned()),
    }
}

/// Reads `y`, one class index for each of `count` images.
fn labels(mut reader: &mut dyn Read, header: &Header, count: usize) -> Result<Vec<usize>> {
    let element = header.element;
    if !matches!(element.kind, Number::Signed | Number::Unsigned) {
        return Err(Error::unsupported(format!("{element} labels; expected integers"))
            .hint("convert them with y.astype('int64') before np.savez"));
    }
    if !matches!(header.shape[..], [n] | [n, 1] if n == count) {
        return Err(Error::mismatch(format!(
            "labels of shape {} for {count} images; expected [{count}]",
            header.shape,
        )));
    }
    let decode = |bytes: &[u8]| npy::integer(bytes, element);
    let values = npy::read_elements(&mut reader, count, element.bytes, decode)?;
    values.into_iter().enumerate().map(|(index, value)| label(index, value)).collect()
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
