//! Tensor data outside the ONNX file, and nowhere outside its folder.
//!
//! A tensor may name a file beside the model, an offset and a length. The name must stay inside
//! the folder, also through symbolic links, and the bytes must exist before they are allocated.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use tract_onnx::pb::TensorProto;

use crate::error::{Error, Result};

/// The `expected` bytes of `proto` from a file in `folder`.
///
/// # Errors
/// When the location leaves the folder, or the file does not hold these bytes.
pub(super) fn read(proto: &TensorProto, folder: &Path, expected: usize) -> Result<Vec<u8>> {
    let location = entry(proto, "location")
        .ok_or_else(|| Error::malformed("its external data has no location"))?;
    let path = contained(folder, location)?;
    let offset = number(proto, "offset")?.unwrap_or(0);
    let length = number(proto, "length")?.unwrap_or(expected as u64);
    if length != expected as u64 {
        return Err(Error::malformed(format!("{length} bytes outside; expected {expected}")));
    }
    let mut file = File::open(&path).map_err(|e| Error::io("opening", &path, e))?;
    let held = file.metadata().map_err(|e| Error::io("reading", &path, e))?.len();
    if offset.checked_add(length).is_none_or(|end| end > held) {
        return Err(Error::malformed(format!(
            "{length} bytes at {offset} of {location}, which holds {held}"
        ))
        .hint("fetch the external data file again"));
    }
    let mut bytes = vec![0; expected];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|e| Error::io("reading", &path, e))?;
    Ok(bytes)
}

fn entry<'a>(proto: &'a TensorProto, key: &str) -> Option<&'a str> {
    proto.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}

fn number(proto: &TensorProto, key: &str) -> Result<Option<u64>> {
    entry(proto, key)
        .map(|text| {
            text.parse().map_err(|_| Error::malformed(format!("its {key} '{text}' is no number")))
        })
        .transpose()
}

/// The file `location` names, proven to lie in `folder`.
fn contained(folder: &Path, location: &str) -> Result<PathBuf> {
    let relative = Path::new(location);
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    let outside =
        || Error::malformed(format!("external data '{location}' lies outside the model's folder"));
    if location.is_empty() || !relative.components().all(plain) {
        return Err(outside());
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = folder.canonicalize().map_err(|e| Error::io("finding", folder, e))?;
    let joined = folder.join(relative);
    let path = joined.canonicalize().map_err(|e| Error::io("finding", &joined, e))?;
    match path.starts_with(&folder) && path.is_file() {
        true => Ok(path),
        false => Err(outside()),
    }
}
