//! Tables of labels and masks from anywhere: an error or a data set, never a panic.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use priorfit::data::{Dataset, Preprocess, encode_grey};
use priorfit::threads::Threads;

fuzz_target!(|bytes: &[u8]| {
    let folder = std::env::temp_dir().join(format!("priorfit-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let [images, masks] = ["images", "masks"].map(|name| folder.join(name));
    fs::create_dir_all(&images).expect("a folder");
    fs::create_dir_all(&masks).expect("a folder");
    fs::write(masks.join("a.png"), bytes).expect("a mask");
    let image = encode_grey(&[7; 6], [2, 3]).expect("an image");
    fs::write(images.join("a.png"), image).expect("an image");
    if let Ok(data) = Dataset::open(&folder) {
        let _ = data.fill_masks(&[0], &Preprocess::new(1, 2, 3), None, &mut [0.0; 6], &Threads::new(1));
    }
    fs::write(folder.join("labels.csv"), bytes).expect("a table");
    let _ = Dataset::open(&folder);
});
