//! Depthwise convolutions, where each input channel has filters of its own.
//!
//! A product would have one column of K per tap and waste most of a tile. Instead each plane is
//! copied with its padding, split by the stride so that neighbours are next to each other; then a
//! tap is a constant offset and a plane is filtered as one long row. Positions in the padding
//! between rows are computed and dropped.

use crate::graph::Conv2d;
use crate::kernel::Epilogue;
use crate::kernel::conv2d_input_grad::Axis;
use crate::kernel::gemm::{FlatTap, Isa, Padded, TAPS_AT_ONCE, Write};
use crate::threads::{Parts, Threads};

/// Most filters of one input channel that are not better done as a product.
const MULTIPLIER_MAX: usize = 4;
/// Neighbouring channels of one task, where each sums over all images.
const CHANNELS_AT_ONCE: usize = 4;
/// Most taps of a filter; larger filters are products.
const TAPS_MAX: usize = 128;
/// Most phases of the stride.
const PHASES_MAX: usize = 4;

/// Whether a convolution is for this file.
pub(super) fn applies(g: &Conv2d) -> bool {
    let one_channel = g.groups == g.in_channels && g.groups > 0;
    let few = (1..=TAPS_MAX).contains(&(g.kernel[0] * g.kernel[1]))
        && g.stride[0] * g.stride[1] <= PHASES_MAX;
    one_channel && few && (1..=MULTIPLIER_MAX).contains(&(g.out_channels / g.groups))
}

/// The padded input of a convolution.
fn padded_input(g: &Conv2d) -> Padded {
    let extent = [0, 1].map(|axis| {
        let reach = g.kernel[axis].saturating_sub(1) * g.dilation[axis];
        g.output[axis] + reach / g.stride[axis]
    });
    let origin = g.pad.map(|pad| -(pad as isize));
    Padded { plane: g.input, stride: g.stride, origin, extent }
}

/// The padded cotangent of the result, as far as the input's cotangent needs it.
fn padded_cotangent(g: &Conv2d) -> Padded {
    let ends = [0, 1].map(|axis| {
        let axes = (0..g.stride[axis]).map(|first| Axis::new(g, axis, first));
        axes.filter(|axis| axis.taps > 0 && axis.positions > 0).fold(None, |ends, axis| {
            let (low, high) = ends.unwrap_or((isize::MAX, isize::MIN));
            let first = axis.origin + (axis.taps as isize - 1) * axis.step;
            Some((low.min(first), high.max(axis.origin + axis.positions as isize)))
        })
    });
    Padded {
        plane: g.output,
        stride: [1, 1],
        origin: ends.map(|ends| ends.map_or(0, |(low, _)| low)),
        extent: ends.map(|ends| ends.map_or(0, |(low, high)| (high - low) as usize)),
    }
}

/// Copies a plane to its padded form.
fn pad(isa: &Isa, padded: &Padded, plane: &[f32], to: &mut [f32]) {
    // SAFETY: an instruction set is only handed out where the processor has it.
    unsafe { (isa.pad)(padded, plane, to) }
}

/// Some taps of the filters: numbers in the filter, and offsets in a padded plane.
#[derive(Clone, Copy)]
struct Taps {
    count: usize,
    numbers: [usize; TAPS_MAX],
    offsets: [usize; TAPS_MAX],
}

impl Taps {
    const NONE: Taps = Taps { count: 0, numbers: [0; TAPS_MAX], offsets: [0; TAPS_MAX] };

    /// All taps over the padded input.
    fn input(g: &Conv2d, padded: &Padded) -> Self {
        let mut taps = Self::NONE;
        for (i, j) in (0..g.kernel[0]).flat_map(|i| (0..g.kernel[1]).map(move |j| (i, j))) {
            taps.push(taps.count, padded.offset(i * g.dilation[0], j * g.dilation[1]));
        }
        taps
    }

    /// The taps that a phase of the input meets, over the padded cotangent of the result.
    fn cotangent(g: &Conv2d, padded: &Padded, [y, x]: &[Axis; 2]) -> Self {
        let [top, left] = [y.origin - padded.origin[0], x.origin - padded.origin[1]];
        let mut taps = Self::NONE;
        for (i, j) in (0..y.taps).flat_map(|i| (0..x.taps).map(move |j| (i, j))) {
            let number = (y.tap + i * y.tap_stride) * g.kernel[1] + x.tap + j * x.tap_stride;
            let down = (top + i as isize * y.step) as usize;
            let right = (left + j as isize * x.step) as usize;
            taps.push(number, padded.offset(down, right));
        }
        taps
    }

    fn push(&mut self, number: usize, offset: usize) {
        (self.numbers[self.count], self.offsets[self.count]) = (number, offset);
        self.count += 1;
    }

    /// Filters a padded plane as one row.
    fn filter(&self, isa: &Isa, plane: &[f32], filter: &[f32], write: Write, to: &mut [f32]) {
        let mut taps = [FlatTap::default(); TAPS_MAX];
        let pairs = self.numbers.iter().zip(&self.offsets);
        for (to, (&number, &offset)) in taps[..self.count].iter_mut().zip(pairs) {
            *to = FlatTap { offset, weight: filter[number] };
        }
        // SAFETY: an instruction set is only handed out where the processor has it.
        unsafe { (isa.filter)(plane, &taps[..self.count], write, to) };
    }

    /// Adds the correlation of `flat` and `plane` under each tap to `filter`.
    fn correlate(&self, isa: &Isa, flat: &[f32], plane: &[f32], filter: &mut [f32]) {
        let offsets = self.offsets[..self.count].chunks(TAPS_AT_ONCE);
        for (offsets, filter) in offsets.zip(filter.chunks_mut(TAPS_AT_ONCE)) {
            let offsets = std::array::from_fn(|i| offsets[i.min(offsets.len() - 1)]);
            // SAFETY: an instruction set is only handed out where the processor has it.
            let sums = unsafe { (isa.correlate)(flat, plane, &offsets) };
            filter.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
        }
    }
}

/// Elements of scratch that the forward pass needs.
pub(super) fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    let padded = padded_input(g);
    workers * (padded.len() + padded.flat_len(g.output[0]))
}

/// Elements of scratch that the input's cotangent needs.
pub(super) fn input_grad_scratch_len(g: &Conv2d, workers: usize) -> usize {
    let padded = padded_cotangent(g);
    let rows = g.input[0].div_ceil(g.stride[0]);
    workers * (g.out_channels / g.groups * padded.len() + padded.flat_len(rows))
}

/// Elements of scratch that the filter's cotangent needs.
pub(super) fn filter_grad_scratch_len(g: &Conv2d, workers: usize) -> usize {
    scratch_len(g, workers)
}

/// The convolution; each task does the results of one input plane.
pub(super) fn forward(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let padded = padded_input(g);
    let local_len = scratch_len(g, 1);
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let (multiplier, len) = (g.out_channels / g.groups, g.kernel[0] * g.kernel[1]);
    let (out, scratch) = (Parts::new(out), Parts::new(scratch));
    let taps = Taps::input(g, &padded);
    if out_len == 0 {
        return;
    }
    threads.run(g.batch * g.in_channels, |task, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (plane, flat) = local.split_at_mut(padded.len());
        pad(isa, &padded, &x[task * in_len..][..in_len], plane);
        for index in 0..multiplier {
            let filter = (task % g.in_channels * multiplier + index) * len;
            taps.filter(isa, plane, &w[filter..filter + len], Write::Set, flat);
            let start = (task * multiplier + index) * out_len;
            // SAFETY: each task has its own planes of the result.
            let to = unsafe { out.part(start, out_len) };
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.copy_rows)((flat, padded.extent[1]), (to, g.output[1]), g.output) };
            if let Some(epilogue) = epilogue {
                epilogue.apply(start, to, worker);
            }
        }
    });
}

/// The input's cotangent; each task does one plane of it.
pub(super) fn input_grad(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (ct, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let padded = padded_cotangent(g);
    let local_len = input_grad_scratch_len(g, 1);
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let multiplier = g.out_channels / g.groups;
    let filters_len = multiplier * g.kernel[0] * g.kernel[1];
    let mut phases = [const { None }; PHASES_MAX];
    for (number, phase) in phases.iter_mut().enumerate().take(g.stride[0] * g.stride[1]) {
        let firsts = [number / g.stride[1], number % g.stride[1]];
        let axes = [0, 1].map(|axis| Axis::new(g, axis, firsts[axis]));
        *phase = Some((axes, Taps::cotangent(g, &padded, &axes)));
    }
    let (out, scratch) = (Parts::new(out), Parts::new(scratch));
    threads.run(g.batch * g.in_channels, |task, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (planes, flat) = local.split_at_mut(multiplier * padded.len());
        for (index, plane) in planes.chunks_exact_mut(padded.len()).enumerate() {
            pad(isa, &padded, &ct[(task * multiplier + index) * out_len..][..out_len], plane);
        }
        let filters = &w[task % g.in_channels * filters_len..][..filters_len];
        // SAFETY: each task has its own plane of the result.
        let to = unsafe { out.part(task * in_len, in_len) };
        for (axes, taps) in phases.iter().flatten() {
            let filters = filters.chunks_exact(filters_len / multiplier);
            let planes = planes.chunks_exact(padded.len()).zip(filters);
            input_grad_phase(isa, g, &padded, (axes, taps), planes, flat, to);
        }
        if let Some(epilogue) = epilogue {
            epilogue.apply(task * in_len, to, worker);
        }
    });
}

/// The positions of one phase of an input plane's cotangent, from all `planes` it went to with
/// their filters.
fn input_grad_phase<'a>(
    isa: &Isa,
    g: &Conv2d,
    padded: &Padded,
    ([y, x], taps): (&[Axis; 2], &Taps),
    planes: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    flat: &mut [f32],
    to: &mut [f32],
) {
    if y.positions == 0 || x.positions == 0 {
        return;
    }
    let flat = &mut flat[..padded.flat_len(y.positions)];
    let mut write = Write::Set;
    if taps.count == 0 {
        flat.fill(0.0);
    }
    for (plane, filter) in planes.filter(|_| taps.count > 0) {
        taps.filter(isa, plane, filter, write, flat);
        write = Write::Add;
    }
    if g.stride == [1, 1] {
        // SAFETY: an instruction set is only handed out where the processor has it.
        unsafe { (isa.copy_rows)((flat, padded.extent[1]), (to, g.input[1]), g.input) };
        return;
    }
    for row in 0..y.positions {
        let from = flat[row * padded.extent[1]..].iter().take(x.positions);
        let start = (y.first + row * g.stride[0]) * g.input[1] + x.first;
        to[start..].iter_mut().step_by(g.stride[1]).zip(from).for_each(|(to, &from)| *to = from);
    }
}

/// The filter's cotangent; each task does the filters of a few input channels.
pub(super) fn filter_grad(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, ct): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let padded = padded_input(g);
    let local_len = filter_grad_scratch_len(g, 1);
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let (multiplier, taps) = (g.out_channels / g.groups, Taps::input(g, &padded));
    let (out, scratch) = (Parts::new(out), Parts::new(scratch));
    let tasks = g.in_channels.div_ceil(CHANNELS_AT_ONCE);
    threads.run(tasks, |task, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (plane, flat) = local.split_at_mut(padded.len());
        let first = task * CHANNELS_AT_ONCE;
        let channels = first..(first + CHANNELS_AT_ONCE).min(g.in_channels);
        let len = multiplier * taps.count;
        // SAFETY: each task has its own filters.
        let filters = unsafe { out.part(first * len, channels.len() * len) };
        filters.fill(0.0);
        flat.fill(0.0);
        let planes = (0..g.batch).flat_map(|image| channels.clone().map(move |c| (image, c)));
        for (image, channel) in planes.filter(|_| out_len > 0 && len > 0) {
            let index = image * g.in_channels + channel;
            pad(isa, &padded, &x[index * in_len..][..in_len], plane);
            let filters = &mut filters[(channel - first) * len..][..len];
            for (m, filter) in filters.chunks_exact_mut(taps.count).enumerate() {
                let from = &ct[(index * multiplier + m) * out_len..][..out_len];
                // SAFETY: an instruction set is only handed out where the processor has it.
                unsafe { (isa.copy_rows)((from, g.output[1]), (flat, padded.extent[1]), g.output) };
                taps.correlate(isa, flat, plane, filter);
            }
        }
    });
}
