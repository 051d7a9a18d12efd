//! Depthwise convolutions, where each input channel has filters of its own.
//!
//! A product would have one column of K per tap and waste most of a tile. Instead each plane is
//! copied with zero rows above and below, split by the stride so that neighbours are next to each
//! other; then a tap is a constant offset and a plane is filtered as one long row, from which
//! masks take what taps read beyond the ends of its rows (`gemm::flat`). Where rows of the result
//! are as long as those that are read, they are written where they belong.

use std::ops::Range;

use crate::graph::Conv2d;
use crate::kernel::Epilogue;
use crate::kernel::conv2d_input_grad::Axis;
use crate::kernel::gemm::{
    FLAT_UNIT, FlatTap, Isa, LINE, Padded, TAPS_MAX, Taps, Write, fill_mask,
};
use crate::kernel::padded::PaddedInput;
use crate::threads::{Parts, Threads};

/// Most filters of one input channel that are not better done as a product.
const MULTIPLIER_MAX: usize = 4;
/// Most columns of a filter: each needs a mask as large as a plane.
const WIDTH_MAX: usize = 16;
/// Neighbouring channels of one task, where each sums over all images.
const CHANNELS_AT_ONCE: usize = 4;
/// Elements of the planes of one task, if a plane is not larger.
const RUN: usize = 4096;
/// Tasks wanted for each worker.
const TASKS_PER_WORKER: usize = 4;
/// Most phases of the stride.
const PHASES_MAX: usize = 4;

/// Whether a convolution is for this file.
pub(super) fn applies(g: &Conv2d) -> bool {
    let one_channel = g.groups == g.in_channels && g.groups > 0;
    let few = (1..=TAPS_MAX).contains(&(g.kernel[0] * g.kernel[1]))
        && g.stride[0] * g.stride[1] <= PHASES_MAX;
    let near = g.kernel[1] <= WIDTH_MAX && PaddedInput::is_compact(g);
    one_channel && few && near && (1..=MULTIPLIER_MAX).contains(&(g.out_channels / g.groups))
}

/// The masks that some taps need, one for each distance sideways.
struct Masks {
    /// Elements of a row.
    width: usize,
    /// Elements of a mask.
    len: usize,
    count: usize,
    rights: [isize; WIDTH_MAX],
}

impl Masks {
    fn new([rows, width]: [usize; 2]) -> Self {
        let len = (rows * width).next_multiple_of(FLAT_UNIT);
        Masks { width, len, count: 0, rights: [0; WIDTH_MAX] }
    }

    /// Where the mask of taps `right` of their position starts; none where all of the first
    /// `positions` of a row have them.
    fn of(&mut self, right: isize, positions: usize) -> Option<usize> {
        let beyond = positions as isize + right > self.width as isize;
        if right == 0 || right > 0 && !beyond {
            return None;
        }
        let known = self.rights[..self.count].iter().position(|&known| known == right);
        let index = known.unwrap_or(self.count);
        self.rights[index] = right;
        self.count = self.count.max(index + 1);
        Some(index * self.len)
    }

    fn scratch_len(&self) -> usize {
        self.count * self.len
    }

    /// Fills the first part of the scratch; returns it and the rest.
    fn fill<'a>(&self, scratch: &'a mut [f32]) -> (&'a [f32], &'a mut [f32]) {
        let (masks, rest) = scratch.split_at_mut(self.scratch_len());
        if self.len > 0 {
            let masks = masks.chunks_exact_mut(self.len).zip(&self.rights);
            masks.for_each(|(mask, &right)| fill_mask(self.width, right, mask));
        }
        (masks, rest)
    }
}

/// The input of a convolution as its taps read it.
struct Input {
    padded: Padded,
    masks: Masks,
    taps: Taps,
}

impl Input {
    fn new(g: &Conv2d) -> Self {
        let input = PaddedInput::tight(g);
        let mut masks = Masks::new([g.output[0], input.width()]);
        let mut taps = Taps::NONE;
        for j in 0..g.kernel[1] {
            let column = (0..g.kernel[0]).map(|i| {
                let (offset, _) = input.tap([i, j]);
                FlatTap { number: i * g.kernel[1] + j, offset }
            });
            taps.push(masks.of(input.tap([0, j]).1, g.output[1]), column);
        }
        let padded = input.padded;
        Input { padded, masks, taps }
    }

    /// Whether rows of the result are as long as those that are read.
    fn fits(&self, g: &Conv2d) -> bool {
        self.padded.extent[1] == g.output[1]
    }

    /// Elements of a plane's positions where they do not fit the result.
    fn flat_len(&self, g: &Conv2d) -> usize {
        if self.fits(g) { 0 } else { g.output[0] * self.padded.extent[1] }
    }
}

/// The result's cotangent as the taps of each phase of the input read it.
struct Cotangent {
    padded: Padded,
    masks: Masks,
    phases: [Phase; PHASES_MAX],
    /// Elements of the positions of one phase, at most.
    flat_len: usize,
}

/// The positions of the input that are equal modulo the stride.
#[derive(Clone, Copy)]
struct Phase {
    axes: [Axis; 2],
    taps: Taps,
}

impl Cotangent {
    fn new(g: &Conv2d) -> Self {
        let axes = |axis: usize| (0..g.stride[axis]).map(move |first| Axis::new(g, axis, first));
        // The first and the last distance of all taps, and the most positions.
        let reach = |axis: usize| {
            axes(axis).fold((0, 0, 0), |(low, high, positions), axis| {
                let positions = positions.max(axis.positions);
                if axis.taps == 0 || axis.positions == 0 {
                    return (low, high, positions);
                }
                let first = axis.origin + (axis.taps as isize - 1) * axis.step;
                (low.min(first), high.max(axis.origin), positions)
            })
        };
        let ((top, bottom, rows), (left, right, columns)) = (reach(0), reach(1));
        let width = g.output[1].max(columns);
        let padded = Padded {
            plane: g.output,
            stride: [1, 1],
            origin: top,
            extent: [rows + (bottom - top) as usize, width],
            before: (-left) as usize,
            after: right as usize,
        };
        let mut masks = Masks::new([rows, width]);
        let phases = std::array::from_fn(|number| {
            let firsts = [number / g.stride[1] % g.stride[0], number % g.stride[1]];
            let axes = [0, 1].map(|axis| Axis::new(g, axis, firsts[axis]));
            Phase { axes, taps: cotangent_taps(g, &padded, &mut masks, &axes) }
        });
        Cotangent { padded, masks, phases, flat_len: rows * width }
    }

    /// Whether the one phase there is has rows as long as those that are read.
    fn fits(&self, g: &Conv2d) -> bool {
        g.stride == [1, 1] && self.padded.extent[1] == g.input[1]
    }
}

/// The taps that a phase of the input meets, over the padded cotangent of the result.
fn cotangent_taps(g: &Conv2d, padded: &Padded, masks: &mut Masks, [y, x]: &[Axis; 2]) -> Taps {
    let mut taps = Taps::NONE;
    if y.positions == 0 || x.positions == 0 {
        return taps;
    }
    for j in 0..x.taps {
        let right = x.origin + j as isize * x.step;
        let column = (0..y.taps).map(|i| {
            let down = (y.origin + i as isize * y.step - padded.origin) as usize;
            let number = (y.tap + i * y.tap_stride) * g.kernel[1] + x.tap + j * x.tap_stride;
            FlatTap { number, offset: padded.offset(0, down, right) }
        });
        taps.push(masks.of(right, x.positions), column);
    }
    taps
}

/// Elements of scratch that the forward pass needs.
pub(super) fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    let results = Results::scratch_len(g.out_channels / g.groups * g.output[0] * g.output[1]);
    scratch_len_of(g, workers, results)
}

/// Elements of scratch that the input's cotangent needs.
pub(super) fn input_grad_scratch_len(g: &Conv2d, workers: usize) -> usize {
    let cotangent = Cotangent::new(g);
    let results = Results::scratch_len(g.input[0] * g.input[1]);
    cotangent.masks.scratch_len() + workers * (results + input_grad_local_len(g, &cotangent))
}

/// Elements of scratch that the filter's cotangent needs.
pub(super) fn filter_grad_scratch_len(g: &Conv2d, workers: usize) -> usize {
    let taps = g.kernel[0] * g.kernel[1];
    scratch_len_of(g, workers, CHANNELS_AT_ONCE * g.out_channels / g.groups * taps * LINE)
}

/// Elements of scratch for planes as the taps read them, and `more` for each worker.
fn scratch_len_of(g: &Conv2d, workers: usize, more: usize) -> usize {
    let input = Input::new(g);
    input.masks.scratch_len() + workers * (input.padded.len() + input.flat_len(g) + more)
}

fn input_grad_local_len(g: &Conv2d, cotangent: &Cotangent) -> usize {
    g.out_channels / g.groups * cotangent.padded.len() + g.stride[1] * cotangent.flat_len
}

/// Copies a plane to its padded form.
fn pad(isa: &Isa, padded: &Padded, plane: &[f32], to: &mut [f32]) {
    // SAFETY: an instruction set is only handed out where the processor has it.
    unsafe { (isa.pad)(padded, plane, to) }
}

/// Where results go: some planes for each of the input's, and what is done to them.
struct Results<'a> {
    out: Parts<'a, f32>,
    /// Elements that belong to one plane of the input.
    len: usize,
    epilogue: Option<&'a dyn Epilogue>,
}

impl Results<'_> {
    /// Elements of scratch that one worker needs.
    fn scratch_len(len: usize) -> usize {
        RUN.max(len)
    }

    /// Calls `body` with some of the `planes`, the place of their results, and the worker.
    ///
    /// `values` is memory for the results of each worker until they pass the epilogue.
    fn run(
        &self,
        threads: &Threads,
        planes: usize,
        values: &Parts<'_, f32>,
        body: impl Fn(Range<usize>, &mut [f32], usize) + Sync,
    ) {
        let wanted = TASKS_PER_WORKER * threads.count();
        let step = (RUN / self.len).min(planes.div_ceil(wanted)).max(1);
        threads.run(planes.div_ceil(step), |task, worker| {
            let planes = task * step..((task + 1) * step).min(planes);
            let (start, len) = (planes.start * self.len, planes.len() * self.len);
            // SAFETY: each task has its own planes of the result.
            let out = unsafe { self.out.part(start, len) };
            let Some(epilogue) = self.epilogue else {
                return body(planes, out, worker);
            };
            // SAFETY: a worker runs one task at a time.
            let values = unsafe { values.part(worker * Self::scratch_len(self.len), len) };
            body(planes, values, worker);
            epilogue.apply(start, values, out, worker);
        });
    }
}

/// The convolution; each task does the results of some input planes.
pub(super) fn forward(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let input = Input::new(g);
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let (multiplier, len) = (g.out_channels / g.groups, g.kernel[0] * g.kernel[1]);
    if out_len == 0 {
        return;
    }
    let (masks, scratch) = input.masks.fill(scratch);
    let results = Results { out: Parts::new(out), len: multiplier * out_len, epilogue };
    let (values, scratch) =
        scratch.split_at_mut(threads.count() * Results::scratch_len(results.len));
    let local_len = input.padded.len() + input.flat_len(g);
    let (values, scratch) = (Parts::new(values), Parts::new(scratch));
    results.run(threads, g.batch * g.in_channels, &values, |planes, results, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (plane, flat) = local.split_at_mut(input.padded.len());
        for (number, results) in planes.zip(results.chunks_exact_mut(multiplier * out_len)) {
            pad(isa, &input.padded, &x[number * in_len..][..in_len], plane);
            let filters = &w[number % g.in_channels * multiplier * len..][..multiplier * len];
            let filters = filters.chunks_exact(len);
            for (weights, to) in filters.zip(results.chunks_exact_mut(out_len)) {
                let (taps, fits) = (&input.taps, input.fits(g));
                // SAFETY: an instruction set is only handed out where the processor has it.
                unsafe {
                    let positions = if fits { &mut *to } else { &mut *flat };
                    (isa.filter)(plane, weights, taps, masks, Write::Set, positions);
                    if !fits {
                        let from = (&*flat, input.padded.extent[1]);
                        (isa.copy_rows)(from, (to, g.output[1]), g.output);
                    }
                }
            }
        }
    });
}

/// The input's cotangent; each task does some planes of it.
pub(super) fn input_grad(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (ct, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let cotangent = Cotangent::new(g);
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let (multiplier, len) = (g.out_channels / g.groups, g.kernel[0] * g.kernel[1]);
    if in_len == 0 {
        return;
    }
    let (masks, scratch) = cotangent.masks.fill(scratch);
    let results = Results { out: Parts::new(out), len: in_len, epilogue };
    let (values, scratch) = scratch.split_at_mut(threads.count() * Results::scratch_len(in_len));
    let local_len = input_grad_local_len(g, &cotangent);
    let (values, scratch) = (Parts::new(values), Parts::new(scratch));
    results.run(threads, g.batch * g.in_channels, &values, |planes, results, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (padded, flats) = local.split_at_mut(multiplier * cotangent.padded.len());
        for (number, to) in planes.zip(results.chunks_exact_mut(in_len)) {
            for (index, plane) in padded.chunks_exact_mut(cotangent.padded.len()).enumerate() {
                let from = &ct[(number * multiplier + index) * out_len..][..out_len];
                pad(isa, &cotangent.padded, from, plane);
            }
            let filters = &w[number % g.in_channels * multiplier * len..][..multiplier * len];
            input_grad_plane(isa, g, &cotangent, (padded, filters, masks), flats, to);
        }
    });
}

/// One plane of the input's cotangent, from all planes it went to with their filters.
fn input_grad_plane(
    isa: &Isa,
    g: &Conv2d,
    cotangent: &Cotangent,
    (padded, filters, masks): (&[f32], &[f32], &[f32]),
    flats: &mut [f32],
    to: &mut [f32],
) {
    let filter = |taps: &Taps, to: &mut [f32]| {
        if taps.all().is_empty() {
            to.fill(0.0);
            return;
        }
        let planes = padded.chunks_exact(cotangent.padded.len());
        let filters = filters.chunks_exact(g.kernel[0] * g.kernel[1]);
        for (index, (plane, weights)) in planes.zip(filters).enumerate() {
            let write = if index == 0 { Write::Set } else { Write::Add };
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.filter)(plane, weights, taps, masks, write, to) };
        }
    };
    if cotangent.fits(g) {
        return filter(&cotangent.phases[0].taps, to);
    }
    let (width, len) = (cotangent.padded.extent[1], cotangent.flat_len);
    for phases in cotangent.phases[..g.stride[0] * g.stride[1]].chunks_exact(g.stride[1]) {
        let rows = phases[0].axes[0];
        for (phase, flat) in phases.iter().zip(flats.chunks_exact_mut(len)) {
            filter(&phase.taps, &mut flat[..rows.positions * width]);
        }
        for row in 0..rows.positions {
            let start = (rows.first + row * g.stride[0]) * g.input[1];
            let flats = flats.chunks_exact(len).map(|flat| &flat[row * width..][..width]);
            interleave(flats, g.stride[1], &mut to[start..start + g.input[1]]);
        }
    }
}

/// Writes the elements of `count` rows in turns.
fn interleave<'a>(mut rows: impl Iterator<Item = &'a [f32]>, count: usize, to: &mut [f32]) {
    match (count, rows.next(), rows.next()) {
        (1, Some(row), _) => to.copy_from_slice(&row[..to.len()]),
        (2, Some(even), Some(odd)) => {
            if !to.len().is_multiple_of(2) {
                to[to.len() - 1] = even[to.len() / 2];
            }
            for ((pair, &even), &odd) in to.chunks_exact_mut(2).zip(even).zip(odd) {
                (pair[0], pair[1]) = (even, odd);
            }
        }
        (_, first, second) => {
            for (start, row) in first.into_iter().chain(second).chain(rows).enumerate() {
                let to = to.iter_mut().skip(start).step_by(count);
                to.zip(row).for_each(|(to, &from)| *to = from);
            }
        }
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
    let input = Input::new(g);
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let multiplier = g.out_channels / g.groups;
    let len = multiplier * g.kernel[0] * g.kernel[1];
    if out_len == 0 {
        return out.fill(0.0);
    }
    let (masks, scratch) = input.masks.fill(scratch);
    let lens = [input.padded.len(), input.flat_len(g), CHANNELS_AT_ONCE * len * LINE];
    let (out, scratch) = (Parts::new(out), Parts::new(scratch));
    threads.run(g.in_channels.div_ceil(CHANNELS_AT_ONCE), |task, worker| {
        let local_len = lens.iter().sum();
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (plane, rest) = local.split_at_mut(lens[0]);
        let (flat, sums) = rest.split_at_mut(lens[1]);
        flat.fill(0.0);
        sums.fill(0.0);
        let first = task * CHANNELS_AT_ONCE;
        let channels = first..(first + CHANNELS_AT_ONCE).min(g.in_channels);
        let planes = (0..g.batch).flat_map(|image| channels.clone().map(move |c| (image, c)));
        for (image, channel) in planes {
            let index = image * g.in_channels + channel;
            pad(isa, &input.padded, &x[index * in_len..][..in_len], plane);
            let sums = &mut sums[(channel - first) * len * LINE..][..len * LINE];
            for (m, sums) in sums.chunks_exact_mut(len / multiplier * LINE).enumerate() {
                let from = &ct[(index * multiplier + m) * out_len..][..out_len];
                // SAFETY: an instruction set is only handed out where the processor has it.
                unsafe {
                    let positions = if input.fits(g) {
                        from
                    } else {
                        let to = (&mut *flat, input.padded.extent[1]);
                        (isa.copy_rows)((from, g.output[1]), to, g.output);
                        &*flat
                    };
                    (isa.correlate)(positions, plane, &input.taps, masks, sums);
                }
            }
        }
        // SAFETY: each task has its own filters.
        let filters = unsafe { out.part(first * len, channels.len() * len) };
        add_up(&input.taps, sums, filters);
    });
}

/// Adds up the lines of partial sums of each filter's taps.
fn add_up(taps: &Taps, sums: &mut [f32], filters: &mut [f32]) {
    let count = taps.all().len();
    let sums = sums.chunks_exact_mut(count * LINE);
    for (filter, sums) in filters.chunks_exact_mut(count).zip(sums) {
        for (tap, lanes) in taps.all().iter().zip(sums.chunks_exact_mut(LINE)) {
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
            }
            filter[tap.number] = lanes[0];
        }
    }
}
