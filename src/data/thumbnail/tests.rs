use ndarray::{Array3, Array4};

use super::*;
use crate::data::decode;

/// The pixels of a PNG with their height, width and channels.
fn pixels(png: Option<Vec<u8>>) -> (Vec<u8>, [usize; 3]) {
    let raster = decode::bytes(&png.expect("a picture")).expect("it decodes");
    let size = [raster.height, raster.width, raster.channels()];
    (raster.pixels.into_owned(), size)
}

#[test]
fn bytes_of_the_networks_size_are_kept() {
    let image = Array4::from_shape_fn((1, 4, 6, 3), |(_, y, x, c)| (40 * y + 7 * x + 3 * c) as u8);
    let data = Dataset::from_images_u8(image.view(), None, vec![]).expect("a data set");
    let png = data.thumbnail(0, &Preprocess::new(3, 4, 6), 64).expect("a thumbnail");
    assert_eq!(pixels(png), (image.into_raw_vec_and_offset().0, [4, 6, 3]));
}

#[test]
fn numbers_are_spread_and_large_images_shrink() {
    let ramp = Array4::from_shape_fn((1, 1, 100, 50), |(_, _, y, _)| y as f32 / 9.0 - 5.0);
    let data = Dataset::from_arrays_f32(ramp.view(), None, vec![]).expect("a data set");
    let png = data.thumbnail(0, &Preprocess::new(1, 100, 50), 10).expect("a thumbnail");
    let (shades, size) = pixels(png);
    assert_eq!((size, shades[0], shades[49]), ([10, 5, 1], 0, 255));
    let flat = Array3::<f32>::zeros((1, 1, 4)).insert_axis(ndarray::Axis(0));
    let data = Dataset::from_arrays_f32(flat.view(), None, vec![]).expect("a data set");
    let png = data.thumbnail(0, &Preprocess::new(1, 1, 4), 10).expect("a thumbnail");
    assert_eq!(pixels(png).0, [0; 4]);
}

#[test]
fn other_channels_have_no_picture() {
    let image = Array4::<f32>::zeros((1, 5, 4, 4));
    let data = Dataset::from_arrays_f32(image.view(), None, vec![]).expect("a data set");
    assert_eq!(data.thumbnail(0, &Preprocess::new(5, 4, 4), 10).expect("no failure"), None);
}
