//! The prior file.
//!
//! A safetensors file in which, for a prior of rank K over P parameters:
//!
//! 1. The metadata MUST have one key, `priorfit`, and its value MUST be the JSON of a [`Header`]
//!    with its fields in the order of their names and no others.
//! 2. `version` MUST be [`VERSION`](super::VERSION), without `blocks` in the header, or
//!    [`VERSION_BLOCKS`](super::VERSION_BLOCKS), with; a reader MUST refuse any other before
//!    reading further.
//! 3. For each parameter called `name` there MUST be `mean/name` and `var/name` of one shape, and,
//!    when K > 0, `dev/name` of the shape `[K, ...]`, K being its block's rank. `name` MUST NOT
//!    be empty and MAY hold `/`. No other tensor MUST be present.
//! 4. K MUST NOT be 1 (its divisor K - 1 is 0) nor above [`MAX_RANK`](super::MAX_RANK). P MUST be
//!    at least 1 and every parameter MUST have at least one element.
//!    `blocks` MUST name every parameter once, K MUST be one number in a block, and `rank` MUST be
//!    the largest.
//! 5. Every number MUST be finite, every `var` at least 0, and `var/2 + eps` MUST be at least the
//!    smallest normal `f32`, so that its inverse is a finite `f32`.
//! 6. A writer MUST store little-endian F32, tensors sorted by their full names without gaps. One
//!    prior has one file, byte for byte. A reader MUST also accept F64, F16 and BF16, in any order.
//! 7. The JSON of the container MUST NOT exceed [`HEADER_BYTES_MAX`], and the file MUST end where
//!    its last tensor ends. A reader MUST establish both before it allocates for tensors.
//!
//! The covariance these tensors stand for is written in `convention`, and the strength λ is not
//! stored: it belongs to a run, not to a prior.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use super::{Header, Parameter, Prior, elements};
use crate::atomic_file;
use crate::error::{Context, Error, Result};
use crate::tensor::{Shape, Tensor, tensor};

/// The largest accepted JSON header of the container, in bytes; enough for 100 000 tensors.
pub const HEADER_BYTES_MAX: u64 = 16 << 20;

/// The key of the metadata that holds the [`Header`].
const KEY: &str = "priorfit";

/// Bytes decoded at a time: a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 16;

impl Prior {
    /// Reads a prior file.
    ///
    /// # Errors
    /// When the file cannot be read, or breaks a rule of the format; the error names the file and
    /// the tensor.
    pub fn load(path: &Path) -> Result<Self> {
        let scene = || format!("prior file {}", path.display());
        let open = || {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok((BufReader::new(file), len))
        };
        let (reader, len) = open().map_err(|source| Error::io("cannot read", path, source))?;
        read(reader, len).context(scene)
    }

    /// Reads a prior from the bytes of a file.
    ///
    /// # Errors
    /// As [`Prior::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        read(bytes, bytes.len() as u64)
    }

    /// Writes the prior's file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; what was at `path` before is then unchanged.
    pub fn save(&self, path: &Path) -> Result<()> {
        let head = self.head()?;
        atomic_file::write(path, |writer| self.write(&head, writer))
    }

    /// The bytes of the prior's file.
    ///
    /// # Errors
    /// When the container's header exceeds its limit.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let written = self.head().map(|head| self.write(&head, &mut bytes))?;
        written.map_err(|e| Error::internal("writing to memory failed").caused_by(e))?;
        Ok(bytes)
    }

    /// SHA-256 of the prior's file, as 64 lower-case hex digits.
    ///
    /// # Errors
    /// As for [`Prior::to_bytes`].
    pub fn fingerprint(&self) -> Result<String> {
        /// Takes what is written to it.
        struct Hash(Sha256);
        impl Write for Hash {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut hash = Hash(Sha256::new());
        let written = self.head().map(|head| self.write(&head, &mut hash))?;
        written.map_err(|e| Error::internal("hashing failed").caused_by(e))?;
        Ok(hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Everything in front of the tensors' data.
    fn head(&self) -> Result<Vec<u8>> {
        let metadata = HashMap::from([(KEY.to_string(), self.header().to_json()?)]);
        let mut end = 0;
        let infos = self.tensors().into_iter().map(|(name, tensor)| {
            let start = end;
            end += 4 * tensor.len();
            let shape = tensor.shape().to_vec();
            (name, TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
        });
        let json = Metadata::new(Some(metadata), infos.collect())
            .map_err(|e| e.to_string())
            .and_then(|metadata| serde_json::to_string(&metadata).map_err(|e| e.to_string()))
            .map_err(|e| Error::internal(format!("the container's header is valid: {e}")))?;
        // The data starts at a multiple of 8 bytes, which the format asks of writers.
        let len = json.len().next_multiple_of(8);
        if len as u64 > HEADER_BYTES_MAX {
            let message = format!("the prior's names and notes take {len} bytes");
            let hint = format!("expected {HEADER_BYTES_MAX} at most; shorten the notes");
            return Err(Error::unsupported(message).hint(hint));
        }
        let mut head = (len as u64).to_le_bytes().to_vec();
        head.extend_from_slice(json.as_bytes());
        head.resize(8 + len, b' ');
        Ok(head)
    }

    fn write(&self, head: &[u8], writer: &mut dyn Write) -> io::Result<()> {
        writer.write_all(head)?;
        let mut bytes = vec![0; CHUNK_BYTES];
        for (_, tensor) in self.tensors() {
            for chunk in elements(tensor).chunks(CHUNK_BYTES / 4) {
                let places = bytes.as_chunks_mut().0.iter_mut();
                places.zip(chunk).for_each(|(place, x)| *place = x.to_le_bytes());
                writer.write_all(&bytes[..4 * chunk.len()])?;
            }
        }
        Ok(())
    }

    /// All tensors by their full names, sorted.
    fn tensors(&self) -> BTreeMap<String, &Tensor> {
        let of = |p: &'_ Parameter, part: &str| format!("{part}/{}", p.name());
        let mut tensors = BTreeMap::new();
        for parameter in self.parameters() {
            tensors.insert(of(parameter, "mean"), &parameter.mean);
            tensors.insert(of(parameter, "var"), &parameter.var);
            parameter.dev.iter().for_each(|dev| {
                tensors.insert(of(parameter, "dev"), dev);
            });
        }
        tensors
    }
}

/// Reads a prior from `len` bytes.
fn read(mut reader: impl Read, len: u64) -> Result<Prior> {
    let metadata = read_metadata(&mut reader, len)?;
    let json = metadata.metadata().as_ref().and_then(|entries| match entries.len() {
        1 => entries.get(KEY),
        _ => None,
    });
    let json = json.ok_or_else(|| {
        Error::malformed(format!("the metadata does not hold the one key '{KEY}'"))
            .hint("expected a prior file; import other files as foreign priors")
    })?;
    let header = Header::from_json(json)?;
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    for full_name in metadata.offset_keys() {
        let info = metadata.info(&full_name).expect("invariant: every key has its info");
        let scene = || format!("tensor '{full_name}'");
        let (part, name) = full_name
            .split_once('/')
            .ok_or_else(|| Error::malformed("not a part of a prior"))
            .context(scene)?;
        let slot = match part {
            "mean" => 0,
            "var" => 1,
            "dev" => 2,
            _ => return Err(Error::malformed("not a mean, var or dev")).context(scene),
        };
        let tensor = read_tensor(&mut reader, info).context(scene)?;
        parts.entry(name.to_string()).or_default()[slot] = Some(tensor);
    }
    let parameters = parts.into_iter().map(|(name, parts)| assemble(name, parts));
    Prior::new(header, parameters.collect::<Result<_>>()?)
}

/// Mean, var and dev of one parameter.
type Parts = [Option<Tensor>; 3];

fn assemble(name: String, parts: Parts) -> Result<Parameter> {
    match parts {
        [Some(mean), Some(var), dev] => Ok(Parameter::new(name, mean, var, dev)),
        [mean, ..] => {
            let absent = if mean.is_none() { "mean" } else { "var" };
            Err(Error::malformed(format!("tensor '{absent}/{name}' is missing")))
        }
    }
}

/// Reads the container's header and checks that its tensors fill the rest of the `len` bytes.
fn read_metadata(reader: &mut impl Read, len: u64) -> Result<Metadata> {
    let mut prefix = [0; 8];
    fill(reader, &mut prefix)?;
    let header_bytes = u64::from_le_bytes(prefix);
    let room = len.saturating_sub(8);
    if header_bytes > HEADER_BYTES_MAX || header_bytes > room {
        return Err(Error::malformed(format!("its header claims {header_bytes} bytes"))
            .hint(format!("expected the file's {len} at most, and at most {HEADER_BYTES_MAX}")));
    }
    let mut json = vec![0; header_bytes as usize];
    fill(reader, &mut json)?;
    let metadata: Metadata = serde_json::from_slice(&json).map_err(|e| {
        Error::malformed(format!("its header is not that of a safetensors file: {e}")).caused_by(e)
    })?;
    let present = room - header_bytes;
    let claimed = metadata.data_len();
    if claimed as u64 != present {
        return Err(Error::malformed(format!("its tensors take {claimed} bytes"))
            .hint(format!("expected the {present} bytes after the header; is it cut short?")));
    }
    Ok(metadata)
}

fn read_tensor(reader: &mut impl Read, info: &TensorInfo) -> Result<Tensor> {
    let decode = decoder(info.dtype)?;
    let shape = Shape::from(info.shape.as_slice());
    let len = shape.checked_len()?;
    let mut data = Vec::with_capacity(len);
    let mut left = len * info.dtype.bitsize() / 8;
    let mut bytes = vec![0; CHUNK_BYTES.min(left)];
    while left > 0 {
        let chunk = bytes.len().min(left);
        fill(reader, &mut bytes[..chunk])?;
        decode(&bytes[..chunk], &mut data);
        left -= chunk;
    }
    tensor(&shape, data)
}

/// Appends the elements that some bytes stand for.
type Decode = fn(&[u8], &mut Vec<f32>);

fn decoder(dtype: Dtype) -> Result<Decode> {
    match dtype {
        Dtype::F32 => Ok(|bytes, out| decode(bytes, out, f32::from_le_bytes)),
        Dtype::F64 => Ok(|bytes, out| decode(bytes, out, |b| f64::from_le_bytes(b) as f32)),
        Dtype::F16 => Ok(|bytes, out| decode(bytes, out, |b| half_to_f32(u16::from_le_bytes(b)))),
        Dtype::BF16 => {
            Ok(|bytes, out| decode(bytes, out, |[a, b]| f32::from_le_bytes([0, 0, a, b])))
        }
        other => Err(Error::unsupported(format!("its elements are {other}"))
            .hint("expected F32, F64, F16 or BF16")),
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, one: impl Fn([u8; N]) -> f32) {
    out.extend(bytes.as_chunks().0.iter().map(|&element| one(element)));
}

fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> Result<()> {
    reader.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::malformed("the file is cut short").caused_by(e),
        _ => Error::new(crate::error::Kind::Io, format!("cannot read: {e}")).caused_by(e),
    })
}

/// IEEE 754 binary16 to binary32, exactly.
pub(in crate::prior) fn half_to_f32(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1F), f32::from(bits & 0x3FF) / 1024.0);
    sign * match exponent {
        0 => fraction * 2f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests;
