//! Files that are replaced whole or not at all.
//!
//! The new content goes to a temporary sibling, is forced to the disk, and takes the place of the
//! old file by renaming. Whatever fails before the renaming, a full disk included, leaves the old
//! file as it was and removes the sibling. A symbolic link keeps pointing at the file it names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// How many names are tried for the sibling before giving up.
const ATTEMPTS: usize = 100;
/// Digits of the hash in a name by content.
const HASH_LEN: usize = 16;

/// Puts what `content` writes at `path`.
///
/// # Errors
/// When the sibling cannot be created, `content` fails, or the operating system refuses to store
/// or rename it; the error names `path`.
pub fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    Staged::new(path, content)?.commit()
}

/// Puts each file's bytes at its path, in this order. All are safe on the disk before the first
/// takes its place, so that a full disk replaces none of them.
///
/// # Errors
/// As for [`write()`]; the error names the file that could not be written.
pub fn write_all(files: &[(&Path, &[u8])]) -> Result<()> {
    let staged = files
        .iter()
        .map(|&(path, bytes)| Staged::new(path, |file| file.write_all(bytes)))
        .collect::<Result<Vec<_>>>()?;
    staged.into_iter().try_for_each(Staged::commit)
}

/// Removes the temporary files that processes which were killed have left in `folder`, as far as it
/// can be read. Nobody may be writing there.
pub(crate) fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let left = entries.filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| target_of_sibling(name).is_some())
    });
    left.for_each(|entry| {
        // One that stays takes room and does no other harm.
        let _ = fs::remove_file(entry.path());
    });
}

/// `<stem>-<hash>.<extension>`: a name that other content does not have. The hash is the first 16
/// hexadecimal digits of the content's SHA-256.
pub fn name_by_content(stem: &str, content: &[u8], extension: &str) -> String {
    let digest = Sha256::digest(content);
    let hash: String = digest.iter().take(HASH_LEN / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{stem}-{hash}.{extension}")
}

/// Whether `name` is one that [`name_by_content`] gives with this stem and extension.
pub fn is_named_by_content(name: &str, stem: &str, extension: &str) -> bool {
    let hash = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    let hash = hash.and_then(|rest| rest.strip_suffix(extension)?.strip_suffix('.'));
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    hash.is_some_and(|hash| hash.len() == HASH_LEN && hash.chars().all(is_digit))
}

/// The name of the file that one called `name` was to take the place of, where it is a temporary
/// sibling, which a killed program leaves behind.
pub fn target_of_sibling(name: &str) -> Option<&str> {
    let (target, number) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let (process, count) = number.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(process) && is_number(count)).then_some(target)
}

/// New content on the disk that has not taken its place yet.
struct Staged<'a> {
    path: &'a Path,
    /// What `path` stands for when it is a link.
    target: PathBuf,
    sibling: Sibling,
}

impl<'a> Staged<'a> {
    fn new(path: &'a Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Self> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let sibling = store(&target, content).map_err(|source| refused(path, source))?;
        Ok(Staged { path, target, sibling })
    }

    fn commit(mut self) -> Result<()> {
        let sibling = &mut self.sibling;
        fs::rename(&sibling.path, &self.target).map_err(|source| refused(self.path, source))?;
        sibling.is_renamed = true;
        sync_folder(&self.target);
        Ok(())
    }
}

/// Stores what `content` writes beside `target`, forced to the disk.
fn store(
    target: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Sibling> {
    if target.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder is in the way"));
    }
    let (sibling, file) = Sibling::create(target)?;
    let mut writer = BufWriter::new(file);
    content(&mut writer)?;
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(sibling)
}

#[cold]
fn refused(path: &Path, source: io::Error) -> Error {
    let error = Error::io("cannot write", path, source);
    error.hint("what was there before is unchanged; check the folder, its permissions and room")
}

/// A temporary file that disappears unless it is renamed.
struct Sibling {
    path: PathBuf,
    is_renamed: bool,
}

impl Sibling {
    fn create(target: &Path) -> io::Result<(Self, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))?;
        for _ in 0..ATTEMPTS {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{count}.tmp", std::process::id()));
            let path = target.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((Sibling { path, is_renamed: false }, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a temporary file"))
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        if !self.is_renamed {
            // The failure that led here is what the caller needs to hear about.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the renaming itself survive a power cut where folders can be synced. The new file is in
/// place by now, so a file system that cannot do this is no reason to report failure.
#[cfg(unix)]
fn sync_folder(target: &Path) {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Ok(folder) = File::open(parent.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

#[cfg(not(unix))]
fn sync_folder(_target: &Path) {}

#[cfg(test)]
mod tests;
