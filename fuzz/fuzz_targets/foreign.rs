//! Any bytes as a file of a foreign prior: an error or a prior, never a panic.
//!
//! The bytes are taken for a checkpoint of `swa_gaussian`, and for all four files of the reference.

#![no_main]

use libfuzzer_sys::fuzz_target;
use priorfit::prior::{Foreign, ForeignSettings, Weights};
use priorfit::tensor::tensor;

fuzz_target!(|bytes: &[u8]| {
    let alone: &[(&str, &[u8])] = &[("swag.pt", bytes)];
    let names = ["model.pt", "mean.pt", "variance.pt", "covmat.pt"];
    let four = names.map(|name| (name, bytes));
    for files in [alone, &four] {
        let Ok(foreign) = Foreign::from_bytes(files) else { continue };
        let weight = tensor(&[2], vec![1.0, 2.0]).expect("two elements");
        let weights = Weights::from([("weight".to_string(), weight)]);
        let settings = ForeignSettings { distance_max: f64::INFINITY, ..Default::default() };
        if let Ok((prior, _)) = foreign.attach(&weights, &"0".repeat(64), &settings) {
            prior.to_bytes().expect("what was attached can be written");
        }
    }
});
