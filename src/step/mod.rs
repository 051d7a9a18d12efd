//! The training step: loss, penalty, vjp and update as one graph.
//!
//! Semantics, settled here once. N is the number of training examples, λ the prior's strength
//! (a multiplier of its covariance), τ the variance of the head's prior:
//!
//! ```text
//! loss      = mean over the batch of -log p(y | x, θ)
//! penalty   = (θ-μ)ᵀS⁻¹(θ-μ) / (2λN)  +  |head|² / (2τN)       (without the constant)
//! objective = loss + penalty, an unbiased estimate of -log p(θ, data)/N
//! ```
//!
//! Clipping rescales the gradient of the loss alone: a strong prior cannot drown the data. The
//! penalty's gradient is never formed; each parameter's [`Update`] applies it as a proximal step.
//! The low-rank part couples the parameters of a block, by default all, through K numbers
//! u = Wᵀd⁻¹(θ-μ); every update leaves its share of them for the next step, so the prior costs one
//! pass over memory.

mod accumulate;

use std::collections::BTreeMap;

pub use self::accumulate::{LOSS_SUM, SHARE, apply_step, gradient_state, gradient_step};
use crate::autodiff::vjp;
use crate::error::{Error, Result};
use crate::graph::{
    Graph, Hyper, LeafKind, MatMul, Method, PriorTerm, Slice, Stage, Unary, Update, ValueId,
};
use crate::task::LOSS;
use crate::tensor::{Shape, tensor};

/// Name of the output that holds the penalty `[1]`.
pub const PENALTY: &str = "penalty";
/// Name of the output that holds the norm of the loss's gradient `[1]`; only with clipping.
pub const GRADIENT_NORM: &str = "gradient_norm";
/// Name of the input that holds the largest gradient norm `[1]`; only with clipping.
pub const CLIP: &str = "priorfit.clip";
/// Name of the state that holds C⁻¹ `[K, K]` of a block of the prior.
pub fn capacitance_state(block: usize) -> String {
    format!("prior.capacitance_inverse/{block}")
}

/// Parameters that share a vector of [`Hyper`] numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Weights of the backbone, under its prior.
    Backbone,
    /// Weights of the new head, under N(0, τI).
    Head,
}

impl Group {
    /// Name of the input that holds the group's numbers.
    pub fn hyper(self) -> &'static str {
        match self {
            Group::Backbone => "priorfit.hyper.backbone",
            Group::Head => "priorfit.hyper.head",
        }
    }
}

/// A parameter that the step changes.
#[derive(Clone, Debug)]
pub struct Trainable {
    /// Its name.
    pub name: String,
    /// Whose numbers it follows.
    pub group: Group,
    /// The number of its block: under a low-rank prior the members of a block are coupled, and have
    /// one rank.
    pub block: usize,
    /// The prior's operands that come as state; see [`prior_state`].
    pub prior: PriorTerm,
}

/// What a step is made of besides its forward graph.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The parameters it changes; all others are frozen.
    pub trainable: Vec<Trainable>,
    /// The optimiser; noise takes its lane from a parameter's place in [`Recipe::trainable`].
    pub method: Method,
    /// Whether the gradient of the loss is clipped to the norm in [`CLIP`].
    pub clip: bool,
}

/// Name of a moment's state leaf.
pub fn moment_state(moment: &str, param: &str) -> String {
    format!("{moment}/{param}")
}

/// Names of a parameter's prior state.
pub fn prior_state(what: PriorState, param: &str) -> String {
    let what = match what {
        PriorState::Mean => "mean",
        PriorState::Precision => "precision",
        PriorState::Factor => "factor",
        PriorState::Sums => "sums",
    };
    format!("prior.{what}/{param}")
}

/// The tensors a prior keeps for each parameter during training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorState {
    /// μ, of the parameter's shape.
    Mean,
    /// d⁻¹, of the parameter's shape.
    Precision,
    /// W, `[K, ..]`.
    Factor,
    /// This parameter's share of (Wᵀd⁻¹x, xᵀd⁻¹x), `[K + 1]`.
    Sums,
}

/// Turns a forward graph with output [`LOSS`] into a whole training step.
///
/// # Errors
/// When the graph has no such output or no such parameter, or something on the way from the loss to
/// a trainable parameter cannot be differentiated.
pub fn train_step(graph: Graph, recipe: &Recipe) -> Result<Graph> {
    let mut graph = graph.fold_scales()?;
    let loss = graph.output(LOSS).ok_or_else(|| Error::internal("the graph has no loss"))?;
    let params = parameters(&graph, recipe)?;
    graph.set_stage(Stage::Update);
    graph.set_origin("update");
    let mut step = Step { graph, recipe, capacitance_solutions: BTreeMap::new() };
    // Before the backward pass, so that an update waits for nothing but its own gradient.
    step.penalty()?;
    step.graph.set_stage(Stage::Backward);
    let one = step.graph.constant(tensor(&[1], vec![1.0])?)?;
    let gradients = vjp(&mut step.graph, &[(loss, one)], &params)?;
    step.graph.set_stage(Stage::Update);
    step.finish(&params, &gradients)?;
    Ok(step.graph)
}

/// The values of the trainable parameters, in the recipe's order.
fn parameters(graph: &Graph, recipe: &Recipe) -> Result<Vec<ValueId>> {
    let leaf = |t: &Trainable| {
        graph
            .leaf(LeafKind::Param, &t.name)
            .ok_or_else(|| Error::mismatch(format!("the graph has no parameter '{}'", t.name)))
    };
    recipe.trainable.iter().map(leaf).collect()
}

struct Step<'a> {
    graph: Graph,
    recipe: &'a Recipe,
    /// s = C⁻¹u of the present weights, by block.
    capacitance_solutions: BTreeMap<usize, ValueId>,
}

impl Step<'_> {
    /// Clips the gradients and updates the parameters by them.
    fn finish(&mut self, params: &[ValueId], gradients: &[Option<ValueId>]) -> Result<()> {
        let scale = self.clip(gradients)?;
        let recipe = self.recipe;
        let members = recipe.trainable.iter().zip(params).zip(gradients);
        for (lane, ((trainable, &theta), &gradient)) in members.enumerate() {
            // A parameter the loss does not depend on stays where it is, which is where its prior
            // wants it.
            if let Some(gradient) = gradient {
                let method = recipe.method.for_lane(lane as u32);
                self.update(trainable, method, theta, gradient, scale)?;
            }
        }
        Ok(())
    }

    fn update(
        &mut self,
        trainable: &Trainable,
        method: Method,
        theta: ValueId,
        gradient: ValueId,
        scale: ValueId,
    ) -> Result<()> {
        let g = &mut self.graph;
        let shape = g.shape(theta).clone();
        let hyper = g.input(trainable.group.hyper(), &[Hyper::COUNT].into())?;
        let update = Update { method, prior: trainable.prior };
        let mut operands = vec![theta, gradient, hyper, scale];
        let mut leaves = vec![theta];
        for moment in update.method.moments() {
            let state = g.state(&moment_state(moment, &trainable.name), &shape)?;
            operands.push(state);
            leaves.push(state);
        }
        let solution = self.capacitance_solutions.get(&trainable.block).copied();
        operands.extend(prior_operands(g, trainable, &shape, solution)?);
        if trainable.prior != PriorTerm::None {
            leaves.push(sums_state(g, trainable)?);
        }
        g.set_origin(format!("update {}", trainable.name));
        let results = g.update(update, &operands)?;
        for (leaf, next) in leaves.into_iter().zip(results) {
            g.set_next(leaf, next);
        }
        Ok(())
    }

    /// c = min(1, clip/|g|) over all gradients together, or 1 without clipping.
    fn clip(&mut self, gradients: &[Option<ValueId>]) -> Result<ValueId> {
        let g = &mut self.graph;
        let one = g.constant(tensor(&[1], vec![1.0])?)?;
        if !self.recipe.clip {
            return Ok(one);
        }
        let mut squares = Vec::new();
        for &gradient in gradients.iter().flatten() {
            let square = g.mul(gradient, gradient)?;
            squares.push(g.sum_all(square)?);
        }
        let total = add_all(g, &squares)?;
        let norm = g.unary(Unary::Sqrt, total)?;
        g.set_output(GRADIENT_NORM, norm);
        let largest = g.input(CLIP, &[1].into())?;
        // The shift keeps a zero gradient from dividing by zero.
        let shifted = g.shift(norm, f32::MIN_POSITIVE)?;
        let ratio = g.div(largest, shifted)?;
        g.unary(Unary::Clamp(0.0, 1.0), ratio)
    }

    /// The penalty at the present weights, and s for the updates.
    fn penalty(&mut self) -> Result<()> {
        let mut terms = Vec::new();
        for group in [Group::Backbone, Group::Head] {
            let mut blocks: BTreeMap<usize, Vec<&Trainable>> = BTreeMap::new();
            let all = self.recipe.trainable.iter();
            for t in all.filter(|t| t.group == group && t.prior != PriorTerm::None) {
                blocks.entry(t.block).or_default().push(t);
            }
            for (block, members) in blocks {
                terms.push(self.block_penalty(group, block, &members)?);
            }
        }
        let g = &mut self.graph;
        let penalty = match terms.is_empty() {
            true => g.splat(0.0, &[1].into())?,
            false => add_all(g, &terms)?,
        };
        g.set_output(PENALTY, penalty);
        Ok(())
    }

    /// w/2 · (Σ xᵀd⁻¹x - u·s) of one block of a group.
    fn block_penalty(
        &mut self,
        group: Group,
        block: usize,
        members: &[&Trainable],
    ) -> Result<ValueId> {
        let g = &mut self.graph;
        let sums: Vec<ValueId> = members.iter().map(|t| sums_state(g, t)).collect::<Result<_>>()?;
        let total = add_all(g, &sums)?;
        let count = g.shape(total).len();
        let last =
            |g: &mut Graph, x| g.slice(x, Slice { axis: 0, start: count - 1, end: count, step: 1 });
        let mut form = last(g, total)?;
        if count > 1 {
            let rank = count - 1;
            let u = g.slice(total, Slice { axis: 0, start: 0, end: rank, step: 1 })?;
            let inverse = g.state(&capacitance_state(block), &[rank, rank].into())?;
            let column = g.reshape(u, &[rank, 1].into())?;
            let s = g.matmul(inverse, column, MatMul::default())?;
            let s = g.reshape(s, &[rank].into())?;
            self.capacitance_solutions.insert(block, s);
            let product = g.mul(u, s)?;
            let explained = g.sum_all(product)?;
            form = g.sub(form, explained)?;
        }
        let hyper = g.input(group.hyper(), &[Hyper::COUNT].into())?;
        let at = Hyper::PriorWeight as usize;
        let weight = g.slice(hyper, Slice { axis: 0, start: at, end: at + 1, step: 1 })?;
        let weighted = g.mul(weight, form)?;
        g.scale(weighted, 0.5)
    }
}

fn sums_state(g: &mut Graph, trainable: &Trainable) -> Result<ValueId> {
    g.state(&prior_state(PriorState::Sums, &trainable.name), &[trainable.prior.sums()].into())
}

fn add_all(g: &mut Graph, values: &[ValueId]) -> Result<ValueId> {
    let (&first, rest) =
        values.split_first().ok_or_else(|| Error::invalid("there is nothing to train"))?;
    rest.iter().try_fold(first, |sum, &value| g.add(sum, value))
}

/// The prior's operands of an update, in its order.
fn prior_operands(
    g: &mut Graph,
    trainable: &Trainable,
    shape: &Shape,
    solution: Option<ValueId>,
) -> Result<Vec<ValueId>> {
    let mut state = |what, shape: &Shape| g.state(&prior_state(what, &trainable.name), shape);
    Ok(match trainable.prior {
        PriorTerm::None | PriorTerm::Isotropic { centred: false } => vec![],
        PriorTerm::Isotropic { centred: true } => vec![state(PriorState::Mean, shape)?],
        PriorTerm::Diagonal => {
            vec![state(PriorState::Mean, shape)?, state(PriorState::Precision, shape)?]
        }
        PriorTerm::LowRank { rank } => {
            let mut factor = vec![rank];
            factor.extend_from_slice(shape);
            let solution =
                solution.ok_or_else(|| Error::internal("a low-rank prior has its solution"))?;
            vec![
                state(PriorState::Mean, shape)?,
                state(PriorState::Precision, shape)?,
                state(PriorState::Factor, &factor.into())?,
                solution,
            ]
        }
    })
}
