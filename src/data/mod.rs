//! Examples in, batches out: image folders, `.npz` files, arrays; decoding, preprocessing,
//! augmentation.
//!
//! A [`Dataset`] knows its examples, targets and classes and decodes lazily, so that its memory
//! does not grow with a folder's size. [`Preprocess`] turns any example into the backbone's input
//! and is stored with the adapted model; [`Augment`] varies it during training; [`Batches`] orders
//! an epoch. Files are hostile: sizes are checked before anything is allocated, and errors name the
//! file or the example.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayView3, ArrayView4, CowArray, Ix4};

use crate::error::{Context, Error, Result};
use crate::threads::Threads;

mod augment;
mod batches;
mod colour;
mod decode;
mod fingerprint;
#[cfg(test)]
mod fixtures;
mod folder;
mod identity;
mod images;
mod masks;
mod npy;
mod npz;
mod parallel;
mod preprocess;
mod resample;
mod split;
mod table;
mod targets;
#[cfg(test)]
mod tests;
mod thumbnail;

pub use augment::{Augment, Augmentation, Crop, Flip};
pub use batches::{Batches, one_hot};
pub use colour::Colour;
pub use identity::Identity;
use images::Images;
use masks::Masks;
pub use masks::{IGNORED, encode_grey, encode_mask};
pub use preprocess::{IMAGENET, Preprocess, Resize, Statistics};
pub use targets::TargetKind;
use targets::Targets;

/// The most classes a data set may have; labels come from files and size other arrays.
const CLASSES_MAX: usize = 65_536;

/// Labelled or unlabelled images. Clones and subsets share their storage.
#[derive(Clone, Debug)]
pub struct Dataset {
    images: Arc<Images>,
    /// Those of all stored images, or none at all.
    targets: Option<Targets>,
    classes: Arc<Classes>,
    /// This data set's examples, as rows of the stored images.
    rows: Arc<[usize]>,
}

#[derive(Clone, Debug)]
struct Classes {
    names: Vec<String>,
    origin: Origin,
}

/// Where class names come from, which decides how other names are matched to them.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// The names mean something: other names are matched by text.
    Named,
    /// The names are only numbers counted from the labels: other names are matched by position.
    Numbered,
}

/// Constructors.
impl Dataset {
    /// Opens what lies at `path`: a folder with a table `labels.csv`, with `images` and `masks`,
    /// with one subfolder for each class, or of images alone (unlabelled), or an `.npz` file; files
    /// are recognised by their content.
    ///
    /// # Errors
    /// When `path` is anything else, and those of [`Dataset::table`], [`Dataset::masked`],
    /// [`Dataset::folder`] and [`Dataset::npz`].
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = path.metadata().map_err(|e| Error::io("cannot open", path, e))?;
        if metadata.is_dir() {
            if path.join(table::FILE).is_file() {
                return Self::table(path);
            }
            if folder::has_masks(path) {
                return Self::masked(path);
            }
            if folder::has_subfolders(path)? {
                return Self::folder(path);
            }
            let found = folder::images_in(path)?;
            found.warn_ignored(path);
            return Self::from_files(found.files);
        }
        if metadata.is_file() && npz::is_archive(path)? {
            return Self::npz(path);
        }
        let what = format!("{} is neither a folder of images nor an .npz file", path.display());
        Err(Error::unsupported(what).hint(
            "give a folder with one subfolder of PNG or JPEG images for each class, with images/ \
             and masks/, or with labels.csv, or a file written by \
             np.savez(path, x=images, y=labels)",
        ))
    }

    /// A folder with one subfolder of PNG or JPEG images for each class, in the order of their
    /// names. Images are decoded when they are needed. Everything else in there is ignored, with a
    /// count in a warning.
    ///
    /// # Errors
    /// When a class has no image, or the folder has no classes.
    pub fn folder(path: &Path) -> Result<Self> {
        let found = folder::scan(path)?;
        found.warn_ignored(path);
        let labels = Some(Targets::Classes(found.labels.into()));
        Self::new(Images::Files(found.files), labels, found.classes, Origin::Named)
            .context(|| path.display().to_string())
    }

    /// A folder of images with a table `labels.csv`: rows `file,label;label;..` or
    /// `file,number,number,..`, with an optional first row that names the columns, `file` first. A
    /// column called `labels` holds labels even if they look like numbers.
    ///
    /// # Errors
    /// When the table cannot be read or a row is not like the others; the line is named.
    pub fn table(path: &Path) -> Result<Self> {
        let table::Table { files, names, targets } = table::read(path)?;
        Self::new(Images::Files(files), Some(targets), names, Origin::Named)
            .context(|| path.display().to_string())
    }

    /// A folder with `images` and, for each, a mask of the same stem in `masks`: an indexed or grey
    /// PNG of the image's size that holds the number of each pixel's class, or [`IGNORED`]. The
    /// classes are the lines of `classes.txt`, or else the numbers up to the largest in any mask.
    ///
    /// # Errors
    /// When an image has no mask, or one of another size or kind; the file is named.
    pub fn masked(path: &Path) -> Result<Self> {
        let folder::Masked { images, masks, names } = folder::masked(path)?;
        let masks = Masks::files(masks);
        masks.check_sizes(&images)?;
        let targets = |masks| Some(Targets::Masks(Arc::new(masks)));
        let data = match names {
            Some(names) => Self::new(Images::Files(images), targets(masks), names, Origin::Named),
            None => {
                let names = numbered(masks.classes()?);
                Self::new(Images::Files(images), targets(masks), names, Origin::Numbered)
            }
        };
        data.context(|| path.display().to_string())
    }

    /// Unlabelled images, for prediction.
    ///
    /// # Errors
    /// When the list is empty. A file that does not decode is reported when it is needed.
    pub fn from_files(paths: Vec<PathBuf>) -> Result<Self> {
        Self::new(Images::Files(paths), None, Vec::new(), Origin::Named)
    }

    /// An `.npz` file with images `x` (uint8 `[N, H, W, C]` or `[N, H, W]`, or float32
    /// `[N, C, H, W]`, already scaled) and targets `y`, absent for prediction: integers `[N]` are
    /// classes, integers `[N, C]` of 0 and 1 sets of labels, floats `[N]` or `[N, D]` (and other
    /// integers) numbers, integers `[N, H, W]` masks.
    ///
    /// # Errors
    /// When the file is malformed or its arrays have other types or shapes, a value is not finite,
    /// or a class is negative or too large.
    pub fn npz(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
        Self::from_npz(std::io::BufReader::new(file)).context(|| path.display().to_string())
    }

    /// Like [`Dataset::npz`], from an open file or bytes in memory.
    ///
    /// # Errors
    /// Those of [`Dataset::npz`].
    pub fn from_npz(reader: impl std::io::Read + std::io::Seek) -> Result<Self> {
        let (images, targets) = npz::read(reader)?;
        let outputs = match &targets {
            Some((Targets::Classes(labels), _)) => labels.iter().max().map_or(0, |max| max + 1),
            Some((Targets::Masks(masks), _)) => masks.classes()?,
            Some((Targets::Labels(_) | Targets::Numbers(_), width)) => *width,
            None => 0,
        };
        let targets = targets.map(|(targets, _)| targets);
        Self::new(images, targets, numbered(outputs), Origin::Numbered)
    }

    /// The same examples with another index for pixels of masks that count for nothing, instead of
    /// [`IGNORED`]. Classes that are only numbers are counted again.
    ///
    /// # Errors
    /// When the targets are not masks, or one does not decode.
    pub fn with_ignored(&self, index: u8) -> Result<Self> {
        let Some(Targets::Masks(masks)) = &self.targets else {
            return Err(Error::invalid("only pixels of masks can be ignored"));
        };
        let masks = masks.ignoring(index);
        let classes = match self.classes.origin {
            Origin::Named => Arc::clone(&self.classes),
            Origin::Numbered => {
                let names = numbered(masks.classes()?);
                Arc::new(Classes { names, origin: Origin::Numbered })
            }
        };
        Ok(Dataset { targets: Some(Targets::Masks(Arc::new(masks))), classes, ..self.clone() })
    }

    /// Images `[N, H, W, C]` in memory, with their labels (indices into `classes`) unless they are
    /// only for prediction.
    ///
    /// # Errors
    /// When the array is empty, labels are not one for each image, or a label is not a class.
    pub fn from_images_u8(
        images: ArrayView4<'_, u8>,
        labels: Option<&[usize]>,
        classes: Vec<String>,
    ) -> Result<Self> {
        let images = Images::U8(CowArray::from(images).as_standard_layout().into_owned());
        let targets = labels.map(|labels| Targets::Classes(labels.into()));
        Self::new(images, targets, classes, Origin::Named)
    }

    /// Like [`Dataset::from_images_u8`], for numbers `x: [N, C, H, W]` that are already scaled.
    ///
    /// # Errors
    /// Those of [`Dataset::from_images_u8`], and when a value is not finite.
    pub fn from_arrays_f32(
        x: ArrayView4<'_, f32>,
        labels: Option<&[usize]>,
        classes: Vec<String>,
    ) -> Result<Self> {
        let x: CowArray<'_, f32, Ix4> = CowArray::from(x);
        let images = Images::F32(x.as_standard_layout().into_owned());
        let targets = labels.map(|labels| Targets::Classes(labels.into()));
        Self::new(images, targets, classes, Origin::Named)
    }

    /// The same images with sets of labels, or numbers, for targets: `values: [N, names]`, for
    /// labels 1 or 0.
    ///
    /// # Errors
    /// When there is not one row for each stored image, a value is out of range, or `kind` is
    /// another.
    pub fn with_rows(
        &self,
        kind: TargetKind,
        values: ArrayView2<'_, f32>,
        names: Vec<String>,
    ) -> Result<Self> {
        if values.ncols() != names.len() {
            let (columns, names) = (values.ncols(), names.len());
            return Err(Error::mismatch(format!("{columns} targets with {names} names")));
        }
        let values = values.iter().copied().collect();
        let targets = match kind {
            TargetKind::Labels => Targets::Labels(values),
            TargetKind::Numbers => Targets::Numbers(values),
            TargetKind::Class | TargetKind::Mask => {
                return Err(Error::invalid("rows of targets are labels or numbers"));
            }
        };
        targets.check(self.images.len(), names.len())?;
        let classes = Arc::new(Classes { names, origin: Origin::Named });
        Ok(Dataset { targets: Some(targets), classes, ..self.clone() })
    }

    /// The same images with masks `[N, H, W]` of the classes `names`.
    ///
    /// # Errors
    /// When there is not one of its size for each stored image.
    pub fn with_masks(&self, masks: ArrayView3<'_, u8>, names: Vec<String>) -> Result<Self> {
        let (_, height, width) = masks.dim();
        self.images.check_size([height, width])?;
        let masks = Masks::array(masks.as_standard_layout().into_owned());
        let targets = Targets::Masks(Arc::new(masks));
        targets.check(self.images.len(), names.len())?;
        let classes = Arc::new(Classes { names, origin: Origin::Named });
        Ok(Dataset { targets: Some(targets), classes, ..self.clone() })
    }

    fn new(
        images: Images,
        targets: Option<Targets>,
        names: Vec<String>,
        origin: Origin,
    ) -> Result<Self> {
        images.check()?;
        targets.as_ref().map_or(Ok(()), |targets| targets.check(images.len(), names.len()))?;
        Ok(Dataset {
            rows: (0..images.len()).collect(),
            images: Arc::new(images),
            targets,
            classes: Arc::new(Classes { names, origin }),
        })
    }

    /// The same examples labelled in the order of `names`, the classes, labels or numbers of an
    /// adapted model: by name when this data set's have names, by position when they are numbered.
    /// Masks hold numbers, so their classes must be named alike.
    ///
    /// # Errors
    /// When a class or label that has examples is not among `names`, or a number is missing.
    pub fn with_classes(&self, names: &[String]) -> Result<Self> {
        match &self.targets {
            Some(Targets::Labels(values) | Targets::Numbers(values)) => {
                return self.with_columns(values, names);
            }
            Some(Targets::Masks(_)) => return self.with_mask_classes(names),
            Some(Targets::Classes(_)) | None => {}
        }
        let place: Vec<Option<usize>> = match self.classes.origin {
            Origin::Numbered => {
                (0..self.classes().len()).map(|i| Some(i).filter(|&i| i < names.len())).collect()
            }
            Origin::Named => {
                let place = |class: &String| names.iter().position(|name| name == class);
                self.classes().iter().map(place).collect()
            }
        };
        let placeless = |&index: &usize| self.label(index).is_some_and(|y| place[y].is_none());
        if let Some(index) = (0..self.len()).find(placeless) {
            return Err(self.unknown_class(index, names));
        }
        // A class without a place has no example in this data set, so its label is never read.
        let relabel = |labels: &Arc<[usize]>| {
            Targets::Classes(labels.iter().map(|&label| place[label].unwrap_or(0)).collect())
        };
        Ok(Dataset {
            targets: self.class_labels().map(relabel),
            classes: Arc::new(Classes { names: names.to_vec(), origin: Origin::Named }),
            ..self.clone()
        })
    }
}

/// What is in it.
impl Dataset {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True of an empty subset.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The names of the classes, or of the labels or numbers that are the targets; a class is an
    /// index into them.
    pub fn classes(&self) -> &[String] {
        &self.classes.names
    }

    /// The class of example `index`; none when the targets are no classes or there is no such
    /// example.
    pub fn label(&self, index: usize) -> Option<usize> {
        Some(self.class_labels()?[*self.rows.get(index)?])
    }

    /// The classes of the examples at `indices`.
    ///
    /// # Errors
    /// When the targets are no classes, or an index is out of range.
    pub fn labels(&self, indices: &[usize]) -> Result<Vec<usize>> {
        let labels = self.class_labels().ok_or_else(unlabelled)?;
        indices.iter().map(|&index| Ok(labels[self.row(index)?])).collect()
    }

    fn class_labels(&self) -> Option<&Arc<[usize]>> {
        match &self.targets {
            Some(Targets::Classes(labels)) => Some(labels),
            _ => None,
        }
    }

    /// Number of examples of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes().len()];
        (0..self.len()).filter_map(|i| self.label(i)).for_each(|label| counts[label] += 1);
        counts
    }

    /// Checks that the examples have targets.
    ///
    /// # Errors
    /// When they have none.
    pub fn check_labelled(&self) -> Result<()> {
        self.targets.as_ref().map(|_| ()).ok_or_else(unlabelled)
    }

    /// Checks that there is something to learn: targets and, of classes, two or more with examples
    /// of each.
    ///
    /// # Errors
    /// Names the class without examples, if there is one.
    pub fn check_trainable(&self) -> Result<()> {
        self.check_labelled()?;
        let classes = self.classes();
        if matches!(self.targets, Some(Targets::Labels(_) | Targets::Numbers(_))) {
            return Ok(());
        }
        if classes.len() < 2 {
            let message = format!("the examples are of {} class", classes.len());
            return Err(Error::invalid(message).hint("a classifier needs at least two"));
        }
        if matches!(self.targets, Some(Targets::Masks(_))) {
            return Ok(());
        }
        match self.class_counts().into_iter().position(|count| count == 0) {
            None => Ok(()),
            Some(empty) => {
                Err(Error::invalid(format!("class {:?} has no examples", classes[empty]))
                    .hint("add some, or leave the class out and number the others without gaps"))
            }
        }
    }

    /// The file of example `index`, when it comes from one of its own.
    pub fn path(&self, index: usize) -> Option<&Path> {
        match &*self.images {
            Images::Files(paths) => Some(&paths[*self.rows.get(index)?]),
            Images::U8(_) | Images::F32(_) => None,
        }
    }

    /// Height and width of the image of example `index`.
    ///
    /// # Errors
    /// When there is no such example, or its file cannot be read.
    pub fn size(&self, index: usize) -> Result<[usize; 2]> {
        match (&*self.images, self.row(index)?) {
            (Images::Files(paths), row) => decode::size(&paths[row]),
            (images, row) => images.load(row).map(|picture| picture.size()),
        }
    }

    /// The examples at `indices`, in that order. Shares the storage.
    ///
    /// # Errors
    /// When an index is out of range.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let rows =
            indices.iter().map(|&index| self.row(index)).collect::<Result<Arc<[usize]>>>()?;
        Ok(Dataset { rows, ..self.clone() })
    }

    /// The stored row of example `index`.
    fn row(&self, index: usize) -> Result<usize> {
        self.rows.get(index).copied().ok_or_else(|| {
            Error::invalid(format!("there is no example {index} among {}", self.rows.len()))
        })
    }

    #[cold]
    fn unknown_class(&self, index: usize, known: &[String]) -> Error {
        let class = self.label(index).map_or("", |label| &self.classes()[label]);
        let shown = known.iter().take(20).map(String::as_str).collect::<Vec<_>>();
        Error::mismatch(format!(
            "{} has class {class:?}, which is none of the {} known classes ({})",
            self.describe(index),
            known.len(),
            shown.join(", "),
        ))
    }

    /// What to call example `index` in an error.
    fn describe(&self, index: usize) -> String {
        match self.path(index) {
            Some(path) => path.display().to_string(),
            None => format!("example {index}"),
        }
    }
}

/// Numbers out.
impl Dataset {
    /// Writes the examples at `indices` as the backbone's input `out: [n, C, H, W]`. The result
    /// does not depend on the number of threads.
    ///
    /// # Errors
    /// When a file does not decode, channels cannot be converted, `out` has another length, or an
    /// argument is out of range; the first example in order is named.
    pub fn fill(
        &self,
        indices: &[usize],
        preprocess: &Preprocess,
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
        threads: &Threads,
    ) -> Result<()> {
        preprocess.check()?;
        augmentation.map_or(Ok(()), |a| a.check(preprocess))?;
        let image_len = preprocess.image_len();
        if indices.len().checked_mul(image_len) != Some(out.len()) {
            return Err(Error::invalid(format!(
                "a buffer of {} numbers does not hold {} images of {image_len}",
                out.len(),
                indices.len(),
            )));
        }
        let parts = out.chunks_exact_mut(image_len).collect();
        parallel::try_each(threads, parts, |at, part| {
            self.fill_one(indices[at], preprocess, augmentation, part)
        })
    }

    fn fill_one(
        &self,
        index: usize,
        preprocess: &Preprocess,
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
    ) -> Result<()> {
        let picture = self.images.load(self.row(index)?)?;
        let variation = augmentation.map(|a| a.draw(index, picture.size())).unwrap_or_default();
        preprocess.apply(&picture, &variation, out).context(|| self.describe(index))
    }

    /// The same examples decoded and resized once, as bytes in memory, when that takes at most
    /// `bytes_max`; otherwise, and for numbers, the data set itself. [`Dataset::fill`] gives the
    /// same result either way unless it crops at random from the full image ([`Crop::Resized`]).
    ///
    /// # Errors
    /// Those of [`Dataset::fill`].
    pub fn resized(
        &self,
        preprocess: &Preprocess,
        bytes_max: usize,
        threads: &Threads,
    ) -> Result<Self> {
        preprocess.check()?;
        let image_len = preprocess.image_len();
        let fits = self.len().checked_mul(image_len).filter(|&bytes| bytes <= bytes_max);
        let Some(bytes) = fits.filter(|&bytes| bytes > 0) else { return Ok(self.clone()) };
        let plain = preprocess.geometry();
        let size = [plain.height, plain.width, plain.channels];
        match &*self.images {
            Images::F32(_) => return Ok(self.clone()),
            Images::U8(array) if array.shape()[1..] == size => return Ok(self.clone()),
            Images::U8(_) | Images::Files(_) => {}
        }
        let mut pixels = vec![0u8; bytes];
        let parts = pixels.chunks_exact_mut(image_len).collect();
        parallel::try_each(threads, parts, |index, part: &mut [u8]| {
            let mut planes = vec![0.0; image_len];
            self.fill_one(index, &plain, None, &mut planes)?;
            preprocess::interleave(&planes, plain.channels, part);
            Ok(())
        })?;
        let images = Images::from_bytes(pixels, size)?;
        Ok(Dataset {
            images: Arc::new(images),
            targets: self.resized_targets(&plain)?,
            classes: Arc::clone(&self.classes),
            rows: (0..self.len()).collect(),
        })
    }
}

/// Names of what has only numbers.
fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[cold]
fn unlabelled() -> Error {
    Error::invalid("the data set has no labels").hint(
        "give a folder with one subfolder of images for each class, or an .npz file with labels y; \
         the README lists the other kinds of data",
    )
}
