//! Fallible work on disjoint parts, in parallel.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::threads::Threads;

/// Calls `body(at, part)` for every part. The error returned is the one of the first failing part
/// in order, whatever the number of threads; parts after a failed one may be left out.
pub(super) fn try_each<T: Send>(
    threads: &Threads,
    parts: Vec<T>,
    body: impl Fn(usize, T) -> Result<()> + Sync,
) -> Result<()> {
    let parts: Vec<Mutex<Option<T>>> = parts.into_iter().map(|p| Mutex::new(Some(p))).collect();
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    threads.run(parts.len(), |at, _| {
        if lock(&failed).as_ref().is_some_and(|(first, _)| *first < at) {
            return;
        }
        let Some(part) = lock(&parts[at]).take() else { return };
        if let Err(error) = body(at, part) {
            let mut failed = lock(&failed);
            if failed.as_ref().is_none_or(|(first, _)| at < *first) {
                *failed = Some((at, error));
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some((_, error)) => Err(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
