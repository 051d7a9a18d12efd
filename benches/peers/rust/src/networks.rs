//! The networks as lists of blocks, which each library builds, and the numbers they start from.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    Relu6,
}

/// A convolution without bias, with BatchNorm and an activation after it.
#[derive(Clone, Debug)]
pub struct Conv {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub groups: usize,
    pub activation: Activation,
}

impl Conv {
    fn new(inputs: usize, outputs: usize, kernel: usize, activation: Activation) -> Self {
        Self { inputs, outputs, kernel, stride: 1, groups: 1, activation }
    }

    fn strided(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    fn depthwise(channels: usize) -> Self {
        Self { groups: channels, ..Self::new(channels, channels, 3, Activation::Relu6) }
    }

    pub fn padding(&self) -> usize {
        self.kernel / 2
    }

    pub fn shape(&self) -> [usize; 4] {
        [self.outputs, self.inputs / self.groups, self.kernel, self.kernel]
    }

    /// Random weights of a scale that keeps that of what goes through.
    pub fn weights(&self, numbers: &mut Numbers) -> Vec<f32> {
        let [outputs, inputs, height, width] = self.shape();
        let gain = if self.activation == Activation::None { 1.0 } else { 2.0 };
        let spread = (gain / (inputs * height * width) as f64).sqrt();
        numbers.normal(outputs * inputs * height * width, spread)
    }
}

/// What is added to the output of a block's path.
pub enum Shortcut {
    Nothing,
    Input,
    Projection(Conv),
}

pub struct Block {
    pub path: Vec<Conv>,
    pub shortcut: Shortcut,
    /// Of the sum.
    pub activation: Activation,
}

impl Block {
    fn single(conv: Conv) -> Self {
        Self { path: vec![conv], shortcut: Shortcut::Nothing, activation: Activation::None }
    }
}

/// A network without its classifier: its output is the mean over positions of the last block's.
pub struct Network {
    pub stem: Conv,
    /// Whether a 3x3 maximum with stride 2 and padding 1 comes after the stem.
    pub max_pool: bool,
    pub blocks: Vec<Block>,
    pub features: usize,
}

pub fn network(name: &str) -> Result<Network, String> {
    match name {
        "resnet18" => Ok(resnet18()),
        "mobilenetv2" => Ok(mobilenetv2()),
        _ => Err(format!("there is no network {name} here")),
    }
}

fn resnet18() -> Network {
    let mut blocks = Vec::new();
    let mut inputs = 64;
    for (outputs, stride) in [(64, 1), (128, 2), (256, 2), (512, 2)] {
        blocks.push(basic_block(inputs, outputs, stride));
        blocks.push(basic_block(outputs, outputs, 1));
        inputs = outputs;
    }
    let stem = Conv::new(3, 64, 7, Activation::Relu).strided(2);
    Network { stem, max_pool: true, blocks, features: 512 }
}

fn basic_block(inputs: usize, outputs: usize, stride: usize) -> Block {
    let first = Conv::new(inputs, outputs, 3, Activation::Relu).strided(stride);
    let second = Conv::new(outputs, outputs, 3, Activation::None);
    let shortcut = if stride == 1 && inputs == outputs {
        Shortcut::Input
    } else {
        Shortcut::Projection(Conv::new(inputs, outputs, 1, Activation::None).strided(stride))
    };
    Block { path: vec![first, second], shortcut, activation: Activation::Relu }
}

fn mobilenetv2() -> Network {
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    let mut blocks = Vec::new();
    let mut inputs = 32;
    for (expansion, outputs, count, stride) in stages {
        for index in 0..count {
            let stride = if index == 0 { stride } else { 1 };
            blocks.push(inverted_residual(inputs, expansion, outputs, stride));
            inputs = outputs;
        }
    }
    blocks.push(Block::single(Conv::new(inputs, 1280, 1, Activation::Relu6)));
    let stem = Conv::new(3, 32, 3, Activation::Relu6).strided(2);
    Network { stem, max_pool: false, blocks, features: 1280 }
}

fn inverted_residual(inputs: usize, expansion: usize, outputs: usize, stride: usize) -> Block {
    let inner = inputs * expansion;
    let mut path = Vec::new();
    if expansion > 1 {
        path.push(Conv::new(inputs, inner, 1, Activation::Relu6));
    }
    path.push(Conv::depthwise(inner).strided(stride));
    path.push(Conv::new(inner, outputs, 1, Activation::None));
    let same = stride == 1 && inputs == outputs;
    let shortcut = if same { Shortcut::Input } else { Shortcut::Nothing };
    Block { path, shortcut, activation: Activation::None }
}

/// Pseudo-random numbers, the same for each library: so their losses can be compared.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Above 0, at most 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) + 1) as f64 / (1u64 << 31) as f64
    }

    pub fn normal(&mut self, count: usize, spread: f64) -> Vec<f32> {
        let mut one = || {
            let length = (-2.0 * self.uniform().ln()).sqrt();
            (length * (std::f64::consts::TAU * self.uniform()).cos() * spread) as f32
        };
        (0..count).map(|_| one()).collect()
    }

    pub fn labels(&mut self, count: usize, classes: usize) -> Vec<u32> {
        let mut one = || (self.uniform() * classes as f64) as u32 % classes as u32;
        (0..count).map(|_| one()).collect()
    }
}
