//! The vector-Jacobian product of every op: one short function each, its formula above it.
//!
//! `x` is an operand, `y` the result, `ct` the cotangent of `y`; `x̄` stands for the cotangent of
//! `x`. A rule prefers to reuse `y` over `x` where both would do: `y` is usually kept for a
//! neighbour.

use crate::error::{Error, Result};
use crate::graph::{Binary, Graph, MatMul, Node, Op, PadAxis, Reduction, Slice, Unary, ValueId};
use crate::tensor::Shape;

/// One cotangent, or none, for each operand.
type Cotangents = Result<Vec<Option<ValueId>>>;

/// The cotangents of `node`'s operands; those not `wanted` may be left out.
pub(super) fn vjp(g: &mut Graph, node: &Node, ct: ValueId, wanted: &[bool]) -> Cotangents {
    let x = node.inputs.first().copied().unwrap_or(ct);
    let y = node.outputs[0];
    match &node.op {
        Op::Leaf(_) | Op::Const(_) => Ok(vec![]),
        Op::Unary(f) => Ok(vec![unary(g, *f, x, y, ct)?]),
        Op::Binary(f) => binary(g, *f, [x, node.inputs[1]], y, ct, wanted),
        Op::Select => select(g, x, ct),
        Op::Broadcast(_) => one(broadcast(g, x, ct)),
        Op::Reshape(_) => one(reshape(g, x, ct)),
        Op::Transpose(perm) => one(transpose(g, perm, ct)),
        Op::Slice(slice) => one(slice_vjp(g, slice, x, ct)),
        Op::Pad(axes) => one(pad(g, axes, x, ct)),
        Op::Concat(axis) => concat(g, *axis, &node.inputs, ct),
        Op::Gather(i) => {
            let extent = g.shape(x)[i.axis];
            one(g.scatter_add(ct, i.clone(), extent))
        }
        Op::ScatterAdd(i, _) => one(g.gather(ct, i.clone())),
        Op::Reduce(Reduction::Sum, _) => one(sum(g, x, ct)),
        Op::Reduce(Reduction::Max, axes) => one(reduce_max(g, axes, x, y, ct)),
        Op::MatMul(how) => matmul(g, *how, [x, node.inputs[1]], ct, wanted),
        Op::Conv2d(_) | Op::Conv2dInputGrad(_) | Op::Conv2dFilterGrad(_) => {
            convolution(g, &node.op, [x, node.inputs[1]], ct, wanted)
        }
        Op::MaxPool(geometry) => one(g.max_pool_grad(x, ct, *geometry)),
        Op::SumPool(geometry) => one(g.sum_pool_grad(ct, *geometry)),
        Op::SumPoolGrad(geometry) => one(g.sum_pool(ct, *geometry)),
        Op::Softmax => one(softmax(g, y, ct)),
        Op::LogSoftmax => one(log_softmax(g, y, ct)),
        Op::MaxPoolGrad(_) | Op::Update(_) => {
            Err(Error::unsupported(format!("{} cannot be differentiated", node.op.name())))
        }
    }
}

fn one(ct: Result<ValueId>) -> Cotangents {
    Ok(vec![Some(ct?)])
}

fn zeros_like(g: &mut Graph, value: ValueId) -> Result<ValueId> {
    let shape = g.shape(value).clone();
    g.splat(0.0, &shape)
}

/// `ct` where `a < b`, else 0.
fn where_less(g: &mut Graph, a: ValueId, b: ValueId, ct: ValueId) -> Result<ValueId> {
    let mask = g.binary(Binary::Less, a, b)?;
    let zero = zeros_like(g, ct)?;
    g.select(mask, ct, zero)
}

/// x̄ = f'(x) ct
fn unary(g: &mut Graph, f: Unary, x: ValueId, y: ValueId, ct: ValueId) -> Result<Option<ValueId>> {
    let ct_x = match f {
        // (-x)' = -1
        Unary::Neg => g.unary(Unary::Neg, ct)?,
        // |x|' = sign x
        Unary::Abs => {
            let sign = g.unary(Unary::Sign, x)?;
            g.mul(ct, sign)?
        }
        // sign' = 0
        Unary::Sign => return Ok(None),
        // (eˣ)' = y
        Unary::Exp => g.mul(ct, y)?,
        // (ln x)' = 1/x
        Unary::Log => g.div(ct, x)?,
        // (√x)' = 1/(2y)
        Unary::Sqrt => {
            let half = g.scale(ct, 0.5)?;
            g.div(half, y)?
        }
        // (1/√x)' = -y³/2
        Unary::Rsqrt => {
            let y2 = g.mul(y, y)?;
            let y3 = g.mul(y2, y)?;
            let slope = g.scale(y3, -0.5)?;
            g.mul(ct, slope)?
        }
        // (1/x)' = -y²
        Unary::Recip => {
            let y2 = g.mul(y, y)?;
            let product = g.mul(ct, y2)?;
            g.unary(Unary::Neg, product)?
        }
        // tanh' = 1 - y²
        Unary::Tanh => {
            let y2 = g.mul(y, y)?;
            let product = g.mul(ct, y2)?;
            g.sub(ct, product)?
        }
        // erf' = 2/√π exp(-x²)
        Unary::Erf => {
            let x2 = g.mul(x, x)?;
            let minus = g.unary(Unary::Neg, x2)?;
            let bell = g.unary(Unary::Exp, minus)?;
            let slope = g.scale(bell, std::f32::consts::FRAC_2_SQRT_PI)?;
            g.mul(ct, slope)?
        }
        // σ' = y (1 - y)
        Unary::Sigmoid => {
            let y2 = g.mul(y, y)?;
            let slope = g.sub(y, y2)?;
            g.mul(ct, slope)?
        }
        Unary::Gelu => gelu_slope(g, x, ct)?,
        Unary::GeluSlope => gelu_curvature(g, x, ct)?,
        // relu' = [y > 0]
        Unary::Relu => {
            let zero = zeros_like(g, y)?;
            where_less(g, zero, y, ct)?
        }
        Unary::Clamp(lo, hi) => clamp(g, lo, hi, y, ct)?,
        // (xᵖ)' = p xᵖ⁻¹
        Unary::Powf(p) => {
            let power = g.unary(Unary::Powf(p - 1.0), x)?;
            let slope = g.scale(power, p)?;
            g.mul(ct, slope)?
        }
    };
    Ok(Some(ct_x))
}

/// (x Φ)' = Φ + x φ
fn gelu_slope(g: &mut Graph, x: ValueId, ct: ValueId) -> Result<ValueId> {
    let slope = g.unary(Unary::GeluSlope, x)?;
    g.mul(ct, slope)
}

/// (Φ + x φ)' = (2 - x²) φ, where φ(x) = e^(-x²/2) / √2π
fn gelu_curvature(g: &mut Graph, x: ValueId, ct: ValueId) -> Result<ValueId> {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let x2 = g.mul(x, x)?;
    let exponent = g.scale(x2, -0.5)?;
    let bell = g.unary(Unary::Exp, exponent)?;
    let density = g.scale(bell, DENSITY_AT_0)?;
    let minus = g.unary(Unary::Neg, x2)?;
    let factor = g.shift(minus, 2.0)?;
    let curvature = g.mul(factor, density)?;
    g.mul(ct, curvature)
}

/// clamp' = [lo < y < hi]
fn clamp(g: &mut Graph, lo: f32, hi: f32, y: ValueId, ct: ValueId) -> Result<ValueId> {
    let shape = g.shape(y).clone();
    let mut ct_x = ct;
    if lo > f32::NEG_INFINITY {
        let lo = g.splat(lo, &shape)?;
        ct_x = where_less(g, lo, y, ct_x)?;
    }
    if hi < f32::INFINITY {
        let hi = g.splat(hi, &shape)?;
        ct_x = where_less(g, y, hi, ct_x)?;
    }
    Ok(ct_x)
}

fn binary(
    g: &mut Graph,
    f: Binary,
    [a, b]: [ValueId; 2],
    y: ValueId,
    ct: ValueId,
    wanted: &[bool],
) -> Cotangents {
    let want = |operand: usize| wanted[operand].then_some(());
    let (mut ct_a, mut ct_b) = (None, None);
    match f {
        // ā = ct, b̄ = ct
        Binary::Add => (ct_a, ct_b) = (Some(ct), Some(ct)),
        // ā = ct, b̄ = -ct
        Binary::Sub => {
            ct_a = Some(ct);
            if want(1).is_some() {
                ct_b = Some(g.unary(Unary::Neg, ct)?);
            }
        }
        // ā = ct b, b̄ = ct a
        Binary::Mul => {
            if want(0).is_some() {
                ct_a = Some(g.mul(ct, b)?);
            }
            if want(1).is_some() {
                ct_b = Some(g.mul(ct, a)?);
            }
        }
        // ā = ct / b, b̄ = -ct y / b
        Binary::Div => {
            let quotient = g.div(ct, b)?;
            ct_a = Some(quotient);
            if want(1).is_some() {
                let product = g.mul(quotient, y)?;
                ct_b = Some(g.unary(Unary::Neg, product)?);
            }
        }
        // ā = ct [a > b], b̄ = ct [a ≤ b]
        Binary::Max => (ct_a, ct_b) = split_by_less(g, b, a, ct)?,
        // ā = ct [a < b], b̄ = ct [a ≥ b]
        Binary::Min => (ct_a, ct_b) = split_by_less(g, a, b, ct)?,
        Binary::Less => {}
    }
    Ok(vec![ct_a, ct_b])
}

/// (`ct` where `p < q`, `ct` elsewhere)
fn split_by_less(
    g: &mut Graph,
    p: ValueId,
    q: ValueId,
    ct: ValueId,
) -> Result<(Option<ValueId>, Option<ValueId>)> {
    let mask = g.binary(Binary::Less, p, q)?;
    let zero = zeros_like(g, ct)?;
    Ok((Some(g.select(mask, ct, zero)?), Some(g.select(mask, zero, ct)?)))
}

/// ā = ct where cond, b̄ = ct elsewhere
fn select(g: &mut Graph, cond: ValueId, ct: ValueId) -> Cotangents {
    let zero = zeros_like(g, ct)?;
    let ct_a = g.select(cond, ct, zero)?;
    let ct_b = g.select(cond, zero, ct)?;
    Ok(vec![None, Some(ct_a), Some(ct_b)])
}

/// x̄ = Σ ct over the repeated axes
fn broadcast(g: &mut Graph, x: ValueId, ct: ValueId) -> Result<ValueId> {
    let shape = g.shape(x).clone();
    g.sum_to(ct, &shape)
}

/// x̄ = ct under x's shape
fn reshape(g: &mut Graph, x: ValueId, ct: ValueId) -> Result<ValueId> {
    let shape = g.shape(x).clone();
    g.reshape(ct, &shape)
}

/// x̄ = ct under the inverse permutation
fn transpose(g: &mut Graph, perm: &[usize], ct: ValueId) -> Result<ValueId> {
    let mut inverse = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        inverse[from] = to;
    }
    g.transpose(ct, &inverse)
}

/// x̄ = ct put back at its indices, zeros elsewhere
fn slice_vjp(g: &mut Graph, slice: &Slice, x: ValueId, ct: ValueId) -> Result<ValueId> {
    let extent = g.shape(x)[slice.axis];
    let count = slice.count();
    if count == 0 {
        return zeros_like(g, x);
    }
    let mut axes = vec![PadAxis::default(); g.shape(x).ndim()];
    let reached = slice.start + (count - 1) * slice.step + 1;
    axes[slice.axis] =
        PadAxis { low: slice.start, high: extent - reached, interior: slice.step - 1 };
    g.pad(ct, &axes)
}

/// x̄ = ct at the places that hold x
fn pad(g: &mut Graph, axes: &[PadAxis], x: ValueId, ct: ValueId) -> Result<ValueId> {
    let mut ct_x = ct;
    for (axis, pad) in axes.iter().enumerate() {
        let extent = g.shape(x)[axis];
        if *pad == PadAxis::default() || extent == 0 {
            continue;
        }
        let step = pad.interior + 1;
        let end = pad.low + (extent - 1) * step + 1;
        ct_x = g.slice(ct_x, Slice { axis, start: pad.low, end, step })?;
    }
    Ok(ct_x)
}

/// Each operand gets its part of ct.
fn concat(g: &mut Graph, axis: usize, parts: &[ValueId], ct: ValueId) -> Cotangents {
    let mut start = 0;
    parts
        .iter()
        .map(|&part| {
            let end = start + g.shape(part)[axis];
            let slice = Slice { axis, start, end, step: 1 };
            start = end;
            g.slice(ct, slice).map(Some)
        })
        .collect()
}

/// x̄ = ct repeated over the summed axes
fn sum(g: &mut Graph, x: ValueId, ct: ValueId) -> Result<ValueId> {
    let shape = g.shape(x).clone();
    g.broadcast(ct, &shape)
}

/// x̄ = ct [x = y] / (number of elements equal to y)
fn reduce_max(
    g: &mut Graph,
    axes: &[usize],
    x: ValueId,
    y: ValueId,
    ct: ValueId,
) -> Result<ValueId> {
    let shape = g.shape(x).clone();
    let largest = g.broadcast(y, &shape)?;
    let smaller = g.binary(Binary::Less, x, largest)?;
    let one = g.splat(1.0, &shape)?;
    let winners = g.sub(one, smaller)?;
    let count = g.sum(winners, axes)?;
    let share = g.div(ct, count)?;
    let share = g.broadcast(share, &shape)?;
    g.mul(share, winners)
}

/// C = op(A) op(B): the four cases follow from Ā' = C̄ op(B)ᵀ and B̄' = op(A)ᵀ C̄.
fn matmul(
    g: &mut Graph,
    how: MatMul,
    [a, b]: [ValueId; 2],
    ct: ValueId,
    wanted: &[bool],
) -> Cotangents {
    let product = |transpose_a, transpose_b| MatMul { transpose_a, transpose_b };
    let mut cts = vec![None, None];
    if wanted[0] {
        cts[0] = Some(match how.transpose_a {
            false => g.matmul(ct, b, product(false, !how.transpose_b))?,
            true => g.matmul(b, ct, product(how.transpose_b, true))?,
        });
    }
    if wanted[1] {
        cts[1] = Some(match how.transpose_b {
            false => g.matmul(a, ct, product(!how.transpose_a, false))?,
            true => g.matmul(ct, a, product(true, how.transpose_a))?,
        });
    }
    Ok(cts)
}

/// A convolution and its two gradients are each linear in both operands; each one's vjp is made of
/// the other two.
fn convolution(
    g: &mut Graph,
    op: &Op,
    [a, b]: [ValueId; 2],
    ct: ValueId,
    wanted: &[bool],
) -> Cotangents {
    let mut cts = vec![None, None];
    for operand in (0..2).filter(|&operand| wanted[operand]) {
        cts[operand] = Some(match (op, operand) {
            // y = x ∗ w
            (Op::Conv2d(geometry), 0) => g.conv2d_input_grad(ct, b, *geometry)?,
            (Op::Conv2d(geometry), _) => g.conv2d_filter_grad(a, ct, *geometry)?,
            // y = input_grad(a, w)
            (Op::Conv2dInputGrad(geometry), 0) => g.conv2d(ct, b, *geometry)?,
            (Op::Conv2dInputGrad(geometry), _) => g.conv2d_filter_grad(ct, a, *geometry)?,
            // y = filter_grad(x, b)
            (Op::Conv2dFilterGrad(geometry), 0) => g.conv2d_input_grad(b, ct, *geometry)?,
            (Op::Conv2dFilterGrad(geometry), _) => g.conv2d(a, ct, *geometry)?,
            _ => return Err(Error::internal("this rule is for convolutions")),
        });
    }
    Ok(cts)
}

/// x̄ = y (ct - Σ ct y)
fn softmax(g: &mut Graph, y: ValueId, ct: ValueId) -> Result<ValueId> {
    let shape: Shape = g.shape(y).clone();
    let weighted = g.mul(ct, y)?;
    let mean = g.sum(weighted, &[shape.ndim() - 1])?;
    let mean = g.broadcast(mean, &shape)?;
    let centred = g.sub(ct, mean)?;
    g.mul(y, centred)
}

/// x̄ = ct - eʸ Σ ct
fn log_softmax(g: &mut Graph, y: ValueId, ct: ValueId) -> Result<ValueId> {
    let shape: Shape = g.shape(y).clone();
    let total = g.sum(ct, &[shape.ndim() - 1])?;
    let total = g.broadcast(total, &shape)?;
    let p = g.unary(Unary::Exp, y)?;
    let share = g.mul(p, total)?;
    g.sub(ct, share)
}
