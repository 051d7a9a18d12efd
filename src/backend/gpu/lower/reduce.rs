//! Reductions: how outputs are shared among threads, and sums among launches.

use std::ops::Range;

use bytemuck::Zeroable;

use super::cut::{aligned, indices, ranges, span};
use super::tapes::{bind_tape, row_major};
use super::{Limits, check_len, window};
use crate::backend::gpu::code::{self, Code, SPACE};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch, WORKGROUP};
use crate::backend::gpu::params::{self, axes};
use crate::error::Result;
use crate::graph::Reduction;
use crate::kernel::reduce::Reduce;
use crate::kernel::tape::View;

/// Workgroups below which a reduction is cut into segments.
const WORKGROUPS_WANTED: usize = 256;
/// Elements of a thread below which it is not.
const ELEMENTS_MIN: usize = 16;
/// Neighbouring outputs of a workgroup when neighbours in memory are of different outputs.
const NEIGHBOURS_MAX: usize = 32;

/// A reduction with its fused producer; few long sums are combined in two launches. Parts of the
/// space that go into the same outputs follow each other, each joining what is there.
pub(super) fn reduce(geometry: &Reduce, limits: &Limits) -> Result<Vec<Launch>> {
    check_len(geometry.tape.len())?;
    let code = code::producer(&geometry.tape, 3)?;
    let views: Vec<&View> = geometry.tape.views.iter().chain([&geometry.output]).collect();
    let parts = ranges(&geometry.tape.extents, &views, limits)?;
    Ok(parts.iter().flat_map(|part| reduce_part(geometry, &code, part, limits)).collect())
}

/// The reduction of a part of the space that [`ranges`] gave.
fn reduce_part(
    geometry: &Reduce,
    code: &Code<'_>,
    part: &Range<usize>,
    limits: &Limits,
) -> Vec<Launch> {
    let shape = Shape::of(geometry, part);
    let segments = shape.segments(limits);
    let largest = geometry.how == Reduction::Max;
    let target = Target::of(geometry, part, limits);
    let start = part.start - aligned(limits, part.start);
    let params = params::Reduce { first: start as u32, ..shape.params(segments) };
    let params = if segments > 1 { params } else { target.set(params) };
    let first = Builder::new("reduce", &params)
        .variant(&code.text)
        .overrides(&[("LARGEST", u32::from(largest))]);
    let (first, scratch_len) = match segments {
        1 => (first.bind_window(2, Access::Write, Bound::Result(0), target.window), 0),
        _ => (first.bind(2, Access::Write, Bound::Scratch), segments * shape.outputs),
    };
    let first = bind_tape(first, code, part, limits, |operand| operand);
    let mut launches = vec![first.launch(shape.workgroups() * segments, scratch_len)];
    if segments > 1 {
        launches.push(combine_at(segments, shape.outputs, largest, &target));
    }
    launches
}

/// Where outputs go.
struct Target {
    result: usize,
    /// The bound part of the result, and what lies before the first output in it.
    window: Option<(usize, usize)>,
    first: usize,
    /// Whether an earlier launch left something there.
    joins: bool,
}

impl Target {
    /// Where the outputs of a part of the space go.
    fn of(geometry: &Reduce, part: &Range<usize>, limits: &Limits) -> Self {
        let (extents, len) = (&geometry.tape.extents, geometry.output_len());
        if part.len() == geometry.tape.len() {
            return Target { result: 0, window: None, first: 0, joins: false };
        }
        let outputs = span(extents, &geometry.output, part);
        let start = aligned(limits, outputs.start);
        let mut places = indices(extents, part.start).into_iter().zip(&geometry.output.0);
        Target {
            result: 0,
            window: window(&(start..outputs.end), len, 1),
            first: outputs.start - start,
            joins: places.any(|(index, &stride)| stride == 0 && index > 0),
        }
    }

    fn set(&self, params: params::Reduce) -> params::Reduce {
        params::Reduce { out_first: self.first as u32, joins: u32::from(self.joins), ..params }
    }
}

/// The second launch: combines `[segments, outputs]` partial results from scratch into the
/// dispatch's result 0.
pub(super) fn combine(segments: usize, outputs: usize, largest: bool) -> Launch {
    combine_into(segments, outputs, largest, 0)
}

/// [`combine`] into another result.
pub(super) fn combine_into(
    segments: usize,
    outputs: usize,
    largest: bool,
    result: usize,
) -> Launch {
    let target = Target { result, window: None, first: 0, joins: false };
    combine_at(segments, outputs, largest, &target)
}

fn combine_at(segments: usize, outputs: usize, largest: bool, target: &Target) -> Launch {
    const IDENTITY: &str = "\
@group(0) @binding(3) var<storage, read> x0: array<f32>;
fn value(index: u32) -> f32 {
    return x0[index];
}
";
    let shape = Shape {
        outputs,
        reduced: segments,
        inner_kept: true,
        kept: vec![(outputs, 1)],
        reduced_axes: vec![(segments, outputs)],
    };
    let space = bytemuck::bytes_of(&params::Space::zeroed()).to_vec();
    Builder::new("reduce", &target.set(shape.params(1)))
        .variant(IDENTITY)
        .overrides(&[("LARGEST", u32::from(largest))])
        .bind(SPACE, Access::Uniform, Bound::Params(space))
        .bind_window(2, Access::Write, Bound::Result(target.result), target.window)
        .bind(3, Access::Read, Bound::Scratch)
        .launch(shape.workgroups(), 0)
}

/// The iteration space taken apart into outputs and what each combines; axes are extents with their
/// strides in the space, outermost first.
struct Shape {
    outputs: usize,
    reduced: usize,
    inner_kept: bool,
    kept: Vec<(usize, usize)>,
    reduced_axes: Vec<(usize, usize)>,
}

impl Shape {
    /// A part of the space: a range of indices of each axis.
    fn of(geometry: &Reduce, part: &Range<usize>) -> Self {
        let mut extents = geometry.tape.extents.clone();
        let strides = row_major(&extents);
        if part.len() < geometry.tape.len() {
            let (first, last) = (indices(&extents, part.start), indices(&extents, part.end - 1));
            extents = first.into_iter().zip(last).map(|(first, last)| last - first + 1).collect();
        }
        let spaced = extents.into_iter().zip(strides).zip(&geometry.output.0);
        let (kept, reduced): (Vec<_>, Vec<_>) = spaced.partition(|&(_, &stride)| stride != 0);
        let axes = |axes: Vec<((usize, usize), &usize)>| -> Vec<(usize, usize)> {
            axes.into_iter().map(|(axis, _)| axis).collect()
        };
        let (kept, reduced_axes) = (axes(kept), axes(reduced));
        let len = |axes: &[(usize, usize)]| axes.iter().map(|&(extent, _)| extent).product();
        Shape {
            outputs: len(&kept),
            reduced: len(&reduced_axes),
            inner_kept: geometry.output.0.last().is_some_and(|&stride| stride != 0),
            kept,
            reduced_axes,
        }
    }

    /// Threads that share an output: a power of two.
    fn lanes(&self) -> usize {
        match self.inner_kept {
            true => WORKGROUP / self.outputs.next_power_of_two().clamp(1, NEIGHBOURS_MAX),
            false => self.reduced.next_power_of_two().clamp(1, WORKGROUP),
        }
    }

    /// Workgroups of one segment.
    fn workgroups(&self) -> usize {
        self.outputs.div_ceil(WORKGROUP / self.lanes())
    }

    /// Segments of each sum, whose results can be bound together.
    fn segments(&self, limits: &Limits) -> usize {
        let wanted = WORKGROUPS_WANTED / self.workgroups().max(1);
        let wanted = wanted.min(limits.binding / self.outputs.max(1));
        wanted.min(self.reduced / (self.lanes() * ELEMENTS_MIN)).max(1)
    }

    fn params(&self, segments: usize) -> params::Reduce {
        let extents = |axes: &[(usize, usize)]| axes_of(axes.iter().map(|&(extent, _)| extent));
        let strides = |axes: &[(usize, usize)]| axes_of(axes.iter().map(|&(_, stride)| stride));
        params::Reduce {
            outputs: self.outputs as u32,
            reduced: self.reduced as u32,
            segment: self.reduced.div_ceil(segments).max(1) as u32,
            lanes_log: self.lanes().ilog2(),
            inner_kept: u32::from(self.inner_kept),
            kept_rank: self.kept.len() as u32,
            reduced_rank: self.reduced_axes.len() as u32,
            spare: 0,
            first: 0,
            out_first: 0,
            joins: 0,
            spare1: 0,
            kept_extents: extents(&self.kept),
            kept_strides: strides(&self.kept),
            reduced_extents: extents(&self.reduced_axes),
            reduced_strides: strides(&self.reduced_axes),
        }
    }
}

fn axes_of(values: impl IntoIterator<Item = usize>) -> params::Axes {
    axes(values)
}
