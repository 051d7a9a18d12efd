use super::*;

/// Rounding of sums of at most a few dozen products of numbers below 32.
const ROUNDING: f32 = 1e-5;

/// Five rows of seven.
const SOURCE: [f32; 35] = [
    0.0, 1.0, 4.0, 9.0, 16.0, 2.0, 13.0, 3.0, 18.0, 12.0, 8.0, 6.0, 6.0, 8.0, 12.0, 18.0, 3.0,
    13.0, 2.0, 16.0, 9.0, 4.0, 1.0, 0.0, 1.0, 4.0, 9.0, 16.0, 2.0, 13.0, 3.0, 18.0, 12.0, 8.0, 6.0,
];

fn source() -> Raster<'static, f32> {
    Raster { pixels: SOURCE[..].into(), planes: 1, height: 5, width: 7, interleaved: 1 }
}

fn full(height: usize, width: usize) -> Window {
    Window { top: 0.0, left: 0.0, height: height as f64, width: width as f64 }
}

#[track_caller]
fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < ROUNDING, "{found} is not {expected}");
    }
}

/// Expected values by PyTorch's `interpolate(mode="bilinear", antialias=True)`.
#[test]
fn shrinking_and_growing_agree_with_pytorch() {
    let shrunk = resample(&source(), full(5, 7), 3, 2);
    close(&shrunk.pixels, &[6.887_042_5, 8.305_648, 8.863_05, 8.514_212, 5.754_152, 8.757_473]);
    let flat = resample(&source(), full(5, 7), 2, 7);
    close(
        &flat.pixels,
        &[
            4.136_364,
            11.818_182,
            6.863_637,
            9.136_365,
            8.181_818,
            7.136_364,
            10.181_818,
            5.136_363_5,
            9.454_545,
            2.181_818,
            9.454_545,
            6.181_818,
            10.136_363,
            10.863_636,
        ],
    );
    let grown = resample(&source(), full(5, 7), 8, 9);
    let first = [
        0.0,
        0.666_666_7,
        2.333_333_3,
        5.111_111_6,
        9.0,
        14.444_444,
        8.222_218_5,
        5.666_668_4,
        13.0,
    ];
    close(&grown.pixels[..9], &first);
}

#[test]
fn the_same_size_is_the_same_image() {
    close(&resample(&source(), full(5, 7), 5, 7).pixels, &SOURCE);
}

#[test]
fn constants_stay_constant_at_extreme_sizes() {
    for (height, width) in [(1, 1), (1, 1_000), (997, 2), (3, 3)] {
        let pixels = vec![8u8; height * width * 3];
        let flat = Raster { pixels: pixels.into(), planes: 1, height, width, interleaved: 3 };
        for window in [
            full(height, width),
            Window { top: 0.0, left: width as f64 - 1.0, height: 1.0, width: 1.0 },
        ] {
            close(&resample(&flat, window, 5, 4).pixels, &[8.0; 60]);
        }
    }
}

#[test]
fn layouts_give_the_same_planes() {
    let planar: Vec<f32> = SOURCE.iter().chain(SOURCE.iter().rev()).copied().collect();
    let mixed: Vec<f32> = (0..70).map(|at| planar[at % 2 * 35 + at / 2]).collect();
    let planar = Raster { pixels: planar.into(), planes: 2, height: 5, width: 7, interleaved: 1 };
    let mixed = Raster { pixels: mixed.into(), planes: 1, height: 5, width: 7, interleaved: 2 };
    let window = Window { top: 0.5, left: 1.25, height: 3.5, width: 5.0 };
    assert_eq!(resample(&planar, window, 4, 3).pixels, resample(&mixed, window, 4, 3).pixels);
}

#[test]
fn a_window_on_whole_pixels_is_a_crop() {
    let window = Window { top: 1.0, left: 2.0, height: 3.0, width: 4.0 };
    let expected: Vec<f32> = (1..4).flat_map(|y| SOURCE[y * 7 + 2..][..4].to_vec()).collect();
    close(&resample(&source(), window, 3, 4).pixels, &expected);
}
