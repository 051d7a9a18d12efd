use image::{GrayImage, ImageBuffer, Luma, LumaA, Rgba, RgbaImage};

use super::super::fixtures::*;
use super::*;
use crate::rng::{Key, Stream};

#[test]
fn colour_and_grey_keep_their_channels_and_transparency_is_dropped() {
    let colour = bytes(&encode(picture(3, 2, 9), ImageFormat::Png)).expect("decodes");
    assert_eq!((colour.height, colour.width, colour.interleaved), (2, 3, 3));
    assert_eq!(colour.pixels[..], picture(3, 2, 9).into_raw());
    let grey = GrayImage::from_fn(3, 2, |x, y| Luma([(10 * x + y) as u8]));
    let decoded = bytes(&encode(grey.clone(), ImageFormat::Png)).expect("decodes");
    assert_eq!((decoded.interleaved, &decoded.pixels[..]), (1, &grey.into_raw()[..]));
    let clear = RgbaImage::from_pixel(1, 1, Rgba([1, 2, 3, 0]));
    let decoded = bytes(&encode(clear, ImageFormat::Png)).expect("decodes");
    assert_eq!(decoded.pixels[..], [1, 2, 3]);
    let clear = ImageBuffer::from_pixel(1, 1, LumaA([7u8, 0]));
    let decoded = bytes(&encode(clear, ImageFormat::Png)).expect("decodes");
    assert_eq!(decoded.pixels[..], [7]);
}

#[test]
fn sixteen_bits_become_eight() {
    let deep = ImageBuffer::from_fn(2, 1, |x, _| Luma([[0u16, 0xFFFF][x as usize]]));
    let decoded = bytes(&encode(deep, ImageFormat::Png)).expect("decodes");
    assert_eq!(decoded.pixels[..], [0, 255]);
}

#[test]
fn the_orientation_of_the_camera_is_applied() {
    let upright = encode(picture(16, 8, 0), ImageFormat::Jpeg);
    // An Exif segment after the start marker, with orientation 6: turn right by 90 degrees.
    let mut exif = b"\xFF\xE1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0".to_vec();
    exif.extend(b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0");
    let turned = [&upright[..2], &exif, &upright[2..]].concat();
    let size = |file: &[u8]| bytes(file).map(|image| (image.height, image.width));
    assert_eq!(size(&upright).expect("decodes"), (8, 16));
    assert_eq!(size(&turned).expect("decodes"), (16, 8));
}

#[test]
fn huge_images_are_refused_from_their_header() {
    let mut file = encode(GrayImage::new(1, 1), ImageFormat::Png);
    // Width and height follow the signature and the header chunk's length and type.
    for (side, expected) in [(8_193u32, "8193x8193 pixels"), (65_536, "does not decode")] {
        file[16..20].copy_from_slice(&side.to_be_bytes());
        file[20..24].copy_from_slice(&side.to_be_bytes());
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        says(bytes(&file), &[expected]);
    }
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    let fold = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc));
    !bytes.iter().fold(u32::MAX, fold)
}

#[test]
fn truncated_images_and_other_formats_are_refused() {
    let file = encode(picture(30, 30, 3), ImageFormat::Png);
    says(bytes(&file[..file.len() / 2]), &["does not decode", "remove or replace"]);
    says(bytes(b"GIF89a then more"), &["not a PNG or JPEG"]);
    says(bytes(b""), &["not a PNG or JPEG"]);
    let file = encode(picture(60, 60, 0), ImageFormat::Jpeg);
    for len in [40, file.len() / 2, file.len() - 1] {
        says(bytes(&file[..len]), &["does not decode"]);
    }
    let followed = [&file[..], b"\xFF\xDA a film"].concat();
    assert_eq!(bytes(&followed).expect("decodes").pixels, bytes(&file).expect("decodes").pixels);
}

#[test]
fn mutated_images_never_panic() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let file = encode(picture(20, 20, 3), format);
        let mut refused = 0;
        for seed in 0..1_000 {
            let mut random = Key::new(seed, Stream::Probe).at(0);
            let mut file = file.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(file.len());
                file[at] = random.bits() as u8;
            }
            file.truncate(file.len() - random.below(4) * random.below(file.len() / 4));
            refused += usize::from(bytes(&file).is_err());
        }
        assert!(refused > 100, "only {refused} mutations were noticed");
    }
}
