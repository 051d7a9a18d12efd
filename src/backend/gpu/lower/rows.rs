//! Work along the rows of a matrix.

use super::{Limits, items, parts};
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
        let of_part = items(limits, &part, rows, columns);
        let params = params::Softmax {
            rows: part.len() as u32,
            columns: columns as u32,
            lanes_log: lanes.ilog2(),
            spare: 0,
            first: of_part.first,
            spare1: 0,
            spare2: 0,
            spare3: 0,
        };
        Builder::new(shader, &params)
            .bind_window(2, Access::Read, Bound::Operand(0), of_part.window)
            .bind_window(3, Access::Write, Bound::Result(0), of_part.window)
            .launch(part.len().div_ceil(WORKGROUP / lanes), 0)
    };
    Ok(parts(limits, rows, &[columns])?.into_iter().map(launch).collect())
}
