//! What is guaranteed: one module for each promise.

mod adapt;
mod approximations;
#[cfg(feature = "gpu")]
mod bindings;
mod cli;
mod goldens;
#[cfg(feature = "gpu")]
mod gpu;
mod hostile;
mod memory;
mod ops;
mod posteriors;
mod samplers;
mod steps;
mod sums;
mod support;
mod texts;
mod tidy;
