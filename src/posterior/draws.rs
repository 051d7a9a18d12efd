//! One pass over data for each draw, in an order that is random but fixed.

use ndarray::Array2;

use super::parts::outputs;
use super::{Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::rng::{Key, Stream};
use crate::task::Task;

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
        if !matches!(self.description.task, Task::Classification { .. }) {
            return Err(Error::unsupported("this posterior predicts no classes")
                .hint("use Posterior::predict_parts and Posterior::evaluate"));
        }
        let preprocess = &self.description.preprocess;
        let mut network = self.network(engine)?;
        let data = match self.draws.len() {
            1 => data.clone(),
            _ => data.resized(preprocess, DECODED_BYTES_MAX, network.threads())?,
        };
        let mut examples: Vec<usize> = (0..data.len()).collect();
        let total = data.len().saturating_mul(self.draws.len());
        let mut done = 0;
        for (number, &draw) in self.order().iter().enumerate() {
            let wanted = data.subset(&examples)?;
            let draw = &self.draws[draw];
            network.set_weights(draw)?;
            let logits = outputs(&mut network, Some(draw), &wanted, &mut |p| {
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
