//! Sums of products of rows of channels, one row for each point and tile.
//!
//! A task sums some features and channels at all points and transforms the sums to filters while
//! they are in its second-level cache. Where not all blocks are transformed at once they have to be
//! kept meanwhile.

use std::ops::Range;

use super::super::tiles::{Blocks, Dealt, Grid};
use super::super::{Strips, TAPS, point_len};
use super::{PANELS_MAX, TILES, store_filters};
use crate::graph::Conv2d;
use crate::kernel::gemm::{
    Isa, LINE, LINES, POINTS, Strip, TransformFn, Write, aligned, first, multiply_strip,
};
use crate::threads::{Parts, Threads};

/// Strips of features of a task's sums, at most.
const STRIPS_AT_ONCE: usize = 4;
/// Channels of a task's sums, whole strips of them; all points of these and of the features take
/// half a second-level cache.
const CHANNELS: usize = 64;
/// Tasks wanted for each worker, so that a slow one does not hold up the rest.
const TASKS_PER_WORKER: usize = 4;

/// How the sum is cut, and its scratch memory.
struct Plan {
    g: Conv2d,
    input: Grid,
    output: Grid,
    blocks: Blocks,
    /// Input channels with those that fill up the last line.
    channels: usize,
    /// Of the features.
    strips: Strips,
    /// Elements of a block's transformed input, `[point][strip of channels][tile][channel]`.
    panel_len: usize,
    /// Elements of a block's transformed cotangents, `[strip of features][point][tile][feature]`.
    cotangents_len: usize,
    /// Blocks transformed before they are multiplied.
    at_once: usize,
    /// Strips of features of a task's sums.
    task_strips: usize,
    /// Elements that a worker needs for itself.
    local_len: usize,
}

impl Plan {
    fn new(isa: &Isa, g: &Conv2d, workers: usize) -> Self {
        let input = Grid::input(g.batch, g.input, g.output, g.pad);
        let output = Grid::output(g.batch, g.output);
        let blocks = Blocks::new(&output, TILES);
        let channels = g.in_channels.next_multiple_of(LINE);
        let panel_len = POINTS * point_len(channels, blocks.tiles_max);
        let cotangents_len = (POINTS * blocks.tiles_max * g.out_channels).next_multiple_of(LINE);
        let dealt_len = blocks.dealt(&input).len().max(blocks.dealt(&output).len());
        let strips = Strips::new(isa, g.out_channels);
        let all = strips.count() * channels.div_ceil(CHANNELS);
        let mut plan = Plan {
            g: *g,
            input,
            output,
            channels,
            task_strips: (all / (TASKS_PER_WORKER * workers)).clamp(1, STRIPS_AT_ONCE),
            strips,
            panel_len,
            cotangents_len,
            at_once: (PANELS_MAX / (panel_len + cotangents_len)).clamp(1, blocks.count),
            local_len: LINE * (dealt_len + LINES),
            blocks,
        };
        if !plan.keeps_sums() {
            plan.local_len = plan.local_len.max(plan.task_len());
        }
        plan
    }

    /// Whether sums wait for further blocks.
    fn keeps_sums(&self) -> bool {
        self.at_once < self.blocks.count
    }

    /// From one point of a task's sums to the next.
    fn point_stride(&self) -> usize {
        point_len(self.task_strips * self.strips.rows, CHANNELS.min(self.channels))
    }

    /// Elements of a task's sums, `[point][feature][channel]`.
    fn task_len(&self) -> usize {
        POINTS * self.point_stride()
    }

    /// Tasks along the features, and along the channels.
    fn tasks(&self) -> [usize; 2] {
        [self.strips.count().div_ceil(self.task_strips), self.channels.div_ceil(CHANNELS)]
    }

    /// Elements of the sums that are kept.
    fn sums_len(&self) -> usize {
        let tasks = self.tasks().iter().product::<usize>();
        if self.keeps_sums() { tasks * self.task_len() } else { 0 }
    }

    fn scratch_len(&self, workers: usize) -> usize {
        self.sums_len()
            + self.at_once * (self.panel_len + self.cotangents_len)
            + workers * self.local_len
            + LINE
    }
}

/// Elements of scratch that [`filter_grad`] needs.
pub(super) fn scratch_len(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    Plan::new(isa, g, workers).scratch_len(workers)
}

/// The filter's cotangent.
pub(super) fn filter_grad(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, ct): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let plan = Plan::new(isa, g, threads.count());
    let needed = plan.scratch_len(threads.count());
    assert!(scratch.len() >= needed, "minimal filtering needs {needed} of scratch");
    let (sums, rest) = aligned(scratch).split_at_mut(plan.sums_len());
    let (panels, rest) = rest.split_at_mut(plan.at_once * plan.panel_len);
    let (cotangents, locals) = rest.split_at_mut(plan.at_once * plan.cotangents_len);
    let call = Call { isa, threads, plan: &plan };
    let out = Parts::new(out);
    for first in (0..plan.blocks.count).step_by(plan.at_once) {
        let blocks = first..(first + plan.at_once).min(plan.blocks.count);
        call.transform(blocks.clone(), (x, ct), (panels, cotangents), locals);
        call.multiply(blocks, (panels, cotangents), (sums, locals), &out);
    }
}

/// One sum.
struct Call<'a> {
    isa: &'a Isa,
    threads: &'a Threads,
    plan: &'a Plan,
}

/// What is dealt and transformed: the input or the cotangents.
struct Side<'a> {
    grid: &'a Grid,
    dealt: Dealt,
    transform: TransformFn,
    data: &'a [f32],
    channels: usize,
}

/// Where a group of channels goes: `[point][tile][channel]`.
struct Place {
    start: *mut f32,
    /// From one point, and from one tile, to the next.
    strides: [usize; 2],
    /// Channels to write.
    mask: u16,
}

impl Call<'_> {
    /// Inputs and cotangents of some blocks at their points.
    fn transform(
        &self,
        blocks: Range<usize>,
        (x, ct): (&[f32], &[f32]),
        (panels, cotangents): (&mut [f32], &mut [f32]),
        locals: &mut [f32],
    ) {
        let Plan { g, blocks: all, channels, panel_len, cotangents_len, .. } = self.plan;
        let side = |grid, transform, data, channels| Side {
            grid,
            dealt: all.dealt(grid),
            transform,
            data,
            channels,
        };
        let transforms = &self.isa.winograd;
        let input = side(&self.plan.input, transforms.input, x, g.in_channels);
        let output = side(&self.plan.output, transforms.cotangent, ct, g.out_channels);
        let (groups, strips) = (channels / LINE, self.plan.strips.count());
        let (panels, cotangents) = (Parts::new(panels), Parts::new(cotangents));
        let locals = Parts::new(locals);
        self.threads.run(blocks.len() * (groups + strips), |task, worker| {
            // SAFETY: a worker runs one task at a time.
            let local = unsafe { locals.part(worker * self.plan.local_len, self.plan.local_len) };
            let (index, group) = (task / (groups + strips), task % (groups + strips));
            let rows = all.of(blocks.start + index);
            let tiles = all.tiles(&self.plan.output, blocks.start + index);
            let (side, group, place) = if group < groups {
                let start = panels.pointer(index * panel_len, *panel_len);
                let group = group * LINE..((group + 1) * LINE).min(g.in_channels);
                let strip = group.start / self.isa.columns * self.isa.columns;
                let width = self.isa.columns.min(channels - strip);
                let start = start.wrapping_add(strip * tiles + group.start - strip);
                let strides = [point_len(*channels, tiles), width];
                (&input, group, Place { start, strides, mask: u16::MAX })
            } else {
                let start = cotangents.pointer(index * cotangents_len, *cotangents_len);
                let group = self.plan.strips.of(group - groups);
                let start = start.wrapping_add(group.start * POINTS * tiles);
                let strides = [tiles * group.len(), group.len()];
                let mask = first(group.len());
                (&output, group, Place { start, strides, mask })
            };
            // SAFETY: tasks have channels or blocks of their own.
            unsafe { self.transform_group(side, rows, group, &place, local) };
        });
    }

    /// Up to a line of channels of one block.
    ///
    /// # Safety
    /// No other thread writes the same channels of the block.
    unsafe fn transform_group(
        &self,
        side: &Side<'_>,
        rows: Range<usize>,
        channels: Range<usize>,
        place: &Place,
        local: &mut [f32],
    ) {
        let Side { grid, dealt, transform, data, .. } = side;
        let tiles = rows.len() * grid.tiles[1];
        let (lines, planes) = local.split_at_mut(LINE * LINES);
        for (channel, plane) in channels.clone().zip(planes.chunks_exact_mut(dealt.len())) {
            dealt.deal(self.isa, grid, rows.clone(), (data, side.channels, channel), plane);
        }
        let lines = &mut lines[..channels.len() * LINES];
        for tile in (0..tiles).step_by(LINE) {
            let planes = planes.chunks_exact(dealt.len());
            for (to, plane) in lines.as_chunks_mut::<LINES>().0.iter_mut().zip(planes) {
                // SAFETY: an instruction set is only handed out where the processor has it.
                unsafe { transform(&plane[tile..], dealt.stride(), to.as_mut_ptr(), LINE) };
            }
            let to = place.start.wrapping_add(tile * place.strides[1]);
            let count = LINE.min(tiles - tile);
            // SAFETY: as above; the place has room for all tiles of the block, and the rest is the
            // caller's contract.
            unsafe { (self.isa.winograd.turn)(lines, count, place.mask, to, place.strides) };
        }
    }

    /// Adds the products of some blocks to the sums; the last blocks give filters.
    fn multiply(
        &self,
        blocks: Range<usize>,
        operands: (&[f32], &[f32]),
        (sums, locals): (&mut [f32], &mut [f32]),
        out: &Parts<'_, f32>,
    ) {
        let plan = self.plan;
        let [along_features, along_channels] = plan.tasks();
        let (sums, locals) = (Parts::new(sums), Parts::new(locals));
        self.threads.run(along_features * along_channels, |task, worker| {
            // SAFETY: a worker runs one task at a time, and kept sums are a task's own.
            let sums = unsafe {
                match plan.keeps_sums() {
                    true => sums.part(task * plan.task_len(), plan.task_len()),
                    false => locals.part(worker * plan.local_len, plan.task_len()),
                }
            };
            let first_strip = task / along_channels * plan.task_strips;
            let strips = first_strip..(first_strip + plan.task_strips).min(plan.strips.count());
            let channel = task % along_channels * CHANNELS;
            let channels = channel..(channel + CHANNELS).min(plan.channels);
            self.add_products(blocks.clone(), operands, (strips.clone(), channels.clone()), sums);
            if blocks.end == plan.blocks.count {
                let features =
                    plan.strips.of(strips.start).start..plan.strips.of(strips.end - 1).end;
                // SAFETY: tasks have features or channels of their own.
                unsafe { self.finish(features, channels, sums, out) };
            }
        });
    }

    /// Adds the products of some blocks to the sums of a task.
    fn add_products(
        &self,
        blocks: Range<usize>,
        (panels, cotangents): (&[f32], &[f32]),
        (strips, columns): (Range<usize>, Range<usize>),
        sums: &mut [f32],
    ) {
        let Plan { blocks: all, channels, panel_len, cotangents_len, .. } = self.plan;
        let first_feature = self.plan.strips.of(strips.start).start;
        for (point, sums) in sums.chunks_exact_mut(self.plan.point_stride()).enumerate() {
            for (index, block) in blocks.clone().enumerate() {
                let tiles = all.tiles(&self.plan.output, block);
                let panel = &panels[index * panel_len + point * point_len(*channels, tiles)..];
                let panel = (&panel[columns.start * tiles..], columns.len());
                let write = if block == 0 { Write::Set } else { Write::Add };
                for strip in strips.clone() {
                    let rows = self.plan.strips.of(strip);
                    let start = (rows.start * POINTS + point * rows.len()) * tiles;
                    let cotangents = &cotangents[index * cotangents_len + start..];
                    let a = Strip::packed(&cotangents[..tiles * rows.len()], rows.len());
                    let sums = &mut sums[(rows.start - first_feature) * columns.len()..];
                    multiply_strip(self.isa, a, panel, sums, columns.len(), write);
                }
            }
        }
    }

    /// Transforms the sums of a task to filters.
    ///
    /// # Safety
    /// No other thread writes the filters of these features and channels.
    unsafe fn finish(
        &self,
        features: Range<usize>,
        channels: Range<usize>,
        sums: &[f32],
        out: &Parts<'_, f32>,
    ) {
        let all = self.plan.g.in_channels;
        let len = (channels.end.min(all) - channels.start) * TAPS;
        for (row, feature) in features.enumerate() {
            // SAFETY: the caller's contract.
            let filters = unsafe { out.part((feature * all + channels.start) * TAPS, len) };
            for (group, filters) in filters.chunks_mut(LINE * TAPS).enumerate() {
                let sums = &sums[row * channels.len() + group * LINE..];
                store_filters(self.isa, (sums, self.plan.point_stride()), filters);
            }
        }
    }
}
