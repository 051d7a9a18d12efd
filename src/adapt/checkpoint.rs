//! Checkpoints: everything that a run needs to go on in another process as if it had not stopped.
//!
//! A run consists of legs: the folds of a cross-validation, then chains or members. A folder holds
//!
//! | file | |
//! |---|---|
//! | `features` | those of the examples, that linear probes are fitted to |
//! | `leg-<n>` | what an ended leg left: what it collected, its epochs, its last weights |
//! | `leg-<n>-draw-<m>` | a draw that leg n took, written once |
//! | `position-0`, `position-1` | where the leg in hand was: what steps change, and the epoch |
//!
//! all `.safetensors` (see [`archive`](super::archive)) with an [`Entry`] in a [`Record`]. The two
//! positions are written in turn, so that one that turns out to be damaged leaves the other.
//! Whatever cannot be read is computed again, which gives the same. Batches, augmentation and noise
//! depend on the seed and the step's number alone, so no state of a random generator is kept.
//!
//! Each file says which run it is of: the backbone, the prior, the data and all settings. One of
//! another run, or of another version, is refused before anything is written.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Epoch;
use super::archive::{self, Archive, Arrays};
use super::trainer::{Collect, Tally};
use crate::claim::Claim;
use crate::error::{Error, Result};

/// Of the files, and of what a run computes from them: files of another are refused.
const VERSION: u32 = 2;

const SUFFIX: &str = ".safetensors";

/// Where a run leaves its checkpoints, and what it does with those it finds.
///
/// What is kept is up to the observer, who answers [`Control::Checkpoint`](super::Control) when it
/// is time; besides, the ends of a run's parts are kept, and where it was stopped. The run that is
/// done leaves its checkpoints where they are: its caller removes them once the result is safe on
/// the disk ([`Checkpoints::remove`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// A folder of their own, made if it does not exist. Only one run at a time may have it.
    pub path: PathBuf,
    /// What it does with those that are there.
    pub existing: Existing,
}

/// What a run does with checkpoints that it finds. Nothing is removed unless that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It refuses to start.
    Refuse,
    /// It goes on from its own, to the bits that it would end with if it started anew, and refuses
    /// to start where they are another run's.
    Resume,
    /// It goes on from its own, and removes another run's.
    Supersede,
}

impl Checkpoints {
    /// Whether there are any.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn exist(&self) -> Result<bool> {
        Ok(self.path.is_dir() && !files(&self.path)?.is_empty())
    }

    /// Removes them, if there are any, and the folder unless anything else is in it.
    ///
    /// # Errors
    /// When a run is using them, or they cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let claim = Claim::take(&self.path)?;
        for path in files(&self.path)? {
            fs::remove_file(&path).map_err(|e| Error::io("cannot remove", &path, e))?;
        }
        drop(claim);
        // What is not empty has something else in it.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }
}

/// The metadata of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<E> {
    version: u32,
    /// What decides the run's course.
    run: Value,
    /// Where it ran, which decides its rounding only.
    ran_on: String,
    entry: E,
}

/// What is known of a leg.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Counted from 0 over the run.
    pub(super) leg: usize,
    /// Counts the positions of the run.
    turn: u64,
    pub(super) epochs: Vec<Epoch>,
    /// Draws that it has taken.
    pub(super) draws: usize,
    pub(super) state: State,
}

/// How far a leg has come.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum State {
    /// It has ended, for this reason if it diverged.
    Ended { diverged: Option<String> },
    /// The first `done` steps were made.
    Going { done: usize, tally: Tally, loss_limit: Option<f32> },
}

/// Writes and reads the checkpoints of one run.
pub(super) struct Journal {
    claim: Claim,
    run: Value,
    /// The number of the next position.
    turn: u64,
    /// Draws of the leg in hand that are on the disk.
    draws: usize,
    /// Whether the last attempt to write failed.
    is_failing: bool,
    /// Whether files of another device were read.
    is_elsewhere: bool,
}

impl Journal {
    /// The journal of the run that `run` decides the course of.
    ///
    /// # Errors
    /// When another run has the folder, when there are checkpoints that are not wanted, or of
    /// another run or version and not to be removed.
    pub(super) fn open(to: &Checkpoints, run: &impl Serialize) -> Result<Self> {
        let internal = |e| Error::internal("a run can be written as JSON").caused_by(e);
        // Numbers are compared as they are read, not as they were before they became text.
        let run = serde_json::to_string(run).and_then(|text| serde_json::from_str(&text));
        let claim = Claim::take(&to.path)?;
        let mut journal = Journal {
            claim,
            run: run.map_err(internal)?,
            turn: 0,
            draws: 0,
            is_failing: false,
            is_elsewhere: false,
        };
        let files = files(&to.path)?;
        if to.existing == Existing::Refuse && !files.is_empty() {
            let message = format!("{} has the checkpoints of a run", to.path.display());
            return Err(Error::invalid(message).hint("go on from them, or remove them"));
        }
        for path in files {
            match journal.glance(&path) {
                Ok(entry) => {
                    journal.turn = journal.turn.max(entry.map_or(0, |entry| entry.turn + 1));
                }
                Err(_) if to.existing == Existing::Supersede => {
                    fs::remove_file(&path).map_err(|e| Error::io("cannot remove", &path, e))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(journal)
    }

    /// Where files of leg `leg` are, the best first: its end, then the newer position.
    pub(super) fn of_leg(&self, leg: usize) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for name in [format!("leg-{leg}"), "position-0".to_string(), "position-1".to_string()] {
            let path = self.path(&name);
            if path.exists()
                && let Some(entry) = self.glance(&path)?
                && entry.leg == leg
            {
                let is_going = matches!(entry.state, State::Going { .. });
                found.push((is_going, u64::MAX - entry.turn, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(.., path)| path).collect())
    }

    /// Reads a file of a leg.
    pub(super) fn read(&mut self, path: &Path, ran_on: &str) -> Result<(Entry, Archive)> {
        let archive = Archive::read(path)?;
        let record: Record<Entry> = archive.record()?;
        if record.ran_on != ran_on && !self.is_elsewhere {
            self.is_elsewhere = true;
            let there = record.ran_on;
            log::warn!("going on from {there} on {ran_on}, which rounds in another way");
        }
        Ok((record.entry, archive))
    }

    /// The draws of a leg, one file after the other.
    pub(super) fn draws(&self, leg: usize, count: usize) -> impl Iterator<Item = Result<Archive>> {
        (0..count).map(move |draw| Archive::read(&self.draw(leg, draw)))
    }

    /// What is on the disk of the leg in hand.
    pub(super) fn set_draws(&mut self, draws: usize) {
        self.draws = draws;
    }

    /// Of the draws on the disk only `draws` are still those of the leg in hand.
    pub(super) fn truncate_draws(&mut self, draws: usize) {
        self.draws = self.draws.min(draws);
    }

    /// Keeps a leg's state with the `arrays` it consists of, and what was collected. Where that
    /// fails (a full disk) there is what was there before, and a warning.
    pub(super) fn keep<'a>(
        &mut self,
        (leg, state): (usize, State),
        epochs: &[Epoch],
        collect: &'a dyn Collect,
        arrays: Arrays<'a>,
        ran_on: &str,
    ) {
        let (epochs, draws) = (epochs.to_vec(), collect.draws());
        let entry = Entry { leg, turn: self.turn, epochs, draws, state };
        let written = self.write(entry, collect, arrays, ran_on);
        self.tell(written);
    }

    /// Keeps arrays that belong to no leg.
    pub(super) fn put(&mut self, name: &str, arrays: &Arrays<'_>, ran_on: &str) {
        let (run, ran_on) = (self.run.clone(), ran_on.to_string());
        let record = Record { version: VERSION, run, ran_on, entry: () };
        let written = archive::write(&self.path(name), &record, arrays);
        self.tell(written);
    }

    /// What [`Journal::put`] kept, if it is there and whole.
    pub(super) fn get(&self, name: &str) -> Option<Archive> {
        let path = self.path(name);
        let read = path.exists().then(|| Archive::read(&path))?;
        read.inspect_err(|error| log::warn!("{error}; it is not used")).ok()
    }

    /// Warns of the first of several failures.
    fn tell(&mut self, written: Result<()>) {
        match (written, self.is_failing) {
            (Ok(()), _) => self.is_failing = false,
            (Err(_), true) => {}
            (Err(error), false) => {
                self.is_failing = true;
                log::warn!("no checkpoint: {error}");
            }
        }
    }

    fn write<'a>(
        &mut self,
        entry: Entry,
        collect: &'a dyn Collect,
        mut arrays: Arrays<'a>,
        ran_on: &str,
    ) -> Result<()> {
        let (run, ran_on) = (self.run.clone(), ran_on.to_string());
        let mut record = Record { version: VERSION, run, ran_on, entry };
        for draw in self.draws..collect.draws() {
            let path = self.draw(record.entry.leg, draw);
            archive::write(&path, &record, &collect.draw(draw))?;
            self.draws = draw + 1;
        }
        let name = match record.entry.state {
            State::Ended { .. } => format!("leg-{}", record.entry.leg),
            State::Going { .. } => format!("position-{}", self.turn % 2),
        };
        arrays.append(&mut collect.arrays());
        record.entry.turn = self.turn;
        archive::write(&self.path(&name), &record, &arrays)?;
        self.turn += 1;
        if let State::Ended { .. } = record.entry.state {
            self.draws = 0;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.claim.folder().join(format!("{name}{SUFFIX}"))
    }

    fn draw(&self, leg: usize, draw: usize) -> PathBuf {
        self.path(&format!("leg-{leg}-draw-{draw}"))
    }

    /// The entry of a file, from its beginning alone; none where that cannot be read.
    ///
    /// # Errors
    /// When it is of another run or version.
    fn glance(&self, path: &Path) -> Result<Option<Entry>> {
        let Ok(Some(json)) = record_of(path) else { return Ok(None) };
        let checked = self.check(&json);
        let entry = serde_json::from_str::<Record<Entry>>(&json).ok().map(|record| record.entry);
        match checked {
            // A file that is damaged may seem to be anything.
            Err(_) if Archive::read(path).is_err() => Ok(None),
            other => {
                other.map(|()| entry).map_err(|error| error.context(path.display().to_string()))
            }
        }
    }

    /// Checks that a record is of this run.
    fn check(&self, json: &str) -> Result<()> {
        let hint = "to go on, repeat the command that left it; to begin anew and lose what it \
                    holds, add --restart, or remove the folder";
        let record: Value = serde_json::from_str(json).unwrap_or_default();
        if record["version"] != VERSION {
            let message =
                format!("a checkpoint of version {}; expected {VERSION}", record["version"]);
            return Err(Error::unsupported(message).hint(hint));
        }
        let mut differences = Vec::new();
        compare(&record["run"], &self.run, "", &mut differences);
        match differences.is_empty() {
            true => Ok(()),
            false => {
                let message = format!("a checkpoint of another run: {}", differences.join("; "));
                Err(Error::mismatch(message).hint(hint))
            }
        }
    }
}

/// Lists where two JSON values differ.
fn compare(found: &Value, expected: &Value, at: &str, differences: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            for (key, expected) in b {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                compare(a.get(key).unwrap_or(&Value::Null), expected, &at, differences);
            }
        }
        _ if found != expected => {
            differences.push(format!("{at} is {found} there and {expected} here"));
        }
        _ => {}
    }
}

/// The files of checkpoints in `folder`.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("cannot read", folder, e))?;
    let is_ours = |name: &str| {
        let known = ["features", "leg-", "position-"];
        name.ends_with(SUFFIX) && known.iter().any(|start| name.starts_with(start))
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let ours =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours);
    Ok(paths.filter(ours).collect())
}

/// The record at a file's beginning; none where there is none.
fn record_of(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > len {
        return Ok(None);
    }
    let mut head = Vec::new();
    file.take(size).read_to_end(&mut head)?;
    let head: Value = serde_json::from_slice(&head)?;
    Ok(head["__metadata__"]["priorfit"].as_str().map(str::to_string))
}

#[cfg(test)]
mod tests;
