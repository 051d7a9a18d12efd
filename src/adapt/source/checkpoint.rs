//! Checkpoints of a prior fit: everything that a fit needs to go on as if it had not stopped.
//!
//! A safetensors file whose metadata have one key, `priorfit`, with the JSON of a [`Record`]: which
//! fit it belongs to and how far it had come. What steps change is in `param/<name>` and
//! `state/<name>` (F32), the sums of snapshots in `mean/<name>` and `m2/<name>` (F64) and
//! `dev/<name>` (F32, a row for each deviation), all flat. Batches, augmentation and noise depend
//! on the seed and the step's number alone, so no state of a random generator is kept.
//!
//! The file is replaced whole or not at all. A fit refuses one of another backbone, other data,
//! another preprocessing or other settings: it would go on as neither.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SourceSettings;
use crate::adapt::trainer::Shadow;
use crate::atomic_file;
use crate::data::{Dataset, Preprocess};
use crate::error::{Context, Error, Result};
use crate::graph::{Leaf, LeafKind};
use crate::onnx::Model;
use crate::prior::{Moments, Running, Weights};
use crate::tensor::{Shape, tensor};

const VERSION: u32 = 1;

/// The key of the metadata that holds the [`Record`].
const KEY: &str = "priorfit";

/// Bytes written at a time: a multiple of every element's size.
const CHUNK_BYTES: usize = 1 << 16;

/// Where a fit leaves its checkpoints, and whether it begins with one.
///
/// The fit that is done leaves the last one where it is: its caller removes it once the prior is
/// safe on the disk ([`Checkpoints::remove`]).
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints<'a> {
    /// The file, replaced after each epoch.
    pub path: &'a Path,
    /// Whether to go on from the file, if there is one. Else a fit refuses to start while there is
    /// one: it would be lost.
    pub resume: bool,
}

impl Checkpoints<'_> {
    /// Removes the file, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("cannot remove", self.path, error))
            }
            _ => Ok(()),
        }
    }
}

/// The metadata.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Snapshots taken.
    count: u64,
    /// Steps made.
    done: usize,
    /// What decides the fit's course.
    fit: Value,
    /// The first step whose snapshot, if one is due, is not taken.
    next: usize,
    version: u32,
}

/// Writes and reads the checkpoints of one fit.
pub(super) struct Keeper {
    path: PathBuf,
    resume: bool,
    model: Arc<Model>,
    fit: Value,
}

/// Where a fit goes on.
pub(super) struct Resumed {
    pub(super) shadow: Shadow,
    /// The parameters in it.
    pub(super) weights: Weights,
}

/// What a file holds.
pub(super) struct Checkpoint {
    pub(super) resumed: Resumed,
    pub(super) next: usize,
    pub(super) moments: Moments,
}

impl Keeper {
    /// # Errors
    /// When there is a checkpoint that is not wanted, or the data cannot be read.
    pub(super) fn new(
        to: &Checkpoints<'_>,
        model: &Arc<Model>,
        data: &Dataset,
        preprocess: &Preprocess,
        settings: &SourceSettings,
    ) -> Result<Self> {
        if !to.resume && to.path.exists() {
            let message = format!("{} is the checkpoint of a fit", to.path.display());
            return Err(Error::invalid(message).hint("go on with --resume, or remove it"));
        }
        let fit = serde_json::json!({
            "backbone": model.fingerprint(),
            "data": data.fingerprint()?,
            "preprocess": preprocess,
            "settings": settings,
        });
        // Numbers are compared as they are read, not as they were before they became text.
        let fit = serde_json::from_str(&fit.to_string())
            .map_err(|e| Error::internal("JSON can be read again").caused_by(e))?;
        let (path, model) = (to.path.to_path_buf(), Arc::clone(model));
        Ok(Keeper { path, resume: to.resume, model, fit })
    }

    /// Writes a checkpoint in the place of the last.
    pub(super) fn write(&self, shadow: &Shadow, next: usize, moments: &Moments) -> Result<()> {
        let (count, done, fit) = (moments.count(), shadow.done, self.fit.clone());
        let record = Record { count, done, fit, next, version: VERSION };
        let arrays = arrays(shadow, moments);
        let head = head(&record, &arrays)?;
        atomic_file::write(&self.path, |writer| {
            writer.write_all(&head)?;
            arrays.values().try_for_each(|array| array.write(writer))
        })
    }

    /// The checkpoint to go on from: `changing` is what steps change, `max_rank` the number of
    /// deviations kept. None when the fit is to begin at the beginning.
    pub(super) fn read(&self, changing: &[Leaf], max_rank: usize) -> Result<Option<Checkpoint>> {
        if !self.resume {
            return Ok(None);
        }
        let bytes = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                log::warn!("there is no checkpoint {}", self.path.display());
                return Ok(None);
            }
            other => other.map_err(|e| Error::io("cannot read", &self.path, e))?,
        };
        let scene = || format!("checkpoint {}", self.path.display());
        self.parse(&bytes, changing, max_rank).context(scene).map(Some)
    }

    fn parse(&self, bytes: &[u8], changing: &[Leaf], max_rank: usize) -> Result<Checkpoint> {
        let file = SafeTensors::deserialize(bytes).map_err(not_a_file)?;
        let record = self.record(bytes)?;
        let values = changing
            .iter()
            .map(|leaf| Ok((leaf.clone(), floats(&view(&file, &leaf_name(leaf))?)?)))
            .collect::<Result<Vec<_>>>()?;
        let parameters = match record.count {
            0 => Vec::new(),
            _ => {
                let weights = self.model.weights();
                weights.map(|(name, w)| running(&file, name, w.shape())).collect::<Result<_>>()?
            }
        };
        let moments = Moments::restore(max_rank, record.count, parameters)?;
        let known = changing.len() + moments.running().len() * 3;
        if record.next < record.done || file.len() > known {
            return Err(Error::malformed("it holds what no fit has written"));
        }
        let weights = self.weights(&values)?;
        let shadow = Shadow { done: record.done, epochs: 0, values };
        Ok(Checkpoint { resumed: Resumed { shadow, weights }, next: record.next, moments })
    }

    /// The metadata, of this fit.
    fn record(&self, bytes: &[u8]) -> Result<Record> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(not_a_file)?;
        let json = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let json = json.ok_or_else(|| Error::malformed(format!("its metadata have no '{KEY}'")))?;
        let record: Record = serde_json::from_str(json).map_err(|e| {
            Error::malformed(format!("its metadata are not a checkpoint's: {e}")).caused_by(e)
        })?;
        if record.version != VERSION {
            let message = format!("it has version {}; expected {VERSION}", record.version);
            return Err(Error::unsupported(message));
        }
        let mut differences = Vec::new();
        compare(&record.fit, &self.fit, "", &mut differences);
        if differences.is_empty() {
            return Ok(record);
        }
        let message = format!("it is of another fit: {}", differences.join("; "));
        Err(Error::mismatch(message).hint("fit with what it was written with, or remove it"))
    }

    /// The parameters among `values`.
    fn weights(&self, values: &[(Leaf, Vec<f32>)]) -> Result<Weights> {
        let parameters = values.iter().filter(|(leaf, _)| leaf.kind == LeafKind::Param);
        let one = |(leaf, value): &(Leaf, Vec<f32>)| {
            let shape = match self.model.weight(&leaf.name) {
                Some(weight) => Shape::from(weight.shape()),
                None => [value.len()].into(),
            };
            let weight = tensor(&shape, value.clone());
            weight.map(|w| (leaf.name.clone(), w)).context(|| format!("parameter '{}'", leaf.name))
        };
        parameters.map(one).collect()
    }
}

fn not_a_file(error: safetensors::SafeTensorError) -> Error {
    Error::malformed(format!("not a safetensors file: {error}")).caused_by(error)
}

/// Lists where two JSON values differ.
fn compare(found: &Value, expected: &Value, at: &str, differences: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            for (key, expected) in b {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                compare(a.get(key).unwrap_or(&Value::Null), expected, &at, differences);
            }
        }
        _ if found != expected => {
            differences.push(format!("{at} is {found} there and {expected} here"));
        }
        _ => {}
    }
}

fn leaf_name(leaf: &Leaf) -> String {
    let kind = match leaf.kind {
        LeafKind::Param => "param",
        LeafKind::State | LeafKind::Input => "state",
    };
    format!("{kind}/{}", leaf.name)
}

/// Numbers to be written.
enum Array<'a> {
    Singles(&'a [f32]),
    Doubles(&'a [f64]),
    Rows(&'a VecDeque<Vec<f32>>),
}

impl Array<'_> {
    fn shape(&self) -> Vec<usize> {
        match self {
            Array::Singles(values) => vec![values.len()],
            Array::Doubles(values) => vec![values.len()],
            Array::Rows(rows) => vec![rows.len(), rows.front().map_or(0, Vec::len)],
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Array::Doubles(_) => Dtype::F64,
            Array::Singles(_) | Array::Rows(_) => Dtype::F32,
        }
    }

    fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        match self {
            Array::Singles(values) => write(values, |x| x.to_le_bytes(), writer),
            Array::Doubles(values) => write(values, |x| x.to_le_bytes(), writer),
            Array::Rows(rows) => {
                rows.iter().try_for_each(|row| write(row, |x| x.to_le_bytes(), writer))
            }
        }
    }
}

fn write<T: Copy, const N: usize>(
    values: &[T],
    bytes_of: impl Fn(T) -> [u8; N],
    writer: &mut dyn Write,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    for chunk in values.chunks(CHUNK_BYTES / N) {
        bytes.clear();
        chunk.iter().for_each(|&x| bytes.extend_from_slice(&bytes_of(x)));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

/// All arrays of a checkpoint by their names.
fn arrays<'a>(shadow: &'a Shadow, moments: &'a Moments) -> BTreeMap<String, Array<'a>> {
    let values = shadow.values.iter();
    let mut arrays: BTreeMap<_, _> =
        values.map(|(leaf, value)| (leaf_name(leaf), Array::Singles(value))).collect();
    for running in moments.running() {
        let Running { name, mean, m2, deviations, .. } = running;
        arrays.insert(format!("mean/{name}"), Array::Doubles(mean));
        arrays.insert(format!("m2/{name}"), Array::Doubles(m2));
        if !deviations.is_empty() {
            arrays.insert(format!("dev/{name}"), Array::Rows(deviations));
        }
    }
    arrays
}

/// Everything in front of the arrays' data.
fn head(record: &Record, arrays: &BTreeMap<String, Array<'_>>) -> Result<Vec<u8>> {
    let internal = |e: String| Error::internal(format!("a checkpoint's header is valid: {e}"));
    let json = serde_json::to_string(record).map_err(|e| internal(e.to_string()))?;
    let mut end = 0;
    let infos = arrays.iter().map(|(name, array)| {
        let (dtype, shape, start) = (array.dtype(), array.shape(), end);
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let metadata = Some(HashMap::from([(KEY.to_string(), json)]));
    let metadata = Metadata::new(metadata, infos.collect()).map_err(|e| internal(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| internal(e.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes(), &json[..]].concat())
}

fn view<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>> {
    file.tensor(name).map_err(|e| Error::malformed(format!("no tensor '{name}'")).caused_by(e))
}

/// The finite numbers of a tensor of `f32`.
fn floats(view: &TensorView<'_>) -> Result<Vec<f32>> {
    let chunks = view.data().as_chunks().0.iter();
    let values: Vec<f32> = chunks.map(|&bytes| f32::from_le_bytes(bytes)).collect();
    match view.dtype() == Dtype::F32 && values.iter().all(|x| x.is_finite()) {
        true => Ok(values),
        false => Err(Error::malformed("a tensor is not of finite F32 numbers")),
    }
}

/// The numbers of a tensor of `f64`.
fn doubles(view: &TensorView<'_>) -> Result<Vec<f64>> {
    match view.dtype() {
        Dtype::F64 => {
            let chunks = view.data().as_chunks().0.iter();
            Ok(chunks.map(|&bytes| f64::from_le_bytes(bytes)).collect())
        }
        _ => Err(Error::malformed("a sum of snapshots is not of F64 numbers")),
    }
}

/// The moments of one parameter; whether they fit is found out when they are restored.
fn running(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Running> {
    let part = |part: &str| view(file, &format!("{part}/{name}"));
    let dev = file.tensor(&format!("dev/{name}")).ok().map(|view| floats(&view)).transpose()?;
    let len = shape.iter().product::<usize>().max(1);
    let rows = dev.unwrap_or_default();
    Ok(Running {
        name: name.to_string(),
        shape: shape.into(),
        mean: doubles(&part("mean")?)?,
        m2: doubles(&part("m2")?)?,
        deviations: rows.chunks(len).map(<[f32]>::to_vec).collect(),
    })
}

#[cfg(test)]
mod tests;
