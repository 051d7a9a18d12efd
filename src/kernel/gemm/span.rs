//! Sixteen neighbouring positions of a convolution's windows, prepared for all taps.

use super::line::{LINE, Line, first, prefetch};
use super::operand::{Tap, Windows};

/// Rows or columns of taps whose masks are kept.
const TAPS_KEPT: usize = 16;
/// Most runs that are loaded one by one; with more, elements are gathered.
const RUNS_MAX: usize = 4;

/// Positions next to each other in memory, as far as the column stride lets them.
#[derive(Clone, Copy)]
struct Run {
    /// Where position 0 of the span would be if it belonged to the run.
    offset: isize,
    mask: u16,
}

/// Up to sixteen positions: where their elements are, and which taps meet the plane.
#[derive(Clone, Copy)]
pub(super) struct Span {
    runs: [Run; RUNS_MAX],
    run_count: usize,
    /// The positions there are.
    positions: u16,
    /// For rows and columns of taps, the positions for which they are inside the plane.
    inside: [[u16; TAPS_KEPT]; 2],
    /// Row and column of every position's element, and its offset.
    places: [[isize; LINE]; 2],
    offsets: [isize; LINE],
}

impl Span {
    /// No positions.
    pub const EMPTY: Span = Span {
        runs: [Run { offset: 0, mask: 0 }; RUNS_MAX],
        run_count: 0,
        positions: 0,
        inside: [[0; TAPS_KEPT]; 2],
        places: [[0; LINE]; 2],
        offsets: [0; LINE],
    };

    /// Prepares `count` positions from `start` on, in a span that may hold others.
    #[inline(always)]
    pub fn set(&mut self, windows: &Windows<'_>, start: usize, count: usize) {
        self.positions = first(count);
        self.runs = Self::EMPTY.runs;
        self.run_count = 0;
        if windows.is_plain() {
            self.set_plain(windows, start, count);
        } else {
            self.set_places(windows, start, count);
        }
    }

    /// [`Span::set`] where each position is its own element: one run for each image.
    #[inline(always)]
    fn set_plain(&mut self, windows: &Windows<'_>, start: usize, count: usize) {
        let plane = windows.plane[0] * windows.plane[1];
        let (image, at) = (start / plane, start % plane);
        let offset = (image * windows.image_stride + at) as isize;
        let next = ((image + 1) * windows.image_stride) as isize - (plane - at) as isize;
        let here = first(plane - at) & self.positions;
        self.runs[0] = Run { offset, mask: here };
        self.runs[1] = Run { offset: next, mask: self.positions & !here };
        self.run_count = 1 + usize::from(at + count > plane);
        self.inside[0][0] = self.positions;
        self.inside[1][0] = self.positions;
    }

    #[inline(always)]
    fn set_places(&mut self, windows: &Windows<'_>, start: usize, count: usize) {
        let ([height, width], [down, right]) = (windows.grid, windows.stride);
        let (mut x, mut y) = (start % width, start / width % height);
        let mut image = start / (width * height);
        for i in 0..count {
            let place = [y * down, x * right];
            let offset = image * windows.image_stride + place[0] * windows.plane[1] + place[1];
            self.place(i, offset as isize, place, right as isize);
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
                if y == height {
                    (y, image) = (0, image + 1);
                }
            }
        }
        for axis in 0..2 {
            for tap in 0..windows.taps[axis].min(TAPS_KEPT) {
                self.inside[axis][tap] = self.meets(windows, axis, tap);
            }
        }
    }

    /// Adds position `i`.
    #[inline(always)]
    fn place(&mut self, i: usize, offset: isize, place: [usize; 2], stride: isize) {
        self.offsets[i] = offset;
        self.places[0][i] = place[0] as isize;
        self.places[1][i] = place[1] as isize;
        if i == 0 || offset != self.offsets[i - 1] + stride {
            self.run_count += 1;
            if let Some(run) = self.runs.get_mut(self.run_count - 1) {
                run.offset = offset - i as isize * stride;
            }
        }
        if let Some(run) = self.runs.get_mut(self.run_count - 1) {
            run.mask |= 1 << i;
        }
    }

    /// The positions for which a row or column of taps is inside the plane.
    #[inline(always)]
    fn meets(&self, windows: &Windows<'_>, axis: usize, tap: usize) -> u16 {
        let from = windows.origin[axis] + tap as isize * windows.tap_step[axis];
        let extent = windows.plane[axis];
        let mut mask = 0;
        for (i, place) in self.places[axis].iter().enumerate() {
            mask |= u16::from(((place + from) as usize) < extent) << i;
        }
        mask & self.positions
    }

    #[inline(always)]
    fn mask(&self, windows: &Windows<'_>, axis: usize, tap: usize) -> u16 {
        if tap < TAPS_KEPT { self.inside[axis][tap] } else { self.meets(windows, axis, tap) }
    }

    /// Asks for the elements of the first run under `tap`.
    #[inline(always)]
    pub fn prefetch(&self, windows: &Windows<'_>, data: *const f32, tap: Tap) {
        prefetch(data.wrapping_offset(windows.tap_offset(tap) + self.runs[0].offset));
    }

    /// The elements of all positions where windows are plain; `data` begins with the channel's
    /// first image.
    ///
    /// # Safety
    /// As for [`Span::load`].
    #[inline(always)]
    pub unsafe fn load_plain<L: Line>(&self, data: *const f32) -> L {
        let [here, next, ..] = self.runs;
        // SAFETY: the positions in the masks have an element there.
        unsafe {
            let line = L::zero().load(data.wrapping_offset(here.offset), here.mask);
            match self.run_count {
                1 => line,
                _ => line.load(data.wrapping_offset(next.offset), next.mask),
            }
        }
    }

    /// Asks for the elements of the first run where windows are plain.
    #[inline(always)]
    pub fn prefetch_plain(&self, data: *const f32) {
        prefetch(data.wrapping_offset(self.runs[0].offset));
    }

    /// The elements of all positions under `tap`, zero outside the plane.
    ///
    /// # Safety
    /// The processor has the features of `L`; `windows` is what the span was made for, and `data`
    /// its data for some group; the tap exists.
    #[inline(always)]
    pub unsafe fn load<L: Line>(&self, windows: &Windows<'_>, data: *const f32, tap: Tap) -> L {
        let mask = self.mask(windows, 0, tap.row) & self.mask(windows, 1, tap.column);
        let data = data.wrapping_offset(windows.tap_offset(tap));
        // SAFETY: the positions in the mask have an element inside the plane for this tap.
        unsafe {
            let mut line = L::zero();
            if self.run_count > RUNS_MAX || windows.stride[1] > 2 {
                return line.gather(data, &self.offsets, mask);
            }
            for run in &self.runs[..self.run_count] {
                let from = data.wrapping_offset(run.offset);
                line = match windows.stride[1] {
                    1 => line.load(from, mask & run.mask),
                    _ => line.load_even(from, mask & run.mask),
                };
            }
            line
        }
    }
}
