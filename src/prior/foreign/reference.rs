//! The layout of the reference implementation of "Pre-Train Your Loss": flat vectors over all
//! parameters, in the order of the model's state dict.
//!
//! | file | holds |
//! |---|---|
//! | `*_model.pt` | the state dict of the backbone: names, shapes and order of the parameters |
//! | `*_mean.pt` | `[D]` |
//! | `*_variance.pt` | `[D]` |
//! | `*_covmat.pt` | `[K, D]`, a deviation in each row; without it the prior is diagonal |
//!
//! D counts parameters only: statistics of BatchNorm and other buffers are in the model's file
//! alone.

use std::collections::HashSet;

use super::part::Part;
use super::pickle::TensorRef;
use super::state::{Content, State};
use super::{ForeignFile, Moments};
use crate::error::{Context, Error, Result};
use crate::tensor::Shape;

/// Ends of the names that the files have, before `.pt`.
pub(super) const ROLES: [&str; 4] = ["model", "mean", "variance", "covmat"];

/// Ends of the names of BatchNorm's buffers.
const BUFFERS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// Reads the moments from the four files, or three.
///
/// # Errors
/// When one is missing or given twice, or they are not of one network.
pub(super) fn read(mut files: Vec<ForeignFile>) -> Result<Moments> {
    let mut take = |role: &str| take(&mut files, role);
    let model = take("model")?.ok_or_else(|| missing("model"))?;
    let mean = take("mean")?.ok_or_else(|| missing("mean"))?;
    let variance = take("variance")?.ok_or_else(|| missing("variance"))?;
    let covmat = take("covmat")?;
    if let Some(other) = files.first() {
        let message = format!("{} is none of the files of a prior", other.name);
        return Err(Error::invalid(message).hint(expected()));
    }
    let mut moments = Moments { parts: model_parts(model)?, ..Moments::default() };
    let dimension = dimension(&mean)?;
    moments.notes.extend(fit(&mut moments.parts, dimension).context(|| mean.name.clone())?);
    deal(mean, &mut moments.parts, &[dimension], |part| &mut part.mean)?;
    deal(variance, &mut moments.parts, &[dimension], |part| &mut part.var)?;
    if let Some(covmat) = covmat {
        moments.stored = rows(&covmat, dimension)?;
        deal(covmat, &mut moments.parts, &[moments.stored, dimension], |part| &mut part.dev)?;
    }
    Ok(moments)
}

/// Removes the file whose name ends in `role`.
fn take<'a>(files: &mut Vec<ForeignFile<'a>>, role: &str) -> Result<Option<ForeignFile<'a>>> {
    let is = |file: &&ForeignFile| {
        let stem = file.name.strip_suffix(".pt").unwrap_or(&file.name);
        stem.ends_with(role)
    };
    let found: Vec<&str> = files.iter().filter(is).map(|file| file.name.as_str()).collect();
    if let [first, second, ..] = found[..] {
        return Err(Error::invalid(format!("both {first} and {second} end in '{role}'")));
    }
    let index = files.iter().position(|file| is(&file));
    Ok(index.map(|index| files.remove(index)))
}

fn expected() -> String {
    let names: Vec<String> = ROLES.iter().map(|role| format!("*_{role}.pt")).collect();
    format!("expected {} (covmat may be left out)", names.join(", "))
}

#[cold]
fn missing(role: &str) -> Error {
    Error::invalid(format!("no file is called *_{role}.pt")).hint(expected())
}

/// The model's parameters with their weights: names, shapes, and the order of the flat vectors.
fn model_parts(file: ForeignFile) -> Result<Vec<Part>> {
    let ForeignFile { name, mut torch, content } = file;
    let read = || {
        let Content::State(state) = content else {
            return Err(Error::mismatch("it holds one tensor; expected a state dict"));
        };
        let mut parts = Vec::new();
        for (name, tensor) in parameters(state) {
            let mut weights = Vec::new();
            torch.read(&tensor, |x| weights.push(x as f32)).context(|| format!("'{name}'"))?;
            let shape = Shape::from(tensor.shape);
            let model = Some(weights);
            let (mean, var, dev) = (Vec::new(), Vec::new(), Vec::new());
            parts.push(Part { name, shape, model, mean, var, dev });
        }
        Ok(parts)
    };
    read().context(|| name)
}

/// The entries of a state dict that an optimiser moves, each once however many names it has.
fn parameters(state: State) -> impl Iterator<Item = (String, TensorRef)> {
    let mut seen: HashSet<(String, usize, Vec<usize>)> = HashSet::new();
    state.into_iter().filter(move |(name, tensor)| {
        let is_buffer = BUFFERS.iter().any(|end| name.ends_with(end));
        let place = (tensor.storage.key.clone(), tensor.offset, tensor.shape.clone());
        tensor.storage.element.is_float() && !is_buffer && seen.insert(place)
    })
}

/// D, the length of the mean.
fn dimension(file: &ForeignFile) -> Result<usize> {
    match &file.content {
        Content::Tensor(tensor) if tensor.shape.len() == 1 => Ok(tensor.shape[0]),
        Content::Tensor(tensor) => Err(unexpected(&tensor.shape, "[D]")),
        Content::State(_) => Err(no_tensor()),
    }
    .context(|| file.name.clone())
}

/// Drops the parameters of the model that the vectors do not cover: a head at its end. Says so.
fn fit(parts: &mut Vec<Part>, dimension: usize) -> Result<Option<String>> {
    let mut covered = 0;
    let mut len = 0;
    while len < dimension && covered < parts.len() {
        len += parts[covered].shape.len();
        covered += 1;
    }
    if len != dimension || dimension == 0 {
        let total: usize = parts.iter().map(|part| part.shape.len()).sum();
        let message = format!("it has {dimension} numbers, the model {total} weights");
        return Err(Error::mismatch(message).hint("use the four files of one prior"));
    }
    let head: Vec<Part> = parts.split_off(covered);
    Ok(head.first().map(|first| {
        format!("the prior ends before '{}' and what follows it in the model", first.name)
    }))
}

/// K, the number of the covmat's rows.
fn rows(file: &ForeignFile, dimension: usize) -> Result<usize> {
    let check = || match &file.content {
        Content::Tensor(tensor) => match tensor.shape[..] {
            [rows, columns] if columns == dimension => Ok(rows),
            _ => Err(unexpected(&tensor.shape, &format!("[K,{dimension}]"))),
        },
        Content::State(_) => Err(no_tensor()),
    };
    check().context(|| file.name.clone())
}

#[cold]
fn unexpected(shape: &[usize], expected: &str) -> Error {
    let shape = Shape::from(shape);
    Error::mismatch(format!("its tensor has shape {shape}; expected {expected}"))
}

#[cold]
fn no_tensor() -> Error {
    Error::mismatch("it holds a state dict; expected one tensor")
}

/// Deals the elements of a tensor of flat vectors out to the parameters.
fn deal(
    file: ForeignFile,
    parts: &mut [Part],
    expected: &[usize],
    field: impl Fn(&mut Part) -> &mut Vec<f32>,
) -> Result<()> {
    let ForeignFile { name, mut torch, content } = file;
    let lens: Vec<usize> = parts.iter().map(|part| part.shape.len()).collect();
    let (mut at, mut filled) = (0, 0);
    let deal = || match content {
        Content::Tensor(tensor) if tensor.shape == expected => torch.read(&tensor, |x| {
            while filled == lens[at] {
                (at, filled) = ((at + 1) % lens.len(), 0);
            }
            field(&mut parts[at]).push(x as f32);
            filled += 1;
        }),
        Content::Tensor(tensor) => {
            Err(unexpected(&tensor.shape, &Shape::from(expected).to_string()))
        }
        Content::State(_) => Err(no_tensor()),
    };
    deal().context(|| name)
}
