//! Files of arrays with a record, in which no damage goes unnoticed.
//!
//! A safetensors file whose metadata have one key, `priorfit`, with a record as JSON. After all
//! other tensors stands `digest`, the SHA-256 of every byte before it. It is replaced whole or not
//! at all, and arrays are written one by one, so that no second copy of them is made.

mod moments;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Write};
use std::path::Path;

use ndarray::{Array2, Ix2};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

pub(super) use self::moments::arrays_of;
use crate::atomic_file;
use crate::error::{Context, Error, Result};
use crate::prior::Weights;
use crate::tensor::{Shape, Tensor, contiguous, tensor};

/// The key of the metadata that holds the record.
const KEY: &str = "priorfit";

/// The last tensor, and its bytes.
const DIGEST: &str = "digest";
const DIGEST_BYTES: usize = 32;

/// Bytes written at a time: a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 16;

/// Arrays by name.
pub(super) type Arrays<'a> = BTreeMap<String, Array<'a>>;

/// An array to be written.
pub(super) struct Array<'a> {
    shape: Vec<usize>,
    data: Data<'a>,
}

enum Data<'a> {
    Singles(Cow<'a, [f32]>),
    Doubles(Cow<'a, [f64]>),
    Rows(&'a VecDeque<Vec<f32>>),
    /// What is fetched when its turn comes.
    Later(Box<dyn Fn() -> Result<Vec<f32>> + 'a>),
}

impl<'a> Array<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> Self {
        Array { shape: tensor.shape().to_vec(), data: Data::Singles(contiguous(tensor)) }
    }

    pub(super) fn doubles(values: &'a [f64]) -> Self {
        Array { shape: vec![values.len()], data: Data::Doubles(values.into()) }
    }

    /// A whole number.
    pub(super) fn number(x: f64) -> Self {
        Array { shape: vec![1], data: Data::Doubles(vec![x].into()) }
    }

    pub(super) fn matrix(values: &'a Array2<f32>) -> Self {
        let flat = match values.as_slice() {
            Some(slice) => slice.into(),
            None => values.iter().copied().collect::<Vec<_>>().into(),
        };
        Array { shape: values.shape().to_vec(), data: Data::Singles(flat) }
    }

    /// Rows of one length.
    pub(super) fn rows(rows: &'a VecDeque<Vec<f32>>) -> Self {
        let shape = vec![rows.len(), rows.front().map_or(0, Vec::len)];
        Array { shape, data: Data::Rows(rows) }
    }

    /// `len` numbers that `fetch` gives when they are wanted.
    pub(super) fn later(len: usize, fetch: impl Fn() -> Result<Vec<f32>> + 'a) -> Self {
        Array { shape: vec![len], data: Data::Later(Box::new(fetch)) }
    }

    fn dtype(&self) -> Dtype {
        match self.data {
            Data::Doubles(_) => Dtype::F64,
            Data::Singles(_) | Data::Rows(_) | Data::Later(_) => Dtype::F32,
        }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }

    fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        match &self.data {
            Data::Singles(values) => write_all(values, |x| x.to_le_bytes(), writer),
            Data::Doubles(values) => write_all(values, |x| x.to_le_bytes(), writer),
            Data::Rows(rows) => {
                rows.iter().try_for_each(|row| write_all(row, |x| x.to_le_bytes(), writer))
            }
            Data::Later(fetch) => {
                let values = fetch().map_err(io::Error::other)?;
                if self.shape != [values.len()] {
                    return Err(io::Error::other("an array has another length than was said"));
                }
                write_all(&values, |x| x.to_le_bytes(), writer)
            }
        }
    }
}

fn write_all<T: Copy, const N: usize>(
    values: &[T],
    bytes_of: impl Fn(T) -> [u8; N],
    writer: &mut dyn Write,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK_BYTES.min(values.len() * N));
    for chunk in values.chunks(CHUNK_BYTES / N) {
        bytes.clear();
        chunk.iter().for_each(|&x| bytes.extend_from_slice(&bytes_of(x)));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

/// Adds weights under names that begin with `prefix`.
pub(super) fn put_weights<'a>(arrays: &mut Arrays<'a>, prefix: &str, weights: &'a Weights) {
    arrays.extend(weights.iter().map(|(name, w)| (format!("{prefix}{name}"), Array::of(w))));
}

/// Puts a file with `record` and `arrays` at `path`, in the place of the last.
///
/// # Errors
/// When it cannot be written; what was there is then unchanged.
pub(super) fn write(path: &Path, record: &impl Serialize, arrays: &Arrays<'_>) -> Result<()> {
    let head = head(record, arrays)?;
    atomic_file::write(path, |writer| {
        let mut hashing = Hashing { writer, digest: Sha256::new() };
        hashing.write_all(&head)?;
        arrays.values().try_for_each(|array| array.write(&mut hashing))?;
        let Hashing { writer, digest } = hashing;
        writer.write_all(&digest.finalize())
    })
}

/// Everything in front of the arrays' data.
fn head(record: &impl Serialize, arrays: &Arrays<'_>) -> Result<Vec<u8>> {
    let internal = |e: String| Error::internal(format!("an archive's header is valid: {e}"));
    let json = serde_json::to_string(record).map_err(|e| internal(e.to_string()))?;
    let mut end = 0;
    let mut place = |name: &str, dtype: Dtype, shape: Vec<usize>, bytes: usize| {
        let start = end;
        end += bytes;
        (name.to_string(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    };
    let mut infos: Vec<_> = arrays
        .iter()
        .map(|(name, array)| place(name, array.dtype(), array.shape.clone(), array.bytes()))
        .collect();
    infos.push(place(DIGEST, Dtype::U8, vec![DIGEST_BYTES], DIGEST_BYTES));
    let metadata = Some(HashMap::from([(KEY.to_string(), json)]));
    let metadata = Metadata::new(metadata, infos).map_err(|e| internal(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| internal(e.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes(), &json[..]].concat())
}

/// Hashes what passes through it.
struct Hashing<'a> {
    writer: &'a mut dyn Write,
    digest: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A file that was read, and is whole.
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Where the arrays' data begin.
    data: usize,
    metadata: Metadata,
}

impl Archive {
    /// # Errors
    /// When the file cannot be read; of kind [`Malformed`](crate::error::Kind::Malformed) when it
    /// is no archive or not as it was written.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("cannot read", path, e))?;
        Self::from_bytes(bytes).context(|| path.display().to_string())
    }

    pub(super) fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let (head, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| Error::malformed(format!("not a safetensors file: {e}")).caused_by(e))?;
        let data = size_of::<u64>() + head;
        let is_whole = metadata.info(DIGEST).is_some_and(|digest| {
            let (start, end) = (data + digest.data_offsets.0, data + digest.data_offsets.1);
            end == bytes.len() && Sha256::digest(&bytes[..start])[..] == bytes[start..]
        });
        match is_whole {
            true => Ok(Archive { bytes, data, metadata }),
            false => Err(Error::malformed("the file is damaged: its digest is another")),
        }
    }

    /// The record.
    pub(super) fn record<R: DeserializeOwned>(&self) -> Result<R> {
        let json = self.metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let json = json.ok_or_else(|| Error::malformed(format!("its metadata have no '{KEY}'")))?;
        serde_json::from_str(json).map_err(|e| {
            Error::malformed(format!("its metadata are not as expected: {e}")).caused_by(e)
        })
    }

    /// Whether it has an array of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    fn elements<const N: usize>(&self, name: &str, dtype: Dtype) -> Result<(&[usize], &[[u8; N]])> {
        let info = self.metadata.info(name);
        let info = info.ok_or_else(|| Error::malformed(format!("no tensor '{name}'")))?;
        if info.dtype != dtype {
            let message = format!("tensor '{name}' is of {:?}; expected {dtype:?}", info.dtype);
            return Err(Error::malformed(message));
        }
        let (start, end) = info.data_offsets;
        Ok((&info.shape, self.bytes[self.data + start..self.data + end].as_chunks().0))
    }

    /// Finite numbers, flat.
    pub(super) fn singles(&self, name: &str) -> Result<Vec<f32>> {
        let (_, elements) = self.elements(name, Dtype::F32)?;
        let values: Vec<f32> = elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(Error::malformed(format!("tensor '{name}' is not of finite numbers"))),
        }
    }

    /// The same in double precision, finite or not.
    pub(super) fn doubles(&self, name: &str) -> Result<Vec<f64>> {
        let (_, elements) = self.elements(name, Dtype::F64)?;
        Ok(elements.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<usize> {
        match self.doubles(name)?[..] {
            [x] if x >= 0.0 && x.fract() == 0.0 => Ok(x as usize),
            _ => Err(Error::malformed(format!("tensor '{name}' is no whole number"))),
        }
    }

    /// Finite numbers in their shape.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        let (shape, _) = self.elements::<4>(name, Dtype::F32)?;
        tensor(&Shape::from(shape), self.singles(name)?)
    }

    /// Finite numbers in rows.
    pub(super) fn matrix(&self, name: &str) -> Result<Array2<f32>> {
        let matrix = self.tensor(name)?.into_dimensionality::<Ix2>();
        matrix
            .map(|matrix| matrix.into_owned())
            .map_err(|e| Error::malformed(format!("tensor '{name}' is no matrix")).caused_by(e))
    }

    /// Weights under names that begin with `prefix`, which are those of `like`, and of its shapes.
    pub(super) fn weights(&self, prefix: &str, like: &Weights) -> Result<Weights> {
        let one = |(name, like): (&String, &Tensor)| {
            let weight = self.tensor(&format!("{prefix}{name}"))?;
            match weight.shape() == like.shape() {
                true => Ok((name.clone(), weight)),
                false => Err(Error::malformed(format!("'{prefix}{name}' has another shape"))),
            }
        };
        like.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests;
