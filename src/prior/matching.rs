//! Whether a prior and a backbone belong together.

use std::collections::BTreeMap;

use super::Prior;
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// How many names of a kind an error lists.
const LISTED: usize = 4;

impl Prior {
    /// Checks that the prior covers exactly these trainable parameters, of the backbone with this
    /// fingerprint. A run that freezes some restricts the prior first ([`Prior::restrict`]).
    ///
    /// # Errors
    /// One error for all parameters that only one side has or whose shapes differ, with the first
    /// few of each; or one with both fingerprints when the weights are another backbone's.
    pub fn matches<'a>(
        &self,
        parameters: impl IntoIterator<Item = (&'a str, &'a Shape)>,
        fingerprint: &str,
    ) -> Result<()> {
        let backbone: BTreeMap<&str, &Shape> = parameters.into_iter().collect();
        self.match_parameters(&backbone)?;
        if self.header.backbone == fingerprint {
            return Ok(());
        }
        let (ours, theirs) = (short(&self.header.backbone), short(fingerprint));
        let message = format!(
            "the prior was learned around another backbone: its weights have the fingerprint \
             {ours}, these {theirs}"
        );
        Err(Error::mismatch(message).hint("use the backbone that came with the prior"))
    }

    fn match_parameters(&self, backbone: &BTreeMap<&str, &Shape>) -> Result<()> {
        let prior: BTreeMap<&str, Shape> =
            self.parameters.iter().map(|p| (p.name(), p.shape())).collect();
        let missing = backbone.keys().filter(|name| !prior.contains_key(*name));
        let extra = prior.keys().filter(|name| !backbone.contains_key(*name));
        let differing = prior.iter().filter_map(|(name, ours)| {
            let theirs = *backbone.get(name).filter(|&&theirs| theirs != ours)?;
            Some(format!("'{name}' {ours} in the prior, {theirs} in the backbone"))
        });
        let quoted = |name: &&str| format!("'{name}'");
        let lists = [
            ("only in the backbone", missing.map(quoted).collect()),
            ("only in the prior", extra.map(quoted).collect()),
            ("of different shapes", differing.collect()),
        ];
        let complaints: Vec<String> = lists
            .iter()
            .filter(|(_, names): &&(_, Vec<String>)| !names.is_empty())
            .map(|(what, names)| format!("{} {what}: {}", names.len(), first_few(names)))
            .collect();
        if complaints.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the prior's {} parameters are not the backbone's {}: {}",
            prior.len(),
            backbone.len(),
            complaints.join("; ")
        );
        Err(Error::mismatch(message).hint("use the backbone that came with the prior"))
    }
}

/// A list of names that stays readable however many there are.
pub(super) fn first_few(names: &[String]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}

/// The head of a fingerprint, enough to tell two apart by eye.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}
