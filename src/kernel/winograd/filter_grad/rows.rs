//! Sums of products of rows of tiles, one row for each point and channel.

use std::ops::Range;

use super::super::tiles::{Blocks, Dealt, Grid};
use super::super::{CHANNELS_AT_ONCE, TAPS, point_len};
use super::{PANELS_MAX, TILES, store_filters};
use crate::graph::Conv2d;
use crate::kernel::gemm::dots::{Dots, Rows, panel_len};
use crate::kernel::gemm::{Isa, LINE, POINTS, TransformFn, aligned};
use crate::threads::{Parts, Threads};

/// Features, and channels, of a task's sums.
const SIDE: usize = 64;

/// How the sum is cut, and its scratch memory.
struct Plan {
    g: Conv2d,
    input: Grid,
    output: Grid,
    blocks: Blocks,
    /// Elements of a block's transformed input, and cotangents, `[point][channel][tile]`.
    panel_lens: [usize; 2],
    /// Blocks transformed before they are multiplied.
    at_once: usize,
    /// Elements that a worker needs for itself.
    local_len: usize,
}

impl Plan {
    fn new(g: &Conv2d) -> Self {
        let input = Grid::input(g.batch, g.input, g.output, g.pad);
        let output = Grid::output(g.batch, g.output);
        let blocks = Blocks::new(&output, TILES);
        let block_len = |channels: usize| POINTS * point_len(channels, blocks.tiles_max);
        let panel_lens = [block_len(g.in_channels), block_len(g.out_channels)];
        Plan {
            g: *g,
            input,
            output,
            panel_lens,
            at_once: (PANELS_MAX / (panel_lens[0] + panel_lens[1])).clamp(1, blocks.count),
            local_len: blocks
                .dealt(&input)
                .len()
                .max(blocks.dealt(&output).len())
                .max(panel_len(SIDE)),
            blocks,
        }
    }

    /// Blocks of channels of the sums.
    fn columns(&self) -> usize {
        self.g.in_channels.div_ceil(SIDE)
    }

    /// Elements of the sums, `[point][block of channels][feature][channel]`.
    fn sums_len(&self) -> usize {
        POINTS * self.columns() * self.g.out_channels * SIDE
    }

    fn scratch_len(&self, workers: usize) -> usize {
        let panels = self.panel_lens[0] + self.panel_lens[1];
        self.sums_len() + self.at_once * panels + workers * self.local_len + LINE
    }
}

/// Elements of scratch that [`filter_grad`] needs.
pub(super) fn scratch_len(g: &Conv2d, workers: usize) -> usize {
    Plan::new(g).scratch_len(workers)
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
    let needed = plan.scratch_len(threads.count());
    assert!(scratch.len() >= needed, "minimal filtering needs {needed} of scratch");
    let (sums, rest) = aligned(scratch).split_at_mut(plan.sums_len());
    let (panels, rest) = rest.split_at_mut(plan.at_once * plan.panel_lens[0]);
    let (cotangents, locals) = rest.split_at_mut(plan.at_once * plan.panel_lens[1]);
    let call = Call { isa, threads, plan: &plan };
    let side = |grid, transform, data, channels, panel_len| {
        let dealt = plan.blocks.dealt(grid);
        Side { grid, dealt, transform, data, channels, panel_len }
    };
    let [input_len, output_len] = plan.panel_lens;
    let input = side(&plan.input, isa.winograd.input, x, g.in_channels, input_len);
    let output = side(&plan.output, isa.winograd.cotangent, ct, g.out_channels, output_len);
    sums.fill(0.0);
    for first in (0..plan.blocks.count).step_by(plan.at_once) {
        let blocks = first..(first + plan.at_once).min(plan.blocks.count);
        call.transform(&input, blocks.clone(), panels, locals);
        call.transform(&output, blocks.clone(), cotangents, locals);
        call.multiply(blocks, [cotangents, panels], sums, locals);
    }
    call.finish(sums, out);
}

/// One sum.
struct Call<'a> {
    isa: &'static Isa,
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
    /// Elements of a block.
    panel_len: usize,
}

impl Call<'_> {
    /// One side of some blocks at its points.
    fn transform(
        &self,
        side: &Side<'_>,
        blocks: Range<usize>,
        panels: &mut [f32],
        locals: &mut [f32],
    ) {
        let Side { grid, dealt, transform, data, channels, panel_len } = side;
        let Plan { blocks: all, local_len, .. } = self.plan;
        let (row_len, point_len) = (all.tiles_max, point_len(*channels, all.tiles_max));
        let (panels, locals) = (Parts::new(panels), Parts::new(locals));
        let tasks = channels.div_ceil(CHANNELS_AT_ONCE);
        self.threads.run(blocks.len() * tasks, |task, worker| {
            // SAFETY: a worker runs one task at a time.
            let local = unsafe { locals.part(worker * local_len, dealt.len()) };
            let (index, first) = (task / tasks, task % tasks * CHANNELS_AT_ONCE);
            let panel = panels.pointer(index * panel_len, *panel_len);
            let rows = all.of(blocks.start + index);
            let tiles = rows.len() * grid.tiles[1];
            for channel in first..(first + CHANNELS_AT_ONCE).min(*channels) {
                dealt.deal(self.isa, grid, rows.clone(), (data, *channels, channel), local);
                if tiles < LINE {
                    dealt.fill_line(tiles, local);
                }
                for tile in (0..tiles).step_by(LINE) {
                    let to = panel.wrapping_add(channel * row_len + tile);
                    // SAFETY: an instruction set is only handed out where the processor has it;
                    // tasks have blocks or channels of their own, whose rows are whole lines.
                    unsafe { transform(&local[tile..], dealt.stride(), to, point_len) };
                }
            }
        });
    }

    /// Adds the products of some blocks to the sums.
    fn multiply(
        &self,
        blocks: Range<usize>,
        sides: [&[f32]; 2],
        sums: &mut [f32],
        locals: &mut [f32],
    ) {
        let Plan { g, blocks: all, panel_lens: [input_len, output_len], .. } = self.plan;
        let counts = [g.out_channels, g.in_channels];
        let row_len = all.tiles_max;
        let tiles = |block: usize| all.tiles(&self.plan.output, block).max(LINE);
        let (row_tasks, columns) = (counts[0].div_ceil(SIDE), self.plan.columns());
        let (sums, locals) = (Parts::new(sums), Parts::new(locals));
        self.threads.run(POINTS * row_tasks * columns, |task, worker| {
            // SAFETY: a worker runs one task at a time.
            let panel = unsafe { locals.part(worker * self.plan.local_len, self.plan.local_len) };
            let (point, block) = (task / (row_tasks * columns), task % (row_tasks * columns));
            let part = |at: usize, count: usize| at * SIDE..((at + 1) * SIDE).min(count);
            let rows = part(block % row_tasks, counts[0]);
            let channels = part(block / row_tasks, counts[1]);
            let start = ((point * columns + block / row_tasks) * counts[0] + rows.start) * SIDE;
            // SAFETY: tasks have points or blocks of their own.
            let c = unsafe { sums.part(start, rows.len() * SIDE) };
            // All blocks have the same tiles, but the last one may have fewer.
            let mut first = blocks.start;
            while first < blocks.end {
                let len = tiles(first);
                let images = (first..blocks.end).take_while(|&b| tiles(b) == len).count();
                let side = |side: usize, stride: usize| {
                    let start = (first - blocks.start) * stride;
                    let start = start + point * point_len(counts[side], row_len);
                    Rows {
                        data: &sides[side][start..],
                        count: counts[side],
                        image_stride: stride,
                        group_stride: row_len,
                        offsets: &[0],
                    }
                };
                let dots = Dots {
                    isa: self.isa,
                    a: side(0, *output_len),
                    b: side(1, *input_len),
                    images,
                    len,
                };
                dots.add_block([rows.clone(), channels.clone()], SIDE, panel, c);
                first += images;
            }
        });
    }
    /// Transforms the sums to filters.
    fn finish(&self, sums: &[f32], out: &mut [f32]) {
        let Conv2d { in_channels, out_channels, .. } = self.plan.g;
        let filters_len = in_channels * TAPS;
        let stride = self.plan.sums_len() / POINTS;
        let out = Parts::new(out);
        self.threads.run(out_channels, |feature, _| {
            // SAFETY: each task has the filters of a feature.
            let filters = unsafe { out.part(feature * filters_len, filters_len) };
            for (group, filters) in filters.chunks_mut(LINE * TAPS).enumerate() {
                let channel = group * LINE;
                let row = channel / SIDE * out_channels + feature;
                let sums = &sums[row * SIDE + channel % SIDE..];
                store_filters(self.isa, (sums, stride), filters);
            }
        });
    }
}
