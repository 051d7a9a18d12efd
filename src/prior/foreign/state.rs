//! What a file of `torch.save` is about: one tensor, or tensors by name.

use std::collections::HashSet;

use super::pickle::{Id, Pickle, TensorRef, Value};
use crate::error::{Error, Result};

/// Keys under which checkpoints keep the state of a model, the likelier first.
const STATE_KEYS: [&str; 7] =
    ["state_dict", "model_state_dict", "model", "backbone", "encoder", "resnet", "net"];
/// How deep dicts are searched for tensors.
const DEPTH_MAX: usize = 3;
/// Keys that an error lists.
const LISTED: usize = 6;

/// Tensors by name, in the order in which they were put in.
pub(super) type State = Vec<(String, TensorRef)>;

/// What a file holds.
pub(super) enum Content {
    Tensor(TensorRef),
    State(State),
}

impl Content {
    /// The tensor of a file that is one, or the state dict nearest to its root.
    ///
    /// # Errors
    /// When there is neither, or several state dicts are equally near and none has a usual name.
    pub(super) fn of(pickle: &Pickle) -> Result<Self> {
        if let Value::Tensor(tensor) = pickle.get(pickle.root()) {
            return Ok(Content::Tensor((**tensor).clone()));
        }
        let mut seen = HashSet::new();
        let mut level = vec![("", pickle.root())];
        for _ in 0..DEPTH_MAX {
            let found: Vec<_> =
                level.iter().filter(|(_, dict)| holds_tensor(pickle, *dict)).copied().collect();
            if !found.is_empty() {
                return choose(&found).and_then(|dict| state(pickle, dict)).map(Content::State);
            }
            let below = level.iter().flat_map(|&(_, dict)| entries(pickle, dict)).copied();
            let below: Vec<_> = below
                .filter_map(|(key, value)| Some((pickle.text(key)?, value)))
                .filter(|(_, value)| matches!(pickle.get(*value), Value::Dict(_)))
                .filter(|(_, value)| seen.insert(*value))
                .collect();
            level = below;
        }
        Err(Error::malformed("it holds no tensor, nor a dict of tensors")
            .hint("expected a tensor or a state dict written by torch.save"))
    }
}

fn entries(pickle: &Pickle, dict: Id) -> &[(Id, Id)] {
    match pickle.get(dict) {
        Value::Dict(entries) => entries,
        _ => &[],
    }
}

fn holds_tensor(pickle: &Pickle, dict: Id) -> bool {
    let mut entries = entries(pickle, dict).iter();
    entries.any(|(_, value)| matches!(pickle.get(*value), Value::Tensor(_)))
}

fn choose(found: &[(&str, Id)]) -> Result<Id> {
    if let [(_, only)] = found {
        return Ok(*only);
    }
    let named = STATE_KEYS.iter().find_map(|key| found.iter().find(|(name, _)| name == key));
    named.map(|(_, dict)| *dict).ok_or_else(|| {
        let keys: Vec<&str> = found.iter().take(LISTED).map(|(key, _)| *key).collect();
        Error::unsupported(format!("{} dicts of tensors: {}", found.len(), keys.join(", ")))
            .hint("save the state dict alone")
    })
}

fn state(pickle: &Pickle, dict: Id) -> Result<State> {
    let mut names = HashSet::new();
    let mut state = State::new();
    for &(key, value) in entries(pickle, dict) {
        let (Some(name), Value::Tensor(tensor)) = (pickle.text(key), pickle.get(value)) else {
            continue;
        };
        if !names.insert(name) {
            return Err(Error::malformed(format!("'{}' appears twice", name.escape_debug())));
        }
        state.push((name.to_string(), (**tensor).clone()));
    }
    Ok(state)
}
