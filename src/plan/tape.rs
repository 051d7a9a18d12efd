//! Element-wise expressions to tapes.
//!
//! An expression is built by pulling a value's element-wise producers in until values with memory
//! of their own are reached; then registers are assigned by one linear scan.

use std::collections::HashMap;

use crate::graph::{Binary, Graph, Op, Unary, ValueId};
use crate::kernel::tape::{Action, Instruction, Source, Tape, View, collapse};
use crate::tensor::Shape;

/// One step of an expression, by numbers of earlier steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Term {
    Operand(usize),
    Constant(f32),
    Unary(Unary, usize),
    Binary(Binary, usize, usize),
    Select(usize, usize, usize),
    /// The third where the first is less than the second, else 0.
    KeepLess(usize, usize, usize),
}

impl Term {
    fn operands(&self) -> ([usize; 3], usize) {
        match *self {
            Term::Operand(_) | Term::Constant(_) => ([0; 3], 0),
            Term::Unary(_, a) => ([a, 0, 0], 1),
            Term::Binary(_, a, b) => ([a, b, 0], 2),
            Term::Select(c, a, b) => ([a, b, c], 3),
            Term::KeepLess(a, b, c) => ([a, b, c], 3),
        }
    }
}

/// Tells whether a value has memory of its own.
pub(super) type Memory<'a> = &'a dyn Fn(ValueId) -> bool;

/// An expression over the elements of one shape.
pub(super) struct Expression<'a> {
    graph: &'a Graph,
    has_memory: Memory<'a>,
    shape: Shape,
    operands: Vec<(ValueId, View)>,
    terms: Vec<Term>,
    memo: HashMap<ValueId, usize>,
}

impl<'a> Expression<'a> {
    /// The expression that computes `value`, which it does not read from memory.
    pub(super) fn of(graph: &'a Graph, value: ValueId, memory: Memory<'a>) -> Self {
        let mut expression = Self::new(graph, value, memory);
        expression.term(value, true);
        expression
    }

    /// The expression that reads `value`: from memory, if it has any.
    pub(super) fn read(graph: &'a Graph, value: ValueId, memory: Memory<'a>) -> Self {
        let mut expression = Self::new(graph, value, memory);
        expression.term(value, false);
        expression
    }

    fn new(graph: &'a Graph, value: ValueId, has_memory: Memory<'a>) -> Self {
        let shape = graph.shape(value).clone();
        Expression {
            graph,
            has_memory,
            shape,
            operands: Vec::new(),
            terms: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// The values read from memory, in the order of the tape's operands.
    pub(super) fn operands(&self) -> impl Iterator<Item = ValueId> {
        self.operands.iter().map(|&(value, _)| value)
    }

    fn term(&mut self, value: ValueId, expand: bool) -> usize {
        if let Some(&term) = self.memo.get(&value) {
            return term;
        }
        let term = self.new_term(value, expand);
        self.terms.push(term);
        self.memo.insert(value, self.terms.len() - 1);
        self.terms.len() - 1
    }

    fn new_term(&mut self, value: ValueId, expand: bool) -> Term {
        if let Some(constant) = self.graph.splat_value(value) {
            return Term::Constant(constant);
        }
        let node = self.graph.producer(value);
        let inline = expand || !(self.has_memory)(value);
        match &node.op {
            Op::Unary(f) if inline => Term::Unary(*f, self.term(node.inputs[0], false)),
            Op::Binary(f) if inline => {
                let a = self.term(node.inputs[0], false);
                Term::Binary(*f, a, self.term(node.inputs[1], false))
            }
            Op::Select if inline => {
                let c = self.term(node.inputs[0], false);
                let a = self.term(node.inputs[1], false);
                Term::Select(c, a, self.term(node.inputs[2], false))
            }
            Op::Broadcast(_) if inline => self.operand(node.inputs[0]),
            _ => self.operand(value),
        }
    }

    /// An operand in memory, under its own shape or one that broadcasts to the expression's.
    fn operand(&mut self, value: ValueId) -> Term {
        let from = self.graph.shape(value);
        let strides = from.strides().into_iter().zip(from.iter().zip(self.shape.iter()));
        let view = strides.map(|(s, (&f, &t))| if f == 1 && t != 1 { 0 } else { s }).collect();
        let operand = (value, View(view));
        let index = self.operands.iter().position(|known| *known == operand).unwrap_or_else(|| {
            self.operands.push(operand);
            self.operands.len() - 1
        });
        Term::Operand(index)
    }

    /// The tape, and the strides of `extra` (an output view over the same shape) after collapsing.
    pub(super) fn tape(&self, extra: Option<View>) -> (Tape, Option<View>) {
        let mut views: Vec<View> = self.operands.iter().map(|(_, view)| view.clone()).collect();
        views.extend(extra);
        let extents = collapse(&self.shape, &mut views);
        let extra = if views.len() > self.operands.len() { views.pop() } else { None };
        let mut tape = Tape { extents, views, ..Tape::default() };
        Registers::assign(&self.terms_with_masks(), &mut tape);
        (tape, extra)
    }

    /// The terms, with one in place of a comparison and a choice between a value and 0.
    fn terms_with_masks(&self) -> Vec<Term> {
        let masked = |term: &Term| match *term {
            Term::Select(condition, kept, other) => {
                match (self.terms[condition], self.terms[other]) {
                    (Term::Binary(Binary::Less, a, b), Term::Constant(0.0)) => {
                        Term::KeepLess(a, b, kept)
                    }
                    _ => *term,
                }
            }
            _ => *term,
        };
        self.terms.iter().map(masked).collect()
    }
}

/// Linear-scan register assignment.
struct Registers {
    /// For each term that is needed, the last term that reads it.
    last_use: Vec<Option<usize>>,
    found: Vec<Option<Source>>,
    free: Vec<u8>,
    count: usize,
}

impl Registers {
    /// Writes the code of those terms that the last one needs.
    fn assign(terms: &[Term], tape: &mut Tape) {
        let result = terms.len() - 1;
        let mut last_use = vec![None; terms.len()];
        last_use[result] = Some(usize::MAX);
        for (index, term) in terms.iter().enumerate().rev() {
            let (operands, count) = term.operands();
            if last_use[index].is_some() {
                for &operand in &operands[..count] {
                    last_use[operand] = last_use[operand].or(Some(index));
                }
            }
        }
        let mut registers =
            Registers { last_use, found: vec![None; terms.len()], free: vec![], count: 0 };
        // Constants and scalars keep their registers for the whole tape.
        let needed = |registers: &Self, index: usize| registers.last_use[index].is_some();
        for (index, term) in terms.iter().enumerate() {
            if needed(&registers, index) {
                registers.pin(index, term, tape);
            }
        }
        for (index, term) in terms.iter().enumerate() {
            if needed(&registers, index) && registers.found[index].is_none() {
                registers.emit(index, term, tape);
            }
        }
        tape.results.extend(registers.found[result]);
        tape.registers = registers.count;
    }

    fn pin(&mut self, index: usize, term: &Term, tape: &mut Tape) {
        match *term {
            Term::Constant(value) => {
                let register = self.fresh();
                tape.constants.push((register, value));
                self.found[index] = Some(Source::Register(register));
            }
            Term::Operand(operand) if tape.views[operand].0.iter().all(|&s| s == 0) => {
                let register = self.fresh();
                tape.scalars.push((register, operand as u8));
                self.found[index] = Some(Source::Register(register));
            }
            Term::Operand(operand) if tape.views[operand].is_contiguous(&tape.extents) => {
                self.found[index] = Some(Source::Input(operand as u8));
            }
            _ => {}
        }
    }

    fn emit(&mut self, index: usize, term: &Term, tape: &mut Tape) {
        let (operands, count) = term.operands();
        let get = |operand: usize| self.found[operand].unwrap_or(Source::Input(0));
        let [a, b, c] = operands.map(get);
        let action = match *term {
            Term::Operand(operand) => Action::Load(operand as u8),
            Term::Unary(f, _) => Action::Unary(f),
            Term::Binary(f, ..) => Action::Binary(f),
            Term::Select(..) => Action::Select,
            Term::KeepLess(..) => Action::KeepLess,
            Term::Constant(_) => return,
        };
        // Taken before the operands' registers are given back: a target is never a source.
        let target = self.free.pop().unwrap_or_else(|| self.fresh());
        for &operand in &operands[..count] {
            self.release(operand, index, &expression_pins(tape));
        }
        self.found[index] = Some(Source::Register(target));
        tape.code.push(Instruction { action, target, a, b, c });
    }

    fn release(&mut self, operand: usize, reader: usize, pinned: &[u8]) {
        if self.last_use[operand] != Some(reader) {
            return;
        }
        if let Some(Source::Register(register)) = self.found[operand]
            && !pinned.contains(&register)
            && !self.free.contains(&register)
        {
            self.free.push(register);
        }
    }

    fn fresh(&mut self) -> u8 {
        self.count += 1;
        (self.count - 1) as u8
    }
}

/// Registers that constants and scalars hold.
fn expression_pins(tape: &Tape) -> Vec<u8> {
    let constants = tape.constants.iter().map(|&(register, _)| register);
    constants.chain(tape.scalars.iter().map(|&(register, _)| register)).collect()
}
