//! Moves transposes behind what computes each element by itself, until they meet and cancel.
//!
//! A normalisation over channels is exported as one over the last axis between two transposes of
//! the whole activation. Functions of single elements, sums along axes and repetitions mean the
//! same under any order of the axes, so the second transpose can move before them, where it undoes
//! the first: what remains reads and writes memory in one order.

use std::collections::HashMap;

use super::{Graph, Op, ValueId};
use crate::error::Result;
use crate::tensor::Shape;

impl Graph {
    /// The same computation with transposes moved towards the results and joined, if fewer elements
    /// are moved so; else the graph itself.
    ///
    /// # Errors
    /// None but of the library.
    pub fn sink_transposes(self) -> Result<Graph> {
        if self.transposed_len() == 0 {
            return Ok(self);
        }
        let sunk = Sinking::new(&self).run()?;
        Ok(if sunk.transposed_len() < self.transposed_len() { sunk } else { self })
    }

    /// Elements that transposes move.
    fn transposed_len(&self) -> usize {
        let transposes = self.nodes.iter().filter(|node| matches!(node.op, Op::Transpose(_)));
        transposes.map(|node| self.shape(node.outputs[0]).len()).sum()
    }
}

/// A value of the old graph: `base` of the new one with its axes in the order `perm`.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Laid {
    base: ValueId,
    perm: Vec<usize>,
}

impl Laid {
    fn straight(base: ValueId, ndim: usize) -> Self {
        Laid { base, perm: (0..ndim).collect() }
    }

    fn is_straight(&self) -> bool {
        self.perm.is_sorted()
    }
}

/// A graph that is being made anew.
struct Sinking<'a> {
    old: &'a Graph,
    new: Graph,
    /// Of each value that was visited.
    laid: Vec<Laid>,
    /// Transposed values that something needed as they are.
    made: HashMap<Laid, ValueId>,
}

impl<'a> Sinking<'a> {
    fn new(old: &'a Graph) -> Self {
        Sinking { old, new: Graph::new(), laid: Vec::new(), made: HashMap::new() }
    }

    fn run(mut self) -> Result<Graph> {
        for node in &self.old.nodes {
            self.new.set_stage(node.stage);
            self.new.set_origin(node.origin.clone());
            let results = match &node.op {
                Op::Leaf(leaf) => {
                    let shape = self.old.shape(node.outputs[0]);
                    let value = self.new.add_leaf(leaf.kind, &leaf.name, shape)?;
                    vec![Laid::straight(value, shape.ndim())]
                }
                op => self.node(op, &node.inputs)?,
            };
            // Values are in the order of their nodes.
            self.laid.extend(results);
        }
        for (name, value) in &self.old.outputs {
            let value = self.straight(*value)?;
            self.new.set_output(name, value);
        }
        for transition in &self.old.transitions {
            let [leaf, next] = [self.straight(transition.leaf)?, self.straight(transition.next)?];
            self.new.set_next(leaf, next);
        }
        self.new.set_stage(self.old.stage);
        self.new.set_origin(self.old.origin.clone());
        Ok(self.new)
    }

    fn node(&mut self, op: &Op, inputs: &[ValueId]) -> Result<Vec<Laid>> {
        match op {
            Op::Transpose(order) => {
                let Laid { base, perm } = self.of(inputs[0]);
                return Ok(vec![Laid {
                    base,
                    perm: order.iter().map(|&axis| perm[axis]).collect(),
                }]);
            }
            Op::Unary(_) | Op::Binary(_) | Op::Select => {
                let perm = self.common_order(inputs);
                let mut bases = Vec::new();
                for &input in inputs {
                    bases.push(self.ordered(input, &perm)?);
                }
                let base = self.new.push(op.clone(), &bases)?[0];
                return Ok(vec![Laid { base, perm }]);
            }
            Op::Reduce(how, axes) => {
                let Laid { base, perm } = self.of(inputs[0]);
                let mut axes: Vec<usize> = axes.iter().map(|&axis| perm[axis]).collect();
                axes.sort_unstable();
                let base = self.new.push(Op::Reduce(*how, axes), &[base])?[0];
                return Ok(vec![Laid { base, perm }]);
            }
            Op::Broadcast(shape) => {
                let Laid { base, perm } = self.of(inputs[0]);
                let base = self.new.push(Op::Broadcast(stored(shape, &perm)), &[base])?[0];
                return Ok(vec![Laid { base, perm }]);
            }
            _ => {}
        }
        let mut values = Vec::new();
        for &input in inputs {
            values.push(self.straight(input)?);
        }
        let results = self.new.push(op.clone(), &values)?;
        let laid = |value| Laid::straight(value, self.new.shape(value).ndim());
        Ok(results.into_iter().map(laid).collect())
    }

    /// A value that was visited.
    fn of(&self, value: ValueId) -> Laid {
        self.laid[value.index()].clone()
    }

    /// The order of axes that all operands have, but for those that can have any; the straight one
    /// where they differ.
    fn common_order(&self, inputs: &[ValueId]) -> Vec<usize> {
        let laid: Vec<Laid> = inputs.iter().map(|&input| self.of(input)).collect();
        let mut bound = laid.iter().filter(|laid| !self.is_repeated(laid));
        let first = bound.next().unwrap_or(&laid[0]);
        if bound.all(|laid| laid.perm == first.perm) {
            return first.perm.clone();
        }
        (0..first.perm.len()).collect()
    }

    /// Whether a value repeats a smaller one, whose axes are moved for less.
    fn is_repeated(&self, laid: &Laid) -> bool {
        matches!(self.new.producer(laid.base).op, Op::Broadcast(_))
    }

    /// What has `value` as its transposed by `perm`.
    fn ordered(&mut self, value: ValueId, perm: &[usize]) -> Result<ValueId> {
        let laid = self.of(value);
        if laid.perm == perm {
            return Ok(laid.base);
        }
        // Axis i of the value is axis laid.perm[i] of its base, and perm[i] of what is wanted.
        let mut order = vec![0; perm.len()];
        for (&from, &to) in laid.perm.iter().zip(perm) {
            order[to] = from;
        }
        self.transposed(Laid { base: laid.base, perm: order })
    }

    /// The value itself.
    fn straight(&mut self, value: ValueId) -> Result<ValueId> {
        let laid = self.of(value);
        if laid.is_straight() { Ok(laid.base) } else { self.transposed(laid) }
    }

    fn transposed(&mut self, laid: Laid) -> Result<ValueId> {
        if let Some(&value) = self.made.get(&laid) {
            return Ok(value);
        }
        let node = self.new.producer(laid.base);
        let value = match node.op.clone() {
            Op::Broadcast(shape) => {
                let source = node.inputs[0];
                let source = self.moved(source, &laid.perm)?;
                self.new.broadcast(source, &shape_of(&shape, &laid.perm))?
            }
            _ => self.new.transpose(laid.base, &laid.perm)?,
        };
        self.made.insert(laid, value);
        Ok(value)
    }

    /// A transposed value, by a reshape where its elements keep their places.
    fn moved(&mut self, value: ValueId, perm: &[usize]) -> Result<ValueId> {
        let shape = self.new.shape(value).clone();
        let long = perm.iter().filter(|&&axis| shape[axis] != 1);
        match long.is_sorted() {
            true => self.new.reshape(value, &shape_of(&shape, perm)),
            false => self.new.transpose(value, perm),
        }
    }
}

/// The shape of what a value of `shape` is transposed to.
fn shape_of(shape: &Shape, perm: &[usize]) -> Shape {
    perm.iter().map(|&axis| shape[axis]).collect::<Vec<_>>().into()
}

/// The shape of what is transposed to a value of `shape`.
fn stored(shape: &Shape, perm: &[usize]) -> Shape {
    let mut stored = vec![0; perm.len()];
    for (&extent, &axis) in shape.iter().zip(perm) {
        stored[axis] = extent;
    }
    stored.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::eval::{Array, Env, outputs};
    use crate::graph::{Binary, LeafKind, Reduction, Unary};

    const IMAGES: [usize; 4] = [2, 3, 4, 5];
    const LAST: [usize; 4] = [0, 2, 3, 1];
    const FIRST: [usize; 4] = [0, 3, 1, 2];

    fn results(graph: &Graph) -> Vec<(String, Array)> {
        let mut env = Env::new();
        for (leaf, value) in graph.leaves() {
            let array = Array::from_fn(graph.shape(value), |i| (i as f64 * 0.7).sin());
            env.set(leaf.kind, &leaf.name, array);
        }
        let mut results: Vec<_> = outputs(graph, &env).expect("results").into_iter().collect();
        results.sort_by(|a, b| a.0.cmp(&b.0));
        results
    }

    fn assert_same(before: &Graph, after: &Graph) {
        after.check().expect("a well-formed graph");
        for ((name, expected), (_, found)) in results(before).iter().zip(results(after)) {
            assert_eq!(expected.shape(), found.shape(), "{name}");
            for (a, b) in expected.iter().zip(found.iter()) {
                assert!((a - b).abs() <= 1e-14, "{name}: {a} became {b}");
            }
        }
    }

    /// (x - mean x) γ + β over the channels, which are moved last for it.
    fn normalised(g: &mut Graph, x: ValueId) -> Result<ValueId> {
        let x = g.transpose(x, &LAST)?;
        let shape = g.shape(x).clone();
        let mean = g.mean(x, &[3])?;
        let mean = g.broadcast(mean, &shape)?;
        let centred = g.sub(x, mean)?;
        let mut weights = [centred; 2];
        for (weight, name) in weights.iter_mut().zip(["scale", "shift"]) {
            let leaf = g.add_leaf(LeafKind::Param, name, &[3].into())?;
            let leaf = g.reshape(leaf, &[1, 1, 1, 3].into())?;
            *weight = g.broadcast(leaf, &shape)?;
        }
        let scaled = g.mul(centred, weights[0])?;
        g.add(scaled, weights[1])
    }

    #[test]
    fn a_normalisation_between_transposes_has_none_left() -> Result<()> {
        let mut g = Graph::new();
        let x = g.input("x", &IMAGES.into())?;
        let y = normalised(&mut g, x)?;
        let y = g.unary(Unary::Gelu, y)?;
        let y = g.transpose(y, &FIRST)?;
        let y = g.mul(x, y)?;
        g.set_output("y", y);
        let sunk = g.clone().sink_transposes()?;
        assert_eq!([g.transposed_len(), sunk.transposed_len()], [240, 0]);
        assert_same(&g, &sunk);
        Ok(())
    }

    #[test]
    fn what_is_needed_as_it_is_is_transposed_once() -> Result<()> {
        let mut g = Graph::new();
        let x = g.input("x", &IMAGES.into())?;
        let y = normalised(&mut g, x)?;
        let rows = g.unary(Unary::Exp, y)?;
        let rows = g.push(Op::Softmax, &[rows])?[0];
        let back = g.transpose(y, &FIRST)?;
        let back = g.unary(Unary::Abs, back)?;
        let again = g.transpose(back, &LAST)?;
        for (name, value) in [("rows", rows), ("back", back), ("again", again)] {
            g.set_output(name, value);
        }
        let sunk = g.clone().sink_transposes()?;
        assert_eq!([g.transposed_len(), sunk.transposed_len()], [360, 240]);
        assert_same(&g, &sunk);
        Ok(())
    }

    #[test]
    fn operands_in_different_orders_cost_no_more_than_before() -> Result<()> {
        let mut g = Graph::new();
        let x = g.input("x", &[4; 3].into())?;
        let turned = g.transpose(x, &[2, 0, 1])?;
        let other = g.transpose(x, &[1, 0, 2])?;
        let sum = g.add(turned, other)?;
        let largest = g.reduce(Reduction::Max, sum, &[1])?;
        let row = g.slice(x, super::super::Slice { axis: 1, start: 0, end: 1, step: 1 })?;
        let row = g.transpose(row, &[1, 2, 0])?;
        let repeated = g.broadcast(row, &[4; 3].into())?;
        let less = g.binary(Binary::Less, repeated, turned)?;
        let chosen = g.select(less, turned, x)?;
        g.set_output("largest", largest);
        g.set_output("chosen", chosen);
        let sunk = Sinking::new(&g).run()?;
        assert_same(&g, &sunk);
        assert_same(&g, &g.clone().sink_transposes()?);
        Ok(())
    }
}
