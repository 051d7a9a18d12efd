//! Work along the rows of a matrix.

use super::{Limits, parts, window};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch, WORKGROUP};
use crate::backend::gpu::params;
use crate::error::Result;

/// `softmax` or `log_softmax` of each row.
pub(super) fn rows(
    shader: &'static str,
    rows: usize,
    columns: usize,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let lanes = columns.next_power_of_two().clamp(1, WORKGROUP);
    let launch = |part: std::ops::Range<usize>| {
        let params = params::Softmax {
            rows: part.len() as u32,
            columns: columns as u32,
            lanes_log: lanes.ilog2(),
            spare: 0,
        };
        let window = window(&part, rows, columns);
        Builder::new(shader, &params)
            .bind_window(2, Access::Read, Bound::Operand(0), window)
            .bind_window(3, Access::Write, Bound::Result(0), window)
            .launch(part.len().div_ceil(WORKGROUP / lanes), 0)
    };
    Ok(parts(limits, rows, &[columns])?.into_iter().map(launch).collect())
}
