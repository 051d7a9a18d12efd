//! The C ABI, with the feature `capi`: what `include/priorfit.h` declares.
//!
//! ```text
//! handle (a number) -> table -> Arc of the object       bad number: INVALID_HANDLE
//! body of a call    -> guard    -> status, error handle    panic: INTERNAL
//! ```
//!
//! It adds no behaviour: each function translates its arguments, calls the library, and translates
//! what comes back. A host's mistakes are errors where they can be seen: handles are numbers that
//! are looked up and never reused ([`handles`]), lengths are checked before memory is read
//! ([`memory`]), and a panic ends at [`guard`].
//!
//! # Safety
//!
//! Whoever calls promises what cannot be checked, for every function here: a pointer that is not
//! null points to as many elements as the header says, aligned as C aligns its type; nobody writes
//! to what is read during the call, or touches what is written; of one call's pointers no two that
//! are written to are the same; a text ends with a zero byte; and callbacks let no exception out.

mod adaptation;
mod callback;
mod conditions;
mod dataset;
mod error;
mod guard;
mod handles;
mod memory;
mod options;
mod posterior;
mod sources;
mod version;
