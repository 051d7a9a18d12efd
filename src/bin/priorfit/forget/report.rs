//! What `forget` says, and the certificate that it leaves.
//!
//! The certificate keeps nothing of what was forgotten but the number: no hash of an example and no
//! fingerprint of the old weights. Either would let whoever has an image find out that it had been
//! there. Both are in the report, once, for whoever must keep them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use priorfit::adapt::{Ending, Record, Replay, Rest};
use priorfit::atomic_file;
use priorfit::error::{Error, Result};
use priorfit::posterior::Posterior;
use priorfit::task::Task;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::tasks;

/// What the certificate's name adds to the folder's.
const SUFFIX: &str = ".forgotten.json";
/// Most files that a text lists.
const SHOWN: usize = 10;

/// A number of training and of held-out examples.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Count {
    train: usize,
    validation: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count { train, validation: 0 } => write!(f, "{train} examples"),
            Count { train, validation } => write!(f, "{train} examples, {validation} held out"),
        }
    }
}

impl Count {
    fn forgotten(rest: &Rest) -> Self {
        let (train, validation) = (&rest.train_forgotten, &rest.validation_forgotten);
        Count { train: train.len(), validation: validation.len() }
    }

    fn left(rest: &Rest) -> Self {
        let validation = rest.validation.as_ref().map_or(0, |held| held.len());
        Count { train: rest.train.len(), validation }
    }
}

/// The result of the command.
#[derive(Serialize)]
pub struct Report {
    posterior: PathBuf,
    pub dry_run: bool,
    forgotten: Count,
    left: Count,
    /// The hashes of the forgotten examples.
    hashes: Vec<String>,
    /// What is learned from those that are left.
    task: Task,
    /// Classes or labels that are no more.
    names_dropped: Vec<String>,
    /// Examples of the data that are not the model's.
    others: usize,
    calibration_dropped: bool,
    pub checkpoints_removed: bool,
    /// SHA-256 of each file of the folder, before and after.
    before: BTreeMap<String, String>,
    after: Option<BTreeMap<String, String>>,
    /// Whether the model is what its record makes, to the bit; none where that was not asked.
    verified: Option<bool>,
    pub differences: Vec<String>,
    certificate: Option<PathBuf>,
    /// Files of the user that still hold what was forgotten.
    pub outside: Vec<PathBuf>,
    pub deleted: usize,
    pub ending: Option<Ending>,
    notice: Option<String>,
    ran_on: Option<String>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

impl Report {
    /// What is known before anything is done.
    pub fn new(folder: &Path, old: &Posterior, replay: &Replay, rest: &Rest) -> Result<Self> {
        let task = Task::of(&rest.train)?;
        let names = old.description().task.names().iter();
        let names_dropped = names.filter(|name| !task.names().contains(name)).cloned().collect();
        let mut notes = Vec::new();
        let version = env!("CARGO_PKG_VERSION");
        if replay.record().program != version {
            let made = &replay.record().program;
            notes.push(format!("version {made} made it; {version} may compute other bits"));
        }
        Ok(Report {
            posterior: folder.to_path_buf(),
            dry_run: false,
            forgotten: Count::forgotten(rest),
            left: Count::left(rest),
            hashes: [&rest.train_forgotten[..], &rest.validation_forgotten].concat(),
            task,
            names_dropped,
            others: rest.others,
            calibration_dropped: !rest.is_untouched() && old.description().calibration.is_some(),
            checkpoints_removed: false,
            before: hashes(folder)?,
            after: None,
            verified: None,
            differences: Vec::new(),
            certificate: None,
            outside: Vec::new(),
            deleted: 0,
            ending: None,
            notice: None,
            ran_on: None,
            notes,
            seconds: 0.0,
        })
    }

    /// The folder's model has nothing of what was to be forgotten.
    pub fn finished(&mut self, folder: &Path, certificate: PathBuf) -> Result<()> {
        self.after = Some(hashes(folder)?);
        self.certificate = Some(certificate);
        Ok(())
    }

    /// The stored model has been compared.
    pub fn verified(&mut self, differences: Vec<String>) {
        self.verified = Some(differences.is_empty());
        self.differences = differences;
    }

    /// How the run ended.
    pub fn made(&mut self, ending: Ending, notice: Option<String>, ran_on: String) {
        (self.ending, self.notice, self.ran_on) = (Some(ending), notice, Some(ran_on));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.verified, self.dry_run, self.forgotten) {
            (Some(true), ..) => writeln!(f, "The model is what its record makes, bit by bit.")?,
            (Some(false), ..) => {
                let files = self.differences.join(", ");
                writeln!(f, "The model is NOT what its record makes: {files} differ.")?;
            }
            (None, _, Count { train: 0, validation: 0 }) => {
                writeln!(f, "The model has nothing of this; it stays as it is.")?;
            }
            (None, true, forgotten) => writeln!(f, "Would forget {forgotten}.")?,
            (None, false, forgotten) => writeln!(f, "Forgot {forgotten}.")?,
        }
        if let Some(notice) = &self.notice {
            writeln!(f, "Diverged: {notice}")?;
        }
        writeln!(f, "model     {}", self.posterior.display())?;
        writeln!(f, "made from {}, {}", self.left, tasks::describe(&self.task))?;
        if !self.names_dropped.is_empty() {
            writeln!(f, "no more   {}", self.names_dropped.join(", "))?;
        }
        if self.others > 0 {
            writeln!(f, "passed over {} examples that are not of this model", self.others)?;
        }
        if self.calibration_dropped {
            writeln!(
                f,
                "The calibration goes with the old model: run `priorfit calibrate` again."
            )?;
        }
        if self.checkpoints_removed {
            writeln!(f, "Checkpoints of a run that had not ended are removed.")?;
        }
        if let Some(path) = &self.certificate {
            writeln!(f, "certificate {}", path.display())?;
        }
        if self.deleted > 0 {
            writeln!(f, "deleted   {} files", self.deleted)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note      {note}"))?;
        if let Some(device) = &self.ran_on {
            writeln!(f, "took      {:.1} s on {device}", self.seconds)?;
        }
        self.write_outside(f)
    }
}

impl Report {
    fn write_outside(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.verified.is_some() {
            return Ok(());
        }
        if !self.outside.is_empty() {
            writeln!(f, "\nThese files still hold it (--delete-files deletes them):")?;
            let shown = self.outside.iter().take(SHOWN);
            shown.clone().try_for_each(|path| writeln!(f, "  {}", path.display()))?;
            if self.outside.len() > SHOWN {
                writeln!(f, "  and {} more", self.outside.len() - SHOWN)?;
            }
        }
        writeln!(
            f,
            "\nNot touched: exports and deltas of the old model, priors made from it, backups."
        )
    }
}

/// What is left of a model that was deleted.
#[derive(Serialize)]
pub struct Dropped {
    pub posterior: PathBuf,
    /// The network before adaptation.
    pub backbones: Vec<PathBuf>,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The model in {} is deleted.", self.posterior.display())?;
        for path in &self.backbones {
            writeln!(f, "before    {}, the network before adaptation", path.display())?;
        }
        writeln!(f, "\nNot touched: the examples, exports, deltas, priors made from it, backups.")
    }
}

/// What a model was made from after examples were forgotten.
#[derive(Serialize)]
pub struct Certificate {
    version: u32,
    program: String,
    /// When it was written, in seconds since 1970.
    unix_time: u64,
    forgotten: Count,
    made_from: Count,
    /// SHA-256 over the lines of its record's hashes: training examples, then held-out ones.
    examples: String,
    backbone: String,
    prior: Option<String>,
    device: String,
    /// SHA-256 of each file of the folder.
    files: BTreeMap<String, String>,
    statement: &'static str,
}

const STATEMENT: &str = "The model in these files was made anew from the backbone, the prior and \
    the examples counted here, without any state of the model before. `priorfit forget --verify` \
    makes it again from the same examples and compares every bit.";

impl Certificate {
    /// That of the model that `folder` holds now.
    pub fn of(folder: &Path, rest: &Rest) -> Result<Self> {
        let model = Posterior::load(folder)?;
        let replay = Replay::of(&model)?;
        let Record { program, train, validation, prior, device, .. } = replay.record();
        let lines = train.iter().chain(validation.iter().flatten());
        let lines: String = lines.map(|hash| format!("{hash}\n")).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Certificate {
            version: 1,
            program: program.clone(),
            unix_time: now.map_or(0, |time| time.as_secs()),
            forgotten: Count::forgotten(rest),
            made_from: Count::left(rest),
            examples: hex(lines.as_bytes()),
            backbone: model.description().backbone.clone(),
            prior: prior.clone(),
            device: device.clone(),
            files: hashes(folder)?,
            statement: STATEMENT,
        })
    }

    /// Writes it to `path`, in the place of an earlier one.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal("a certificate is always JSON").caused_by(e))?;
        atomic_file::write(path, |file| file.write_all(&json))
    }
}

/// Where the certificate of a folder goes.
pub fn beside(folder: &Path) -> PathBuf {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let mut name = full.file_name().unwrap_or_default().to_os_string();
    name.push(SUFFIX);
    full.with_file_name(name)
}

/// SHA-256 of each file of a posterior.
fn hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    let hash = |path: PathBuf| {
        let bytes = fs::read(&path).map_err(|e| Error::io("cannot read", &path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, hex(&bytes)))
    };
    Posterior::files_in(folder)?.into_iter().map(hash).collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
