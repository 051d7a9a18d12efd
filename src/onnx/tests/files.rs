//! Files on disk and their external data.

use std::path::Path;

use tract_onnx::pb::StringStringEntryProto;

use super::{File, check, wave};
use crate::onnx::Model;
use crate::tensor::contiguous;

/// A model whose weight lies in another file.
fn outside(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut file = File::new(&[2, 4]).weight("w", &[4, 4]).node("MatMul", &["x", "w"], "y");
    let weight = &mut file.graph.initializer[0];
    weight.raw_data.clear();
    weight.data_location = Some(1);
    weight.external_data = entries
        .iter()
        .map(|(key, value)| StringStringEntryProto {
            key: key.to_string(),
            value: value.to_string(),
        })
        .collect();
    file.bytes()
}

fn weight_bytes() -> Vec<u8> {
    contiguous(&wave(&[4, 4], 1.0)).iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn refused(folder: &Path, entries: &[(&str, &str)]) -> String {
    match Model::from_bytes(&outside(entries), Some(folder)) {
        Ok(_) => panic!("{entries:?} must be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn external_data_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut data = vec![0u8; 12];
    data.extend(weight_bytes());
    std::fs::write(folder.path().join("w.bin"), data).expect("written");
    let bytes = outside(&[("location", "w.bin"), ("offset", "12"), ("length", "64")]);
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).expect("written");
    let model = Model::load(&path).expect("the file is sound");
    assert_eq!(model.weight("w"), Some(&wave(&[4, 4], 1.0)));
    check("external", &model, &[2, 4]);
}

#[test]
fn external_data_stays_in_its_folder() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("model");
    std::fs::create_dir(&folder).expect("a folder");
    let secret = root.path().join("secret.bin");
    std::fs::write(&secret, weight_bytes()).expect("written");
    let absolute = secret.to_string_lossy().into_owned();
    for location in ["../secret.bin", absolute.as_str(), "", "a/../../secret.bin", "."] {
        let error = refused(&folder, &[("location", location)]);
        assert!(error.contains("outside the model's folder"), "{error}");
    }
    assert!(refused(&folder, &[("offset", "0")]).contains("no location"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&secret, folder.join("link.bin")).expect("linked");
        let error = refused(&folder, &[("location", "link.bin")]);
        assert!(error.contains("outside the model's folder"), "{error}");
    }
}

#[test]
fn external_data_must_exist_in_full() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("w.bin"), weight_bytes()).expect("written");
    let at = ("location", "w.bin");
    let case = |entries: &[(&str, &str)], expected: &str| {
        let error = refused(folder.path(), entries);
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("initialiser 'w'"), "{error}");
    };
    case(&[at, ("offset", "4")], "which holds 64");
    case(&[at, ("offset", "18446744073709551615")], "which holds 64");
    case(&[at, ("length", "4")], "expected 64");
    case(&[at, ("offset", "-1")], "is no number");
    case(&[("location", "other.bin")], "finding");
    assert!(Model::from_bytes(&outside(&[at]), None).is_err());
}

#[test]
fn a_missing_file_is_named() {
    let error = Model::load(Path::new("/nowhere/model.onnx")).expect_err("no such file");
    assert_eq!(error.kind(), crate::error::Kind::Io);
    assert!(error.to_string().contains("/nowhere/model.onnx"));
}
