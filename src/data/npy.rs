//! NumPy's array format: the header, and elements read in bounded chunks.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1 to
//! 3. Only plain numbers are read; pickled objects and records are refused by name.

use std::io::Read;

use crate::error::{Error, Result};
use crate::tensor::Shape;

/// The longest header accepted, as in NumPy itself.
const HEADER_BYTES_MAX: usize = 10_000;
/// The most dimensions an array can have in NumPy.
const DIMS_MAX: usize = 64;
/// How many bytes are read at a time; a multiple of every element size.
const CHUNK_BYTES: usize = 64 << 10;

/// What an array's bytes mean.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub element: Element,
    pub order: Order,
    pub shape: Shape,
    /// Bytes of magic, version, length and header text: where the elements begin.
    pub offset: usize,
}

/// An element type of plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub kind: Number,
    pub bytes: usize,
    pub endian: Endian,
}

/// The kinds of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Bool,
    Signed,
    Unsigned,
    Float,
}

/// Order of the bytes of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endian {
    Little,
    Big,
}

/// Order of the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Last index fastest.
    RowMajor,
    /// First index fastest.
    ColumnMajor,
}

impl Header {
    /// Bytes of all elements.
    ///
    /// # Errors
    /// When they would not fit in memory.
    pub(super) fn data_bytes(&self) -> Result<usize> {
        let len = self.shape.checked_len()?;
        len.checked_mul(self.element.bytes)
            .ok_or_else(|| Error::malformed(format!("shape {} has too many elements", self.shape)))
    }
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = self.bytes * 8;
        match self.kind {
            Number::Bool => f.write_str("bool"),
            Number::Signed => write!(f, "int{bits}"),
            Number::Unsigned => write!(f, "uint{bits}"),
            Number::Float => write!(f, "float{bits}"),
        }
    }
}

/// Reads the header, leaving `reader` at the first element.
///
/// # Errors
/// When it is cut short, not in the format, or describes anything but plain numbers.
pub(super) fn read_header(reader: &mut impl Read) -> Result<Header> {
    let mut prefix = [0; 8];
    read_exact(reader, &mut prefix)?;
    if &prefix[..6] != b"\x93NUMPY" {
        return Err(Error::malformed("not a NumPy array: the first bytes are not \\x93NUMPY"));
    }
    let (length, before) = match prefix[6] {
        1 => (usize::from(u16::from_le_bytes(read_array(reader)?)), 10),
        2 | 3 => (u32::from_le_bytes(read_array(reader)?) as usize, 12),
        version => return Err(Error::unsupported(format!("array format version {version}"))),
    };
    if length > HEADER_BYTES_MAX {
        return Err(Error::malformed(format!(
            "a header of {length} bytes; expected at most {HEADER_BYTES_MAX}"
        )));
    }
    let mut text = vec![0; length];
    read_exact(reader, &mut text)?;
    parse(&text, before + length)
}

/// Reads `len` elements of `bytes` bytes each, converting every one with `decode`.
///
/// # Errors
/// When the input is cut short, or memory runs out.
pub(super) fn read_elements<T>(
    reader: &mut impl Read,
    len: usize,
    bytes: usize,
    decode: impl Fn(&[u8]) -> T,
) -> Result<Vec<T>> {
    let mut elements = Vec::new();
    elements.try_reserve_exact(len).map_err(|e| {
        Error::new(crate::error::Kind::Io, format!("no memory for {len} elements: {e}"))
    })?;
    let mut chunk = vec![0; CHUNK_BYTES.min(len * bytes)];
    while elements.len() < len {
        let take = (len - elements.len()).min(CHUNK_BYTES / bytes) * bytes;
        read_exact(reader, &mut chunk[..take])?;
        elements.extend(chunk[..take].chunks_exact(bytes).map(&decode));
    }
    Ok(elements)
}

/// The integer in `bytes` (at most eight), which is in the byte order of `element`.
pub(super) fn integer(bytes: &[u8], element: Element) -> i128 {
    let fold = |value: i128, &byte: &u8| value << 8 | i128::from(byte);
    let value = match element.endian {
        Endian::Little => bytes.iter().rev().fold(0, fold),
        Endian::Big => bytes.iter().fold(0, fold),
    };
    let range = 1i128 << (8 * bytes.len());
    if element.kind == Number::Signed && value >= range / 2 { value - range } else { value }
}

/// The `f32` in four `bytes`.
pub(super) fn float32(bytes: &[u8], endian: Endian) -> f32 {
    let &word = bytes.first_chunk::<4>().expect("a float32 element has four bytes");
    match endian {
        Endian::Little => f32::from_le_bytes(word),
        Endian::Big => f32::from_be_bytes(word),
    }
}

/// The `f64` in eight `bytes`.
pub(super) fn float64(bytes: &[u8], endian: Endian) -> f64 {
    let &word = bytes.first_chunk::<8>().expect("a float64 element has eight bytes");
    match endian {
        Endian::Little => f64::from_le_bytes(word),
        Endian::Big => f64::from_be_bytes(word),
    }
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    reader.read_exact(buffer).map_err(unreadable)
}

fn read_array<const N: usize>(reader: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    read_exact(reader, &mut bytes)?;
    Ok(bytes)
}

/// The error of an array that ends early or does not decompress.
#[cold]
pub(super) fn unreadable(cause: std::io::Error) -> Error {
    Error::malformed(format!("the array cannot be read to its end: {cause}")).caused_by(cause)
}

/// Parses the header text, a Python dictionary such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(text: &[u8], offset: usize) -> Result<Header> {
    let mut text = Text { rest: text };
    let (mut element, mut order, mut shape) = (None, None, None);
    text.expect(b'{')?;
    while !text.take(b'}') {
        let key = text.string()?;
        text.expect(b':')?;
        match key {
            b"descr" => element = Some(text.element()?),
            b"fortran_order" => order = Some(text.order()?),
            b"shape" => shape = Some(text.shape()?),
            _ => return Err(text.malformed("an unknown key")),
        }
        if !text.take(b',') && !text.rest.starts_with(b"}") {
            return Err(text.malformed("no comma between entries"));
        }
        text.skip_spaces();
    }
    match (element, order, shape) {
        (Some(element), Some(order), Some(shape)) => Ok(Header { element, order, shape, offset }),
        _ => Err(text.malformed("not all of descr, fortran_order and shape")),
    }
}

/// What is left of a header's text.
struct Text<'a> {
    rest: &'a [u8],
}

impl<'a> Text<'a> {
    #[cold]
    fn malformed(&self, what: &str) -> Error {
        Error::malformed(format!("the array's header has {what}"))
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// Takes `byte` and the spaces around it when it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
            self.skip_spaces();
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        match self.take(byte) {
            true => Ok(()),
            false => Err(self.malformed(&format!("no {:?} where one is due", char::from(byte)))),
        }
    }

    fn take_word(&mut self, word: &[u8]) -> bool {
        self.rest.strip_prefix(word).map(|rest| self.rest = rest).is_some()
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let quote = match self.rest.first() {
            Some(&quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.malformed("no quoted text where one is due")),
        };
        let body = &self.rest[1..];
        let end = body.iter().position(|&byte| byte == quote);
        let end = end.ok_or_else(|| self.malformed("an open quote"))?;
        self.rest = &body[end + 1..];
        Ok(&body[..end])
    }

    fn element(&mut self) -> Result<Element> {
        if self.rest.starts_with(b"[") {
            return Err(Error::unsupported("the array holds records; expected plain numbers"));
        }
        element(self.string()?)
    }

    fn order(&mut self) -> Result<Order> {
        if self.take_word(b"True") {
            return Ok(Order::ColumnMajor);
        }
        match self.take_word(b"False") {
            true => Ok(Order::RowMajor),
            false => Err(self.malformed("a fortran_order that is neither True nor False")),
        }
    }

    fn shape(&mut self) -> Result<Shape> {
        let mut extents = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            extents.push(self.extent()?);
            if extents.len() > DIMS_MAX {
                return Err(self.malformed("too many dimensions"));
            }
            if !self.take(b',') && !self.rest.starts_with(b")") {
                return Err(self.malformed("no comma between extents"));
            }
        }
        Ok(Shape::from(extents))
    }

    fn extent(&mut self) -> Result<usize> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        // Python 2 wrote long integers with a suffix.
        self.take_word(b"L");
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.malformed("an extent that is not a number in range"))
    }
}

/// Parses a type description such as `<f4`.
fn element(descr: &[u8]) -> Result<Element> {
    let shown = String::from_utf8_lossy(&descr[..descr.len().min(40)]).into_owned();
    let (endian, rest) = match descr.split_first() {
        Some((b'>', rest)) => (Endian::Big, rest),
        Some((b'<' | b'|' | b'=', rest)) => (Endian::Little, rest),
        _ => (Endian::Little, descr),
    };
    let (kind, bytes) = match rest {
        b"b1" => (Number::Bool, 1),
        b"i1" | b"i2" | b"i4" | b"i8" => (Number::Signed, usize::from(rest[1] - b'0')),
        b"u1" | b"u2" | b"u4" | b"u8" => (Number::Unsigned, usize::from(rest[1] - b'0')),
        b"f2" | b"f4" | b"f8" => (Number::Float, usize::from(rest[1] - b'0')),
        [b'O', ..] => {
            return Err(Error::unsupported(format!(
                "the array holds pickled Python objects (type '{shown}'), which are never loaded; \
                 expected plain numbers"
            ))
            .hint("save an array of one numeric type: np.asarray(list, dtype=...)"));
        }
        _ => {
            return Err(Error::unsupported(format!(
                "the array has elements of type '{shown}'; expected plain numbers"
            )));
        }
    };
    Ok(Element { kind, bytes, endian })
}
