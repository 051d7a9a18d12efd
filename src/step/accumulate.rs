//! A step in parts: the gradients of micro-batches, and one update by their sum.
//!
//! A batch of B examples in micro-batches of b₁, b₂, ... makes the same step as one in a whole,
//! because every op acts on each example alone:
//!
//! ```text
//! for each i:  G ← G + (bᵢ/B) ∇lossᵢ,  L ← L + (bᵢ/B) lossᵢ      (gradient_step, SHARE = bᵢ/B)
//! then:        clipping, penalty and updates as in train_step, with G for the gradient and L for
//!              the loss;  G ← 0,  L ← 0                              (apply_step)
//! ```
//!
//! Sums differ by rounding only. An addition into a resident is an [`Update`]: that of SGLD without
//! noise, at rate -1 and with bᵢ/B as the gradient's scale, works in place in one pass.

use std::collections::BTreeMap;

use super::{Recipe, Step, parameters};
use crate::autodiff::vjp;
use crate::error::{Error, Result};
use crate::graph::{Graph, Hyper, LeafKind, Method, PriorTerm, Slice, Stage, Update, ValueId};
use crate::task::LOSS;
use crate::tensor::tensor;

/// Name of the input that holds a micro-batch's share bᵢ/B of its batch `[1]`.
pub const SHARE: &str = "priorfit.share";
/// Name of the state that holds L `[1]`.
pub const LOSS_SUM: &str = "loss_sum";

/// Name of the state that holds G, of the parameter's shape.
pub fn gradient_state(param: &str) -> String {
    format!("gradient/{param}")
}

/// Turns a forward graph with output [`LOSS`] into one that adds its gradients and its loss to the
/// sums; it has no outputs.
///
/// # Errors
/// Those of [`train_step`](super::train_step).
pub fn gradient_step(graph: Graph, recipe: &Recipe) -> Result<Graph> {
    let mut graph = graph.fold_scales()?;
    let loss = graph.output(LOSS).ok_or_else(|| Error::internal("the graph has no loss"))?;
    let params = parameters(&graph, recipe)?;
    graph.clear_outputs();
    graph.set_stage(Stage::Backward);
    let one = graph.constant(tensor(&[1], vec![1.0])?)?;
    let gradients = vjp(&mut graph, &[(loss, one)], &params)?;
    graph.set_stage(Stage::Update);
    let share = graph.input(SHARE, &[1].into())?;
    add(&mut graph, LOSS_SUM, loss, share)?;
    for (trainable, gradient) in recipe.trainable.iter().zip(gradients) {
        if let Some(gradient) = gradient {
            add(&mut graph, &gradient_state(&trainable.name), gradient, share)?;
        }
    }
    Ok(graph)
}

/// Adds `share`·`value` to the state `name`.
fn add(graph: &mut Graph, name: &str, value: ValueId, share: ValueId) -> Result<()> {
    graph.set_origin(name);
    let shape = graph.shape(value).clone();
    let sum = graph.state(name, &shape)?;
    let mut hyper = vec![0.0; Hyper::COUNT];
    hyper[Hyper::LearningRate as usize] = -1.0;
    let hyper = graph.constant(tensor(&[Hyper::COUNT], hyper)?)?;
    let update =
        Update { method: Method::Sgld { lane: 0, preconditioned: false }, prior: PriorTerm::None };
    let next = graph.update(update, &[sum, value, hyper, share])?[0];
    graph.set_next(sum, next);
    Ok(())
}

/// The update by the sums of `gradients`, a graph of [`gradient_step`], with the outputs of
/// [`train_step`](super::train_step); the sums are zero afterwards.
///
/// # Errors
/// When `gradients` is not of this recipe.
pub fn apply_step(gradients: &Graph, recipe: &Recipe) -> Result<Graph> {
    let mut graph = Graph::new();
    graph.set_stage(Stage::Update);
    graph.set_origin("update");
    let (mut params, mut sums) = (Vec::new(), Vec::new());
    for (trainable, value) in recipe.trainable.iter().zip(parameters(gradients, recipe)?) {
        let shape = gradients.shape(value);
        params.push(graph.param(&trainable.name, shape)?);
        let name = gradient_state(&trainable.name);
        let known = gradients.leaf(LeafKind::State, &name);
        sums.push(known.map(|_| graph.state(&name, shape)).transpose()?);
    }
    let mut step = Step { graph, recipe, capacitance_solutions: BTreeMap::new() };
    step.penalty()?;
    step.finish(&params, &sums)?;
    let mut graph = step.graph;
    let loss = graph.state(LOSS_SUM, &[1].into())?;
    // A copy: the state itself is zero by the end of the run.
    let copy = graph.slice(loss, Slice { axis: 0, start: 0, end: 1, step: 1 })?;
    graph.set_output(LOSS, copy);
    graph.set_origin("zero");
    for sum in sums.into_iter().flatten().chain([loss]) {
        let shape = graph.shape(sum).clone();
        let zero = graph.splat(0.0, &shape)?;
        graph.set_next(sum, zero);
    }
    Ok(graph)
}
