//! What examples are labelled with: a class, a set of labels, numbers, or a class for each pixel.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::augment::{Augmentation, Variation};
use super::masks::Masks;
use super::preprocess::Preprocess;
use super::{CLASSES_MAX, Dataset, Origin, parallel, unlabelled};
use crate::error::{Context, Error, Result};
use crate::threads::Threads;

#[cfg(test)]
mod tests;

/// What an example's target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// One class.
    Class,
    /// Any number of labels.
    Labels,
    /// One or more real numbers.
    Numbers,
    /// A class for each pixel.
    Mask,
}

impl TargetKind {
    /// In words, for errors.
    fn describe(self) -> &'static str {
        match self {
            TargetKind::Class => "one class each",
            TargetKind::Labels => "sets of labels",
            TargetKind::Numbers => "numbers",
            TargetKind::Mask => "masks",
        }
    }
}

/// The targets of the stored examples.
#[derive(Clone, Debug)]
pub(super) enum Targets {
    /// Indices of classes.
    Classes(Arc<[usize]>),
    /// 1 for each label that an example has, else 0: `[stored, labels]`.
    Labels(Arc<[f32]>),
    /// `[stored, numbers]`
    Numbers(Arc<[f32]>),
    /// One mask for each image.
    Masks(Arc<Masks>),
}

impl Targets {
    fn kind(&self) -> TargetKind {
        match self {
            Targets::Classes(_) => TargetKind::Class,
            Targets::Labels(_) => TargetKind::Labels,
            Targets::Numbers(_) => TargetKind::Numbers,
            Targets::Masks(_) => TargetKind::Mask,
        }
    }

    /// One target for each of `images`, in range of `outputs` names.
    pub(super) fn check(&self, images: usize, outputs: usize) -> Result<()> {
        if outputs > CLASSES_MAX {
            return Err(Error::unsupported(format!(
                "{outputs} classes; expected at most {CLASSES_MAX}"
            )));
        }
        let count = |count: usize| match count == images {
            true => Ok(()),
            false => Err(Error::mismatch(format!("{count} labels for {images} images"))),
        };
        match self {
            Targets::Classes(labels) => {
                count(labels.len())?;
                check_classes(labels, outputs)
            }
            Targets::Labels(rows) | Targets::Numbers(rows) => {
                if outputs == 0 {
                    return Err(Error::invalid("there is no label or number to learn"));
                }
                count(rows.len() / outputs)?;
                let is_sound = |x: f32| match self {
                    Targets::Labels(_) => x == 0.0 || x == 1.0,
                    _ => x.is_finite(),
                };
                rows.iter().position(|&x| !is_sound(x)).map_or(Ok(()), |at| {
                    let (example, column, x) = (at / outputs, at % outputs, rows[at]);
                    let expected = match self {
                        Targets::Labels(_) => "expected 0 or 1",
                        _ => "expected a finite number",
                    };
                    let message = format!("target {column} of example {example} is {x}");
                    Err(Error::malformed(message).hint(expected))
                })
            }
            Targets::Masks(masks) => count(masks.len()),
        }
    }

    /// What tells the target of a stored `row` from another.
    pub(super) fn bytes(&self, row: usize, outputs: usize) -> Result<Vec<u8>> {
        Ok(match self {
            Targets::Classes(labels) => (labels[row] as u64).to_le_bytes().to_vec(),
            Targets::Labels(values) | Targets::Numbers(values) => {
                let row = &values[row * outputs..(row + 1) * outputs];
                row.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            Targets::Masks(masks) => masks.load(row)?.pixels.into_owned(),
        })
    }

    /// Those of `rows` alone.
    pub(super) fn gather(&self, rows: &[usize], outputs: usize) -> Self {
        let select = |values: &Arc<[f32]>| {
            let row = |&row: &usize| &values[row * outputs..(row + 1) * outputs];
            rows.iter().flat_map(row).copied().collect()
        };
        match self {
            Targets::Classes(labels) => {
                Targets::Classes(rows.iter().map(|&row| labels[row]).collect())
            }
            Targets::Labels(values) => Targets::Labels(select(values)),
            Targets::Numbers(values) => Targets::Numbers(select(values)),
            Targets::Masks(masks) => Targets::Masks(Arc::new(masks.gather(rows))),
        }
    }
}

fn check_classes(labels: &[usize], classes: usize) -> Result<()> {
    match labels.iter().position(|&label| label >= classes) {
        None => Ok(()),
        Some(index) => Err(Error::mismatch(format!(
            "label {} of example {index} is not below the number of classes, {classes}",
            labels[index],
        ))),
    }
}

/// Targets of all kinds.
impl Dataset {
    /// What the examples are labelled with; none when they are not.
    pub fn target_kind(&self) -> Option<TargetKind> {
        self.targets.as_ref().map(Targets::kind)
    }

    /// The same examples with their targets read as another kind: class numbers of an `.npz` as
    /// numbers, numbers 0 and 1 as labels, labels as the number 0 or 1, and sets of one label each
    /// as classes.
    ///
    /// # Errors
    /// When the targets cannot mean that.
    pub fn read_as(&self, kind: TargetKind) -> Result<Self> {
        let targets = self.targets.as_ref().ok_or_else(unlabelled)?;
        let with = |targets: Targets, names: Option<Vec<String>>| -> Result<Self> {
            let names = names.unwrap_or_else(|| self.classes().to_vec());
            targets.check(self.images.len(), names.len())?;
            let classes = Arc::new(super::Classes { names, origin: self.classes.origin });
            Ok(Dataset { targets: Some(targets), classes, ..self.clone() })
        };
        match (targets, kind, self.classes.origin) {
            _ if targets.kind() == kind => Ok(self.clone()),
            (Targets::Classes(labels), TargetKind::Numbers, Origin::Numbered) => {
                let numbers = labels.iter().map(|&label| label as f32).collect();
                with(Targets::Numbers(numbers), Some(vec!["0".to_string()]))
            }
            (Targets::Numbers(values), TargetKind::Labels, _) => {
                with(Targets::Labels(Arc::clone(values)), None)
            }
            (Targets::Labels(values), TargetKind::Numbers, _) => {
                with(Targets::Numbers(Arc::clone(values)), None)
            }
            (Targets::Labels(values), TargetKind::Class, _) => {
                let classes = values
                    .chunks_exact(self.classes().len())
                    .enumerate()
                    .map(|(example, row)| only_label(example, row))
                    .collect::<Result<_>>()?;
                with(Targets::Classes(classes), None)
            }
            _ => Err(Error::mismatch(format!(
                "the examples are labelled with {}; they cannot be read as {}",
                targets.kind().describe(),
                kind.describe(),
            ))),
        }
    }

    /// Writes the targets of the examples at `indices`, labels (1 or 0) or numbers: `[n, names]`.
    ///
    /// # Errors
    /// When the targets are of another kind, an index is out of range, or `out` has another length.
    pub fn fill_rows(&self, indices: &[usize], out: &mut [f32]) -> Result<()> {
        let width = self.classes().len();
        let values = match &self.targets {
            None => return Err(unlabelled()),
            Some(Targets::Labels(values) | Targets::Numbers(values)) => values,
            Some(_) => return Err(self.other_kind("sets of labels or numbers")),
        };
        check_len(out.len(), indices.len(), width)?;
        for (&index, out) in indices.iter().zip(out.chunks_exact_mut(width)) {
            let row = self.row(index)?;
            out.copy_from_slice(&values[row * width..(row + 1) * width]);
        }
        Ok(())
    }

    /// Writes the masks of the examples at `indices`, moved, mirrored and resized (to the nearest
    /// pixel) as [`Dataset::fill`] does their images: the class of each pixel, or -1 where it is
    /// ignored or outside of the image, `[n, H, W]`.
    ///
    /// # Errors
    /// When the targets are of another kind, a mask does not decode, has another size than its
    /// image or holds a class that there is not, or `out` has another length.
    pub fn fill_masks(
        &self,
        indices: &[usize],
        preprocess: &Preprocess,
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
        threads: &Threads,
    ) -> Result<()> {
        preprocess.check()?;
        augmentation.map_or(Ok(()), |a| a.check(preprocess))?;
        let masks = match &self.targets {
            None => return Err(unlabelled()),
            Some(Targets::Masks(masks)) => masks,
            Some(_) => return Err(self.other_kind("masks")),
        };
        let len = preprocess.height * preprocess.width;
        check_len(out.len(), indices.len(), len)?;
        let parts = out.chunks_exact_mut(len.max(1)).collect();
        parallel::try_each(threads, parts, |at, part| {
            let index = indices[at];
            let mask = masks.load(self.row(index)?)?;
            let classes = self.classes().len();
            masks.check(&mask, classes).context(|| masks.describe(self.rows[index]))?;
            let variation =
                augmentation.map(|a| a.draw(index, [mask.height, mask.width])).unwrap_or_default();
            let fitted = preprocess.fit_mask(&mask, &variation, masks.ignore());
            let class = |&index: &u8| match index == masks.ignore() {
                true => -1.0,
                false => f32::from(index),
            };
            part.iter_mut().zip(&fitted).for_each(|(out, index)| *out = class(index));
            Ok(())
        })
    }

    /// The index of pixels that count for nothing; none unless the targets are masks.
    pub fn ignored(&self) -> Option<u8> {
        match &self.targets {
            Some(Targets::Masks(masks)) => Some(masks.ignore()),
            _ => None,
        }
    }

    /// The targets of this data set's examples, masks under the geometry of `plain`.
    pub(super) fn resized_targets(&self, plain: &Preprocess) -> Result<Option<Targets>> {
        let Some(targets) = &self.targets else { return Ok(None) };
        let Targets::Masks(masks) = targets else {
            return Ok(Some(targets.gather(&self.rows, self.classes().len())));
        };
        let size = [plain.height, plain.width];
        let resized = self.rows.iter().map(|&row| {
            let mask = masks.load(row)?;
            Ok(plain.fit_mask(&mask, &Variation::default(), masks.ignore()))
        });
        let pixels = resized.collect::<Result<Vec<Vec<u8>>>>()?.concat();
        Masks::from_pixels(pixels, size, masks.ignore())
            .map(|masks| Some(Targets::Masks(Arc::new(masks))))
    }

    #[cold]
    fn other_kind(&self, wanted: &str) -> Error {
        let kind = self.target_kind().map_or("nothing", TargetKind::describe);
        Error::mismatch(format!("the examples are labelled with {kind}; expected {wanted}"))
    }

    /// The same examples with rows of targets in the order of `names`; see
    /// [`Dataset::with_classes`].
    pub(super) fn with_columns(&self, values: &[f32], names: &[String]) -> Result<Self> {
        let own = self.classes();
        let is_numbers = self.target_kind() == Some(TargetKind::Numbers);
        let place: Vec<Option<usize>> = match self.classes.origin {
            Origin::Numbered => {
                (0..names.len()).map(|i| Some(i).filter(|&i| i < own.len())).collect()
            }
            Origin::Named => {
                names.iter().map(|name| own.iter().position(|other| other == name)).collect()
            }
        };
        let missing = place.iter().position(Option::is_none);
        if let (true, Some(at)) = (is_numbers, missing) {
            return Err(Error::mismatch(format!(
                "the examples have the numbers ({}); expected {:?} among them",
                own.join(", "),
                names[at],
            )));
        }
        let unknown = |column: usize| !place.contains(&Some(column));
        for row in self.rows.iter() {
            let values = &values[row * own.len()..(row + 1) * own.len()];
            let surplus = (0..own.len()).find(|&c| !is_numbers && values[c] != 0.0 && unknown(c));
            if let Some(column) = surplus {
                return Err(Error::mismatch(format!(
                    "an example has label {:?}, which is none of the {} known labels ({})",
                    own[column],
                    names.len(),
                    names.iter().take(20).cloned().collect::<Vec<_>>().join(", "),
                )));
            }
        }
        let pick = |row: &[f32]| -> Vec<f32> {
            place.iter().map(|at| at.map_or(0.0, |at| row[at])).collect()
        };
        let picked: Arc<[f32]> = values.chunks_exact(own.len()).flat_map(pick).collect();
        let targets = match is_numbers {
            true => Targets::Numbers(picked),
            false => Targets::Labels(picked),
        };
        let classes = Arc::new(super::Classes { names: names.to_vec(), origin: Origin::Named });
        Ok(Dataset { targets: Some(targets), classes, ..self.clone() })
    }

    /// The same examples with masks of the classes `names`, by number.
    pub(super) fn with_mask_classes(&self, names: &[String]) -> Result<Self> {
        let own = self.classes();
        let is_named = matches!(self.classes.origin, Origin::Named);
        if own.len() > names.len() || is_named && own.iter().zip(names).any(|(a, b)| a != b) {
            let message = format!("the masks are of the classes ({})", own.join(", "));
            let expected = format!("expected ({})", names.join(", "));
            return Err(Error::mismatch(message).hint(expected));
        }
        let classes = Arc::new(super::Classes { names: names.to_vec(), origin: Origin::Named });
        Ok(Dataset { classes, ..self.clone() })
    }
}

/// The only label of an example's row.
fn only_label(example: usize, row: &[f32]) -> Result<usize> {
    let mut labels = row.iter().enumerate().filter(|(_, has)| **has != 0.0);
    match (labels.next(), labels.next()) {
        (Some((label, _)), None) => Ok(label),
        _ => {
            let count = row.iter().filter(|has| **has != 0.0).count();
            let message = format!("example {example} has {count} labels; expected one class");
            Err(Error::mismatch(message).hint("use --task multilabel for sets of labels"))
        }
    }
}

fn check_len(out: usize, examples: usize, len: usize) -> Result<()> {
    match examples.checked_mul(len) == Some(out) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "a buffer of {out} numbers does not hold {examples} targets of {len}"
        ))),
    }
}
