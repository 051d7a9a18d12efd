//! The checker: proves again, after a pass, what construction promises.

use std::collections::HashSet;

use super::shape::infer;
use super::{Graph, LeafKind, Op};
use crate::error::{Context, Error, Result};
use crate::tensor::Shape;

impl Graph {
    /// Checks single assignment, operand order, shapes, leaf names, outputs and transitions.
    ///
    /// # Errors
    /// Names the first node or transition that breaks the contract.
    pub fn check(&self) -> Result<()> {
        let mut names = HashSet::new();
        let mut defined = 0;
        for node in self.nodes() {
            let scene = || format!("node '{}' ({})", node.origin, node.op);
            if node.inputs.iter().any(|input| input.index() >= defined) {
                return Err(Error::internal("an operand is used before it is produced"))
                    .context(scene);
            }
            defined += node.outputs.len();
            if let Op::Leaf(leaf) = &node.op {
                if !names.insert((leaf.kind, &leaf.name)) {
                    return Err(Error::internal("a leaf is declared twice")).context(scene);
                }
                continue;
            }
            let shapes: Vec<&Shape> = node.inputs.iter().map(|&input| self.shape(input)).collect();
            let results = infer(&node.op, &shapes).context(scene)?;
            let stored = node.outputs.iter().map(|&output| self.shape(output));
            if !stored.eq(results.iter()) {
                return Err(Error::internal("a stored shape is not the inferred one"))
                    .context(scene);
            }
        }
        self.check_transitions()
    }

    fn check_transitions(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for transition in self.transitions() {
            let producer = self.producer(transition.leaf);
            let resident = match &producer.op {
                Op::Leaf(leaf) => leaf.kind != LeafKind::Input,
                _ => false,
            };
            let same = self.shape(transition.leaf) == self.shape(transition.next);
            if !resident || !same || !seen.insert(transition.leaf) {
                let message = format!("'{}' cannot be replaced by its next value", producer.origin);
                return Err(Error::internal(message));
            }
        }
        Ok(())
    }
}
