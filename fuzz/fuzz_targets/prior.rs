//! Any bytes as a prior file: an error, or a prior whose file can be read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use priorfit::prior::Prior;

fuzz_target!(|bytes: &[u8]| {
    let Ok(prior) = Prior::from_bytes(bytes) else { return };
    let _ = prior.stats();
    let _ = prior.capacitance_inverse(0);
    let written = prior.to_bytes().expect("what was read can be written");
    Prior::from_bytes(&written).expect("what was written can be read");
});
