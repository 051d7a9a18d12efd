//! A network run by tract, with weights that may change from run to run.
//!
//! Weights that stay are constants of tract's plan, which folds and packs them; those that are
//! *open* are inputs, of which one value is held at a time. Plans have static shapes: there is one
//! for each of the two sizes of batches that were asked for last, those of a data set being whole
//! ones and the rest.

use std::sync::Arc;

use tract_onnx::tract_hir::internal::*;

use super::{Model, typed};
use crate::error::{Error, Result};
use crate::tensor::{Tensor as HostTensor, contiguous};

/// Plans that are kept.
const PLANS_MAX: usize = 2;

/// A model on tract.
pub struct Runner {
    model: Model,
    open: Vec<String>,
    /// The present values of the open weights.
    given: Vec<TValue>,
    /// By the number of examples, the one used last in front.
    plans: Vec<(usize, Arc<TypedRunnableModel>)>,
}

impl Runner {
    /// `model` with the weights `open` as inputs, whose first values are its own.
    ///
    /// # Errors
    /// When it has no weight of such a name.
    pub fn new(model: Model, open: Vec<String>) -> Result<Self> {
        let mut runner = Runner { model, open, given: Vec::new(), plans: Vec::new() };
        for name in &runner.open {
            let missing = || Error::mismatch(format!("the model has no weight '{name}'"));
            let value = runner.model.weight(name).ok_or_else(missing)?;
            runner.given.push(to_tract(value)?);
        }
        Ok(runner)
    }

    /// Sets the open weight of this number.
    ///
    /// # Errors
    /// When there is none, or its shape is another.
    pub fn set(&mut self, open: usize, value: &HostTensor) -> Result<()> {
        let own = self.open.get(open).and_then(|name| self.model.weight(name));
        match own.is_some_and(|own| own.shape() == value.shape()) {
            true => self.given[open] = to_tract(value)?,
            false => return Err(Error::internal(format!("no open weight {open} of this shape"))),
        }
        Ok(())
    }

    /// All outputs for a batch of `images`, each of the extents `image`: a row for each example.
    ///
    /// # Errors
    /// When tract cannot run the model, or not at this shape.
    pub fn run(&mut self, image: [usize; 3], images: &[f32]) -> Result<Vec<Vec<f32>>> {
        let len: usize = image.iter().product();
        let count = images.len() / len.max(1);
        if count == 0 || count * len != images.len() {
            return Err(Error::internal("a batch has whole images"));
        }
        let batch = self.prepare(image, count)?;
        let plan = &self.plans[0].1;
        let mut padded = images.to_vec();
        padded.resize(batch * len, 0.0);
        let [channels, height, width] = image;
        let outputs = typed::guarded("running the model with tract", || {
            let images = Tensor::from_shape(&[batch, channels, height, width], &padded)?;
            let mut inputs: TVec<TValue> = tvec!(images.into_tvalue());
            inputs.extend(self.given.iter().cloned());
            plan.run(inputs)
        })?;
        outputs.iter().map(|output| rows(&typed::to_host(output)?, count, batch)).collect()
    }

    /// Bytes of weights that it holds: constants of each plan, and the open ones once.
    pub fn weight_bytes(&self) -> usize {
        let is_open = |name: &str| self.open.iter().any(|open| open == name);
        let bytes = |value: &HostTensor| value.len() * size_of::<f32>();
        let constants = self.model.weights().filter(|(name, _)| !is_open(name));
        let constants: usize = constants.map(|(_, value)| bytes(value)).sum();
        let open = self.model.weights().filter(|(name, _)| is_open(name));
        open.map(|(_, value)| bytes(value)).sum::<usize>() + constants * self.plans.len()
    }

    /// Puts a plan in front that takes `count` examples, and at most as many again of none: the
    /// number that it takes.
    fn prepare(&mut self, image: [usize; 3], count: usize) -> Result<usize> {
        let suits = |(batch, _): &(usize, _)| (count..2 * count).contains(batch);
        if let Some(at) = self.plans.iter().position(suits) {
            self.plans[..=at].rotate_right(1);
            return Ok(self.plans[0].0);
        }
        let [channels, height, width] = image;
        let shape = [count, channels, height, width];
        let typed = typed::with_inputs(&self.model, self.model.restored(), &shape, &self.open)?;
        let plan = typed::guarded("optimising the model with tract", || typed::runnable(typed))?;
        self.plans.truncate(PLANS_MAX - 1);
        self.plans.insert(0, (count, plan));
        Ok(count)
    }
}

fn to_tract(value: &HostTensor) -> Result<TValue> {
    typed::guarded("giving tract a weight", || {
        Ok(Tensor::from_shape(value.shape(), &contiguous(value))?.into_tvalue())
    })
}

/// The first `count` of `batch` rows.
fn rows(output: &HostTensor, count: usize, batch: usize) -> Result<Vec<f32>> {
    if output.shape().first() != Some(&batch) {
        let shape = output.shape();
        return Err(Error::unsupported(format!("an output of shape {shape:?} for {batch} images")));
    }
    let width = output.len() / batch;
    Ok(contiguous(output)[..count * width].to_vec())
}
