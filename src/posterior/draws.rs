//! One pass over data for each draw, in an order that is random but fixed; or one pass for all
//! draws, where they differ in the head alone.

use ndarray::{Array2, Axis, Ix1, Ix2};

use super::parts::{finite, outputs};
use super::runtime::{Output, Runtime, rows};
use super::{Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::prior::Weights;
use crate::rng::{Key, Stream};
use crate::task::{HEAD_BIAS, HEAD_WEIGHT, Task};

/// Decoded images that are kept between draws take at most this much memory.
const DECODED_BYTES_MAX: usize = 256 << 20;

/// So do features that draws share.
const FEATURES_MAX: usize = (256 << 20) / size_of::<f32>();

/// Is given examples and their logits by one draw, and returns those to go on with.
pub type Visitor<'a> = &'a mut dyn FnMut(&[usize], &Array2<f32>) -> Vec<usize>;

impl Posterior {
    /// Gives `visit` the logits `[n, classes]` of n examples, draw by draw: first of all examples,
    /// then of those that it returned. The work ends when it returns none. Progress is counted in
    /// examples times draws.
    ///
    /// # Errors
    /// When an image cannot be read, the network cannot run, or `observe` stops.
    pub fn visit_draws(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
        visit: Visitor<'_>,
    ) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if !matches!(self.description.task, Task::Classification { .. }) {
            return Err(Error::unsupported("this posterior predicts no classes")
                .hint("use Posterior::predict_parts and Posterior::evaluate"));
        }
        let preprocess = &self.description.preprocess;
        let mut predictor = self.predictor(engine)?;
        let runtime = &mut *predictor;
        if self.shares_features(data.len()) {
            return self.visit_heads(runtime, data, observe, visit);
        }
        let data = match self.draws.len() {
            1 => data.clone(),
            _ => data.resized(preprocess, DECODED_BYTES_MAX, &runtime.frame().threads)?,
        };
        let mut examples: Vec<usize> = (0..data.len()).collect();
        let total = data.len().saturating_mul(self.draws.len());
        let mut done = 0;
        for (number, &draw) in self.order().iter().enumerate() {
            let wanted = data.subset(&examples)?;
            let draw = &self.draws[draw];
            runtime.set_weights(draw)?;
            let logits = outputs(runtime, Some(draw), &wanted, &mut |p| {
                observe(Progress { done: done + p.done, total })
            })?;
            examples = visit(&examples, &logits);
            if examples.is_empty() {
                break;
            }
            // What is settled counts as done.
            done = total - examples.len() * (self.draws.len() - number - 1);
        }
        Ok(())
    }

    /// Whether several draws differ in the head alone, and the features of so many examples may be
    /// kept.
    pub(super) fn shares_features(&self, examples: usize) -> bool {
        let [first, _, ..] = self.draws() else { return false };
        let width = first.get(HEAD_WEIGHT).map_or(0, |w| w.len() / w.shape()[0].max(1));
        let of_head = |name: &str| name == HEAD_WEIGHT || name == HEAD_BIAS;
        let kept = examples.saturating_mul(width);
        let mut others = first.keys().filter(|name| !of_head(name));
        kept <= FEATURES_MAX && others.all(|name| self.is_shared(name))
    }

    /// [`Posterior::visit_draws`] of draws that share their features.
    fn visit_heads(
        &self,
        runtime: &mut dyn Runtime,
        data: &Dataset,
        observe: &mut dyn FnMut(Progress) -> bool,
        visit: Visitor<'_>,
    ) -> Result<()> {
        let (draws, first) = (self.draws.len(), &self.draws[0]);
        runtime.set_weights(first)?;
        let total = data.len().saturating_mul(draws);
        let features = finite(runtime, Some(first), &mut |runtime| {
            let observe = &mut |p: Progress| observe(Progress { done: p.done * draws, total });
            rows(runtime, data, Output::Features, observe)
        })?;
        let mut examples: Vec<usize> = (0..data.len()).collect();
        for &draw in &self.order() {
            let logits = head_logits(&self.draws[draw], &features.select(Axis(0), &examples))?;
            examples = visit(&examples, &logits);
            if examples.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The draws in random order: those of a chain resemble their neighbours.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.draws.len()).collect();
        Key::new(0, Stream::Draw).at(0).shuffle(&mut order);
        order
    }
}

/// Logits `[N, classes]` of a dense head on features `[N, F]`.
///
/// # Errors
/// When `head` has no head's weights.
pub(crate) fn head_logits(head: &Weights, features: &Array2<f32>) -> Result<Array2<f32>> {
    let missing = || Error::internal("a head is a matrix and a vector");
    let get = |name: &str| head.get(name).map(|w| w.view()).ok_or_else(missing);
    let weight = get(HEAD_WEIGHT)?.into_dimensionality::<Ix2>().map_err(|_| missing())?;
    let bias = get(HEAD_BIAS)?.into_dimensionality::<Ix1>().map_err(|_| missing())?;
    Ok(features.dot(&weight.t()) + bias)
}
