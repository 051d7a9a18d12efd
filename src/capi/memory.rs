//! A host's memory: texts and buffers in, texts and numbers out.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;

use super::error::{Failure, Status};
use super::guard::Out;

/// A text of the host.
///
/// # Safety
/// As [`super`] says; `'a` is within the call.
pub(super) unsafe fn text<'a>(name: &str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: the caller's promise: it ends with a zero byte.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| Failure::new(Status::InvalidArgument, format!("`{name}` is not UTF-8")))
}

/// A text of the host that may be null.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn optional_text<'a>(
    name: &str,
    from: *const c_char,
) -> Result<Option<&'a str>, Failure> {
    // SAFETY: the caller's promise.
    if from.is_null() { Ok(None) } else { unsafe { text(name, from) }.map(Some) }
}

/// A file or folder.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn path<'a>(name: &str, path: *const c_char) -> Result<&'a Path, Failure> {
    // SAFETY: the caller's promise.
    let path = unsafe { text(name, path) }?;
    match path.is_empty() {
        true => Err(Failure::new(Status::InvalidArgument, format!("`{name}` is empty"))),
        false => Ok(Path::new(path)),
    }
}

/// A copy of `len` numbers, of which the host says that they have `bytes` bytes.
///
/// # Safety
/// As [`super`] says of `from` and `bytes`; it need not be aligned. Any bytes are a `T`.
pub(super) unsafe fn copied<T: Copy + Default>(
    name: &str,
    (from, bytes): (*const c_void, usize),
    len: Option<usize>,
) -> Result<Vec<T>, Failure> {
    let expected = len.and_then(|len| len.checked_mul(size_of::<T>()));
    let (Some(len), Some(expected)) = (len, expected.filter(|&n| isize::try_from(n).is_ok()))
    else {
        let message = format!("`{name}`: so many numbers do not fit in memory");
        return Err(Failure::new(Status::InvalidArgument, message));
    };
    check_len(name, bytes, expected, "bytes")?;
    if from.is_null() && bytes > 0 {
        return Err(Failure::null(name));
    }
    let mut numbers = vec![T::default(); len];
    if bytes > 0 {
        // SAFETY: both have `bytes` bytes, the new vector is nobody else's, and `T` is plain.
        unsafe { from.cast::<u8>().copy_to_nonoverlapping(numbers.as_mut_ptr().cast(), bytes) };
    }
    Ok(numbers)
}

/// The host's buffer of `len` numbers for a result of `expected`; none where it wants none.
///
/// # Safety
/// As [`super`] says of `buffer` and `len`; `'a` is within the call.
pub(super) unsafe fn buffer<'a, T>(
    name: &str,
    (buffer, len): (*mut T, usize),
    expected: usize,
) -> Result<Option<&'a mut [T]>, Failure> {
    if buffer.is_null() && len == 0 {
        return Ok(None);
    }
    check_len(name, len, expected, "numbers")?;
    if buffer.is_null() {
        return Err(Failure::null(name));
    }
    if !buffer.is_aligned() {
        return Err(Failure::new(Status::InvalidArgument, format!("`{name}` is not aligned")));
    }
    // SAFETY: the caller's promise; null and misaligned pointers are refused above.
    Ok(Some(unsafe { std::slice::from_raw_parts_mut(buffer, len) }))
}

fn check_len(name: &str, len: usize, expected: usize, unit: &str) -> Result<(), Failure> {
    if len == expected {
        return Ok(());
    }
    let message = format!("`{name}` has {len} {unit}; expected {expected}");
    Err(Failure::new(Status::BufferSize, message))
}

/// Writes `text` and a zero byte to a buffer of `capacity` bytes, and its length without that byte
/// to `length`. With a null buffer of capacity 0 it writes the length alone.
///
/// # Safety
/// As [`super`] says of `to` and `capacity`.
pub(super) unsafe fn write_text(
    text: &str,
    (to, capacity): (*mut c_char, usize),
    length: Out<'_, usize>,
) -> Result<(), Failure> {
    length.ok_or_else(|| Failure::null("length"))?.write(text.len());
    if to.is_null() && capacity == 0 {
        return Ok(());
    }
    if to.is_null() {
        return Err(Failure::null("buffer"));
    }
    if capacity <= text.len() {
        let message =
            format!("`buffer` has {capacity} bytes; expected at least {}", text.len() + 1);
        return Err(Failure::new(Status::BufferSize, message));
    }
    // SAFETY: the buffer has room for the text and one byte more, and is not part of the text.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}
