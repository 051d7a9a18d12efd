use super::*;
use crate::adapt::archive::Array;
use crate::error::Kind;

fn open(path: &Path, run: u32, existing: Existing) -> Result<Journal> {
    Journal::open(
        &Checkpoints { path: path.to_path_buf(), existing },
        &serde_json::json!({"seed": run}),
    )
}

/// Keeps a position after `done` steps of a leg; `x` is what it consists of.
fn keep(journal: &mut Journal, leg: usize, done: usize, x: f64) {
    let state = State::Going { done, tally: Tally::default(), loss_limit: Some(1.5) };
    let arrays = Arrays::from([("x".to_string(), Array::number(x))]);
    journal.keep((leg, state), &[], &(), arrays, "here");
}

/// What is read first of a leg: its step, none at its end, and its number.
fn found(journal: &mut Journal, leg: usize) -> Option<(Option<usize>, usize)> {
    let paths = journal.of_leg(leg).expect("readable");
    let (entry, archive) = paths.iter().find_map(|path| journal.read(path, "here").ok())?;
    let done = match entry.state {
        State::Going { done, .. } => Some(done),
        State::Ended { .. } => None,
    };
    Some((done, archive.number("x").expect("a number")))
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn the_newer_position_counts_and_a_damaged_one_leaves_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(format!("{name}.safetensors"));
    let mut journal = open(folder.path(), 1, Existing::Refuse).expect("new");
    assert_eq!(found(&mut journal, 0), None);
    (1..4).for_each(|done| keep(&mut journal, 0, done, 10.0 * done as f64));
    drop(journal);
    let mut journal = open(folder.path(), 1, Existing::Resume).expect("the same run");
    assert_eq!(found(&mut journal, 0), Some((Some(3), 30)));
    assert_eq!(found(&mut journal, 1), None, "of another leg there is nothing");
    damage(&at("position-0"));
    assert_eq!(found(&mut journal, 0), Some((Some(2), 20)));
    keep(&mut journal, 0, 4, 40.0);
    assert_eq!(found(&mut journal, 0), Some((Some(4), 40)));
    damage(&at("position-1"));
    assert_eq!(found(&mut journal, 0), None, "then the leg is made again");
    let arrays = Arrays::from([("x".to_string(), Array::number(50.0))]);
    journal.keep((0, State::Ended { diverged: None }), &[], &(), arrays, "here");
    keep(&mut journal, 1, 1, 60.0);
    assert_eq!(found(&mut journal, 0), Some((None, 50)));
    assert_eq!(found(&mut journal, 1), Some((Some(1), 60)));
}

#[test]
fn those_of_another_run_go_and_its_own_stay_where_they_are_superseded() {
    let folder = tempfile::tempdir().expect("a folder");
    keep(&mut open(folder.path(), 1, Existing::Refuse).expect("new"), 0, 1, 10.0);
    let mut journal = open(folder.path(), 2, Existing::Supersede).expect("another run");
    assert_eq!(files(folder.path()).expect("a folder").len(), 0);
    keep(&mut journal, 0, 3, 30.0);
    drop(journal);
    let mut journal = open(folder.path(), 2, Existing::Supersede).expect("the same run");
    assert_eq!(found(&mut journal, 0), Some((Some(3), 30)));
}

#[test]
fn checkpoints_of_another_run_or_version_are_refused_and_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("position-0.safetensors");
    keep(&mut open(folder.path(), 1, Existing::Refuse).expect("new"), 0, 1, 10.0);
    let before = fs::read(&path).expect("a file");
    let error = open(folder.path(), 2, Existing::Resume).err().expect("another run");
    assert_eq!(error.kind(), Kind::Mismatch);
    for part in ["position-0", "seed is 1 there and 2 here", "another run"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = open(folder.path(), 1, Existing::Refuse).err().expect("it would be lost");
    assert!(error.to_string().contains("go on from them, or remove them"), "{error}");
    assert!(fs::read(&path).expect("there") == before);

    let run = serde_json::json!({"seed": 1});
    let entry = Entry {
        leg: 0,
        turn: 0,
        epochs: Vec::new(),
        draws: 0,
        state: State::Ended { diverged: None },
    };
    let record = Record { version: VERSION + 1, run, ran_on: "here".to_string(), entry };
    archive::write(&path, &record, &Arrays::new()).expect("written");
    let error = open(folder.path(), 1, Existing::Resume).err().expect("another version");
    assert_eq!(error.kind(), Kind::Unsupported);
    let expected = format!("version {}; expected {VERSION}", VERSION + 1);
    assert!(error.to_string().contains(&expected), "{error}");
    // What only seems to be of another version is damaged, and no reason to stop.
    damage(&path);
    assert_eq!(
        found(&mut open(folder.path(), 1, Existing::Resume).expect("nothing of use"), 0),
        None
    );
}

#[test]
fn one_run_at_a_time_has_them_and_removing_leaves_what_is_not_theirs() {
    let outer = tempfile::tempdir().expect("a folder");
    let folder = outer.path().join("checkpoints");
    let to = Checkpoints { path: folder.clone(), existing: Existing::Resume };
    let mut journal = open(&folder, 1, Existing::Refuse).expect("new");
    assert_eq!(open(&folder, 1, Existing::Resume).err().expect("in use").kind(), Kind::Busy);
    assert_eq!(to.remove().expect_err("in use").kind(), Kind::Busy);
    keep(&mut journal, 0, 1, 10.0);
    drop(journal);
    fs::write(folder.join("notes"), "mine").expect("written");
    to.remove().expect("removed");
    let left = fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["notes"]);
    fs::remove_file(folder.join("notes")).expect("removed");
    to.remove().expect("nothing to remove");
    to.remove().expect("not even a folder");
    assert!(!folder.exists());
    drop(open(&folder, 1, Existing::Refuse).expect("new"));
    assert!(!folder.exists(), "a journal without an entry leaves nothing");
}

#[test]
fn a_disk_that_is_full_leaves_the_last_position() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut journal = open(folder.path(), 1, Existing::Refuse).expect("new");
    keep(&mut journal, 0, 1, 10.0);
    let state = |done| State::Going { done, tally: Tally::default(), loss_limit: None };
    for done in [2, 3] {
        let no_room = || Err(Error::internal("no space left"));
        let arrays = Arrays::from([("x".to_string(), Array::later(1, no_room))]);
        journal.keep((0, state(done)), &[], &(), arrays, "here");
        assert_eq!(found(&mut journal, 0), Some((Some(1), 10)));
    }
    keep(&mut journal, 0, 4, 40.0);
    assert_eq!(found(&mut journal, 0), Some((Some(4), 40)));
}
