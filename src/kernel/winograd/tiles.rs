//! Where tiles are: in images, in blocks, and in planes that are dealt out for them.

use std::ops::Range;

use crate::kernel::gemm::{Isa, LINE, Places, STEP, first};

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
    pub fn rows(&self, rows: Range<usize>) -> impl Iterator<Item = Rows> + use<> {
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

/// Rows of tiles, dealt out by position within a tile: element (y, x) of all tiles are next to each
/// other, so that a line of sixteen belongs to sixteen neighbouring tiles. Where tiles overlap
/// there is one more column of them, and one more row for each image, which have only what their
/// neighbours need.
#[derive(Clone, Debug)]
pub(super) struct Dealt {
    /// Columns of tiles.
    columns: usize,
    /// Elements of one position.
    len: usize,
    overlap: bool,
}

impl Dealt {
    fn new(grid: &Grid, rows: usize) -> Self {
        let extra = usize::from(grid.overlap);
        let columns = grid.tiles[1] + extra;
        let images = (rows.div_ceil(grid.tiles[0]) + 1).min(grid.images);
        let len = (rows + extra * images) * columns + 2 * LINE;
        Dealt { columns, len, overlap: grid.overlap }
    }

    /// Elements of a block's planes.
    pub fn len(&self) -> usize {
        STEP * STEP * self.len
    }

    /// Where the lines of a tile's elements begin.
    pub fn places(&self) -> Places {
        let extent = if self.overlap { STEP + 2 } else { STEP };
        let elements = (0..extent).flat_map(|y| (0..extent).map(move |x| (y, x)));
        Places::new(elements.map(|(y, x)| {
            let position = y % STEP * STEP + x % STEP;
            position * self.len + y / STEP * self.columns + x / STEP
        }))
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
            first += rows.count + usize::from(self.overlap);
        }
    }

    /// Deals out rows of tiles of a plane, from the row `first` of those dealt on.
    fn deal_plane(
        &self,
        isa: &Isa,
        grid: &Grid,
        (rows, first): (Rows, usize),
        plane: &[f32],
        to: &mut [f32],
    ) {
        let [height, width] = grid.plane;
        let count = self.columns.div_ceil(LINE);
        let positions = rows.count * STEP + if self.overlap { 2 } else { 0 };
        for position in 0..positions {
            let at = (rows.first * STEP + position).wrapping_sub(grid.pad[0]);
            let dealt = first + position / STEP;
            let to = &mut to[position % STEP * STEP * self.len + dealt * self.columns..];
            if at >= height {
                (0..STEP).for_each(|x| to[x * self.len..][..self.columns].fill(0.0));
                continue;
            }
            let row = &plane[at * width..][..width];
            // SAFETY: an instruction set is only handed out where the processor has it.
            unsafe { (isa.winograd.deal)(row, grid.pad[1], to, self.len, count) };
        }
    }

    /// The tiles of dealt rows, in order. No run crosses a multiple of `unit` tiles.
    pub fn runs(
        &self,
        grid: &Grid,
        rows: Range<usize>,
        unit: usize,
    ) -> impl Iterator<Item = Run> + use<> {
        let (width, tiles, extra) = (self.columns, grid.tiles[1], usize::from(self.overlap));
        let (mut first, mut tile) = (0, 0);
        grid.rows(rows).flat_map(move |rows| {
            let dealt = (first, tile);
            first += rows.count + extra;
            tile += rows.count * tiles;
            (0..rows.count).flat_map(move |row| {
                let at = (dealt.0 + row) * width;
                let image_row = (rows.image, rows.first + row);
                Runs { image_row, at, column: 0, tiles, tile: dealt.1 + row * tiles, unit }
            })
        })
    }

    /// The lines of dealt rows that hold tiles, in order.
    pub fn lines(&self, grid: &Grid, rows: Range<usize>) -> impl Iterator<Item = Line> + use<> {
        let mut runs = self.runs(grid, rows, usize::MAX).peekable();
        std::iter::from_fn(move || {
            let first = runs.next()?;
            let mut line = Line { start: first.line, tiles: first.mask(), tile: first.tile };
            while let Some(run) = runs.next_if(|run| run.line == line.start) {
                line.tiles |= run.mask();
            }
            Some(line)
        })
    }
}

/// Sixteen dealt elements, some of which belong to tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The first among those dealt.
    pub start: usize,
    /// Those that belong to tiles; they are neighbours in the block.
    pub tiles: u16,
    /// The first one's number in the block.
    pub tile: usize,
}

/// Neighbouring tiles of one row and of one line, and their place in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub image: usize,
    /// The row and column of the first tile in its image.
    pub at: [usize; 2],
    /// The first element of the line among those dealt.
    pub line: usize,
    /// The first tile's element in the line.
    pub lane: usize,
    /// Number of tiles.
    pub count: usize,
    /// The first tile's number in the block.
    pub tile: usize,
}

impl Run {
    /// Its elements of the line.
    pub fn mask(&self) -> u16 {
        first(self.lane + self.count) & !first(self.lane)
    }
}

/// The runs of one row of tiles.
struct Runs {
    image_row: (usize, usize),
    /// Where the row begins among those dealt.
    at: usize,
    /// Tiles that are done.
    column: usize,
    tiles: usize,
    /// The first tile's number in the block.
    tile: usize,
    unit: usize,
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let (image, row) = self.image_row;
        let (dealt, tile) = (self.at + self.column, self.tile + self.column);
        let lane = dealt % LINE;
        let left = self.tiles - self.column;
        let count = left.min(LINE - lane).min(self.unit - tile % self.unit);
        let run = Run { image, at: [row, self.column], line: dealt - lane, lane, count, tile };
        self.column += count;
        (count > 0).then_some(run)
    }
}
