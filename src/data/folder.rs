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

/// Images with their masks, in the same order.
pub(super) struct Masked {
    pub images: Vec<PathBuf>,
    pub masks: Vec<PathBuf>,
    /// The lines of `classes.txt`, if there is one.
    pub names: Option<Vec<String>>,
}

/// Folder of the images of a segmentation data set.
const IMAGES: &str = "images";
/// Folder of its masks.
const MASKS: &str = "masks";
/// The file that names its classes.
const NAMES: &str = "classes.txt";
/// The largest file of names that is read.
const NAMES_BYTES_MAX: u64 = 1 << 20;

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

/// Whether there are a folder of images and one of masks in `root`.
pub(super) fn has_masks(root: &Path) -> bool {
    [IMAGES, MASKS].iter().all(|name| root.join(name).is_dir())
}

/// Finds the images of `root` and the mask of each, by its stem.
///
/// # Errors
/// When a folder cannot be read, there is no image, or an image has no mask.
pub(super) fn masked(root: &Path) -> Result<Masked> {
    let found = images_in(&root.join(IMAGES))?;
    found.warn_ignored(&root.join(IMAGES));
    let folder = root.join(MASKS);
    let mask = |image: &PathBuf| {
        let stem = image.file_stem().unwrap_or_default();
        let mut name = stem.to_os_string();
        name.push(".png");
        let path = folder.join(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(Error::invalid(format!("{} has no mask", image.display()))
                .hint(format!("expected the file {}", path.display()))),
        }
    };
    let masks = found.files.iter().map(mask).collect::<Result<_>>()?;
    Ok(Masked { images: found.files, masks, names: names(&root.join(NAMES))? })
}

/// The lines of a file that are not empty, if there is a file.
fn names(path: &Path) -> Result<Option<Vec<String>>> {
    let Ok(metadata) = path.metadata() else { return Ok(None) };
    if metadata.len() > NAMES_BYTES_MAX {
        let message = format!("{}: {} bytes", path.display(), metadata.len());
        return Err(Error::unsupported(message).hint("expected the name of one class a line"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("cannot read", path, e))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(Some(lines.map(str::to_string).collect()))
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
