//! Reverse-mode differentiation: graph to graph.
//!
//! [`vjp`] walks the graph once from the outputs back to the values asked for and appends, node by
//! node, the vector-Jacobian product that `rules` gives for its op. The result is ordinary nodes:
//! every pass, checker and backend treats them like any others.

mod rules;

use std::collections::HashMap;

use crate::error::{Context, Error, Result};
use crate::graph::{Graph, Op, PadAxis, ValueId};

/// Cotangents of `wrt` given the cotangents `seeds` of some values, appended to `graph`.
///
/// A value of `wrt` that no seed depends on has no cotangent (`None`): its gradient is zero.
///
/// # Errors
/// When an op on the way has no vjp, named with its node, or a seed has the wrong shape.
pub fn vjp(
    graph: &mut Graph,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>> {
    let active = depends_on(graph, wrt);
    let mut cotangents: HashMap<ValueId, ValueId> = HashMap::new();
    for &(value, ct) in seeds {
        accumulate(graph, &mut cotangents, value, ct)?;
    }
    for index in (0..graph.nodes().len()).rev() {
        let node = &graph.nodes()[index];
        let [output] = node.outputs[..] else {
            continue;
        };
        if matches!(node.op, Op::Leaf(_) | Op::Const(_)) || !active[output.index()] {
            continue;
        }
        // Leaves keep their cotangent; others are done with it once their operands have theirs.
        let Some(ct) = cotangents.get(&output).copied() else {
            continue;
        };
        propagate(graph, &mut cotangents, &active, index, ct)?;
    }
    Ok(wrt.iter().map(|value| cotangents.get(value).copied()).collect())
}

/// Applies the rule of the node `index` and adds its results to the operands' cotangents.
fn propagate(
    graph: &mut Graph,
    cotangents: &mut HashMap<ValueId, ValueId>,
    active: &[bool],
    index: usize,
    ct: ValueId,
) -> Result<()> {
    let node = graph.nodes()[index].clone();
    let wanted: Vec<bool> = node.inputs.iter().map(|input| active[input.index()]).collect();
    let origin = graph.set_origin(node.origin.clone());
    let scene = || format!("differentiating node '{}' ({})", node.origin, node.op);
    let operands = rules::vjp(graph, &node, ct, &wanted).context(scene)?;
    for (&input, operand_ct) in node.inputs.iter().zip(operands) {
        if let Some(operand_ct) = operand_ct {
            accumulate(graph, cotangents, input, operand_ct)?;
        }
    }
    graph.set_origin(origin);
    Ok(())
}

/// Adds `ct` to the cotangent of `value`.
fn accumulate(
    graph: &mut Graph,
    cotangents: &mut HashMap<ValueId, ValueId>,
    value: ValueId,
    ct: ValueId,
) -> Result<()> {
    if graph.shape(value) != graph.shape(ct) {
        let (of, is) = (graph.shape(value), graph.shape(ct));
        return Err(Error::internal(format!(
            "a value of shape {of} got a cotangent of shape {is}"
        )));
    }
    let total = match cotangents.get(&value) {
        Some(&sum) => match joined(graph, sum, ct)? {
            Some(joined) => joined,
            None => graph.add(sum, ct)?,
        },
        None => ct,
    };
    cotangents.insert(value, total);
    Ok(())
}

/// A run along one axis with zeros before and after it: the cotangent of a slice.
struct Run {
    axis: usize,
    start: usize,
    end: usize,
    /// What it is joined from.
    parts: Vec<ValueId>,
}

impl Run {
    fn of(graph: &Graph, value: ValueId) -> Option<Self> {
        let node = graph.producer(value);
        let Op::Pad(axes) = &node.op else { return None };
        let mut padded = axes.iter().enumerate().filter(|(_, pad)| **pad != PadAxis::default());
        let (axis, pad) = padded.next()?;
        if pad.interior != 0 || padded.next().is_some() {
            return None;
        }
        let inner = graph.producer(node.inputs[0]);
        let parts = match inner.op {
            Op::Concat(along) if along == axis => inner.inputs.clone(),
            _ => node.inputs.clone(),
        };
        Some(Run { axis, start: pad.low, end: graph.shape(value)[axis] - pad.high, parts })
    }
}

/// The sum of the cotangents of neighbouring slices, such as those of a fused projection's queries,
/// keys and values: put side by side, where a sum would add nothing but zeros.
fn joined(graph: &mut Graph, a: ValueId, b: ValueId) -> Result<Option<ValueId>> {
    let (Some(a_run), Some(b_run)) = (Run::of(graph, a), Run::of(graph, b)) else {
        return Ok(None);
    };
    let axis = a_run.axis;
    let (first, second) = if a_run.end == b_run.start { (a_run, b_run) } else { (b_run, a_run) };
    if first.axis != second.axis || first.end != second.start {
        return Ok(None);
    }
    let shape = graph.shape(a).clone();
    let whole = graph.concat(&[first.parts, second.parts].concat(), axis)?;
    let mut axes = vec![PadAxis::default(); shape.ndim()];
    axes[axis].low = first.start;
    axes[axis].high = shape[axis] - second.end;
    let is_all = axes[axis] == PadAxis::default();
    if is_all { Ok(Some(whole)) } else { graph.pad(whole, &axes).map(Some) }
}

/// For each value, whether it depends on one of `wrt`.
fn depends_on(graph: &Graph, wrt: &[ValueId]) -> Vec<bool> {
    let mut active = vec![false; graph.values().len()];
    for value in wrt {
        active[value.index()] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().any(|input| active[input.index()]) {
            for output in &node.outputs {
                active[output.index()] = true;
            }
        }
    }
    active
}

#[cfg(test)]
mod tests;
