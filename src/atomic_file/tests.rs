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
