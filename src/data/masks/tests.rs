use std::fs;

use tempfile::TempDir;

use super::super::fixtures::{picture, save, says};
use super::super::{Augment, Crop, Dataset, Flip, Preprocess, Resize};
use super::*;
use crate::threads::Threads;

/// A grey or indexed PNG of numbers of `bits` bits.
fn png_of(numbers: &[u8], [height, width]: [u32; 2], bits: BitDepth, colour: ColorType) -> Vec<u8> {
    let per_byte = 8 / bits as usize;
    let lines = numbers.chunks_exact(width as usize).flat_map(|line| {
        line.chunks(per_byte).map(|part| {
            let place = |at: usize| 8 - bits as usize * (at + 1);
            part.iter().enumerate().fold(0u8, |byte, (at, x)| byte | x << place(at))
        })
    });
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(colour);
    encoder.set_depth(bits);
    if colour == ColorType::Indexed {
        encoder.set_palette(vec![7; 3 << bits as usize]);
    }
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&lines.collect::<Vec<u8>>()).expect("pixels");
    writer.finish().expect("an end");
    bytes
}

/// A folder with one image of 3 by 2 pixels and this mask.
fn folder(mask: &[u8]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    save(picture(3, 2, 9), &folder.path().join("images/a.png"));
    fs::create_dir_all(folder.path().join("masks")).expect("a folder");
    fs::write(folder.path().join("masks/a.png"), mask).expect("a mask");
    folder
}

fn pixels_of(data: &Dataset, preprocess: &Preprocess) -> Result<Vec<f32>> {
    let mut out = vec![9.0; data.len() * preprocess.height * preprocess.width];
    let all: Vec<usize> = (0..data.len()).collect();
    data.fill_masks(&all, preprocess, None, &mut out, &Threads::new(2)).map(|()| out)
}

#[test]
fn numbers_of_all_widths_are_read_as_they_are() {
    for colour in [ColorType::Indexed, ColorType::Grayscale] {
        for (bits, numbers) in [
            (BitDepth::One, [0, 1, 1, 0, 0, 1]),
            (BitDepth::Two, [3, 1, 2, 0, 0, 1]),
            (BitDepth::Four, [3, 1, 15, 0, 9, 1]),
            (BitDepth::Eight, [3, 1, 15, 0, 255, 200]),
        ] {
            let folder = folder(&png_of(&numbers, [2, 3], bits, colour));
            let data = Dataset::open(folder.path()).expect("a data set");
            let largest = numbers.iter().filter(|&&x| x != 255).max().map_or(0, |&x| x as usize);
            assert_eq!(data.classes().len(), largest + 1);
            let class = |&x: &u8| if x == 255 { -1.0 } else { f32::from(x) };
            let expected: Vec<f32> = numbers.iter().map(class).collect();
            assert_eq!(pixels_of(&data, &Preprocess::new(3, 2, 3)).expect("pixels"), expected);
        }
    }
}

#[test]
fn what_is_no_mask_of_its_image_is_named() {
    let grey = |numbers: &[u8], size| png_of(numbers, size, BitDepth::Eight, ColorType::Grayscale);
    let other = folder(&grey(&[0; 12], [3, 4]));
    says(Dataset::open(other.path()), &["masks/a.png has 4x3 pixels", "3x2", "images/a.png"]);
    let colour = folder(&super::super::fixtures::encode(picture(3, 2, 1), image::ImageFormat::Png));
    says(Dataset::open(colour.path()), &["masks/a.png", "type Rgb", "indexed or grey"]);
    let cut = folder(&grey(&[0; 6], [2, 3])[..50]);
    says(Dataset::open(cut.path()), &["masks/a.png", "does not decode"]);
    let text = folder(b"not an image");
    says(Dataset::open(text.path()), &["masks/a.png", "does not decode"]);
    let sound = folder(&grey(&[0, 1, 1, 0, 2, 2], [2, 3]));
    fs::write(sound.path().join("classes.txt"), "road\n\n sky \n").expect("names");
    let named = Dataset::open(sound.path()).expect("a data set");
    assert_eq!(named.classes(), ["road", "sky"]);
    let error = pixels_of(&named, &Preprocess::new(3, 2, 3));
    says(error, &["masks/a.png", "x = 1, y = 1 has class 2", "0 to 1, or 255"]);
    let ignored = named.with_ignored(2).expect("masks");
    let expected = [0.0, 1.0, 1.0, 0.0, -1.0, -1.0];
    assert_eq!(pixels_of(&ignored, &Preprocess::new(3, 2, 3)).expect("pixels"), expected);
    fs::remove_file(sound.path().join("masks/a.png")).expect("removed");
    says(Dataset::open(sound.path()), &["images/a.png has no mask", "masks/a.png"]);
}

/// An image whose grey value is its mask's class stays so under every variation of both.
#[test]
fn masks_move_with_their_images() {
    let class = |n: usize, y: usize, x: usize| ((3 * n + 5 * y + 7 * x) % 11) as u8;
    let masks = Array3::from_shape_fn((2, 8, 8), |(n, y, x)| class(n, y, x));
    // Zero is black, which comes in at the edges.
    let images = ndarray::Array4::from_shape_fn((2, 8, 8, 1), |(n, y, x, _)| class(n, y, x) + 1);
    let names = (0..11).map(|n| n.to_string()).collect();
    let data = Dataset::from_images_u8(images.view(), None, vec![]).expect("images");
    let data = data.with_masks(masks.view(), names).expect("masks");
    let preprocess = Preprocess { scale: 1.0, ..Preprocess::new(1, 8, 8) };
    let threads = Threads::new(2);
    let augment = Augment { crop: Crop::Padded { pixels: 3 }, flip: Flip::Horizontal };
    let mut moved = 0;
    for step in 0..8 {
        let at = augment.at(4, step);
        let (mut pixels, mut classes) = (vec![0.0; 128], vec![0.0; 128]);
        data.fill(&[0, 1], &preprocess, Some(&at), &mut pixels, &threads).expect("images");
        data.fill_masks(&[0, 1], &preprocess, Some(&at), &mut classes, &threads).expect("masks");
        let expected: Vec<f32> = pixels.iter().map(|p| p - 1.0).collect();
        assert_eq!(classes, expected, "step {step}");
        moved += usize::from(classes.contains(&-1.0));
    }
    assert!(moved > 4, "most variations move something");
}

#[test]
fn masks_are_resized_to_the_nearest_pixel_and_back() {
    let masks = Array3::from_shape_fn((1, 4, 4), |(_, y, x)| (y / 2 * 2 + x / 2) as u8);
    let images = ndarray::Array4::from_elem((1, 4, 4, 3), 1u8);
    let names = (0..4).map(|n| n.to_string()).collect();
    let data = Dataset::from_images_u8(images.view(), None, vec![]).expect("images");
    let data = data.with_masks(masks.view(), names).expect("masks");
    let small = Preprocess { resize: Resize::Stretch, ..Preprocess::new(3, 2, 2) };
    assert_eq!(pixels_of(&data, &small).expect("pixels"), [0.0, 1.0, 2.0, 3.0]);
    let restored = small.restore_mask(&[0, 1, 2, 3], [4, 4], 255).expect("a mask");
    assert_eq!(restored, masks.iter().copied().collect::<Vec<_>>());
    // The input shows the middle square of a wide image; the rest is not known.
    let centre = Preprocess::new(3, 2, 2);
    let wide = centre.restore_mask(&[0, 1, 2, 3], [2, 4], 255).expect("a mask");
    assert_eq!(wide, [255, 0, 1, 255, 255, 2, 3, 255]);
    let stored = data.resized(&small, 1 << 20, &Threads::new(1)).expect("a data set");
    assert_eq!(pixels_of(&stored, &small).expect("pixels"), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn written_masks_are_read_again() {
    let classes: Vec<u8> = (0..6).collect();
    let folder = folder(&encode_mask(&classes, [2, 3]).expect("a file"));
    let data = Dataset::open(folder.path()).expect("a data set");
    let expected: Vec<f32> = classes.iter().map(|&c| f32::from(c)).collect();
    assert_eq!(pixels_of(&data, &Preprocess::new(3, 2, 3)).expect("pixels"), expected);
    assert_eq!(palette()[..9], [0, 0, 0, 128, 0, 0, 0, 128, 0]);
    assert!(encode_mask(&classes, [2, 2]).is_err());
}

#[test]
fn damaged_masks_are_errors_or_masks() {
    let sound = encode_mask(&(0..6).collect::<Vec<u8>>(), [2, 3]).expect("a file");
    let folder = folder(&sound);
    let path = folder.path().join("masks/a.png");
    for round in 0..400u64 {
        let mut random = crate::rng::Key::new(23, crate::rng::Stream::Probe).at(round);
        let mut bytes = sound.clone();
        for _ in 0..=random.bits() % 3 {
            let at = random.bits() as usize % bytes.len();
            bytes[at] ^= 1 << (random.bits() % 8);
        }
        if round % 4 == 0 {
            bytes.truncate(random.bits() as usize % bytes.len());
        }
        fs::write(&path, &bytes).expect("a mask");
        if let Ok(mask) = file(&path) {
            assert_eq!(mask.pixels.len(), mask.height * mask.width, "round {round}");
        }
    }
}
