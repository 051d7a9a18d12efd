//! The kernels: one file each, with contract and processor implementation.
//!
//! A kernel is a plain function on slices: geometry first, then operands, then results. It takes
//! the [`Threads`](crate::threads::Threads) to run on and whatever scratch it needs, and allocates
//! nothing. Its scratch length is a function of the geometry and the number of threads, so that a
//! plan can reserve it. Sums run in a fixed order for a given number of threads. [`Kernel`] is the
//! table of them all: what a plan refers to.

pub mod concat;
pub mod conv2d;
pub mod conv2d_filter_grad;
pub mod conv2d_input_grad;
pub mod depthwise;
pub mod gather;
pub mod gemm;
pub mod log_softmax;
pub mod map;
pub mod math;
pub mod matmul;
pub mod max_pool;
pub mod max_pool_grad;
mod noise;
#[cfg(test)]
mod oracle;
pub mod pad;
mod padded;
pub mod reduce;
mod rows;
pub mod scatter_add;
pub mod slice;
pub mod softmax;
mod strided;
pub mod sum_pool;
pub mod sum_pool_grad;
mod table;
pub mod tape;
mod thinned;
pub mod transpose;
pub mod update;
pub mod vectorised;
mod window;
mod winograd;

use gemm::Hints;
pub use table::{Fused, Kernel};

/// Work done on finished elements of a product or convolution while they are still in cache:
/// bias, activation, residual, mask.
pub trait Epilogue: Sync {
    /// Writes the output's elements `start..start + to.len()`, of which `values` are the product's,
    /// to `to`. Called exactly once for each output element, on `worker`.
    fn apply(&self, start: usize, values: &[f32], to: &mut [f32], worker: usize);

    /// Adds the places of other memory that [`Epilogue::apply`] needs for the elements at `start`
    /// and some after it.
    fn hint(&self, start: usize, hints: &mut Hints);

    /// [`Epilogue::apply`] where the values are already in the output.
    fn apply_in_place(&self, start: usize, run: &mut [f32], worker: usize) {
        let mut values = [0.0; tape::CHUNK];
        for (index, to) in run.chunks_mut(tape::CHUNK).enumerate() {
            let values = &mut values[..to.len()];
            values.copy_from_slice(to);
            self.apply(start + index * tape::CHUNK, values, to, worker);
        }
    }
}
