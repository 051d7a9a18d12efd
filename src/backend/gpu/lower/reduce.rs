//! Reductions: how outputs are shared among threads, and sums among launches.

use bytemuck::Zeroable;

use super::tapes::bind_tape;
use crate::backend::gpu::code::{self, SPACE};
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch, WORKGROUP};
use crate::backend::gpu::params::{self, axes};
use crate::error::Result;
use crate::graph::Reduction;
use crate::kernel::reduce::Reduce;

/// Workgroups below which a reduction is cut into segments.
const WORKGROUPS_WANTED: usize = 256;
/// Elements of a thread below which it is not.
const ELEMENTS_MIN: usize = 16;
/// Neighbouring outputs of a workgroup when neighbours in memory are of different outputs.
const NEIGHBOURS_MAX: usize = 32;

/// A reduction with its fused producer; few long sums are combined in two launches.
pub(super) fn reduce(geometry: &Reduce) -> Result<Vec<Launch>> {
    let code = code::producer(&geometry.tape, 3)?;
    let shape = Shape::of(geometry);
    let segments = shape.segments();
    let largest = geometry.how == Reduction::Max;
    let out = if segments > 1 { Bound::Scratch } else { Bound::Result(0) };
    let scratch_len = if segments > 1 { segments * shape.outputs } else { 0 };
    let first = Builder::new("reduce", &shape.params(segments))
        .variant(&code.text)
        .overrides(&[("LARGEST", u32::from(largest))])
        .bind(2, Access::Write, out);
    let first = bind_tape(first, &code, 0, None, |operand| operand);
    let mut launches = vec![first.launch(shape.workgroups() * segments, scratch_len)];
    if segments > 1 {
        launches.push(combine(segments, shape.outputs, largest));
    }
    Ok(launches)
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
    Builder::new("reduce", &shape.params(1))
        .variant(IDENTITY)
        .overrides(&[("LARGEST", u32::from(largest))])
        .bind(SPACE, Access::Uniform, Bound::Params(space))
        .bind(2, Access::Write, Bound::Result(result))
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
    fn of(geometry: &Reduce) -> Self {
        let extents = &geometry.tape.extents;
        let mut strides = vec![1; extents.len()];
        for axis in (1..extents.len()).rev() {
            strides[axis - 1] = strides[axis] * extents[axis];
        }
        let spaced = extents.iter().copied().zip(strides).zip(&geometry.output.0);
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

    fn segments(&self) -> usize {
        let wanted = WORKGROUPS_WANTED / self.workgroups().max(1);
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
