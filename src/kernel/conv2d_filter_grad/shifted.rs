//! The filter's cotangent as products of rows that are shifted for each tap.
//!
//! In a padded input a tap of a channel is a row of positions at an offset of its own, and so is
//! a channel of the result's cotangent with as much room between its rows: products of rows of
//! neighbours (`gemm::dots`). Some images are padded at a time.

use crate::graph::Conv2d;
use crate::kernel::gemm::dots::{Dots, Rows, Sum};
use crate::kernel::gemm::{Isa, LINE, TAPS_MAX};
use crate::kernel::padded::PaddedInput;
use crate::threads::{Parts, Threads};

/// Elements of padded planes, if those of one image are not more.
const PADDED_MAX: usize = 1 << 20;
/// Most phases of the stride: all are copied, whether taps read them or not.
const PHASES_MAX: usize = 4;
/// The room between rows is at most this part of their positions.
const ROOM_MAX: usize = 4;
/// Planes that one task copies.
const PLANES_AT_ONCE: usize = 4;

/// Whether a convolution is for this file.
pub(super) fn applies(g: &Conv2d) -> bool {
    let taps = g.kernel[0] * g.kernel[1];
    let empty = g.input.contains(&0) || g.output.contains(&0);
    if empty
        || g.groups != 1
        || !(1..=TAPS_MAX).contains(&taps)
        || g.stride[0] * g.stride[1] > PHASES_MAX
    {
        return false;
    }
    let width = PaddedInput::new(g).width();
    width * g.output[0] >= LINE && (width - g.output[1]) * ROOM_MAX <= g.output[1]
}

/// How a convolution is cut, and its scratch memory.
struct Plan {
    input: PaddedInput,
    /// Elements of a plane of the result's cotangent with room between its rows.
    len: usize,
    /// Whether that is how it lies in memory.
    fits: bool,
    /// Images padded at once.
    images: usize,
    /// Rows of both sides of the product.
    rows: [usize; 2],
}

impl Plan {
    fn new(g: &Conv2d) -> Self {
        let input = PaddedInput::new(g);
        let (len, fits) = (g.output[0] * input.width(), input.width() == g.output[1]);
        let image = g.in_channels * input.padded.len() + g.out_channels * len;
        let images = (PADDED_MAX / image.max(1)).clamp(1, g.batch.max(1));
        let rows = [g.out_channels, g.in_channels * g.kernel[0] * g.kernel[1]];
        Plan { input, len, fits, images, rows }
    }

    /// Elements of the padded inputs, and of the cotangents with room.
    fn lens(&self, g: &Conv2d) -> [usize; 2] {
        let cotangents = if self.fits { 0 } else { g.out_channels * self.len };
        [g.in_channels * self.input.padded.len(), cotangents].map(|len| self.images * len)
    }
}

/// Elements of scratch that [`filter_grad`] needs.
pub(super) fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    let plan = Plan::new(g);
    let sum = Sum::scratch_len(plan.rows, plan.images, plan.len, workers);
    plan.lens(g).iter().sum::<usize>() + sum
}

/// The filter's cotangent.
pub(super) fn filter_grad(
    isa: &'static Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, ct): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let plan = Plan::new(g);
    let [inputs_len, cotangents_len] = plan.lens(g);
    let (inputs, rest) = scratch.split_at_mut(inputs_len);
    let (cotangents, scratch) = rest.split_at_mut(cotangents_len);
    let mut sum = Sum::new(threads, plan.rows, [plan.images, plan.len], out, scratch);
    let mut offsets = [0; TAPS_MAX];
    let offsets = &mut offsets[..g.kernel[0] * g.kernel[1]];
    for (tap, offset) in offsets.iter_mut().enumerate() {
        *offset = plan.input.tap([tap / g.kernel[1], tap % g.kernel[1]]).0;
    }
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    for first in (0..g.batch).step_by(plan.images) {
        let images = plan.images.min(g.batch - first);
        let x = &x[first * g.in_channels * in_len..][..images * g.in_channels * in_len];
        let ct = &ct[first * g.out_channels * out_len..][..images * g.out_channels * out_len];
        let padded = &plan.input.padded;
        copy_planes(threads, (x, in_len), (inputs, padded.len()), |from, to| {
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.pad)(padded, from, to) }
        });
        if !plan.fits {
            copy_planes(threads, (ct, out_len), (cotangents, plan.len), |from, to| {
                to.fill(0.0);
                // SAFETY: as above.
                unsafe {
                    (isa.copy_rows)((from, g.output[1]), (to, plan.input.width()), g.output);
                }
            });
        }
        let a = if plan.fits { ct } else { &*cotangents };
        let b = Rows {
            data: inputs,
            count: plan.rows[1],
            image_stride: g.in_channels * padded.len(),
            group_stride: padded.len(),
            offsets,
        };
        let a = Rows::dense(a, plan.rows[0], plan.len);
        sum.add(&Dots { isa, a, b, images, len: plan.len });
    }
    sum.finish();
}

/// Calls `copy` with each plane and its place.
fn copy_planes(
    threads: &Threads,
    (from, from_len): (&[f32], usize),
    (to, to_len): (&mut [f32], usize),
    copy: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    let planes = from.len().checked_div(from_len).unwrap_or(0);
    let to = Parts::new(to);
    threads.run(planes.div_ceil(PLANES_AT_ONCE), |task, _| {
        for plane in task * PLANES_AT_ONCE..((task + 1) * PLANES_AT_ONCE).min(planes) {
            // SAFETY: each task has its own planes.
            let to = unsafe { to.part(plane * to_len, to_len) };
            copy(&from[plane * from_len..][..from_len], to);
        }
    });
}
