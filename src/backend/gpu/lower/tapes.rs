//! Tapes over their whole iteration space.

use std::ops::Range;

use bytemuck::bytes_of;

use super::cut::{aligned, flat_ranges, span};
use super::{Limits, window};
use crate::backend::gpu::code::{self, Code, SPACE};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params;
use crate::error::Result;
use crate::kernel::tape::{Tape, View};

/// A tape run over its iteration space.
pub(super) fn map(tape: &Tape, limits: &Limits) -> Result<Vec<Launch>> {
    let code = code::producer(tape, 3)?;
    let result = View(row_major(&tape.extents));
    let views: Vec<&View> = tape.views.iter().chain([&result]).collect();
    let launch = |part: Range<usize>| {
        let start = aligned(limits, part.start);
        let len = part.end - start;
        let params = params::Map {
            len: len as u32,
            skipped: (part.start - start) as u32,
            spare1: 0,
            spare2: 0,
        };
        let out = window(&(start..part.end), tape.len(), 1);
        let builder = Builder::new("map", &params).variant(&code.text).bind_window(
            2,
            Access::Write,
            Bound::Result(0),
            out,
        );
        bind_tape(builder, &code, &part, limits, |operand| operand).elements(len)
    };
    Ok(flat_ranges(&tape.extents, &views, limits)?.into_iter().map(launch).collect())
}

/// The strides of a space in row-major order.
pub(super) fn row_major(extents: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; extents.len()];
    for axis in (1..extents.len()).rev() {
        strides[axis - 1] = strides[axis] * extents[axis];
    }
    strides
}

/// Binds a tape's space, of which `part` is walked, and what the part reads of each operand; its
/// element 0 is the last aligned one up to the part's start. `number` tells which operand of the
/// dispatch each is.
pub(super) fn bind_tape(
    mut builder: Builder,
    code: &Code<'_>,
    part: &Range<usize>,
    limits: &Limits,
    number: impl Fn(usize) -> usize,
) -> Builder {
    let Tape { extents, views, .. } = code.tape;
    let base = aligned(limits, part.start);
    let mut space = code.space;
    space.base = base as u32;
    let mut windows = Vec::new();
    for operand in &code.operands {
        let view = &views[operand.operand];
        let len = view.operand_len(extents).unwrap_or(0);
        let (start, end) = match operand.contiguous {
            true => (base, part.end),
            false if len <= limits.binding => (0, len),
            false => {
                let span = span(extents, view, part);
                let start = aligned(limits, span.start);
                space.origins[operand.operand] = start as u32;
                (start, span.end)
            }
        };
        windows.push(window(&(start..end), len, 1));
    }
    builder = builder.bind(SPACE, Access::Uniform, Bound::Params(bytes_of(&space).to_vec()));
    code.operands.iter().zip(windows).fold(builder, |builder, (operand, window)| {
        let bound = Bound::Operand(number(operand.operand));
        builder.bind_window(operand.at, Access::Read, bound, window)
    })
}
