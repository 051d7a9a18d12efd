//! Predictions of any task, a part of the examples at a time: what is predicted for all pixels of
//! all images would not fit in memory.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use super::runtime::{Frame, Output, Runtime, rows};
use super::uncertainty::{Uncertainty, entropies, uncertainties};
use super::{Network, Posterior, Progress};
use crate::backend::Engine;
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use crate::prior::Weights;
use crate::task::Task;

/// Numbers of a part at most, but for those of one forward pass.
const NUMBERS_MAX: usize = 1 << 22;

/// What is predicted for consecutive examples, row by row: `[n, outputs]`, of segmentation
/// `[n, H, W, classes]`.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which examples.
    pub examples: Range<usize>,
    /// Mean over the draws: probabilities, or numbers in the data's units.
    pub mean: Vec<f64>,
    /// Variance between the draws.
    pub variance: Vec<f64>,
    /// How unsure each example's prediction is.
    pub uncertainty: Vec<Uncertainty>,
}

impl Posterior {
    /// Predicts all of `data` and hands it to `visit` part by part, in order. `observe` is told of
    /// progress, in examples times draws, and may stop; where the device fails, the draw at hand
    /// is predicted again elsewhere.
    ///
    /// # Errors
    /// When an image cannot be read, the network cannot run or gives no finite numbers, `observe`
    /// stops, or `visit` fails.
    pub fn predict_parts(
        &self,
        data: &Dataset,
        engine: impl Into<Engine>,
        observe: &mut dyn FnMut(Progress) -> bool,
        visit: &mut dyn FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        each_part(&mut *self.predictor(engine)?, self.weights(), data, observe, visit)
    }

    /// The network that predicts, before its first weights.
    pub(super) fn network(&self, engine: impl Into<Engine>) -> Result<Network> {
        let mut network = Network::new(
            Arc::clone(&self.model),
            self.description.preprocess.clone(),
            Some(self.task()),
            engine,
        )?;
        network.set_forward_batch(self.forward_batch);
        Ok(network)
    }
}

/// Predicts `data` with each of the draws, or with the network's present weights, its outputs
/// divided by a temperature.
pub(super) fn each_part(
    runtime: &mut dyn Runtime,
    (draws, temperature): (Option<&[Weights]>, f64),
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
    visit: &mut dyn FnMut(Part) -> Result<()>,
) -> Result<()> {
    let count = draws.map_or(1, <[Weights]>::len);
    let task = runtime.frame().known_task()?.clone();
    let (mut mean, mut squares, mut entropy) = (Vec::new(), Vec::new(), Vec::new());
    each_output(runtime, draws, data, observe, &mut |examples, number, raw| {
        let values = linked(&task, &raw, temperature);
        add(number, &values, &mut mean, &mut squares);
        let of_draw = entropies(&task, &values, examples.len());
        match number {
            0 => entropy = of_draw,
            _ => entropy.iter_mut().zip(of_draw).for_each(|(sum, of_draw)| *sum += of_draw),
        }
        if number + 1 < count {
            return Ok(());
        }
        squares.iter_mut().for_each(|square| *square /= count as f64);
        entropy.iter_mut().for_each(|sum| *sum /= count as f64);
        let uncertainty = uncertainties(&task, [&mean, &squares], &entropy);
        let [mean, variance] = [&mut mean, &mut squares].map(std::mem::take);
        visit(Part { examples, mean, variance, uncertainty })
    })
}

/// Mean and variance over draws of what they predict, from the raw outputs `[N, outputs]` of each
/// divided by a temperature.
pub(crate) fn mean_of_draws(task: &Task, draws: &[Array2<f32>], temperature: f64) -> [Vec<f64>; 2] {
    let (mut mean, mut squares) = (Vec::new(), Vec::new());
    for (number, raw) in draws.iter().enumerate() {
        add(number, &linked(task, raw, temperature), &mut mean, &mut squares);
    }
    squares.iter_mut().for_each(|square| *square /= draws.len() as f64);
    [mean, squares]
}

/// What raw outputs divided by a temperature predict.
fn linked(task: &Task, raw: &Array2<f32>, temperature: f64) -> Vec<f64> {
    let mut values: Vec<f64> = raw.iter().map(|&x| f64::from(x) / temperature).collect();
    task.link(&mut values);
    values
}

/// Gives `visit` the raw outputs of consecutive examples by each of the draws in turn, with the
/// draw's number, or by the network's present weights.
pub(super) fn each_output(
    runtime: &mut dyn Runtime,
    draws: Option<&[Weights]>,
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
    visit: &mut dyn FnMut(Range<usize>, usize, Array2<f32>) -> Result<()>,
) -> Result<()> {
    let count = draws.map_or(1, <[Weights]>::len);
    let size = part_size(runtime.frame(), count)?;
    let total = data.len() * count;
    for start in (0..data.len()).step_by(size) {
        let examples = start..data.len().min(start + size);
        let part = data.subset(&examples.clone().collect::<Vec<_>>())?;
        for number in 0..count {
            let draw = draws.map(|draws| &draws[number]);
            // Weights that are there already need not be set again.
            if let Some(draw) = draw.filter(|_| start == 0 || count > 1) {
                runtime.set_weights(draw)?;
            }
            let before = start * count + number * examples.len();
            let observe = &mut |p: Progress| observe(Progress { done: before + p.done, total });
            let raw = outputs(runtime, draw, &part, observe)?;
            visit(examples.clone(), number, raw)?;
        }
    }
    Ok(())
}

/// Examples of a part: of whole forward passes, and one pass with a single draw.
fn part_size(frame: &Frame, draws: usize) -> Result<usize> {
    let pass = frame.forward_batch.max(1);
    let task = frame.known_task()?;
    let numbers = task.output_len(&frame.preprocess).saturating_mul(pass).max(1);
    Ok(if draws == 1 { pass } else { pass * (NUMBERS_MAX / numbers).max(1) })
}

/// The network's raw outputs, a row for each example, with the weights of `draw`, which it has;
/// where there is one, on another device if its own fails.
pub(super) fn outputs(
    runtime: &mut dyn Runtime,
    draw: Option<&Weights>,
    data: &Dataset,
    observe: &mut dyn FnMut(Progress) -> bool,
) -> Result<Array2<f32>> {
    finite(runtime, draw, &mut |runtime| rows(runtime, data, Output::Logits, observe))
}

/// [`somewhere`], where all that it computes is finite.
pub(super) fn finite(
    runtime: &mut dyn Runtime,
    draw: Option<&Weights>,
    pass: &mut dyn FnMut(&mut dyn Runtime) -> Result<Array2<f32>>,
) -> Result<Array2<f32>> {
    let outputs = somewhere(runtime, draw, pass)?;
    match outputs.iter().all(|x| x.is_finite()) {
        true => Ok(outputs),
        false => Err(Error::new(Kind::Diverged, "the network's outputs are not finite")
            .hint("its weights are too large for these images; adapt again with a lower --lr")),
    }
}

/// What `pass` computes with the weights of `draw`, which the network has; where there is one, on
/// another device if its own fails.
pub(super) fn somewhere(
    runtime: &mut dyn Runtime,
    draw: Option<&Weights>,
    pass: &mut dyn FnMut(&mut dyn Runtime) -> Result<Array2<f32>>,
) -> Result<Array2<f32>> {
    loop {
        match (pass(runtime), draw) {
            (Err(error), Some(draw)) if error.kind() == Kind::Device => {
                runtime.fall_back(error, draw)?;
            }
            (other, _) => return other,
        }
    }
}

/// Adds draw `number` to the running mean and the sum of squared deviations (Welford 1962).
fn add(number: usize, values: &[f64], mean: &mut Vec<f64>, squares: &mut Vec<f64>) {
    if number == 0 {
        *mean = values.to_vec();
        *squares = vec![0.0; values.len()];
        return;
    }
    for ((mean, square), &x) in mean.iter_mut().zip(squares).zip(values) {
        let before = x - *mean;
        *mean += before / (number + 1) as f64;
        *square += before * (x - *mean);
    }
}
