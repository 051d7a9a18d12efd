//! Tensor data outside the ONNX file, and nowhere outside its folder: read and written.
//!
//! A tensor may name a file beside the model, an offset and a length. The name must stay inside
//! the folder, also through symbolic links, and the bytes must exist before they are allocated.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use prost::Message;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};

use super::Model;
use crate::atomic_file::{self, is_named_by_content, name_by_content};
use crate::error::{Error, Result};

/// Tensors of fewer bytes stay in the file.
const OUTSIDE_MIN: usize = 1024;
/// What offsets are multiples of, so that readers can map the file.
const ALIGNMENT: usize = 4096;
/// What the names of files written here end in.
const EXTENSION: &str = "data";

impl Model {
    /// Writes the model to `path`, whole or not at all; with `external_data` the elements of large
    /// tensors to a second file `<stem>-<hash>.data` beside it, named by its content, before it. A
    /// file of that kind that belonged to what was at `path` before is removed.
    ///
    /// # Errors
    /// When a file cannot be written, or the model does not fit one file of 2 GiB.
    pub fn save(&self, path: &Path, external_data: bool) -> Result<()> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let old = outside_of(path, &stem);
        let mut written = None;
        if external_data {
            let mut name = String::new();
            let (model, data) = self.to_bytes_apart(|data| {
                name = name_by_content(&stem, data, EXTENSION);
                name.clone()
            })?;
            let beside = path.with_file_name(name);
            atomic_file::write_all(&[(&beside, &data), (path, &model)])?;
            written = Some(beside);
        } else {
            atomic_file::write_all(&[(path, &self.to_bytes()?)])?;
        }
        for file in old.into_iter().filter(|file| written.as_ref() != Some(file)) {
            // The new model is in place and does not need it.
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    }
}

/// The files of [`Model::save`] that the model at `path` refers to, if there is one.
fn outside_of(path: &Path, stem: &str) -> BTreeSet<PathBuf> {
    let model = std::fs::read(path).ok().and_then(|bytes| ModelProto::decode(&bytes[..]).ok());
    let graph = model.and_then(|model| model.graph);
    let tensors = graph.iter().flat_map(|graph| &graph.initializer);
    let names = tensors.filter_map(|tensor| entry(tensor, "location"));
    let ours = names.filter(|name| is_named_by_content(name, stem, EXTENSION));
    ours.map(|name| path.with_file_name(name)).collect()
}

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

/// Takes the raw elements of large initialisers out of `graph`: they become the content of a file
/// beside it, whose name is what `location` makes of that content.
pub(super) fn detach(graph: &mut GraphProto, location: impl FnOnce(&[u8]) -> String) -> Vec<u8> {
    let mut data = Vec::new();
    let mut moved = Vec::new();
    for tensor in graph.initializer.iter_mut().filter(|t| t.raw_data.len() >= OUTSIDE_MIN) {
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        let raw = std::mem::take(&mut tensor.raw_data);
        moved.push((tensor, data.len(), raw.len()));
        data.extend(raw);
    }
    let location = location(&data);
    for (tensor, offset, length) in moved {
        let entries = [
            ("location", location.clone()),
            ("offset", offset.to_string()),
            ("length", length.to_string()),
        ];
        let entry =
            |(key, value): (&str, String)| StringStringEntryProto { key: key.into(), value };
        tensor.external_data = entries.map(entry).to_vec();
        tensor.data_location = Some(DataLocation::External as i32);
    }
    data
}
