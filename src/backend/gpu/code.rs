//! Tapes to WGSL: an element-wise program as one function.
//!
//! Extents, strides and constants are uniforms, so tapes that differ in them share a pipeline.

use std::fmt::Write;

use bytemuck::Zeroable;

use super::params::{Space, axes};
use crate::error::{Error, Result};
use crate::graph::{Binary, Unary};
use crate::kernel::Fused;
use crate::kernel::tape::{Action, Instruction, Source, Tape};

/// Binding of the iteration space.
pub(super) const SPACE: u32 = 1;

/// A tape as text, and what it reads.
pub(super) struct Code<'a> {
    /// The tape.
    pub tape: &'a Tape,
    /// Declarations of its operands and the functions.
    pub text: String,
    /// The iteration space.
    pub space: Space,
    /// Its operands' bindings.
    pub operands: Vec<Operand>,
    /// The next free binding.
    pub next: u32,
}

/// An operand of a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operand {
    /// Its binding.
    pub at: u32,
    /// Its number in the tape.
    pub operand: usize,
    /// Whether it is read element by element, so that a part of the space reads a part of it.
    pub contiguous: bool,
}

/// `fn value(index) -> f32`, its operands bound from `first` on.
///
/// # Errors
/// When the tape has more constants than a space holds.
pub(super) fn producer(tape: &Tape, first: u32) -> Result<Code<'_>> {
    let mut code = operands(tape, first, None);
    function(&mut code, None)?;
    Ok(code)
}

/// `fn finish(index, sum)`, which writes a product's finished element through the tape; operands,
/// and the second result if the product itself is kept, bound from `first` on. With `joins` the sum
/// goes on from what the result holds.
///
/// # Errors
/// As for [`producer`].
pub(super) fn epilogue(fused: &Fused, first: u32, joins: bool) -> Result<Code<'_>> {
    let mut code = operands(&fused.tape, first, Some(fused.own));
    function(&mut code, Some(fused.own))?;
    let finish = match fused.replaces {
        Some(_) => "    out[index] = value(index, total);\n",
        None => "    out[index] = total;\n    result[index] = value(index, total);\n",
    };
    if fused.replaces.is_none() {
        let at = code.next;
        code.next += 1;
        line(
            &mut code.text,
            &format!("@group(0) @binding({at}) var<storage, read_write> result: array<f32>;"),
        );
    }
    code.text.push_str(&finishing(finish, joins));
    Ok(code)
}

/// `fn finish(index, sum)` without a tape.
pub(super) fn plain(joins: bool) -> String {
    finishing("    out[index] = total;\n", joins)
}

fn finishing(body: &str, joins: bool) -> String {
    let total = if joins { "out[index] + sum" } else { "sum" };
    format!("fn finish(index: u32, sum: f32) {{\n    let total = {total};\n{body}}}\n")
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn operands(tape: &Tape, first: u32, own: Option<usize>) -> Code<'_> {
    let mut space = Space::zeroed();
    space.rank = tape.extents.len() as u32;
    space.extents = axes(tape.extents.iter().copied());
    let mut code = Code { tape, text: String::new(), space, operands: Vec::new(), next: first };
    for (operand, view) in tape.views.iter().enumerate() {
        code.space.strides[operand] = axes(view.0.iter().copied());
        if Some(operand) == own {
            continue;
        }
        let at = code.next;
        code.next += 1;
        let declaration =
            format!("@group(0) @binding({at}) var<storage, read> x{operand}: array<f32>;");
        line(&mut code.text, &declaration);
        let contiguous = view.is_contiguous(&tape.extents);
        code.operands.push(Operand { at, operand, contiguous });
    }
    code
}

fn function(code: &mut Code<'_>, own: Option<usize>) -> Result<()> {
    let tape = code.tape;
    let parameter = if own.is_some() { ", own: f32" } else { "" };
    line(&mut code.text, &format!("fn value(index: u32{parameter}) -> f32 {{"));
    for register in 0..tape.registers {
        line(&mut code.text, &format!("    var r{register}: f32;"));
    }
    let mut body = Body { constants: Vec::new(), own, tape };
    for &(register, value) in &tape.constants {
        let constant = body.constant(value);
        line(&mut code.text, &format!("    r{register} = {constant};"));
    }
    for &(register, operand) in &tape.scalars {
        let scalar = match usize::from(operand) {
            operand if Some(operand) == own => "own".to_string(),
            operand => format!("x{operand}[0]"),
        };
        line(&mut code.text, &format!("    r{register} = {scalar};"));
    }
    for step in &tape.code {
        let value = body.instruction(step);
        line(&mut code.text, &format!("    r{} = {value};", step.target));
    }
    let result = tape.results.first().map_or("0.0".to_string(), |&result| body.source(result));
    line(&mut code.text, &format!("    return {result};\n}}"));
    if body.constants.len() > code.space.constants.len() {
        let message = format!("an element-wise chain with {} constants", body.constants.len());
        return Err(Error::unsupported(message));
    }
    for (slot, value) in code.space.constants.iter_mut().zip(body.constants) {
        *slot = value;
    }
    Ok(())
}

/// The text of a tape's instructions.
struct Body<'a> {
    constants: Vec<f32>,
    own: Option<usize>,
    tape: &'a Tape,
}

impl Body<'_> {
    fn constant(&mut self, value: f32) -> String {
        let known = self.constants.iter().position(|c| c.to_bits() == value.to_bits());
        let index = known.unwrap_or_else(|| {
            self.constants.push(value);
            self.constants.len() - 1
        });
        format!("constant({index}u)")
    }

    fn source(&self, source: Source) -> String {
        match source {
            Source::Register(register) => format!("r{register}"),
            Source::Input(operand) => self.load(usize::from(operand)),
        }
    }

    fn load(&self, operand: usize) -> String {
        if self.own == Some(operand) {
            "own".to_string()
        } else if self.tape.views[operand].is_contiguous(&self.tape.extents) {
            format!("x{operand}[index]")
        } else {
            format!("x{operand}[place({operand}u, index)]")
        }
    }

    fn instruction(&mut self, step: &Instruction) -> String {
        let a = self.source(step.a);
        match step.action {
            Action::Load(operand) => self.load(usize::from(operand)),
            Action::Unary(f) => self.unary(f, &a),
            Action::Binary(f) => binary(f, &a, &self.source(step.b)),
            Action::Select => {
                let (b, c) = (self.source(step.b), self.source(step.c));
                format!("select({b}, {a}, {c} != 0.0)")
            }
            Action::KeepLess => {
                let (b, c) = (self.source(step.b), self.source(step.c));
                format!("select(0.0, {c}, {a} < {b})")
            }
        }
    }

    fn unary(&mut self, f: Unary, a: &str) -> String {
        let mut text = String::new();
        let written = match f {
            Unary::Neg => write!(text, "-{a}"),
            Unary::Abs => write!(text, "abs({a})"),
            Unary::Sign => write!(text, "tape_sign({a})"),
            Unary::Exp => write!(text, "exp({a})"),
            Unary::Log => write!(text, "log({a})"),
            Unary::Sqrt => write!(text, "sqrt({a})"),
            Unary::Rsqrt => write!(text, "inverseSqrt({a})"),
            Unary::Recip => write!(text, "1.0 / {a}"),
            Unary::Tanh => write!(text, "tape_tanh({a})"),
            Unary::Erf => write!(text, "tape_erf({a})"),
            Unary::Sigmoid => write!(text, "tape_sigmoid({a})"),
            Unary::Gelu => write!(text, "tape_gelu({a})"),
            Unary::GeluSlope => write!(text, "tape_gelu_slope({a})"),
            Unary::Relu => write!(text, "tape_relu({a})"),
            Unary::Clamp(lo, hi) => {
                let (lo, hi) = (self.constant(lo), self.constant(hi));
                write!(text, "tape_clamp({a}, {lo}, {hi})")
            }
            Unary::Powf(p) => {
                let p = self.constant(p);
                write!(text, "tape_pow({a}, {p})")
            }
        };
        // Writing to a string cannot fail.
        written.map_or_else(|_| String::new(), |()| text)
    }
}

fn binary(f: Binary, a: &str, b: &str) -> String {
    match f {
        Binary::Add => format!("{a} + {b}"),
        Binary::Sub => format!("{a} - {b}"),
        Binary::Mul => format!("{a} * {b}"),
        Binary::Div => format!("{a} / {b}"),
        Binary::Max => format!("tape_max({a}, {b})"),
        Binary::Min => format!("tape_min({a}, {b})"),
        Binary::Less => format!("select(0.0, 1.0, {a} < {b})"),
    }
}
