//! What is guaranteed: one module for each promise.

mod adapt;
mod approximations;
mod average;
#[cfg(feature = "gpu")]
mod bindings;
mod capi;
mod choice;
#[cfg(feature = "cli")]
mod cli;
mod engines;
mod export;
mod foreign;
mod forget;
mod goldens;
#[cfg(feature = "gpu")]
mod gpu;
mod hostile;
mod memory;
mod ops;
mod posteriors;
mod predictions;
mod resume;
mod samplers;
mod source;
mod steps;
mod sums;
mod support;
mod tasks;
mod texts;
mod tidy;
