//! Files of `torch.save`: the zip archive of PyTorch 1.6 and later, and the stream before it.
//!
//! Opening one runs its pickle and finds where the elements of tensors are; they are read when
//! asked for. A storage is read only if the file has as many bytes as it claims, and what is read
//! in all is bounded by a multiple of the file's length.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Element, PICKLE_BYTES_MAX, Pickle, Storage, TensorRef, Value};
use crate::error::{Context, Error, Kind, Result};
use crate::prior::file::half_to_f32;
use crate::tensor::Shape;

/// What a reader of files needs.
pub(super) trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// The number at the beginning of the older format.
const LEGACY_MAGIC: i128 = 0x1950_A86A_20F9_469C_FC6C;
/// The version of the older format.
const LEGACY_VERSION: i128 = 1001;
/// Elements and bytes that may be read in all, for each byte of the file. A file without overlaps
/// needs 2 at most, where an element is a byte.
const READS_MAX: u64 = 3;
/// Bytes decoded at a time: a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 16;

/// A file of `torch.save`.
pub(super) struct TorchFile<'a> {
    pickle: Pickle,
    container: Container<'a>,
    /// How much may still be read.
    left: u64,
    /// The storage of the last tensor that was only a part of one.
    cached: Option<(Storage, Vec<u8>)>,
}

enum Container<'a> {
    /// The archive, and what comes before the names of its entries.
    Zip(Box<ZipArchive<Box<dyn Source + 'a>>>, String),
    /// The file, and where the storages begin: in bytes, and how many elements each has.
    Legacy(Box<dyn Source + 'a>, HashMap<String, (u64, usize)>),
}

impl<'a> TorchFile<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is no file of `torch.save`, or its pickle is not what [`Pickle::run`] accepts.
    pub(super) fn open(mut source: Box<dyn Source + 'a>) -> Result<Self> {
        let len = source.seek(SeekFrom::End(0)).map_err(unreadable)?;
        source.rewind().map_err(unreadable)?;
        let mut magic = [0; 4];
        let is_zip = source.read_exact(&mut magic).is_ok() && magic == *b"PK\x03\x04";
        source.rewind().map_err(unreadable)?;
        let (pickle, container) = if is_zip { open_zip(source)? } else { open_legacy(source)? };
        Ok(TorchFile { pickle, container, left: len.saturating_mul(READS_MAX), cached: None })
    }

    pub(super) fn pickle(&self) -> &Pickle {
        &self.pickle
    }

    /// Calls `each` with the elements of a tensor in row-major order.
    ///
    /// # Errors
    /// When the tensor reaches over the end of its storage, or the file does not hold it.
    pub(super) fn read(&mut self, tensor: &TensorRef, mut each: impl FnMut(f64)) -> Result<()> {
        let len = tensor.checked_len()?;
        if len == 0 {
            return Ok(());
        }
        let storage = &tensor.storage;
        self.spend(len as u64)?;
        if tensor.offset == 0 && len == storage.len && tensor.is_contiguous() {
            self.spend((len * storage.element.bytes()) as u64)?;
            return self.stream(storage, |bytes| decode(storage.element, bytes, &mut each));
        }
        let is_cached = self.cached.as_ref().is_some_and(|(cached, _)| cached.is_same(storage));
        if !is_cached {
            self.cached = None;
            let bytes = storage.checked_bytes()?;
            self.spend(bytes as u64)?;
            // Grows with what the file holds, whatever it claims.
            let mut data = Vec::new();
            self.stream(storage, |bytes| data.extend_from_slice(bytes))?;
            self.cached = Some((storage.clone(), data));
        }
        let (_, data) = self.cached.as_ref().expect("cached above");
        let size = storage.element.bytes();
        tensor.indices(|index| decode(storage.element, &data[index * size..][..size], &mut each));
        Ok(())
    }

    fn spend(&mut self, amount: u64) -> Result<()> {
        let left = self.left.checked_sub(amount);
        self.left = left.ok_or_else(|| {
            Error::malformed("its tensors claim far more elements than the file has bytes")
                .hint("save a contiguous copy of each tensor")
        })?;
        Ok(())
    }

    /// Calls `each` with the bytes of a storage, some at a time.
    fn stream(&mut self, storage: &Storage, mut each: impl FnMut(&[u8])) -> Result<()> {
        let wanted = storage.checked_bytes()?;
        let scene = || format!("storage '{}'", storage.key.escape_debug());
        match &mut self.container {
            Container::Zip(archive, root) => {
                let mut entry = entry(archive, &format!("{root}data/{}", storage.key))?;
                if entry.size() != wanted as u64 {
                    return Err(Error::malformed(format!(
                        "its entry has {} bytes; expected {wanted}",
                        entry.size()
                    )))
                    .context(scene);
                }
                chunks(&mut entry, wanted, &mut each).context(scene)?;
                // Reading to the end verifies the checksum.
                entry.read(&mut [0]).map_err(unreadable).context(scene)?;
                Ok(())
            }
            Container::Legacy(source, storages) => {
                let found = storages.get(&storage.key).filter(|(_, len)| *len == storage.len);
                let (at, _) = *found.ok_or_else(|| absent(&storage.key))?;
                source.seek(SeekFrom::Start(at)).map_err(unreadable)?;
                chunks(source, wanted, &mut each).context(scene)
            }
        }
    }
}

fn chunks(reader: &mut impl Read, mut left: usize, each: &mut impl FnMut(&[u8])) -> Result<()> {
    let mut bytes = vec![0; CHUNK_BYTES.min(left)];
    while left > 0 {
        let chunk = bytes.len().min(left);
        reader.read_exact(&mut bytes[..chunk]).map_err(unreadable)?;
        each(&bytes[..chunk]);
        left -= chunk;
    }
    Ok(())
}

impl Storage {
    fn checked_bytes(&self) -> Result<usize> {
        let bytes = self.len.checked_mul(self.element.bytes());
        bytes
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or_else(|| Error::malformed(format!("a storage claims {} elements", self.len)))
    }

    /// Whether it has the same bytes.
    fn is_same(&self, other: &Storage) -> bool {
        self.key == other.key && self.len == other.len && self.element == other.element
    }
}

impl TensorRef {
    /// Number of elements, once it is certain that all of them lie in the storage and that there
    /// are not more of them than the storage has.
    fn checked_len(&self) -> Result<usize> {
        let shape = Shape::from(self.shape.as_slice());
        let len = shape.checked_len()?;
        if len == 0 {
            return Ok(0);
        }
        let mut steps = self.shape.iter().zip(&self.strides);
        let last = steps.try_fold(self.offset, |sum, (&extent, &stride)| {
            sum.checked_add((extent - 1).checked_mul(stride)?)
        });
        if last.is_none_or(|last| last >= self.storage.len) || len > self.storage.len {
            let message = format!(
                "a tensor of shape {shape}, strides {:?} and offset {} does not fit its storage \
                 of {} elements",
                self.strides, self.offset, self.storage.len
            );
            return Err(Error::malformed(message).hint("save a contiguous copy of it"));
        }
        Ok(len)
    }

    fn is_contiguous(&self) -> bool {
        let expected = Shape::from(self.shape.as_slice()).strides();
        let mut axes = self.shape.iter().zip(self.strides.iter().zip(&expected));
        axes.all(|(&extent, (stride, expected))| extent == 1 || stride == expected)
    }

    /// Calls `each` with the place of every element in the storage, in row-major order.
    fn indices(&self, mut each: impl FnMut(usize)) {
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        loop {
            each(at);
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.shape[axis] * self.strides[axis];
                index[axis] = 0;
            }
        }
    }
}

/// Calls `each` with the numbers that some bytes stand for, whole numbers beyond 2⁵³ rounded.
fn decode(element: Element, bytes: &[u8], each: &mut impl FnMut(f64)) {
    fn all<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f64, each: &mut impl FnMut(f64)) {
        bytes.as_chunks().0.iter().for_each(|&bytes| each(one(bytes)));
    }
    match element {
        Element::F64 => all(bytes, f64::from_le_bytes, each),
        Element::F32 => all(bytes, |b| f64::from(f32::from_le_bytes(b)), each),
        Element::F16 => all(bytes, |b| f64::from(half_to_f32(u16::from_le_bytes(b))), each),
        Element::BF16 => all(bytes, |[a, b]| f64::from(f32::from_le_bytes([0, 0, a, b])), each),
        Element::I64 => all(bytes, |b| i64::from_le_bytes(b) as f64, each),
        Element::I32 => all(bytes, |b| f64::from(i32::from_le_bytes(b)), each),
        Element::I16 => all(bytes, |b| f64::from(i16::from_le_bytes(b)), each),
        Element::I8 => all(bytes, |b| f64::from(i8::from_le_bytes(b)), each),
        Element::U8 | Element::Bool => all(bytes, |[b]| f64::from(b), each),
    }
}

fn open_zip<'a>(source: Box<dyn Source + 'a>) -> Result<(Pickle, Container<'a>)> {
    const PICKLE: &str = "data.pkl";
    let mut archive = ZipArchive::new(source).map_err(not_an_archive)?;
    let names: Vec<String> =
        archive.file_names().filter_map(|n| Some(n.ok()?.to_string())).collect();
    let root = names.iter().find_map(|name| name.strip_suffix(PICKLE));
    let root = root.filter(|root| root.is_empty() || root.ends_with('/')).ok_or_else(|| {
        Error::malformed("the archive has no data.pkl").hint("expected a file of torch.save")
    })?;
    let root = root.to_string();
    if names.contains(&format!("{root}byteorder")) {
        let order = read_entry(&mut archive, &format!("{root}byteorder"), 16)?;
        if order != b"little" {
            return Err(Error::unsupported("its numbers are big-endian"));
        }
    }
    let bytes = read_entry(&mut archive, &format!("{root}{PICKLE}"), PICKLE_BYTES_MAX)?;
    let (pickle, _) = Pickle::run(&bytes)?;
    Ok((pickle, Container::Zip(Box::new(archive), root)))
}

/// The entry called `name`, stored as it is, which `torch.save` does to all.
fn entry<'a, R: Read + Seek>(
    archive: &'a mut ZipArchive<R>,
    name: &str,
) -> Result<zip::read::ZipFile<'a, R>> {
    let entry = archive.by_name(name).map_err(|e| match e {
        ZipError::FileNotFound => absent(name),
        e => not_an_archive(e),
    })?;
    match entry.compression() {
        CompressionMethod::Stored => Ok(entry),
        other => Err(Error::unsupported(format!("entry '{name}' is compressed with {other}"))
            .hint("expected a file of torch.save, which compresses nothing")),
    }
}

fn read_entry<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    bytes_max: u64,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let entry = entry(archive, name)?;
    if entry.size() > bytes_max {
        let message = format!("entry '{name}' has {} bytes", entry.size());
        return Err(Error::unsupported(message).hint(format!("expected {bytes_max} at most")));
    }
    entry.take(bytes_max).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Five pickles (a magic number, a version, the machine, the object, the storages' names), then for
/// each storage the number of its elements and the elements.
fn open_legacy<'a>(mut source: Box<dyn Source + 'a>) -> Result<(Pickle, Container<'a>)> {
    let mut bytes = Vec::new();
    (&mut source).take(PICKLE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    let mut at = 0;
    let mut next = || {
        let (pickle, len) = Pickle::run(&bytes[at..])?;
        at += len;
        Ok(pickle)
    };
    let is = |pickle: &Pickle, number| match pickle.get(pickle.root()) {
        Value::Int(found) => *found == number,
        _ => false,
    };
    let begins = next().is_ok_and(|magic: Pickle| is(&magic, LEGACY_MAGIC));
    if !begins || !is(&next()?, LEGACY_VERSION) {
        return Err(Error::malformed("not a file of torch.save"));
    }
    if is_big_endian(&next()?) {
        return Err(Error::unsupported("its numbers are big-endian"));
    }
    let (object, keys) = (next()?, next()?);
    let storages = find_storages(&mut source, at as u64, &object, &keys)?;
    Ok((object, Container::Legacy(source, storages)))
}

/// Whether the description of the machine that wrote a file says so.
fn is_big_endian(machine: &Pickle) -> bool {
    let Value::Dict(facts) = machine.get(machine.root()) else { return false };
    facts.iter().any(|&(key, value)| {
        machine.text(key) == Some("little_endian")
            && matches!(machine.get(value), Value::Bool(false))
    })
}

/// Where each storage of `keys` begins in bytes, the first one's length at `begin`, and how many
/// elements it has.
fn find_storages(
    source: &mut dyn Source,
    mut begin: u64,
    object: &Pickle,
    keys: &Pickle,
) -> Result<HashMap<String, (u64, usize)>> {
    let mut elements = HashMap::new();
    for value in object.values() {
        if let Value::Storage(storage) = value {
            elements.insert(storage.key.as_str(), storage.element);
        }
    }
    let Value::List(list) = keys.get(keys.root()) else {
        return Err(Error::malformed("the list of storages is missing"));
    };
    let mut storages = HashMap::new();
    for &key in list {
        let key = keys.text(key).unwrap_or_default();
        let element = elements.get(key).ok_or_else(|| absent(key))?;
        let mut len = [0; 8];
        source.seek(SeekFrom::Start(begin)).map_err(unreadable)?;
        source.read_exact(&mut len).map_err(unreadable)?;
        let len = usize::try_from(i64::from_le_bytes(len)).unwrap_or(usize::MAX);
        storages.insert(key.to_string(), (begin + 8, len));
        let end = len.checked_mul(element.bytes()).and_then(|bytes| u64::try_from(bytes).ok());
        begin =
            end.and_then(|bytes| begin.checked_add(8)?.checked_add(bytes)).ok_or_else(|| {
                Error::malformed(format!("storage '{}' claims {len} elements", key.escape_debug()))
            })?;
    }
    Ok(storages)
}

#[cold]
fn absent(what: &str) -> Error {
    Error::malformed(format!("the file does not hold '{}'", what.escape_debug()))
}

#[cold]
fn not_an_archive(cause: ZipError) -> Error {
    Error::malformed(format!("not a readable archive: {cause}")).caused_by(cause)
}

#[cold]
fn unreadable(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::malformed("the file is cut short").caused_by(e),
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
            Error::malformed(format!("the file is damaged: {e}")).caused_by(e)
        }
        _ => Error::new(Kind::Io, format!("cannot read: {e}")).caused_by(e),
    }
}
