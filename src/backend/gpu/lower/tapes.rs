//! Tapes over their whole iteration space.

use super::{Limits, parts, window};
use crate::backend::gpu::code::{self, Code, SPACE};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params;
use crate::error::Result;
use crate::kernel::tape::Tape;

use bytemuck::bytes_of;

/// A tape run over its iteration space.
pub(super) fn map(tape: &Tape, limits: &Limits) -> Result<Vec<Launch>> {
    let code = code::producer(tape, 3)?;
    let count = tape.len();
    let launch = |part: std::ops::Range<usize>| {
        let len = part.len();
        let params = params::Map { len: len as u32, spare0: 0, spare1: 0, spare2: 0 };
        let out = window(&part, count, 1);
        let builder = Builder::new("map", &params).variant(&code.text).bind_window(
            2,
            Access::Write,
            Bound::Result(0),
            out,
        );
        bind_tape(builder, &code, part.start, out, |operand| operand).elements(len)
    };
    Ok(parts(limits, count, &[1])?.into_iter().map(launch).collect())
}

/// Binds a tape's space, which starts at element `base`, and its operands: contiguous ones by
/// `window`, the others whole; `number` tells which operand of the dispatch each is.
pub(super) fn bind_tape(
    builder: Builder,
    code: &Code,
    base: usize,
    window: Option<(usize, usize)>,
    number: impl Fn(usize) -> usize,
) -> Builder {
    let mut space = code.space;
    space.base = base as u32;
    let space = Bound::Params(bytes_of(&space).to_vec());
    let builder = builder.bind(SPACE, Access::Uniform, space);
    code.operands.iter().fold(builder, |builder, operand| {
        let window = if operand.contiguous { window } else { None };
        let bound = Bound::Operand(number(operand.operand));
        builder.bind_window(operand.at, Access::Read, bound, window)
    })
}
