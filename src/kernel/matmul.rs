//! Batched matrix products: `out[b] = A[b] B[b]`.

use crate::graph::MatMul;
use crate::kernel::Epilogue;
use crate::kernel::gemm::{self, Extents, Gemm, Isa, Layout, Matrix, Operand, Target};
use crate::threads::{Parts, Threads};

/// The geometry of a batched product. `a: [batch, M, K]` and `b: [batch, K, N]`, or with the last
/// two axes exchanged where `how` says so; `out: [batch, M, N]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the struct's sentence names every field")]
pub struct Product {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub how: MatMul,
}

impl Product {
    fn extents(&self) -> Extents {
        Extents { groups: self.batch, segments: 1, m: self.m, n: self.n, k: self.k }
    }
}

/// Elements of scratch that [`matmul`] needs.
pub fn scratch_len(g: &Product, workers: usize) -> usize {
    scratch_len_on(Isa::best(), g, workers)
}

/// [`scratch_len`] on a chosen instruction set.
pub(crate) fn scratch_len_on(isa: &Isa, g: &Product, workers: usize) -> usize {
    gemm::scratch_len(isa, &g.extents(), workers)
}

/// Overwrites `out` with the products, each element passed through the epilogue once.
///
/// # Panics
/// When a slice does not have the length that `g` says.
pub fn matmul(
    threads: &Threads,
    g: &Product,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    matmul_on(Isa::best(), threads, g, (a, b), out, scratch, epilogue);
}

/// [`matmul`] on a chosen instruction set.
pub(crate) fn matmul_on(
    isa: &'static Isa,
    threads: &Threads,
    g: &Product,
    (a, b): (&[f32], &[f32]),
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: Option<&dyn Epilogue>,
) {
    let Product { batch, m, n, k, how } = *g;
    assert_eq!(a.len(), batch * m * k, "length of a");
    assert_eq!(b.len(), batch * k * n, "length of b");
    assert_eq!(out.len(), batch * m * n, "length of out");
    let matrix = |data, lanes: usize, k_contiguous: bool| {
        let (lane_stride, k_stride) = if k_contiguous { (k, 1) } else { (1, lanes) };
        Operand::Matrix(Matrix {
            data,
            start: 0,
            group_stride: lanes * k,
            lane_stride,
            k_extents: [1, k],
            k_strides: [0, 0, k_stride],
        })
    };
    let product = Gemm {
        isa,
        extents: g.extents(),
        a: matrix(a, m, !how.transpose_a),
        b: matrix(b, n, how.transpose_b),
    };
    let target = Target {
        out: Parts::new(out),
        batch_stride: m * n,
        row_stride: n,
        image_len: n,
        image_stride: 0,
        layout: Layout::Dense,
        epilogue,
    };
    gemm::gemm(threads, &product, &target, scratch);
}
