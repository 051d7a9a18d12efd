//! The C ABI: its header, and programs in C and C++ that use it.

mod header;
#[cfg(unix)]
mod programs;
