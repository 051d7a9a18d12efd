//! One pass over data for each draw, in an order that is random but fixed.

use std::sync::Arc;

use ndarray::Array2;

use super::{Network, Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use crate::prior::Weights;
use crate::rng::{Key, Stream};

/// Decoded images that are kept between draws take at most this much memory.
const DECODED_BYTES_MAX: usize = 256 << 20;

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
        let (model, preprocess) = (Arc::clone(&self.model), &self.description.preprocess);
        let classes = Some(self.description.classes.len());
        let mut network = Network::new(model, preprocess.clone(), classes, engine)?;
        network.set_forward_batch(self.forward_batch);
        let data = match self.draws.len() {
            1 => data.clone(),
            _ => data.resized(preprocess, DECODED_BYTES_MAX, network.threads())?,
        };
        let mut examples: Vec<usize> = (0..data.len()).collect();
        let total = data.len().saturating_mul(self.draws.len());
        let mut done = 0;
        for (number, &draw) in self.order().iter().enumerate() {
            let wanted = data.subset(&examples)?;
            let logits = logits(&mut network, &self.draws[draw], &wanted, &mut |p| {
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

    /// The draws in random order: those of a chain resemble their neighbours.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.draws.len()).collect();
        Key::new(0, Stream::Draw).at(0).shuffle(&mut order);
        order
    }
}

/// The logits of one draw, on whatever device there is.
fn logits(
    network: &mut Network,
    draw: &Weights,
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
) -> Result<Array2<f32>> {
    network.set_weights(draw)?;
    let logits = loop {
        match network.logits(data, observe) {
            Err(error) if error.kind() == Kind::Device => network.fall_back(error, draw)?,
            other => break other?,
        }
    };
    match logits.iter().all(|x| x.is_finite()) {
        true => Ok(logits),
        false => Err(Error::new(Kind::Diverged, "the network's logits are not finite")
            .hint("its weights are too large for these images; adapt again with a lower --lr")),
    }
}
