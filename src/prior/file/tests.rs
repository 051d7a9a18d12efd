use super::*;
use crate::error::Kind;
use crate::prior::tests::{gaussian, small};
use crate::rng::{Key, Stream};

/// A container with this metadata, and these tensors as (name, dtype, shape, bytes).
fn container(metadata: &[(&str, &str)], tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut root = serde_json::Map::new();
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), (*v).into())).collect();
    root.insert("__metadata__".into(), serde_json::Value::Object(metadata));
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        root.insert(name.to_string(), info);
        data.extend(bytes);
    }
    let json = serde_json::Value::Object(root).to_string();
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.bytes());
    file.extend(data);
    file
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn diagonal_json() -> String {
    gaussian(&[0.0], &[1.0], &[], 0.5).header().to_json().expect("valid")
}

#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    Prior::from_bytes(bytes).expect_err("must be refused").to_string()
}

#[test]
fn a_prior_comes_back_from_its_file_and_the_bytes_are_stable() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.prior.safetensors");
    let prior = small();
    prior.save(&path).expect("writes");
    let loaded = Prior::load(&path).expect("reads");
    assert_eq!(loaded.header(), prior.header());
    assert_eq!(loaded.parameters().len(), 3);
    for (loaded, prior) in loaded.parameters().iter().zip(prior.parameters()) {
        assert_eq!(loaded.name(), prior.name());
        assert_eq!((loaded.mean(), loaded.var()), (prior.mean(), prior.var()));
        assert_eq!(loaded.dev(), prior.dev());
    }
    let first = std::fs::read(&path).expect("exists");
    loaded.save(&path).expect("replaces");
    assert_eq!(std::fs::read(&path).expect("exists"), first);
    assert_eq!(prior.to_bytes().expect("fits"), first);
    let diagonal = gaussian(&[1.0], &[2.0], &[], 0.5);
    let bytes = diagonal.to_bytes().expect("fits");
    assert!(Prior::from_bytes(&bytes).expect("reads").parameters()[0].dev().is_none());
}

#[test]
fn the_file_is_a_plain_safetensors_file() {
    let bytes = small().to_bytes().expect("fits");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("the crate reads it");
    let mut names = file.names();
    names.sort_unstable();
    let expected = ["a", "b", "layer/1.weight"];
    let expected: Vec<String> = ["dev", "mean", "var"]
        .iter()
        .flat_map(|part| expected.iter().map(move |name| format!("{part}/{name}")))
        .collect();
    assert_eq!(names, expected);
    assert_eq!(file.tensor("dev/layer/1.weight").expect("present").shape(), [2, 2, 1, 3]);
    let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert_eq!(header_len % 8, 0);
}

/// The header's JSON is canonical because its fields are declared in the order of their names.
#[test]
fn header_fields_are_sorted() {
    let json = small().header().to_json().expect("valid");
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let sorted = |value: &serde_json::Value| {
        let object = value.as_object().expect("an object");
        let keys: std::collections::BTreeSet<_> = object.keys().cloned().collect();
        let places: Vec<_> = keys.iter().map(|key| json.find(&format!("\"{key}\":"))).collect();
        assert!(places.is_sorted(), "{json}");
    };
    sorted(&value);
    sorted(&value["learned"]);
}

#[test]
fn other_float_types_are_read() {
    let json = diagonal_json();
    let values: [f32; 6] = [1.5, -0.25, 0.0, 2.0, 6.1035156e-5, 5.9604645e-8];
    let halves: [u16; 6] = [0x3E00, 0xB400, 0x0000, 0x4000, 0x0400, 0x0001];
    let brains: [u16; 6] = values.map(|x| (x.to_bits() >> 16) as u16);
    let two = |bits: [u16; 6]| bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>();
    let wide: Vec<u8> = values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    for (dtype, bytes) in [("F16", two(halves)), ("BF16", two(brains)), ("F64", wide)] {
        let tensors: [(&str, &str, &[usize], Vec<u8>); 2] =
            [("mean/w", dtype, &[2, 3], bytes), ("var/w", "F32", &[2, 3], floats(&[1.0; 6]))];
        let prior = Prior::from_bytes(&container(&[(KEY, &json)], &tensors)).expect("reads");
        assert_eq!(elements(prior.parameters()[0].mean()), values, "{dtype}");
    }
    assert!(half_to_f32(0x7C00).is_infinite() && half_to_f32(0x7E00).is_nan());
    assert_eq!(half_to_f32(0xFBFF), -65504.0);
}

#[test]
fn files_that_break_a_rule_are_refused_by_tensor() {
    let json = diagonal_json();
    let one = floats(&[1.0]);
    let tensor = |name, dtype, bytes: &Vec<u8>| -> (&str, &str, &[usize], Vec<u8>) {
        (name, dtype, &[1], bytes.clone())
    };
    let mean = tensor("mean/w", "F32", &one);
    let both = [mean.clone(), tensor("var/w", "F32", &one)];
    let with = |other| container(&[(KEY, &json)], &[mean.clone(), other]);
    let cases = [
        (with(tensor("mean/v", "F32", &one)), "tensor 'var/v' is missing"),
        (with(tensor("dev/w", "F32", &one)), "tensor 'var/w' is missing"),
        (with(tensor("var/v", "F32", &one)), "tensor 'mean/v' is missing"),
        (with(tensor("var", "F32", &one)), "tensor 'var': not a part of a prior"),
        (with(tensor("m/w", "F32", &one)), "tensor 'm/w': not a mean, var or dev"),
        (with(tensor("var/w", "I32", &one)), "tensor 'var/w': its elements are I32; expected F32"),
        (
            with(tensor("var/w", "F32", &floats(&[f32::NAN]))),
            "parameter 'w': var at element 0 is NaN",
        ),
        (
            with(("var/w", "F32", &[1, 1], one.clone())),
            "parameter 'w': var has shape [1,1]; expected [1]",
        ),
        (container(&[], &[]), "the metadata does not hold the one key 'priorfit'; expected a"),
        (container(&[(KEY, &json), ("format", "pt")], &[]), "the metadata does not hold the one"),
        (container(&[(KEY, &json)], &[]), "the prior covers no parameter"),
        (container(&[(KEY, "{}")], &[]), "metadata 'priorfit' is not a prior's header: missing"),
        (
            container(&[(KEY, "{\"version\":3,\"new\":0}")], &[]),
            "the prior file has version 3; expected version 1 or 2; write it again",
        ),
        (
            container(&[(KEY, &json.replace("notes", "note"))], &[]),
            "metadata 'priorfit' is not a prior's header: unknown field `note`",
        ),
        (
            container(&[(KEY, &json.replace("\"rank\":0", "\"rank\":1"))], &both),
            "rank is 1; expected 0 or at least 2",
        ),
    ];
    for (bytes, expected) in cases {
        let message = refusal(&bytes);
        assert!(message.starts_with(expected), "{message}\n{expected}");
    }
}

#[test]
fn containers_that_lie_about_their_size_are_refused() {
    let good = small().to_bytes().expect("fits");
    assert_eq!(refusal(&[]), "the file is cut short");
    assert_eq!(refusal(&good[..7]), "the file is cut short");
    let expected = "expected the bytes after the header";
    let message = refusal(&good[..good.len() - 1]);
    assert!(message.contains("its tensors take") && !message.contains(expected), "{message}");
    refusal(&[&good[..], &[0]].concat());
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&huge).starts_with("its header claims 18446744073709551615 bytes"));
    for (shape, end) in [
        ("[4611686018427387904,4]", "8"),
        ("[4611686018427387904,2]", "18446744073709551615"),
        ("[1152921504606846976]", "4611686018427387904"),
        ("[0,18446744073709551615,18446744073709551615]", "0"),
        ("[18446744073709551615,0]", "0"),
    ] {
        let json = format!(
            "{{\"__metadata__\":{{\"priorfit\":\"{{}}\"}},\"mean/w\":{{\"dtype\":\"F32\",\
             \"shape\":{shape},\"data_offsets\":[0,{end}]}}}}"
        );
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        refusal(&bytes);
    }
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bad.safetensors");
    let error = Prior::load(&path).expect_err("absent");
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().starts_with(&format!("cannot read {}", path.display())), "{error}");
    std::fs::write(&path, b"not a prior").expect("writes");
    let error = Prior::load(&path).expect_err("malformed");
    assert_eq!(error.kind(), Kind::Malformed);
    let expected = format!("prior file {}: its header claims", path.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    let missing = folder.path().join("no/such/folder.safetensors");
    assert_eq!(small().save(&missing).expect_err("no folder").kind(), Kind::Io);
}

/// A damaged file gives an error or a valid prior, never a panic.
#[test]
fn damaged_files_never_panic() {
    let good = small().to_bytes().expect("fits");
    for len in 0..good.len() {
        refusal(&good[..len]);
    }
    let mut random = Key::new(17, Stream::Probe).at(0);
    let mut survivors = 0;
    for _ in 0..5_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let place = random.below(bytes.len());
            bytes[place] = match random.below(3) {
                0 => bytes[place] ^ 1 << random.below(8),
                1 => b"0123456789[]{}\",:"[random.below(17)],
                _ => random.bits() as u8,
            };
        }
        if let Ok(prior) = Prior::from_bytes(&bytes) {
            let again = Prior::new(prior.header.clone(), prior.parameters.clone());
            again.expect("what is accepted is valid");
            survivors += 1;
        }
    }
    assert!(survivors > 100, "the mutations reach past the header: {survivors}");
}
