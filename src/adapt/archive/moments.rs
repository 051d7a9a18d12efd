//! Moments of snapshots in an archive: `count`, and for each parameter `mean/<name>` and
//! `m2/<name>` (F64) and, of each deviation a row, `dev/<name>` (F32).

use super::{Archive, Array, Arrays};
use crate::error::Result;
use crate::prior::{Moments, Running};
use crate::tensor::Shape;

/// What `moments` consist of.
pub(in crate::adapt) fn arrays_of(moments: &Moments) -> Arrays<'_> {
    let mut arrays = Arrays::from([("count".to_string(), Array::number(moments.count() as f64))]);
    for Running { name, mean, m2, deviations, .. } in moments.running() {
        arrays.insert(format!("mean/{name}"), Array::doubles(mean));
        arrays.insert(format!("m2/{name}"), Array::doubles(m2));
        if !deviations.is_empty() {
            arrays.insert(format!("dev/{name}"), Array::rows(deviations));
        }
    }
    arrays
}

impl Archive {
    /// The moments of parameters of these names and shapes, in their order.
    ///
    /// # Errors
    /// When they are none of at most `max_rank` deviations.
    pub(in crate::adapt) fn moments<'a>(
        &self,
        max_rank: usize,
        parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
    ) -> Result<Moments> {
        let count = self.number("count")? as u64;
        let running =
            parameters.filter(|_| count > 0).map(|(name, shape)| self.running(name, shape));
        Moments::restore(max_rank, count, running.collect::<Result<_>>()?)
    }

    /// Whether these fit is found out when they are restored.
    fn running(&self, name: &str, shape: &[usize]) -> Result<Running> {
        let dev = format!("dev/{name}");
        let rows = if self.has(&dev) { self.singles(&dev)? } else { Vec::new() };
        let len = shape.iter().product::<usize>().max(1);
        Ok(Running {
            name: name.to_string(),
            shape: Shape::from(shape),
            mean: self.doubles(&format!("mean/{name}"))?,
            m2: self.doubles(&format!("m2/{name}"))?,
            deviations: rows.chunks(len).map(<[f32]>::to_vec).collect(),
        })
    }
}
