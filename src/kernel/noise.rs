//! Noise: standard normals from counters, as the sampler's update adds them.
//!
//! The words are those of [`crate::rng`], sixteen counters side by side; the normals agree with
//! [`Key::normals`](crate::rng::Key::normals) within rounding. Every lane does the same operations
//! in the same order, so the width of the processor's vectors changes no bit.

use super::math;
use crate::graph::Hyper;
use crate::rng::{Stream, unit};

/// Counters side by side.
const LANES: usize = 16;

/// Normals of one counter.
pub(super) const WORDS: usize = 4;

/// The counters of one parameter's noise in one step.
#[derive(Clone, Copy)]
pub(super) struct Noise {
    key: [u32; 2],
    step: u32,
    lane: u32,
}

impl Noise {
    /// The noise that `hyper: [Hyper::COUNT]` names, for the parameter of this lane.
    pub(super) fn new(hyper: &[f32], lane: u32) -> Self {
        let number =
            |digits: &[Hyper]| Hyper::number(digits, |which| f64::from(hyper[which as usize]));
        let (seed, step) = (number(&Hyper::SEED), number(&Hyper::STEP) as u32);
        Noise { key: [seed as u32, (seed >> 32) as u32], step, lane }
    }

    /// Fills `out` with the noise of the elements from `start` on, a multiple of [`WORDS`].
    #[inline(always)]
    pub(super) fn fill(&self, start: usize, out: &mut [f32]) {
        let first = (start / WORDS) as u32;
        for (group, out) in out.chunks_mut(LANES * WORDS).enumerate() {
            let index = first.wrapping_add((group * LANES) as u32);
            let normals = self.normals(index);
            let whole: &mut [[f32; WORDS]] = out.as_chunks_mut().0;
            for (lane, words) in whole.iter_mut().enumerate() {
                *words = std::array::from_fn(|word| normals[word][lane]);
            }
            let done = whole.len();
            for (word, last) in out[done * WORDS..].iter_mut().enumerate() {
                *last = normals[word][done];
            }
        }
    }

    /// The four normals of each of [`LANES`] counters from `index` on.
    #[inline(always)]
    fn normals(&self, index: u32) -> [[f32; LANES]; WORDS] {
        let words = self.blocks(index);
        let mut normals = [[0.0; LANES]; WORDS];
        for pair in [0, 2] {
            for lane in 0..LANES {
                let (a, b) = (unit(words[pair][lane]), unit(words[pair + 1][lane]));
                let radius = (-2.0 * math::ln(a)).sqrt();
                let (sin, cos) = math::sin_cos_turns(b);
                normals[pair][lane] = radius * cos;
                normals[pair + 1][lane] = radius * sin;
            }
        }
        normals
    }

    /// The words of [`LANES`] counters from `index` on: [`crate::rng::philox4x32`].
    #[inline(always)]
    fn blocks(&self, index: u32) -> [[u32; LANES]; WORDS] {
        let mut a: [u32; LANES] = std::array::from_fn(|lane| index.wrapping_add(lane as u32));
        let (mut b, mut c) = ([self.lane; LANES], [self.step; LANES]);
        let mut d = [Stream::Noise as u32; LANES];
        let mut key = self.key;
        for _ in 0..10 {
            for lane in 0..LANES {
                let p0 = u64::from(a[lane]) * 0xD251_1F53;
                let p1 = u64::from(c[lane]) * 0xCD9E_8D57;
                a[lane] = (p1 >> 32) as u32 ^ b[lane] ^ key[0];
                b[lane] = p1 as u32;
                c[lane] = (p0 >> 32) as u32 ^ d[lane] ^ key[1];
                d[lane] = p0 as u32;
            }
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    /// The angle of [`Key::normals`] is rounded to 2⁻²² turns before its sine is taken, at a radius
    /// of up to 5.8.
    const NORMAL: f32 = 4e-6;

    #[test]
    fn words_are_those_of_the_generator_and_normals_agree_with_it() {
        for (seed, step, lane) in [(0, 0, 0), (3, 1, 2), (u64::MAX, u64::from(u32::MAX), 77)] {
            let mut hyper = [0.0; Hyper::COUNT];
            Hyper::spell(&mut hyper, &Hyper::SEED, seed);
            Hyper::spell(&mut hyper, &Hyper::STEP, step);
            let noise = Noise::new(&hyper, lane);
            let key = Key::new(seed, Stream::Noise);
            let index = |block: u32| (u64::from(lane) << 32) | u64::from(block);
            for first in [0, 5, u32::MAX - 20] {
                let blocks = noise.blocks(first);
                for i in 0..LANES {
                    let block = key.block(step, index(first + i as u32));
                    assert_eq!(blocks.map(|words| words[i]), block);
                }
            }
            for (start, len) in [(0, 0), (0, 1), (4, 63), (64, 64), (8, 131)] {
                let mut got = vec![f32::NAN; len];
                noise.fill(start, &mut got);
                for (i, &got) in (start..).zip(&got) {
                    let want = key.normals(step, index(i as u32 / 4))[i % 4];
                    assert!((got - want).abs() < NORMAL, "element {i}: {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn the_first_lane_is_the_sequence_of_the_step() {
        let mut sequence = Key::new(9, Stream::Noise).at(4);
        for block in 0..5 {
            let normals = Key::new(9, Stream::Noise).normals(4, block);
            assert_eq!(normals, [0; 4].map(|_| sequence.normal()));
        }
    }
}
