//! What candidates are compared on: a row for each example, or of masks for each of a sample of
//! their pixels.
//!
//! A linear decoder commutes with interpolation, so a pixel with the features interpolated at its
//! place is a row like any other, and its class is a label.

use std::borrow::Cow;
use std::sync::Arc;

use ndarray::{Array2, Axis};

use super::super::probe::{self, ProbeSettings};
use super::super::{Control, Observer, Phase, Progress};
use crate::data::{Dataset, one_hot};
use crate::error::{Error, Kind, Result};
use crate::posterior::metrics::{MaskScores, Summary};
use crate::posterior::{
    Network, PIXELS_MAX, Pixels, Progress as Pass, Truth, evaluate_mean, truth,
};
use crate::prior::Weights;
use crate::task::{Task, pixel_features};
use crate::threads::Threads;

/// Rows of the training examples, one example after the other.
pub(in super::super) struct Rows {
    /// `[R, F]`, of the backbone before training.
    features: Array2<f32>,
    /// The pixels that the rows are of; none where each is an example.
    pixels: Option<Pixels>,
}

impl Rows {
    /// Those of `train` with the network at the weights `means`, on another device where its own
    /// fails; or the `kept` ones of the same run.
    ///
    /// # Errors
    /// When an example cannot be read, the network cannot run, or the observer stops.
    pub(in super::super) fn new(
        network: &mut Network,
        means: &Weights,
        train: &Dataset,
        (seed, kept): (u64, Option<Array2<f32>>),
        observe: Observer<'_>,
    ) -> Result<Self> {
        let pixels = match network.known_task()?.is_dense() {
            false => None,
            true => {
                let (input, threads) = (network.preprocess(), network.threads());
                Some(Pixels::sample(train, input, PIXELS_MAX, seed, threads)?)
            }
        };
        let count = pixels.as_ref().map_or(train.len(), |pixels| {
            (0..pixels.len()).map(|image| pixels.of(image).len()).sum()
        });
        if let Some(features) = kept.filter(|features| features.nrows() == count) {
            return Ok(Rows { features, pixels });
        }
        loop {
            let features = match &pixels {
                None => features(network, train, [0, train.len()], observe),
                Some(pixels) => features_of(network, train, pixels, observe),
            };
            match features {
                Err(error) if error.kind() == Kind::Device => network.fall_back(error, means)?,
                other => return Ok(Rows { features: other?, pixels }),
            }
        }
    }

    /// Features of all rows.
    pub(in super::super) fn all(&self) -> &Array2<f32> {
        &self.features
    }

    /// Whether each example is a row, and not a sample of its pixels.
    pub(in super::super) fn are_examples(&self) -> bool {
        self.pixels.is_none()
    }

    /// The head that minimises the objective on the rows of some examples, sought from `start` if
    /// given; the settings' task is that of the examples.
    ///
    /// # Errors
    /// Those of [`probe::fit`].
    pub(in super::super) fn head(
        &self,
        train: &Dataset,
        examples: &[usize],
        settings: ProbeSettings<'_>,
        start: Option<&Weights>,
        threads: &Arc<Threads>,
        observe: Observer<'_>,
    ) -> Result<Weights> {
        let targets = self.targets(settings.task, train, examples)?;
        let task = self.task(settings.task);
        let settings = ProbeSettings { task: &task, examples: examples.len(), ..settings };
        probe::fit(&self.features(examples), &targets, settings, start, threads, observe)
    }

    /// Features `[R, F]` of the rows of some examples.
    pub(super) fn features(&self, examples: &[usize]) -> Array2<f32> {
        let Some(pixels) = &self.pixels else { return self.features.select(Axis(0), examples) };
        let mut ends = vec![0];
        for image in 0..pixels.len() {
            ends.push(ends[image] + pixels.of(image).len());
        }
        let rows = examples.iter().flat_map(|&image| ends[image]..ends[image + 1]);
        self.features.select(Axis(0), &rows.collect::<Vec<_>>())
    }

    /// Their targets, as [`Rows::task`] has them.
    fn targets(&self, task: &Task, train: &Dataset, examples: &[usize]) -> Result<Vec<f32>> {
        let Some(pixels) = &self.pixels else {
            return probe::targets(task, &train.subset(examples)?);
        };
        let classes = pixels.classes(examples);
        let mut targets = vec![0.0; classes.len() * task.outputs()];
        one_hot(&classes, task.outputs(), &mut targets)?;
        Ok(targets)
    }

    /// What is learned of a row.
    fn task<'a>(&self, task: &'a Task) -> Cow<'a, Task> {
        match self.pixels {
            None => Cow::Borrowed(task),
            Some(_) => Cow::Owned(Task::Classification { classes: task.names().to_vec() }),
        }
    }

    /// What is true of the rows of some examples, where a temperature has a meaning; with what a
    /// row counts.
    pub(super) fn truth(
        &self,
        task: &Task,
        train: &Dataset,
        examples: &[usize],
    ) -> Result<Option<(Truth, f64)>> {
        truth(task, train, examples, self.pixels.as_ref())
    }

    /// What the network's present weights give for the rows of some examples: `[R, outputs]`.
    pub(super) fn outputs(
        &self,
        network: &mut Network,
        train: &Dataset,
        examples: &[usize],
    ) -> Result<Array2<f32>> {
        let Some(pixels) = &self.pixels else {
            return network.logits(&train.subset(examples)?, &mut |_| true);
        };
        let (width, mut rows) = (network.known_task()?.outputs(), Vec::new());
        for part in examples.chunks(network.forward_batch()) {
            let logits = network.logits(&train.subset(part)?, &mut |_| true)?;
            for (&image, logits) in part.iter().zip(logits.rows()) {
                pixels.pick(image, logits.as_slice().unwrap_or_default(), width, &mut rows);
            }
        }
        matrix(rows, width)
    }

    /// Measures the mean and variance of predictions, each `[R, outputs]`, of the rows of some
    /// examples.
    pub(super) fn measure(
        &self,
        task: &Task,
        [mean, variance]: [Vec<f64>; 2],
        train: &Dataset,
        examples: &[usize],
    ) -> Result<Summary> {
        let Some(pixels) = &self.pixels else {
            return Ok(evaluate_mean(task, [mean, variance], &train.subset(examples)?)?.summary());
        };
        let truth: Vec<f32> = pixels.classes(examples).iter().map(|&class| class as f32).collect();
        let mut scores = MaskScores::new(task.names());
        scores.add(&mean, &truth)?;
        Ok(scores.report()?.summary())
    }
}

/// Features of the examples from one number to another.
fn features(
    network: &mut Network,
    train: &Dataset,
    [from, to]: [usize; 2],
    observe: Observer<'_>,
) -> Result<Array2<f32>> {
    let some = train.subset(&(from..to).collect::<Vec<_>>())?;
    network.features(&some, &mut |p: Pass| {
        let (phase, step, steps) = (Phase::Features, from + p.done, train.len());
        let progress = Progress { phase, step, steps, loss: None, penalty: None };
        observe(progress) != Control::Stop
    })
}

/// Features of the chosen pixels; the maps of one forward pass are held at a time.
fn features_of(
    network: &mut Network,
    train: &Dataset,
    pixels: &Pixels,
    observe: Observer<'_>,
) -> Result<Array2<f32>> {
    let [width, h, w] = probe::map_shape(network)?;
    let size = [network.preprocess().height, network.preprocess().width];
    let mut rows = Vec::new();
    let batch = network.forward_batch();
    for from in (0..train.len()).step_by(batch) {
        let to = train.len().min(from + batch);
        let maps = features(network, train, [from, to], observe)?;
        for (image, map) in (from..to).zip(maps.rows()) {
            let map = map.as_slice().unwrap_or_default();
            pixel_features(map, [h, w], size, pixels.of(image), &mut rows);
        }
    }
    matrix(rows, width)
}

fn matrix(rows: Vec<f32>, width: usize) -> Result<Array2<f32>> {
    Array2::from_shape_vec((rows.len() / width.max(1), width), rows)
        .map_err(|_| Error::internal("all rows have one width"))
}
