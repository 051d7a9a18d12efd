//! Single examples: what tells each from all others, and a data set as if some had never been
//! there.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::images::{Picture, Raster};
use super::targets::Targets;
use super::{Classes, Dataset, Origin, numbered, parallel};
use crate::error::{Error, Result};
use crate::threads::Threads;

#[cfg(test)]
mod tests;

/// What tells an example from others, each as 64 lower-case hex digits of a SHA-256. Where it is
/// stored and what its file is called is no part of it, nor how its pixels are compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Of its pixels.
    pub image: String,
    /// Of its pixels and its target, classes and labels by their names.
    pub example: String,
}

impl Dataset {
    /// What tells each example from the others. Images are decoded.
    ///
    /// # Errors
    /// When a file does not decode; the first in order is named.
    pub fn identities(&self, threads: &Threads) -> Result<Vec<Identity>> {
        let mut found = vec![Identity::default(); self.len()];
        let parts = found.iter_mut().collect();
        parallel::try_each(threads, parts, |index, identity: &mut Identity| {
            *identity = self.identity(self.row(index)?)?;
            Ok(())
        })?;
        Ok(found)
    }

    fn identity(&self, row: usize) -> Result<Identity> {
        let mut digest = Sha256::new();
        match self.images.load(row)? {
            Picture::Bytes(raster) => {
                add_size(&mut digest, "bytes", &raster);
                digest.update(&raster.pixels);
            }
            Picture::Floats(raster) => {
                add_size(&mut digest, "floats", &raster);
                raster.pixels.iter().for_each(|x| digest.update(x.to_le_bytes()));
            }
        }
        let image: [u8; 32] = digest.finalize().into();
        let mut digest = Sha256::new();
        digest.update(image);
        self.add_target(&mut digest, row)?;
        let example: [u8; 32] = digest.finalize().into();
        Ok(Identity { image: hex(&image), example: hex(&example) })
    }

    /// Adds the target of a stored row, by names where it has some: a class keeps its name when
    /// another is no more, not its number.
    fn add_target(&self, digest: &mut Sha256, row: usize) -> Result<()> {
        let names = self.classes();
        match &self.targets {
            None => add(digest, b"none"),
            Some(Targets::Classes(labels)) => {
                add(digest, b"class");
                add(digest, names[labels[row]].as_bytes());
            }
            Some(Targets::Labels(values)) => {
                add(digest, b"labels");
                let values = &values[row * names.len()..(row + 1) * names.len()];
                let own = names.iter().zip(values).filter(|(_, has)| **has != 0.0);
                let mut own: Vec<&String> = own.map(|(name, _)| name).collect();
                own.sort_unstable();
                own.into_iter().for_each(|name| add(digest, name.as_bytes()));
            }
            Some(targets @ Targets::Numbers(_)) => {
                add(digest, b"numbers");
                add(digest, &targets.bytes(row, names.len())?);
            }
            Some(Targets::Masks(masks)) => {
                let mask = masks.load(row)?;
                add(digest, b"mask");
                add(digest, &(mask.width as u64).to_le_bytes());
                add(digest, &mask.pixels);
            }
        }
        Ok(())
    }

    /// The examples at `indices` in that order, as if no other had ever been collected: classes and
    /// labels that only others had are no more, and what was counted from numbers is counted again.
    /// Shares no storage.
    ///
    /// # Errors
    /// When an index is out of range, there is none, or a mask does not decode.
    pub fn only(&self, indices: &[usize]) -> Result<Self> {
        let rows = indices.iter().map(|&index| self.row(index)).collect::<Result<Vec<_>>>()?;
        if rows.is_empty() {
            return Err(Error::invalid("no example would be left"));
        }
        let width = self.classes().len();
        let rest = Dataset {
            images: Arc::new(self.images.gather(&rows)),
            targets: self.targets.as_ref().map(|targets| targets.gather(&rows, width)),
            classes: Arc::clone(&self.classes),
            rows: (0..rows.len()).collect(),
        };
        let names = match (&rest.targets, self.classes.origin) {
            (Some(Targets::Classes(labels)), Origin::Numbered) => {
                numbered(labels.iter().max().map_or(0, |max| max + 1))
            }
            (Some(Targets::Masks(masks)), Origin::Numbered) => numbered(masks.classes()?),
            (Some(Targets::Classes(_) | Targets::Labels(_)), Origin::Named) => {
                let (before, after) = (self.used_names()?, rest.used_names()?);
                return Ok(rest.with_names_where(|name| after[name] || !before[name]));
            }
            _ => return Ok(rest),
        };
        Ok(Dataset { classes: Arc::new(Classes { names, origin: Origin::Numbered }), ..rest })
    }

    /// Of each class or label, whether an example has it.
    fn used_names(&self) -> Result<Vec<bool>> {
        let mut used = vec![false; self.classes().len()];
        for &row in &*self.rows {
            match &self.targets {
                Some(Targets::Classes(labels)) => used[labels[row]] = true,
                Some(Targets::Labels(values)) => {
                    let values = &values[row * used.len()..(row + 1) * used.len()];
                    used.iter_mut().zip(values).for_each(|(used, has)| *used |= *has != 0.0);
                }
                _ => return Err(Error::internal("these targets have no names")),
            }
        }
        Ok(used)
    }

    /// The same without the classes or labels, which no example has, that are not to be kept.
    fn with_names_where(self, is_kept: impl Fn(usize) -> bool) -> Self {
        let own = self.classes();
        let kept: Vec<usize> = (0..own.len()).filter(|&name| is_kept(name)).collect();
        let targets = match &self.targets {
            Some(Targets::Classes(labels)) => {
                let place = |label: &usize| kept.binary_search(label).unwrap_or(0);
                Some(Targets::Classes(labels.iter().map(place).collect()))
            }
            Some(Targets::Labels(values)) => {
                let of = |row: &[f32]| kept.iter().map(|&name| row[name]).collect::<Vec<_>>();
                Some(Targets::Labels(values.chunks_exact(own.len()).flat_map(of).collect()))
            }
            other => other.clone(),
        };
        let names = kept.iter().map(|&name| own[name].clone()).collect();
        let classes = Arc::new(Classes { names, origin: self.classes.origin });
        Dataset { targets, classes, ..self }
    }

    /// The files of example `index`: its image, and its mask if it has one; none of arrays.
    pub fn files(&self, index: usize) -> Vec<&Path> {
        let mask = match (&self.targets, self.rows.get(index)) {
            (Some(Targets::Masks(masks)), Some(&row)) => masks.path(row),
            _ => None,
        };
        self.path(index).into_iter().chain(mask).collect()
    }
}

/// Adds bytes in a way that no others add the same.
fn add(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

fn add_size<T: Clone>(digest: &mut Sha256, kind: &str, raster: &Raster<'_, T>) {
    let Raster { planes, height, width, interleaved, .. } = *raster;
    add(digest, kind.as_bytes());
    for extent in [planes, height, width, interleaved] {
        digest.update((extent as u64).to_le_bytes());
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
