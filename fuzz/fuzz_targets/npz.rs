//! Any bytes as an `.npz` file: an error or a data set that can be used, never a panic.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use priorfit::data::{Dataset, Preprocess};
use priorfit::threads::Threads;

fuzz_target!(|bytes: &[u8]| {
    let Ok(dataset) = Dataset::from_npz(Cursor::new(bytes)) else { return };
    let (threads, preprocess) = (Threads::new(1), Preprocess::new(3, 4, 4));
    let mut image = vec![0.0; preprocess.image_len()];
    if dataset.fill(&[0], &preprocess, None, &mut image, &threads).is_ok() {
        assert!(image.iter().all(|value| !value.is_nan()), "finite images stay numbers");
    }
});
