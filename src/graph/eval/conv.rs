//! Convolution, pooling, and their gradients.

use std::ops::Range;

use crate::graph::{Conv2d, Pool2d};

/// Products of a convolution along one row of its output: for `i` in `0..len`, the filter element
/// `w` joins the input element `x + i·step` to the output element `y + i`.
struct Run {
    w: usize,
    x: usize,
    y: usize,
    len: usize,
    step: usize,
}

/// Calls `visit` with every product of the convolution that does not fall on padding:
/// output `[n, o, p, q]` meets input `[n, c, p·stride - pad + k·dilation, ..]` through filter
/// `[o, c, k, ..]`, where c counts within the group of o.
fn runs(g: &Conv2d, mut visit: impl FnMut(Run)) {
    let [input, output, kernel] = [g.input, g.output, g.kernel];
    let per_group = g.in_channels / g.groups;
    let outputs_per_group = g.out_channels / g.groups;
    for n in 0..g.batch {
        for o in 0..g.out_channels {
            for c in 0..per_group {
                let plane = n * g.in_channels + o / outputs_per_group * per_group + c;
                for tap in 0..kernel[0] * kernel[1] {
                    let [row, column] =
                        [tap / kernel[1] * g.dilation[0], tap % kernel[1] * g.dilation[1]];
                    let ys = inside(g.output[1], g.input[1], g.stride[1], g.pad[1], column);
                    if ys.is_empty() {
                        continue;
                    }
                    for p in inside(g.output[0], g.input[0], g.stride[0], g.pad[0], row) {
                        let x_row = plane * input[0] + p * g.stride[0] + row - g.pad[0];
                        let y_row = (n * g.out_channels + o) * output[0] + p;
                        visit(Run {
                            w: (o * per_group + c) * kernel[0] * kernel[1] + tap,
                            x: x_row * input[1] + ys.start * g.stride[1] + column - g.pad[1],
                            y: y_row * output[1] + ys.start,
                            len: ys.len(),
                            step: g.stride[1],
                        });
                    }
                }
            }
        }
    }
}

/// The outputs `p` for which `p·stride + offset - pad` is an index of the input.
fn inside(output: usize, input: usize, stride: usize, pad: usize, offset: usize) -> Range<usize> {
    let start = pad.saturating_sub(offset).div_ceil(stride);
    let end = (input + pad).saturating_sub(offset).div_ceil(stride).min(output);
    start..end.max(start)
}

/// y[n, o, p, q] = Σ x[n, c, p·stride - pad + k·dilation, ..] w[o, c, k, ..].
pub(super) fn conv2d(g: &Conv2d, x: &[f64], w: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; g.output_shape().len()];
    runs(g, |run| {
        let xs = x[run.x..].iter().step_by(run.step);
        y[run.y..][..run.len].iter_mut().zip(xs).for_each(|(y, x)| *y += x * w[run.w]);
    });
    y
}

/// ct_x = Σ over the products with x of ct · w.
pub(super) fn input_grad(g: &Conv2d, ct: &[f64], w: &[f64]) -> Vec<f64> {
    let mut ct_x = vec![0.0; g.input_shape().len()];
    runs(g, |run| {
        let xs = ct_x[run.x..].iter_mut().step_by(run.step);
        xs.zip(&ct[run.y..][..run.len]).for_each(|(x, ct)| *x += ct * w[run.w]);
    });
    ct_x
}

/// ct_w = Σ over the products with w of x · ct.
pub(super) fn filter_grad(g: &Conv2d, x: &[f64], ct: &[f64]) -> Vec<f64> {
    let mut ct_w = vec![0.0; g.filter_shape().len()];
    runs(g, |run| {
        let xs = x[run.x..].iter().step_by(run.step);
        let products = xs.zip(&ct[run.y..][..run.len]).map(|(x, ct)| x * ct);
        ct_w[run.w] += products.sum::<f64>();
    });
    ct_w
}

/// Calls `visit(window, element)` with the positions in output and input of every element of every
/// window, both in row-major order; padding is left out.
fn windows(g: &Pool2d, mut visit: impl FnMut(usize, usize)) {
    let at = |axis: usize, out: usize, tap: usize| {
        (out * g.stride[axis] + tap * g.dilation[axis])
            .checked_sub(g.pad[axis])
            .filter(|&index| index < g.input[axis])
    };
    for plane in 0..g.batch * g.channels {
        for p in 0..g.output[0] {
            for q in 0..g.output[1] {
                let window = (plane * g.output[0] + p) * g.output[1] + q;
                for row in (0..g.kernel[0]).filter_map(|tap| at(0, p, tap)) {
                    for column in (0..g.kernel[1]).filter_map(|tap| at(1, q, tap)) {
                        visit(window, (plane * g.input[0] + row) * g.input[1] + column);
                    }
                }
            }
        }
    }
}

/// The position in x of the first largest element of each window; NaN counts as largest. None
/// where a window lies on padding altogether.
fn first_largest(g: &Pool2d, x: &[f64]) -> Vec<Option<usize>> {
    let mut best: Vec<Option<usize>> = vec![None; g.output_shape().len()];
    windows(g, |window, element| {
        let wins = |best: usize| x[element] > x[best] || x[element].is_nan() && !x[best].is_nan();
        if best[window].is_none_or(wins) {
            best[window] = Some(element);
        }
    });
    best
}

/// y = the largest element of each window, -∞ where there is none.
pub(super) fn max_pool(g: &Pool2d, x: &[f64]) -> Vec<f64> {
    let best = first_largest(g, x).into_iter();
    best.map(|best| best.map_or(f64::NEG_INFINITY, |element| x[element])).collect()
}

/// ct_x = Σ of the ct of those windows whose first largest element x is.
pub(super) fn max_pool_grad(g: &Pool2d, x: &[f64], ct: &[f64]) -> Vec<f64> {
    let mut ct_x = vec![0.0; x.len()];
    for (best, ct) in first_largest(g, x).into_iter().zip(ct) {
        if let Some(element) = best {
            ct_x[element] += ct;
        }
    }
    ct_x
}

/// y = Σ x over each window.
pub(super) fn sum_pool(g: &Pool2d, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; g.output_shape().len()];
    windows(g, |window, element| y[window] += x[element]);
    y
}

/// ct_x = Σ of the ct of the windows that x lies in.
pub(super) fn sum_pool_grad(g: &Pool2d, ct: &[f64]) -> Vec<f64> {
    let mut ct_x = vec![0.0; g.input_shape().len()];
    windows(g, |window, element| ct_x[element] += ct[window]);
    ct_x
}
