//! The cotangent of the filters: the products at each point are summed over tiles.
//!
//! With many tiles, channels stay rows of tiles, and only one side of their products is turned as
//! it is multiplied (`gemm::dots`); but that is done for each block of features. With many
//! channels, tiles become rows of channels instead, both sides as they are transformed.

mod rows;
mod turned;

use super::TAPS;
use crate::graph::Conv2d;
use crate::kernel::gemm::{Isa, LINE, LINES, STEP};
use crate::threads::Threads;

/// Elements of transformed input and cotangents that are made before they are multiplied.
const PANELS_MAX: usize = 1 << 21;
/// Tiles of a block, about.
const TILES: usize = 128;
/// Products of a feature and a channel that take as long as turning a tile of either.
const TURN_COST: usize = 8;

/// Whether rows of tiles are to be multiplied: where there are few channels for the tiles.
fn has_long_rows(g: &Conv2d) -> bool {
    let tiles = g.batch * g.output.map(|extent| extent.div_ceil(STEP)).iter().product::<usize>();
    let (a, b) = (g.in_channels, g.out_channels);
    TURN_COST * a * b <= tiles * (a + b)
}

/// Elements of scratch that [`filter_grad`] needs.
pub(in crate::kernel) fn filter_grad_scratch_len(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    match has_long_rows(g) {
        true => rows::scratch_len(g, workers),
        false => turned::scratch_len(isa, g, workers),
    }
}

/// The filter's cotangent.
pub(in crate::kernel) fn filter_grad(
    isa: &'static Isa,
    threads: &Threads,
    g: &Conv2d,
    operands: (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    match has_long_rows(g) {
        true => rows::filter_grad(isa, threads, g, operands, out, scratch),
        false => turned::filter_grad(isa, threads, g, operands, out, scratch),
    }
}

/// Transforms the sums of up to a line of neighbouring filters, each point `stride` after the one
/// before.
fn store_filters(isa: &Isa, (sums, stride): (&[f32], usize), filters: &mut [f32]) {
    let mut lines = [0.0; LINES];
    // SAFETY: an instruction set is only handed out where the processor has it.
    unsafe { (isa.winograd.filter_grad)(sums, stride, lines.as_mut_ptr(), LINE) };
    for (lane, filter) in filters.chunks_exact_mut(TAPS).enumerate() {
        let taps = lines.iter().skip(lane).step_by(LINE);
        filter.iter_mut().zip(taps).for_each(|(to, &from)| *to = from);
    }
}
