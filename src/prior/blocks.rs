//! Priors whose low-rank part is block-diagonal.
//!
//! With parameters in blocks b the covariance is S = diag(d) + ⊕_b W_b W_bᵀ: weights vary together
//! within a block, and what snapshots say of weights of different blocks is dropped. Then the
//! formulas of `density` hold in each block with a capacitance C_b = I + W_bᵀ d_b⁻¹ W_b of its own,
//! and add up. K snapshots tell K directions of each block, not of all weights together, and no
//! update waits for a sum over the whole network.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Serialize;

use super::cholesky::Cholesky;
use super::derive::add_note;
use super::{Header, MAX_RANK, Parameter, Prior};
use crate::error::{Error, Result};

/// The largest number of blocks that weights are grouped into.
pub const MAX_BLOCKS: usize = 256;

/// The largest accepted number of elements of all capacitance matrices together.
const CAPACITANCE_MAX: usize = 4 * MAX_RANK * MAX_RANK;

/// Fewer weights than this make no block of their own: scales and shifts of normalisations.
const WEIGHTS_MIN: usize = 1024;

/// Which weights vary together under a prior: those whose names have a common beginning. Names are
/// taken apart at `.` and `/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// All.
    #[default]
    Whole,
    /// Those of a part of the network: the name up to its first number, such as `layer1.0`,
    /// `stages.2` or `encoder.layers.7`, or its first word.
    Stage,
    /// Those of a layer: the name without its last word, such as `layer1.0.conv1`.
    Layer,
    /// Those of a tensor.
    Tensor,
}

/// The parameters that share directions, and what is known of them.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Places in the prior's list.
    pub(super) members: Vec<usize>,
    /// K_b, the rows of every member's deviations.
    pub(super) rank: usize,
    /// The factor of C_b, found when first asked for.
    pub(super) capacitance: OnceLock<Cholesky>,
}

/// Where a group is among the names: a path, and whether it is what was left over there.
type Place<'a> = (Vec<&'a str>, bool);

/// Number of weights, and parameters' names.
type Group = (usize, Vec<String>);

impl Grouping {
    /// The words of a name that its block is called by.
    fn path(self, name: &str) -> Vec<&str> {
        let words: Vec<&str> = name.split(['.', '/']).collect();
        let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let len = match self {
            Grouping::Whole => 0,
            Grouping::Stage => words.iter().position(is_number).map_or(1, |at| at + 1),
            Grouping::Layer => (words.len() - 1).max(1),
            Grouping::Tensor => words.len(),
        };
        words[..len].to_vec()
    }

    /// The blocks of parameters of these names and numbers of weights, with `rank` directions each,
    /// by what they are called.
    ///
    /// Blocks of few weights are joined with the others of their layer, stage and so on that are
    /// small, called `layer1.*` or, of the whole network, `*`. What counts as few grows until
    /// there are [`MAX_BLOCKS`] at most, and their capacitance matrices are not too large together:
    /// a prior that took long to learn is not refused for its rank.
    fn blocks(self, parameters: &[(&str, usize)], rank: usize) -> BTreeMap<String, Vec<String>> {
        let most = MAX_BLOCKS.min(CAPACITANCE_MAX / (rank * rank).max(1)).max(1);
        let mut fewest = WEIGHTS_MIN;
        loop {
            let blocks = self.blocks_of(parameters, fewest);
            if blocks.len() <= most {
                return blocks;
            }
            fewest = fewest.saturating_mul(2);
        }
    }

    fn blocks_of(
        self,
        parameters: &[(&str, usize)],
        fewest: usize,
    ) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<Place, Group> = BTreeMap::new();
        for &(name, len) in parameters {
            let group = groups.entry((self.path(name), false)).or_default();
            group.0 += len;
            group.1.push(name.to_string());
        }
        let deepest = groups.keys().map(|(path, _)| path.len()).max().unwrap_or(0);
        for depth in (1..=deepest).rev() {
            let small =
                groups.iter().filter(|((path, _), (len, _))| path.len() == depth && *len < fewest);
            let small: Vec<_> = small.map(|(key, _)| key.clone()).collect();
            for key in small {
                let Some((len, names)) = groups.remove(&key) else { continue };
                let above = key.0[..depth - 1].to_vec();
                let rest = groups.entry((above, true)).or_default();
                rest.0 += len;
                rest.1.extend(names);
            }
        }
        let called = |(mut path, is_rest): Place| {
            path.extend(is_rest.then_some("*"));
            if path.is_empty() { "*".to_string() } else { path.join(".") }
        };
        let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, (_, names)) in groups {
            // Names that differ in their separators only, or hold a star, may meet.
            blocks.entry(called(key)).or_default().extend(names);
        }
        blocks.values_mut().for_each(|names| names.sort());
        blocks
    }

    /// The header of a prior that is grouped like this; a diagonal one has no blocks.
    pub(super) fn apply(self, header: &mut Header, parameters: &[(&str, usize)]) {
        let blocks = match (self, header.rank) {
            (Grouping::Whole, _) | (_, 0) => BTreeMap::new(),
            _ => self.blocks(parameters, header.rank),
        };
        header.set_blocks(blocks);
    }
}

impl Prior {
    /// The prior without the covariance between blocks; within them it stays, and every weight
    /// keeps its variance. Of a diagonal prior, or with [`Grouping::Whole`], it is the same prior.
    ///
    /// # Errors
    /// When the prior has blocks already.
    pub fn block_diagonal(&self, grouping: Grouping) -> Result<Self> {
        if grouping == Grouping::Whole || self.rank() == 0 {
            return Ok(self.clone());
        }
        if !self.header.blocks.is_empty() {
            return Err(Error::unsupported("the prior has blocks already")
                .hint("group the prior that it was made of"));
        }
        let mut header = self.header.clone();
        let parameters: Vec<(&str, usize)> =
            self.parameters.iter().map(|p| (p.name.as_str(), p.mean.len())).collect();
        grouping.apply(&mut header, &parameters);
        let note = format!("low rank in {} blocks", header.blocks.len());
        add_note(&mut header, &note);
        Prior::new(header, self.parameters.clone())
    }

    /// Number of blocks; 1 for a prior whose weights all vary together.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The number of the block of `name`, below [`Prior::blocks`].
    ///
    /// # Errors
    /// When the prior has no parameter `name`.
    pub fn block(&self, name: &str) -> Result<usize> {
        let at = self.place(name)?;
        let found = self.blocks.iter().position(|block| block.members.binary_search(&at).is_ok());
        found.ok_or_else(|| Error::internal("every parameter has its block"))
    }

    /// K_b, the rows of the deviations of `name`; 0 in a diagonal prior.
    ///
    /// # Errors
    /// When the prior has no parameter `name`.
    pub fn rank_of(&self, name: &str) -> Result<usize> {
        Ok(self.parameter(name)?.rank())
    }

    /// The parameters of a block.
    pub(super) fn members<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = &'a Parameter> {
        block.members.iter().map(|&at| &self.parameters[at])
    }
}

/// The blocks that a header names, of parameters in the order of their names.
///
/// # Errors
/// When a parameter has no block or two, a block names none or an unknown one, the parameters of a
/// block differ in rank, no block has the header's, or the blocks are too many.
pub(super) fn of_header(header: &Header, parameters: &[Parameter]) -> Result<Vec<Block>> {
    let blocks = match header.blocks.is_empty() {
        true => vec![block("the prior", (0..parameters.len()).collect(), parameters)?],
        false => named(header, parameters)?,
    };
    let found = blocks.iter().map(|block| block.rank).max().unwrap_or(0);
    if found != header.rank {
        let message = format!("the deviations have {found} rows at most");
        return Err(Error::malformed(message).hint(format!("expected rank {}", header.rank)));
    }
    let elements: usize = blocks.iter().map(|block| block.rank * block.rank).sum();
    if blocks.len() > MAX_BLOCKS || elements > CAPACITANCE_MAX {
        let message = format!("{} blocks have {elements} products of directions", blocks.len());
        let hint = format!("expected {MAX_BLOCKS} blocks and {CAPACITANCE_MAX} products at most");
        return Err(Error::unsupported(message).hint(hint));
    }
    Ok(blocks)
}

fn named(header: &Header, parameters: &[Parameter]) -> Result<Vec<Block>> {
    let mut taken = vec![false; parameters.len()];
    let mut blocks = Vec::with_capacity(header.blocks.len().min(MAX_BLOCKS + 1));
    for (called, names) in &header.blocks {
        let mut members = Vec::new();
        for name in names {
            let at = parameters.binary_search_by(|p| p.name.as_str().cmp(name)).map_err(|_| {
                Error::malformed(format!("block '{called}' names '{name}', no parameter"))
            })?;
            if std::mem::replace(&mut taken[at], true) {
                return Err(Error::malformed(format!("parameter '{name}' is in two blocks")));
            }
            members.push(at);
        }
        members.sort_unstable();
        blocks.push(block(called, members, parameters)?);
    }
    match taken.iter().position(|taken| !taken) {
        None => Ok(blocks),
        Some(at) => {
            Err(Error::malformed(format!("parameter '{}' is in no block", parameters[at].name)))
        }
    }
}

fn block(called: &str, members: Vec<usize>, parameters: &[Parameter]) -> Result<Block> {
    let (Some(&first), rank) = (members.first(), |at: usize| parameters[at].rank()) else {
        return Err(Error::malformed(format!("block '{called}' has no parameter")));
    };
    if let Some(&odd) = members.iter().find(|&&at| rank(at) != rank(first)) {
        let [a, b] = [first, odd].map(|at| format!("'{}' has {}", parameters[at].name, rank(at)));
        let message = format!("the rows of deviations differ within {called}: {a}, {b}");
        return Err(Error::malformed(message));
    }
    let rank = rank(first);
    Ok(Block { members, rank, capacitance: OnceLock::new() })
}

#[cfg(test)]
mod tests;
