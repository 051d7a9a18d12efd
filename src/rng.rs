//! Counter-based random bits: Philox4x32-10 (Salmon et al., SC 2011).
//!
//! Every random number is a pure function of `(seed, stream, step, index)`: the same run replays on
//! any backend and after any interruption, and nothing is shared between threads. The integers are
//! identical on every device; uniforms and normals derived from them agree within rounding.

/// What a stream of random numbers is for; streams never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights of a new head.
    Init = 1,
    /// Order of the examples within an epoch; the step is the epoch.
    Shuffle = 2,
    /// Crops and flips; the step is the training step.
    Augment = 3,
    /// Which examples are held out or kept.
    Split = 4,
    /// Noise of a sampler; the step is the training step.
    Noise = 5,
    /// Draws from a prior or a posterior; the step is the draw.
    Draw = 6,
    /// Test directions of `verify`.
    Probe = 7,
}

/// A key: the seed of a run and a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    stream: u32,
}

impl Key {
    /// The key of `stream` in the run seeded with `seed`.
    pub fn new(seed: u64, stream: Stream) -> Self {
        Key { seed, stream: stream as u32 }
    }

    /// Four random words at `(step, index)`; `step` is reduced modulo 2³² and so is `lane`.
    pub fn block(&self, step: u64, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, step as u32, self.stream];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// Four standard normals from the words at `(step, index)`: of index b, the numbers 4b..4b + 4
    /// of the sequence at `step`, if only normals are taken from it.
    pub fn normals(&self, step: u64, index: u64) -> [f32; 4] {
        let [a, b, c, d] = self.block(step, index);
        let ((a, b), (c, d)) = (box_muller(a, b), box_muller(c, d));
        [a, b, c, d]
    }

    /// A sequence of random numbers at `step`.
    pub fn at(&self, step: u64) -> Sequence {
        Sequence { key: *self, step, index: 0, block: [0; 4], used: 4, spare: None }
    }
}

/// The random numbers of one key and step, in order.
#[derive(Clone, Debug)]
pub struct Sequence {
    key: Key,
    step: u64,
    index: u64,
    block: [u32; 4],
    used: usize,
    spare: Option<f32>,
}

impl Sequence {
    /// The next 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = self.key.block(self.step, self.index);
            self.index += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in (0, 1), never 0 or 1.
    pub fn uniform(&mut self) -> f32 {
        unit(self.bits())
    }

    /// Standard normal, by pairs (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (a, b) = box_muller(self.bits(), self.bits());
        self.spare = Some(b);
        a
    }

    /// Uniform in `0..bound`, without modulo bias worth speaking of (multiply-shift on 64 bits).
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "an empty range has no random element");
        let wide = (u64::from(self.bits()) << 32) | u64::from(self.bits());
        ((u128::from(wide) * bound as u128) >> 64) as usize
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Maps 32 random bits to the open unit interval, by the 23 highest; exact in `f32`.
#[inline(always)]
pub fn unit(bits: u32) -> f32 {
    ((bits >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// Two independent standard normals from two random words: √(-2 ln u) cos 2πv and the sine.
fn box_muller(a: u32, b: u32) -> (f32, f32) {
    let radius = (-2.0 * unit(a).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * unit(b)).sin_cos();
    (radius * cos, radius * sin)
}

/// Ten rounds of Philox on a 128-bit counter under a 64-bit key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(counter[0]) * 0xD251_1F53;
        let p1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the reference implementation (Random123, kat_vectors).
    #[test]
    fn philox_matches_the_published_vectors() {
        let zero = philox4x32([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox4x32([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn normals_have_zero_mean_and_unit_variance() {
        let mut sequence = Key::new(3, Stream::Noise).at(0);
        let draws: Vec<f64> = (0..40_000).map(|_| f64::from(sequence.normal())).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        // Four standard errors: 4/√n for the mean, 4·√(2/n) for the variance.
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.0283, "mean {mean}, variance {var}");
    }

    #[test]
    fn shuffles_are_permutations_that_depend_on_the_step() {
        let key = Key::new(7, Stream::Shuffle);
        let order = |epoch| {
            let mut items: Vec<usize> = (0..100).collect();
            key.at(epoch).shuffle(&mut items);
            items
        };
        let mut sorted = order(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order(0), order(1));
        assert_eq!(order(5), order(5));
    }
}
