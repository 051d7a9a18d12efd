//! The networks in candle.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::loss::cross_entropy;

use crate::networks::{Activation, Block, Conv, Network, Numbers, Shortcut};
use crate::{EPSILON, LEARNING_RATE, MOMENTUM, Task, Trainer};

/// Makes variables and keeps a list of them.
struct Variables {
    numbers: Numbers,
    device: Device,
    all: Vec<Var>,
}

impl Variables {
    fn kept(&mut self, variable: Var) -> Var {
        self.all.push(variable.clone());
        variable
    }

    fn filter(&mut self, conv: &Conv) -> Result<Var> {
        let weights = conv.weights(&mut self.numbers);
        let variable = Var::from_vec(weights, &conv.shape(), &self.device)?;
        Ok(self.kept(variable))
    }

    fn zeros(&mut self, count: usize) -> Result<Var> {
        let variable = Var::zeros(count, DType::F32, &self.device)?;
        Ok(self.kept(variable))
    }

    fn ones(&mut self, count: usize) -> Result<Var> {
        let variable = Var::ones(count, DType::F32, &self.device)?;
        Ok(self.kept(variable))
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Result<Var> {
        let weights = self.numbers.normal(rows * columns, (rows as f64).powf(-0.5));
        let variable = Var::from_vec(weights, (rows, columns), &self.device)?;
        Ok(self.kept(variable))
    }

    fn count(&self) -> usize {
        self.all.iter().map(|variable| variable.elem_count()).sum()
    }
}

/// The variable's value, with or without a record of operations on it for a backward pass.
fn value(variable: &Var, recorded: bool) -> Tensor {
    if recorded { variable.as_tensor().clone() } else { variable.as_detached_tensor() }
}

struct Unit {
    conv: Conv,
    filter: Var,
    gamma: Var,
    beta: Var,
    mean: Tensor,
    variance: Tensor,
}

impl Unit {
    fn new(conv: &Conv, variables: &mut Variables) -> Result<Self> {
        Ok(Self {
            conv: conv.clone(),
            filter: variables.filter(conv)?,
            gamma: variables.ones(conv.outputs)?,
            beta: variables.zeros(conv.outputs)?,
            mean: Tensor::zeros(conv.outputs, DType::F32, &variables.device)?,
            variance: Tensor::ones(conv.outputs, DType::F32, &variables.device)?,
        })
    }

    fn forward(&self, input: &Tensor, recorded: bool) -> Result<Tensor> {
        let Conv { stride, groups, activation, .. } = self.conv;
        let filter = value(&self.filter, recorded);
        let output = input.conv2d(&filter, self.conv.padding(), stride, 1, groups)?;
        activated(&self.with_stored_statistics(&output, recorded)?, activation)
    }

    /// BatchNorm with stored statistics, for which candle's own takes four operations on the whole
    /// tensor where there are two here.
    fn with_stored_statistics(&self, input: &Tensor, recorded: bool) -> Result<Tensor> {
        let deviation = (&self.variance + EPSILON)?.sqrt()?;
        let scale = (value(&self.gamma, recorded) / deviation)?;
        let shift = (value(&self.beta, recorded) - (&self.mean * &scale)?)?;
        let shape = (1, self.conv.outputs, 1, 1);
        input.broadcast_mul(&scale.reshape(shape)?)?.broadcast_add(&shift.reshape(shape)?)
    }
}

fn activated(input: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(input.clone()),
        Activation::Relu => input.relu(),
        Activation::Relu6 => input.clamp(0f32, 6f32),
    }
}

/// The 3x3 maximum with stride 2 and padding 1 of what is not negative. candle's own pooling has
/// neither padding nor a backward pass for windows that overlap: so one dimension after the other.
fn max_pool(input: &Tensor) -> Result<Tensor> {
    half_maximum(&half_maximum(input, 3)?, 2)
}

/// Along one dimension of even size, the maximum of each element with even index and of its
/// neighbours. Zeros are as good as a missing neighbour, since no element is below.
fn half_maximum(input: &Tensor, dim: usize) -> Result<Tensor> {
    let mut halves = input.dims().to_vec();
    if halves[dim] % 2 == 1 {
        candle_core::bail!("a maximum with stride 2 over {} elements", halves[dim]);
    }
    halves[dim] /= 2;
    let count = halves[dim];
    halves.insert(dim + 1, 2);
    let pairs = input.reshape(halves)?;
    let even = pairs.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)?;
    let odd = pairs.narrow(dim + 1, 1, 1)?.squeeze(dim + 1)?;
    let odd_before = odd.narrow(dim, 0, count - 1)?.pad_with_zeros(dim, 1, 0)?;
    even.maximum(&odd)?.maximum(&odd_before)
}

struct Residual {
    path: Vec<Unit>,
    projection: Option<Unit>,
    adds_input: bool,
    activation: Activation,
}

impl Residual {
    fn new(block: &Block, variables: &mut Variables) -> Result<Self> {
        let path = block.path.iter().map(|conv| Unit::new(conv, variables));
        let path = path.collect::<Result<_>>()?;
        let projection = match &block.shortcut {
            Shortcut::Projection(conv) => Some(Unit::new(conv, variables)?),
            _ => None,
        };
        let adds_input = matches!(block.shortcut, Shortcut::Input);
        Ok(Self { path, projection, adds_input, activation: block.activation })
    }

    fn forward(&self, input: &Tensor, recorded: bool) -> Result<Tensor> {
        let mut output = input.clone();
        for unit in &self.path {
            output = unit.forward(&output, recorded)?;
        }
        if let Some(projection) = &self.projection {
            output = (output + projection.forward(input, recorded)?)?;
        } else if self.adds_input {
            output = (output + input)?;
        }
        activated(&output, self.activation)
    }
}

struct Model {
    stem: Unit,
    max_pool: bool,
    blocks: Vec<Residual>,
    head: [Var; 2],
}

impl Model {
    fn forward(&self, images: &Tensor, recorded: bool) -> Result<Tensor> {
        let mut output = self.stem.forward(images, recorded)?;
        if self.max_pool {
            output = max_pool(&output)?;
        }
        for block in &self.blocks {
            output = block.forward(&output, recorded)?;
        }
        let [weight, bias] = &self.head;
        let features = output.mean((2, 3))?;
        features.matmul(&value(weight, recorded))?.broadcast_add(&value(bias, recorded))
    }
}

/// SGD with Nesterov momentum, which candle does not have.
struct Sgd {
    variables: Vec<Var>,
    velocities: Vec<Tensor>,
}

impl Sgd {
    fn new(variables: Vec<Var>) -> Result<Self> {
        let velocities = variables.iter().map(|variable| variable.zeros_like());
        Ok(Self { velocities: velocities.collect::<Result<_>>()?, variables })
    }

    fn step(&mut self, loss: &Tensor) -> Result<()> {
        let gradients = loss.backward()?;
        for (variable, velocity) in self.variables.iter().zip(&mut self.velocities) {
            let Some(gradient) = gradients.get(variable) else {
                candle_core::bail!("a variable without a gradient");
            };
            // A gradient is recorded too: without this each velocity would keep all steps' records.
            let gradient = gradient.detach();
            *velocity = ((&*velocity * MOMENTUM)? + &gradient)?;
            let change = ((&gradient + (&*velocity * MOMENTUM)?)? * LEARNING_RATE)?;
            variable.set(&(variable.as_detached_tensor() - change)?)?;
        }
        Ok(())
    }
}

pub struct Run {
    model: Model,
    optimiser: Sgd,
    images: Tensor,
    labels: Tensor,
    params: usize,
}

pub fn trainer(backend: &str, task: &Task) -> std::result::Result<Box<dyn Trainer>, String> {
    if backend != "cpu" {
        return Err(format!("candle has the back end cpu here, not {backend}"));
    }
    let run = Run::new(task).map_err(|error| error.to_string())?;
    Ok(Box::new(run))
}

impl Run {
    fn new(task: &Task) -> Result<Self> {
        let Network { stem, max_pool, blocks, features } = &task.network;
        let numbers = Numbers::new(task.seed);
        let mut variables = Variables { numbers, device: Device::Cpu, all: Vec::new() };
        let stem = Unit::new(stem, &mut variables)?;
        let blocks = blocks.iter().map(|block| Residual::new(block, &mut variables));
        let blocks = blocks.collect::<Result<_>>()?;
        let params = variables.count();
        let head = [variables.matrix(*features, task.classes)?, variables.zeros(task.classes)?];
        let Variables { mut numbers, device, all } = variables;
        let labels = |numbers: &mut Numbers| numbers.labels(task.batch, task.classes);
        Ok(Self {
            model: Model { stem, max_pool: *max_pool, blocks, head },
            optimiser: Sgd::new(all)?,
            images: Tensor::from_vec(task.images(&mut numbers), &task.shape(), &device)?,
            labels: Tensor::from_vec(labels(&mut numbers), task.batch, &device)?,
            params,
        })
    }

    fn loss_of_step(&mut self) -> Result<f32> {
        let loss = cross_entropy(&self.model.forward(&self.images, true)?, &self.labels)?;
        self.optimiser.step(&loss)?;
        loss.to_scalar()
    }
}

impl Trainer for Run {
    fn params(&self) -> usize {
        self.params
    }

    fn step(&mut self) -> std::result::Result<f32, String> {
        self.loss_of_step().map_err(|error| error.to_string())
    }

    fn forward(&self) -> std::result::Result<(), String> {
        self.model.forward(&self.images, false).map_err(|error| error.to_string())?;
        Ok(())
    }
}
