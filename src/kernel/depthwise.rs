//! Depthwise convolutions, where each input channel has filters of its own.
//!
//! A product would have one column of K per tap and waste most of a tile. Instead tiles of a plane
//! meet all taps in registers (`gemm::taps`). Planes that are read with a stride are dealt out by
//! it first, so that neighbours are next to each other.

use crate::graph::Conv2d;
use crate::kernel::Epilogue;
use crate::kernel::conv2d_input_grad::Axis;
use crate::kernel::gemm::{Hints, Isa, LINE, Padded, Positions, TAPS_MAX, Taps, Write};
use crate::kernel::padded::place;
use crate::threads::{Parts, Threads};

/// Most filters of one input channel that are not better done as a product.
const MULTIPLIER_MAX: usize = 4;
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
    one_channel && few && (1..=MULTIPLIER_MAX).contains(&(g.out_channels / g.groups))
}

/// The input of a convolution as its taps read it.
struct Input {
    /// The planes that one is dealt into, unless it is read where it lies.
    dealt: Option<Padded>,
    taps: Taps,
}

impl Input {
    fn new(g: &Conv2d) -> Self {
        let extent = [0, 1].map(|axis| g.input[axis].div_ceil(g.stride[axis]));
        let mut taps = Taps::new(extent);
        // Every `step`-th tap of a column reads the same phase of the stride, a row below.
        let step = if g.dilation[0] == 1 { g.stride[0] } else { g.kernel[0] };
        for j in 0..g.kernel[1] {
            let (column, right) = place(g, 1, j);
            for first in 0..step.min(g.kernel[0]) {
                let (row, down) = place(g, 0, first);
                let start = (row * g.stride[1] + column) * extent[0] * extent[1];
                let numbers = (first..g.kernel[0]).step_by(step).map(|i| i * g.kernel[1] + j);
                taps.push(start, [down, right], numbers);
            }
        }
        let dealt =
            Padded { plane: g.input, stride: g.stride, origin: 0, extent, before: 0, after: 0 };
        Input { dealt: (g.stride != [1, 1]).then_some(dealt), taps }
    }

    /// Elements that a worker needs for a plane.
    fn len(&self) -> usize {
        self.dealt.map_or(0, |dealt| dealt.len())
    }

    /// A plane as the taps read it.
    fn read<'a>(&self, isa: &Isa, plane: &'a [f32], to: &'a mut [f32]) -> &'a [f32] {
        let Some(dealt) = &self.dealt else { return plane };
        // SAFETY: an instruction set is only handed out where the processor has it.
        unsafe { (isa.pad)(dealt, plane, to) };
        to
    }
}

/// The positions of the input that are equal modulo the stride, and the taps over the result's
/// cotangent that they meet.
#[derive(Clone, Copy)]
struct Phase {
    axes: [Axis; 2],
    taps: Taps,
}

impl Phase {
    fn new(g: &Conv2d, firsts: [usize; 2]) -> Self {
        let axes = [0, 1].map(|axis| Axis::new(g, axis, firsts[axis]));
        let [y, x] = axes;
        let mut taps = Taps::new(g.output);
        for j in 0..x.taps {
            let right = x.origin + j as isize * x.step;
            let number =
                |i: usize| (y.tap + i * y.tap_stride) * g.kernel[1] + x.tap + j * x.tap_stride;
            let down = |i: usize| y.origin + i as isize * y.step;
            if y.step == -1 {
                // The last tap looks highest.
                let highest = down(y.taps.saturating_sub(1));
                taps.push(0, [highest, right], (0..y.taps).rev().map(number));
                continue;
            }
            for i in 0..y.taps {
                taps.push(0, [down(i), right], std::iter::once(number(i)));
            }
        }
        Phase { axes, taps }
    }

    /// Rows and columns.
    fn extents(&self) -> [usize; 2] {
        self.axes.map(|axis| axis.positions)
    }

    /// Number of positions.
    fn len(&self) -> usize {
        self.extents().iter().product()
    }
}

/// The phases of the input, row by row; there are as many as the stride has, and the rest repeats
/// them.
fn phases(g: &Conv2d) -> [Phase; PHASES_MAX] {
    let [rows, columns] = g.stride;
    std::array::from_fn(|number| Phase::new(g, [number / columns % rows, number % columns]))
}

/// Elements of scratch that the forward pass needs.
pub(super) fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    let results = Results::scratch_len(g.out_channels / g.groups * g.output[0] * g.output[1]);
    scratch_len_of(g, workers, results)
}

/// Elements of scratch that the input's cotangent needs.
pub(super) fn input_grad_scratch_len(g: &Conv2d, workers: usize) -> usize {
    workers * (Results::scratch_len(g.input[0] * g.input[1]) + input_grad_local_len(g))
}

/// Elements of scratch that the filter's cotangent needs.
pub(super) fn filter_grad_scratch_len(g: &Conv2d, workers: usize) -> usize {
    let taps = g.kernel[0] * g.kernel[1];
    scratch_len_of(g, workers, CHANNELS_AT_ONCE * g.out_channels / g.groups * taps * LINE)
}

/// Elements of scratch for planes as the taps read them, and `more` for each worker.
fn scratch_len_of(g: &Conv2d, workers: usize, more: usize) -> usize {
    workers * (Input::new(g).len() + more)
}

/// Elements that a worker needs for a row of phases.
fn input_grad_local_len(g: &Conv2d) -> usize {
    match g.stride {
        [1, 1] => 0,
        [rows, _] => g.input[0].div_ceil(rows) * g.input[1],
    }
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

    /// Calls `body` with each plane's number, the place of its results, memory that is needed after
    /// it, and the worker.
    ///
    /// `values` is memory for the results of each worker until they pass the epilogue.
    fn run(
        &self,
        threads: &Threads,
        planes: usize,
        values: &Parts<'_, f32>,
        body: impl Fn(usize, &mut [f32], &Hints, usize) + Sync,
    ) {
        let wanted = TASKS_PER_WORKER * threads.count();
        let step = (RUN / self.len).min(planes.div_ceil(wanted)).max(1);
        threads.run(planes.div_ceil(step), |task, worker| {
            let planes = task * step..((task + 1) * step).min(planes);
            let (start, len) = (planes.start * self.len, planes.len() * self.len);
            // SAFETY: each task has its own planes of the result.
            let out = unsafe { self.out.part(start, len) };
            let each_plane = |to: &mut [f32]| {
                for (number, to) in planes.clone().zip(to.chunks_exact_mut(self.len)) {
                    body(number, to, &self.hints(number), worker);
                }
            };
            let Some(epilogue) = self.epilogue else { return each_plane(out) };
            // SAFETY: a worker runs one task at a time.
            let values = unsafe { values.part(worker * Self::scratch_len(self.len), len) };
            each_plane(values);
            epilogue.apply(start, values, out, worker);
        });
    }

    /// What is needed of memory once the results of a plane are there.
    fn hints(&self, plane: usize) -> Hints {
        let start = plane * self.len;
        let mut hints = Hints::new(0);
        hints.push(self.out.hint(start));
        if let Some(epilogue) = self.epilogue {
            epilogue.hint(start, &mut hints);
        }
        hints
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
    let results = Results { out: Parts::new(out), len: multiplier * out_len, epilogue };
    let (values, scratch) =
        scratch.split_at_mut(threads.count() * Results::scratch_len(results.len));
    let local_len = input.len();
    let (values, scratch) = (Parts::new(values), Parts::new(scratch));
    results.run(threads, g.batch * g.in_channels, &values, |number, results, hints, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let plane = input.read(isa, &x[number * in_len..][..in_len], local);
        let filters = &w[number % g.in_channels * multiplier * len..][..multiplier * len];
        let filters = filters.chunks_exact(len);
        for (index, (weights, to)) in filters.zip(results.chunks_exact_mut(out_len)).enumerate() {
            let hints = hints.moved(index * out_len);
            let positions = Positions { to, extents: g.output, write: Write::Set, hints: &hints };
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.filter)(plane, weights, &input.taps, positions) };
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
    let (in_len, out_len) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let (multiplier, len) = (g.out_channels / g.groups, g.kernel[0] * g.kernel[1]);
    if in_len == 0 {
        return;
    }
    let phases = phases(g);
    let phases = &phases[..g.stride[0] * g.stride[1]];
    let results = Results { out: Parts::new(out), len: in_len, epilogue };
    let (values, scratch) = scratch.split_at_mut(threads.count() * Results::scratch_len(in_len));
    let local_len = input_grad_local_len(g);
    let (values, scratch) = (Parts::new(values), Parts::new(scratch));
    results.run(threads, g.batch * g.in_channels, &values, |number, to, hints, worker| {
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let ct = &ct[number * multiplier * out_len..][..multiplier * out_len];
        let filters = &w[number % g.in_channels * multiplier * len..][..multiplier * len];
        input_grad_plane(isa, g, phases, (ct, filters), hints, local, to);
    });
}

/// One plane of the input's cotangent, from all planes it went to with their filters.
fn input_grad_plane(
    isa: &Isa,
    g: &Conv2d,
    phases: &[Phase],
    (ct, filters): (&[f32], &[f32]),
    hints: &Hints,
    local: &mut [f32],
    to: &mut [f32],
) {
    let (out_len, len) = (g.output[0] * g.output[1], g.kernel[0] * g.kernel[1]);
    let filter = |phase: &Phase, hints: &Hints, to: &mut [f32]| {
        if phase.taps.numbers().is_empty() || out_len == 0 {
            to.fill(0.0);
            return;
        }
        let planes = ct.chunks_exact(out_len).zip(filters.chunks_exact(len));
        for (index, (plane, weights)) in planes.enumerate() {
            let write = if index == 0 { Write::Set } else { Write::Add };
            let positions = Positions { to: &mut *to, extents: phase.extents(), write, hints };
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.filter)(plane, weights, &phase.taps, positions) };
        }
    };
    if g.stride == [1, 1] {
        return filter(&phases[0], hints, to);
    }
    // Each phase asks for as much as it is long.
    let mut asked = 0;
    for phases in phases.chunks_exact(g.stride[1]) {
        let mut rest = &mut *local;
        for phase in phases {
            let (results, further) = rest.split_at_mut(phase.len());
            filter(phase, &hints.moved(asked), results);
            asked += phase.len();
            rest = further;
        }
        let rows = phases[0].axes[0];
        for row in 0..rows.positions {
            let start = (rows.first + row * g.stride[0]) * g.input[1];
            let results = phases.iter().scan(0, |start, phase| {
                let (width, first) = (phase.axes[1].positions, *start);
                *start += phase.len();
                Some(&local[first + row * width..][..width])
            });
            interleave(results, g.stride[1], &mut to[start..start + g.input[1]]);
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
    let lens = [input.len(), CHANNELS_AT_ONCE * len * LINE];
    let (out, scratch) = (Parts::new(out), Parts::new(scratch));
    threads.run(g.in_channels.div_ceil(CHANNELS_AT_ONCE), |task, worker| {
        let local_len = lens.iter().sum();
        // SAFETY: a worker runs one task at a time.
        let local = unsafe { scratch.part(worker * local_len, local_len) };
        let (dealt, sums) = local.split_at_mut(lens[0]);
        sums.fill(0.0);
        let first = task * CHANNELS_AT_ONCE;
        let channels = first..(first + CHANNELS_AT_ONCE).min(g.in_channels);
        let planes = (0..g.batch).flat_map(|image| channels.clone().map(move |c| (image, c)));
        for (image, channel) in planes {
            let index = image * g.in_channels + channel;
            let plane = input.read(isa, &x[index * in_len..][..in_len], dealt);
            let sums = &mut sums[(channel - first) * len * LINE..][..len * LINE];
            for (m, sums) in sums.chunks_exact_mut(len / multiplier * LINE).enumerate() {
                let from = &ct[(index * multiplier + m) * out_len..][..out_len];
                // SAFETY: an instruction set is only handed out where the processor has it.
                unsafe { (isa.correlate)(from, g.output, plane, &input.taps, sums) };
            }
        }
        // SAFETY: each task has its own filters.
        let filters = unsafe { out.part(first * len, channels.len() * len) };
        add_up(&input.taps, sums, filters);
    });
}

/// Adds up the lines of partial sums of each filter's taps.
fn add_up(taps: &Taps, sums: &mut [f32], filters: &mut [f32]) {
    let count = taps.numbers().len();
    let sums = sums.chunks_exact_mut(count * LINE);
    for (filter, sums) in filters.chunks_exact_mut(count).zip(sums) {
        for (&number, lanes) in taps.numbers().iter().zip(sums.chunks_exact_mut(LINE)) {
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
            }
            filter[number] = lanes[0];
        }
    }
}
