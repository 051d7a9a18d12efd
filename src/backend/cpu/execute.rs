//! One dispatch: its operands and results taken from memory and handed to its kernel.

use super::memory::Memory;
use crate::graph::{PriorTerm, Update};
use crate::kernel::concat::Place;
use crate::kernel::map::{OPERANDS_MAX, TapeEpilogue, held, read_in_place};
use crate::kernel::{
    Epilogue, Fused, Kernel, concat, conv2d, conv2d_filter_grad, conv2d_input_grad, gather,
    log_softmax, map, matmul, max_pool, max_pool_grad, pad, reduce, scatter_add, slice, softmax,
    sum_pool, sum_pool_grad, transpose, update,
};
use crate::plan::Dispatch;
use crate::tensor::Shape;
use crate::threads::{Parts, Threads};

/// Runs one dispatch. `scratch` is at least as long as its kernel asks for.
pub(super) fn execute(t: &Threads, d: &Dispatch, memory: &Memory<'_>, scratch: &mut [f32]) {
    let x = |operand: usize| memory.read(d.reads[operand]);
    if let Kernel::Update { update, .. } = &d.kernel {
        return execute_update(t, d, update, memory, scratch);
    }
    if matches!(d.kernel, Kernel::MatMul(..) | Kernel::Conv2d(..) | Kernel::Conv2dInputGrad(..)) {
        return execute_product(t, d, memory, scratch);
    }
    // SAFETY: each result is taken once and dropped at the end of this function.
    let out = unsafe { memory.write(d.writes[0]) };
    match &d.kernel {
        Kernel::Map(tape) => {
            let operands = operands(d, memory, 0);
            map::map(t, tape, &operands[..d.reads.len()], &[Parts::new(out)], scratch);
        }
        Kernel::Reduce(geometry) => {
            let operands = operands(d, memory, 0);
            reduce::reduce(t, geometry, &operands[..d.reads.len()], out, scratch);
        }
        Kernel::Conv2dFilterGrad(g) => {
            conv2d_filter_grad::conv2d_filter_grad(t, g, x(0), x(1), out, scratch);
        }
        Kernel::MaxPool(g) => max_pool::max_pool(t, g, x(0), out),
        Kernel::MaxPoolGrad(g) => max_pool_grad::max_pool_grad(t, g, x(0), x(1), out),
        Kernel::SumPool(g) => sum_pool::sum_pool(t, g, x(0), out),
        Kernel::SumPoolGrad(g) => sum_pool_grad::sum_pool_grad(t, g, x(0), out),
        Kernel::Softmax { columns, .. } => softmax::softmax(t, *columns, x(0), out),
        Kernel::LogSoftmax { columns, .. } => {
            log_softmax::log_softmax(t, *columns, x(0), out);
        }
        Kernel::Transpose { shape, perm } => transpose::transpose(t, shape, perm, x(0), out),
        Kernel::Slice { shape, slice } => slice::slice(t, shape, slice, x(0), out),
        Kernel::Pad { shape, axes } => pad::pad(t, shape, axes, x(0), out),
        Kernel::Concat { shapes, axis } => {
            for (operand, place) in places(shapes, *axis).enumerate() {
                concat::concat(t, place, x(operand), out);
            }
        }
        Kernel::Gather { shape, indices } => gather::gather(t, shape, indices, x(0), out),
        Kernel::ScatterAdd { shape, indices } => {
            scatter_add::scatter_add(t, shape, indices, x(0), out);
        }
        Kernel::MatMul(..)
        | Kernel::Conv2d(..)
        | Kernel::Conv2dInputGrad(..)
        | Kernel::Update { .. } => {}
    }
}

/// The operands from `first` on, in a fixed array, so that a run allocates nothing.
fn operands<'a>(d: &Dispatch, memory: &'a Memory<'_>, first: usize) -> [&'a [f32]; OPERANDS_MAX] {
    let mut operands: [&[f32]; OPERANDS_MAX] = [&[]; OPERANDS_MAX];
    for (slot, &buffer) in operands.iter_mut().zip(&d.reads[first..]) {
        *slot = memory.read(buffer);
    }
    operands
}

/// A product with the tape that follows it, if any.
fn execute_product(t: &Threads, d: &Dispatch, memory: &Memory<'_>, scratch: &mut [f32]) {
    // SAFETY: each result is taken once and dropped at the end of this function.
    let out = unsafe { memory.write(d.writes[0]) };
    let Some(fused) = d.kernel.epilogue() else {
        return launch_product(t, d, memory, out, scratch, None);
    };
    let split = d.kernel.own_scratch_len(t.count()).next_multiple_of(16);
    let (scratch, registers) = scratch.split_at_mut(split);
    let operands = epilogue_operands(d, fused, memory);
    // SAFETY: as above.
    let more = d.writes.get(1).map(|&buffer| Parts::new(unsafe { memory.write(buffer) }));
    let epilogue = TapeEpilogue {
        tape: &fused.tape,
        own: fused.own,
        operands: held(&operands),
        replaces: fused.replaces,
        results: more.as_slice(),
        scratch: &Parts::new(registers),
        in_place: read_in_place(&fused.tape, fused.own),
    };
    epilogue.prepare(t.count());
    launch_product(t, d, memory, out, scratch, Some(&epilogue));
}

/// The tape's operands in its own order, with nothing at the place of the product's output.
fn epilogue_operands<'a>(
    d: &Dispatch,
    fused: &Fused,
    memory: &'a Memory<'_>,
) -> [&'a [f32]; OPERANDS_MAX] {
    let mut operands: [&[f32]; OPERANDS_MAX] = [&[]; OPERANDS_MAX];
    let mut others = d.reads[2..].iter();
    for index in (0..fused.tape.views.len()).filter(|&index| index != fused.own) {
        if let Some(&buffer) = others.next() {
            operands[index] = memory.read(buffer);
        }
    }
    operands
}

fn launch_product(
    t: &Threads,
    d: &Dispatch,
    memory: &Memory<'_>,
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let (a, b) = (memory.read(d.reads[0]), memory.read(d.reads[1]));
    match &d.kernel {
        Kernel::MatMul(g, _) => matmul::matmul(t, g, a, b, out, scratch, epilogue),
        Kernel::Conv2d(g, _) => conv2d::conv2d(t, g, a, b, out, scratch, epilogue),
        Kernel::Conv2dInputGrad(g, _) => {
            conv2d_input_grad::conv2d_input_grad(t, g, a, b, out, scratch, epilogue);
        }
        _ => {}
    }
}

/// Where each operand of a concatenation goes.
fn places(shapes: &[Shape], axis: usize) -> impl Iterator<Item = Place> {
    let rows = shapes[0][..axis].iter().product();
    let run = move |shape: &Shape| shape[axis..].iter().product::<usize>();
    let row_len = shapes.iter().map(run).sum();
    shapes.iter().scan(0, move |start, shape| {
        let place = Place { rows, run: run(shape), start: *start, row_len };
        *start += place.run;
        Some(place)
    })
}

fn execute_update(
    t: &Threads,
    d: &Dispatch,
    op: &Update,
    memory: &Memory<'_>,
    scratch: &mut [f32],
) {
    let moments = op.method.moments().len();
    let read = |operand: usize| d.reads.get(operand).map_or(&[] as &[f32], |&b| memory.read(b));
    let prior = |operand: usize| match operand < op.prior.operands() {
        true => read(4 + moments + operand),
        false => &[],
    };
    let write = |at: usize| match d.writes.get(at) {
        // SAFETY: each result is taken once and dropped at the end of this function; θ and the
        // moments are not taken as operands.
        Some(&buffer) => unsafe { memory.write(buffer) },
        None => Default::default(),
    };
    let (sums_at, has_sums) = (1 + moments, op.prior != PriorTerm::None);
    let operands = update::Operands {
        theta: write(0),
        grad: read(1),
        hyper: read(2),
        grad_scale: read(3)[0],
        m: if moments > 0 { write(1) } else { Default::default() },
        v: if moments > 1 { write(2) } else { Default::default() },
        mean: prior(0),
        precision: prior(1),
        factor: prior(2),
        coefficients: prior(3),
        sums: if has_sums { write(sums_at) } else { Default::default() },
        scratch,
    };
    update::update(t, op, operands);
}
