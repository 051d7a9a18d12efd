//! Which parameter of a foreign file is which weight of a backbone.
//!
//! By name and shape first, where one side may put a prefix such as `module.` or `base.` in front
//! of all its names. Exporters rename some weights, and turn some matrices round: what is left is
//! told by its values, which a backbone exported from the same network has bit for bit.

use std::collections::BTreeMap;

use super::part::Part;
use crate::error::{Error, Result};
use crate::prior::Weights;
use crate::prior::matching::first_few;
use crate::tensor::{Shape, Tensor, contiguous};

/// A weight of the backbone and the part that belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) name: &'a str,
    pub(super) part: usize,
    /// Whether its values told it, not its name.
    pub(super) by_value: bool,
    /// Whether the backbone has the matrix turned round.
    pub(super) transposed: bool,
}

/// Finds a part for every weight.
///
/// # Errors
/// One error for all weights without one.
pub(super) fn pair<'a>(parts: &[Part], weights: &'a Weights) -> Result<Vec<Pair<'a>>> {
    let by_name: BTreeMap<&str, usize> =
        parts.iter().enumerate().map(|(index, part)| (part.name.as_str(), index)).collect();
    let prefix = prefix(&by_name, weights);
    let mut free: Vec<bool> = vec![true; parts.len()];
    let mut pairs = Vec::new();
    let mut unnamed = Vec::new();
    for (name, weight) in weights {
        let index = prefix.translate(name).and_then(|name| by_name.get(name.as_str()));
        match index {
            Some(&part) if *parts[part].shape == *weight.shape() => {
                free[part] = false;
                pairs.push(Pair { name, part, by_value: false, transposed: false });
            }
            _ => unnamed.push((name.as_str(), weight)),
        }
    }
    let mut missing = Vec::new();
    for (name, weight) in unnamed {
        match by_values(parts, &free, weight) {
            Some((part, transposed)) => {
                free[part] = false;
                pairs.push(Pair { name, part, by_value: true, transposed });
            }
            None => missing.push((name, weight)),
        }
    }
    match missing.is_empty() {
        true => Ok(pairs),
        false => Err(incomplete(parts, &free, weights.len(), &missing)),
    }
}

/// What one side puts in front of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    parts: String,
    weights: String,
}

impl Prefix {
    /// The name of a part for that of a weight.
    fn translate(&self, name: &str) -> Option<String> {
        Some(format!("{}{}", self.parts, name.strip_prefix(&self.weights)?))
    }
}

/// The prefix under which most names agree, the empty one if it is as good.
fn prefix(parts: &BTreeMap<&str, usize>, weights: &Weights) -> Prefix {
    let mut votes: BTreeMap<Prefix, usize> = BTreeMap::new();
    for part in parts.keys() {
        for weight in weights.keys() {
            let before = |long: &str, short: &str| {
                let prefix = long.strip_suffix(short)?;
                (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_string())
            };
            let longer = before(part, weight).map(|parts| Prefix { parts, ..Prefix::default() });
            let shorter = || Some(Prefix { weights: before(weight, part)?, ..Prefix::default() });
            if let Some(prefix) = longer.or_else(shorter) {
                *votes.entry(prefix).or_default() += 1;
            }
        }
    }
    // Of equals, the first in order is taken: the empty prefix.
    let most = votes.values().copied().max().unwrap_or(0);
    votes.into_iter().find(|(_, count)| *count == most).map(|(p, _)| p).unwrap_or_default()
}

/// The one free part that has a weight's values, and whether turned round.
fn by_values(parts: &[Part], free: &[bool], weight: &Tensor) -> Option<(usize, bool)> {
    let values = contiguous(weight);
    let mut found = None;
    for (index, part) in parts.iter().enumerate().filter(|(index, _)| free[*index]) {
        let theirs = part.weights();
        let straight = *part.shape == *weight.shape() && theirs == &values[..];
        let transposed = || match (&part.shape[..], weight.shape()) {
            (&[rows, columns], &[a, b]) if (a, b) == (columns, rows) => {
                (0..values.len()).all(|i| values[i] == theirs[i % rows * columns + i / rows])
            }
            _ => false,
        };
        let transposed = !straight && transposed();
        if (straight || transposed) && found.replace((index, transposed)).is_some() {
            return None;
        }
    }
    found
}

#[cold]
fn incomplete(parts: &[Part], free: &[bool], weights: usize, missing: &[(&str, &Tensor)]) -> Error {
    let text =
        |name: &str, shape: &[usize]| format!("'{}' {}", name.escape_debug(), Shape::from(shape));
    let missing: Vec<String> = missing.iter().map(|(n, w)| text(n, w.shape())).collect();
    let left = parts.iter().zip(free).filter(|(_, free)| **free);
    let left: Vec<String> = left.map(|(part, _)| text(&part.name, &part.shape)).collect();
    let mut message = format!(
        "{} of the backbone's {weights} weights are not in the files: {}",
        missing.len(),
        first_few(&missing)
    );
    if !left.is_empty() {
        message.push_str(&format!(
            "; {} of theirs are left over: {}",
            left.len(),
            first_few(&left)
        ));
    }
    Error::mismatch(message).hint(
        "use the network that the prior was learned on, exported with BatchNorm kept and weights \
         under their own names",
    )
}
