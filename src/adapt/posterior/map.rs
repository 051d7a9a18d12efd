//! The mode of the posterior.

use super::{Approximation, Drawn, Sampling};
use crate::error::Result;

pub(super) struct Map;

impl Approximation for Map {
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn> {
        let (ending, end) = run.map()?;
        Ok(Drawn::new(vec![end], ending))
    }
}
