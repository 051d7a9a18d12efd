//! The shape rule of every op.

use super::op::{Conv2d, Hyper, MatMul, Op, Pool2d, Update};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// The shapes of the results of `op` on operands of these shapes.
///
/// # Errors
/// When the operands do not fit; the message names op and shapes.
pub(super) fn infer(op: &Op, inputs: &[&Shape]) -> Result<Vec<Shape>> {
    if let Op::Update(update) = op {
        return infer_update(update, inputs);
    }
    infer_one(op, inputs).map(|shape| vec![shape])
}

fn infer_one(op: &Op, inputs: &[&Shape]) -> Result<Shape> {
    match (op, inputs) {
        (Op::Leaf(_), []) => Err(Error::internal("a leaf is added by Graph::add_leaf")),
        (Op::Const(t), []) => Ok(t.shape().into()),
        (Op::Unary(_) | Op::Softmax | Op::LogSoftmax, [x]) if has_last(op, x) => Ok((*x).clone()),
        (Op::Binary(_), [a, b]) if a == b => Ok((*a).clone()),
        (Op::Select, [c, a, b]) if c == a && a == b => Ok((*a).clone()),
        (Op::Broadcast(to), [x]) if broadcasts(x, to) => Ok(to.clone()),
        (Op::Reshape(to), [x]) if to.checked_len()? == x.len() => Ok(to.clone()),
        (Op::Transpose(perm), [x]) if is_permutation(perm, x.ndim()) => {
            Ok(perm.iter().map(|&axis| x[axis]).collect::<Vec<_>>().into())
        }
        (Op::Slice(s), [x])
            if s.axis < x.ndim() && s.step > 0 && s.start <= s.end && s.end <= x[s.axis] =>
        {
            Ok(x.with(s.axis, s.count()))
        }
        (Op::Pad(axes), [x]) if axes.len() == x.ndim() => {
            Ok(axes.iter().zip(x.iter()).map(|(p, &e)| p.padded(e)).collect::<Vec<_>>().into())
        }
        (Op::Concat(axis), [first, rest @ ..]) if concatenates(*axis, first, rest) => {
            Ok(first.with(*axis, inputs.iter().map(|s| s[*axis]).sum()))
        }
        (Op::Gather(i), [x])
            if i.axis < x.ndim() && i.rows.iter().all(|&row| (row as usize) < x[i.axis]) =>
        {
            Ok(x.with(i.axis, i.rows.len()))
        }
        (Op::ScatterAdd(i, extent), [x])
            if i.axis < x.ndim()
                && i.rows.len() == x[i.axis]
                && i.rows.iter().all(|&row| (row as usize) < *extent) =>
        {
            Ok(x.with(i.axis, *extent))
        }
        (Op::Reduce(_, axes), [x]) if axes.iter().all(|&axis| axis < x.ndim()) => {
            Ok(axes.iter().fold((*x).clone(), |shape, &axis| shape.with(axis, 1)))
        }
        (Op::MatMul(how), [a, b]) => infer_matmul(*how, a, b),
        (Op::Conv2d(g), [x, w]) if fits(g, Some(x), Some(w), None) => Ok(g.output_shape()),
        (Op::Conv2dInputGrad(g), [ct, w]) if fits(g, None, Some(w), Some(ct)) => {
            Ok(g.input_shape())
        }
        (Op::Conv2dFilterGrad(g), [x, ct]) if fits(g, Some(x), None, Some(ct)) => {
            Ok(g.filter_shape())
        }
        (Op::MaxPool(g) | Op::SumPool(g), [x]) if pools(g) && **x == g.input_shape() => {
            Ok(g.output_shape())
        }
        (Op::MaxPoolGrad(g), [x, ct])
            if pools(g) && **x == g.input_shape() && **ct == g.output_shape() =>
        {
            Ok(g.input_shape())
        }
        (Op::SumPoolGrad(g), [ct]) if pools(g) && **ct == g.output_shape() => Ok(g.input_shape()),
        _ => Err(mismatch(op, inputs)),
    }
}

#[cold]
fn mismatch(op: &Op, inputs: &[&Shape]) -> Error {
    let shapes: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    Error::mismatch(format!("{op} does not take operands of shapes {}", shapes.join(", ")))
}

/// Softmax needs a last axis; other element-wise ops take scalars too.
fn has_last(op: &Op, x: &Shape) -> bool {
    matches!(op, Op::Unary(_)) || x.ndim() > 0
}

fn broadcasts(from: &Shape, to: &Shape) -> bool {
    from.ndim() == to.ndim() && from.iter().zip(to.iter()).all(|(&f, &t)| f == t || f == 1)
}

fn is_permutation(perm: &[usize], ndim: usize) -> bool {
    let mut seen = vec![false; ndim];
    perm.len() == ndim
        && perm.iter().all(|&axis| axis < ndim && !std::mem::replace(&mut seen[axis], true))
}

fn concatenates(axis: usize, first: &Shape, rest: &[&Shape]) -> bool {
    axis < first.ndim()
        && rest.iter().all(|s| s.ndim() == first.ndim() && s.with(axis, 0) == first.with(axis, 0))
}

fn infer_matmul(how: MatMul, a: &Shape, b: &Shape) -> Result<Shape> {
    let op = Op::MatMul(how);
    let ndim = a.ndim();
    if ndim < 2 || b.ndim() != ndim || a[..ndim - 2] != b[..ndim - 2] {
        return Err(mismatch(&op, &[a, b]));
    }
    let (rows, inner_a) = if how.transpose_a { (ndim - 1, ndim - 2) } else { (ndim - 2, ndim - 1) };
    let (inner_b, columns) =
        if how.transpose_b { (ndim - 1, ndim - 2) } else { (ndim - 2, ndim - 1) };
    if a[inner_a] != b[inner_b] {
        return Err(mismatch(&op, &[a, b]));
    }
    let mut extents = a[..ndim - 2].to_vec();
    extents.extend([a[rows], b[columns]]);
    Ok(extents.into())
}

/// Whether a convolution's geometry is sound and its operands have the shapes it says.
fn fits(g: &Conv2d, x: Option<&Shape>, w: Option<&Shape>, ct: Option<&Shape>) -> bool {
    let positive =
        g.groups > 0 && g.stride.iter().chain(&g.dilation).chain(&g.kernel).all(|&e| e > 0);
    positive
        && g.in_channels.is_multiple_of(g.groups)
        && g.out_channels.is_multiple_of(g.groups)
        && x.is_none_or(|s| *s == g.input_shape())
        && w.is_none_or(|s| *s == g.filter_shape())
        && ct.is_none_or(|s| *s == g.output_shape())
}

fn pools(g: &Pool2d) -> bool {
    g.stride.iter().chain(&g.dilation).chain(&g.kernel).all(|&e| e > 0)
}

fn infer_update(update: &Update, inputs: &[&Shape]) -> Result<Vec<Shape>> {
    let op = Op::Update(*update);
    let moments = update.method.moments().len();
    let fixed = 4 + moments;
    if inputs.len() != fixed + update.prior.operands() {
        return Err(mismatch(&op, inputs));
    }
    let theta = inputs[0];
    let like_theta = |shapes: &[&Shape]| shapes.iter().all(|s| *s == theta);
    let hyper = *inputs[2] == [Hyper::COUNT].into() && *inputs[3] == [1].into();
    let prior = match update.prior {
        super::PriorTerm::LowRank { rank } => {
            let mut factor = vec![rank];
            factor.extend_from_slice(theta);
            like_theta(&inputs[fixed..fixed + 2])
                && *inputs[fixed + 2] == factor.into()
                && *inputs[fixed + 3] == [rank].into()
        }
        _ => like_theta(&inputs[fixed..]),
    };
    if !(hyper && prior && theta == inputs[1] && like_theta(&inputs[4..fixed])) {
        return Err(mismatch(&op, inputs));
    }
    let mut results = vec![theta.clone(); 1 + moments];
    if update.prior.sums() > 0 {
        results.push([update.prior.sums()].into());
    }
    Ok(results)
}
