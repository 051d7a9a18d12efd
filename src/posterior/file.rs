//! Draws as a safetensors file: differences from a base.
//!
//! | tensor | dtype | |
//! |---|---|---|
//! | `base/<parameter>` | F32 | the mean of the draws; absent where it is the backbone's weight |
//! | `shift/<parameter>` | F16 | instead of it: mean minus the backbone's weight, over its scale |
//! | `shift_scale/<parameter>` | F32, `[1]` | a power of two that the shift is multiplied by |
//! | `<draw>/<parameter>` | F32 or F16 | draw minus base, over the scale; absent where it is 0 |
//! | `scale/<parameter>` | F32, `[1]` | a power of two that F16 differences are multiplied by |
//!
//! The metadata `draws` is their number, counted from 0. Every number MUST be finite, and every
//! tensor have its parameter's shape. So weights that do not differ take no space: those of one
//! draw are its base, and those of a last-layer approximation one network and a head for each draw.
//!
//! A single draw comes back bit for bit. Of several, a weight θ = base + δ comes back within
//! 2⁻²⁴(|θ| + |δ|) in F32; in F16 within another 2⁻¹¹|δ| + 2⁻³⁹ max|δ|, the maximum being over the
//! parameter: a thousandth of the draws' own spread. A shift adds as much again, of its own size.

use std::collections::BTreeMap;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{Posterior, own_weights};
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::prior::Weights;
use crate::task::{HEAD_BIAS, HEAD_WEIGHT};
use crate::tensor::{Tensor, contiguous, tensor};

/// Most draws of one posterior.
pub(crate) const DRAWS_MAX: usize = 10_000;
/// The metadata that holds their number.
const COUNT: &str = "draws";

/// How the differences between draws are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrawPrecision {
    /// In half the space, within a thousandth of the draws' spread.
    F16,
    /// As they are, but for rounding.
    #[default]
    F32,
}

impl Posterior {
    /// The draws as a file with this further metadata; `shift` is the precision of how far their
    /// mean is from the backbone.
    pub(super) fn draw_bytes(
        &self,
        precision: DrawPrecision,
        shift: DrawPrecision,
        metadata: Vec<(&str, String)>,
    ) -> Result<Vec<u8>> {
        let mut parts = Parts::default();
        for (name, first) in self.draws.first().into_iter().flatten() {
            let weights: Vec<_> = self.draws.iter().filter_map(|draw| draw.get(name)).collect();
            let base = match weights.iter().all(|weight| same_bits(weight, first)) {
                true => first.clone(),
                false => mean(&weights)?,
            };
            match self.model.weight(name) {
                Some(own) if same_bits(own, &base) => {}
                Some(own) if shift == DrawPrecision::F16 => parts.push_shift(name, own, &base),
                _ => parts.push(format!("base/{name}"), base.shape(), &contiguous(&base)),
            }
            parts.push_deltas(name, &base, &weights, precision);
        }
        parts.serialize(self.draws.len(), metadata)
    }
}

/// The tensors of a file.
#[derive(Default)]
struct Parts(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Parts {
    fn push(&mut self, name: String, shape: &[usize], data: &[f32]) {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0.insert(name, (Dtype::F32, shape.to_vec(), bytes));
    }

    /// What the base of one parameter differs from the backbone by.
    fn push_shift(&mut self, name: &str, own: &Tensor, base: &Tensor) {
        let shift: Vec<f32> = base.iter().zip(own).map(|(base, own)| base - own).collect();
        let scale = half_scale(largest(&shift));
        self.push(format!("shift_scale/{name}"), &[1], &[scale]);
        self.push_half(format!("shift/{name}"), base.shape(), &shift, scale);
    }

    /// Numbers over a scale, in half precision.
    fn push_half(&mut self, name: String, shape: &[usize], data: &[f32], scale: f32) {
        let half = |x: &f32| f16::from_f32(x / scale).to_le_bytes();
        let bytes = data.iter().flat_map(half).collect();
        self.0.insert(name, (Dtype::F16, shape.to_vec(), bytes));
    }

    /// What the draws of one parameter differ from their base by.
    fn push_deltas(
        &mut self,
        name: &str,
        base: &Tensor,
        draws: &[&Tensor],
        precision: DrawPrecision,
    ) {
        let delta = |draw: &Tensor| draw.iter().zip(base).map(|(x, base)| x - base).collect();
        let deltas: Vec<Vec<f32>> = draws.iter().map(|draw| delta(draw)).collect();
        let largest = deltas.iter().map(|delta| largest(delta)).fold(0.0, f32::max);
        if largest == 0.0 {
            return;
        }
        let scale = half_scale(largest);
        if precision == DrawPrecision::F16 {
            self.push(format!("scale/{name}"), &[1], &[scale]);
        }
        for (number, delta) in deltas.iter().enumerate() {
            let name = format!("{number}/{name}");
            if delta.iter().all(|&x| x == 0.0) {
                continue;
            }
            match precision {
                DrawPrecision::F32 => self.push(name, base.shape(), delta),
                DrawPrecision::F16 => self.push_half(name, base.shape(), delta, scale),
            }
        }
    }

    fn serialize(&self, draws: usize, metadata: Vec<(&str, String)>) -> Result<Vec<u8>> {
        let failed = |e| Error::internal("the draws are valid tensors").caused_by(e);
        let views = self
            .0
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name, view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let metadata = metadata.into_iter().chain([(COUNT, draws.to_string())]);
        let metadata = metadata.map(|(key, value)| (key.to_string(), value)).collect();
        safetensors::serialize(views, Some(metadata)).map_err(failed)
    }
}

/// The largest size of a number.
fn largest(data: &[f32]) -> f32 {
    data.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// The power of two that brings `largest` to 2¹⁴..2¹⁵, which leaves the smallest differences as
/// much room as there is above the numbers that half precision holds with fewer digits.
fn half_scale(largest: f32) -> f32 {
    // A scale below what f32 holds with all its digits would divide by zero.
    (largest.log2().floor() - 14.0).max(-126.0).exp2()
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.shape() == b.shape() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The mean of tensors of one shape, of which there is one at least.
pub(super) fn mean(weights: &[&Tensor]) -> Result<Tensor> {
    let mut sum = vec![0.0f64; weights.first().map_or(0, |weight| weight.len())];
    for weight in weights {
        sum.iter_mut().zip(weight.iter()).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = weights.len() as f64;
    tensor(weights[0].shape(), sum.into_iter().map(|x| (x / count) as f32).collect())
}

/// What a file of draws says under a key of its metadata.
pub(super) fn parse_metadata(bytes: &[u8], key: &str) -> Result<Option<String>> {
    let malformed = |e| Error::malformed(format!("not a safetensors file: {e}")).caused_by(e);
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
    Ok(metadata.metadata().as_ref().and_then(|map| map.get(key).cloned()))
}

/// The precision that a file's differences between draws have.
pub(super) fn parse_precision(bytes: &[u8]) -> Result<DrawPrecision> {
    let malformed = |e| Error::malformed(format!("not a safetensors file: {e}")).caused_by(e);
    let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
    let has_scales = file.names().into_iter().any(|name| name.starts_with("scale/"));
    Ok(if has_scales { DrawPrecision::F16 } else { DrawPrecision::F32 })
}

/// The draws of a posterior of `model` with this many outputs; what they have in common is shared.
pub(super) fn parse_draws(bytes: &[u8], model: &Model, outputs: usize) -> Result<Vec<Weights>> {
    let malformed = |e| Error::malformed(format!("not a safetensors file: {e}")).caused_by(e);
    let count = parse_metadata(bytes, COUNT)?.and_then(|count| count.parse().ok());
    let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
    let count: usize = count.filter(|count| (1..=DRAWS_MAX).contains(count)).ok_or_else(|| {
        let message = format!("the metadata '{COUNT}' is no number of draws");
        Error::malformed(message).hint(format!("expected 1 to {DRAWS_MAX}"))
    })?;
    let base = parse_base(&file, model, outputs)?;
    let mut draws = vec![base.clone(); count];
    for (name, view) in file.tensors() {
        let scene = || format!("tensor '{name}'");
        let (part, parameter) = name.split_once('/').unwrap_or((&name, ""));
        if ["base", "scale", "shift", "shift_scale"].contains(&part) {
            continue;
        }
        let draw = part.parse().ok().and_then(|number: usize| draws.get_mut(number));
        let (Some(draw), Some(base)) = (draw, base.get(parameter)) else {
            let message = format!("tensor '{name}' belongs to no draw");
            let hint = format!("expected '<draw>/<parameter>' of {count} draws");
            return Err(Error::malformed(message).hint(hint));
        };
        let scale = match view.dtype() {
            Dtype::F16 => parse_scale(&file, "scale", parameter)?,
            _ => 1.0,
        };
        let delta = parse_numbers(&view, base.shape()).context(scene)?;
        let sum = base.iter().zip(&delta).map(|(base, delta)| base + scale * delta).collect();
        let weight = finite(sum).context(scene)?;
        draw.insert(parameter.to_string(), tensor(base.shape(), weight)?);
    }
    Ok(draws)
}

/// What draws are differences from: the file's bases, and the backbone's weights where it has none.
fn parse_base(file: &SafeTensors<'_>, model: &Model, outputs: usize) -> Result<Weights> {
    let mut base = own_weights(model);
    for (name, view) in file.tensors() {
        if let Some(parameter) = name.strip_prefix("shift/") {
            let own = base.get(parameter).cloned().ok_or_else(|| unknown(parameter))?;
            let scale = parse_scale(file, "shift_scale", parameter)?;
            let shift = parse_numbers(&view, own.shape()).context(|| format!("tensor '{name}'"))?;
            let moved = own.iter().zip(&shift).map(|(own, shift)| own + scale * shift).collect();
            let moved = finite(moved).context(|| format!("tensor '{name}'"))?;
            base.insert(parameter.to_string(), tensor(own.shape(), moved)?);
            continue;
        }
        let Some(parameter) = name.strip_prefix("base/") else { continue };
        let shape = match base.get(parameter) {
            Some(own) => own.shape().to_vec(),
            None if [HEAD_WEIGHT, HEAD_BIAS].contains(&parameter) => view.shape().to_vec(),
            None => return Err(unknown(parameter)),
        };
        let numbers = parse_numbers(&view, &shape).and_then(finite);
        let numbers = numbers.context(|| format!("tensor '{name}'"))?;
        base.insert(parameter.to_string(), tensor(&shape, numbers)?);
    }
    for name in [HEAD_WEIGHT, HEAD_BIAS] {
        let rows = base.get(name).and_then(|w| w.shape().first().copied());
        if rows != Some(outputs) {
            let message = format!("the draws have no '{name}' for {outputs} outputs");
            return Err(Error::mismatch(message));
        }
    }
    Ok(base)
}

#[cold]
fn unknown(parameter: &str) -> Error {
    Error::mismatch(format!("the backbone has no '{parameter}'"))
}

fn parse_scale(file: &SafeTensors<'_>, kind: &str, parameter: &str) -> Result<f32> {
    let name = format!("{kind}/{parameter}");
    let view = file
        .tensor(&name)
        .map_err(|e| Error::malformed(format!("there is no tensor '{name}'")).caused_by(e))?;
    let scale =
        parse_numbers(&view, &[1]).and_then(finite).context(|| format!("tensor '{name}'"))?;
    Ok(scale[0])
}

/// The numbers of a tensor that must have this shape.
fn parse_numbers(view: &TensorView<'_>, shape: &[usize]) -> Result<Vec<f32>> {
    if view.shape() != shape {
        let message = format!("has shape {:?}", view.shape());
        return Err(Error::mismatch(message).hint(format!("expected {shape:?}")));
    }
    match view.dtype() {
        Dtype::F32 => {
            let (chunks, _) = view.data().as_chunks::<4>();
            Ok(chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
        }
        Dtype::F16 => {
            let (chunks, _) = view.data().as_chunks::<2>();
            Ok(chunks.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect())
        }
        other => Err(Error::malformed(format!("holds {other:?}; expected F32 or F16"))),
    }
}

fn finite(data: Vec<f32>) -> Result<Vec<f32>> {
    match data.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Error::malformed(format!("element {at} is {}", data[at]))),
        None => Ok(data),
    }
}
