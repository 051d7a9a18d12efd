//! What a user draws, and what a scanner would have made of it.

use ndarray::Array4;

/// The bundled digits were bitmaps of this side, in blocks whose set pixels were counted.
const BITMAP: usize = 32;
const BLOCK: usize = 4;
/// How many of them lie along a side.
const BLOCKS: usize = BITMAP / BLOCK;
/// Half the width of a pen's stroke, in pixels of the bitmap.
const PEN: f32 = 2.3;
/// Points closer than this to the last one add nothing to a stroke.
const STEP_MIN: f32 = 0.004;
/// Points that a drawing has at most; a pen that is never lifted ends there.
const POINTS_MAX: usize = 20_000;

/// Strokes of a pen on a square of side 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawing {
    strokes: Vec<Vec<[f32; 2]>>,
}

impl Drawing {
    /// Puts the pen down.
    pub fn begin(&mut self, at: [f32; 2]) {
        if self.points().count() < POINTS_MAX {
            self.strokes.push(vec![at.map(|x| x.clamp(0.0, 1.0))]);
        }
    }

    /// Moves it.
    pub fn extend(&mut self, to: [f32; 2]) {
        let to = to.map(|x| x.clamp(0.0, 1.0));
        let is_full = self.points().count() >= POINTS_MAX;
        let Some(stroke) = self.strokes.last_mut() else { return };
        let is_far = stroke.last().is_none_or(|&last| distance(last, to) >= STEP_MIN);
        if is_far && !is_full {
            stroke.push(to);
        }
    }

    /// Takes the last stroke away.
    pub fn take_back(&mut self) {
        self.strokes.pop();
    }

    /// Takes everything away.
    pub fn clear(&mut self) {
        self.strokes.clear();
    }

    /// True when there is nothing on it.
    pub fn is_empty(&self) -> bool {
        self.strokes.is_empty()
    }

    /// The strokes, each a line through its points.
    pub fn strokes(&self) -> &[Vec<[f32; 2]>] {
        &self.strokes
    }

    /// The drawing as the bundled digits are: cropped, scaled to a bitmap with its proportions
    /// kept, and counted in blocks: `[1, 8, 8, 1]`. None of an empty one.
    pub fn to_digit(&self) -> Option<Array4<u8>> {
        let strokes = self.fitted()?;
        let is_set = |x: usize, y: usize| {
            let at = [x as f32 + 0.5, y as f32 + 0.5];
            strokes.iter().any(|stroke| is_near(stroke, at))
        };
        let full = (BLOCK * BLOCK) as f32;
        Some(Array4::from_shape_fn((1, BLOCKS, BLOCKS, 1), |(_, row, column, _)| {
            let pixels =
                (0..BLOCK * BLOCK).map(|i| (column * BLOCK + i % BLOCK, row * BLOCK + i / BLOCK));
            let count = pixels.filter(|&(x, y)| is_set(x, y)).count();
            (count as f32 * 255.0 / full).round() as u8
        }))
    }

    /// The strokes in pixels of the bitmap, which they fill but for half a pen at each side.
    fn fitted(&self) -> Option<Vec<Vec<[f32; 2]>>> {
        let first = *self.points().next()?;
        let (low, high) = self.points().fold((first, first), |(low, high), at| {
            let pick = |f: fn(f32, f32) -> f32, to: [f32; 2]| [f(to[0], at[0]), f(to[1], at[1])];
            (pick(f32::min, low), pick(f32::max, high))
        });
        let longest = (high[0] - low[0]).max(high[1] - low[1]);
        let inner = BITMAP as f32 - 2.0 * PEN;
        // A dot stays a dot.
        let scale = if longest > STEP_MIN { inner / longest } else { 0.0 };
        let place = |at: &[f32; 2]| {
            [0, 1].map(|i| BITMAP as f32 / 2.0 + (at[i] - (low[i] + high[i]) / 2.0) * scale)
        };
        Some(self.strokes.iter().map(|stroke| stroke.iter().map(place).collect()).collect())
    }

    fn points(&self) -> impl Iterator<Item = &[f32; 2]> {
        self.strokes.iter().flatten()
    }
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Whether the pen was over this place.
fn is_near(stroke: &[[f32; 2]], at: [f32; 2]) -> bool {
    match stroke {
        [dot] => distance(*dot, at) <= PEN,
        line => line.windows(2).any(|ends| to_segment(ends[0], ends[1], at) <= PEN),
    }
}

/// The distance of `at` from the line between two points.
fn to_segment(from: [f32; 2], to: [f32; 2], at: [f32; 2]) -> f32 {
    let along = [to[0] - from[0], to[1] - from[1]];
    let length = along[0] * along[0] + along[1] * along[1];
    let dot = (at[0] - from[0]) * along[0] + (at[1] - from[1]) * along[1];
    let share = if length > 0.0 { (dot / length).clamp(0.0, 1.0) } else { 0.0 };
    distance([from[0] + share * along[0], from[1] + share * along[1]], at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[[f32; 2]]) -> Drawing {
        let mut drawing = Drawing::default();
        drawing.begin(points[0]);
        points[1..].iter().for_each(|&to| drawing.extend(to));
        drawing
    }

    #[test]
    fn a_drawing_is_scaled_to_the_bitmap_wherever_it_is() {
        let large = line(&[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]).to_digit().expect("a digit");
        let small = line(&[[0.6, 0.5], [0.7, 0.5], [0.7, 0.6]]).to_digit().expect("a digit");
        let differs = large.iter().zip(&small).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(differs <= Some(32), "one and the same but for rounding: {differs:?}");
        // The first row and the last column are drawn on, the other corner is not.
        assert!(large[(0, 0, 4, 0)] > 200 && large[(0, 4, 7, 0)] > 200);
        assert_eq!(large[(0, 7, 0, 0)], 0);
    }

    #[test]
    fn proportions_are_kept() {
        let digit = line(&[[0.5, 0.1], [0.5, 0.9]]).to_digit().expect("a digit");
        for row in 0..BLOCKS {
            assert_eq!(digit[(0, row, 0, 0)], 0, "an upright line is not stretched");
            assert!(digit[(0, row, 3, 0)] > 60, "it is in the middle");
        }
    }

    #[test]
    fn dots_and_nothing_are_drawings_too() {
        assert_eq!(Drawing::default().to_digit(), None);
        let dot = line(&[[0.2, 0.7]]).to_digit().expect("a digit");
        assert!(dot.iter().any(|&x| x > 0));
        assert_eq!(dot[(0, 0, 0, 0)], 0);
    }

    #[test]
    fn strokes_are_taken_back_one_by_one() {
        let mut drawing = line(&[[0.0, 0.0], [1.0, 1.0]]);
        let before = drawing.clone();
        drawing.begin([0.5, f32::INFINITY]);
        drawing.extend([2.0, -3.0]);
        assert_eq!(drawing.strokes()[1], [[0.5, 1.0], [1.0, 0.0]]);
        drawing.take_back();
        assert_eq!(drawing, before);
        drawing.clear();
        drawing.take_back();
        drawing.extend([0.5, 0.5]);
        assert!(drawing.is_empty(), "a pen that is not down draws nothing");
    }

    #[test]
    fn a_pen_that_is_never_lifted_runs_dry() {
        let mut drawing = line(&[[0.0, 0.0]]);
        for i in 0..3 * POINTS_MAX {
            drawing.extend([(i % 2) as f32, 0.5]);
        }
        assert_eq!(drawing.points().count(), POINTS_MAX);
    }
}
