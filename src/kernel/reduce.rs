//! Sums and maxima over some axes of an element-wise program's result.
//!
//! The iteration space is the tape's; the output has stride 0 along reduced extents. The work is
//! cut into segments whose number depends on the geometry alone, each summed in order, and the
//! segments' sums are combined in order: the result does not depend on the number of threads.

use super::map::OPERANDS_MAX;
use super::tape::{CHUNK, EXTENTS_MAX, Operand, Tape, View};
use crate::graph::Reduction;
use crate::threads::{Parts, Threads};

/// A reduction with its fused producer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// The producer; it has one result.
    pub tape: Tape,
    /// Strides of the output over the tape's extents; 0 where reduced.
    pub output: View,
    /// How elements combine.
    pub how: Reduction,
}

/// Elements below which work is not cut further.
const SEGMENT_MIN: usize = 16 * 1024;
/// Most segments of one output.
const SEGMENTS_MAX: usize = 16;

/// The iteration space taken apart: outputs × reduced rows × one inner run.
struct Split {
    kept: Axes,
    reduced: Axes,
    /// The innermost extent, which is a run in memory.
    inner: usize,
    inner_kept: bool,
    segments: usize,
}

/// Extents with the strides of the iteration space.
#[derive(Default)]
struct Axes {
    extents: [usize; EXTENTS_MAX],
    strides: [usize; EXTENTS_MAX],
    count: usize,
}

impl Axes {
    fn push(&mut self, extent: usize, stride: usize) {
        self.extents[self.count] = extent;
        self.strides[self.count] = stride;
        self.count += 1;
    }

    fn len(&self) -> usize {
        self.extents[..self.count].iter().product()
    }

    /// Position in the iteration space of the `index`-th combination, in row-major order.
    fn offset(&self, mut index: usize) -> usize {
        let mut offset = 0;
        for axis in (0..self.count).rev() {
            offset += index % self.extents[axis] * self.strides[axis];
            index /= self.extents[axis];
        }
        offset
    }
}

impl Reduce {
    /// Number of outputs.
    pub fn output_len(&self) -> usize {
        let extents = self.tape.extents.iter().zip(&self.output.0);
        extents.filter(|&(_, &stride)| stride != 0).map(|(&extent, _)| extent).product()
    }

    fn split(&self) -> Split {
        let (mut kept, mut reduced) = (Axes::default(), Axes::default());
        let extents = &self.tape.extents;
        let inner = extents.len() - 1;
        let mut stride = 1;
        let mut strides = [1; EXTENTS_MAX];
        for axis in (0..extents.len()).rev() {
            strides[axis] = stride;
            stride *= extents[axis];
        }
        for axis in 0..inner {
            let axes = if self.output.0[axis] == 0 { &mut reduced } else { &mut kept };
            axes.push(extents[axis], strides[axis]);
        }
        let inner_kept = self.output.0[inner] != 0;
        let mut split = Split { kept, reduced, inner: extents[inner], inner_kept, segments: 1 };
        let (units, blocks) = (split.units(), split.kept.len() * split.blocks());
        if blocks < SEGMENTS_MAX {
            let wanted = (self.tape.len() / SEGMENT_MIN).min(SEGMENTS_MAX / blocks.max(1));
            split.segments = wanted.clamp(1, units.max(1));
        }
        split
    }

    /// Length of the scratch [`reduce`] needs: registers for each worker and the segments' sums.
    pub fn scratch_len(&self, workers: usize) -> usize {
        let split = self.split();
        (self.tape.scratch_len() + CHUNK) * workers + split.segments * self.output_len()
    }

    fn start(&self) -> f32 {
        match self.how {
            Reduction::Sum => 0.0,
            Reduction::Max => f32::NEG_INFINITY,
        }
    }
}

impl Split {
    /// Blocks of kept columns (one when the inner extent is reduced).
    fn blocks(&self) -> usize {
        if self.inner_kept { self.inner.div_ceil(CHUNK) } else { 1 }
    }

    /// Chunks that one output block combines.
    fn units(&self) -> usize {
        let runs = if self.inner_kept { 1 } else { self.inner.div_ceil(CHUNK) };
        self.reduced.len() * runs
    }
}

/// Combines the elements of the tape's result along the reduced extents into `out`.
pub fn reduce(
    threads: &Threads,
    geometry: &Reduce,
    operands: &[&[f32]],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    if geometry.tape.is_empty() {
        out.fill(geometry.start());
        return;
    }
    let split = geometry.split();
    let share = geometry.tape.scratch_len() + CHUNK;
    let (registers, partial) = scratch.split_at_mut(share * threads.count());
    let registers = Parts::new(registers);
    let output_len = geometry.output_len();
    let partial = Parts::new(&mut partial[..split.segments * output_len]);
    let mut array = [Operand { data: &[] as &[f32], base: 0 }; OPERANDS_MAX];
    for (slot, &data) in array.iter_mut().zip(operands) {
        *slot = data.into();
    }
    let operands = &array[..geometry.tape.views.len()];
    let kept = split.kept.len();
    // A task is one segment of one block of columns of a run of outputs.
    let per_task = outputs_per_task(&split);
    let groups = kept.div_ceil(per_task);
    let tasks = groups * split.blocks() * split.segments;
    threads.run(tasks, |task, worker| {
        // SAFETY: a worker runs one task at a time and owns its share of the scratch.
        let registers = unsafe { registers.part(worker * share, share) };
        let (segment, rest) = (task % split.segments, task / split.segments);
        let (block, group) = (rest % split.blocks(), rest / split.blocks());
        let (registers, sums) = registers.split_at_mut(share - CHUNK);
        geometry.tape.prepare(operands, CHUNK, registers);
        for index in group * per_task..kept.min((group + 1) * per_task) {
            let (start, len) = output_range(&split, index, block);
            // SAFETY: every (segment, output block) belongs to one task.
            let target = unsafe { partial.part(segment * output_len + start, len) };
            let job = Job { geometry, split: &split, operands, segment };
            match split.inner_kept {
                true => job.columns(index, block, target, registers, sums),
                false => target[0] = job.row(index, registers),
            }
        }
    });
    // SAFETY: the run is over; nothing else holds a part.
    let partial = unsafe { partial.part(0, split.segments * output_len) };
    combine(geometry.how, partial, &mut out[..output_len]);
}

/// So many outputs that a task has a fair amount of work.
fn outputs_per_task(split: &Split) -> usize {
    let work = split.units() * if split.inner_kept { CHUNK } else { split.inner.min(CHUNK) };
    (SEGMENT_MIN / work.max(1)).max(1)
}

/// The outputs that block `block` of kept combination `index` covers.
fn output_range(split: &Split, index: usize, block: usize) -> (usize, usize) {
    if split.inner_kept {
        let start = block * CHUNK;
        (index * split.inner + start, CHUNK.min(split.inner - start))
    } else {
        (index, 1)
    }
}

struct Job<'a> {
    geometry: &'a Reduce,
    split: &'a Split,
    operands: &'a [Operand<'a>],
    segment: usize,
}

impl Job<'_> {
    /// The units of this job's segment.
    fn units(&self) -> std::ops::Range<usize> {
        let units = self.split.units();
        let bound = |segment: usize| segment * units / self.split.segments;
        bound(self.segment)..bound(self.segment + 1)
    }

    /// Column sums of block `block`: rows are added element by element.
    fn columns(
        &self,
        index: usize,
        block: usize,
        target: &mut [f32],
        registers: &mut [f32],
        sums: &mut [f32],
    ) {
        let tape = &self.geometry.tape;
        let (at, len) = (self.split.kept.offset(index) + block * CHUNK, target.len());
        let sums = &mut sums[..len];
        sums.fill(self.geometry.start());
        for unit in self.units() {
            let start = at + self.split.reduced.offset(unit);
            tape.run(self.operands, start, len, registers);
            let values = tape.result(0, self.operands, start, len, registers);
            match self.geometry.how {
                Reduction::Sum => sums.iter_mut().zip(values).for_each(|(s, v)| *s += v),
                Reduction::Max => sums.iter_mut().zip(values).for_each(|(s, v)| *s = max(*s, *v)),
            }
        }
        target.copy_from_slice(sums);
    }

    /// One output: chunk sums are added in `f64`.
    fn row(&self, index: usize, registers: &mut [f32]) -> f32 {
        let tape = &self.geometry.tape;
        let at = self.split.kept.offset(index);
        let runs = self.split.inner.div_ceil(CHUNK);
        let (mut sum, mut largest) = (0.0f64, f32::NEG_INFINITY);
        for unit in self.units() {
            let chunk = unit % runs * CHUNK;
            let start = at + self.split.reduced.offset(unit / runs) + chunk;
            let len = CHUNK.min(self.split.inner - chunk);
            tape.run(self.operands, start, len, registers);
            let values = tape.result(0, self.operands, start, len, registers);
            match self.geometry.how {
                Reduction::Sum => sum += f64::from(lane_sum(values)),
                Reduction::Max => largest = values.iter().fold(largest, |m, &v| max(m, v)),
            }
        }
        match self.geometry.how {
            Reduction::Sum => sum as f32,
            Reduction::Max => largest,
        }
    }
}

/// The larger; NaN wins.
#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// Σ in 16 lanes, which vectorise, then pairwise.
fn lane_sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    let mut width = 8;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Combines the segments of each output in order.
fn combine(how: Reduction, partial: &[f32], out: &mut [f32]) {
    let len = out.len();
    for (index, out) in out.iter_mut().enumerate() {
        let values = partial.iter().skip(index).step_by(len).copied();
        *out = match how {
            Reduction::Sum => values.map(f64::from).sum::<f64>() as f32,
            Reduction::Max => values.fold(f32::NEG_INFINITY, max),
        };
    }
}
