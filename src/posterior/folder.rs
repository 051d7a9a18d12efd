//! A posterior on disk: a folder of three files, or one file beside the backbone.
//!
//! - `posterior.json`: the [`Description`], and the names of the other two.
//! - `backbone-<hash>.onnx`: the network up to its features, with the weights before adaptation.
//! - `draws-<hash>.safetensors`: the draws, see [`DrawPrecision`]'s module.
//!
//! The hash is that of the file's content, and is checked when the file is read. A new set is on
//! the disk before the first file takes its place; the description comes last, in one renaming,
//! which is when the new set takes the place of the old one. Whatever happens before leaves the old
//! set whole, whatever happens after the new. Files that no description names any more are removed
//! at the end, and those that a killed program left by the next that saves.
//!
//! A model that is withdrawn loses its description first, then all that was learned. What stays is
//! the backbone, which holds nothing of the examples.
//!
//! Folders of version 2, whose files are called `backbone.onnx` and `draws.safetensors`, are read
//! and calibrated as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::file::{parse_draws, parse_metadata, parse_precision};
use super::{Description, DrawPrecision, Posterior, VERSION};
use crate::atomic_file::{self, is_named_by_content, name_by_content, target_of_sibling};
use crate::error::{Context, Error, Result};
use crate::onnx::Model;

const DESCRIPTION: &str = "posterior.json";
/// Stem and extension of the files.
const BACKBONE: (&str, &str) = ("backbone", "onnx");
const DRAWS: (&str, &str) = ("draws", "safetensors");
/// The version whose files have no hash in their names.
const UNHASHED: u32 = 2;
/// How often a set is read under one description. A description that went and came back, with
/// others between, looks as if it had been there all the time, though its files had not.
const ATTEMPTS: usize = 4;
/// The metadata of a file of draws that holds the description, where there is no folder.
const POSTERIOR: &str = "posterior";

/// The names of a folder's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    backbone: String,
    draws: String,
}

impl Files {
    fn unhashed() -> Self {
        let name = |(stem, extension)| format!("{stem}.{extension}");
        Files { backbone: name(BACKBONE), draws: name(DRAWS) }
    }

    fn are_hashed(&self) -> bool {
        *self != Files::unhashed()
    }

    /// A name may come from anywhere, and must not lead out of the folder.
    fn check(&self) -> Result<()> {
        for (name, (stem, extension)) in [(&self.backbone, BACKBONE), (&self.draws, DRAWS)] {
            if !is_named_by_content(name, stem, extension) {
                let hint = format!("expected {stem}-<hash>.{extension}");
                return Err(Error::malformed(format!("names the file '{name}'")).hint(hint));
            }
        }
        Ok(())
    }
}

/// What `posterior.json` holds.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    description: &'a Description,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'a Files>,
}

/// A folder's files as they are to be.
struct Contents {
    files: Files,
    backbone: Vec<u8>,
    draws: Vec<u8>,
    json: Vec<u8>,
}

impl Posterior {
    fn contents(&self, precision: DrawPrecision) -> Result<Contents> {
        let backbone = self.model.to_bytes()?;
        let draws = self.draw_bytes(precision, DrawPrecision::F32, Vec::new())?;
        let name = |(stem, extension), bytes: &[u8]| name_by_content(stem, bytes, extension);
        let files = Files { backbone: name(BACKBONE, &backbone), draws: name(DRAWS, &draws) };
        let json = self.json(&files)?;
        Ok(Contents { files, backbone, draws, json })
    }

    /// Writes the posterior into `folder`, which is made if it does not exist; the draws in `f32`.
    /// It takes the place of what the folder held in one moment.
    ///
    /// # Errors
    /// Names the file that cannot be written; what was there before is still there.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_as(folder, DrawPrecision::F32)
    }

    /// [`Posterior::save`] with differences between draws of this precision.
    ///
    /// # Errors
    /// As there.
    pub fn save_as(&self, folder: &Path, precision: DrawPrecision) -> Result<()> {
        let Contents { files, backbone, draws, json } = self.contents(precision)?;
        let is_new = !folder.exists();
        let old = std::fs::read(folder.join(DESCRIPTION)).ok().and_then(|json| parse(&json).ok());
        std::fs::create_dir_all(folder).map_err(|e| Error::io("cannot make", folder, e))?;
        let names = [&files.backbone, &files.draws, DESCRIPTION].map(|name| folder.join(name));
        let [first, second, last] = &names;
        let written =
            atomic_file::write_all(&[(first, &backbone), (second, &draws), (last, &json)]);
        match written {
            Ok(()) => remove_others(folder, old.as_ref().map(|(_, files)| files), &files),
            // It is empty; the failure that led here is what the caller needs to hear about.
            Err(_) if is_new => drop(std::fs::remove_dir(folder)),
            Err(_) => {}
        }
        written
    }

    /// Writes the description anew into the folder that this posterior was read from.
    ///
    /// # Errors
    /// As for [`Posterior::save`], and when the folder holds another posterior by now.
    pub fn save_description(&self, folder: &Path) -> Result<()> {
        let path = folder.join(DESCRIPTION);
        let (_, files) = parse(&read(&path)?).context(|| path.display().to_string())?;
        if self.files.as_ref().is_some_and(|own| *own != files) {
            let message = format!("{} holds another model by now", folder.display());
            return Err(Error::mismatch(message).hint("read it again"));
        }
        atomic_file::write_all(&[(&path, &self.json(&files)?)])
    }

    /// Reads a posterior. One that another program replaces meanwhile is read again.
    ///
    /// # Errors
    /// Names the file and tensor that are missing, malformed, or do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        let (mut json, mut attempts) = (read(&path)?, 1);
        loop {
            let error = match Self::load_set(folder, &json) {
                Ok(posterior) => return Ok(posterior),
                Err(error) => error,
            };
            match read(&path)? {
                now if now != json => (json, attempts) = (now, 1),
                _ if attempts < ATTEMPTS => attempts += 1,
                _ => return Err(error),
            }
        }
    }

    /// Reads what a description names.
    fn load_set(folder: &Path, json: &[u8]) -> Result<Self> {
        let in_description = || folder.join(DESCRIPTION).display().to_string();
        let (description, files) = parse(json).context(in_description)?;
        let path = folder.join(&files.backbone);
        let bytes = read_checked(&path, &files, BACKBONE)?;
        let model = Model::from_bytes(&bytes, None).context(|| path.display().to_string())?;
        check_backbone(&description, &model).context(|| path.display().to_string())?;
        let path = folder.join(&files.draws);
        let bytes = read_checked(&path, &files, DRAWS)?;
        let draws = parse_draws(&bytes, &model, description.task.outputs());
        let draws = draws.context(|| path.display().to_string())?;
        let precision = parse_precision(&bytes).context(|| path.display().to_string())?;
        let posterior = Posterior::new(description, Arc::new(model), draws);
        Ok(Posterior { files: Some(files), precision, ..posterior.context(in_description)? })
    }

    fn json(&self, files: &Files) -> Result<Vec<u8>> {
        described(&self.description, files)
    }
}

impl Posterior {
    /// The files in which `folder` differs from what saving this posterior would put there, bit by
    /// bit. A calibration that is stored there counts for nothing.
    ///
    /// # Errors
    /// When a file cannot be read, or the folder holds no posterior.
    pub fn differences(&self, folder: &Path, precision: DrawPrecision) -> Result<Vec<String>> {
        let path = folder.join(DESCRIPTION);
        let (mut stored, files) = parse(&read(&path)?).context(|| path.display().to_string())?;
        stored.calibration = None;
        let Contents { backbone, draws, json, .. } = self.contents(precision)?;
        let mut found = Vec::new();
        for (name, bytes) in [(&files.backbone, backbone), (&files.draws, draws)] {
            if read(&folder.join(name))? != bytes {
                found.push(name.clone());
            }
        }
        if described(&stored, &files)? != json {
            found.push(DESCRIPTION.to_string());
        }
        Ok(found)
    }

    /// The files of the posterior in `folder`: its description, the backbone, and the draws.
    ///
    /// # Errors
    /// When there is no description, or it is malformed.
    pub fn files_in(folder: &Path) -> Result<[PathBuf; 3]> {
        let path = folder.join(DESCRIPTION);
        let (_, files) = parse(&read(&path)?).context(|| path.display().to_string())?;
        Ok([path, folder.join(files.backbone), folder.join(files.draws)])
    }

    /// Removes what a program that was killed has left in `folder` of a posterior that another took
    /// the place of.
    ///
    /// # Errors
    /// Those of [`Posterior::files_in`].
    pub fn sweep(folder: &Path) -> Result<()> {
        let path = folder.join(DESCRIPTION);
        let (_, files) = parse(&read(&path)?).context(|| path.display().to_string())?;
        remove_others(folder, None, &files);
        Ok(())
    }

    /// Removes what was learned from `folder`, even if it is damaged: the description first, so
    /// that from then on there is no model; then all draws. The network before adaptation stays;
    /// its files are the result.
    ///
    /// # Errors
    /// When there is no posterior, or a file cannot be removed.
    pub fn withdraw(folder: &Path) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io("cannot list", folder, e))?;
        let (stem, extension) = DRAWS;
        let is_ours = |name: &str| {
            name == DESCRIPTION
                || name == Files::unhashed().draws
                || is_named_by_content(name, stem, extension)
        };
        let (mut learned, mut backbones) = (Vec::new(), Vec::new());
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if is_ours(target_of_sibling(&name).unwrap_or(&name)) {
                learned.push(folder.join(name));
            } else if name == Files::unhashed().backbone
                || is_named_by_content(&name, BACKBONE.0, BACKBONE.1)
            {
                backbones.push(folder.join(name));
            }
        }
        if learned.is_empty() {
            let message = format!("{} holds no adapted model", folder.display());
            return Err(Error::invalid(message).hint("expected a folder that `adapt` wrote"));
        }
        learned.sort_by_key(|path| !path.ends_with(DESCRIPTION));
        for path in &learned {
            std::fs::remove_file(path).map_err(|e| Error::io("cannot remove", path, e))?;
        }
        backbones.sort();
        Ok(backbones)
    }

    /// Writes to `path` everything but the backbone: the description and what differs from the
    /// backbone's weights, in the layout of a folder's draws. In half precision a weight comes back
    /// within a thousandth of the distance that the largest of its parameter moved.
    ///
    /// # Errors
    /// When the file cannot be written; what was there before is still there.
    pub fn save_delta(&self, path: &Path, precision: DrawPrecision) -> Result<()> {
        let json = serde_json::to_string(&self.description)
            .map_err(|e| Error::internal("a description is always JSON").caused_by(e))?;
        let bytes = self.draw_bytes(precision, precision, vec![(POSTERIOR, json)])?;
        atomic_file::write_all(&[(path, &bytes)])
    }

    /// What a file of [`Posterior::save_delta`] says besides weights.
    ///
    /// # Errors
    /// When it is no such file.
    pub fn describe_delta(path: &Path) -> Result<Description> {
        describe(&read(path)?).context(|| path.display().to_string())
    }

    /// Reads what [`Posterior::save_delta`] wrote and puts it on `model`, the backbone before
    /// adaptation, cut where it was.
    ///
    /// # Errors
    /// When the file is no such, or belongs to another backbone.
    pub fn load_delta(path: &Path, model: Arc<Model>) -> Result<Self> {
        let in_file = || path.display().to_string();
        let bytes = read(path)?;
        let description = describe(&bytes).context(in_file)?;
        check_backbone(&description, &model).context(in_file)?;
        let draws = parse_draws(&bytes, &model, description.task.outputs()).context(in_file)?;
        Posterior::new(description, model, draws).context(in_file)
    }
}

/// What `posterior.json` is to hold.
fn described(description: &Description, files: &Files) -> Result<Vec<u8>> {
    let are_hashed = files.are_hashed();
    let version = if are_hashed { VERSION } else { UNHASHED };
    let description = Description { version, ..description.clone() };
    let files = Some(files).filter(|_| are_hashed);
    serde_json::to_vec_pretty(&Stored { description: &description, files })
        .map_err(|e| Error::internal("a description is always JSON").caused_by(e))
}

/// The description in the metadata of a delta.
fn describe(bytes: &[u8]) -> Result<Description> {
    let json = parse_metadata(bytes, POSTERIOR)?.ok_or_else(|| {
        Error::malformed(format!("there is no metadata '{POSTERIOR}'"))
            .hint("expected a file that `export --delta` wrote")
    })?;
    let description: Description = serde_json::from_str(&json).map_err(not_described)?;
    check_version(&description, VERSION)?;
    Ok(description)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("cannot read", path, e))
}

/// The bytes of a file, whose content is the one that its name has the hash of.
fn read_checked(path: &Path, files: &Files, (stem, extension): (&str, &str)) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    let name = name_by_content(stem, &bytes, extension);
    match !files.are_hashed() || path.ends_with(name) {
        true => Ok(bytes),
        false => {
            let message = format!("{} has other content than was written", path.display());
            Err(Error::malformed(message).hint("its name has the hash of that; adapt again"))
        }
    }
}

/// What the bytes of `posterior.json` say.
fn parse(json: &[u8]) -> Result<(Description, Files)> {
    let mut value: Value = serde_json::from_slice(json).map_err(not_described)?;
    let files = value.as_object_mut().and_then(|fields| fields.remove("files"));
    let mut description: Description = serde_json::from_value(value).map_err(not_described)?;
    let Some(files) = files else {
        check_version(&description, UNHASHED)?;
        description.version = VERSION;
        return Ok((description, Files::unhashed()));
    };
    check_version(&description, VERSION)?;
    let files: Files = serde_json::from_value(files).map_err(not_described)?;
    files.check()?;
    Ok((description, files))
}

#[cold]
fn not_described(error: serde_json::Error) -> Error {
    let message = format!("not the description of a posterior: {error}");
    Error::malformed(message).caused_by(error)
}

fn check_version(description: &Description, expected: u32) -> Result<()> {
    match description.version {
        version if version == expected => Ok(()),
        version => Err(Error::unsupported(format!("it has version {version}"))
            .hint(format!("expected version {VERSION}"))),
    }
}

fn check_backbone(description: &Description, model: &Model) -> Result<()> {
    match model.fingerprint() == description.backbone {
        true => Ok(()),
        false => Err(Error::mismatch("this is not the backbone that was adapted")
            .hint("its weights do not have the fingerprint in the description")),
    }
}

/// Removes what earlier sets, or programs that were killed, left in the folder. What cannot be
/// removed is tried again by the next that saves. Files without a hash are only removed if they
/// were the old set's.
fn remove_others(folder: &Path, old: Option<&Files>, new: &Files) {
    let is_hashed = |name: &str| {
        [BACKBONE, DRAWS].iter().any(|(stem, ext)| is_named_by_content(name, stem, ext))
    };
    let is_of = |files: &Files, name: &str| name == files.backbone || name == files.draws;
    let is_left_over = |name: &str| match target_of_sibling(name) {
        Some(target) => target == DESCRIPTION || is_hashed(target),
        None => (is_hashed(name) || old.is_some_and(|old| is_of(old, name))) && !is_of(new, name),
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_left_over) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
