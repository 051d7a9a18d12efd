use std::io::Cursor;

use zip::CompressionMethod::Stored;

use super::super::fixtures::{npy, says, zip};
use super::*;

/// Two grey images of 1 by 3 pixels with targets of this type and shape.
fn with_y(descr: &str, shape: &str, data: &[u8]) -> Result<Dataset> {
    let x = npy("'|u1'", "False", "(2, 1, 3)", &[0; 6]);
    let y = npy(descr, "False", shape, data);
    Dataset::from_npz(Cursor::new(zip(&[("x.npy", x), ("y.npy", y)], Stored)))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn rows(data: &Dataset) -> Vec<f32> {
    let mut rows = vec![0.0; data.len() * data.classes().len()];
    data.fill_rows(&(0..data.len()).collect::<Vec<_>>(), &mut rows).expect("rows");
    rows
}

#[test]
fn arrays_are_what_their_type_and_shape_say() {
    let kind = |data: &Dataset| data.target_kind().expect("targets");
    let hot = with_y("'|u1'", "(2, 3)", &[1, 0, 1, 0, 0, 1]).expect("labels");
    assert_eq!((kind(&hot), rows(&hot)), (TargetKind::Labels, vec![1., 0., 1., 0., 0., 1.]));
    let bools = with_y("'|b1'", "(2, 2)", &[1, 0, 0, 1]).expect("labels");
    assert_eq!((kind(&bools), rows(&bools)), (TargetKind::Labels, vec![1., 0., 0., 1.]));
    let counts = with_y("'|i1'", "(2, 2)", &[1, 0, 0xFF, 7]).expect("numbers");
    assert_eq!((kind(&counts), rows(&counts)), (TargetKind::Numbers, vec![1., 0., -1., 7.]));
    for shape in ["(2,)", "(2, 1)"] {
        let one = with_y("'<f4'", shape, &bytes(&[0.5, -3.0])).expect("numbers");
        assert_eq!((kind(&one), rows(&one)), (TargetKind::Numbers, vec![0.5, -3.0]));
    }
    let double: Vec<u8> = [1.5f64, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let two = with_y("'<f8'", "(2, 2)", &double).expect("numbers");
    assert_eq!(rows(&two), [1.5, 2.0, 3.0, 4.0]);
    let masks = with_y("'|u1'", "(2, 1, 3)", &[0, 1, 255, 2, 2, 0]).expect("masks");
    assert_eq!((kind(&masks), masks.classes().len()), (TargetKind::Mask, 3));
    assert_eq!(masks.with_ignored(2).expect("masks").classes().len(), 256);
}

#[test]
fn targets_that_are_none_are_named() {
    says(with_y("'<f4'", "(2,)", &bytes(&[0.0, f32::NAN])), &["target 0 of example 1 is NaN"]);
    says(with_y("'|u1'", "(2, 2, 2)", &[0; 8]), &["masks of 2x2 pixels for images of 3x1"]);
    says(with_y("'<i2'", "(2, 1, 3)", &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), &["no class"]);
    says(with_y("'<f4'", "(2, 0)", &[]), &["no label or number"]);
    says(with_y("'|u1'", "(3, 2)", &[0; 6]), &["labels of shape [3,2] for 2 images", "[2,H,W]"]);
}

#[test]
fn numbered_targets_are_matched_by_place() {
    let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    let hot = with_y("'|u1'", "(2, 2)", &[1, 0, 1, 1]).expect("labels");
    assert_eq!(rows(&hot.with_classes(&names(3)).expect("known")), [1., 0., 0., 1., 1., 0.]);
    let classes = with_y("'|u1'", "(2,)", &[3, 0]).expect("classes");
    let numbers = classes.read_as(TargetKind::Numbers).expect("numbers");
    assert_eq!(rows(&numbers), [3.0, 0.0]);
    let masks = with_y("'|u1'", "(2, 1, 3)", &[0, 1, 255, 2, 2, 0]).expect("masks");
    assert_eq!(masks.with_classes(&names(4)).expect("known").classes().len(), 4);
    says(masks.with_classes(&names(2)), &["the masks are of the classes (0, 1, 2)"]);
}

#[test]
fn other_targets_are_split_at_random() {
    let x = ndarray::Array4::from_elem((10, 1, 1, 1), 0u8);
    let values = ndarray::Array2::from_shape_fn((10, 1), |(n, _)| n as f32);
    let data = Dataset::from_images_u8(x.view(), None, vec![]).expect("images");
    let data = data.with_rows(TargetKind::Numbers, values.view(), vec!["n".into()]).expect("rows");
    let (train, held) = data.split(1, 0.3).expect("a split");
    assert_eq!((train.len(), held.len()), (7, 3));
    let mut all = [rows(&train), rows(&held)].concat();
    all.sort_by(f32::total_cmp);
    assert_eq!(all, (0..10).map(|n| n as f32).collect::<Vec<_>>());
}
