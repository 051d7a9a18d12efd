//! Deep networks of the usual kinds, small enough for tests: forward graphs with a loss.

use priorfit::graph::{Conv2d, Graph, MatMul, Pool2d, Unary, ValueId};
use priorfit::graph::{LeafKind, PriorTerm};
use priorfit::step::{Group, Trainable};
use priorfit::task::{LOSS, cross_entropy, flat_features, linear_head};

const CLASSES: usize = 3;

/// All parameters of a graph, trained under one prior.
pub fn trainable(graph: &Graph, prior: PriorTerm) -> Vec<Trainable> {
    let params = graph.leaves().filter(|(leaf, _)| leaf.kind == LeafKind::Param);
    let trainable =
        |name: &str| Trainable { name: name.to_string(), group: Group::Backbone, block: 0, prior };
    params.map(|(leaf, _)| trainable(&leaf.name)).collect()
}

fn finish(mut g: Graph, features: ValueId) -> Graph {
    let features = flat_features(&mut g, features).expect("features");
    let logits = linear_head(&mut g, features, CLASSES).expect("a head");
    let loss = cross_entropy(&mut g, logits).expect("a loss");
    g.set_output(LOSS, loss);
    g
}

/// x · scale + shift over the axis `axis`.
fn affine(g: &mut Graph, x: ValueId, name: &str, axis: usize) -> ValueId {
    let shape = g.shape(x).clone();
    let mut own = vec![1; shape.ndim()];
    own[axis] = shape[axis];
    let [scale, shift] = ["scale", "shift"].map(|part| {
        let leaf = g.param(&format!("{name}.{part}"), &[shape[axis]].into()).expect("a leaf");
        let leaf = g.reshape(leaf, &own.as_slice().into()).expect("a node");
        g.broadcast(leaf, &shape).expect("a node")
    });
    let scaled = g.mul(x, scale).expect("a node");
    g.add(scaled, shift).expect("a node")
}

/// Convolution and normalisation by fixed statistics.
fn conv(
    g: &mut Graph,
    x: ValueId,
    name: &str,
    out: usize,
    kernel: usize,
    stride: usize,
) -> ValueId {
    let [batch, channels, height, width] = g.shape(x)[..] else { panic!("an image") };
    let pad = kernel / 2;
    let extent = |input: usize| (input + 2 * pad - kernel) / stride + 1;
    let geometry = Conv2d {
        batch,
        in_channels: channels,
        out_channels: out,
        groups: 1,
        input: [height, width],
        output: [extent(height), extent(width)],
        kernel: [kernel; 2],
        stride: [stride; 2],
        pad: [pad; 2],
        dilation: [1; 2],
    };
    let w = g.param(&format!("{name}.weight"), &geometry.filter_shape()).expect("a leaf");
    let y = g.conv2d(x, w, geometry).expect("a node");
    affine(g, y, name, 1)
}

/// ResNet-18 (He et al. 2016) with a quarter of its channels, on images of 64 by 64.
pub fn resnet18(batch: usize) -> Graph {
    let mut g = Graph::new();
    let x = g.input("image", &[batch, 3, 64, 64].into()).expect("a leaf");
    let x = conv(&mut g, x, "stem", 16, 7, 2);
    let x = g.unary(Unary::Relu, x).expect("a node");
    let pool = Pool2d {
        batch,
        channels: 16,
        input: [32; 2],
        output: [16; 2],
        kernel: [3; 2],
        stride: [2; 2],
        pad: [1; 2],
        dilation: [1; 2],
    };
    let mut x = g.max_pool(x, pool).expect("a node");
    for (stage, channels) in [16, 32, 64, 128].into_iter().enumerate() {
        for block in 0..2 {
            let name = format!("layer{stage}.{block}");
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let y = conv(&mut g, x, &format!("{name}.conv1"), channels, 3, stride);
            let y = g.unary(Unary::Relu, y).expect("a node");
            let y = conv(&mut g, y, &format!("{name}.conv2"), channels, 3, 1);
            if stride > 1 {
                x = conv(&mut g, x, &format!("{name}.downsample"), channels, 1, stride);
            }
            x = g.add(x, y).expect("a node");
            x = g.unary(Unary::Relu, x).expect("a node");
        }
    }
    finish(g, x)
}

/// x Wᵀ + b of `x: [B, T, D]`.
fn dense(g: &mut Graph, x: ValueId, name: &str, out: usize) -> ValueId {
    let [batch, tokens, width] = g.shape(x)[..] else { panic!("tokens") };
    let w = g.param(&format!("{name}.weight"), &[out, width].into()).expect("a leaf");
    let flat = g.reshape(x, &[batch * tokens, width].into()).expect("a node");
    let how = MatMul { transpose_a: false, transpose_b: true };
    let y = g.matmul(flat, w, how).expect("a node");
    let b = g.param(&format!("{name}.bias"), &[1, out].into()).expect("a leaf");
    let b = g.broadcast(b, &[batch * tokens, out].into()).expect("a node");
    let y = g.add(y, b).expect("a node");
    g.reshape(y, &[batch, tokens, out].into()).expect("a node")
}

fn layer_norm(g: &mut Graph, x: ValueId, name: &str) -> ValueId {
    let shape = g.shape(x).clone();
    let mean = g.mean(x, &[2]).expect("a node");
    let mean = g.broadcast(mean, &shape).expect("a node");
    let centred = g.sub(x, mean).expect("a node");
    let square = g.mul(centred, centred).expect("a node");
    let variance = g.mean(square, &[2]).expect("a node");
    let variance = g.shift(variance, 1e-5).expect("a node");
    let scale = g.unary(Unary::Rsqrt, variance).expect("a node");
    let scale = g.broadcast(scale, &shape).expect("a node");
    let normal = g.mul(centred, scale).expect("a node");
    affine(g, normal, name, 2)
}

/// softmax(Q Kᵀ/√D) V over `heads` heads.
fn attention(g: &mut Graph, x: ValueId, name: &str, heads: usize) -> ValueId {
    let [batch, tokens, width] = g.shape(x)[..] else { panic!("tokens") };
    let split = [batch, tokens, heads, width / heads].into();
    let [q, k, v] = ["q", "k", "v"].map(|part| {
        let y = dense(g, x, &format!("{name}.{part}"), width);
        let y = g.reshape(y, &split).expect("a node");
        g.transpose(y, &[0, 2, 1, 3]).expect("a node")
    });
    let how = MatMul { transpose_a: false, transpose_b: true };
    let scores = g.matmul(q, k, how).expect("a node");
    let scores = g.scale(scores, ((width / heads) as f32).powf(-0.5)).expect("a node");
    let weights = g.softmax(scores).expect("a node");
    let y = g.matmul(weights, v, MatMul::default()).expect("a node");
    let y = g.transpose(y, &[0, 2, 1, 3]).expect("a node");
    let y = g.reshape(y, &[batch, tokens, width].into()).expect("a node");
    dense(g, y, &format!("{name}.out"), width)
}

/// x · (1 + erf(x/√2))/2
fn gelu(g: &mut Graph, x: ValueId) -> ValueId {
    let y = g.scale(x, std::f32::consts::FRAC_1_SQRT_2).expect("a node");
    let y = g.unary(Unary::Erf, y).expect("a node");
    let y = g.shift(y, 1.0).expect("a node");
    let y = g.mul(x, y).expect("a node");
    g.scale(y, 0.5).expect("a node")
}

/// A vision transformer (Dosovitskiy et al. 2021) of twelve blocks of width 48, on 64 tokens.
pub fn vit(batch: usize) -> Graph {
    const WIDTH: usize = 48;
    let mut g = Graph::new();
    let x = g.input("image", &[batch, 64, 12].into()).expect("a leaf");
    let mut x = dense(&mut g, x, "patches", WIDTH);
    for block in 0..12 {
        let name = format!("block{block}");
        let y = layer_norm(&mut g, x, &format!("{name}.norm1"));
        let y = attention(&mut g, y, &format!("{name}.attention"), 3);
        x = g.add(x, y).expect("a node");
        let y = layer_norm(&mut g, x, &format!("{name}.norm2"));
        let y = dense(&mut g, y, &format!("{name}.mlp1"), 4 * WIDTH);
        let y = gelu(&mut g, y);
        let y = dense(&mut g, y, &format!("{name}.mlp2"), WIDTH);
        x = g.add(x, y).expect("a node");
    }
    let x = layer_norm(&mut g, x, "norm");
    finish(g, x)
}
