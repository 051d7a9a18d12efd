//! Moves the scale of each channel from a convolution's result into its filters.
//!
//! BatchNorm with frozen statistics, and layer scale, multiply a convolution by a number for each
//! channel, and `a ⊙ (w ∗ x + b) = (a ⊙ w) ∗ x + a ⊙ b`. On the right the result before scaling is
//! not needed any more: not kept for the cotangent of `a`, which becomes a sum over filters instead
//! of over images and pixels, and not read and written again to be scaled. What follows can be
//! computed while the convolution's result is in a cache.

use std::collections::{BTreeMap, BTreeSet};

use super::{Binary, Graph, LeafKind, NodeId, Op, ValueId};
use crate::error::Result;

/// The axis of a convolution's result that holds its channels.
const CHANNELS: usize = 1;

/// A product that becomes a convolution with scaled filters.
struct Fold {
    convolution: NodeId,
    /// `[1, C, 1, 1]`
    scale: ValueId,
    /// What is added to the convolution before it is scaled, `[1, C, 1, 1]`.
    bias: Option<ValueId>,
    /// The nodes that the new convolution stands for.
    replaced: Vec<NodeId>,
}

impl Graph {
    /// The same computation with scales of channels moved into filters where this moves less
    /// memory: where filters have no more elements than the convolution's result. Scales that
    /// depend on an input stay, as does a convolution whose result something else reads.
    ///
    /// # Errors
    /// None but of the library.
    pub fn fold_scales(self) -> Result<Graph> {
        let folds = Search::new(&self).folds();
        if folds.is_empty() {
            return Ok(self);
        }
        rebuild(&self, &folds)
    }
}

/// What is known of a graph's values.
struct Search<'a> {
    graph: &'a Graph,
    /// How often each is read; results and states count as readers.
    readers: Vec<usize>,
    /// Whether each depends on an input.
    varies: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut readers = vec![0; graph.values.len()];
        let mut varies = vec![false; graph.values.len()];
        for node in &graph.nodes {
            node.inputs.iter().for_each(|input| readers[input.index()] += 1);
            let given = matches!(&node.op, Op::Leaf(leaf) if leaf.kind == LeafKind::Input);
            let any = given || node.inputs.iter().any(|input| varies[input.index()]);
            node.outputs.iter().for_each(|output| varies[output.index()] = any);
        }
        graph.outputs.iter().for_each(|(_, value)| readers[value.index()] += 1);
        graph.transitions.iter().for_each(|t| readers[t.next.index()] += 1);
        Search { graph, readers, varies }
    }

    /// All products that can be folded, by their node.
    fn folds(&self) -> BTreeMap<NodeId, Fold> {
        let nodes = self.graph.nodes.iter().enumerate();
        let products = nodes.filter(|(_, node)| node.op == Op::Binary(Binary::Mul));
        let fold = |(at, node): (usize, &super::Node)| {
            let (a, b) = (node.inputs[0], node.inputs[1]);
            let fold = self.fold(a, b).or_else(|| self.fold(b, a))?;
            Some((NodeId(at as u32), fold))
        };
        products.filter_map(fold).collect()
    }

    fn fold(&self, scaled: ValueId, factor: ValueId) -> Option<Fold> {
        let scale = self.of_channels(factor)?;
        if let Some(convolution) = self.convolution(scaled) {
            return Some(Fold { convolution, scale, bias: None, replaced: vec![convolution] });
        }
        let sum = self.graph.producer(scaled);
        if sum.op != Op::Binary(Binary::Add) || self.readers[scaled.index()] != 1 {
            return None;
        }
        let (a, b) = (sum.inputs[0], sum.inputs[1]);
        let parts = |x, bias| Some((self.convolution(x)?, self.of_channels(bias)?));
        let (convolution, bias) = parts(a, b).or_else(|| parts(b, a))?;
        let replaced = vec![convolution, self.graph.values[scaled.index()].node];
        Some(Fold { convolution, scale, bias: Some(bias), replaced })
    }

    /// The convolution that makes a value which nothing else reads, if it is worth folding.
    fn convolution(&self, value: ValueId) -> Option<NodeId> {
        let node = self.graph.producer(value);
        let Op::Conv2d(_) = node.op else { return None };
        let filters = self.graph.shape(node.inputs[1]).len();
        let worth = filters <= self.graph.shape(value).len();
        (worth && self.readers[value.index()] == 1).then_some(self.graph.values[value.index()].node)
    }

    /// What a value repeats over all but the axis of channels, if it depends on no input.
    fn of_channels(&self, value: ValueId) -> Option<ValueId> {
        let Op::Broadcast(shape) = &self.graph.producer(value).op else { return None };
        let source = self.graph.producer(value).inputs[0];
        let channels = *shape.get(CHANNELS)?;
        let expected = [1, channels, 1, 1];
        (self.graph.shape(source)[..] == expected && !self.varies[source.index()]).then_some(source)
    }
}

fn rebuild(old: &Graph, folds: &BTreeMap<NodeId, Fold>) -> Result<Graph> {
    let replaced: BTreeSet<NodeId> = folds.values().flat_map(|f| f.replaced.clone()).collect();
    let mut new = Graph::new();
    let mut values: Vec<Option<ValueId>> = vec![None; old.values.len()];
    for (at, node) in old.nodes.iter().enumerate() {
        let id = NodeId(at as u32);
        if replaced.contains(&id) {
            continue;
        }
        new.set_stage(node.stage);
        new.set_origin(node.origin.clone());
        let outputs = match (folds.get(&id), &node.op) {
            (Some(fold), _) => vec![folded(old, &mut new, &values, fold)?],
            (None, Op::Leaf(leaf)) => {
                vec![new.add_leaf(leaf.kind, &leaf.name, old.shape(node.outputs[0]))?]
            }
            (None, op) => new.push(op.clone(), &renamed(&values, &node.inputs))?,
        };
        for (before, after) in node.outputs.iter().zip(outputs) {
            values[before.index()] = Some(after);
        }
    }
    for (name, value) in &old.outputs {
        new.set_output(name, renamed(&values, &[*value])[0]);
    }
    for transition in &old.transitions {
        let ends = renamed(&values, &[transition.leaf, transition.next]);
        new.set_next(ends[0], ends[1]);
    }
    new.set_stage(old.stage);
    new.set_origin(old.origin.clone());
    Ok(new)
}

/// The new names of values that are not replaced; nothing that stays reads one that is.
fn renamed(values: &[Option<ValueId>], old: &[ValueId]) -> Vec<ValueId> {
    old.iter().filter_map(|value| values[value.index()]).collect()
}

/// `(a ⊙ w) ∗ x + a ⊙ b`
fn folded(
    old: &Graph,
    new: &mut Graph,
    values: &[Option<ValueId>],
    fold: &Fold,
) -> Result<ValueId> {
    let convolution = old.node(fold.convolution);
    let operands = renamed(values, &convolution.inputs);
    let (x, filter) = (operands[0], operands[1]);
    let scale = renamed(values, &[fold.scale])[0];
    let shape = new.shape(filter).clone();
    let column = new.reshape(scale, &[shape[0], 1, 1, 1].into())?;
    let column = new.broadcast(column, &shape)?;
    let filter = new.mul(filter, column)?;
    let result = new.push(convolution.op.clone(), &[x, filter])?[0];
    let Some(bias) = fold.bias else { return Ok(result) };
    let bias = renamed(values, &[bias])[0];
    let bias = new.mul(bias, scale)?;
    let shape = new.shape(result).clone();
    let bias = new.broadcast(bias, &shape)?;
    new.add(result, bias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Conv2d;
    use crate::graph::eval::{Array, Env, outputs};
    use crate::rng::{Key, Stream};
    use crate::tensor::Shape;

    /// Two images of three channels and 4x4 pixels, and a 3x3 convolution to five channels in one
    /// group or more.
    const GEOMETRY: Conv2d = Conv2d {
        batch: 2,
        in_channels: 3,
        out_channels: 5,
        groups: 1,
        input: [4; 2],
        output: [4; 2],
        kernel: [3; 2],
        stride: [1; 2],
        pad: [1; 2],
        dilation: [1; 2],
    };

    struct Net {
        graph: Graph,
        convolved: ValueId,
    }

    impl Net {
        fn new(geometry: Conv2d) -> Result<Self> {
            let mut graph = Graph::new();
            let x = graph.input("x", &geometry.input_shape())?;
            let w = graph.param("w", &geometry.filter_shape())?;
            let convolved = graph.conv2d(x, w, geometry)?;
            Ok(Net { graph, convolved })
        }

        /// A number of each channel, everywhere.
        fn of_channels(&mut self, kind: LeafKind, name: &str) -> Result<ValueId> {
            let shape = self.graph.shape(self.convolved).clone();
            let vector = self.graph.add_leaf(kind, name, &[1, shape[1], 1, 1].into())?;
            self.graph.broadcast(vector, &shape)
        }
    }

    /// Results of a graph at random values of its leaves.
    fn results(graph: &Graph) -> Vec<(String, Vec<f64>)> {
        let mut env = Env::new();
        for (lane, (leaf, value)) in graph.leaves().enumerate() {
            let mut numbers = Key::new(3, Stream::Probe).at(lane as u64);
            let shape: &Shape = graph.shape(value);
            let value = Array::from_fn(shape, |_| f64::from(numbers.normal()));
            env.set(leaf.kind, &leaf.name, value);
        }
        let results = outputs(graph, &env).expect("results");
        let mut results: Vec<_> =
            results.into_iter().map(|(name, array)| (name, array.to_vec())).collect();
        results.sort_by(|a, b| a.0.cmp(&b.0));
        results
    }

    fn products(graph: &Graph, shape: &[usize]) -> usize {
        let product = |node: &&crate::graph::Node| node.op == Op::Binary(Binary::Mul);
        let nodes = graph.nodes().iter().filter(product);
        nodes.filter(|node| graph.shape(node.outputs[0])[..] == *shape).count()
    }

    fn assert_same(before: &Graph, after: &Graph) {
        after.check().expect("a well-formed graph");
        for ((name, expected), (_, found)) in results(before).iter().zip(results(after)) {
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{name}: {a} became {b}");
            }
        }
    }

    #[test]
    fn scales_of_channels_move_into_filters() -> Result<()> {
        let grouped = Conv2d { groups: 5, in_channels: 5, ..GEOMETRY };
        for (geometry, biased) in [(GEOMETRY, false), (GEOMETRY, true), (grouped, true)] {
            let mut net = Net::new(geometry)?;
            let mut y = net.convolved;
            if biased {
                let bias = net.of_channels(LeafKind::Param, "bias")?;
                y = net.graph.add(bias, y)?;
            }
            let scale = net.of_channels(LeafKind::Param, "scale")?;
            let scaled = net.graph.mul(scale, y)?;
            let shift = net.of_channels(LeafKind::Param, "shift")?;
            let shifted = net.graph.add(scaled, shift)?;
            net.graph.set_output("y", shifted);
            let folded = net.graph.clone().fold_scales()?;
            let shape = geometry.output_shape();
            assert_eq!([products(&net.graph, &shape), products(&folded, &shape)], [1, 0]);
            assert_same(&net.graph, &folded);
        }
        Ok(())
    }

    #[test]
    fn what_would_change_or_cost_more_stays() -> Result<()> {
        let small = Conv2d { batch: 1, input: [1; 2], output: [1; 2], ..GEOMETRY };
        for (name, geometry, kind) in [
            ("a scale that depends on an input", GEOMETRY, LeafKind::Input),
            ("filters with more elements than the result", small, LeafKind::Param),
            ("a convolution that is read twice", GEOMETRY, LeafKind::Param),
        ] {
            let mut net = Net::new(geometry)?;
            let scale = net.of_channels(kind, "scale")?;
            let scaled = net.graph.mul(net.convolved, scale)?;
            net.graph.set_output("y", scaled);
            if name.ends_with("twice") {
                net.graph.set_output("convolved", net.convolved);
            }
            let folded = net.graph.clone().fold_scales()?;
            assert_eq!(products(&folded, &geometry.output_shape()), 1, "{name}");
            assert_same(&net.graph, &folded);
        }
        Ok(())
    }
}
