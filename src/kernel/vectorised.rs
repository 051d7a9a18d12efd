//! Loops compiled once for each vector width, and the choice of the widest at run time.

use super::math::TARGET_FUSES;

/// Work whose loops are to become the widest vector code the processor runs.
///
/// Implementations mark [`run`](Vectorised::run), and every function it calls in a loop,
/// `#[inline(always)]`, so that they are compiled with the features of each caller in this file.
/// A closure cannot be so marked: it may be called in a loop but should not contain one.
/// Rust neither reorders nor contracts `f32` operations: only work that asks for fused ones gets
/// other bits from them.
pub trait Vectorised {
    /// What the work returns.
    type Output;

    /// Does the work; `FUSED` tells whether it is compiled for a processor that multiplies and adds
    /// in one operation.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// Runs `work` with AVX-512 or AVX2 where the processor has them, else with the target's own
/// vectors.
#[inline]
pub fn widest<W: Vectorised>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("fma")
        {
            // SAFETY: the processor has the features.
            return unsafe { avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features.
            return unsafe { avx2(work) };
        }
    }
    work.run::<TARGET_FUSES>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,fma")]
fn avx512<W: Vectorised>(work: W) -> W::Output {
    work.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<W: Vectorised>(work: W) -> W::Output {
    work.run::<true>()
}
