//! Element-wise programs: a fused chain of element-wise ops, run chunk by chunk in cache.
//!
//! A [`Tape`] is a straight-line program over registers of [`CHUNK`] elements. Operands that lie in
//! memory exactly as the iteration space does are read in place; broadcast or strided ones are
//! first gathered into a register; constants and scalars fill theirs once per task. The same tape
//! is the body of `map`, the producer of `reduce` and the epilogue of products and convolutions.

use crate::graph::{Binary, Unary};
use crate::kernel::math;

/// Elements a register holds: few enough that all registers of a tape stay in the first-level
/// cache, many enough that the cost of reading an instruction vanishes.
pub const CHUNK: usize = 512;

/// How an operand is laid over the iteration space: one stride (in elements) per extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View(pub Vec<usize>);

impl View {
    /// Length of the operand that this view covers whole; none over an empty iteration space.
    pub fn operand_len(&self, extents: &[usize]) -> Option<usize> {
        if extents.contains(&0) {
            return None;
        }
        let reach = |(&extent, &stride): (&usize, &usize)| (extent - 1) * stride;
        Some(1 + extents.iter().zip(&self.0).map(reach).sum::<usize>())
    }

    /// Whether it walks its memory exactly as the iteration space is walked.
    pub fn is_contiguous(&self, extents: &[usize]) -> bool {
        let mut stride = 1;
        extents.iter().zip(&self.0).rev().all(|(&extent, &s)| {
            let fits = s == stride || extent == 1;
            stride *= extent;
            fits
        })
    }
}

/// Where an instruction finds an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// A register.
    Register(u8),
    /// The operand `inputs[i]`, in place.
    Input(u8),
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Gathers `inputs[i]` by its view; `a` and `b` are not read.
    Load(u8),
    /// An element-wise function of `a`.
    Unary(Unary),
    /// An element-wise function of `a` and `b`.
    Binary(Binary),
    /// `a` where `c` is not 0, else `b`.
    Select,
    /// `c` where `a < b`, else 0: how cotangents pass a rectifier.
    KeepLess,
}

/// One step of a tape; `target` differs from every source.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "see Action for the roles")]
pub struct Instruction {
    pub action: Action,
    pub target: u8,
    pub a: Source,
    pub b: Source,
    pub c: Source,
}

/// A fused chain of element-wise ops over one iteration space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tape {
    /// The iteration space, collapsed: row-major over these extents.
    pub extents: Vec<usize>,
    /// The layout of each operand.
    pub views: Vec<View>,
    /// Registers filled with a constant once per task.
    pub constants: Vec<(u8, f32)>,
    /// Registers filled with a one-element operand once per task.
    pub scalars: Vec<(u8, u8)>,
    /// The program.
    pub code: Vec<Instruction>,
    /// Where each result is found at the end.
    pub results: Vec<Source>,
    /// Number of registers.
    pub registers: usize,
}

/// An operand in memory: element `i` of the iteration space is `data[i - base]` if read in place.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Operand<'a> {
    pub data: &'a [f32],
    pub base: usize,
}

impl<'a> From<&'a [f32]> for Operand<'a> {
    fn from(data: &'a [f32]) -> Self {
        Operand { data, base: 0 }
    }
}

impl Tape {
    /// Number of elements of the iteration space.
    pub fn len(&self) -> usize {
        self.extents.iter().product()
    }

    /// True when there is nothing to iterate over.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the register file one worker needs.
    pub fn scratch_len(&self) -> usize {
        self.registers * CHUNK
    }

    /// Lengths of the operands, where the iteration space tells them.
    pub fn operand_lens(&self) -> impl Iterator<Item = Option<usize>> {
        self.views.iter().map(|view| view.operand_len(&self.extents))
    }

    /// Number of arithmetic instructions.
    pub fn operations(&self) -> usize {
        self.code.iter().filter(|i| !matches!(i.action, Action::Load(_))).count()
    }

    /// Fills the registers that hold constants and scalars; call once before [`Tape::run`] on at
    /// most `len` elements at a time.
    pub fn prepare(&self, operands: &[Operand<'_>], len: usize, registers: &mut [f32]) {
        let len = len.min(CHUNK);
        for &(register, value) in &self.constants {
            register_mut(registers, register, len).fill(value);
        }
        for &(register, input) in &self.scalars {
            let value = operands[usize::from(input)].data[0];
            register_mut(registers, register, len).fill(value);
        }
    }

    /// Runs the program on the elements `start..start + len`, at most [`CHUNK`] of them.
    pub fn run(&self, operands: &[Operand<'_>], start: usize, len: usize, registers: &mut [f32]) {
        let chunk = Chunk { operands, start, len };
        self.run_chunk(&chunk, registers, None);
    }

    /// [`Tape::run`] that writes result `index` to `to`, and the others to their registers.
    pub fn run_into(
        &self,
        index: usize,
        operands: &[Operand<'_>],
        start: usize,
        registers: &mut [f32],
        to: &mut [f32],
    ) {
        let chunk = Chunk { operands, start, len: to.len() };
        let last = self.code.last().map(|step| Source::Register(step.target));
        if last == Some(self.results[index]) && self.is_only(index) {
            return self.run_chunk(&chunk, registers, Some(to));
        }
        self.run_chunk(&chunk, registers, None);
        to.copy_from_slice(self.result(index, operands, start, to.len(), registers));
    }

    /// Whether no other result is where result `index` is.
    fn is_only(&self, index: usize) -> bool {
        self.results.iter().filter(|&&result| result == self.results[index]).count() == 1
    }

    fn run_chunk(&self, chunk: &Chunk<'_>, registers: &mut [f32], last: Option<&mut [f32]>) {
        assert!(
            chunk.len <= CHUNK && registers.len() >= self.scratch_len(),
            "a chunk fits its registers"
        );
        dispatch(self, chunk, registers, last);
    }

    /// The elements `start..start + len` of result `index` after [`Tape::run`] on them.
    pub fn result<'a>(
        &self,
        index: usize,
        operands: &[Operand<'a>],
        start: usize,
        len: usize,
        registers: &'a [f32],
    ) -> &'a [f32] {
        source(self.results[index], operands, start, len, registers)
    }
}

fn register_mut(registers: &mut [f32], index: u8, len: usize) -> &mut [f32] {
    let start = usize::from(index) * CHUNK;
    &mut registers[start..start + len]
}

fn source<'a>(
    source: Source,
    operands: &[Operand<'a>],
    start: usize,
    len: usize,
    registers: &'a [f32],
) -> &'a [f32] {
    match source {
        Source::Register(index) => {
            let at = usize::from(index) * CHUNK;
            &registers[at..at + len]
        }
        Source::Input(index) => {
            let operand = operands[usize::from(index)];
            let at = start - operand.base;
            &operand.data[at..at + len]
        }
    }
}

/// The elements that one run of a tape computes.
struct Chunk<'a> {
    operands: &'a [Operand<'a>],
    start: usize,
    len: usize,
}

type Run = unsafe fn(&Tape, &Chunk<'_>, &mut [f32], Option<&mut [f32]>);

/// Runs the body compiled for the widest vectors this processor has.
fn dispatch(tape: &Tape, chunk: &Chunk<'_>, registers: &mut [f32], last: Option<&mut [f32]>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let wide: Option<Run> = if has!("avx512f") && has!("avx512dq") && has!("avx512vl") {
            Some(run_avx512)
        } else if has!("avx2") && has!("fma") {
            Some(run_avx2)
        } else {
            None
        };
        if let Some(run) = wide {
            // SAFETY: the features `run` is compiled for were just detected.
            return unsafe { run(tape, chunk, registers, last) };
        }
    }
    run_body::<{ math::TARGET_FUSES }>(tape, chunk, registers, last);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,fma")]
fn run_avx512(tape: &Tape, chunk: &Chunk<'_>, registers: &mut [f32], last: Option<&mut [f32]>) {
    run_body::<true>(tape, chunk, registers, last);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(tape: &Tape, chunk: &Chunk<'_>, registers: &mut [f32], last: Option<&mut [f32]>) {
    run_body::<true>(tape, chunk, registers, last);
}

/// Each step writes to its register, the last one to `last` if there is any.
#[inline(always)]
fn run_body<const FUSED: bool>(
    tape: &Tape,
    chunk: &Chunk<'_>,
    registers: &mut [f32],
    mut last: Option<&mut [f32]>,
) {
    let Chunk { operands, start, len } = *chunk;
    for (index, step) in tape.code.iter().enumerate() {
        let at = usize::from(step.target) * CHUNK;
        // The target is cut out of the register file, so that sources may be borrowed beside it.
        let (below, rest) = registers.split_at_mut(at);
        let (register, above) = rest.split_at_mut(CHUNK);
        let target = match last.take_if(|_| index + 1 == tape.code.len()) {
            Some(last) => last,
            None => &mut register[..len],
        };
        let get = |source: Source| match source {
            Source::Input(index) => {
                let operand = operands[usize::from(index)];
                let at = start - operand.base;
                &operand.data[at..at + len]
            }
            Source::Register(index) if index < step.target => {
                let at = usize::from(index) * CHUNK;
                &below[at..at + len]
            }
            Source::Register(index) => {
                let at = (usize::from(index) - usize::from(step.target) - 1) * CHUNK;
                &above[at..at + len]
            }
        };
        match step.action {
            Action::Load(input) => {
                let operand = operands[usize::from(input)];
                let view = &tape.views[usize::from(input)];
                gather(view, &tape.extents, operand.data, start, target);
            }
            Action::Unary(f) => unary::<FUSED>(f, target, get(step.a)),
            Action::Binary(f) => binary(f, target, get(step.a), get(step.b)),
            Action::Select => {
                let (a, b, c) = (get(step.a), get(step.b), get(step.c));
                for (((t, &a), &b), &c) in target.iter_mut().zip(a).zip(b).zip(c) {
                    *t = select(a, b, c != 0.0);
                }
            }
            Action::KeepLess => {
                let (a, b, c) = (get(step.a), get(step.b), get(step.c));
                for (((t, &a), &b), &c) in target.iter_mut().zip(a).zip(b).zip(c) {
                    *t = select(c, 0.0, a < b);
                }
            }
        }
    }
}

/// `a` where `first`, else `b`. By bits: a choice between two loads becomes a branch for each
/// element where compilers see one, and those of a mask cannot be foreseen.
#[inline(always)]
fn select(a: f32, b: f32, first: bool) -> f32 {
    let mask = u32::from(first).wrapping_neg();
    f32::from_bits(a.to_bits() & mask | b.to_bits() & !mask)
}

#[inline(always)]
fn each(target: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32) {
    for (t, &a) in target.iter_mut().zip(a) {
        *t = f(a);
    }
}

#[inline(always)]
fn both(target: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for ((t, &a), &b) in target.iter_mut().zip(a).zip(b) {
        *t = f(a, b);
    }
}

#[inline(always)]
fn unary<const FUSED: bool>(f: Unary, target: &mut [f32], a: &[f32]) {
    match f {
        Unary::Neg => each(target, a, |x| -x),
        Unary::Abs => each(target, a, f32::abs),
        Unary::Sign => each(target, a, |x| f32::from(x > 0.0) - f32::from(x < 0.0)),
        Unary::Exp => each(target, a, math::exp::<FUSED>),
        Unary::Log => each(target, a, math::ln),
        Unary::Sqrt => each(target, a, f32::sqrt),
        Unary::Rsqrt => each(target, a, |x| 1.0 / x.sqrt()),
        Unary::Recip => each(target, a, |x| 1.0 / x),
        Unary::Tanh => each(target, a, math::tanh::<FUSED>),
        Unary::Erf => each(target, a, math::erf::<FUSED>),
        Unary::Sigmoid => each(target, a, math::sigmoid::<FUSED>),
        Unary::Gelu => each(target, a, math::gelu::<FUSED>),
        Unary::GeluSlope => each(target, a, math::gelu_slope::<FUSED>),
        // Written so that NaN stays NaN: a diverged run must be seen, not rectified.
        Unary::Relu => each(target, a, |x| if x < 0.0 { 0.0 } else { x }),
        Unary::Clamp(lo, hi) => each(target, a, |x| {
            let x = if x < lo { lo } else { x };
            if x > hi { hi } else { x }
        }),
        Unary::Powf(2.0) => each(target, a, |x| x * x),
        Unary::Powf(3.0) => each(target, a, |x| x * x * x),
        Unary::Powf(p) => each(target, a, |x| x.powf(p)),
    }
}

#[inline(always)]
fn binary(f: Binary, target: &mut [f32], a: &[f32], b: &[f32]) {
    match f {
        Binary::Add => both(target, a, b, |a, b| a + b),
        Binary::Sub => both(target, a, b, |a, b| a - b),
        Binary::Mul => both(target, a, b, |a, b| a * b),
        Binary::Div => both(target, a, b, |a, b| a / b),
        // A NaN operand wins in both, as it would in a sum.
        Binary::Max => both(target, a, b, |a, b| if a > b || a.is_nan() { a } else { b }),
        Binary::Min => both(target, a, b, |a, b| if a < b || a.is_nan() { a } else { b }),
        Binary::Less => both(target, a, b, |a, b| f32::from(a < b)),
    }
}

/// The largest number of collapsed extents of an iteration space.
pub const EXTENTS_MAX: usize = 8;

/// Copies the elements `start..start + target.len()` of the iteration space out of `data`.
#[inline(always)]
fn gather(view: &View, extents: &[usize], data: &[f32], start: usize, target: &mut [f32]) {
    let ndim = extents.len();
    let mut index = [0usize; EXTENTS_MAX];
    let (mut rest, mut offset) = (start, 0);
    for axis in (0..ndim).rev() {
        index[axis] = rest % extents[axis];
        rest /= extents[axis];
        offset += index[axis] * view.0[axis];
    }
    let inner = ndim - 1;
    let stride = view.0[inner];
    let mut done = 0;
    while done < target.len() {
        let run = (extents[inner] - index[inner]).min(target.len() - done);
        copy_run(&mut target[done..done + run], data, offset, stride);
        done += run;
        offset += run * stride;
        index[inner] += run;
        let mut axis = inner;
        while axis > 0 && index[axis] == extents[axis] {
            offset -= extents[axis] * view.0[axis];
            index[axis] = 0;
            axis -= 1;
            index[axis] += 1;
            offset += view.0[axis];
        }
    }
}

#[inline(always)]
fn copy_run(target: &mut [f32], data: &[f32], offset: usize, stride: usize) {
    match stride {
        0 => target.fill(data[offset]),
        1 => target.copy_from_slice(&data[offset..offset + target.len()]),
        _ => {
            for (i, t) in target.iter_mut().enumerate() {
                *t = data[offset + i * stride];
            }
        }
    }
}

/// Collapses an iteration space: drops extents of 1 and merges neighbours that every view crosses
/// with one stride. Returns the extents and rewrites the views; at least one extent remains.
pub fn collapse(extents: &[usize], views: &mut [View]) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<usize>> = vec![Vec::new(); views.len()];
    for (axis, &extent) in extents.iter().enumerate() {
        if extent == 1 {
            continue;
        }
        let merges = !kept.is_empty()
            && views
                .iter()
                .zip(&strides)
                .all(|(view, strides)| strides.last() == Some(&(view.0[axis] * extent)));
        match kept.last_mut() {
            Some(last) if merges => *last *= extent,
            _ => {
                kept.push(extent);
                strides.iter_mut().for_each(|s| s.push(0));
            }
        }
        for (view, strides) in views.iter().zip(&mut strides) {
            if let Some(last) = strides.last_mut() {
                *last = view.0[axis];
            }
        }
    }
    if kept.is_empty() {
        kept.push(1);
        strides.iter_mut().for_each(|s| s.push(1));
    }
    for (view, strides) in views.iter_mut().zip(strides) {
        view.0 = strides;
    }
    kept
}
