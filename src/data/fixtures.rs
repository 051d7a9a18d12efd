//! Files written by hand for the tests of this room.

use std::fs::create_dir_all;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::Error;

/// An array file of format version 1.
pub fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((text.len() as u16).to_le_bytes());
    file.extend(text.as_bytes());
    file.extend(data);
    file
}

/// A zip archive of these entries.
pub fn zip(entries: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in entries {
        let options = SimpleFileOptions::default().compression_method(method);
        writer.start_file(*name, options).expect("the entry starts");
        writer.write_all(data).expect("the entry is written");
    }
    writer.finish().expect("the archive ends").into_inner()
}

/// Four images of 2 by 3 colour pixels, bytes 0, 1, 2, ..., with labels 0, 1, 1, 2.
pub fn small_npz(method: CompressionMethod) -> Vec<u8> {
    let pixels: Vec<u8> = (0..4 * 2 * 3 * 3).collect();
    let labels: Vec<u8> = [0i64, 1, 1, 2].iter().flat_map(|y| y.to_le_bytes()).collect();
    let x = npy("'|u1'", "False", "(4, 2, 3, 3)", &pixels);
    let y = npy("'<i8'", "False", "(4,)", &labels);
    zip(&[("x.npy", x), ("y.npy", y)], method)
}

/// A colour image whose pixels depend on their place and on `tone`.
pub fn picture(width: u32, height: u32, tone: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(7 * x) as u8, (11 * y) as u8, tone]))
}

/// Writes an image in the format of its extension, with the folders it needs.
pub fn save(image: impl Into<DynamicImage>, path: &Path) {
    create_dir_all(path.parent().expect("the file has a folder")).expect("folders are made");
    image.into().save(path).expect("the image is written");
}

/// An image in memory.
pub fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("the image is encoded");
    bytes.into_inner()
}

/// A folder with classes `ant` (two images, colour) and `bee` (three, one of them grey).
pub fn insects() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let root = folder.path().join("insects");
    save(picture(9, 7, 10), &root.join("bee/b1.png"));
    save(picture(16, 16, 40), &root.join("bee/b2.JPG"));
    save(GrayImage::from_fn(8, 8, |x, y| [(x * y) as u8].into()), &root.join("bee/b3.png"));
    save(picture(8, 8, 60), &root.join("ant/a1.jpeg"));
    save(picture(20, 10, 90), &root.join("ant/a2.png"));
    (folder, root)
}

/// The text of an error that must be there.
pub fn text<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

/// Asserts that the error says all of `parts`.
#[track_caller]
pub fn says<T>(result: Result<T, Error>, parts: &[&str]) {
    let text = text(result);
    assert!(parts.iter().all(|part| text.contains(part)), "{text:?} lacks one of {parts:?}");
}
