//! Windows: which parts of values larger than a binding a launch binds.
//!
//! A window starts at a multiple of the device's alignment. Where the parts of a result and of an
//! operand follow each other, a range of one is a window of each. Where they do not, a launch runs
//! for each window of the result and each window of the operand that it reads, and does what lies
//! in both.

use std::ops::Range;

use super::{Limits, uncuttable};
use crate::error::Result;
use crate::kernel::tape::{View, collapse};

/// A window of a value whose elements threads number, and one of the value they are moved from or
/// to.
pub(super) struct Pair {
    pub near: Range<usize>,
    pub other: Range<usize>,
    /// Whether no other pair with this near window comes before it.
    pub first: bool,
}

/// The windows of a value of `len` elements, each with those of the other value, of `other_len`
/// elements, that cover what `spans` says: ranges sorted by their starts.
pub(super) fn pairs(
    limits: &Limits,
    len: usize,
    other_len: usize,
    spans: impl Fn(&Range<usize>) -> Vec<Range<usize>>,
) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for near in cover(limits, len, || std::iter::once(0..len).collect())? {
        let others = cover(limits, other_len, || spans(&near))?;
        pairs.extend(others.into_iter().enumerate().map(|(number, other)| Pair {
            near: near.clone(),
            other,
            first: number == 0,
        }));
    }
    Ok(pairs)
}

/// At least one window of a value of `len` elements: the whole if it can be bound, else disjoint
/// ones, in order, that cover `spans`, which are sorted by their starts.
fn cover(
    limits: &Limits,
    len: usize,
    spans: impl FnOnce() -> Vec<Range<usize>>,
) -> Result<Vec<Range<usize>>> {
    if len <= limits.binding {
        return Ok(std::iter::once(0..len).collect());
    }
    let most = aligned(limits, limits.binding);
    if most == 0 {
        return Err(uncuttable(limits, limits.align));
    }
    let mut windows: Vec<Range<usize>> = Vec::new();
    for span in spans() {
        let mut at = span.start;
        while at < span.end {
            match windows.last_mut() {
                Some(last) if at < last.start + most => {
                    last.end = last.end.max(span.end.min(last.start + most));
                    at = last.start + most;
                }
                _ => windows.push(aligned(limits, at)..at),
            }
        }
    }
    if windows.is_empty() {
        windows.push(0..most);
    }
    Ok(windows)
}

/// The last place up to `at` where a window may start.
pub(super) fn aligned(limits: &Limits, at: usize) -> usize {
    at / limits.align * limits.align
}

/// What the elements `range` of a row-major space touch of an operand with these strides, from the
/// first to the last; exact for what [`ranges`] gives.
pub(super) fn span(extents: &[usize], view: &View, range: &Range<usize>) -> Range<usize> {
    let Some(last) = range.end.checked_sub(1) else { return 0..0 };
    let mut view = [view.clone()];
    let extents = collapse(extents, &mut view);
    let (first, last) = (indices(&extents, range.start), indices(&extents, last));
    let (mut low, mut high) = (0, 0);
    // Within the axis on which first and last part, every index may occur.
    let mut parted = false;
    for (axis, stride) in view[0].0.iter().enumerate() {
        let (from, to) = if parted { (0, extents[axis] - 1) } else { (first[axis], last[axis]) };
        low += from * stride;
        high += to * stride;
        parted |= from != to;
    }
    low..high + 1
}

/// The indices of an element of a row-major space.
pub(super) fn indices(extents: &[usize], mut element: usize) -> Vec<usize> {
    let mut indices = vec![0; extents.len()];
    for (index, extent) in indices.iter_mut().zip(extents).rev() {
        *index = element % extent;
        element /= extent;
    }
    indices
}

/// Cuts a row-major space into ranges in which what each view touches can be bound, wherever it
/// starts. In each range the leading indices are fixed, one axis takes some indices, and the axes
/// within take all. A view that can be bound whole does not matter.
pub(super) fn ranges(
    extents: &[usize],
    views: &[&View],
    limits: &Limits,
) -> Result<Vec<Range<usize>>> {
    let len = extents.iter().product();
    let views = long(extents, views, limits);
    if views.is_empty() {
        return Ok(std::iter::once(0..len).collect());
    }
    let room = limits.binding.saturating_sub(limits.align - 1);
    for axis in 0..extents.len() {
        // Indices of the axis whose elements can be bound with everything of the axes within.
        let fits = |view: &View| {
            let within = view.0[axis + 1..].iter().zip(&extents[axis + 1..]);
            let within: usize = within.map(|(stride, extent)| (extent - 1) * stride).sum();
            let steps = |rest: usize| rest.checked_div(view.0[axis]).unwrap_or(extents[axis]);
            room.checked_sub(within + 1).map_or(0, |rest| 1 + steps(rest))
        };
        let most = views.iter().map(fits).min().unwrap_or(0).min(extents[axis]);
        if most > 0 {
            let inner = extents[axis + 1..].iter().product::<usize>();
            // Elements one by one start aligned if that is for the taking.
            let most =
                if inner == 1 { aligned(limits, most).max(most.min(limits.align)) } else { most };
            return Ok(steps(len, extents[axis] * inner, most * inner));
        }
    }
    Err(uncuttable(limits, limits.align))
}

/// Ranges of `step` of the elements up to `len`, and fewer at the end of each `item`.
fn steps(len: usize, item: usize, step: usize) -> Vec<Range<usize>> {
    let items = (0..len).step_by(item);
    let parts = |start: usize| {
        let end = start + item;
        (start..end).step_by(step).map(move |start| start..end.min(start + step))
    };
    items.flat_map(parts).collect()
}

/// [`ranges`] of a space whose axes are nothing but an order: neighbours that views cross with one
/// stride are cut as one.
pub(super) fn flat_ranges(
    extents: &[usize],
    views: &[&View],
    limits: &Limits,
) -> Result<Vec<Range<usize>>> {
    let mut views = long(extents, views, limits);
    let extents = collapse(extents, &mut views);
    ranges(&extents, &views.iter().collect::<Vec<_>>(), limits)
}

/// The views that cannot be bound whole.
fn long(extents: &[usize], views: &[&View], limits: &Limits) -> Vec<View> {
    let is_long = |view: &View| view.operand_len(extents).is_some_and(|l| l > limits.binding);
    views.iter().filter(|view| is_long(view)).map(|&view| view.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { binding: 0, align: 4, half_factor: false, subgroups: false, cooperative: false };

    #[test]
    fn ranges_part_a_space_and_spans_are_exact() {
        let extents = [4, 3, 5, 30];
        let row_major = View(vec![450, 150, 30, 1]);
        let views = [
            row_major.clone(),
            View(vec![0, 150, 30, 1]),
            View(vec![90, 30, 0, 1]),
            View(vec![15, 5, 1, 0]),
            View(vec![0, 1, 0, 0]),
        ];
        let all: Vec<&View> = views.iter().collect();
        let place = |view: &View, mut index: usize| {
            extents.iter().zip(&view.0).rev().fold(0, |at, (extent, stride)| {
                let place = at + index % extent * stride;
                index /= extent;
                place
            })
        };
        for binding in [8, 12, 37, 60, 100, 200, 449, 900] {
            let limits = Limits { binding, ..LIMITS };
            for ranges in [ranges(&extents, &all, &limits), flat_ranges(&extents, &all, &limits)] {
                let ranges = ranges.expect("ranges");
                let ends = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
                assert!(ranges.iter().map(|range| range.start).eq(ends.take(ranges.len())));
                assert_eq!(ranges.last().map(|range| range.end), Some(1800));
                for (view, range) in views.iter().flat_map(|v| ranges.iter().map(move |r| (v, r))) {
                    let places = || range.clone().map(|index| place(view, index));
                    let exact = places().min().expect("one")..places().max().expect("one") + 1;
                    let span = span(&extents, view, range);
                    let is_whole = view.operand_len(&extents).is_some_and(|len| len <= binding);
                    assert!(
                        span == exact || is_whole,
                        "{view:?} {range:?}: {span:?}, not {exact:?}"
                    );
                    assert!(
                        is_whole || span.len() + limits.align - 1 <= binding,
                        "{view:?} {range:?}"
                    );
                }
            }
        }
        let limits = Limits { binding: 3, ..LIMITS };
        assert!(ranges(&extents, &all, &limits).is_err(), "no window starts aligned");
    }
}
