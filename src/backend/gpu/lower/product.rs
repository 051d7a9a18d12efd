//! Matrix products and convolutions: tiles, segments of long sums, parts of large batches.

use std::ops::Range;

use super::tapes::bind_tape;
use super::{Items, Limits, items, parts, reduce};
use crate::backend::gpu::code;
use crate::backend::gpu::launch::{Access, Bound, Builder, Launch};
use crate::backend::gpu::params::{self, Tiling};
use crate::error::Result;
use crate::graph::Conv2d;
use crate::kernel::Fused;
use crate::kernel::matmul::Product;

/// Binding of the first operand of an epilogue.
const EPILOGUE: u32 = 5;
/// Workgroups below which a long sum is cut into segments, and large tiles are not used.
const WORKGROUPS_WANTED: usize = 128;
/// Shortest segment of a sum.
const SEGMENT_MIN: usize = 512;
/// Rows and columns from which large tiles are worth their registers.
const LARGE_MIN: usize = 96;

/// The result's rows and columns, cut into tiles.
struct Tiles {
    side: usize,
    tiling: Tiling,
    cooperative: bool,
}

impl Tiles {
    /// Tiles of `z` matrices of `rows` by `columns`.
    fn new(rows: usize, columns: usize, z: usize, limits: &Limits) -> Self {
        let tiles = |side: usize| rows.div_ceil(side) * columns.div_ceil(side) * z;
        let cooperative = limits.cooperative;
        let large = !cooperative
            && rows >= LARGE_MIN
            && columns >= LARGE_MIN
            && tiles(128) >= WORKGROUPS_WANTED;
        let side = if large { 128 } else { 64 };
        let tiling = Tiling {
            rows: rows as u32,
            columns: columns as u32,
            row_tiles: rows.div_ceil(side) as u32,
            column_tiles: columns.div_ceil(side) as u32,
            tiles: tiles(side) as u32,
            spare0: 0,
            spare1: 0,
            spare2: 0,
        };
        Tiles { side, tiling, cooperative }
    }

    fn variant(&self) -> String {
        match self.cooperative {
            true => "//!include tiles_cooperative\n".to_string(),
            false => format!("const TILE: u32 = {}u;\n//!include tiles\n", self.side),
        }
    }

    fn count(&self) -> usize {
        self.tiling.tiles as usize
    }
}

/// How a matrix is read, as the operand `name` of a product: by vectors where these line up, which
/// they do if the extent of what is contiguous (the sum, or rows or columns) is in whole vectors.
fn matrix(name: char, along_sum: bool, contiguous: usize) -> String {
    let (form, walk) = match (along_sum, contiguous.is_multiple_of(4)) {
        (true, true) => ("vectors", "blocks"),
        (false, true) => ("vectors", "across"),
        (true, false) => ("elements", "along"),
        (false, false) => ("elements", "across"),
    };
    format!("//!include {form} for _{name}\n//!include {walk} for _{name}\n")
}

/// Whether the windows of four neighbouring positions, counted in planes of these extents, see
/// neighbours through each tap, one row after the other: then they are read by vectors.
fn lines_up(g: &Conv2d, plane: [usize; 2]) -> bool {
    let in_step = g.stride == [1, 1] && g.input[1] == g.output[1];
    in_step && plane[1] >= 4 && (plane[0] * plane[1]).is_multiple_of(4)
}

/// How the images are read that a convolution's window moves over.
fn windows(along_sum: bool, by_vectors: bool) -> &'static str {
    match (along_sum, by_vectors) {
        (true, true) => "//!include image_vectors\n//!include blocks for _b\n",
        (false, true) => "//!include image_vectors\n//!include across for _b\n",
        (true, false) => "//!include image_elements\n//!include along for _b\n",
        (false, false) => "//!include image_elements\n//!include across for _b\n",
    }
}

/// What a launch finishes: items `part` of `count` of `len` elements each, the sums of which go on
/// from what is there if it `joins`.
struct Finish {
    part: Range<usize>,
    count: usize,
    len: usize,
    joins: bool,
}

impl Finish {
    /// Writes the result: through the tape that follows, if there is one.
    fn bind(self, builder: Builder, fused: Option<&Fused>, limits: &Limits) -> Result<Builder> {
        let Finish { part, count, len, joins } = self;
        let out = items(limits, &part, count, len).window;
        let builder = builder.bind_window(4, Access::Write, Bound::Result(0), out);
        let Some(fused) = fused else {
            return Ok(builder.variant(&code::plain(joins)));
        };
        // The tape's other operands follow the product's two.
        let code = code::epilogue(fused, EPILOGUE, joins)?;
        let number = |operand: usize| 2 + operand - usize::from(operand > fused.own);
        let builder = builder.variant(&code.text);
        let elements = part.start * len..part.end * len;
        let builder = bind_tape(builder, &code, &elements, limits, number);
        Ok(match fused.replaces {
            Some(_) => builder,
            None => builder.bind_window(code.next - 1, Access::Write, Bound::Result(1), out),
        })
    }
}

/// Along what a product is cut.
#[derive(Clone, Copy, PartialEq)]
enum Along {
    Batch,
    /// The rows of a single matrix; the second operand is bound whole.
    Rows,
    /// The sum of a single product; its parts are added in the result, in order.
    Sum,
}

impl Along {
    fn of(g: &Product, limits: &Limits) -> Self {
        let is_long = g.k * g.m.max(g.n) > limits.binding;
        match (g.batch, g.how.transpose_a, g.how.transpose_b) {
            (1, false, _) => Along::Rows,
            (1, true, false) if is_long => Along::Sum,
            _ => Along::Batch,
        }
    }

    /// How many items there are, and how many elements an item has of each operand and of the
    /// result; 0 of what is bound whole.
    fn items(self, g: &Product) -> (usize, [usize; 3]) {
        let Product { batch, m, n, k, .. } = *g;
        match self {
            Along::Batch => (batch, [m * k, k * n, m * n]),
            Along::Rows => (m, [k, 0, n]),
            Along::Sum => (k, [m, n, 0]),
        }
    }
}

/// `a, b` to their batched product.
pub(super) fn matmul(g: &Product, fused: Option<&Fused>, limits: &Limits) -> Result<Vec<Launch>> {
    let Product { m, n, k, how, .. } = *g;
    let along = Along::of(g, limits);
    let (count, lens) = along.items(g);
    let launch = |part: Range<usize>| {
        let [a, b, out] = lens.map(|len| items(limits, &part, count, len));
        let (rows, z, depth) = match along {
            Along::Batch => (m, part.len(), k),
            Along::Rows => (part.len(), 1, k),
            Along::Sum => (m, 1, part.len()),
        };
        let tiles = Tiles::new(rows, n, z, limits);
        let (a_step, a_row) = if how.transpose_a { (m, 1) } else { (1, k) };
        let (b_step, b_column) = if how.transpose_b { (1, k) } else { (n, 1) };
        let params = params::MatMul {
            tiling: tiles.tiling,
            depth: depth as u32,
            a_step: a_step as u32,
            a_row: a_row as u32,
            a_batch: (m * k) as u32,
            b_step: b_step as u32,
            b_column: b_column as u32,
            b_batch: (k * n) as u32,
            plane: n as u32,
            b_image: 0,
            out_row: n as u32,
            out_image: 0,
            a_first: a.first,
            b_first: b.first,
            out_first: out.first,
            spare0: 0,
            spare1: 0,
        };
        let builder = Builder::new("matmul", &params)
            .variant(&tiles.variant())
            .bind_window(2, Access::Read, Bound::Operand(0), a.window)
            .bind_window(3, Access::Read, Bound::Operand(1), b.window)
            .variant(&matrix('a', !how.transpose_a, if how.transpose_a { m } else { k }))
            .variant(&matrix('b', how.transpose_b, if how.transpose_b { k } else { n }));
        let finish = match along {
            Along::Sum => Finish { part: 0..1, count: 1, len: m * n, joins: part.start > 0 },
            _ => Finish { part: part.clone(), count, len: lens[2], joins: false },
        };
        // The tape follows on the whole sum.
        let fused = fused.filter(|_| along != Along::Sum || part.end == k);
        Ok(finish.bind(builder, fused, limits)?.launch(tiles.count(), 0))
    };
    parts(limits, count, &lens)?.into_iter().map(launch).collect()
}

/// Whether a convolution has kernels of its own: groups of one input channel.
fn is_depthwise(g: &Conv2d) -> bool {
    g.groups > 1 && g.groups == g.in_channels
}

/// What is bound of images before and after.
fn images_of(g: &Conv2d, part: &Range<usize>, limits: &Limits) -> [Items; 2] {
    image_lens(g).map(|len| items(limits, part, g.batch, len))
}

fn geometry(g: &Conv2d, batch: usize, images: [Items; 2]) -> params::Geometry {
    let pair = |values: [usize; 2]| values.map(|value| value as u32);
    params::Geometry {
        batch: batch as u32,
        in_channels: (g.in_channels / g.groups) as u32,
        out_channels: (g.out_channels / g.groups) as u32,
        groups: g.groups as u32,
        input: pair(g.input),
        output: pair(g.output),
        pad: pair(g.pad),
        first: images.map(|items| items.first),
    }
}

fn taps(g: &Conv2d) -> [(&'static str, u32); 6] {
    [
        ("KERNEL_H", g.kernel[0] as u32),
        ("KERNEL_W", g.kernel[1] as u32),
        ("STRIDE_H", g.stride[0] as u32),
        ("STRIDE_W", g.stride[1] as u32),
        ("DILATION_H", g.dilation[0] as u32),
        ("DILATION_W", g.dilation[1] as u32),
    ]
}

/// Elements of one image before and after.
fn image_lens(g: &Conv2d) -> [usize; 2] {
    [g.in_channels * g.input[0] * g.input[1], g.out_channels * g.output[0] * g.output[1]]
}

/// `x, w` to their convolution.
pub(super) fn conv2d(g: &Conv2d, fused: Option<&Fused>, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let launch = |part: Range<usize>| {
        let images = images_of(g, &part, limits);
        let geometry = geometry(g, part.len(), images);
        let columns = part.len() * g.output[0] * g.output[1];
        let tiles = Tiles::new(g.out_channels / g.groups, columns, g.groups, limits);
        let (builder, workgroups) = if is_pointwise(g) {
            (pointwise(g, &tiles, images, false), tiles.count())
        } else if is_depthwise(g) {
            depthwise("forward", g, geometry, part.len() * after)
        } else {
            let params = params::Convolution { tiling: tiles.tiling, geometry };
            let builder = Builder::new("conv2d", &params)
                .variant(&tiles.variant())
                .variant(&matrix('a', true, g.in_channels / g.groups * g.kernel[0] * g.kernel[1]))
                .variant(windows(false, lines_up(g, g.output)))
                .overrides(&taps(g));
            (builder, tiles.count())
        };
        let x = images[0].window;
        let builder = builder.read(2, 1).bind_window(3, Access::Read, Bound::Operand(0), x);
        let finish = Finish { part, count: g.batch, len: after, joins: false };
        Ok(finish.bind(builder, fused, limits)?.launch(workgroups, 0))
    };
    parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect()
}

/// `ct, w` to the cotangent of the input.
pub(super) fn input_grad(
    g: &Conv2d,
    fused: Option<&Fused>,
    limits: &Limits,
) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    // With a dilation, the taps of a phase do not follow each other by the stride.
    let phases = [0, 1].map(|axis| if g.dilation[axis] == 1 { g.stride[axis] } else { 1 });
    let across = [0, 1].map(|axis| g.input[axis].div_ceil(phases[axis]));
    let launch = |part: Range<usize>| {
        let images = images_of(g, &part, limits);
        let geometry = geometry(g, part.len(), images);
        let columns = part.len() * across[0] * across[1];
        let z = g.groups * phases[0] * phases[1];
        let tiles = Tiles::new(g.in_channels / g.groups, columns, z, limits);
        let (builder, workgroups) = if is_pointwise(g) {
            (pointwise(g, &tiles, images, true), tiles.count())
        } else if is_depthwise(g) {
            depthwise("input_grad", g, geometry, part.len() * before)
        } else {
            let params = params::Convolution { tiling: tiles.tiling, geometry };
            let phases = phases.map(|phases| phases as u32);
            let builder = Builder::new("conv2d_input_grad", &params)
                .variant(&tiles.variant())
                .variant("//!include elements for _a\n//!include across for _a\n")
                .variant(windows(false, lines_up(g, g.input)))
                .overrides(&taps(g))
                .overrides(&[("PHASES_H", phases[0]), ("PHASES_W", phases[1])]);
            (builder, tiles.count())
        };
        let ct = images[1].window;
        let builder = builder.read(2, 1).bind_window(3, Access::Read, Bound::Operand(0), ct);
        let finish = Finish { part, count: g.batch, len: before, joins: false };
        Ok(finish.bind(builder, fused, limits)?.launch(workgroups, 0))
    };
    parts(limits, g.batch, &[before, after])?.into_iter().map(launch).collect()
}

/// Whether a convolution is a product of its filters with each image as it is stored, whose
/// positions come in whole vectors.
fn is_pointwise(g: &Conv2d) -> bool {
    let [height, width] = g.input;
    let has_window = g.kernel != [1, 1] || g.stride != [1, 1] || g.pad != [0, 0];
    !has_window && g.output == g.input && !is_depthwise(g) && (height * width).is_multiple_of(4)
}

/// A convolution without a window, or its cotangent of the input, as a product: the filters times
/// all images, image beside image.
fn pointwise(g: &Conv2d, tiles: &Tiles, images: [Items; 2], towards_input: bool) -> Builder {
    let [from, to] = if towards_input { [images[1], images[0]] } else { images };
    let (before, after) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let (rows, depth) = if towards_input { (before, after) } else { (after, before) };
    let (a_step, a_row) = if towards_input { (before, 1) } else { (1, before) };
    let plane = g.input[0] * g.input[1];
    let params = params::MatMul {
        tiling: tiles.tiling,
        depth: depth as u32,
        a_step: a_step as u32,
        a_row: a_row as u32,
        a_batch: (before * after) as u32,
        b_step: plane as u32,
        b_column: 1,
        b_batch: (depth * plane) as u32,
        plane: plane as u32,
        b_image: (g.groups * depth * plane) as u32,
        out_row: plane as u32,
        out_image: (g.groups * rows * plane) as u32,
        a_first: 0,
        b_first: from.first,
        out_first: to.first,
        spare0: 0,
        spare1: 0,
    };
    Builder::new("matmul", &params)
        .variant(&tiles.variant())
        .variant(&matrix('a', !towards_input, before))
        .variant(&matrix('b', false, plane))
}

fn depthwise(
    entry: &'static str,
    g: &Conv2d,
    geometry: params::Geometry,
    len: usize,
) -> (Builder, usize) {
    let params = params::Depthwise { geometry, len: len as u32, first: 0, spare1: 0, spare2: 0 };
    let builder = Builder::new("depthwise", &params).entry(entry).overrides(&taps(g));
    (builder, len.div_ceil(crate::backend::gpu::launch::WORKGROUP))
}

/// `x, ct` to the cotangent of the filter; long sums are cut, and added by a second launch.
pub(super) fn filter_grad(g: &Conv2d, limits: &Limits) -> Result<Vec<Launch>> {
    if is_depthwise(g) {
        return depthwise_filter_grad(g, limits);
    }
    let [before, after] = image_lens(g);
    let parts = parts(limits, g.batch, &[before, after])?;
    let rows = g.out_channels / g.groups;
    let columns = g.in_channels / g.groups * g.kernel[0] * g.kernel[1];
    let plane = g.output[0] * g.output[1];
    let depth = parts[0].len() * plane;
    let tiles = Tiles::new(rows, columns, g.groups, limits).count();
    let wanted = WORKGROUPS_WANTED.div_ceil(tiles.max(1));
    let each = wanted.min(depth / SEGMENT_MIN).max(1);
    let segments = each * parts.len();
    let filter_len = g.filter_shape().len();
    let (out, scratch_len) = match segments {
        1 => (Bound::Result(0), 0),
        _ => (Bound::Scratch, segments * filter_len),
    };
    let launch = |(number, part): (usize, &Range<usize>)| {
        let images = images_of(g, part, limits);
        let tiles = Tiles::new(rows, columns, g.groups * each, limits);
        let params = params::FilterGrad {
            tiling: tiles.tiling,
            geometry: geometry(g, part.len(), images),
            segments: each as u32,
            segment: depth.div_ceil(each).next_multiple_of(4) as u32,
            filter_len: filter_len as u32,
            first_segment: (number * each) as u32,
        };
        Builder::new("conv2d_filter_grad", &params)
            .variant(&tiles.variant())
            .variant(&matrix('a', true, plane))
            .variant(windows(true, lines_up(g, g.output)))
            .overrides(&taps(g))
            .bind_window(2, Access::Read, Bound::Operand(1), images[1].window)
            .bind_window(3, Access::Read, Bound::Operand(0), images[0].window)
            .bind(4, Access::Write, out.clone())
            .launch(tiles.count(), scratch_len)
    };
    let mut launches: Vec<Launch> = parts.iter().enumerate().map(launch).collect();
    if segments > 1 {
        launches.push(reduce::combine(segments, filter_len, false));
    }
    Ok(launches)
}

/// The same for groups of one input channel; parts of the images have sums of their own.
fn depthwise_filter_grad(g: &Conv2d, limits: &Limits) -> Result<Vec<Launch>> {
    let [before, after] = image_lens(g);
    let parts = parts(limits, g.batch, &[before, after])?;
    let filter_len = g.filter_shape().len();
    let (out, scratch_len) = match parts.len() {
        1 => (Bound::Result(0), 0),
        count => (Bound::Scratch, count * filter_len),
    };
    let launch = |(number, part): (usize, &Range<usize>)| {
        let images = images_of(g, part, limits);
        let params = params::Depthwise {
            geometry: geometry(g, part.len(), images),
            len: filter_len as u32,
            first: (number * filter_len) as u32,
            spare1: 0,
            spare2: 0,
        };
        Builder::new("depthwise_filter_grad", &params)
            .overrides(&taps(g))
            .bind_window(2, Access::Read, Bound::Operand(0), images[0].window)
            .bind_window(3, Access::Read, Bound::Operand(1), images[1].window)
            .bind(4, Access::Write, out.clone())
            .launch(filter_len, scratch_len)
    };
    let mut launches: Vec<Launch> = parts.iter().enumerate().map(launch).collect();
    if parts.len() > 1 {
        launches.push(reduce::combine(parts.len(), filter_len, false));
    }
    Ok(launches)
}
