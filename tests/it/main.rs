//! What is guaranteed: one module for each promise.

mod adapt;
mod cli;
mod goldens;
#[cfg(feature = "gpu")]
mod gpu;
mod hostile;
mod memory;
mod ops;
mod posteriors;
mod samplers;
mod source;
mod steps;
mod sums;
mod support;
mod texts;
mod tidy;
