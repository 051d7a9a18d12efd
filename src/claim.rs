//! Folders that one process at a time writes to.
//!
//! A [`Claim`] holds the operating system's lock on a file in the folder. The system lets go of it
//! when the process ends in whatever way, so that what a killed process leaves behind stops nobody.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file;
use crate::error::{Error, Kind, Result};

/// The file that is locked.
const LOCK: &str = "lock";

/// How often the lock's file is opened again because somebody removed it in between.
const ATTEMPTS: usize = 100;

/// The right to write into a folder, until it is dropped. Dropping it removes the lock's file, and
/// the folder if it was made for this claim and has remained empty.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    /// None only while it is being dropped.
    lock: Option<File>,
    /// Dropped last.
    _made: Made,
}

impl Claim {
    /// Claims `folder`, which is made if it does not exist, and removes temporary files that a
    /// killed process has left in it.
    ///
    /// # Errors
    /// Of kind [`Kind::Busy`] while another claim holds it, in this process or another; when the
    /// folder cannot be made or written to.
    pub fn take(folder: &Path) -> Result<Self> {
        let missing = folder.ancestors().take_while(|at| !at.as_os_str().is_empty());
        let made = missing.take_while(|at| !at.exists()).map(Path::to_path_buf);
        let made = Made(made.collect());
        let lock = Some(lock(folder)?);
        atomic_file::sweep(folder);
        Ok(Claim { folder: folder.to_path_buf(), lock, _made: made })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A file that is removed while it is locked is found to be gone by whoever locks it next
        // (`is_at`). Windows removes none that anybody has open, so there it is closed before.
        let held = self.lock.take().filter(|_| cfg!(not(windows)));
        // A lock's file that stays stops nobody.
        let _ = fs::remove_file(self.folder.join(LOCK));
        drop(held);
    }
}

/// Folders that were made, the innermost first. Dropping it removes them but for what is not empty,
/// and all around that.
#[derive(Debug)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// The locked file of `folder`.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    for _ in 0..ATTEMPTS {
        // Another claim may end just now, and remove the folder with its lock.
        fs::create_dir_all(folder).map_err(|e| Error::io("cannot make", folder, e))?;
        let file = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| Error::io("cannot write", &path, e))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(folder)),
            // Some network's file system: better unprotected than not at all.
            Err(TryLockError::Error(error)) => {
                log::warn!("{} has no locks: {error}", path.display())
            }
        }
        if is_at(&file, &path) {
            return Ok(file);
        }
    }
    Err(busy(folder))
}

#[cold]
fn busy(folder: &Path) -> Error {
    let message = format!("{} is in use: another run is writing to it", folder.display());
    Error::new(Kind::Busy, message).hint("wait for its end, or choose another folder")
}

#[cfg(not(windows))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Nobody can remove what is opened so.
#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_SHARE_READ_WRITE: u32 = 3;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.share_mode(FILE_SHARE_READ_WRITE).open(path)
}

/// Whether `path` still names the open `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => place(open) == place(named),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_claim_at_a_time() {
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("a/b");
        let first = Claim::take(&folder).expect("free");
        let error = Claim::take(&folder).expect_err("claimed");
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
        drop(first);
        assert!(!outer.path().join("a").exists(), "what it made and nobody used is gone");
        Claim::take(&folder).expect("free again");
    }

    #[test]
    fn what_is_in_a_folder_stays_but_leftovers() {
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("a");
        let claim = Claim::take(&folder).expect("free");
        let [kept, left] = ["a.bin", ".a.bin.77-3.tmp"].map(|name| folder.join(name));
        for path in [&kept, &left] {
            fs::write(path, "x").expect("written");
        }
        fs::write(folder.join(".a.tmp"), "x").expect("written");
        drop(claim);
        // The lock of a process that was killed is a file that nobody has locked.
        fs::write(folder.join(LOCK), "").expect("written");
        drop(Claim::take(&folder).expect("free"));
        assert!(kept.exists() && !left.exists() && folder.join(".a.tmp").exists());
        assert!(!folder.join(LOCK).exists());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let outer = tempfile::tempdir().expect("a folder");
        let file = outer.path().join("file");
        fs::write(&file, "x").expect("written");
        let error = Claim::take(&file.join("a")).expect_err("no such place").to_string();
        assert!(error.contains("file"), "{error}");
        assert_eq!(fs::read(&file).expect("there"), b"x");
    }

    /// Many at once: never two have it.
    #[test]
    fn threads_that_take_turns_never_meet() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let outer = tempfile::tempdir().expect("a folder");
        let folder = outer.path().join("a");
        let inside = AtomicUsize::new(0);
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Ok(_claim) = Claim::take(&folder) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 0);
    }
}
