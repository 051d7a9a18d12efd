//! The spelling of x Φ(x) by elementary ops, in which older exporters and tract write it.

use crate::graph::{Binary, Graph, Op, Unary, ValueId};

/// How far a constant may be from its exact value, relatively: a few roundings.
const ROUNDING: f32 = 1e-6;

/// The `x` for which the product of `a` and `b` is x Φ(x) = x · ½ · (1 + erf(x/√2)), whatever the
/// order of the three factors.
pub(super) fn argument(graph: &Graph, a: ValueId, b: ValueId) -> Option<ValueId> {
    for (constant, product) in [(a, b), (b, a)] {
        if let Some(scale) = graph.splat_value(constant) {
            let (a, b) = operands(graph, product, Binary::Mul)?;
            return scaled_argument(graph, scale, a, b);
        }
    }
    scaled_argument(graph, 1.0, a, b)
}

/// The `x` for which `scale` · `a` · `b` is x Φ(x).
fn scaled_argument(graph: &Graph, scale: f32, a: ValueId, b: ValueId) -> Option<ValueId> {
    [(a, b), (b, a)].into_iter().find_map(|(argument, gate)| {
        unscaled(graph, gate).find_map(|(gate_scale, gate)| {
            let gated = gated(graph, gate)?;
            let halves =
                |&(own, x): &(f32, ValueId)| x == gated && is_close(scale * own * gate_scale, 0.5);
            unscaled(graph, argument).find(halves).map(|(_, x)| x)
        })
    })
}

/// The `x` for which `value` is 1 + erf(x/√2).
fn gated(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let (a, b) = operands(graph, value, Binary::Add)?;
    let bell = match (graph.splat_value(a), graph.splat_value(b)) {
        (Some(1.0), _) => b,
        (_, Some(1.0)) => a,
        _ => return None,
    };
    let node = graph.producer(bell);
    let is_scaled = |&(scale, _): &(f32, ValueId)| is_close(scale, std::f32::consts::FRAC_1_SQRT_2);
    match node.op {
        Op::Unary(Unary::Erf) => unscaled(graph, node.inputs[0]).find(is_scaled).map(|(_, x)| x),
        _ => None,
    }
}

/// All (c, x) with `value` = c · x where constants were multiplied to x one by one.
fn unscaled(graph: &Graph, value: ValueId) -> impl Iterator<Item = (f32, ValueId)> + '_ {
    std::iter::successors(Some((1.0, value)), |&(scale, value)| {
        if let Some((a, b)) = operands(graph, value, Binary::Mul) {
            return match (graph.splat_value(a), graph.splat_value(b)) {
                (Some(c), _) => Some((scale * c, b)),
                (_, Some(c)) => Some((scale * c, a)),
                _ => None,
            };
        }
        let (a, b) = operands(graph, value, Binary::Div)?;
        graph.splat_value(b).map(|c| (scale / c, a))
    })
}

fn operands(graph: &Graph, value: ValueId, op: Binary) -> Option<(ValueId, ValueId)> {
    let node = graph.producer(value);
    (node.op == Op::Binary(op)).then(|| (node.inputs[0], node.inputs[1]))
}

fn is_close(value: f32, exact: f32) -> bool {
    (value - exact).abs() <= ROUNDING * exact
}
