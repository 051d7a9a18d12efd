use super::*;

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn content_replaces_the_old_file_and_nothing_else_remains() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.bin");
    for content in [&b"first"[..], b"the second, longer", b""] {
        write(&path, |writer| writer.write_all(content)).expect("writes");
        assert_eq!(fs::read(&path).expect("exists"), content);
        assert_eq!(entries(folder.path()), ["a.bin"]);
    }
}

#[test]
fn a_failure_midway_keeps_the_old_file_and_removes_the_sibling() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.bin");
    fs::write(&path, b"precious").expect("writes");
    let error = write(&path, |writer| {
        writer.write_all(&[7; 100_000])?;
        Err(io::Error::new(io::ErrorKind::StorageFull, "no space left"))
    })
    .expect_err("the disk is full");
    assert_eq!(error.kind(), crate::error::Kind::Io);
    let expected = format!(
        "cannot write {}: no space left; what was there before is unchanged; check the folder, \
         its permissions and room",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(fs::read(&path).expect("exists"), b"precious");
    assert_eq!(entries(folder.path()), ["a.bin"]);
}

#[test]
fn a_panic_midway_keeps_the_old_file_and_removes_the_sibling() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.bin");
    fs::write(&path, b"precious").expect("writes");
    let outcome = std::panic::catch_unwind(|| write(&path, |_| panic!("a bug in the content")));
    assert!(outcome.is_err());
    assert_eq!(fs::read(&path).expect("exists"), b"precious");
    assert_eq!(entries(folder.path()), ["a.bin"]);
}

#[test]
fn places_that_cannot_hold_a_file_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, b"x").expect("writes");
    for path in [folder.path().join("missing/a.bin"), file.join("a.bin"), PathBuf::from("/")] {
        let error = write(&path, |writer| writer.write_all(b"y")).expect_err("no such place");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    let occupied = folder.path().join("folder");
    fs::create_dir(&occupied).expect("creates");
    write(&occupied, |writer| writer.write_all(b"y")).expect_err("a folder is in the way");
    assert_eq!(entries(folder.path()), ["file", "folder"]);
}

#[cfg(unix)]
#[test]
fn a_link_keeps_pointing_at_the_file_it_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, b"old").expect("writes");
    std::os::unix::fs::symlink(&file, &link).expect("links");
    write(&link, |writer| writer.write_all(b"new")).expect("writes");
    assert_eq!(fs::read(&file).expect("exists"), b"new");
    assert!(fs::symlink_metadata(&link).expect("exists").is_symlink());
}

#[test]
fn names_by_content_tell_content_apart_and_are_recognised() {
    // SHA-256 of the empty text and of "abc", from FIPS 180-4's examples.
    assert_eq!(name_by_content("a", b"", "bin"), "a-e3b0c44298fc1c14.bin");
    assert_eq!(
        name_by_content("draws", b"abc", "safetensors"),
        "draws-ba7816bf8f01cfea.safetensors"
    );
    assert!(is_named_by_content("a-e3b0c44298fc1c14.bin", "a", "bin"));
    for other in [
        "a.bin",
        "b-e3b0c44298fc1c14.bin",
        "a-e3b0c44298fc1c14.onnx",
        "a-e3b0c44298fc1c1.bin",
        "a-E3b0c44298fc1c14.bin",
        "a-mine-98fc1c14298f.bin",
        ".a-e3b0c44298fc1c14.bin.12-0.tmp",
    ] {
        assert!(!is_named_by_content(other, "a", "bin"), "{other}");
    }
}

#[test]
fn what_a_killed_program_leaves_is_recognised() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (sibling, _file) = Sibling::create(&folder.path().join("a.b.bin")).expect("created");
    let name = sibling.path.file_name().and_then(|name| name.to_str()).expect("a name").to_string();
    assert_eq!(target_of_sibling(&name), Some("a.b.bin"));
    for other in ["a.b.bin", ".a.b.bin.tmp", ".a.b.bin.12-x.tmp", "a.b.bin.12-0.tmp", ".tmp"] {
        assert_eq!(target_of_sibling(other), None, "{other}");
    }
}
