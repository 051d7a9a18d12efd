//! Convolutions with 3x3 filters and stride 1 by minimal filtering: a quarter of the products.
//!
//! Tiles of the input and the filters are transformed to 36 points each, multiplied point by point
//! as matrices (a sum over channels at each point), and transformed back (Lavin and Gray 2016). A
//! block of tiles is a few rows of tiles, neighbours in one image or several. Blocks are done some
//! at a time, so that what lies between the transforms stays in cache. The input's cotangent is a
//! convolution with the filters turned round; the filter's is in `filter_grad`.

mod filter_grad;
mod tiles;

use std::ops::Range;

use crate::graph::Conv2d;
use crate::kernel::Epilogue;
use crate::kernel::gemm::dots::Side;
use crate::kernel::gemm::{
    Hints, Isa, LINE, LINES, POINTS, STEP, Strip, Write, aligned, first, multiply_strip_with,
};
use crate::threads::{Parts, Threads};

pub(super) use filter_grad::{filter_grad, filter_grad_scratch_len};
use tiles::{Blocks, Grid};

/// Taps of a filter.
const TAPS: usize = 9;
/// Fewest channels on either side that are worth transforming.
const CHANNELS_MIN: usize = 16;
/// Tiles of a block, about.
const TILES: usize = 64;
/// Elements of transformed input that are made before they are multiplied; they fit a second-level
/// cache.
const PANELS_MAX: usize = 1 << 18;
/// Channels that one task transforms.
const CHANNELS_AT_ONCE: usize = 8;
/// Fewest strips of filters for each worker if strips are the tasks.
const STRIPS_PER_WORKER: usize = 4;
/// Filters of a row that are turned at a time.
const FILTERS_AT_ONCE: usize = 16;

/// What transforming a filter costs, in products of a filter and a tile at one point.
const FILTER_COST: usize = 1000;

/// Whether a convolution is for this file: one that it can do, and with fewer products.
pub(super) fn applies(g: &Conv2d) -> bool {
    let square = g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1];
    let channels = g.in_channels.min(g.out_channels) >= CHANNELS_MIN && g.groups == 1;
    let columns = g.output[1].max(g.input[1]).div_ceil(STEP);
    let fits = columns <= tiles::COLUMNS_MAX && g.pad.iter().all(|&pad| pad <= 2);
    square && channels && fits && [g.input, g.output].into_iter().all(|plane| pays(g.batch, plane))
}

/// Whether results on so many planes of this size are worth it.
fn pays(batch: usize, plane: [usize; 2]) -> bool {
    let tiles = batch * plane.iter().map(|extent| extent.div_ceil(STEP)).product::<usize>();
    let products = POINTS * tiles.next_multiple_of(LINE) + FILTER_COST;
    TAPS * batch * plane[0] * plane[1] > products
}

/// A convolution as this file sees it, forward or back to its input.
#[derive(Clone, Copy)]
struct Layer {
    batch: usize,
    /// Channels that are summed over.
    channels: usize,
    /// Channels of the result.
    features: usize,
    input: [usize; 2],
    output: [usize; 2],
    pad: [usize; 2],
    /// From one feature's filters to the next.
    feature_stride: usize,
    /// From one channel's filter to the next.
    channel_stride: usize,
    /// Whether filters are turned round.
    turned: bool,
}

impl Layer {
    fn forward(g: &Conv2d) -> Self {
        Layer {
            batch: g.batch,
            channels: g.in_channels,
            features: g.out_channels,
            input: g.input,
            output: g.output,
            pad: g.pad,
            feature_stride: g.in_channels * TAPS,
            channel_stride: TAPS,
            turned: false,
        }
    }

    fn input_grad(g: &Conv2d) -> Self {
        Layer {
            batch: g.batch,
            channels: g.out_channels,
            features: g.in_channels,
            input: g.output,
            output: g.input,
            pad: g.pad.map(|pad| 2 - pad),
            feature_stride: TAPS,
            channel_stride: g.in_channels * TAPS,
            turned: true,
        }
    }
}

/// How a layer is cut, and its scratch memory.
struct Plan {
    layer: Layer,
    /// The input's tiles.
    grid: Grid,
    /// The result's.
    results: Grid,
    blocks: Blocks,
    /// Of the filters.
    strips: Strips,
    /// Elements of a strip of transformed filters, `[point][channel][row]`.
    strip_len: usize,
    /// Elements of the transformed filters: all strips, or one for a worker that transforms it as
    /// it multiplies.
    filters_len: usize,
    by_strip: bool,
    /// Elements of a block's transformed input, `[point][strip of tiles][channel][tile]`.
    panel_len: usize,
    /// Blocks transformed before they are multiplied.
    at_once: usize,
    /// Elements that a worker needs for itself.
    local_len: usize,
}

impl Plan {
    fn new(isa: &Isa, layer: Layer, workers: usize) -> Self {
        let grid = Grid::input(layer.batch, layer.input, layer.output, layer.pad);
        let blocks = Blocks::new(&grid, TILES);
        let strips = Strips::new(isa, layer.features);
        let panel_len = POINTS * point_len(layer.channels, blocks.tiles_max);
        let local_len = (POINTS * strips.rows * blocks.tiles_max).max(blocks.dealt(&grid).len());
        let strip_len = POINTS * point_len(layer.channels, strips.rows);
        let filters_len = strips.count() * strip_len;
        let by_strip = strips.count() >= STRIPS_PER_WORKER * workers
            && filters_are_large(filters_len, blocks.count * panel_len, strips.count());
        let at_once = if by_strip { blocks.count } else { PANELS_MAX / panel_len };
        Plan {
            layer,
            grid,
            results: Grid::output(layer.batch, layer.output),
            strip_len,
            filters_len: if by_strip { strip_len } else { filters_len }.next_multiple_of(LINE),
            by_strip,
            panel_len,
            at_once: at_once.clamp(1, blocks.count),
            local_len: local_len.next_multiple_of(LINE),
            strips,
            blocks,
        }
    }

    fn scratch_len(&self, workers: usize) -> usize {
        let filters = if self.by_strip { workers } else { 1 };
        filters * self.filters_len + self.at_once * self.panel_len + workers * self.local_len + LINE
    }
}

/// Whether to write all transformed `filters` and read them for each group of blocks would take
/// longer than to read all `panels` for each strip of filters.
fn filters_are_large(filters: usize, panels: usize, strips: usize) -> bool {
    panels * (1 + strips) <= filters * (2 + panels.div_ceil(PANELS_MAX))
}

/// From one point of a panel to the next, or of a strip of filters, for `lanes` tiles or rows of
/// each channel. A line more than is needed keeps the points of a tile from falling into one set of
/// a cache where extents are powers of two.
fn point_len(channels: usize, lanes: usize) -> usize {
    channels * lanes + LINE
}

/// Features dealt into strips of rows of a register tile, all but the last equal.
#[derive(Clone, Copy)]
struct Strips {
    features: usize,
    /// Features of a strip, at most.
    rows: usize,
}

impl Strips {
    fn new(isa: &Isa, features: usize) -> Self {
        Strips { features, rows: features.div_ceil(features.div_ceil(isa.rows())) }
    }

    fn count(&self) -> usize {
        self.features.div_ceil(self.rows)
    }

    /// The features of a strip.
    fn of(&self, strip: usize) -> Range<usize> {
        let start = strip * self.rows;
        start..(start + self.rows).min(self.features)
    }
}

/// Elements of scratch that the forward pass needs.
pub(super) fn scratch_len(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    Plan::new(isa, Layer::forward(g), workers).scratch_len(workers)
}

/// Elements of scratch that the input's cotangent needs.
pub(super) fn input_grad_scratch_len(isa: &Isa, g: &Conv2d, workers: usize) -> usize {
    Plan::new(isa, Layer::input_grad(g), workers).scratch_len(workers)
}

/// The convolution.
pub(super) fn forward(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (x, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let plan = Plan::new(isa, Layer::forward(g), threads.count());
    Call { isa, threads, plan: &plan, x, w }.run(out, scratch, epilogue);
}

/// The input's cotangent.
pub(super) fn input_grad(
    isa: &Isa,
    threads: &Threads,
    g: &Conv2d,
    (ct, w): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let plan = Plan::new(isa, Layer::input_grad(g), threads.count());
    Call { isa, threads, plan: &plan, x: ct, w }.run(out, scratch, epilogue);
}

/// One convolution with its operands.
struct Call<'a> {
    isa: &'a Isa,
    threads: &'a Threads,
    plan: &'a Plan,
    x: &'a [f32],
    w: &'a [f32],
}

impl Call<'_> {
    fn run(&self, out: &mut [f32], scratch: &mut [f32], epilogue: Option<&dyn Epilogue>) {
        let Plan { blocks, at_once, panel_len, filters_len, by_strip, .. } = self.plan;
        let workers = self.threads.count();
        let needed = self.plan.scratch_len(workers);
        assert!(scratch.len() >= needed, "minimal filtering needs {needed} of scratch");
        let filters_len = if *by_strip { workers * filters_len } else { *filters_len };
        let (filters, rest) = aligned(scratch).split_at_mut(filters_len);
        let (panels, locals) = rest.split_at_mut(at_once * panel_len);
        let results = (&Parts::new(out), epilogue);
        if *by_strip {
            self.transform_input(0, panels, locals);
            return self.multiply_by_strip(filters, panels, locals, results);
        }
        self.transform_filters(filters);
        for block in (0..blocks.count).step_by(*at_once) {
            let count = (*at_once).min(blocks.count - block);
            self.transform_input(block, &mut panels[..count * panel_len], locals);
            let parts = (&*filters, &panels[..count * panel_len]);
            self.multiply(block, parts, locals, results);
        }
    }

    /// All filters at their points, `[strip][point][channel][row]`.
    fn transform_filters(&self, filters: &mut [f32]) {
        const AT_ONCE: usize = 2 * FILTERS_AT_ONCE;
        let Plan { layer: Layer { channels, .. }, strip_len, .. } = self.plan;
        let tasks = channels.div_ceil(AT_ONCE);
        let filters = Parts::new(filters);
        self.threads.run(self.plan.strips.count() * tasks, |task, _| {
            let features = self.plan.strips.of(task / tasks);
            let first = task % tasks * AT_ONCE;
            let to = filters.pointer(task / tasks * strip_len, *strip_len);
            // SAFETY: tasks have strips or channels of their own.
            unsafe { self.transform_strip(features, first..(first + AT_ONCE).min(*channels), to) };
        });
    }

    /// Some channels of a strip of filters at their points, `[point][channel][row]`.
    ///
    /// # Safety
    /// The strip's filters may be written.
    unsafe fn transform_strip(
        &self,
        features: Range<usize>,
        channels: Range<usize>,
        strip: *mut f32,
    ) {
        let Layer { channels: all, feature_stride, channel_stride, turned, .. } = self.plan.layer;
        let rows = features.len();
        let (mut taps, mut lines) = ([0.0; FILTERS_AT_ONCE * TAPS * LINE], [0.0; LINES]);
        for first_channel in channels.clone().step_by(FILTERS_AT_ONCE) {
            let count = FILTERS_AT_ONCE.min(channels.end - first_channel);
            let mut starts = [std::ptr::null(); LINE];
            for (start, feature) in starts.iter_mut().zip(features.clone()) {
                let at = feature * feature_stride + first_channel * channel_stride;
                *start = self.w[at..][..(count - 1) * channel_stride + TAPS].as_ptr();
            }
            let side = Side {
                starts: &starts[..rows],
                images: count,
                image_stride: channel_stride,
                len: TAPS,
                width: LINE,
            };
            // SAFETY: an instruction set is only handed out where the processor has it; the rows'
            // filters were checked.
            unsafe { (self.isa.pack_rows)(&side, &mut taps) };
            for (index, taps) in taps.chunks_exact_mut(TAPS * LINE).take(count).enumerate() {
                if turned {
                    taps.as_chunks_mut::<LINE>().0.reverse();
                }
                let to = strip.wrapping_add((first_channel + index) * rows);
                // SAFETY: as above, and by the caller's contract.
                unsafe {
                    (self.isa.winograd.filter)(taps, LINE, lines.as_mut_ptr(), LINE);
                    (self.isa.winograd.scatter)(&lines, first(rows), to, point_len(all, rows));
                }
            }
        }
    }

    /// The input of some blocks at its points, for each block `[point][strip][channel][tile]`.
    fn transform_input(&self, block: usize, panels: &mut [f32], locals: &mut [f32]) {
        let Plan { layer, grid, blocks, panel_len, local_len, .. } = self.plan;
        let count = panels.len() / panel_len;
        let tasks = layer.channels.div_ceil(CHANNELS_AT_ONCE);
        let dealt = blocks.dealt(grid);
        let (panels, locals) = (Parts::new(panels), Parts::new(locals));
        self.threads.run(count * tasks, |task, worker| {
            // SAFETY: a worker runs one task at a time.
            let local = unsafe { locals.part(worker * local_len, dealt.len()) };
            let (index, first_channel) = (task / tasks, task % tasks * CHANNELS_AT_ONCE);
            let panel = Panel {
                start: panels.pointer(index * panel_len, *panel_len),
                channels: layer.channels,
                tiles: blocks.tiles(grid, block + index).next_multiple_of(LINE),
                strip: self.isa.columns,
            };
            let rows = blocks.of(block + index);
            for channel in first_channel..(first_channel + CHANNELS_AT_ONCE).min(layer.channels) {
                let data = (self.x, layer.channels, channel);
                dealt.deal(self.isa, grid, rows.clone(), data, local);
                for tile in (0..panel.tiles).step_by(LINE) {
                    let to = panel.place(channel, tile);
                    let (from, stride) = (&local[tile..], dealt.stride());
                    // SAFETY: an instruction set is only handed out where the processor has it;
                    // tasks have channels of their own, and panels have whole lines of tiles.
                    unsafe { (self.isa.winograd.input)(from, stride, to, panel.stride()) };
                }
            }
        });
    }

    /// Products at the points of some blocks, and the results they give.
    fn multiply(
        &self,
        block: usize,
        (filters, panels): (&[f32], &[f32]),
        locals: &mut [f32],
        results: (&Parts<'_, f32>, Option<&dyn Epilogue>),
    ) {
        let Plan { panel_len, local_len, strips, strip_len, .. } = self.plan;
        let (count, strips_count) = (panels.len() / panel_len, strips.count());
        let locals = Parts::new(locals);
        self.threads.run(count * strips_count, |task, worker| {
            // SAFETY: a worker runs one task at a time.
            let sums = unsafe { locals.part(worker * local_len, *local_len) };
            let (index, strip) = (task / strips_count, task % strips_count);
            let filters = &filters[strip * strip_len..][..*strip_len];
            let (features, panel) = (strips.of(strip), &panels[index * panel_len..]);
            self.multiply_block(block + index, features, (filters, panel), sums, worker, results);
        });
    }

    /// Products at the points of all blocks, and the results they give, where each task transforms
    /// a strip of filters for itself.
    fn multiply_by_strip(
        &self,
        filters: &mut [f32],
        panels: &[f32],
        locals: &mut [f32],
        results: (&Parts<'_, f32>, Option<&dyn Epilogue>),
    ) {
        let Plan { layer, panel_len, local_len, filters_len, strips, .. } = self.plan;
        let (filters, locals) = (Parts::new(filters), Parts::new(locals));
        self.threads.run(strips.count(), |strip, worker| {
            let features = strips.of(strip);
            // SAFETY: a worker runs one task at a time.
            let (filters, sums) = unsafe {
                let filters = filters.part(worker * filters_len, *filters_len);
                (filters, locals.part(worker * local_len, *local_len))
            };
            let needed = POINTS * point_len(layer.channels, features.len());
            assert!(filters.len() >= needed, "strips have room");
            // SAFETY: the strip has room.
            unsafe {
                self.transform_strip(features.clone(), 0..layer.channels, filters.as_mut_ptr());
            }
            for (block, panel) in panels.chunks_exact(*panel_len).enumerate() {
                let operands = (&*filters, panel);
                self.multiply_block(block, features.clone(), operands, sums, worker, results);
            }
        });
    }

    /// Products of a strip of filters at the points of a block, and the results they give.
    fn multiply_block(
        &self,
        block: usize,
        features: Range<usize>,
        (filters, panel): (&[f32], &[f32]),
        sums: &mut [f32],
        worker: usize,
        (out, epilogue): (&Parts<'_, f32>, Option<&dyn Epilogue>),
    ) {
        let Plan { layer, grid, blocks, .. } = self.plan;
        let tiles = blocks.tiles(grid, block).next_multiple_of(LINE);
        let (rows, channels) = (features.len(), layer.channels);
        let plane = layer.output.iter().product();
        let spans = self.spans(block, features.start);
        let mut places = spans.flat_map(|(start, len)| (start..start + len).step_by(LINE));
        let at_once = places.clone().count().div_ceil(POINTS * tiles.div_ceil(self.isa.columns));
        // Tiles ask for the same places of all their rows, which are those of the features.
        let mut hints = || {
            let mut hints = Hints::new(plane);
            for place in places.by_ref().take(at_once) {
                hints.push(out.hint(place));
                if let Some(epilogue) = epilogue {
                    epilogue.hint(place, &mut hints);
                }
            }
            hints
        };
        for point in 0..POINTS {
            let filter = &filters[point * point_len(channels, rows)..][..channels * rows];
            let panel = &panel[point * point_len(channels, tiles)..];
            let sums = &mut sums[point * rows * tiles..];
            let filter = Strip::packed(filter, rows);
            let panel = (panel, tiles);
            multiply_strip_with(self.isa, filter, panel, sums, tiles, Write::Set, &mut hints);
        }
        let results = Results { sums, rows, tiles };
        for (row, feature) in features.enumerate() {
            // SAFETY: tasks have features or tiles of their own.
            unsafe { self.store(block, &results, (row, feature), out) };
            if let Some(epilogue) = epilogue {
                self.finish(block, feature, worker, out, epilogue);
            }
        }
    }

    /// Transforms one feature of a block and stores it.
    ///
    /// # Safety
    /// No other thread stores the same elements.
    unsafe fn store(
        &self,
        block: usize,
        results: &Results<'_>,
        (row, feature): (usize, usize),
        out: &Parts<'_, f32>,
    ) {
        let Plan { layer, results: grid, blocks, .. } = self.plan;
        let [height, width] = layer.output;
        let stride = results.rows * results.tiles;
        let (mut lines, mut woven) = ([0.0; LINES], [0.0; STEP * STEP * LINE]);
        let mut line = None;
        for run in grid.runs(blocks.of(block)) {
            if line.replace(run.line) != Some(run.line) {
                let sums = &results.sums[row * results.tiles + run.line..];
                // SAFETY: an instruction set is only handed out where the processor has it.
                unsafe {
                    (self.isa.winograd.output)(sums, stride, lines.as_mut_ptr(), LINE);
                    (self.isa.winograd.weave)(&lines, &mut woven);
                }
            }
            let plane = (run.image * layer.features + feature) * height * width;
            let [top, left] = run.at.map(|tile| tile * STEP);
            let count = (run.count * STEP).min(width - left);
            let rows = STEP.min(height - top);
            let from = (&woven[run.lane * STEP..], STEP * LINE);
            // SAFETY: the caller's contract: blocks have whole rows of tiles. An instruction set is
            // only handed out where the processor has it.
            unsafe {
                let to = out.part(plane + top * width + left, (rows - 1) * width + count);
                (self.isa.copy_rows)(from, (to, width), [rows, count]);
            }
        }
    }

    /// Passes one feature of a block through the epilogue.
    fn finish(
        &self,
        block: usize,
        feature: usize,
        worker: usize,
        out: &Parts<'_, f32>,
        epilogue: &dyn Epilogue,
    ) {
        for (start, len) in self.spans(block, feature) {
            // SAFETY: the task that stored these elements has them for itself.
            let run = unsafe { out.part(start, len) };
            epilogue.apply_in_place(start, run, worker);
        }
    }

    /// Where a block's results of a feature begin in each image, and how many they are.
    fn spans(
        &self,
        block: usize,
        feature: usize,
    ) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let Plan { layer, results: grid, blocks, .. } = self.plan;
        let (features, [height, width]) = (layer.features, layer.output);
        grid.rows(blocks.of(block)).map(move |rows| {
            let plane = (rows.image * features + feature) * height * width;
            let [top, end] = [rows.first, rows.first + rows.count].map(|y| (y * STEP).min(height));
            (plane + top * width, (end - top) * width)
        })
    }
}

/// Products of a block at their points, `[point][row][tile]`.
struct Results<'a> {
    sums: &'a [f32],
    rows: usize,
    tiles: usize,
}

/// The transformed input of a block: `[point][strip of tiles][channel][tile]`.
struct Panel {
    start: *mut f32,
    channels: usize,
    /// Tiles of the block, with those that fill up its last line.
    tiles: usize,
    /// Most tiles of a strip.
    strip: usize,
}

impl Panel {
    /// From one point to the next.
    fn stride(&self) -> usize {
        point_len(self.channels, self.tiles)
    }

    /// Where a tile's first point is.
    fn place(&self, channel: usize, tile: usize) -> *mut f32 {
        let (first, lane) = (tile / self.strip * self.strip, tile % self.strip);
        let width = self.strip.min(self.tiles - first);
        self.start.wrapping_add(first * self.channels + channel * width + lane)
    }
}
