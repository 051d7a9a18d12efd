//! Element-wise work: a [`Tape`] run over its whole iteration space, and tapes as epilogues.
//!
//! Results are written in the iteration space's order.

use super::Epilogue;
use super::gemm::Hints;
use super::tape::{CHUNK, Operand, Tape};
use crate::threads::{Parts, Threads};

/// Most operands, and most results, of one tape.
pub const OPERANDS_MAX: usize = 8;

/// Chunks that one task works through.
const CHUNKS_PER_TASK: usize = 16;

/// Length of the scratch [`map`] needs.
pub fn scratch_len(tape: &Tape, workers: usize) -> usize {
    tape.scratch_len() * workers
}

/// Runs `tape` over its iteration space; `results[i]` receives its result `i`.
pub fn map(
    threads: &Threads,
    tape: &Tape,
    operands: &[&[f32]],
    results: &[Parts<'_, f32>],
    scratch: &mut [f32],
) {
    let operands = &held(operands)[..tape.views.len()];
    let len = tape.len();
    let share = tape.scratch_len();
    let scratch = Parts::new(scratch);
    let per_task = CHUNK * CHUNKS_PER_TASK;
    threads.run(len.div_ceil(per_task), |task, worker| {
        // SAFETY: a worker runs one task at a time and owns its share of the scratch.
        let registers = unsafe { scratch.part(worker * share, share) };
        tape.prepare(operands, len, registers);
        let end = len.min((task + 1) * per_task);
        for start in (task * per_task..end).step_by(CHUNK) {
            let count = CHUNK.min(end - start);
            for (index, result) in results.iter().enumerate() {
                // SAFETY: chunks are disjoint, and each result has its own memory.
                let target = unsafe { result.part(start, count) };
                write_result(tape, index, operands, start, registers, target);
            }
        }
    });
}

/// Operands in a fixed array, so that a step allocates nothing.
pub fn held<'a>(operands: &[&'a [f32]]) -> [Operand<'a>; OPERANDS_MAX] {
    let mut array = [Operand { data: &[] as &[f32], base: 0 }; OPERANDS_MAX];
    for (slot, &data) in array.iter_mut().zip(operands) {
        *slot = data.into();
    }
    array
}

/// A tape that follows a product: its operand `own` is the product's finished output.
pub struct TapeEpilogue<'a> {
    /// The program; its iteration space is the product's output.
    pub tape: &'a Tape,
    /// Which operand is the product's own output.
    pub own: usize,
    /// All operands in order; the one at `own` is ignored.
    pub operands: [Operand<'a>; OPERANDS_MAX],
    /// Which result replaces the product's output in place, if any.
    pub replaces: Option<usize>,
    /// Memory of the other results, in order.
    pub results: &'a [Parts<'a, f32>],
    /// Register files, one for each worker.
    pub scratch: &'a Parts<'a, f32>,
    /// A bit for each operand that [`read_in_place`] finds.
    pub in_place: usize,
}

/// A bit for each other operand that `tape` reads in place.
pub fn read_in_place(tape: &Tape, own: usize) -> usize {
    let others = tape.views.iter().enumerate().filter(|&(index, _)| index != own);
    let in_place = others.filter(|(_, view)| view.is_contiguous(&tape.extents));
    in_place.map(|(index, _)| 1 << index).sum()
}

impl Epilogue for TapeEpilogue<'_> {
    fn apply(&self, start: usize, values: &[f32], to: &mut [f32], worker: usize) {
        let share = self.tape.scratch_len();
        // SAFETY: a worker applies one epilogue at a time and owns its share of the scratch.
        let registers = unsafe { self.scratch.part(worker * share, share) };
        let mut operands = self.operands;
        let chunks = values.chunks(CHUNK).zip(to.chunks_mut(CHUNK));
        for (index, (values, to)) in chunks.enumerate() {
            let start = start + index * CHUNK;
            operands[self.own] = Operand { data: values, base: start };
            self.apply_chunk(start, &operands[..self.tape.views.len()], to, registers);
            if self.replaces.is_none() {
                to.copy_from_slice(values);
            }
        }
    }

    fn hint(&self, start: usize, hints: &mut Hints) {
        for (index, operand) in self.operands.iter().enumerate() {
            if self.in_place & 1 << index != 0 {
                hints.push(operand.data.as_ptr().wrapping_add(start));
            }
        }
        self.results.iter().for_each(|result| hints.push(result.hint(start)));
    }
}

impl TapeEpilogue<'_> {
    /// Prepares the register files of all `workers`; to be called once, before the product.
    pub fn prepare(&self, workers: usize) {
        let share = self.tape.scratch_len();
        for worker in 0..workers {
            // SAFETY: no worker runs yet.
            let registers = unsafe { self.scratch.part(worker * share, share) };
            self.tape.prepare(&self.operands, CHUNK, registers);
        }
    }

    fn apply_chunk(
        &self,
        start: usize,
        operands: &[Operand<'_>],
        to: &mut [f32],
        registers: &mut [f32],
    ) {
        let mut others = self.results.iter();
        for index in 0..self.tape.results.len() {
            if self.replaces == Some(index) {
                write_result(self.tape, index, operands, start, registers, to);
            } else if let Some(result) = others.next() {
                // SAFETY: each output element is finished once, and each result has its own memory.
                let target = unsafe { result.part(start, to.len()) };
                write_result(self.tape, index, operands, start, registers, target);
            }
        }
    }
}

/// Writes a result of the elements from `start` on; the first also runs the tape, for all.
fn write_result(
    tape: &Tape,
    index: usize,
    operands: &[Operand<'_>],
    start: usize,
    registers: &mut [f32],
    to: &mut [f32],
) {
    match index {
        0 => tape.run_into(0, operands, start, registers, to),
        _ => to.copy_from_slice(tape.result(index, operands, start, to.len(), registers)),
    }
}
