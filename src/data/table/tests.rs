use std::fs;

use tempfile::TempDir;

use super::super::fixtures::says;
use super::super::{Dataset, TargetKind};

fn folder(table: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join(super::FILE), table).expect("a table");
    folder
}

fn open(table: &str) -> crate::error::Result<Dataset> {
    Dataset::open(folder(table).path())
}

fn rows(data: &Dataset) -> Vec<f32> {
    let mut rows = vec![0.0; data.len() * data.classes().len()];
    data.fill_rows(&(0..data.len()).collect::<Vec<_>>(), &mut rows).expect("rows");
    rows
}

#[test]
fn sets_of_labels_are_read() {
    let data = open("\u{feff}file,tags\r\na.png, sea ; sand\r\nsub/b.png,\n\"c, d.png\",\"sea;a \"\"b\"\"\"\n")
        .expect("a table");
    assert_eq!(data.target_kind(), Some(TargetKind::Labels));
    assert_eq!(data.classes(), ["a \"b\"", "sand", "sea"]);
    assert_eq!(rows(&data), [0., 1., 1., 0., 0., 0., 1., 0., 1.]);
    assert!(data.path(2).is_some_and(|path| path.ends_with("c, d.png")));
    let numbers = open("file,labels\na.png,3\nb.png,4;3\n").expect("a table");
    assert_eq!(numbers.classes(), ["3", "4"]);
}

#[test]
fn numbers_are_read() {
    let data = open("file,age,height\na.png,31,1.5\nb.png,-2e1,.25\n").expect("a table");
    assert_eq!(data.target_kind(), Some(TargetKind::Numbers));
    assert_eq!(data.classes(), ["age", "height"]);
    assert_eq!(rows(&data), [31.0, 1.5, -20.0, 0.25]);
    let bare = open("a.png,7\nb.png,8").expect("a table");
    assert_eq!((bare.classes(), rows(&bare)), (&["0".to_string()][..], vec![7.0, 8.0]));
}

#[test]
fn rows_that_are_wrong_are_named() {
    says(open(""), &["labels.csv", "no rows"]);
    says(open("file,age\n"), &["no rows"]);
    says(open("a.png\n"), &["one column"]);
    says(open("a.png,1\nb.png,2,3\n"), &["line 2 has 3 cells; expected 2"]);
    says(open("a.png,1,2\n\nb.png,2,x\n"), &["line 3 has \"x\" among its numbers"]);
    says(open("a.png,1,inf\n"), &["\"inf\""]);
    says(open("a.png,\"x\n"), &["the quotes of line 1 do not end"]);
    for path in ["../a.png", "/etc/a.png", ""] {
        says(open(&format!("b.png,1\n{path},1\n")), &["line 2 names the file", "inside"]);
    }
}

#[test]
fn targets_can_be_read_as_others_where_they_mean_that() {
    let single = open("a.png,cat\nb.png,dog\nc.png,cat\n").expect("a table");
    let classes = single.read_as(TargetKind::Class).expect("one label each");
    assert_eq!(classes.labels(&[0, 1, 2]).expect("classes"), [0, 1, 0]);
    says(single.read_as(TargetKind::Mask), &["sets of labels", "masks"]);
    let several = open("a.png,cat;dog\n").expect("a table");
    says(several.read_as(TargetKind::Class), &["example 0 has 2 labels"]);
    let numbers = open("a.png,0,1\nb.png,1,1\n").expect("a table");
    assert_eq!(rows(&numbers.read_as(TargetKind::Labels).expect("0 or 1")), [0., 1., 1., 1.]);
    let numbers = open("a.png,0,2\n").expect("a table");
    says(numbers.read_as(TargetKind::Labels), &["target 1 of example 0 is 2", "0 or 1"]);
}

#[test]
fn columns_are_matched_by_name() {
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let labels = open("a.png,cat\nb.png,dog;sun\n").expect("a table");
    let matched = labels.with_classes(&names(&["sun", "bird", "dog", "cat"])).expect("known");
    assert_eq!(rows(&matched), [0., 0., 0., 1., 1., 0., 1., 0.]);
    says(labels.with_classes(&names(&["cat", "dog"])), &["\"sun\"", "2 known labels"]);
    let numbers = open("file,x,y\na.png,1,2\n").expect("a table");
    assert_eq!(rows(&numbers.with_classes(&names(&["y"])).expect("known")), [2.0]);
    says(numbers.with_classes(&names(&["z"])), &["(x, y)", "\"z\""]);
}
