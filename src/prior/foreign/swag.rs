//! Checkpoints of `swa_gaussian` (Maddox et al. 2019): a state dict in which every parameter is
//! replaced by buffers.
//!
//! | buffer | holds |
//! |---|---|
//! | `NAME_mean` | the running mean, of the parameter's shape |
//! | `NAME_sq_mean` | the running mean of the squares, likewise |
//! | `NAME_cov_mat_sqrt` | `[K, elements]`: deviations from the running mean, raw; optional |
//! | `n_models` | the number of snapshots |
//!
//! **The variance is a difference of two large numbers.** In `f32`, mean and mean square of a
//! weight carry errors of about √n 2⁻²⁴ of themselves. For weights that do not move, the difference
//! is then a third of √n 2⁻²³ of the mean square, as its root mean square (simulated, n from 5 to
//! 1000); below three times that it is taken for rounding. The deviations do not suffer from that,
//! and their expected square is known (see [`deviations`](super::deviations)): such a variance is
//! estimated from them, and where there are none it is what the difference gives, 0 at least.
//!
//! The original divides by the number of deviations it was told to keep, less 1, even while it has
//! fewer; here the number that is there counts.

use std::collections::HashMap;

use super::part::Part;
use super::pickle::{Element, TensorRef};
use super::state::{Content, State};
use super::{ForeignFile, Moments};
use crate::error::{Context, Error, Result};
use crate::tensor::Shape;

const SQUARE: &str = "_sq_mean";
const MEAN: &str = "_mean";
const DEVIATIONS: &str = "_cov_mat_sqrt";

/// Snapshots that are assumed where the checkpoint does not tell how many there were.
const SNAPSHOTS: u64 = 20;

/// Whether a file is such a checkpoint.
pub(super) fn is_one(content: &Content) -> bool {
    match content {
        Content::State(state) => state.iter().any(|(name, _)| name.ends_with(SQUARE)),
        Content::Tensor(_) => false,
    }
}

/// Reads the moments from a checkpoint.
///
/// # Errors
/// When buffers are missing or their shapes disagree; the error names the parameter.
pub(super) fn read(mut file: ForeignFile) -> Result<Moments> {
    let state = match std::mem::replace(&mut file.content, Content::State(State::new())) {
        Content::State(state) => state,
        Content::Tensor(_) => State::new(),
    };
    let name = file.name.clone();
    read_state(file, &state).context(|| name)
}

fn read_state(mut file: ForeignFile, state: &State) -> Result<Moments> {
    let tensors: HashMap<&str, &TensorRef> = state.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut moments = Moments::default();
    if let Some((_, count)) = state.iter().find(|(name, _)| name.ends_with("n_models")) {
        let mut snapshots = 0.0;
        file.torch.read(count, |x| snapshots = x).context(|| "'n_models'")?;
        moments.snapshots = snapshots as u64;
    }
    let mut stored = None;
    for (key, square) in state {
        let Some(name) = key.strip_suffix(SQUARE) else { continue };
        let buffers = Buffers {
            mean: *tensors.get(format!("{name}{MEAN}").as_str()).ok_or_else(|| {
                Error::malformed(format!("'{key}' has no '{name}{MEAN}' beside it"))
            })?,
            square,
            deviations: tensors.get(format!("{name}{DEVIATIONS}").as_str()).copied(),
        };
        let rows = buffers.rows().context(|| format!("'{name}'"))?;
        if *stored.get_or_insert(rows) != rows {
            let message = format!("'{name}' has {rows} deviations, others {}", stored.unwrap_or(0));
            return Err(Error::malformed(message));
        }
        let part = buffers.read(name, &mut file, &mut moments);
        moments.parts.push(part.context(|| format!("'{name}'"))?);
    }
    moments.stored = stored.unwrap_or(0);
    Ok(moments)
}

/// The tensors of one parameter.
struct Buffers<'a> {
    mean: &'a TensorRef,
    square: &'a TensorRef,
    deviations: Option<&'a TensorRef>,
}

impl Buffers<'_> {
    /// K, once the shapes are known to agree.
    fn rows(&self) -> Result<usize> {
        let shape = Shape::from(self.mean.shape.as_slice());
        if self.square.shape != self.mean.shape {
            let square = Shape::from(self.square.shape.as_slice());
            return Err(Error::malformed(format!(
                "its mean has shape {shape}, its mean square {square}"
            )));
        }
        let len = shape.checked_len()?;
        match self.deviations.map(|deviations| &deviations.shape[..]) {
            None => Ok(0),
            Some(&[rows, columns]) if columns == len => Ok(rows),
            Some(other) => {
                let other = Shape::from(other);
                let hint = format!("expected [K,{len}]");
                Err(Error::malformed(format!("its deviations have shape {other}")).hint(hint))
            }
        }
    }

    fn read(&self, name: &str, file: &mut ForeignFile, moments: &mut Moments) -> Result<Part> {
        let (mut mean, mut square) = (Vec::new(), Vec::new());
        file.torch.read(self.mean, |x| mean.push(x))?;
        file.torch.read(self.square, |x| square.push(x))?;
        let mut dev = Vec::new();
        if let Some(deviations) = self.deviations {
            file.torch.read(deviations, |x| dev.push(x as f32))?;
        }
        let snapshots = if moments.snapshots == 0 { SNAPSHOTS } else { moments.snapshots };
        let noise = (snapshots as f64).sqrt() * unit(self.square.storage.element);
        let len = mean.len();
        let one = |(index, (&mean, &square)): (usize, (&f64, &f64))| {
            let difference = square - mean * mean;
            if difference > noise * square {
                return difference as f32;
            }
            moments.cancelled += 1;
            let column = dev.iter().skip(index).step_by(len).map(|&q| f64::from(q));
            variance_of(column, snapshots).unwrap_or(difference.max(0.0)) as f32
        };
        let var = mean.iter().zip(&square).enumerate().map(one).collect();
        Ok(Part {
            name: name.to_string(),
            shape: Shape::from(self.mean.shape.as_slice()),
            model: None,
            mean: mean.into_iter().map(|x| x as f32).collect(),
            var,
            dev,
        })
    }
}

/// Twice the relative error of one rounding.
fn unit(element: Element) -> f64 {
    match element {
        Element::F64 => f64::EPSILON,
        Element::F16 => 2f64.powi(-10),
        Element::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    }
}

/// The variance of the snapshots whose last deviations from the running mean these are; none if
/// there are too few.
fn variance_of(column: impl Iterator<Item = f64>, snapshots: u64) -> Option<f64> {
    let squares: Vec<f64> = column.map(|q| q * q).collect();
    let n = snapshots.max(squares.len() as u64) as f64;
    // Of σ², the expected square of the deviation of snapshot t is (t-1)/t.
    let share: f64 = (0..squares.len()).map(|age| 1.0 - 1.0 / (n - age as f64)).sum();
    (share > 0.0).then(|| squares.iter().sum::<f64>() / share * (n - 1.0) / n)
}
