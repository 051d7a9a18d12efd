use std::fs;

use ndarray::{Array2, Array3, Array4};

use super::*;
use crate::data::fixtures::{insects, picture, save, says};
use crate::data::{IGNORED, TargetKind};

fn threads() -> Threads {
    Threads::new(2)
}

fn identities(data: &Dataset) -> Vec<Identity> {
    data.identities(&threads()).expect("identities")
}

/// Images of one pixel each, the example's number.
fn images(count: usize) -> Array4<u8> {
    Array4::from_shape_fn((count, 1, 1, 1), |(n, ..)| n as u8)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn classes(labels: &[usize], classes: &[&str]) -> Dataset {
    let images = images(labels.len());
    Dataset::from_images_u8(images.view(), Some(labels), names(classes)).expect("data")
}

#[test]
fn an_example_is_its_pixels_and_its_target_wherever_it_lies() {
    let (_folder, root) = insects();
    let before = identities(&Dataset::open(&root).expect("opens"));
    fs::rename(root.join("bee/b1.png"), root.join("bee/x.png")).expect("renamed");
    // The same pixels, compressed in another way.
    let pixels = image::open(root.join("ant/a2.png")).expect("an image");
    let file = fs::File::create(root.join("ant/a2.png")).expect("a file");
    let (best, filter) =
        (image::codecs::png::CompressionType::Best, image::codecs::png::FilterType::Paeth);
    let encoder = image::codecs::png::PngEncoder::new_with_quality(file, best, filter);
    pixels.write_with_encoder(encoder).expect("an image");
    let after = identities(&Dataset::open(&root).expect("opens"));
    assert_eq!(before[..2], after[..2], "the ants");
    assert_eq!(before[2], after[4], "the bee that has another name");
    fs::rename(root.join("bee/x.png"), root.join("ant/x.png")).expect("renamed");
    let moved = identities(&Dataset::open(&root).expect("opens"));
    assert_eq!(moved[2].image, before[2].image);
    assert_ne!(moved[2].example, before[2].example, "it is an ant now");
    save(picture(9, 7, 11), &root.join("ant/x.png"));
    let changed = identities(&Dataset::open(&root).expect("opens"));
    assert_ne!(changed[2].image, before[2].image);
}

#[test]
fn classes_that_only_others_had_are_no_more() {
    let data = classes(&[0, 1, 2, 1, 2], &["a", "b", "c"]);
    let rest = data.only(&[4, 0, 2]).expect("some");
    assert_eq!(rest.classes(), ["a", "c"]);
    assert_eq!(rest.labels(&[0, 1, 2]).expect("labels"), [1, 0, 1]);
    let before = identities(&data);
    assert_eq!(identities(&rest), [4, 0, 2].map(|at: usize| before[at].clone()));
    // One that never had an example is as it was.
    let empty = classes(&[0, 2, 2], &["a", "b", "c"]).only(&[0, 1]).expect("some");
    assert_eq!(empty.classes(), ["a", "b", "c"]);
    says(data.only(&[]), &["no example would be left"]);
    says(data.only(&[5]), &["no example 5 among 5"]);
}

#[test]
fn labels_that_only_others_had_are_no_more() {
    let values = Array2::from_shape_vec((3, 3), vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let all = classes(&[0; 3], &["x"]);
    let (values, labels) = (values.expect("rows"), names(&["a", "b", "c"]));
    let data = all.with_rows(TargetKind::Labels, values.view(), labels).expect("labels");
    let rest = data.only(&[0, 2]).expect("some");
    assert_eq!(rest.classes(), ["a", "c"]);
    let mut rows = [0.0; 4];
    rest.fill_rows(&[0, 1], &mut rows).expect("rows");
    assert_eq!(rows, [1.0, 0.0, 0.0, 1.0]);
    let before = identities(&data);
    assert_eq!(identities(&rest), [0, 2].map(|at: usize| before[at].clone()));
    // What remains may be one label each, whatever the others had.
    rest.read_as(TargetKind::Class).expect("classes");
}

#[test]
fn what_was_counted_is_counted_again() {
    let masks = Array3::from_shape_vec((3, 1, 1), vec![1, 3, IGNORED]).expect("masks");
    let data = classes(&[0; 3], &["x"]);
    let data = data.with_masks(masks.view(), names(&["a", "b", "c", "d"])).expect("masks");
    assert_eq!(data.only(&[0, 2]).expect("some").classes().len(), 4, "names that were given");
    let numbered = Dataset {
        classes: Arc::new(Classes { names: numbered(4), origin: Origin::Numbered }),
        ..data
    };
    assert_eq!(numbered.only(&[0, 2]).expect("some").classes(), ["0", "1"]);
    let counted = |labels: &[usize]| {
        let data = classes(labels, &["0", "1", "2"]);
        let classes = Classes { origin: Origin::Numbered, ..(*data.classes).clone() };
        Dataset { classes: Arc::new(classes), ..data }
    };
    let rest = counted(&[0, 1, 2]).only(&[0, 1]).expect("some");
    assert_eq!(rest.classes(), ["0", "1"]);
    // A gap stays one, as it would be in a file.
    let rest = counted(&[0, 1, 2]).only(&[0, 2]).expect("some");
    says(rest.check_trainable(), &["class \"1\" has no examples"]);
}

#[test]
fn files_are_known() {
    let (_folder, root) = insects();
    let data = Dataset::open(&root).expect("opens");
    assert_eq!(data.files(0), [root.join("ant/a1.jpeg")]);
    assert!(data.files(99).is_empty() && classes(&[0], &["a"]).files(0).is_empty());
}
