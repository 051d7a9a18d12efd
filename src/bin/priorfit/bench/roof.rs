//! What this machine can do at most, for comparison with what kernels do (Williams et al. 2009,
//! "Roofline").

use std::hint::black_box;
use std::time::Instant;

use priorfit::graph::MatMul;
use priorfit::kernel::matmul::{Product, matmul, scratch_len};
use priorfit::kernel::vectorised::{Vectorised, widest};
use priorfit::threads::Threads;
use serde::Serialize;

/// Times that each is measured; the best counts.
const REPEATS: usize = 7;
/// Chains of multiply-adds that do not wait for one another, and their length.
const CHAINS: usize = 12;
const LANES: usize = 16;
const LINKS: usize = 200_000;
/// Rows, columns and depth of the product: its operands fit no cache, their blocks do.
const CUBE: usize = 768;
/// Elements that are copied: 64 MiB, beyond any cache that a part of the step could live in.
const COPIED: usize = 16 << 20;

/// The most that all threads of a processor do together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roof {
    /// 10⁹ operations a second: the faster of multiply-adds in registers and a large product.
    pub gflops: f64,
    /// 10⁹ bytes a second that a copy in memory reads and writes.
    pub gb_per_s: f64,
}

impl Roof {
    /// Measures it, in less than a second.
    pub fn measure(threads: &Threads) -> Self {
        let gflops = multiply_adds(threads).max(product(threads));
        Roof { gflops, gb_per_s: copy(threads) }
    }

    /// Milliseconds that no kernel can undercut, by its operations and by the bytes it moves.
    pub fn ms(&self, flops: u64, bytes: u64) -> (f64, f64) {
        (flops as f64 / (1e6 * self.gflops), bytes as f64 / (1e6 * self.gb_per_s))
    }
}

/// Seconds of the fastest of a few runs.
fn best(mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(time).fold(f64::INFINITY, f64::min)
}

fn multiply_adds(threads: &Threads) -> f64 {
    let count = threads.count();
    let seconds = best(|| {
        threads.run(count, |task, _| {
            black_box(widest(Chains { factor: black_box(1.0 - 1e-7 * task as f32) }));
        });
    });
    (2 * CHAINS * LANES * LINKS * count) as f64 / (1e9 * seconds)
}

struct Chains {
    factor: f32,
}

impl Vectorised for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> f32 {
        let mut sums = [[1.0f32; LANES]; CHAINS];
        for _ in 0..LINKS {
            for chain in &mut sums {
                for sum in chain {
                    *sum = sum.mul_add(self.factor, 1e-9);
                }
            }
        }
        sums.as_flattened().iter().sum()
    }
}

fn product(threads: &Threads) -> f64 {
    let product = Product { batch: 1, m: CUBE, n: CUBE, k: CUBE, how: MatMul::default() };
    let operand = vec![0.5; CUBE * CUBE];
    let mut result = vec![0.0; CUBE * CUBE];
    let mut scratch = vec![0.0; scratch_len(&product, threads.count())];
    let seconds = best(|| {
        matmul(threads, &product, &operand, &operand, &mut result, &mut scratch, None);
        black_box(&mut result);
    });
    2.0 * (CUBE as f64).powi(3) / (1e9 * seconds)
}

fn copy(threads: &Threads) -> f64 {
    let source = vec![1.0f32; COPIED];
    let mut target = vec![0.0f32; COPIED];
    let part = COPIED.div_ceil(threads.count());
    let seconds = best(|| {
        std::thread::scope(|scope| {
            for (to, from) in target.chunks_mut(part).zip(source.chunks(part)) {
                scope.spawn(move || to.copy_from_slice(from));
            }
        });
        black_box(&mut target);
    });
    (2 * size_of::<f32>() * COPIED) as f64 / (1e9 * seconds)
}
