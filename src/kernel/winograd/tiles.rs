//! Where tiles are: in images, in blocks, and in planes that are dealt out for them.

use std::ops::Range;

use crate::kernel::gemm::{Dealing, Isa, LINE, REACH, STEP};

/// Most columns of tiles.
pub(super) const COLUMNS_MAX: usize = 256;

/// The tiles of a plane in all images: row-major in each, image after image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    images: usize,
    plane: [usize; 2],
    /// Zeros above and left of the plane.
    pad: [usize; 2],
    /// Rows and columns of tiles.
    pub tiles: [usize; 2],
    /// Whether tiles reach into their neighbours below and to the right: they are 6x6, or 4x4.
    overlap: bool,
}

/// Neighbouring rows of tiles of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub image: usize,
    pub first: usize,
    pub count: usize,
}

impl Grid {
    /// The 6x6 tiles of an input that 4x4 tiles of a result come from.
    pub fn input(images: usize, input: [usize; 2], output: [usize; 2], pad: [usize; 2]) -> Self {
        Grid { pad, plane: input, overlap: true, ..Self::output(images, output) }
    }

    /// The 4x4 tiles of a result.
    pub fn output(images: usize, output: [usize; 2]) -> Self {
        let tiles = output.map(|extent| extent.div_ceil(STEP));
        Grid { images, plane: output, pad: [0, 0], tiles, overlap: false }
    }

    /// The rows of tiles `rows`, counted through all images, by image.
    pub fn rows(&self, rows: Range<usize>) -> impl Iterator<Item = Rows> + Clone + use<> {
        let per_image = self.tiles[0];
        let mut row = rows.start;
        std::iter::from_fn(move || {
            let (image, first) = (row / per_image, row % per_image);
            let count = (per_image - first).min(rows.end.checked_sub(row)?);
            row += count;
            (count > 0).then_some(Rows { image, first, count })
        })
    }
}

/// How the rows of tiles are dealt into blocks, none of more than a few rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Rows of all images.
    all: usize,
    /// Rows of a block.
    rows: usize,
    /// Number of blocks.
    pub count: usize,
    /// Most tiles of a block, with those that fill up its last line.
    pub tiles_max: usize,
}

impl Blocks {
    /// Blocks of about `tiles` tiles, but of whole rows that waste little of their last line.
    pub fn new(grid: &Grid, tiles: usize) -> Self {
        let [rows, columns] = grid.tiles;
        let all = grid.images * rows;
        let most = (tiles / columns).clamp(1, all);
        let waste = |rows: usize| {
            let tiles = rows * columns;
            (tiles.next_multiple_of(LINE) - tiles) as f64 / tiles as f64
        };
        let few = most.div_ceil(2);
        let rows = (few..=most).rev().min_by(|&a, &b| waste(a).total_cmp(&waste(b)));
        let rows = rows.unwrap_or(most);
        let tiles_max = (rows * columns).next_multiple_of(LINE);
        Blocks { all, rows, count: all.div_ceil(rows), tiles_max }
    }

    /// The rows of tiles of a block.
    pub fn of(&self, block: usize) -> Range<usize> {
        let start = block * self.rows;
        start..(start + self.rows).min(self.all)
    }

    /// Tiles of a block, without those that fill up its last line.
    pub fn tiles(&self, grid: &Grid, block: usize) -> usize {
        self.of(block).len() * grid.tiles[1]
    }

    /// How the planes of a block are dealt.
    pub fn dealt(&self, grid: &Grid) -> Dealt {
        Dealt::new(grid, self.rows)
    }
}

/// Tiles of a block, dealt out by position: element (y, x) of all tiles are next to each other in
/// the order of the tiles, so that a line of sixteen belongs to sixteen neighbouring tiles. Where
/// tiles overlap, what they share is dealt to each.
#[derive(Clone, Debug)]
pub(super) struct Dealt {
    /// Elements of a tile along an axis.
    extent: usize,
    /// From one position to the next: room for all tiles, and for what is written beyond a row.
    stride: usize,
}

impl Dealt {
    fn new(grid: &Grid, rows: usize) -> Self {
        let extent = if grid.overlap { REACH } else { STEP };
        Dealt { extent, stride: rows * grid.tiles[1] + 2 * LINE }
    }

    /// Elements of a block's planes.
    pub fn len(&self) -> usize {
        self.extent * self.extent * self.stride
    }

    /// From one position of a tile to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Deals out rows of tiles of a channel; `data` holds all images, `[image][channel]`.
    pub fn deal(
        &self,
        isa: &Isa,
        grid: &Grid,
        rows: Range<usize>,
        (data, channels, channel): (&[f32], usize, usize),
        to: &mut [f32],
    ) {
        let plane = grid.plane[0] * grid.plane[1];
        let mut first = 0;
        for rows in grid.rows(rows) {
            let plane = &data[(rows.image * channels + channel) * plane..][..plane];
            self.deal_plane(isa, grid, (rows, first), plane, &mut to[..self.len()]);
            first += rows.count * grid.tiles[1];
        }
    }

    /// Fills up a line that has only some tiles with tiles of zeros.
    pub fn fill_line(&self, tiles: usize, dealt: &mut [f32]) {
        for position in dealt.chunks_exact_mut(self.stride) {
            position[tiles..LINE].fill(0.0);
        }
    }

    /// Deals out rows of tiles of a plane, from the tile `first` of those dealt on.
    fn deal_plane(
        &self,
        isa: &Isa,
        grid: &Grid,
        (rows, first): (Rows, usize),
        plane: &[f32],
        to: &mut [f32],
    ) {
        let ([height, width], columns) = (grid.plane, grid.tiles[1]);
        for y in 0..(rows.count - 1) * STEP + self.extent {
            // A row belongs to a row of tiles, and the first ones to the row above as well.
            let mut starts = [0; 2];
            let mut places = 0;
            for (row, position) in [(y / STEP, y % STEP), (y / STEP, y % STEP + STEP)] {
                let row = row.wrapping_sub(position / STEP);
                if row < rows.count && position < self.extent {
                    starts[places] = position * self.extent * self.stride + first + row * columns;
                    places += 1;
                }
            }
            let starts = &starts[..places];
            let at = (rows.first * STEP + y).wrapping_sub(grid.pad[0]);
            if at >= height {
                for (start, x) in starts.iter().flat_map(|&s| (0..self.extent).map(move |x| (s, x)))
                {
                    to[start + x * self.stride..][..columns].fill(0.0);
                }
                continue;
            }
            let row = &plane[at * width..][..width];
            let count = columns.div_ceil(LINE);
            let places = Dealing { starts, stride: self.stride, positions: self.extent, count };
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.winograd.deal)(row, grid.pad[1], to, &places) };
        }
    }
}

/// Neighbouring tiles of one row and of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub image: usize,
    /// The row and column of the first tile in its image.
    pub at: [usize; 2],
    /// The first tile of the line.
    pub line: usize,
    /// The first tile's element in the line.
    pub lane: usize,
    /// Number of tiles.
    pub count: usize,
}

impl Grid {
    /// The tiles of some rows, in order.
    pub fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Run> + use<> {
        let columns = self.tiles[1];
        let images = self.rows(rows).flat_map(|rows| {
            (rows.first..rows.first + rows.count).map(move |row| (rows.image, row))
        });
        images.enumerate().flat_map(move |(index, (image, row))| {
            let mut column = 0;
            std::iter::from_fn(move || {
                let tile = index * columns + column;
                let (lane, at) = (tile % LINE, [row, column]);
                let count = (columns - column).min(LINE - lane);
                column += count;
                (count > 0).then_some(Run { image, at, line: tile - lane, lane, count })
            })
        })
    }
}
