//! The training step or prediction that is timed, and the numbers it starts from.

use priorfit::backend::{Backend, Engine, PlanId};
use priorfit::error::{Error, Result};
use priorfit::graph::{Graph, Leaf, LeafKind, PriorTerm};
use priorfit::onnx::Model;
use priorfit::plan::{Place, Plan};
use priorfit::rng::{Key, Stream};
use priorfit::step::{CLIP, Group, Recipe, Trainable, train_step};
use priorfit::task::{
    HEAD_BIAS, HEAD_WEIGHT, LOGITS, LOSS, TARGETS, cross_entropy, flat_features, linear_head,
};
use priorfit::tensor::contiguous;
use priorfit::update::{Noise, Optimizer};

use super::Bench;
use crate::backbone;
use crate::options::ByteSize;

/// Learning rate: small, so that random weights do not diverge.
const LEARNING_RATE: f32 = 1e-4;
/// 1/(λN) for a thousand examples.
const PRIOR_WEIGHT: f32 = 1e-3;
/// Deviation of a weight under the synthetic prior.
const DEVIATION: f32 = 1e-2;
/// Noise is made once and repeated: a prime number, so that it lines up with no tensor.
const NOISE_LEN: usize = 65_521;

/// A loaded training step or forward pass.
pub struct Bencher {
    /// What runs it.
    pub backend: Box<dyn Backend>,
    /// The images' shape.
    pub input_shape: Vec<usize>,
    /// Number of trainable weights, the head's included.
    pub params: usize,
    /// Whether activations are computed a second time instead of kept.
    pub recomputes: bool,
    plan: PlanId,
    inputs: Vec<(String, Vec<f32>)>,
    /// What is read after a run, by name.
    output: (&'static str, Vec<f32>),
}

impl Bencher {
    /// Reads, imports, plans, and sets all weights and the prior.
    pub fn new(args: &Bench, engine: &Engine) -> Result<Self> {
        let model = backbone::load(&args.model, None)?;
        let mut input_shape = backbone::default_shape(&model)?;
        if let Some(batch) = input_shape.first_mut() {
            *batch = args.batch;
        }
        if let (Some(size), [_, _, height, width]) = (args.image_size, &mut input_shape[..]) {
            [*height, *width] = [size.height, size.width];
        }
        let in_file = |e: Error| e.context(args.model.display().to_string());
        let graph = classifier(&model, &input_shape, args.classes).map_err(in_file)?;
        let (graph, output) = match args.predict {
            true => (graph, (LOGITS, vec![0.0; args.batch * args.classes])),
            false => (with_update(graph, args, &model).map_err(in_file)?, (LOSS, vec![0.0])),
        };
        let mut backend = engine.open()?;
        let (plan, recomputes) = fit(&graph, &*backend, args.memory_cap)?;
        let noise = noise();
        let inputs = plan.inputs().iter();
        let inputs = inputs
            .map(|port| (port.name.clone(), input(&port.name, port.shape.len(), args, &noise)))
            .collect();
        let plan = backend.load(plan)?;
        let params = set_residents(&mut *backend, plan, &model, &noise)?;
        Ok(Bencher { backend, input_shape, params, recomputes, plan, inputs, output })
    }

    /// The plan that is timed.
    pub fn plan(&self) -> &Plan {
        self.backend.plan(self.plan)
    }

    /// Runs once, from inputs on the host to the loss or the logits there.
    pub fn run(&mut self) -> Result<()> {
        self.write()?;
        self.backend.run(self.plan)?;
        let (name, value) = &mut self.output;
        self.backend.read(self.plan, name, value)
    }

    /// Runs once; `observe` is called after each dispatch.
    pub fn observed_run(&mut self, observe: &mut dyn FnMut(usize)) -> Result<()> {
        self.write()?;
        self.backend.run_observed(self.plan, observe)
    }

    fn write(&mut self) -> Result<()> {
        let mut inputs = self.inputs.iter();
        inputs.try_for_each(|(name, value)| self.backend.write(self.plan, name, value))
    }
}

/// The plan of a step, and whether it computes activations again to stay below the cap.
///
/// # Errors
/// When it takes more all the same.
fn fit(graph: &Graph, backend: &dyn Backend, cap: Option<ByteSize>) -> Result<(Plan, bool)> {
    let cap = cap.map_or(usize::MAX, |ByteSize(cap)| cap.try_into().unwrap_or(usize::MAX));
    let plan = Plan::compile(graph)?;
    if cap == usize::MAX || backend.bytes_with(&[&plan])? <= cap {
        return Ok((plan, false));
    }
    let plan = Plan::compile_recomputing(graph)?;
    let bytes = backend.bytes_with(&[&plan])?;
    match bytes <= cap {
        true => Ok((plan, true)),
        false => Err(Error::invalid(format!(
            "the memory cap is {cap} bytes; with activations computed again the step takes {bytes}"
        ))
        .hint("expected a larger cap, or a smaller --batch, --image-size or --prior-rank")),
    }
}

/// The network with a head.
fn classifier(model: &Model, shape: &[usize], classes: usize) -> Result<Graph> {
    let mut graph = model.graph(shape)?;
    let output = graph.outputs().first().map(|&(_, value)| value);
    let output = output.ok_or_else(|| Error::unsupported("the model has no output"))?;
    graph.clear_outputs();
    let features = flat_features(&mut graph, output)?;
    let logits = linear_head(&mut graph, features, classes)?;
    graph.set_output(LOGITS, logits);
    Ok(graph)
}

/// A training step of the network with a head.
fn with_update(mut graph: Graph, args: &Bench, model: &Model) -> Result<Graph> {
    let logits = graph.outputs().iter().find(|(name, _)| name == LOGITS).map(|&(_, value)| value);
    let logits = logits.ok_or_else(|| Error::internal("a classifier has logits"))?;
    graph.clear_outputs();
    let loss = cross_entropy(&mut graph, logits)?;
    graph.set_output(LOSS, loss);
    train_step(graph, &recipe(args, model))
}

fn recipe(args: &Bench, model: &Model) -> Recipe {
    let prior = match (args.no_prior, args.prior_rank) {
        (true, _) => PriorTerm::None,
        (false, 0) => PriorTerm::Diagonal,
        (false, rank) => PriorTerm::LowRank { rank },
    };
    let backbone = model.weights().map(|(name, _)| (name, Group::Backbone, prior));
    let centred = PriorTerm::Isotropic { centred: false };
    let head = [HEAD_WEIGHT, HEAD_BIAS].map(|name| (name, Group::Head, centred));
    let trainable = backbone
        .chain(head)
        .map(|(name, group, prior)| Trainable { name: name.to_string(), group, block: 0, prior })
        .collect();
    Recipe { trainable, method: Optimizer::default().method(), clip: args.clip }
}

fn noise() -> Vec<f32> {
    let mut sequence = Key::new(0, Stream::Probe).at(0);
    (0..NOISE_LEN).map(|_| sequence.normal()).collect()
}

/// What the caller of a step writes.
fn input(name: &str, len: usize, args: &Bench, noise: &[f32]) -> Vec<f32> {
    match name {
        TARGETS => {
            let target = |i: usize| i % args.classes == i / args.classes % args.classes;
            (0..len).map(|i| f32::from(u8::from(target(i)))).collect()
        }
        CLIP => vec![1.0],
        name if [Group::Backbone, Group::Head].iter().any(|group| group.hyper() == name) => {
            let noise = Noise::new(0, 1);
            Optimizer::default().hyper(0, LEARNING_RATE, PRIOR_WEIGHT, noise).to_vec()
        }
        _ => noise.iter().copied().cycle().take(len).collect(),
    }
}

/// Sets the weights and the prior; returns the number of trainable weights.
fn set_residents(
    backend: &mut dyn Backend,
    plan: PlanId,
    model: &Model,
    noise: &[f32],
) -> Result<usize> {
    let residents: Vec<(Leaf, usize)> = backend
        .plan(plan)
        .buffers()
        .iter()
        .filter_map(|buffer| match &buffer.place {
            Place::Resident(leaf) => Some((leaf.clone(), buffer.len)),
            _ => None,
        })
        .collect();
    let mut params = 0;
    for (leaf, len) in residents {
        if leaf.kind == LeafKind::Param {
            params += len;
        }
        if let Some(value) = resident(&leaf, len, model, noise) {
            backend.set(&leaf, &value)?;
        }
    }
    Ok(params)
}

/// The first value of a resident; none where it stays zero.
fn resident(leaf: &Leaf, len: usize, model: &Model, noise: &[f32]) -> Option<Vec<f32>> {
    let name = leaf.name.as_str();
    if leaf.kind == LeafKind::Param {
        return model.weight(name).map(|weight| contiguous(weight).into_owned());
    }
    match name.split_once('/') {
        Some(("prior.capacitance_inverse", _)) => {
            let rank = (1..=len).find(|rank| rank * rank >= len).unwrap_or(1);
            Some((0..len).map(|i| f32::from(u8::from(i / rank == i % rank))).collect())
        }
        Some(("prior.mean", param)) => model.weight(param).map(|w| contiguous(w).into_owned()),
        Some(("prior.precision", _)) => Some(vec![1.0 / (DEVIATION * DEVIATION); len]),
        Some(("prior.factor", _)) => {
            Some(noise.iter().cycle().take(len).map(|x| DEVIATION * x).collect())
        }
        _ => None,
    }
}
