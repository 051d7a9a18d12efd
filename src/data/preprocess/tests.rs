use ndarray::Array4;

use super::super::Colour;
use super::super::augment::{Augment, Crop};
use super::super::fixtures::says;
use super::super::images::Images;
use super::*;

/// Rounding of a few operations on numbers of order one.
const ROUNDING: f32 = 1e-6;

/// Two images of 3 channels and 2 by 4 pixels, bytes 0, 1, 2, ...
fn bytes() -> Dataset {
    let x = Array4::from_shape_vec((2, 2, 4, 3), (0..48u8).collect()).expect("the shape fits");
    Dataset::from_images_u8(x.view(), None, Vec::new()).expect("not empty")
}

fn floats(shape: (usize, usize, usize, usize)) -> Dataset {
    let (_, c, h, w) = shape;
    let at = |(n, k, y, x)| (((n * c + k) * h + y) * w + x) as f32 / 8.0;
    let x = Array4::from_shape_fn(shape, at);
    Dataset::from_arrays_f32(x.view(), None, Vec::new()).expect("finite")
}

fn apply(data: &Dataset, index: usize, preprocess: &Preprocess) -> Result<Vec<f32>> {
    let mut out = vec![f32::NAN; preprocess.image_len()];
    data.fill(&[index], preprocess, None, &mut out, &Threads::new(1))?;
    Ok(out)
}

#[track_caller]
fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < ROUNDING, "{found} is not {expected}");
    }
}

#[test]
fn bytes_become_scaled_normalised_planes() {
    let statistics = Statistics { mean: vec![0.5, 0.25, 0.0], std: vec![0.5, 1.0, 2.0] };
    let preprocess = Preprocess::new(3, 2, 4).normalised(statistics.clone());
    let out = apply(&bytes(), 1, &preprocess).expect("applies");
    for (at, &value) in out.iter().enumerate() {
        let (channel, pixel) = (at / 8, at % 8);
        let byte = (24 + pixel * 3 + channel) as f32;
        let expected = (byte / 255.0 - statistics.mean[channel]) / statistics.std[channel];
        close(&[value], &[expected]);
    }
}

#[test]
fn numbers_are_taken_as_scaled() {
    let data = floats((2, 2, 2, 2));
    let out = apply(&data, 1, &Preprocess::new(2, 2, 2)).expect("applies");
    assert_eq!(out, [1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875]);
    let half = Preprocess { resize: Resize::Stretch, ..Preprocess::new(2, 1, 1) };
    close(&apply(&data, 0, &half).expect("applies"), &[0.1875, 0.6875]);
}

#[test]
fn grey_and_colour_become_each_other() {
    let grey = Array4::from_elem((1, 1, 2, 1), 51u8);
    let grey = Dataset::from_images_u8(grey.view(), None, Vec::new()).expect("not empty");
    close(&apply(&grey, 0, &Preprocess::new(3, 1, 2)).expect("applies"), &[0.2; 6]);
    let clear = Array4::from_shape_vec((1, 1, 1, 4), vec![100, 50, 200, 9]).expect("fits");
    let clear = Dataset::from_images_u8(clear.view(), None, Vec::new()).expect("not empty");
    let raw = |channels| Preprocess { scale: 1.0, ..Preprocess::new(channels, 1, 1) };
    assert_eq!(apply(&clear, 0, &raw(3)).expect("applies"), [100.0, 50.0, 200.0]);
    // 0.299·100 + 0.587·50 + 0.114·200 = 82.05.
    assert_eq!(apply(&clear, 0, &raw(1)).expect("applies"), [82.0]);
    let planar = apply(&floats((1, 32, 3, 3)), 0, &Preprocess::new(3, 3, 3));
    says(planar, &["example 0", "32 channels cannot become the 3", "[N,H,W,C]"]);
}

#[test]
fn a_centred_crop_keeps_the_aspect_and_stretching_does_not() {
    let data = floats((1, 1, 2, 4));
    let crop = apply(&data, 0, &Preprocess::new(1, 1, 1)).expect("applies");
    // The neighbours outside the crop count at its edges, so the means differ from the crop's own.
    let weights = [0.25, 0.75, 0.75, 0.25].map(|w: f32| w / 2.0);
    let row: f32 = weights.iter().enumerate().map(|(x, w)| w * x as f32 / 8.0).sum();
    close(&crop, &[row + 0.25]);
    let stretch = Preprocess { resize: Resize::Stretch, ..Preprocess::new(1, 2, 2) };
    // Columns 0, 1 and 2 with weights ¾, ¾ and ¼ of their sum.
    let left = apply(&data, 0, &stretch).expect("applies")[0];
    close(&[left], &[1.25 / 1.75 / 8.0]);
    let crop = apply(&data, 0, &Preprocess::new(1, 2, 2)).expect("same height");
    close(&crop, &[0.125, 0.25, 0.625, 0.75]);
}

#[test]
fn an_image_of_the_right_size_is_kept_whatever_the_rule() {
    let data = floats((1, 1, 2, 4));
    let expected: Vec<f32> = (0..8).map(|at| at as f32 / 8.0).collect();
    for resize in [Resize::Stretch, Resize::CentreCrop { part: 0.5 }] {
        let preprocess = Preprocess { resize, ..Preprocess::new(1, 2, 4) };
        assert_eq!(apply(&data, 0, &preprocess).expect("applies"), expected);
    }
}

#[test]
fn statistics_are_those_of_the_resized_scaled_pixels() {
    let preprocess = Preprocess { scale: 1.0, ..Preprocess::new(3, 2, 4) };
    let found = preprocess.statistics(&bytes(), &Threads::new(1)).expect("not empty");
    // Channel c has the bytes c, c+3, ..., c+45: mean c + 22.5, variance 9·(16² − 1)/12.
    close(&found.mean, &[22.5, 23.5, 24.5]);
    close(&found.std, &[13.829_317; 3]);
    for threads in [2, 5] {
        let again = preprocess.statistics(&bytes(), &Threads::new(threads));
        assert_eq!(again.expect("not empty"), found);
    }
    let normal = preprocess.normalised(found);
    let out = apply(&bytes(), 0, &normal).expect("applies");
    close(&out[..1], &[-22.5 / 13.829_317]);
}

#[test]
fn a_constant_channel_is_not_divided_by_nothing() {
    let x = Array4::from_elem((3, 2, 2, 1), 77u8);
    let data = Dataset::from_images_u8(x.view(), None, Vec::new()).expect("not empty");
    let found = Preprocess::new(1, 2, 2).statistics(&data, &Threads::new(1)).expect("not empty");
    assert_eq!(found.std, [1.0]);
    let none = data.subset(&[]).expect("in range");
    says(Preprocess::new(1, 2, 2).statistics(&none, &Threads::new(1)), &["empty data set"]);
}

#[test]
fn settings_survive_their_file_and_bad_ones_are_named() {
    let preprocess = Preprocess::new(3, 5, 7)
        .normalised(Statistics { mean: IMAGENET[0].to_vec(), std: IMAGENET[1].to_vec() });
    let text = serde_json::to_string(&preprocess).expect("serialises");
    assert_eq!(serde_json::from_str::<Preprocess>(&text).expect("parses"), preprocess);
    let bad = |change: fn(&mut Preprocess)| {
        let mut preprocess = preprocess.clone();
        change(&mut preprocess);
        preprocess.check()
    };
    says(bad(|p| p.channels = 0), &["channels: 0; expected 1 to"]);
    says(bad(|p| p.height = 16_385), &["height: 16385; expected 1 to 16384"]);
    says(bad(|p| (p.height, p.width) = (16_384, 16_384)), &["numbers of an image"]);
    says(bad(|p| p.resize = Resize::CentreCrop { part: f32::NAN }), &["the crop is NaN"]);
    says(bad(|p| p.scale = 0.0), &["scale is 0"]);
    says(bad(|p| p.statistics.mean[1] = f32::INFINITY), &["mean[1] is inf"]);
    says(bad(|p| p.statistics.std[2] = 0.0), &["std[2] is 0"]);
    says(bad(|p| p.statistics.std.truncate(2)), &["std has 2 values for 3 channels"]);
    says(apply(&bytes(), 0, &Preprocess { scale: -1.0, ..preprocess }), &["scale is -1"]);
}

/// The 4 by 4 image 1, 2, ..., 16 under every variation of many steps.
fn variations(augment: Augment) -> Vec<Vec<f32>> {
    let x = Array4::from_shape_fn((1, 4, 4, 1), |(_, y, x, _)| (y * 4 + x + 1) as u8);
    let data = Dataset::from_images_u8(x.view(), None, Vec::new()).expect("not empty");
    let preprocess = Preprocess { scale: 1.0, ..Preprocess::new(1, 4, 4) };
    let draw = |step| {
        let mut out = vec![f32::NAN; 16];
        let augmentation = augment.at(7, step);
        let threads = Threads::new(1);
        data.fill(&[0], &preprocess, Some(&augmentation), &mut out, &threads).expect("fills");
        out
    };
    (0..200).map(draw).collect()
}

#[test]
fn flips_mirror_about_half_the_images() {
    let plain: Vec<f32> = (1..=16).map(|x| x as f32).collect();
    let mirrored: Vec<f32> = plain.chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
    let drawn = variations(Augment { flip: Flip::Horizontal, ..Augment::default() });
    let flipped = drawn.iter().filter(|&image| *image == mirrored).count();
    assert!(drawn.iter().all(|image| *image == plain || *image == mirrored));
    // Five standard deviations of 200 fair coins.
    assert!((65..=135).contains(&flipped), "{flipped} of 200 are mirrored");
    assert!(variations(Augment::default()).iter().all(|image| *image == plain));
}

#[test]
fn padded_crops_move_the_image_to_every_place() {
    let drawn = variations(Augment { crop: Crop::Padded { pixels: 1 }, flip: Flip::Off });
    let mut seen = std::collections::BTreeSet::new();
    for image in drawn {
        let place = image.iter().position(|&value| value == 6.0).expect("the middle is visible");
        let (dy, dx) = (1 - (place / 4) as isize, 1 - (place % 4) as isize);
        for (at, &value) in image.iter().enumerate() {
            let (y, x) = ((at / 4) as isize + dy, (at % 4) as isize + dx);
            let inside = (0..4).contains(&y) && (0..4).contains(&x);
            assert_eq!(value, if inside { (y * 4 + x + 1) as f32 } else { 0.0 });
        }
        seen.insert((dy, dx));
    }
    assert_eq!(seen.len(), 9);
}

#[test]
fn resized_crops_stay_inside_and_differ() {
    let drawn = variations(Augment { crop: Crop::Resized { area_min: 0.1 }, flip: Flip::Off });
    assert!(drawn.iter().flatten().all(|value| (1.0..=16.0).contains(value)));
    assert!(drawn.iter().any(|image| *image != drawn[0]));
    let data = bytes();
    let mut out = vec![0.0; 24];
    let mut fill = |crop| {
        let augmentation = Augment { crop, flip: Flip::Off }.at(0, 0);
        let preprocess = Preprocess::new(3, 2, 4);
        data.fill(&[0], &preprocess, Some(&augmentation), &mut out, &Threads::new(1))
    };
    says(fill(Crop::Resized { area_min: 0.0 }), &["area_min is 0"]);
    says(fill(Crop::Resized { area_min: f32::NAN }), &["area_min is NaN"]);
    says(fill(Crop::Padded { pixels: 2 }), &["up to 2 pixels", "2x4"]);
}

#[test]
fn variations_depend_on_seed_step_and_example() {
    let augment = Augment { crop: Crop::Resized { area_min: 0.1 }, flip: Flip::Off };
    let draw = |seed, step, index| augment.at(seed, step).draw(index, [50, 40]);
    assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
    assert_ne!(draw(1, 2, 3), draw(2, 2, 3));
    assert_ne!(draw(1, 2, 3), draw(1, 3, 3));
    assert_ne!(draw(1, 2, 3), draw(1, 2, 4));
}

#[test]
fn stored_bytes_are_whole_numbers() {
    let threads = Threads::new(1);
    let stored = bytes().resized(&Preprocess::new(3, 1, 3), 100, &threads).expect("resizes");
    let Images::U8(array) = &*stored.images else { panic!("the images are bytes") };
    assert_eq!(array.dim(), (2, 1, 3, 3));
}

#[test]
fn views_differ_and_view_zero_is_the_plain_variation() {
    let augment = Augment { crop: Crop::Resized { area_min: 0.1 }, flip: Flip::Horizontal };
    let at = augment.at(1, 2);
    assert_eq!(at.view(0).draw(3, [50, 40]), at.draw(3, [50, 40]));
    assert_ne!(at.view(1).draw(3, [50, 40]), at.draw(3, [50, 40]));
    let colour = Colour { jitter: 0.5, grey: 0.2, blur: 0.5 };
    let coloured = at.coloured(colour);
    let (plain, painted) = (at.draw(3, [50, 40]), coloured.draw(3, [50, 40]));
    assert_eq!((plain.window, plain.flip), (painted.window, painted.flip));
    let paints =
        |view| (0..50).map(|i| coloured.view(view).draw(i, [9, 9]).paint).collect::<Vec<_>>();
    assert_eq!(paints(0), paints(0));
    assert_ne!(paints(0), paints(1));
}

/// Colours change pixels in 0..=1 before they are normalised, whatever the number of threads.
#[test]
fn coloured_images_stay_images() {
    let data = bytes();
    let colour = Colour { jitter: 1.0, grey: 0.3, blur: 0.3 };
    let fill = |preprocess: &Preprocess, step, threads| {
        let mut out = vec![f32::NAN; 2 * preprocess.image_len()];
        let augmentation = Augment::default().at(5, step).coloured(colour);
        let threads = Threads::new(threads);
        data.fill(&[0, 1], preprocess, Some(&augmentation), &mut out, &threads).expect("fills");
        out
    };
    let plain = Preprocess::new(3, 2, 4);
    let statistics = Statistics { mean: vec![0.5; 3], std: vec![0.25; 3] };
    let normalised = plain.clone().normalised(statistics);
    let mut seen = Vec::new();
    for step in 0..20 {
        let image = fill(&plain, step, 1);
        assert!(image.iter().all(|x| (0.0..=1.0 + 1e-5).contains(x)), "{image:?}");
        assert_eq!(image, fill(&plain, step, 2));
        for (x, z) in image.iter().zip(fill(&normalised, step, 1)) {
            assert!(((x - 0.5) / 0.25 - z).abs() < 1e-5);
        }
        seen.push(image);
    }
    assert!(seen.iter().any(|image| *image != seen[0]));
    let x = Array4::<f32>::zeros((1, 3, 2, 4));
    let floats = Dataset::from_arrays_f32(x.view(), None, Vec::new()).expect("not empty");
    let mut out = vec![0.0; 24];
    let augmentation = Augment::default().at(5, 0).coloured(colour);
    let filled = floats.fill(&[0], &plain, Some(&augmentation), &mut out, &Threads::new(1));
    says(filled, &["example 0", "only in images of bytes"]);
}
