//! A machine for the part of pickle that `torch.save` writes, and for nothing else.
//!
//! A pickle is a program for a stack machine that can name any Python function and call it. This
//! machine knows two dozen of its opcodes and a closed list of names ([`GLOBALS`]), each of which
//! stands for a fixed piece of data here: there is nothing that it could call. Any other opcode or
//! name is an error that says which.
//!
//! Values lie in one list and refer to each other by their place in it. So a value that holds
//! itself, or the same value a million times, or is nested a million deep, costs what its bytes in
//! the file cost, and dropping it does not recurse. What an instruction copies has a fixed size at
//! most.

use std::collections::HashMap;

use crate::error::{Context, Error, Result};

/// The most bytes of a pickle; that of a network with a thousand tensors takes 200 kB.
pub(super) const PICKLE_BYTES_MAX: u64 = 16 << 20;
/// The most values of a pickle; a tensor of a state dict takes about 20.
const VALUES_MAX: usize = 1 << 18;
/// The most values on the stack, or in the memo.
const STACK_MAX: usize = 1 << 20;
/// The most marks that are open at once.
const MARKS_MAX: usize = 1 << 10;
/// The most dimensions of a tensor.
const NDIM_MAX: usize = 8;
/// The longest name of a storage: a number in words of the writer.
const KEY_BYTES_MAX: usize = 64;
/// The newest protocol.
const PROTOCOL_MAX: u8 = 5;

/// A value's place in its pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(u32);

/// What a pickle can hold here.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<TensorRef>),
}

/// A name that a pickle may mention.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

/// The names that a pickle may mention.
const GLOBALS: [(&str, &str, Global); 14] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch", "Size", Global::Size),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch", "DoubleStorage", Global::Storage(Element::F64)),
    ("torch", "FloatStorage", Global::Storage(Element::F32)),
    ("torch", "HalfStorage", Global::Storage(Element::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Element::BF16)),
    ("torch", "LongStorage", Global::Storage(Element::I64)),
    ("torch", "IntStorage", Global::Storage(Element::I32)),
    ("torch", "ShortStorage", Global::Storage(Element::I16)),
    ("torch", "CharStorage", Global::Storage(Element::I8)),
    ("torch", "ByteStorage", Global::Storage(Element::U8)),
    ("torch", "BoolStorage", Global::Storage(Element::Bool)),
];

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::BF16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Element::F64 | Element::F32 | Element::F16 | Element::BF16)
    }
}

/// Where a tensor's elements are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) element: Element,
    /// Its name in the file.
    pub(super) key: String,
    /// Elements of the storage called `key`.
    pub(super) len: usize,
    /// Where in it this part of it begins, in elements.
    pub(super) start: usize,
}

/// A tensor whose elements have not been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorRef {
    pub(super) storage: Storage,
    /// Of the first element, in elements from the beginning of the storage called `key`.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A pickle that was run.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Runs the pickle at the beginning of `bytes`; also says where it ends.
    ///
    /// # Errors
    /// When it is no pickle, does what [`torch.save`](self) does not do, or is too large.
    pub(super) fn run(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut machine = Machine { bytes, ..Machine::default() };
        let root = loop {
            let at = machine.at;
            let root = machine.step().context(|| format!("the pickle at byte {at}"))?;
            if let Some(root) = root {
                break root;
            }
        };
        Ok((Pickle { values: machine.values, root }, machine.at))
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    /// All values, in the order in which they were made.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction; the result when it was the last one.
    fn step(&mut self) -> Result<Option<Id>> {
        match self.byte()? {
            0x80 => self.protocol()?,
            0x95 => drop(self.take(8)?), // FRAME: a hint of how much to read ahead
            b'.' => return self.pop().map(Some),
            b'N' => self.push(Value::None)?,
            op @ (0x88 | 0x89) => self.push(Value::Bool(op == 0x88))?,
            b'G' => self.take(8).map(|_| Value::Float).and_then(|float| self.push(float))?,
            op @ (b'K' | b'M' | b'J' | 0x8A) => self.integer(op)?,
            op @ (b'U' | 0x8C | b'T' | b'X') => self.string(op)?,
            op @ (b'q' | b'r' | 0x94) => self.put(op)?,
            op @ (b'h' | b'j') => self.fetch(op)?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b'(' => self.mark()?,
            op @ (b't' | 0x85 | 0x86 | 0x87) => self.tuple(op)?,
            op @ (b'a' | b'e') => self.append(op)?,
            op @ (b's' | b'u') => self.set_items(op)?,
            op @ (b'c' | 0x93) => self.global(op)?,
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            op => return Err(forbidden(op)),
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Error::malformed("it is cut short, or longer than 16 MiB"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A little-endian number of `len` bytes.
    fn number(&mut self, len: usize) -> Result<u32> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    /// The bytes up to the end of the line, which is skipped.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(len.ok_or_else(|| Error::malformed("a name without an end"))?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|e| Error::malformed("a name is not UTF-8").caused_by(e))
    }

    fn protocol(&mut self) -> Result<()> {
        match self.byte()? {
            0..=PROTOCOL_MAX => Ok(()),
            version => Err(Error::unsupported(format!("protocol {version} of pickle"))
                .hint(format!("expected {PROTOCOL_MAX} at most"))),
        }
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.len() == VALUES_MAX {
            return Err(Error::unsupported(format!("it holds over {VALUES_MAX} values"))
                .hint("save the state dict alone, without an optimiser's"));
        }
        let id = Id(self.values.len() as u32);
        self.values.push(value);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() == STACK_MAX {
            return Err(Error::malformed("its stack overflows"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(underflow),
            false => Err(underflow()),
        }
    }

    /// The value on top, which stays.
    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(underflow)
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == MARKS_MAX {
            return Err(Error::malformed(format!("over {MARKS_MAX} marks are open at once")));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(underflow)?;
        Ok(self.stack.split_off(mark))
    }

    fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    fn integer(&mut self, op: u8) -> Result<()> {
        let number = match op {
            b'K' => i128::from(self.number(1)?),
            b'M' => i128::from(self.number(2)?),
            b'J' => i128::from(self.number(4)? as i32),
            _ => {
                let len = usize::from(self.byte()?);
                let bytes = self.take(len)?;
                if len > 16 {
                    return Err(Error::unsupported(format!("an integer of {len} bytes")));
                }
                let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xFF } else { 0 };
                let mut wide = [fill; 16];
                wide[..len].copy_from_slice(bytes);
                i128::from_le_bytes(wide)
            }
        };
        self.push(Value::Int(number))
    }

    fn string(&mut self, op: u8) -> Result<()> {
        let len = match op {
            b'U' | 0x8C => self.number(1)?,
            _ => self.number(4)?,
        };
        let bytes = self.take(len as usize)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Error::malformed("a text is not UTF-8").caused_by(e))?;
        self.push(Value::Text(text.to_string()))
    }

    fn put(&mut self, op: u8) -> Result<()> {
        let place = match op {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            _ => self.memo.len() as u32,
        };
        if self.memo.len() == STACK_MAX {
            return Err(Error::malformed("its memo overflows"));
        }
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn fetch(&mut self, op: u8) -> Result<()> {
        let place = self.number(if op == b'h' { 1 } else { 4 })?;
        let found = self.memo.get(&place).copied();
        let id = found.ok_or_else(|| {
            Error::malformed(format!("it reads place {place} of its memo, which is empty"))
        })?;
        self.push_id(id)
    }

    fn tuple(&mut self, op: u8) -> Result<()> {
        let parts = match op {
            b't' => self.pop_mark()?,
            _ => {
                let mut parts = Vec::new();
                for _ in 0..op - 0x84 {
                    parts.push(self.pop()?);
                }
                parts.reverse();
                parts
            }
        };
        self.push(Value::Tuple(parts))
    }

    fn append(&mut self, op: u8) -> Result<()> {
        let new = match op {
            b'a' => vec![self.pop()?],
            _ => self.pop_mark()?,
        };
        let list = self.top()?;
        match &mut self.values[list.0 as usize] {
            Value::List(parts) => parts.extend(new),
            _ => return Err(Error::malformed("it appends to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, op: u8) -> Result<()> {
        let new = match op {
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let (pairs, rest) = new.as_chunks::<2>();
        let dict = self.top()?;
        match &mut self.values[dict.0 as usize] {
            Value::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            Value::Dict(_) => return Err(Error::malformed("a key without a value")),
            _ => return Err(Error::malformed("it sets an entry of what is no dict")),
        }
        Ok(())
    }

    fn global(&mut self, op: u8) -> Result<()> {
        let (module, name) = match op {
            b'c' => (self.line()?.to_string(), self.line()?.to_string()),
            _ => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (Value::Text(module), Value::Text(name)) => (module.clone(), name.clone()),
                    _ => return Err(Error::malformed("a name that is no text")),
                }
            }
        };
        let known = GLOBALS.iter().find(|(m, n, _)| *m == module && *n == name);
        match known {
            Some((_, _, global)) => self.push(Value::Global(*global)),
            None => Err(forbidden_name(&module, &name)),
        }
    }

    /// Turns `('storage', type, key, device, elements[, view])` into a storage.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = self.storage(id).ok_or_else(|| {
            Error::malformed("a persistent id that does not say where a tensor's elements are")
        })?;
        self.push(Value::Storage(Box::new(storage)))
    }

    fn storage(&self, id: Id) -> Option<Storage> {
        let Value::Tuple(parts) = self.value(id) else { return None };
        let (&[kind, global, key, _, len], view) = parts.split_first_chunk::<5>()?;
        let Value::Text(kind) = self.value(kind) else { return None };
        let Value::Global(Global::Storage(element)) = *self.value(global) else { return None };
        let Value::Text(key) = self.value(key) else { return None };
        let start = match view {
            [] => 0,
            &[view] => match self.value(view) {
                Value::None => 0,
                // Of the view: its own key, its offset, its length.
                Value::Tuple(parts) => self.size(*parts.get(1)?)?,
                _ => return None,
            },
            _ => return None,
        };
        let storage = Storage { element, key: key.clone(), len: self.size(len)?, start };
        (kind == "storage" && key.len() <= KEY_BYTES_MAX).then_some(storage)
    }

    fn size(&self, id: Id) -> Option<usize> {
        match *self.value(id) {
            Value::Int(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), Value::Global(function)) =
            (self.value(arguments), self.value(function))
        else {
            return Err(Error::malformed("it calls what is no known name"));
        };
        let value = match function {
            Global::OrderedDict => arguments.is_empty().then(|| Value::Dict(Vec::new())),
            Global::Size => match arguments.first().map(|&id| self.value(id)) {
                Some(size @ Value::Tuple(extents)) if extents.len() <= NDIM_MAX => {
                    Some(size.clone())
                }
                _ => None,
            },
            Global::RebuildTensor => self.tensor(arguments).map(|t| Value::Tensor(Box::new(t))),
            Global::RebuildParameter => match arguments.first().map(|&id| self.value(id)) {
                Some(tensor @ Value::Tensor(_)) => Some(tensor.clone()),
                _ => None,
            },
            Global::Storage(_) => None,
        };
        let unknown = || Error::malformed(format!("unknown arguments of {}", function.name()));
        self.push(value.ok_or_else(unknown)?)
    }

    /// A tensor of a storage, an offset, a shape and strides, and what is of no interest here.
    fn tensor(&self, arguments: &[Id]) -> Option<TensorRef> {
        let (&[storage, offset, shape, strides], _) = arguments.split_first_chunk::<4>()?;
        let Value::Storage(storage) = self.value(storage) else { return None };
        let offset = storage.start.checked_add(self.size(offset)?)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        (shape.len() == strides.len()).then(|| TensorRef {
            storage: (**storage).clone(),
            offset,
            shape,
            strides,
        })
    }

    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        match self.value(id) {
            Value::Tuple(parts) if parts.len() <= NDIM_MAX => {
                parts.iter().map(|&part| self.size(part)).collect()
            }
            _ => None,
        }
    }

    /// Attributes of a state dict, which say nothing about its tensors, are left out.
    fn build(&mut self) -> Result<()> {
        let (_, object) = (self.pop()?, self.top()?);
        match self.value(object) {
            Value::Dict(_) => Ok(()),
            _ => Err(Error::unsupported("it sets attributes of what is no dict")),
        }
    }
}

impl Global {
    fn name(self) -> String {
        let is_same =
            |global: &Global| std::mem::discriminant(global) == std::mem::discriminant(&self);
        let row = GLOBALS.iter().find(|(.., global)| is_same(global));
        row.map_or(String::new(), |(module, name, _)| format!("{module}.{name}"))
    }
}

#[cold]
fn underflow() -> Error {
    Error::malformed("its stack is empty")
}

#[cold]
fn forbidden(op: u8) -> Error {
    let name = match op {
        b'i' => " (INST)",
        b'o' => " (OBJ)",
        b'P' => " (PERSID)",
        b'0' => " (POP)",
        0x81 => " (NEWOBJ)",
        0x82..=0x84 => " (EXT)",
        0x8F => " (EMPTY_SET)",
        0x92 => " (NEWOBJ_EX)",
        _ => "",
    };
    Error::unsupported(format!("opcode {op:#04x}{name} is not allowed"))
        .hint("expected what torch.save writes for tensors; save the state dict alone")
}

#[cold]
fn forbidden_name(module: &str, name: &str) -> Error {
    /// As much of a name as an error shows.
    const SHOWN: usize = 80;
    let full: String = format!("{module}.{name}").chars().take(SHOWN).collect();
    Error::unsupported(format!("the name {} is not allowed", full.escape_debug()))
        .hint("expected tensors, dicts and numbers only; save the state dict alone")
}
