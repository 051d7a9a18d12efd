//! What went wrong, as a host sees it: a status, and an object with a message.

use std::ffi::{CStr, CString, c_char};

use super::guard::answer;
use super::handles::{self, Held};
use crate::error::{Error, Kind};

/// What a call came to. Numbers keep their meaning; later versions may add some.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did what it says.
    Ok = 0,
    /// A file or buffer is not what its format demands.
    Malformed = 1,
    /// A valid request that this version cannot carry out.
    Unsupported = 2,
    /// Two valid things that do not belong together, such as a prior and another backbone.
    Mismatch = 3,
    /// An argument or setting is out of its range.
    InvalidArgument = 4,
    /// Reading or writing failed in the operating system.
    Io = 5,
    /// A device failed or was lost.
    Device = 6,
    /// Training produced a number that is not finite.
    Diverged = 7,
    /// The host asked for the work to stop.
    Cancelled = 8,
    /// A bug of the library; the call changed nothing that the host has.
    Internal = 9,
    /// A pointer or handle is null that must not be.
    NullPointer = 10,
    /// A handle was freed before, is of another kind, or never was one.
    InvalidHandle = 11,
    /// A buffer has another length than it must have.
    BufferSize = 12,
    /// The call would wait for its own thread.
    WrongThread = 13,
    /// Somebody else is writing to the same place; later it may be free.
    Busy = 14,
}

/// A failed call's status and message; free it with priorfit_error_free.
pub struct ErrorHandle {
    _private: [u8; 0],
}

/// What an error handle stands for.
pub(super) struct Failure {
    status: Status,
    message: CString,
}

impl Failure {
    /// A failure; what follows a zero byte in `message` is lost.
    #[cold]
    pub(super) fn new(status: Status, message: impl Into<String>) -> Self {
        let mut bytes = message.into().into_bytes();
        bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
        Failure { status, message: CString::new(bytes).unwrap_or_default() }
    }

    /// An argument that must not be null.
    #[cold]
    pub(super) fn null(name: &str) -> Self {
        Failure::new(Status::NullPointer, format!("`{name}` is null"))
    }

    pub(super) fn status(&self) -> Status {
        self.status
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            Kind::Malformed => Status::Malformed,
            Kind::Unsupported => Status::Unsupported,
            Kind::Mismatch => Status::Mismatch,
            Kind::InvalidArgument => Status::InvalidArgument,
            Kind::Io => Status::Io,
            Kind::Busy => Status::Busy,
            Kind::Device => Status::Device,
            Kind::Diverged => Status::Diverged,
            Kind::Cancelled => Status::Cancelled,
            Kind::Internal => Status::Internal,
        };
        Failure::new(status, error.to_string())
    }
}

impl Held for Failure {
    type Handle = ErrorHandle;
    const KIND: &'static str = "error";
}

/// The status that the failed call returned; INVALID_HANDLE if this is no error.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_error_status(error: *const ErrorHandle) -> Status {
    handles::get::<Failure>("error", error).map_or_else(|wrong| wrong.status(), |e| e.status)
}

/// What failed, and what can be done about it: one line in UTF-8 for people. It lives until the
/// error is freed; never null.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_error_message(error: *const ErrorHandle) -> *const c_char {
    const NONE: &CStr = c"there is no such error: its handle is null, freed, or another object's";
    // The table keeps the message where it is until the error is freed.
    handles::get::<Failure>("error", error).map_or(NONE.as_ptr(), |e| e.message.as_ptr())
}

/// Frees an error. Null is passed over.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_error_free(error: *mut ErrorHandle) -> Status {
    answer(None, || handles::free::<Failure>("error", error))
}
