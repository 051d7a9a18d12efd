//! Folders of images: one subfolder for each class, or a flat list.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The images of a folder, with or without class subfolders.
pub(super) struct Found {
    pub classes: Vec<String>,
    pub files: Vec<PathBuf>,
    /// The class of each file; empty without class subfolders.
    pub labels: Vec<usize>,
    /// Number of entries that are neither a class nor an image of one.
    pub ignored: usize,
}

/// The sorted contents of one folder.
#[derive(Default)]
struct Contents {
    folders: Vec<PathBuf>,
    images: Vec<PathBuf>,
    /// Hidden entries, files that are not images, and anything that is neither file nor folder.
    ignored: usize,
}

/// Finds the classes and images under `root`.
///
/// # Errors
/// When the folder cannot be read, has no class, or a class has no image.
pub(super) fn scan(root: &Path) -> Result<Found> {
    let top = contents(root)?;
    if top.folders.is_empty() {
        return Err(Error::invalid(format!("{} has no class subfolders", root.display()))
            .hint("put the images of each class in a subfolder named after the class"));
    }
    let ignored = top.ignored + top.images.len();
    let mut found = Found { classes: Vec::new(), files: Vec::new(), labels: Vec::new(), ignored };
    for folder in top.folders {
        let class = contents(&folder)?;
        found.ignored += class.ignored + class.folders.len();
        if class.images.is_empty() {
            return Err(Error::invalid(format!("class {} has no images", folder.display()))
                .hint("add PNG or JPEG images to it, or remove the folder"));
        }
        found.labels.extend(std::iter::repeat_n(found.classes.len(), class.images.len()));
        found.classes.push(name(&folder));
        found.files.extend(class.images);
    }
    Ok(found)
}

/// The images that lie directly in `root`.
///
/// # Errors
/// When the folder cannot be read or has no image.
pub(super) fn images_in(root: &Path) -> Result<Found> {
    let top = contents(root)?;
    if top.images.is_empty() {
        return Err(Error::invalid(format!("{} has no images", root.display()))
            .hint("expected PNG or JPEG images, or one subfolder of them for each class"));
    }
    let ignored = top.ignored + top.folders.len();
    Ok(Found { classes: Vec::new(), files: top.images, labels: Vec::new(), ignored })
}

/// Whether there is a folder in `root` that is not hidden.
pub(super) fn has_subfolders(root: &Path) -> Result<bool> {
    Ok(!contents(root)?.folders.is_empty())
}

fn contents(folder: &Path) -> Result<Contents> {
    let unreadable = |e| Error::io("cannot list", folder, e);
    let mut contents = Contents::default();
    for entry in folder.read_dir().map_err(unreadable)? {
        contents.add(&entry.map_err(unreadable)?);
    }
    contents.folders.sort_unstable();
    contents.images.sort_unstable();
    Ok(contents)
}

impl Contents {
    fn add(&mut self, entry: &DirEntry) {
        let path = entry.path();
        if name(&path).starts_with('.') {
            self.ignored += 1;
        } else if path.is_dir() {
            self.folders.push(path);
        } else if is_image(&path) && path.is_file() {
            self.images.push(path);
        } else {
            self.ignored += 1;
        }
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Found {
    /// Warns of what was ignored, if anything was.
    pub(super) fn warn_ignored(&self, root: &Path) {
        if self.ignored > 0 {
            log::warn!(
                "{}: ignored {} entries that are not PNG or JPEG images",
                root.display(),
                self.ignored,
            );
        }
    }
}
