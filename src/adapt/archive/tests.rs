use super::*;

fn small() -> (Weights, Vec<f64>, VecDeque<Vec<f32>>) {
    let weight = tensor(&[2, 2], vec![1.0, -2.5, 3e-20, 0.0]).expect("a tensor");
    let weights = Weights::from([("a".to_string(), weight)]);
    (weights, vec![0.1, f64::MAX], VecDeque::from([vec![1.0, 2.0], vec![3.0, 4.0]]))
}

fn written(path: &Path) -> Vec<u8> {
    let (weights, doubles, rows) = small();
    let mut arrays = Arrays::new();
    put_weights(&mut arrays, "w/", &weights);
    arrays.insert("d".to_string(), Array::doubles(&doubles));
    arrays.insert("n".to_string(), Array::number(7.0));
    arrays.insert("r".to_string(), Array::rows(&rows));
    arrays.insert("z".to_string(), Array::later(3, || Ok(vec![5.0; 3])));
    write(path, &vec!["a record"], &arrays).expect("written");
    std::fs::read(path).expect("bytes")
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = Archive::from_bytes(written(&folder.path().join("a"))).expect("whole");
    let (weights, doubles, rows) = small();
    assert_eq!(archive.record::<Vec<String>>().expect("a record"), ["a record"]);
    assert!(archive.weights("w/", &weights).expect("weights") == weights);
    assert_eq!(archive.doubles("d").expect("doubles"), doubles);
    assert_eq!(archive.number("n").expect("a number"), 7);
    let rows: Vec<f32> = rows.into_iter().flatten().collect();
    assert_eq!(archive.singles("r").expect("rows"), rows);
    assert_eq!(archive.matrix("r").expect("rows").shape(), [2, 2]);
    assert_eq!(archive.singles("z").expect("what came later"), [5.0; 3]);
    assert!(archive.has("z") && !archive.has("y"));
    for wrong in [
        archive.singles("y").err(),
        archive.singles("d").err(),
        archive.number("d").err().map(|_| archive.number("r").expect_err("a matrix")),
        archive.matrix("z").err(),
        archive.weights("v/", &weights).err(),
    ] {
        assert_eq!(wrong.expect("an error").kind(), crate::error::Kind::Malformed);
    }
}

/// Cut off anywhere, changed anywhere: it is noticed.
#[test]
fn no_damage_goes_unnoticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = written(&folder.path().join("a"));
    for len in 0..bytes.len() {
        assert!(Archive::from_bytes(bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Archive::from_bytes(flipped).is_err(), "bit {bit}");
    }
    assert!(Archive::from_bytes([&bytes[..], &[0]].concat()).is_err(), "one byte more");
}

#[test]
fn numbers_that_cannot_be_fetched_leave_the_old_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a");
    let before = written(&path);
    for fetch in [|| Ok(vec![1.0]), || Err(Error::internal("the device is gone"))] {
        let arrays = Arrays::from([("z".to_string(), Array::later(3, fetch))]);
        write(&path, &"a record", &arrays).expect_err("not three numbers");
        assert!(std::fs::read(&path).expect("there") == before);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "no leftovers");
}
