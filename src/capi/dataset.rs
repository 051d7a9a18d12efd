//! Data: folders and files that the library reads, and images in a host's memory.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use ndarray::{ArrayView2, ArrayView3, ArrayView4};
use serde_json::json;

use super::error::{ErrorHandle, Failure, Status};
use super::guard::{answer, make};
use super::handles::{self, Held};
use super::memory::{buffer, copied, path, text, write_text};
use crate::data::{Dataset, TargetKind};
use crate::error::Error;

/// Examples: images, and what is known of them.
pub struct DatasetHandle {
    _private: [u8; 0],
}

impl Held for Dataset {
    type Handle = DatasetHandle;
    const KIND: &'static str = "dataset";
}

/// What the numbers of images are.
#[repr(u32)]
pub enum Element {
    /// Bytes, 0 to 255; the adaptation's options scale and normalise them.
    U8 = 0,
    /// Numbers of 32 bits that are scaled already; the options normalise them.
    F32 = 1,
}

/// The order of the numbers of images; the last letter varies fastest.
#[repr(u32)]
pub enum Layout {
    /// Image, channel, row, column.
    Nchw = 0,
    /// Image, row, column, channel.
    Nhwc = 1,
}

/// What the targets of examples are.
#[repr(u32)]
pub enum TargetType {
    /// A class each, counted from 0: uint32_t [count].
    Classes = 0,
    /// 1 for each label that an example has, else 0: float [count][names].
    Labels = 1,
    /// Numbers: float [count][names].
    Numbers = 2,
    /// A class for each pixel, 255 for none: uint8_t [count][height][width].
    Masks = 3,
}

/// Images in memory, copied by the call that is given them.
#[repr(C)]
pub struct Images {
    /// The numbers; they need not be aligned.
    pub pixels: *const c_void,
    /// Their length in bytes: count * channels * height * width times 1 or 4.
    pub bytes: usize,
    /// Number of images.
    pub count: usize,
    /// Channels of each: 1, 3 or 4, or as many as the backbone reads.
    pub channels: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
    /// One of priorfit_element.
    pub element: u32,
    /// One of priorfit_layout.
    pub layout: u32,
}

/// What is known of images in memory, copied by the call that is given them.
#[repr(C)]
pub struct Targets {
    /// The values, as `kind` says; they need not be aligned.
    pub values: *const c_void,
    /// Their length in bytes.
    pub bytes: usize,
    /// The names of the classes, labels or numbers; null where they are called by their number.
    pub names: *const *const c_char,
    /// How many classes, labels or numbers there are.
    pub name_count: usize,
    /// One of priorfit_target_type.
    pub kind: u32,
}

/// Most names: what the library takes at most, so that nothing is reserved for more.
const NAMES_MAX: usize = 65_536;

/// Opens a folder with a subfolder of PNG or JPEG images for each class, one with labels.csv, one
/// with images and masks, one of images alone, or an .npz file with x and y. Images of folders are
/// read when they are needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_dataset_open(
    source: *const c_char,
    dataset: Option<&mut MaybeUninit<*mut DatasetHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    make(("dataset", dataset), error, || {
        // SAFETY: the caller's promise.
        let source = unsafe { path("source", source) }?;
        Ok(Dataset::open(source)?)
    })
}

/// Makes a data set of images in memory. `targets` may be null: such a data set can be predicted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_dataset_new(
    images: Option<&Images>,
    targets: Option<&Targets>,
    dataset: Option<&mut MaybeUninit<*mut DatasetHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    make(("dataset", dataset), error, || {
        let images = images.ok_or_else(|| Failure::null("images"))?;
        // SAFETY: the caller's promise.
        let names = targets.map(|targets| unsafe { names(targets) }).transpose()?;
        // SAFETY: the caller's promise.
        let labels =
            targets.map(|targets| unsafe { labels(targets, images) }).transpose()?.flatten();
        let classes = names.clone().filter(|_| labels.is_some()).unwrap_or_default();
        // SAFETY: the caller's promise.
        let data = unsafe { stored(images, labels.as_deref(), classes) }?;
        match (targets, names) {
            (Some(targets), Some(names)) => {
                // SAFETY: the caller's promise.
                unsafe { with_targets(data, targets, names, images) }
            }
            _ => Ok(data),
        }
    })
}

/// # Safety
/// As [`super`] says.
unsafe fn names(targets: &Targets) -> Result<Vec<String>, Failure> {
    let count = targets.name_count;
    if count > NAMES_MAX {
        let message = format!("{count} names; expected at most {NAMES_MAX}");
        return Err(Failure::new(Status::InvalidArgument, message));
    }
    if targets.names.is_null() {
        return Ok((0..count).map(|number| number.to_string()).collect());
    }
    let name = |at: usize| {
        // SAFETY: the caller's promise: there are `count` names.
        let name = unsafe { text("names[..]", targets.names.add(at).read_unaligned()) }?;
        Ok(name.to_string())
    };
    (0..count).map(name).collect()
}

/// The classes of examples, if the targets are classes.
///
/// # Safety
/// As [`super`] says.
unsafe fn labels(targets: &Targets, images: &Images) -> Result<Option<Vec<usize>>, Failure> {
    if targets.kind != TargetType::Classes as u32 {
        return Ok(None);
    }
    let from = (targets.values, targets.bytes);
    // SAFETY: the caller's promise.
    let labels = unsafe { copied::<u32>("values", from, Some(images.count)) }?;
    Ok(Some(labels.into_iter().map(|label| label as usize).collect()))
}

/// # Safety
/// As [`super`] says.
unsafe fn stored(
    images: &Images,
    labels: Option<&[usize]>,
    classes: Vec<String>,
) -> Result<Dataset, Failure> {
    let Images { count, channels, height, width, .. } = *images;
    let [planar, interleaved] =
        [[count, channels, height, width], [count, height, width, channels]];
    let is_planar = match images.layout {
        layout if layout == Layout::Nchw as u32 => true,
        layout if layout == Layout::Nhwc as u32 => false,
        other => return Err(unknown("layout", other)),
    };
    let shape = if is_planar { planar } else { interleaved };
    let len = shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent));
    let from = (images.pixels, images.bytes);
    let wrong = |_| Failure::new(Status::InvalidArgument, "the shape of the images is too large");
    let data = if images.element == Element::U8 as u32 {
        // SAFETY: the caller's promise.
        let pixels = unsafe { copied::<u8>("pixels", from, len) }?;
        let view = ArrayView4::from_shape(shape, &pixels).map_err(wrong)?;
        let view = if is_planar { view.permuted_axes([0, 2, 3, 1]) } else { view };
        Dataset::from_images_u8(view, labels, classes)
    } else if images.element == Element::F32 as u32 {
        // SAFETY: the caller's promise.
        let pixels = unsafe { copied::<f32>("pixels", from, len) }?;
        let view = ArrayView4::from_shape(shape, &pixels).map_err(wrong)?;
        let view = if is_planar { view } else { view.permuted_axes([0, 3, 1, 2]) };
        Dataset::from_arrays_f32(view, labels, classes)
    } else {
        return Err(unknown("element", images.element));
    };
    Ok(data?)
}

/// `data` with targets that are not classes.
///
/// # Safety
/// As [`super`] says.
unsafe fn with_targets(
    data: Dataset,
    targets: &Targets,
    names: Vec<String>,
    images: &Images,
) -> Result<Dataset, Failure> {
    let from = (targets.values, targets.bytes);
    let kind = match targets.kind {
        kind if kind == TargetType::Classes as u32 => return Ok(data),
        kind if kind == TargetType::Labels as u32 => TargetKind::Labels,
        kind if kind == TargetType::Numbers as u32 => TargetKind::Numbers,
        kind if kind == TargetType::Masks as u32 => TargetKind::Mask,
        other => return Err(unknown("kind", other)),
    };
    let wrong = |_| Failure::new(Status::InvalidArgument, "the shape of the targets is too large");
    if kind == TargetKind::Mask {
        let shape = [images.count, images.height, images.width];
        let len = shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent));
        // SAFETY: the caller's promise.
        let values = unsafe { copied::<u8>("values", from, len) }?;
        let view = ArrayView3::from_shape(shape, &values).map_err(wrong)?;
        return Ok(data.with_masks(view, names)?);
    }
    let len = images.count.checked_mul(names.len());
    // SAFETY: the caller's promise.
    let values = unsafe { copied::<f32>("values", from, len) }?;
    let view = ArrayView2::from_shape([images.count, names.len()], &values).map_err(wrong)?;
    Ok(data.with_rows(kind, view, names)?)
}

#[cold]
fn unknown(name: &str, value: u32) -> Failure {
    let message = format!("`{name}` is {value}, which means nothing");
    Failure::new(Status::InvalidArgument, message)
}

/// Number of examples.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_dataset_len(
    dataset: *const DatasetHandle,
    len: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let dataset = handles::get::<Dataset>("dataset", dataset)?;
        len.ok_or_else(|| Failure::null("len"))?.write(dataset.len());
        Ok(())
    })
}

/// What is in a data set, as JSON: the number of examples, what their targets are, and the names of
/// the classes, labels or numbers. See the head of this file for `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_dataset_describe(
    dataset: *const DatasetHandle,
    buffer: *mut c_char,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let dataset = handles::get::<Dataset>("dataset", dataset)?;
        let description = json!({
            "examples": dataset.len(),
            "targets": dataset.target_kind(),
            "names": dataset.classes(),
        });
        // SAFETY: the caller's promise.
        unsafe { write_text(&description.to_string(), (buffer, capacity), length) }
    })
}

/// Writes the class of each example to `labels`, whose length is the number of examples.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn priorfit_dataset_labels(
    dataset: *const DatasetHandle,
    labels: *mut u32,
    len: usize,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let dataset = handles::get::<Dataset>("dataset", dataset)?;
        let known = dataset.labels(&(0..dataset.len()).collect::<Vec<_>>())?;
        // SAFETY: the caller's promise.
        let labels = unsafe { buffer("labels", (labels, len), known.len()) }?;
        let labels = labels.ok_or_else(|| Failure::null("labels"))?;
        for (to, label) in labels.iter_mut().zip(known) {
            *to = u32::try_from(label).map_err(|_| Error::internal("classes are few"))?;
        }
        Ok(())
    })
}

/// Splits classes at random into `per_class` examples of each, or all where there are fewer, and
/// the rest. `rest` may be null.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_dataset_few(
    dataset: *const DatasetHandle,
    seed: u64,
    per_class: usize,
    few: Option<&mut MaybeUninit<*mut DatasetHandle>>,
    rest: Option<&mut MaybeUninit<*mut DatasetHandle>>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let few = few.ok_or_else(|| Failure::null("few"))?;
        few.write(ptr::null_mut());
        let dataset = handles::get::<Dataset>("dataset", dataset)?;
        let (some, others) = dataset.few(seed, per_class)?;
        few.write(handles::insert(some)?);
        if let Some(rest) = rest {
            rest.write(handles::insert(others)?);
        }
        Ok(())
    })
}

/// Frees a data set; work that uses it finishes with it. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_dataset_free(
    dataset: *mut DatasetHandle,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || handles::free::<Dataset>("dataset", dataset))
}
