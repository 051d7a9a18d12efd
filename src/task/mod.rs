//! What is learned: heads, losses, the layout of targets, and what raw outputs mean.
//!
//! A task turns the features of a backbone into outputs and a loss, the mean over the examples of
//! -log p(target | outputs) but for constants:
//!
//! | task           | target                        | p                          | outputs        |
//! |----------------|-------------------------------|----------------------------|----------------|
//! | classification | a distribution over C classes | softmax                    | `[N, C]`       |
//! | multi-label    | 0 or 1 for each of C labels   | independent sigmoids       | `[N, C]`       |
//! | regression     | D standardised numbers        | N(output, 1)               | `[N, D]`       |
//! | segmentation   | a class for each pixel        | softmax, mean over pixels  | `[N, H, W, C]` |
//!
//! The head is linear in the features `[N, F]` (or `[N, C, H, W]`, averaged over space but for
//! segmentation), so that each of these losses is convex in the head's weights.
//!
//! Without labels: a projector and the contrast of two views of each example.

mod classification;
mod contrast;
mod multilabel;
mod regression;
mod segmentation;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::classification::cross_entropy;
pub use self::contrast::{PROJECTOR, TEMPERATURE_MIN, new_projector, nt_xent, projector};
pub use self::multilabel::binary_cross_entropy;
pub use self::regression::{Standard, squared_error};
pub use self::segmentation::{dense_head, interpolation, pixel_cross_entropy, pixel_features};
use crate::data::{Augmentation, Dataset, Preprocess, TargetKind, one_hot};
use crate::error::{Error, Result};
use crate::graph::{Graph, MatMul, ValueId};
use crate::threads::Threads;

/// Name of the head's weight `[outputs, F]`.
pub const HEAD_WEIGHT: &str = "priorfit.head.weight";
/// Name of the head's bias `[outputs]`.
pub const HEAD_BIAS: &str = "priorfit.head.bias";
/// Name of the input that holds the targets; [`Task::fill_targets`] has their layout.
pub const TARGETS: &str = "priorfit.targets";
/// Name of the input that holds the number of pixels that count `[1]`; only of segmentation.
pub const COUNTED: &str = "priorfit.counted";
/// Name of the output that holds the head's raw outputs.
pub const LOGITS: &str = "logits";
/// Name of the output that holds the features, `[N, F]`, or `[N, C, h, w]` of segmentation.
pub const FEATURES: &str = "features";
/// Name of the output that holds the mean negative log-likelihood `[1]`.
pub const LOSS: &str = "loss";

/// The most outputs for each example (or pixel) that a stored task may have.
const OUTPUTS_MAX: usize = 65_536;

/// What is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// One of several classes.
    Classification {
        /// Their names; a prediction is an index into them.
        classes: Vec<String>,
    },
    /// Any number of labels.
    MultiLabel {
        /// Their names.
        labels: Vec<String>,
    },
    /// One or more real numbers.
    Regression {
        /// Their names.
        outputs: Vec<String>,
        /// How they were standardised, one for each.
        standard: Vec<Standard>,
    },
    /// One of several classes for each pixel.
    Segmentation {
        /// Their names.
        classes: Vec<String>,
        /// The index of pixels that count for nothing.
        ignore: u8,
    },
}

/// What a task is.
impl Task {
    /// What the targets of `data` make of it; numbers are standardised by their mean and deviation.
    ///
    /// # Errors
    /// When there are no targets, or too few classes to learn anything.
    pub fn of(data: &Dataset) -> Result<Self> {
        data.check_trainable()?;
        let names = data.classes().to_vec();
        let kind = data.target_kind().ok_or_else(|| Error::internal("there are targets"))?;
        Ok(match kind {
            TargetKind::Class => Task::Classification { classes: names },
            TargetKind::Labels => Task::MultiLabel { labels: names },
            TargetKind::Numbers => {
                Task::Regression { standard: Standard::of(data)?, outputs: names }
            }
            TargetKind::Mask => {
                let ignore = data.ignored().unwrap_or(crate::data::IGNORED);
                Task::Segmentation { classes: names, ignore }
            }
        })
    }

    /// Checks a task that was read from a file.
    ///
    /// # Errors
    /// When a number of it is out of its range.
    pub fn check(&self) -> Result<()> {
        let count = self.outputs();
        if !(1..=OUTPUTS_MAX).contains(&count) {
            let message = format!("the task has {count} outputs; expected 1 to {OUTPUTS_MAX}");
            return Err(Error::malformed(message));
        }
        match self {
            Task::Regression { standard, outputs } if standard.len() != outputs.len() => {
                Err(Error::malformed("the task's outputs and their standards differ in number"))
            }
            Task::Regression { standard, .. } => standard.iter().try_for_each(Standard::check),
            Task::Segmentation { .. } if count > usize::from(u8::MAX) + 1 => {
                Err(Error::malformed(format!("masks of {count} classes; expected at most 256")))
            }
            _ => Ok(()),
        }
    }

    /// The names of the classes, labels or numbers.
    pub fn names(&self) -> &[String] {
        match self {
            Task::Classification { classes } | Task::Segmentation { classes, .. } => classes,
            Task::MultiLabel { labels } => labels,
            Task::Regression { outputs, .. } => outputs,
        }
    }

    /// Number of outputs of the head, for each example or pixel.
    pub fn outputs(&self) -> usize {
        self.names().len()
    }

    /// What the targets of its data are.
    pub fn target_kind(&self) -> TargetKind {
        match self {
            Task::Classification { .. } => TargetKind::Class,
            Task::MultiLabel { .. } => TargetKind::Labels,
            Task::Regression { .. } => TargetKind::Numbers,
            Task::Segmentation { .. } => TargetKind::Mask,
        }
    }

    /// Whether it predicts for each pixel.
    pub fn is_dense(&self) -> bool {
        matches!(self, Task::Segmentation { .. })
    }

    /// `data` with its targets as this task has them: of its kind, named as its outputs, with its
    /// ignored class.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn align(&self, data: &Dataset) -> Result<Dataset> {
        let data = data.read_as(self.target_kind())?;
        let data = match self {
            Task::Segmentation { ignore, .. } if data.ignored() != Some(*ignore) => {
                data.with_ignored(*ignore)?
            }
            _ => data,
        };
        data.with_classes(self.names())
    }
}

/// Its graph.
impl Task {
    /// The features of a backbone in the shape that the head reads: `[N, F]`, or for each pixel
    /// `[N, C, h, w]`.
    ///
    /// # Errors
    /// When the backbone's output has too many or too few dimensions.
    pub fn features(&self, graph: &mut Graph, output: ValueId) -> Result<ValueId> {
        match self {
            Task::Segmentation { .. } => segmentation::check_map(graph, output),
            _ => flat_features(graph, output),
        }
    }

    /// The head on `features`, for images of `size: [H, W]`; its outputs, see [`Task`].
    ///
    /// # Errors
    /// When the features are not of [`Task::features`]'s shape.
    pub fn head(&self, graph: &mut Graph, features: ValueId, size: [usize; 2]) -> Result<ValueId> {
        match self {
            Task::Segmentation { classes, .. } => dense_head(graph, features, classes.len(), size),
            _ => linear_head(graph, features, self.outputs()),
        }
    }

    /// The mean over the batch of the negative log-likelihood of [`TARGETS`], but for constants:
    /// `[1]`. Segmentation reads [`COUNTED`], too.
    ///
    /// # Errors
    /// When the outputs are not of the head's shape.
    pub fn loss(&self, graph: &mut Graph, outputs: ValueId) -> Result<ValueId> {
        let origin = graph.set_origin("loss");
        let loss = match self {
            Task::Classification { .. } => cross_entropy(graph, outputs),
            Task::MultiLabel { .. } => binary_cross_entropy(graph, outputs),
            Task::Regression { .. } => squared_error(graph, outputs),
            Task::Segmentation { .. } => pixel_cross_entropy(graph, outputs),
        };
        graph.set_origin(origin);
        loss
    }

    /// An upper bound of the loss's curvature in an output, for the head's learning rate: the
    /// largest eigenvalue of its Hessian. ½ for the softmax (Böhning 1992), ¼ for the sigmoid, 1
    /// for the square.
    pub fn curvature(&self) -> f64 {
        match self {
            Task::Classification { .. } | Task::Segmentation { .. } => 0.5,
            Task::MultiLabel { .. } => 0.25,
            Task::Regression { .. } => 1.0,
        }
    }
}

/// Its numbers.
impl Task {
    /// Numbers in the targets of one example.
    pub fn target_len(&self, preprocess: &Preprocess) -> usize {
        match self {
            Task::Segmentation { .. } => preprocess.height * preprocess.width,
            _ => self.outputs(),
        }
    }

    /// Numbers that the head gives for one example.
    pub fn output_len(&self, preprocess: &Preprocess) -> usize {
        match self {
            Task::Segmentation { classes, .. } => {
                preprocess.height * preprocess.width * classes.len()
            }
            _ => self.outputs(),
        }
    }

    /// Writes the targets of the examples at `indices` as [`TARGETS`] holds them:
    /// classification 1 at the class, else 0, `[n, C]`; multi-label 1 or 0, `[n, C]`; regression
    /// standardised numbers, `[n, D]`; segmentation the class of each pixel, or -1 where it counts
    /// for nothing, `[n, H, W]`.
    ///
    /// # Errors
    /// When the data have other targets, or a mask cannot be read.
    pub fn fill_targets(
        &self,
        data: &Dataset,
        indices: &[usize],
        preprocess: &Preprocess,
        augmentation: Option<&Augmentation>,
        out: &mut [f32],
        threads: &Threads,
    ) -> Result<()> {
        match self {
            Task::Segmentation { .. } => {
                data.fill_masks(indices, preprocess, augmentation, out, threads)
            }
            _ => self.fill_rows(data, indices, out),
        }
    }

    /// Like [`Task::fill_targets`] of the tasks whose targets no image changes: all but
    /// segmentation.
    ///
    /// # Errors
    /// When the data have other targets.
    pub fn fill_rows(&self, data: &Dataset, indices: &[usize], out: &mut [f32]) -> Result<()> {
        match self {
            Task::Classification { classes } => one_hot(&data.labels(indices)?, classes.len(), out),
            Task::MultiLabel { .. } => data.fill_rows(indices, out),
            Task::Regression { standard, .. } => {
                data.fill_rows(indices, out)?;
                regression::standardise(standard, out);
                Ok(())
            }
            Task::Segmentation { .. } => Err(Error::internal("masks have no rows")),
        }
    }

    /// What the loss is a mean over: the number of examples whose `targets` these are, of `len`
    /// numbers each, or of pixels that count.
    pub fn counted(&self, targets: &[f32], len: usize) -> f32 {
        match self {
            Task::Segmentation { .. } => {
                targets.iter().filter(|&&class| class >= 0.0).count() as f32
            }
            _ => (targets.len() / len.max(1)) as f32,
        }
    }

    /// What raw `outputs` of some examples or pixels mean, in place: probabilities, or numbers in
    /// the data's units.
    pub fn link(&self, outputs: &mut [f64]) {
        match self {
            Task::Classification { .. } | Task::Segmentation { .. } => {
                outputs.chunks_exact_mut(self.outputs()).for_each(classification::softmax);
            }
            Task::MultiLabel { .. } => {
                outputs.iter_mut().for_each(|x| *x = multilabel::sigmoid(*x));
            }
            Task::Regression { standard, .. } => regression::restore(standard, outputs),
        }
    }
}

/// Features as `[N, F]`, whatever shape the backbone gives them.
///
/// # Errors
/// When they have fewer than two or more than four dimensions, or none of the batch's.
pub fn flat_features(graph: &mut Graph, features: ValueId) -> Result<ValueId> {
    let shape = graph.shape(features).clone();
    match shape[..] {
        [_, _] => Ok(features),
        [n, c, _, _] => {
            let mean = graph.mean(features, &[2, 3])?;
            graph.reshape(mean, &[n, c].into())
        }
        [n, _, f] => {
            let mean = graph.mean(features, &[1])?;
            graph.reshape(mean, &[n, f].into())
        }
        _ => Err(Error::unsupported(format!(
            "features of shape {shape}; expected [N, F], [N, tokens, F] or [N, C, H, W]"
        ))
        .hint("choose another value with --features NAME")),
    }
}

/// A dense layer on features `[N, F]`: `[N, outputs]`.
///
/// # Errors
/// When the features are not `[N, F]`.
pub fn linear_head(graph: &mut Graph, features: ValueId, outputs: usize) -> Result<ValueId> {
    let origin = graph.set_origin("head");
    let [n, f] = graph.shape(features)[..] else {
        return Err(Error::internal("the head takes flat features"));
    };
    let weight = graph.param(HEAD_WEIGHT, &[outputs, f].into())?;
    let bias = graph.param(HEAD_BIAS, &[outputs].into())?;
    let product = MatMul { transpose_a: false, transpose_b: true };
    let product = graph.matmul(features, weight, product)?;
    let bias = graph.reshape(bias, &[1, outputs].into())?;
    let bias = graph.broadcast(bias, &[n, outputs].into())?;
    let logits = graph.add(product, bias)?;
    graph.set_origin(origin);
    Ok(logits)
}
