//! Stratified subsets: the same part of every class, chosen by the seed.

use super::{Dataset, unlabelled};
use crate::error::{Error, Result};
use crate::rng::{Key, Stream};

#[cfg(test)]
mod tests;

impl Dataset {
    /// Splits into examples to train on and `fraction` of them held out, the same part of every
    /// class as nearly as whole examples allow. Every class keeps one example to train on.
    ///
    /// # Errors
    /// When the data set is unlabelled or `fraction` is not in `0..1`.
    pub fn split(&self, seed: u64, fraction: f64) -> Result<(Self, Self)> {
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::invalid(format!(
                "the part to hold out is {fraction}; expected at least 0 and less than 1"
            )));
        }
        // Rounding the running total instead of each class keeps the whole close to the fraction.
        let (mut seen, mut held) = (0, 0);
        self.divide(seed, |count| {
            seen += count;
            let due = (fraction * seen as f64).round() as usize;
            let take = due.saturating_sub(held).min(count.saturating_sub(1));
            held += take;
            count - take
        })
    }

    /// Splits into `per_class` examples of every class, or all where there are fewer, and the rest.
    ///
    /// # Errors
    /// When the data set is unlabelled or `per_class` is zero.
    pub fn few(&self, seed: u64, per_class: usize) -> Result<(Self, Self)> {
        match per_class {
            0 => Err(Error::invalid("zero examples for each class; expected at least one")),
            _ => self.divide(seed, |count| count.min(per_class)),
        }
    }

    /// `count` sets of examples to hold out in turn: disjoint, and of every class nearly the same
    /// part in each. The only example of a class is in none, nor are all of a class in one.
    ///
    /// # Errors
    /// When the data set is unlabelled, or there are fewer than two sets.
    pub fn folds(&self, seed: u64, count: usize) -> Result<Vec<Vec<usize>>> {
        if count < 2 {
            return Err(Error::invalid(format!("{count} folds; expected at least two")));
        }
        let mut folds = vec![Vec::new(); count];
        let mut next = 0;
        for (class, mut members) in self.members()?.into_iter().enumerate() {
            if members.len() < 2 {
                continue;
            }
            Key::new(seed, Stream::Split).at(class as u64).shuffle(&mut members);
            for member in members {
                folds[next % count].push(member);
                next += 1;
            }
        }
        folds.iter_mut().for_each(|fold| fold.sort_unstable());
        Ok(folds)
    }

    /// Splits every class, in random order, after as many examples as `keep` says of its count.
    /// Both parts are in the order of this data set.
    fn divide(&self, seed: u64, mut keep: impl FnMut(usize) -> usize) -> Result<(Self, Self)> {
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        for (class, mut members) in self.members()?.into_iter().enumerate() {
            Key::new(seed, Stream::Split).at(class as u64).shuffle(&mut members);
            let after = members.split_off(keep(members.len()));
            kept.extend(members);
            rest.extend(after);
        }
        kept.sort_unstable();
        rest.sort_unstable();
        Ok((self.subset(&kept)?, self.subset(&rest)?))
    }

    /// The examples of each class.
    fn members(&self) -> Result<Vec<Vec<usize>>> {
        let mut members = vec![Vec::new(); self.classes().len()];
        for index in 0..self.len() {
            members[self.label(index).ok_or_else(unlabelled)?].push(index);
        }
        Ok(members)
    }
}
