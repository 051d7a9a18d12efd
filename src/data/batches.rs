//! The order of the examples in an epoch, and targets for a batch.

use crate::error::{Error, Result};
use crate::rng::{Key, Stream};

/// One epoch: every example once, in batches; the last one may be smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batches {
    order: Vec<usize>,
    size: usize,
}

impl Batches {
    /// The examples `0..count` in the random order of `epoch` in the run seeded with `seed`.
    ///
    /// # Errors
    /// When `size` is zero.
    pub fn shuffled(count: usize, size: usize, seed: u64, epoch: u64) -> Result<Self> {
        let mut batches = Self::in_order(count, size)?;
        Key::new(seed, Stream::Shuffle).at(epoch).shuffle(&mut batches.order);
        Ok(batches)
    }

    /// The examples `0..count` in order.
    ///
    /// # Errors
    /// When `size` is zero.
    pub fn in_order(count: usize, size: usize) -> Result<Self> {
        match size {
            0 => Err(Error::invalid("the batch size is zero; expected at least one example")),
            _ => Ok(Batches { order: (0..count).collect(), size }),
        }
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.order.len().div_ceil(self.size)
    }

    /// True when there is no example.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The examples of batch `number`, to resume within an epoch.
    pub fn get(&self, number: usize) -> Option<&[usize]> {
        self.iter().nth(number)
    }

    /// The batches in order, each a list of examples.
    pub fn iter(&self) -> std::slice::Chunks<'_, usize> {
        self.order.chunks(self.size)
    }
}

impl<'a> IntoIterator for &'a Batches {
    type Item = &'a [usize];
    type IntoIter = std::slice::Chunks<'a, usize>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Writes `out: [n, classes]`, one row for each label: 1 at the label, 0 elsewhere.
///
/// # Errors
/// When a label is not a class, or `out` has another length.
pub fn one_hot(labels: &[usize], classes: usize, out: &mut [f32]) -> Result<()> {
    if labels.len().checked_mul(classes) != Some(out.len()) {
        return Err(Error::invalid(format!(
            "a buffer of {} numbers does not hold {} rows of {classes}",
            out.len(),
            labels.len(),
        )));
    }
    out.fill(0.0);
    for (index, &label) in labels.iter().enumerate() {
        if label >= classes {
            return Err(Error::mismatch(format!(
                "label {label} of example {index} is not below the number of classes, {classes}"
            )));
        }
        out[index * classes + label] = 1.0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::says;
    use super::*;

    #[test]
    fn an_epoch_has_every_example_once_and_keeps_the_last_batch() {
        let batches = Batches::shuffled(10, 4, 1, 0).expect("valid");
        let sizes: Vec<usize> = batches.iter().map(<[usize]>::len).collect();
        assert_eq!((sizes, batches.len()), (vec![4, 4, 2], 3));
        let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(batches.get(2), batches.iter().last());
        assert_eq!(batches.get(3), None);
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch() {
        let order = |seed, epoch| Batches::shuffled(50, 8, seed, epoch).expect("valid");
        assert_eq!(order(1, 2), order(1, 2));
        assert_ne!(order(1, 2), order(1, 3));
        assert_ne!(order(1, 2), order(2, 2));
    }

    #[test]
    fn extreme_sizes_work_and_zero_is_refused() {
        assert_eq!(Batches::in_order(3, 100).expect("valid").get(0), Some(&[0, 1, 2][..]));
        assert!(Batches::in_order(0, 2).expect("valid").is_empty());
        says(Batches::shuffled(3, 0, 0, 0), &["the batch size is zero"]);
    }

    #[test]
    fn targets_have_a_one_at_the_label() {
        let mut out = [9.0; 6];
        one_hot(&[2, 0], 3, &mut out).expect("valid");
        assert_eq!(out, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        says(one_hot(&[2, 3], 3, &mut out), &["label 3 of example 1", "classes, 3"]);
        says(one_hot(&[2], 3, &mut out), &["6 numbers", "1 rows of 3"]);
    }
}
