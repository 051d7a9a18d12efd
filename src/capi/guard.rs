//! How a call answers: a status and, where the host asks for one, an error. Panics end here.

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::error::{ErrorHandle, Failure, Status};
use super::handles::{self, Held};
use crate::job::panic_message;

/// Where a call leaves what it made: a host's variable, which may hold anything before.
pub(super) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Runs `body`, and tells the host what it came to. `error` becomes null, or a new error.
pub(super) fn answer(
    error: Out<'_, *mut ErrorHandle>,
    body: impl FnOnce() -> Result<(), Failure>,
) -> Status {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let message = format!("the library panicked: {}", panic_message(&*panic));
        // A payload may panic in its turn when it is dropped.
        std::mem::forget(panic);
        Err(Failure::new(Status::Internal, message))
    });
    let status = result.as_ref().map_or_else(Failure::status, |()| Status::Ok);
    if let Some(error) = error {
        // Where no handle can be made, the status says all that there is.
        let handle = result.err().and_then(|failure| handles::insert(failure).ok());
        error.write(handle.unwrap_or(ptr::null_mut()));
    }
    status
}

/// Runs `body` and leaves a handle of what it makes in `out`, which is null if it fails.
pub(super) fn make<T: Held>(
    (name, out): (&str, Out<'_, *mut T::Handle>),
    error: Out<'_, *mut ErrorHandle>,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Status {
    answer(error, || {
        let out = out.ok_or_else(|| Failure::null(name))?;
        out.write(ptr::null_mut());
        out.write(handles::insert(body()?)?);
        Ok(())
    })
}
