#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod adapt;
pub mod atomic_file;
pub mod autodiff;
pub mod backend;
#[cfg(any(feature = "capi", test))]
mod capi;
pub mod claim;
pub mod data;
pub mod error;
pub mod graph;
pub mod job;
pub mod kernel;
pub mod onnx;
pub mod plan;
pub mod posterior;
pub mod prior;
pub mod rng;
pub mod step;
pub mod task;
pub mod tensor;
pub mod threads;
pub mod update;

pub use error::{Error, Result};
