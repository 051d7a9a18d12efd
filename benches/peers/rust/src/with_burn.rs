//! The networks in Burn.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::{relu, relu6};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::networks::{Activation, Block, Conv, Network, Numbers, Shortcut};
use crate::{EPSILON, LEARNING_RATE, MOMENTUM, Task, Trainer};

/// BatchNorm with stored statistics, for which Burn's own takes four operations on the whole tensor
/// where there are two here.
#[derive(Module, Debug)]
struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    mean: Tensor<1>,
    variance: Tensor<1>,
}

#[derive(Module, Debug)]
struct Unit {
    conv: Conv2d,
    norm: Norm,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module, Debug)]
struct Residual {
    path: Vec<Unit>,
    projection: Option<Unit>,
    #[module(skip)]
    adds_input: bool,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module, Debug)]
struct Model {
    stem: Unit,
    max_pool: Option<MaxPool2d>,
    blocks: Vec<Residual>,
    head: Linear,
}

impl Norm {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            gamma: Param::from_tensor(Tensor::ones([channels], device)),
            beta: Param::from_tensor(Tensor::zeros([channels], device)),
            mean: Tensor::zeros([channels], device),
            variance: Tensor::ones([channels], device),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let scale = self.gamma.val() / (self.variance.clone() + EPSILON).sqrt();
        let shift = self.beta.val() - self.mean.clone() * scale.clone();
        let shape = [1, input.dims()[1], 1, 1];
        input * scale.reshape(shape) + shift.reshape(shape)
    }
}

impl Unit {
    fn new(conv: &Conv, numbers: &mut Numbers, device: &Device) -> Self {
        let pad = conv.padding();
        let mut layer = Conv2dConfig::new([conv.inputs, conv.outputs], [conv.kernel; 2])
            .with_stride([conv.stride; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_groups(conv.groups)
            .with_bias(false)
            .init(device);
        let weights = TensorData::new(conv.weights(numbers), conv.shape());
        layer.weight = Param::from_data(weights, device);
        let norm = Norm::new(conv.outputs, device);
        Self { conv: layer, norm, activation: conv.activation }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        activated(self.norm.forward(self.conv.forward(input)), self.activation)
    }
}

fn activated(input: Tensor<4>, activation: Activation) -> Tensor<4> {
    match activation {
        Activation::None => input,
        Activation::Relu => relu(input),
        Activation::Relu6 => relu6(input),
    }
}

impl Residual {
    fn new(block: &Block, numbers: &mut Numbers, device: &Device) -> Self {
        let path = block.path.iter().map(|conv| Unit::new(conv, numbers, device)).collect();
        let projection = match &block.shortcut {
            Shortcut::Projection(conv) => Some(Unit::new(conv, numbers, device)),
            _ => None,
        };
        let adds_input = matches!(block.shortcut, Shortcut::Input);
        Self { path, projection, adds_input, activation: block.activation }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.projection {
            Some(unit) => Some(unit.forward(input.clone())),
            None => self.adds_input.then(|| input.clone()),
        };
        let output = self.path.iter().fold(input, |output, unit| unit.forward(output));
        let sum = match shortcut {
            Some(shortcut) => output + shortcut,
            None => output,
        };
        activated(sum, self.activation)
    }
}

impl Model {
    fn new(network: &Network, classes: usize, numbers: &mut Numbers, device: &Device) -> Self {
        let stem = Unit::new(&network.stem, numbers, device);
        let pool = MaxPool2dConfig::new([3, 3])
            .with_strides([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        let max_pool = network.max_pool.then(|| pool.init());
        let blocks = &network.blocks;
        let blocks = blocks.iter().map(|block| Residual::new(block, numbers, device)).collect();
        Self { stem, max_pool, blocks, head: head(network.features, classes, numbers, device) }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut output = self.stem.forward(images);
        if let Some(pool) = &self.max_pool {
            output = pool.forward(output);
        }
        let output = self.blocks.iter().fold(output, |output, block| block.forward(output));
        let [batch, features, _, _] = output.dims();
        self.head.forward(output.mean_dim(3).mean_dim(2).reshape([batch, features]))
    }
}

fn head(features: usize, classes: usize, numbers: &mut Numbers, device: &Device) -> Linear {
    let mut head = LinearConfig::new(features, classes).init(device);
    let weights = numbers.normal(features * classes, (features as f64).powf(-0.5));
    head.weight = Param::from_data(TensorData::new(weights, [features, classes]), device);
    head.bias = Some(Param::from_tensor(Tensor::zeros([classes], device)));
    head
}

pub struct Run {
    /// Taken and put back by a step.
    model: Option<Model>,
    optimiser: ModuleOptimizer,
    criterion: CrossEntropyLoss,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
    params: usize,
}

pub fn trainer(backend: &str, task: &Task) -> Result<Box<dyn Trainer>, String> {
    let device = device(backend)?.autodiff();
    let numbers = &mut Numbers::new(task.seed);
    let model = Model::new(&task.network, task.classes, numbers, &device);
    let momentum = MomentumConfig::new().with_momentum(MOMENTUM).with_dampening(0.0);
    let optimiser = SgdConfig::new().with_momentum(Some(momentum.with_nesterov(true))).init();
    let images = TensorData::new(task.images(numbers), task.shape());
    let labels = TensorData::new(numbers.labels(task.batch, task.classes), [task.batch]);
    Ok(Box::new(Run {
        params: model.num_params() - model.head.num_params(),
        model: Some(model),
        optimiser,
        criterion: CrossEntropyLossConfig::new().init(&device),
        images: Tensor::from_data(images, &device),
        labels: Tensor::from_data(labels, &device),
    }))
}

#[allow(deprecated)] // Burn advises flex in place of ndarray.
fn device(backend: &str) -> Result<Device, String> {
    match backend {
        "flex" => Ok(Device::flex()),
        "ndarray" => Ok(Device::ndarray()),
        _ => Err(format!("Burn is built with the back ends flex and ndarray here, not {backend}")),
    }
}

impl Trainer for Run {
    fn params(&self) -> usize {
        self.params
    }

    fn step(&mut self) -> Result<f32, String> {
        let model = self.model.take().ok_or("a step before this one failed")?;
        let output = model.forward(self.images.clone());
        let loss = self.criterion.forward(output, self.labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimiser.step(LEARNING_RATE, model, gradients));
        Ok(loss.into_scalar())
    }

    fn forward(&self) -> Result<(), String> {
        let model = self.model.as_ref().ok_or("a step before this one failed")?.valid();
        model.forward(self.images.clone().inner()).into_data();
        Ok(())
    }
}
