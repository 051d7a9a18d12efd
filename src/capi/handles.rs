//! Handles: numbers that stand for objects.
//!
//! A handle looks like a pointer, so that C tells its kinds apart, but it is the number of a row in
//! a table. Numbers are given out once: a handle that was freed never comes to mean another object,
//! and whatever a host passes, nothing is read through it.
//!
//! The table is the library's only global state. Without it a handle would be an address, and its
//! mistakes could not be told.

use std::any::Any;
use std::collections::HashMap;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{Failure, Status};

/// An object that a host may hold.
pub(super) trait Held: Send + Sync + 'static {
    /// The type of its handles in C.
    type Handle;
    /// What it is called in errors.
    const KIND: &'static str;
}

struct Table {
    /// Rows by number.
    rows: Option<HashMap<usize, Row>>,
    /// The number that was given out last.
    last: usize,
}

struct Row {
    kind: &'static str,
    object: Arc<dyn Any + Send + Sync>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { rows: None, last: 0 });

/// No code of a host, and no destructor of an object, runs under this lock.
fn lock() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle of a new object.
pub(super) fn insert<T: Held>(object: T) -> Result<*mut T::Handle, Failure> {
    let row = Row { kind: T::KIND, object: Arc::new(object) };
    let mut table = lock();
    let Some(number) = table.last.checked_add(1) else {
        return Err(Failure::new(Status::Internal, "all handles have been given out"));
    };
    table.last = number;
    table.rows.get_or_insert_default().insert(number, row);
    Ok(ptr::without_provenance_mut(number))
}

/// The object of a handle, which is the argument `name`.
pub(super) fn get<T: Held>(name: &str, handle: *const T::Handle) -> Result<Arc<T>, Failure> {
    let number = handle.addr();
    if number == 0 {
        return Err(Failure::null(name));
    }
    let table = lock();
    let Some(row) = table.rows.as_ref().and_then(|rows| rows.get(&number)) else {
        let is_known = number <= table.last;
        drop(table);
        return Err(missing::<T>(name, is_known));
    };
    let (kind, object) = (row.kind, Arc::clone(&row.object));
    drop(table);
    object.downcast().map_err(|_| {
        let message =
            format!("`{name}` is the handle of another kind, {kind}; expected {}", T::KIND);
        Failure::new(Status::InvalidHandle, message)
    })
}

/// The object of a handle that may be null.
pub(super) fn get_optional<T: Held>(
    name: &str,
    handle: *const T::Handle,
) -> Result<Option<Arc<T>>, Failure> {
    if handle.is_null() { Ok(None) } else { get(name, handle).map(Some) }
}

/// Takes an object out of the table; calls that still use it finish with it.
pub(super) fn take<T: Held>(name: &str, handle: *const T::Handle) -> Result<Arc<T>, Failure> {
    let object = get::<T>(name, handle)?;
    let row = lock().rows.as_mut().and_then(|rows| rows.remove(&handle.addr()));
    match row {
        Some(_) => Ok(object),
        // Another thread was faster.
        None => Err(missing::<T>(name, true)),
    }
}

/// Frees an object; null is passed over.
pub(super) fn free<T: Held>(name: &str, handle: *const T::Handle) -> Result<(), Failure> {
    if handle.is_null() { Ok(()) } else { take::<T>(name, handle).map(drop) }
}

#[cold]
fn missing<T: Held>(name: &str, is_known: bool) -> Failure {
    let why = if is_known { "was freed before" } else { "never was a handle" };
    let message = format!("`{name}` {why}; expected that of a live {}", T::KIND);
    Failure::new(Status::InvalidHandle, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cup;
    struct Plate;

    impl Held for Cup {
        type Handle = u8;
        const KIND: &'static str = "cup";
    }

    impl Held for Plate {
        type Handle = u8;
        const KIND: &'static str = "plate";
    }

    #[test]
    fn a_freed_handle_never_means_anything_again() {
        let status = |result: Result<Arc<Cup>, Failure>| result.map(drop).map_err(|e| e.status());
        let first = insert(Cup).ok().expect("a handle");
        assert_eq!(status(get("cup", first)), Ok(()));
        assert!(get::<Plate>("cup", first).is_err_and(|e| e.status() == Status::InvalidHandle));
        assert!(free::<Cup>("cup", first).is_ok());
        for _ in 0..100 {
            let next = insert(Cup).ok().expect("a handle");
            assert_ne!(next, first);
            assert!(free::<Cup>("cup", next).is_ok());
        }
        assert_eq!(status(get("cup", first)), Err(Status::InvalidHandle));
        assert!(free::<Cup>("cup", first).is_err_and(|e| e.status() == Status::InvalidHandle));
        assert_eq!(status(get("cup", ptr::null())), Err(Status::NullPointer));
        let never = ptr::without_provenance(usize::MAX);
        assert_eq!(status(get("cup", never)), Err(Status::InvalidHandle));
    }

    #[test]
    fn only_one_of_many_frees_an_object() {
        let handle = insert(Cup).ok().expect("a handle").addr();
        let freed = std::thread::scope(|scope| {
            let free = move || free::<Cup>("cup", ptr::without_provenance(handle)).is_ok();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(free)).collect();
            threads.into_iter().filter_map(|t| t.join().ok()).filter(|&freed| freed).count()
        });
        assert_eq!(freed, 1);
    }
}
