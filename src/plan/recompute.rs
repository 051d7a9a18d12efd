//! Recomputation: less memory for at most one more forward pass (Chen et al. 2016).
//!
//! The backward pass reads values that the forward pass computed long before, and all of them are
//! alive at once where the two meet. Here the forward nodes are cut into segments where little
//! crosses from one to the next; what crosses is kept, and so is the last segment, whose backward
//! pass comes at once. Every other segment is computed again, from what is kept, just before the
//! first backward node that reads one of its values. The copies are the same ops on the same
//! operands, so no result changes.
//!
//! How long the segments should be depends on how much is kept at each cut, on what the lowering
//! stores, and on what else is alive: [`variants`] gives several, and the planner keeps the one
//! with the shortest arena.

use std::collections::HashMap;

use super::lower::root;
use crate::error::Result;
use crate::graph::{Graph, Node, Op, Stage, ValueId};

/// Into how many segments of about equal memory a forward pass is cut, each tried in turn.
const SEGMENTS: [usize; 8] = [2, 3, 4, 6, 8, 12, 16, 24];

/// Graphs that compute what `graph` does and keep less of its forward pass.
pub(super) fn variants(graph: &Graph) -> Result<Vec<Graph>> {
    let forward = Forward::new(graph);
    let mut tried: Vec<Vec<usize>> = vec![vec![]];
    let mut variants = Vec::new();
    for count in SEGMENTS {
        let cuts = forward.cuts(count);
        if !tried.contains(&cuts) {
            variants.push(Rewrite::new(graph, &forward, &cuts).run()?);
            tried.push(cuts);
        }
    }
    Ok(variants)
}

/// The forward nodes in order, and how their values are used.
struct Forward {
    /// Positions in the graph's nodes.
    nodes: Vec<usize>,
    /// Elements of each node's result that the backward pass reads.
    saved: Vec<usize>,
    /// Elements that nodes after this one read of it and those before it.
    crossing: Vec<usize>,
}

fn is_forward(node: &Node) -> bool {
    node.stage == Stage::Forward && !matches!(node.op, Op::Leaf(_) | Op::Const(_))
}

impl Forward {
    fn new(graph: &Graph) -> Self {
        let all = graph.nodes();
        let nodes: Vec<usize> = (0..all.len()).filter(|&at| is_forward(&all[at])).collect();
        let mut last_use: HashMap<ValueId, usize> = HashMap::new();
        let mut is_saved: HashMap<ValueId, bool> = HashMap::new();
        for (at, &node) in nodes.iter().enumerate() {
            for &input in &all[node].inputs {
                last_use.insert(root(graph, input), at);
            }
        }
        for node in all.iter().filter(|node| node.stage != Stage::Forward) {
            for &input in &node.inputs {
                is_saved.insert(root(graph, input), true);
            }
        }
        let mut forward =
            Forward { saved: vec![0; nodes.len()], crossing: vec![0; nodes.len()], nodes };
        for at in 0..forward.nodes.len() {
            let node = &all[forward.nodes[at]];
            // These have no memory of their own.
            if matches!(node.op, Op::Reshape(_) | Op::Broadcast(_)) {
                continue;
            }
            let value = node.outputs[0];
            let len = graph.shape(value).len();
            if is_saved.contains_key(&value) {
                forward.saved[at] = len;
            }
            let end = last_use.get(&value).copied().unwrap_or(at);
            forward.crossing[at..end].iter_mut().for_each(|crossing| *crossing += len);
        }
        forward
    }

    /// The positions after which a segment ends, where each of `count` segments saves about the
    /// same and, near that, least crosses; the last segment has no end.
    fn cuts(&self, count: usize) -> Vec<usize> {
        let limit = (self.saved.iter().sum::<usize>() / count).max(1);
        let mut cuts = Vec::new();
        let (mut start, mut at, mut sum) = (0, 0, 0);
        let mut best: Option<usize> = None;
        while at < self.nodes.len() {
            sum += self.saved[at];
            let is_better = |best| self.crossing[at] <= self.crossing[best];
            if 2 * sum >= limit && best.is_none_or(is_better) {
                best = Some(at);
            }
            match best {
                Some(cut) if sum >= limit && cut + 1 < self.nodes.len() => {
                    cuts.push(cut);
                    (start, at, sum, best) = (cut + 1, cut + 1, 0, None);
                }
                _ => at += 1,
            }
        }
        // A last segment that saves next to nothing leaves its part to the one before.
        let rest: usize = self.saved[start..].iter().sum();
        if 4 * rest < limit {
            cuts.pop();
        }
        cuts
    }
}

/// The graph being built, with copies of forward nodes.
struct Rewrite<'a> {
    from: &'a Graph,
    to: Graph,
    /// The segment of each node of `from`, for forward nodes.
    segment: Vec<usize>,
    segments: usize,
    /// The nodes of each segment that the backward pass needs again, in order.
    again: Vec<Vec<usize>>,
    /// Each value of `from` in `to`, as first computed.
    first: HashMap<ValueId, ValueId>,
    /// As computed again.
    second: HashMap<ValueId, ValueId>,
    is_kept: Vec<bool>,
}

impl<'a> Rewrite<'a> {
    fn new(from: &'a Graph, forward: &Forward, cuts: &[usize]) -> Self {
        let mut segment = vec![0; from.nodes().len()];
        for (at, &node) in forward.nodes.iter().enumerate() {
            segment[node] = cuts.iter().filter(|&&cut| cut < at).count();
        }
        let mut rewrite = Rewrite {
            from,
            to: Graph::new(),
            segment,
            segments: cuts.len() + 1,
            again: vec![Vec::new(); cuts.len() + 1],
            first: HashMap::new(),
            second: HashMap::new(),
            is_kept: vec![false; from.values().len()],
        };
        rewrite.keep();
        rewrite.find_again();
        rewrite
    }

    /// Decides what is kept, by root: what a later segment reads, and all of the last.
    fn keep(&mut self) {
        let from = self.from;
        let mut keep = |value: ValueId| self.is_kept[root(from, value).index()] = true;
        let named = from.outputs().iter().map(|&(_, value)| value);
        named.chain(from.transitions().iter().map(|t| t.next)).for_each(&mut keep);
        for (at, node) in from.nodes().iter().enumerate() {
            if !is_forward(node) || self.segment[at] + 1 == self.segments {
                node.outputs.iter().for_each(|&value| keep(value));
                continue;
            }
            for &input in &node.inputs {
                let producer = from.values()[input.index()].node.index();
                if self.segment[producer] < self.segment[at] {
                    keep(input);
                }
            }
        }
    }

    /// Whether the backward pass computes the value again instead of reading it.
    fn is_again(&self, value: ValueId) -> bool {
        !self.is_kept[root(self.from, value).index()]
    }

    /// Finds what the backward pass reads of each segment, and what that takes.
    fn find_again(&mut self) {
        let nodes = self.from.nodes();
        let mut wanted = vec![false; nodes.len()];
        // Readers come after what they read: one sweep from the end finds all of it.
        for (at, node) in nodes.iter().enumerate().rev() {
            if is_forward(node) && !wanted[at] {
                continue;
            }
            for &input in &node.inputs {
                if self.is_again(input) {
                    wanted[self.from.values()[input.index()].node.index()] = true;
                }
            }
        }
        for at in (0..nodes.len()).filter(|&at| wanted[at]) {
            self.again[self.segment[at]].push(at);
        }
    }

    fn run(mut self) -> Result<Graph> {
        for at in 0..self.from.nodes().len() {
            let node = &self.from.nodes()[at];
            if !is_forward(node) {
                self.repeat_for(node)?;
            }
            self.copy(at, node.stage)?;
        }
        for (name, value) in self.from.outputs() {
            self.to.set_output(name, self.first[value]);
        }
        for transition in self.from.transitions() {
            self.to.set_next(self.first[&transition.leaf], self.first[&transition.next]);
        }
        Ok(self.to)
    }

    /// Computes the segments again that `node` reads, unless that is done.
    fn repeat_for(&mut self, node: &Node) -> Result<()> {
        for &input in &node.inputs {
            if self.is_again(input) && !self.second.contains_key(&input) {
                let producer = self.from.values()[input.index()].node.index();
                let again = std::mem::take(&mut self.again[self.segment[producer]]);
                again.into_iter().try_for_each(|at| self.copy(at, Stage::Backward))?;
            }
        }
        Ok(())
    }

    /// Adds the node `at`: for the first time in its own stage, or a forward node once more.
    fn copy(&mut self, at: usize, stage: Stage) -> Result<()> {
        let node = &self.from.nodes()[at];
        let is_first = node.stage == stage;
        let value = |v: &ValueId| match is_first && is_forward(node) || !self.is_again(*v) {
            true => self.first[v],
            false => self.second[v],
        };
        let inputs: Vec<ValueId> = node.inputs.iter().map(value).collect();
        self.to.set_stage(stage);
        self.to.set_origin(node.origin.clone());
        let outputs = match &node.op {
            Op::Leaf(leaf) => {
                let shape = self.from.shape(node.outputs[0]);
                vec![self.to.add_leaf(leaf.kind, &leaf.name, shape)?]
            }
            op => self.to.push(op.clone(), &inputs)?,
        };
        let known = if is_first { &mut self.first } else { &mut self.second };
        known.extend(node.outputs.iter().copied().zip(outputs));
        Ok(())
    }
}
