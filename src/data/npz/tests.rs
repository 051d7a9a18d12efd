use std::io::Cursor;
use std::time::{Duration, Instant};

use zip::CompressionMethod::{Deflated, Stored};

use super::super::Dataset;
use super::super::fixtures::*;
use super::*;
use crate::rng::{Key, Stream};

/// Far more than any of the small files here takes, far less than a loop without end.
const PATIENCE: Duration = Duration::from_secs(5);

fn open(file: Vec<u8>) -> Result<Dataset> {
    Dataset::from_npz(Cursor::new(file))
}

/// An archive with the array `x` and nothing else.
fn only_x(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Result<Dataset> {
    open(zip(&[("x.npy", npy(descr, fortran, shape, data))], Deflated))
}

/// Two grey images of one pixel with labels of this type.
fn only_y(descr: &str, shape: &str, data: &[u8]) -> Result<Dataset> {
    let x = npy("'|u1'", "False", "(2, 1, 1)", &[1, 2]);
    open(zip(&[("x.npy", x), ("y.npy", npy(descr, "False", shape, data))], Stored))
}

fn pixels(data: &Dataset) -> Vec<f32> {
    let numbers = |images: &Images| match images {
        Images::U8(array) => array.iter().map(|&x| f32::from(x)).collect(),
        Images::F32(array) => array.iter().copied().collect(),
        Images::Files(_) => Vec::new(),
    };
    numbers(&data.images)
}

#[test]
fn stored_and_deflated_archives_give_images_and_labels() {
    for method in [Stored, Deflated] {
        let data = open(small_npz(method)).expect("valid");
        assert_eq!(pixels(&data), (0..72u8).map(f32::from).collect::<Vec<_>>());
        assert_eq!(data.classes(), ["0", "1", "2"]);
        assert_eq!(data.class_counts(), [1, 2, 1]);
    }
}

#[test]
fn arrays_in_any_order_of_bytes_and_elements_are_read() {
    let numbers: Vec<f32> = (0..12).map(|x| x as f32 - 4.5).collect();
    let little: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let big: Vec<u8> = numbers.iter().flat_map(|x| x.to_be_bytes()).collect();
    let shape = "(2, 1, 3, 2)";
    for (descr, bytes) in [("'<f4'", &little), ("'>f4'", &big)] {
        let data = only_x(descr, "False", shape, bytes).expect("valid");
        assert_eq!(pixels(&data), numbers);
    }
    let data = only_x("'<f4'", "True", shape, &little).expect("valid");
    let places = [0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11];
    assert_eq!(pixels(&data), places.map(|at| numbers[at]));
    let grey = only_x("'|u1'", "True", "(2, 1, 2)", &[1, 2, 3, 4]).expect("valid");
    assert_eq!(pixels(&grey), [1.0, 3.0, 2.0, 4.0]);
}

#[test]
fn labels_of_every_integer_type_are_read() {
    let cases: [(&str, &[u8]); 8] = [
        ("'|i1'", &[1, 0]),
        ("'|u1'", &[1, 0]),
        ("'<i2'", &[1, 0, 0, 0]),
        ("'>u2'", &[0, 1, 0, 0]),
        ("'<u4'", &[1, 0, 0, 0, 0, 0, 0, 0]),
        ("'>i4'", &[0, 0, 0, 1, 0, 0, 0, 0]),
        ("'<i8'", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("'>u8'", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (descr, bytes) in cases {
        for shape in ["(2,)", "(2, 1)"] {
            let data = only_y(descr, shape, bytes).expect("valid");
            assert_eq!(data.labels(&[0, 1]).expect("labelled"), [1, 0], "{descr}");
        }
    }
}

#[test]
fn wrong_labels_are_named() {
    says(only_y("'|i1'", "(2,)", &[0, 0xFD]), &["array y: y[1] is -3; expected a class index"]);
    says(only_y("'<i2'", "(2,)", &[0x18, 0xFC, 0, 0]), &["y[0] is -1000"]);
    says(only_y("'<u8'", "(2,)", &[0xFF; 16]), &["y[0] is 18446744073709551615", "to 65535"]);
    says(only_y("'<i4'", "(2,)", &[1, 0, 0, 0, 0, 0, 1, 0]), &["y[1] is 65536"]);
    says(only_y("'|u1'", "(3,)", &[0; 3]), &["labels of shape [3] for 2 images", "integers [2]"]);
    says(only_y("'|u1'", "(1, 2)", &[0; 2]), &["labels of shape [1,2]"]);
    says(only_y("'<f4'", "(2,1,1,1)", &[0; 8]), &["array y: float32 labels of shape [2,1,1,1]"]);
    says(only_y("'<f2'", "(2,)", &[0; 4]), &["array y: float16 numbers", "expected float32"]);
    says(only_y("'|b1'", "(2,)", &[0; 2]), &["bool labels"]);
}

#[test]
fn arrays_that_are_no_images_are_refused() {
    says(
        only_x("'|O'", "False", "(2,)", b"pickle"),
        &["array x", "pickled Python objects", "'|O'"],
    );
    says(only_x("'<U5'", "False", "(1,)", &[0; 20]), &["'<U5'", "plain numbers"]);
    says(only_x("'<M8[ns]'", "False", "(1,)", &[0; 8]), &["'<M8[ns]'"]);
    says(only_x("[('a', '<f4')]", "False", "(1,)", &[0; 4]), &["holds records"]);
    let double = only_x("'<f8'", "False", "(1, 1, 1, 1)", &[0; 8]);
    says(double, &["float64 of shape [1,1,1,1]; expected uint8 [N,H,W,C]", "float32 [N,C,H,W]"]);
    says(only_x("'|u1'", "False", "(2, 2)", &[0; 4]), &["uint8 of shape [2,2]"]);
    says(only_x("'|u1'", "False", "(0, 2, 2)", &[]), &["no images", "[0,2,2,1]"]);
    let infinite: Vec<u8> = [0.0, f32::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
    says(only_x("'<f4'", "False", "(2, 1, 1, 1)", &infinite), &["x[1,0,0,0] is inf"]);
}

#[test]
fn sizes_that_disagree_are_refused_before_memory_is_taken() {
    let size = &["but the entry has"];
    says(only_x("'|u1'", "False", "(2, 2, 2)", &[0; 7]), size);
    says(only_x("'|u1'", "False", "(2, 2, 2)", &[0; 9]), size);
    says(only_x("'|u1'", "False", "(1000000, 1000000, 1000)", &[0; 9]), size);
    let huge = "(4294967296, 4294967296, 4294967296)";
    says(only_x("'|u1'", "False", huge, &[0; 9]), &["too many elements"]);
    says(only_x("'|u1'", "False", "(99999999999999999999,)", &[]), &["extent"]);
}

#[test]
fn a_bomb_is_refused_by_its_claim() {
    let mut file = small_npz(Deflated);
    // The uncompressed size lies 24 bytes into the entry's record in the central directory.
    let record = file.windows(4).position(|w| w == b"PK\x01\x02").expect("a central directory");
    file[record + 24..record + 28].copy_from_slice(&0x7FFF_FFFFu32.to_le_bytes());
    says(open(file), &["array x", "claims 2147483647 bytes", "which cannot be"]);
}

#[test]
fn archives_without_images_say_what_they_have() {
    let other = npy("'|u1'", "False", "(1,)", &[0]);
    let file = zip(&[("images.npy", other.clone()), ("labels.npy", other)], Stored);
    says(open(file), &["no array x; it has [images.npy, labels.npy]", "np.savez"]);
    says(open(zip(&[], Stored)), &["no array x; it has []"]);
    says(open(b"PK\x03\x04 and then nothing".to_vec()), &["not a readable .npz archive"]);
}

#[test]
fn damaged_headers_say_what_is_wrong() {
    let header = |text: &str| {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((text.len() as u16).to_le_bytes());
        file.extend(text.as_bytes());
        open(zip(&[("x.npy", file)], Stored))
    };
    says(open(zip(&[("x.npy", b"\x93NUMPX\x01\x00".to_vec())], Stored)), &["not a NumPy array"]);
    says(open(zip(&[("x.npy", b"\x93NUMPY\x09\x00".to_vec())], Stored)), &["version 9"]);
    says(
        open(zip(&[("x.npy", b"\x93NUMPY\x02\x00\xFF\xFF\xFF\x7F".to_vec())], Stored)),
        &["a header of 2147483647 bytes"],
    );
    says(open(zip(&[("x.npy", b"\x93NU".to_vec())], Stored)), &["cannot be read to its end"]);
    says(header("{'descr': '|u1'}"), &["not all of descr, fortran_order and shape"]);
    says(header("{'descr': '|u1, }"), &["an open quote"]);
    says(header("{'other': 1}"), &["an unknown key"]);
    says(header("{'fortran_order': Maybe}"), &["neither True nor False"]);
    says(header("{'shape': (1 2)}"), &["no comma between extents"]);
    says(header("{'shape': (-1,)}"), &["an extent that is not a number"]);
    says(header(&format!("{{'shape': ({})}}", "1,".repeat(65))), &["too many dimensions"]);
    says(header("[]"), &["no '{' where one is due"]);
}

/// Changes, removes or repeats a few bytes of `file`.
fn mutate(file: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Key::new(seed, Stream::Probe).at(0);
    let mut file = file.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(file.len());
        match random.below(8) {
            0 => file.truncate(at.max(1)),
            1 => drop(file.drain(at.max(1)..)),
            2 => file.insert(at, random.bits() as u8),
            3 => file[at] = [0x00, 0xFF, 0x7F, 0x80][random.below(4)],
            4 => file[at] ^= 1 << random.below(8),
            5 => file.extend_from_within(at..),
            _ => file[at] = random.bits() as u8,
        }
    }
    file
}

#[test]
fn mutated_archives_return_in_time_and_never_panic() {
    let files = [small_npz(Stored), small_npz(Deflated)];
    let mut refused = 0;
    for seed in 0..2_000 {
        let file = mutate(&files[seed as usize % 2], seed);
        let start = Instant::now();
        refused += usize::from(open(file).is_err());
        assert!(start.elapsed() < PATIENCE, "mutation {seed} takes too long");
    }
    assert!(refused > 1_000, "only {refused} mutations were noticed");
}

#[test]
fn mutated_arrays_return_in_time_and_never_panic() {
    let array = npy("'<f4'", "False", "(2, 1, 1, 2)", &[0; 16]);
    for seed in 0..2_000 {
        let file = zip(&[("x.npy", mutate(&array, seed))], Stored);
        let start = Instant::now();
        if let Ok(data) = open(file) {
            assert!(data.len() <= 16, "mutation {seed} made {} images", data.len());
        }
        assert!(start.elapsed() < PATIENCE, "mutation {seed} takes too long");
    }
}
