//! A backbone with its head on a backend, ready for any number of examples.
//!
//! Plans have static shapes, so there is one for each batch size in use; they share the weights.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::Array2;

use super::runtime::{Frame, Output, rows};
use crate::backend::{Backend, Engine, PlanId};
use crate::data::{Dataset, Preprocess};
use crate::error::{Error, Result};
use crate::graph::{Graph, Leaf, LeafKind};
use crate::onnx::Model;
use crate::plan::{Place, Plan};
use crate::prior::Weights;
use crate::task::{FEATURES, HEAD_BIAS, HEAD_WEIGHT, LOGITS, Task, flat_features};
use crate::tensor::{contiguous, tensor};
use crate::threads::Threads;

/// Examples of one forward pass, unless another number is set.
pub const FORWARD_BATCH: usize = 32;

/// How far a pass over a data set has come.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Progress {
    pub done: usize,
    pub total: usize,
}

/// A network on a backend.
pub struct Network {
    model: Arc<Model>,
    frame: Frame,
    engine: Engine,
    backend: Box<dyn Backend>,
    forward: HashMap<usize, PlanId>,
    /// Weights of the host that the backend does not have yet.
    pending: Weights,
}

impl Network {
    /// A network on `engine` with the model's own weights, and with the head of `task`, which is
    /// zero. Where
    /// the engine's device cannot be had, it is the next that takes its place.
    ///
    /// # Errors
    /// When the preprocessing does not fit the model's input.
    pub fn new(
        model: Arc<Model>,
        preprocess: Preprocess,
        task: Option<Task>,
        engine: impl Into<Engine>,
    ) -> Result<Self> {
        preprocess.check()?;
        let pending = own_weights(&model);
        let (engine, backend) = open(engine.into())?;
        let threads = Arc::clone(engine.threads());
        let frame = Frame { preprocess, task, forward_batch: FORWARD_BATCH, threads };
        Ok(Network { model, frame, engine, backend, forward: HashMap::new(), pending })
    }

    /// Sets the number of examples of one forward pass, at least 1: fewer take less memory.
    pub fn set_forward_batch(&mut self, examples: usize) {
        self.frame.forward_batch = examples.max(1);
    }

    /// Examples of one forward pass.
    pub fn forward_batch(&self) -> usize {
        self.frame.forward_batch
    }

    /// What it reads and predicts.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The same, to change.
    pub(super) fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }

    /// The backbone.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What it runs on.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// The same, to look at.
    pub fn residents(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Where it runs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The threads of its engine.
    pub fn threads(&self) -> &Arc<Threads> {
        self.engine.threads()
    }

    /// Goes on elsewhere after `error`, with `weights`, and the model's own where those name none.
    /// Loaded plans are gone; so is everything else that was on the device.
    ///
    /// # Errors
    /// `error` itself, when it is not the device's or there is nowhere to go.
    pub fn fall_back(&mut self, error: Error, weights: &Weights) -> Result<()> {
        (self.engine, self.backend) = open(self.engine.after(error)?)?;
        self.forward.clear();
        self.pending = own_weights(&self.model);
        self.pending.extend(weights.iter().map(|(name, w)| (name.clone(), w.clone())));
        Ok(())
    }

    /// How examples become its input.
    pub fn preprocess(&self) -> &Preprocess {
        &self.frame.preprocess
    }

    /// Name of the input that takes the images.
    pub fn input_name(&self) -> &str {
        self.model.inputs().first().map_or("", |port| port.name.as_str())
    }

    /// What it learns, if it has a head.
    pub fn task(&self) -> Option<&Task> {
        self.frame.task.as_ref()
    }

    /// What it learns.
    ///
    /// # Errors
    /// Internal: whoever asks has given it a head.
    pub(crate) fn known_task(&self) -> Result<&Task> {
        self.frame.known_task()
    }

    /// The forward graph for `batch` examples, with outputs [`FEATURES`], `[N, F]` or as its task
    /// has them, and, if the network has a head, [`LOGITS`].
    ///
    /// # Errors
    /// When the model cannot be imported at this shape or its features do not suit the task.
    pub fn graph(&self, batch: usize) -> Result<Graph> {
        let Preprocess { channels, height, width, .. } = self.frame.preprocess;
        let mut graph = self.model.graph(&[batch, channels, height, width])?;
        let (_, output) = *graph
            .outputs()
            .first()
            .ok_or_else(|| Error::unsupported("the model has no output"))?;
        graph.clear_outputs();
        let Some(task) = &self.frame.task else {
            let features = flat_features(&mut graph, output)?;
            graph.set_output(FEATURES, features);
            return Ok(graph);
        };
        let features = task.features(&mut graph, output)?;
        graph.set_output(FEATURES, features);
        let logits = task.head(&mut graph, features, [height, width])?;
        graph.set_output(LOGITS, logits);
        Ok(graph)
    }

    /// Loads a plan that shares this network's weights.
    ///
    /// # Errors
    /// When the backend cannot.
    pub fn load(&mut self, plan: Plan) -> Result<PlanId> {
        let id = self.backend.load(plan)?;
        self.push_weights(id)?;
        Ok(id)
    }

    /// Gives the backend the pending weights that `plan` names.
    fn push_weights(&mut self, plan: PlanId) -> Result<()> {
        let named: Vec<Leaf> = self
            .backend
            .plan(plan)
            .buffers()
            .iter()
            .filter_map(|buffer| match &buffer.place {
                Place::Resident(leaf) if leaf.kind == LeafKind::Param => Some(leaf.clone()),
                _ => None,
            })
            .collect();
        for leaf in named {
            if let Some(weight) = self.pending.remove(&leaf.name) {
                self.backend.set(&leaf, &contiguous(&weight))?;
            }
        }
        Ok(())
    }

    /// Sets weights by name; those not named stay as they are.
    ///
    /// # Errors
    /// When a weight has another length than the network's.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        self.pending.extend(weights.iter().map(|(name, w)| (name.clone(), w.clone())));
        let plans: Vec<PlanId> = self.forward.values().copied().collect();
        plans.into_iter().try_for_each(|plan| self.push_weights(plan))
    }

    /// The present weights of these names.
    ///
    /// # Errors
    /// When a name is not a weight of the network.
    pub fn weights<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Weights> {
        names.into_iter().map(|name| Ok((name.to_string(), self.weight(name)?))).collect()
    }

    fn weight(&self, name: &str) -> Result<crate::tensor::Tensor> {
        if let Some(pending) = self.pending.get(name) {
            return Ok(pending.clone());
        }
        let leaf = Leaf { kind: LeafKind::Param, name: name.to_string() };
        let data = self.backend.get(&leaf)?;
        let outputs = self.task().map(Task::outputs);
        let shape = match (self.model.weight(name), name, outputs) {
            (Some(weight), ..) => weight.shape().to_vec(),
            (None, HEAD_WEIGHT, Some(outputs)) => vec![outputs, data.len() / outputs.max(1)],
            (None, HEAD_BIAS, Some(outputs)) => vec![outputs],
            // What stands between features and a loss of its own is known there.
            _ => vec![data.len()],
        };
        tensor(&shape, data)
    }

    /// The plan of the forward pass for `batch` examples, compiled when first asked for.
    ///
    /// # Errors
    /// Those of [`Network::graph`].
    pub fn forward(&mut self, batch: usize) -> Result<PlanId> {
        if let Some(&plan) = self.forward.get(&batch) {
            return Ok(plan);
        }
        let plan = Plan::compile(&self.graph(batch)?)?;
        let id = self.load(plan)?;
        self.forward.insert(batch, id);
        Ok(id)
    }

    /// Features of every example, `[N, F]`; of segmentation each row is a map `[C, h, w]`.
    ///
    /// # Errors
    /// When an example cannot be read, the network cannot run, or `observe` returns false.
    pub fn features(
        &mut self,
        data: &Dataset,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Array2<f32>> {
        rows(self, data, Output::Features, observe)
    }

    /// Raw outputs `[N, outputs]` of every example; of segmentation each row is `[H, W, classes]`.
    ///
    /// # Errors
    /// As for [`Network::features`].
    pub fn logits(
        &mut self,
        data: &Dataset,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Array2<f32>> {
        rows(self, data, Output::Logits, observe)
    }

    /// The plans of the forward passes that have run.
    pub(super) fn forward_plans(&self) -> impl Iterator<Item = PlanId> {
        self.forward.values().copied()
    }
}

/// The model's weights by name.
pub(crate) fn own_weights(model: &Model) -> Weights {
    model.weights().map(|(name, w)| (name.to_string(), w.clone())).collect()
}

/// A backend of `engine`, or of the next that there is.
fn open(mut engine: Engine) -> Result<(Engine, Box<dyn Backend>)> {
    loop {
        match engine.open() {
            Ok(backend) => return Ok((engine, backend)),
            Err(error) => engine = engine.after(error)?,
        }
    }
}
