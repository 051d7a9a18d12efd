//! How kernels that write whole rows share them out among threads.

use crate::threads::{Parts, Threads};

/// Elements a task writes, roughly: enough to outweigh handing it out.
pub(super) const GRAIN: usize = 16_384;

/// Calls `body(first, rows)` for runs of whole rows, each of `row_len` elements and beginning at
/// row number `first`, that together make up `out`. The runs do not depend on the thread count.
pub(super) fn split_rows(
    threads: &Threads,
    out: &mut [f32],
    row_len: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let rows = out.len() / row_len;
    let per_task = (GRAIN / row_len).max(1);
    let parts = Parts::new(out);
    threads.run(rows.div_ceil(per_task), |task, _| {
        let first = task * per_task;
        let count = per_task.min(rows - first);
        // SAFETY: the tasks' ranges of rows are disjoint.
        let run = unsafe { parts.part(first * row_len, count * row_len) };
        body(first, run);
    });
}
