//! The mode of the posterior.

use super::{Approximation, Drawn, Outcome, Sampling};
use crate::error::Result;

pub(super) struct Map;

impl Approximation for Map {
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn> {
        Ok(match run.mode(0, run.start)? {
            Outcome::Ended(ending, end) => Drawn::new(vec![end], ending),
            Outcome::Diverged(error) => Drawn::diverged(Vec::new(), run.start, error),
        })
    }
}
