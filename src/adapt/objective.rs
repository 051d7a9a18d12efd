//! What a run minimises: the loss on the backbone's features, the head between them, and what is
//! written for each batch.

use serde::Serialize;

use crate::data::{Augmentation, Colour, Dataset};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::posterior::Network;
use crate::task::{
    FEATURES, HEAD_BIAS, HEAD_WEIGHT, LOGITS, LOSS, PROJECTOR, TEMPERATURE_MIN, nt_xent, projector,
};

/// Settings of contrastive learning (SimCLR, Chen et al. 2020).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ContrastSettings {
    /// τ of the loss: lower tells nearer examples apart.
    pub temperature: f32,
    /// Numbers of a projection.
    pub projection: usize,
    /// How the colours of views vary, besides what is cropped and mirrored.
    pub colour: Colour,
}

impl Default for ContrastSettings {
    fn default() -> Self {
        let colour = Colour { jitter: 0.5, grey: 0.2, blur: 0.0 };
        ContrastSettings { temperature: 0.5, projection: 128, colour }
    }
}

impl ContrastSettings {
    pub(super) fn check(&self) -> Result<()> {
        self.colour.check()?;
        if !(self.temperature.is_finite() && self.temperature >= TEMPERATURE_MIN) {
            let message = format!("the temperature of the contrast is {}", self.temperature);
            return Err(
                Error::invalid(message).hint(format!("expected at least {TEMPERATURE_MIN}"))
            );
        }
        match self.projection {
            1..=65_536 => Ok(()),
            width => Err(Error::invalid(format!("a projection of {width} numbers"))
                .hint("expected 1 to 65536, such as 128")),
        }
    }
}

/// What a run minimises.
#[derive(Clone, Copy, Debug)]
pub(super) enum Objective {
    /// The loss of the network's task.
    Task,
    /// That of telling the other view of an example from those of the others in its batch.
    Contrast(ContrastSettings),
}

impl Objective {
    /// Images that one example is turned into.
    pub(super) fn views(&self) -> usize {
        match self {
            Objective::Task => 1,
            Objective::Contrast(_) => 2,
        }
    }

    /// Whether the loss of a batch is the mean of its examples', so that it may be split.
    pub(super) fn is_separable(&self) -> bool {
        matches!(self, Objective::Task)
    }

    /// The parameters between the features and the loss.
    pub(super) fn head(&self) -> &'static [&'static str] {
        match self {
            Objective::Task => &[HEAD_WEIGHT, HEAD_BIAS],
            Objective::Contrast(_) => &PROJECTOR,
        }
    }

    /// The forward pass of `batch` examples, with the output [`LOSS`] alone.
    pub(super) fn graph(&self, network: &Network, batch: usize) -> Result<Graph> {
        let mut graph = network.graph(batch * self.views())?;
        let output = |graph: &Graph, name| {
            graph.output(name).ok_or_else(|| Error::internal(format!("there is no '{name}'")))
        };
        let loss = match self {
            Objective::Task => {
                let logits = output(&graph, LOGITS)?;
                network.known_task()?.loss(&mut graph, logits)?
            }
            Objective::Contrast(settings) => {
                let features = output(&graph, FEATURES)?;
                let projections = projector(&mut graph, features, settings.projection)?;
                nt_xent(&mut graph, projections, settings.temperature)?
            }
        };
        graph.clear_outputs();
        graph.set_output(LOSS, loss);
        Ok(graph)
    }

    /// Writes the images of a batch, one view of all examples after the other.
    pub(super) fn fill_images(
        &self,
        data: &Dataset,
        batch: &[usize],
        network: &Network,
        augmentation: Augmentation,
        images: &mut Vec<f32>,
    ) -> Result<()> {
        let (preprocess, threads) = (network.preprocess(), network.threads());
        let len = batch.len() * preprocess.image_len();
        images.resize(self.views() * len, 0.0);
        for (view, images) in images.chunks_exact_mut(len).enumerate() {
            let augmentation = match self {
                Objective::Task => augmentation,
                Objective::Contrast(settings) => {
                    augmentation.view(view as u8).coloured(settings.colour)
                }
            };
            data.fill(batch, preprocess, Some(&augmentation), images, threads)?;
        }
        Ok(())
    }

    /// Writes the targets of a batch; nothing where examples are their own.
    pub(super) fn fill_targets(
        &self,
        data: &Dataset,
        batch: &[usize],
        network: &Network,
        augmentation: Augmentation,
        targets: &mut Vec<f32>,
    ) -> Result<()> {
        let task = match self {
            Objective::Task => network.known_task()?,
            Objective::Contrast(_) => return Ok(()),
        };
        let (preprocess, threads) = (network.preprocess(), network.threads());
        targets.resize(batch.len() * task.target_len(preprocess), 0.0);
        task.fill_targets(data, batch, preprocess, Some(&augmentation), targets, threads)
    }
}
