//! Priors that others made.
//!
//! Two layouts are read, both of PyTorch: the flat vectors of the reference implementation of the
//! method (`reference`) and the checkpoints of `swa_gaussian` (`swag`). A [`Foreign`] is what the
//! files say; [`Foreign::attach`] makes a [`Prior`] for a backbone of it, after it has compared the
//! two: names and shapes, and the weights themselves, which show a wrong order or another network.
//!
//! The files are pickles, which are programs. They are run by a machine that can build tensors,
//! dicts and numbers and nothing else (`pickle`); no code of theirs is executed.

mod convention;
mod deviations;
mod names;
mod part;
mod pickle;
mod reference;
mod state;
mod swag;
mod torch;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Header, Parameter, Prior, Weights, deviations_shape};
use crate::error::{Context, Error, Result};
use crate::tensor::{Shape, Tensor, contiguous, tensor};

use names::Pair;
use part::{Distance, Part};
use state::Content;
use torch::{Source, TorchFile};

pub use convention::{Convention, ForeignStrength};
pub use deviations::{Deviations, Scaling};

/// Which program wrote the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The reference implementation: flat vectors and a model.
    Reference,
    /// A checkpoint of `swa_gaussian`.
    SwaGaussian,
}

/// What foreign files say, before it is attached to a backbone.
#[derive(Debug)]
pub struct Foreign {
    layout: Layout,
    moments: Moments,
}

/// The moments in the files.
#[derive(Debug, Default)]
struct Moments {
    parts: Vec<Part>,
    /// Rows of every part's deviations.
    stored: usize,
    /// 0 where it is not known.
    snapshots: u64,
    /// Variances that cancelled and were estimated otherwise.
    cancelled: usize,
    notes: Vec<String>,
}

/// One file of a foreign prior.
struct ForeignFile<'a> {
    name: String,
    torch: TorchFile<'a>,
    content: Content,
}

/// What the files do not say.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignSettings {
    /// ε, the variance that every weight has at least.
    pub epsilon: f32,
    /// How deviations are scaled; inferred without it.
    pub scaling: Option<Scaling>,
    /// A strength in the terms of the program that the files are for, built into the prior, which
    /// then has strength 1. It says how deviations are scaled, too, unless `scaling` does.
    pub strength: Option<ForeignStrength>,
    /// Number of examples of the source task, 0 where it is not known.
    pub num_data: u64,
    /// The largest relative distance between the weights of the files' model, of the backbone and
    /// the mean; unrelated weights have √2. A single matrix may be twice as far.
    pub distance_max: f64,
}

impl Default for ForeignSettings {
    fn default() -> Self {
        ForeignSettings {
            epsilon: 1e-6,
            scaling: None,
            strength: None,
            num_data: 0,
            distance_max: 0.5,
        }
    }
}

/// What was found in foreign files and done with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForeignReport {
    /// Which program wrote the files.
    pub layout: Layout,
    /// Parameters of the files.
    pub parameters: usize,
    /// Weights of them, D.
    pub dimension: usize,
    /// Parameters that the backbone has.
    pub matched: usize,
    /// Those of them that were told by their values, and their names in the backbone.
    pub renamed: Vec<(String, String)>,
    /// Parameters of the files that the backbone does not have.
    pub ignored: Vec<String>,
    /// Rank of the prior.
    pub rank: usize,
    /// What was found out about the deviations; nothing in a diagonal prior.
    pub deviations: Option<Deviations>,
    /// ‖model - mean‖/‖mean‖ for the model in the files, if there is one.
    pub model_distance: Option<f64>,
    /// ‖backbone - mean‖/‖mean‖.
    pub backbone_distance: f64,
    /// Variances lost to cancellation that were estimated from the deviations instead.
    pub cancelled: usize,
    /// Variances that the reference raised to its least value, 1e-6.
    pub clamped: usize,
    /// Sentences for people.
    pub notes: Vec<String>,
}

impl Foreign {
    /// Reads the files of one prior: a checkpoint of `swa_gaussian`, or the reference's four files
    /// in any order. The common beginning of the four's names stands for them all.
    ///
    /// # Errors
    /// When a file cannot be read, holds what `torch.save` does not write for tensors, or does not
    /// fit the others. The error names the file.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let opened = expand(paths).into_iter().map(|path| {
            let file = File::open(&path).map_err(|e| Error::io("cannot read", &path, e))?;
            open(path.display().to_string(), Box::new(BufReader::new(file)))
        });
        Self::read(opened.collect::<Result<_>>()?)
    }

    /// Reads files from memory; each has a name and its bytes.
    ///
    /// # Errors
    /// As [`Foreign::open`].
    pub fn from_bytes(files: &[(&str, &[u8])]) -> Result<Self> {
        let opened =
            files.iter().map(|(name, bytes)| open(name.to_string(), Box::new(Cursor::new(*bytes))));
        Self::read(opened.collect::<Result<_>>()?)
    }

    fn read(mut files: Vec<ForeignFile>) -> Result<Self> {
        let is_swag = files.iter().position(|file| swag::is_one(&file.content));
        let (layout, moments) = match (is_swag, files.len()) {
            (Some(_), 1) => (Layout::SwaGaussian, swag::read(files.remove(0))?),
            (Some(index), _) => {
                let message = format!("{} is a prior of its own", files[index].name);
                return Err(Error::invalid(message).hint("give it alone"));
            }
            (None, _) => (Layout::Reference, reference::read(files)?),
        };
        Ok(Foreign { layout, moments })
    }

    /// The prior of a backbone with these trainable weights and this fingerprint.
    ///
    /// # Errors
    /// When the backbone has weights that the files do not cover, when model, mean and backbone are
    /// too far apart to belong together, when the scaling of the deviations does not show, or the
    /// numbers make no Gaussian.
    pub fn attach(
        self,
        weights: &Weights,
        fingerprint: &str,
        settings: &ForeignSettings,
    ) -> Result<(Prior, ForeignReport)> {
        if let Some(strength) = &settings.strength {
            strength.check()?;
        }
        let Foreign { layout, moments } = self;
        let Moments { mut parts, stored, mut snapshots, cancelled, mut notes } = moments;
        if parts.is_empty() {
            return Err(Error::malformed("the files cover no parameter"));
        }
        let model_distance = model_distance(&parts, settings)?;
        let pairs = names::pair(&parts, weights)?;
        let backbone_distance = backbone_distance(&parts, &pairs, weights, settings)?;
        let known = settings.scaling.or(settings.strength.map(|strength| strength.scaling()));
        let scaling = match layout {
            Layout::Reference => known,
            Layout::SwaGaussian => Some(known.unwrap_or(Scaling::Raw)),
        };
        let (rank, deviations) = match stored {
            0 => (0, None),
            _ => {
                let (rank, found) = deviations::settle(&mut parts, stored, scaling)?;
                (rank, Some(found))
            }
        };
        if rank == 0 && stored > 0 {
            notes.push("all deviations are zero: the prior is diagonal".to_string());
        }
        if snapshots == 0 && deviations.as_ref().is_some_and(|found| found.zero > 0) {
            // The first snapshot's row is still there, so all rows are.
            snapshots = stored as u64;
        }
        let mut report = ForeignReport {
            layout,
            parameters: parts.len(),
            dimension: parts.iter().map(|part| part.shape.len()).sum(),
            matched: pairs.len(),
            renamed: renamed(&parts, &pairs),
            ignored: ignored(&parts, &pairs),
            rank,
            deviations,
            model_distance,
            backbone_distance,
            cancelled,
            clamped: match layout {
                Layout::Reference => clamped(&parts),
                Layout::SwaGaussian => 0,
            },
            notes,
        };
        report.notes.extend(gap_note(&parts, &pairs));
        let header = header(&report, snapshots, fingerprint, settings);
        let parameters = pairs.iter().map(|pair| parameter(&mut parts[pair.part], pair, rank));
        let parameters = parameters.collect::<Result<_>>()?;
        let prior = Prior::new(header, parameters)?;
        let prior = match &settings.strength {
            Some(strength) => strength.apply(&prior)?,
            None => prior,
        };
        Ok((prior, report))
    }
}

fn open<'a>(name: String, source: Box<dyn Source + 'a>) -> Result<ForeignFile<'a>> {
    let read = || {
        let torch = TorchFile::open(source)?;
        let content = Content::of(torch.pickle())?;
        Ok((torch, content))
    };
    let (torch, content) = read().context(|| name.clone())?;
    Ok(ForeignFile { name, torch, content })
}

/// The four files that a common beginning of their names stands for, or the paths as they are.
fn expand(paths: &[PathBuf]) -> Vec<PathBuf> {
    let with = |path: &Path, role: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("_{role}.pt"));
        PathBuf::from(name)
    };
    match paths {
        [prefix] if !prefix.exists() && with(prefix, "mean").exists() => {
            let all = reference::ROLES.iter().map(|role| with(prefix, role));
            all.filter(|path| path.exists()).collect()
        }
        _ => paths.to_vec(),
    }
}

/// How far the files' model is from their mean. In another order, or of another network, they have
/// nothing in common.
fn model_distance(parts: &[Part], settings: &ForeignSettings) -> Result<Option<f64>> {
    let mut all = Distance::default();
    let mut far = Vec::new();
    for part in parts {
        let Some(model) = &part.model else { return Ok(None) };
        let distance = Distance::of(model.iter().copied(), &part.mean);
        far.extend(is_far(&distance, &part.shape, settings).then(|| part.name.clone()));
        all.add(distance);
    }
    let hint = "use the files of one prior, made of a model whose parameters have this order; \
                or allow more with --distance-max";
    check_distance(&all, &far, "the model's weights are not those the mean is of", settings)
        .map_err(|e| e.hint(hint))?;
    Ok(Some(all.relative()))
}

/// How far the backbone is from the mean.
fn backbone_distance(
    parts: &[Part],
    pairs: &[Pair],
    weights: &Weights,
    settings: &ForeignSettings,
) -> Result<f64> {
    let mut all = Distance::default();
    let mut far = Vec::new();
    for pair in pairs {
        let weight = contiguous(&weights[pair.name]);
        let part = &parts[pair.part];
        let mean = arranged(&part.mean, &part.shape, pair.transposed, 1);
        let distance = Distance::of(weight.iter().copied(), &mean);
        far.extend(is_far(&distance, &part.shape, settings).then(|| pair.name.to_string()));
        all.add(distance);
    }
    let hint = "use the backbone that the prior was learned around; or allow more with \
                --distance-max";
    check_distance(&all, &far, "the backbone's weights are not those the prior is of", settings)
        .map_err(|e| e.hint(hint))?;
    Ok(all.relative())
}

/// Whether a matrix of the model has moved further than training moves one. Vectors may be small
/// and move far.
fn is_far(distance: &Distance, shape: &Shape, settings: &ForeignSettings) -> bool {
    shape.ndim() >= 2 && distance.relative() > 2.0 * settings.distance_max
}

fn check_distance(
    all: &Distance,
    far: &[String],
    what: &str,
    settings: &ForeignSettings,
) -> Result<()> {
    let (relative, max) = (all.relative(), settings.distance_max);
    // Written so that a distance that is no number fails.
    if relative <= max && far.is_empty() {
        return Ok(());
    }
    let mut message =
        format!("{what}: their relative distance is {relative:.3}; expected {max} at most");
    if !far.is_empty() {
        message.push_str(&format!(", and {} at most of each matrix: ", 2.0 * max));
        message.push_str(&super::matching::first_few(far));
    }
    Err(Error::mismatch(message))
}

/// The names of the parts that were told by their values, with those in the backbone.
fn renamed(parts: &[Part], pairs: &[Pair]) -> Vec<(String, String)> {
    let by_value = pairs.iter().filter(|pair| pair.by_value);
    by_value.map(|pair| (parts[pair.part].name.clone(), pair.name.to_string())).collect()
}

fn ignored(parts: &[Part], pairs: &[Pair]) -> Vec<String> {
    unused(parts, pairs).map(|index| parts[index].name.clone()).collect()
}

/// The places of the parts that no weight belongs to.
fn unused(parts: &[Part], pairs: &[Pair]) -> impl Iterator<Item = usize> {
    let mut used = vec![false; parts.len()];
    pairs.iter().for_each(|pair| used[pair.part] = true);
    (0..parts.len()).filter(move |&index| !used[index])
}

/// Says when the backbone lacks parameters in the midst of those it has, which is no head cut off.
fn gap_note(parts: &[Part], pairs: &[Pair]) -> Option<String> {
    let last = pairs.iter().map(|pair| pair.part).max()?;
    let before = unused(parts, pairs).filter(|&index| index < last);
    let gaps: Vec<String> = before.map(|index| format!("'{}'", parts[index].name)).collect();
    (!gaps.is_empty()).then(|| {
        format!(
            "{} parameters in the midst of the files are no weights of the backbone, which will \
             not move them: {}; its exporter may have merged or folded them",
            gaps.len(),
            super::matching::first_few(&gaps)
        )
    })
}

fn clamped(parts: &[Part]) -> usize {
    let variances = parts.iter().flat_map(|part| &part.var);
    variances.filter(|&&v| v <= deviations::CLAMPED).count()
}

fn header(
    report: &ForeignReport,
    snapshots: u64,
    fingerprint: &str,
    settings: &ForeignSettings,
) -> Header {
    let mut header = Header::new(fingerprint, settings.epsilon);
    header.rank = report.rank;
    header.num_data = settings.num_data;
    header.learned.method = "SWAG".to_string();
    header.learned.snapshots = snapshots;
    let layout = match report.layout {
        Layout::Reference => "the reference implementation's files",
        Layout::SwaGaussian => "a swa_gaussian checkpoint",
    };
    header.notes = format!("imported from {layout}");
    header
}

/// The parameter of a backbone's weight. The part's numbers are gone afterwards.
fn parameter(part: &mut Part, pair: &Pair, rank: usize) -> Result<Parameter> {
    let shape = match (pair.transposed, &part.shape[..]) {
        (true, &[rows, columns]) => Shape::from([columns, rows]),
        _ => part.shape.clone(),
    };
    let arrange = |numbers: &mut Vec<f32>, rows| {
        let numbers = std::mem::take(numbers);
        match pair.transposed {
            true => arranged(&numbers, &part.shape, true, rows).into_owned(),
            false => numbers,
        }
    };
    let mean = tensor(&shape, arrange(&mut part.mean, 1))?;
    let var = tensor(&shape, arrange(&mut part.var, 1))?;
    let dev: Option<Tensor> = match rank {
        0 => None,
        _ => Some(tensor(&deviations_shape(rank, &shape), arrange(&mut part.dev, rank))?),
    };
    Ok(Parameter::new(pair.name, mean, var, dev))
}

/// `rows` tensors of `shape` in the arrangement of the backbone: each matrix turned round, or as
/// they are.
fn arranged<'a>(
    numbers: &'a [f32],
    shape: &Shape,
    transposed: bool,
    rows: usize,
) -> std::borrow::Cow<'a, [f32]> {
    let (true, &[height, width]) = (transposed, &shape[..]) else { return numbers.into() };
    let mut turned = Vec::with_capacity(numbers.len());
    for matrix in numbers.chunks(height * width).take(rows) {
        for column in 0..width {
            turned.extend((0..height).map(|row| matrix[row * width + column]));
        }
    }
    turned.into()
}
