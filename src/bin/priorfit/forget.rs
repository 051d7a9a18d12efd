//! `forget`: a model made again without some of its examples, as if they had never been there.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use priorfit::adapt::{
    Adapted, Adapter, Checkpoints, Data, Ending, Existing, Forget as Wanted, Replay, Rest,
};
use priorfit::claim::Claim;
use priorfit::data::Dataset;
use priorfit::error::{Context, Error, Kind, Result};
use priorfit::job::{Job, JobOptions};
use priorfit::posterior::Posterior;
use priorfit::prior::Prior;

use self::report::{Certificate, Report};
use crate::adapt::{CHECKPOINTS, FORGETTING};
use crate::globals::Globals;
use crate::monitor::Monitor;
use crate::options::{BudgetArgs, Destination, check_destination};

/// Forget examples, and all that a model has learned from them
///
/// The model is made again from its backbone, its prior and the examples that are left, with its
/// own settings, and takes the place of the old one in one moment. It has the bits that `adapt`
/// would have given on the same device without the forgotten examples: class names, statistics, the
/// strength of the prior and the weights are all found anew. Until it is done the old model stays.
/// The calibration goes with the old model, and so do checkpoints of it; a certificate says what
/// the new one was made from. Ctrl-C stops after the step in hand, and the same command goes on.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit forget --posterior mine/ --data photos/ --examples photos/ant/3.png photos/ant/7.png
  priorfit forget --posterior mine/ --data photos/ --examples photos/ant/    a whole class
  priorfit forget --posterior mine/ --data digits.npz --examples 3 17        counted from 0
  priorfit forget --posterior mine/ --data photos/ --missing      files that you have deleted
  priorfit forget --posterior mine/ --data photos/ --hash 5f0c1e7a --dry-run
  priorfit forget --posterior mine/ --data photos/ --verify       is the model what it says it is?
  priorfit forget --posterior mine/ --drop                        all of it, at once

An example is told by its pixels and its target, wherever its file is and whatever it is called.
With an image go all its copies. The data may hold other examples, too; they are passed over.

What is outside of the folder is not touched: exports, deltas, priors that were made from the model,
backups, and without --delete-files the images themselves.")]
pub struct Forget {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// The examples that it was made from
    #[arg(long, value_name = "DATA", required_unless_present = "drop")]
    data: Option<PathBuf>,
    /// The held-out examples that `adapt --val` had
    #[arg(long, value_name = "DATA")]
    val: Option<PathBuf>,
    /// The stored prior's file, if there was one
    #[arg(long, value_name = "FILE")]
    prior: Option<PathBuf>,
    #[command(flatten)]
    what: What,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with_all = ["verify", "drop"])]
    dry_run: bool,
    /// Delete the named images and their masks, too, once the model is replaced, and folders of
    /// classes that are empty then
    #[arg(long, conflicts_with_all = ["verify", "drop"])]
    delete_files: bool,
    /// Where the certificate goes [default: the name of the folder with .forgotten.json, beside it]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["verify", "drop", "dry_run"])]
    certificate: Option<PathBuf>,
    #[command(flatten)]
    budget: BudgetArgs,
}

#[derive(Args)]
#[command(next_help_heading = "What")]
#[group(required = true, multiple = true)]
struct What {
    /// Files of --data or --val, or folders of such; of an .npz the numbers of examples of --data,
    /// counted from 0
    #[arg(long, value_name = "FILE|N", num_args = 1..)]
    examples: Vec<PathBuf>,
    /// Examples by their hashes in posterior.json, or the first digits of these
    #[arg(long, value_name = "HEX", num_args = 1..)]
    hash: Vec<String>,
    /// All examples that the data do not have any more
    #[arg(long)]
    missing: bool,
    /// Nothing: make the model again and compare it with the stored one, bit by bit
    #[arg(long, conflicts_with_all = ["examples", "hash", "missing"])]
    verify: bool,
    /// Everything: delete the model without making another. What is left is the network before
    /// adaptation
    #[arg(long, conflicts_with_all = ["examples", "hash", "missing", "verify"])]
    drop: bool,
}

/// The opened data.
struct Opened {
    train: Dataset,
    validation: Option<Dataset>,
}

impl Forget {
    /// Runs the command.
    pub fn run(&self, globals: &Globals, started: Instant) -> Result<ExitCode> {
        check_destination(&self.certificate(), Destination::File)?;
        // A claim would make the folder.
        std::fs::metadata(&self.posterior)
            .map_err(|e| Error::io("cannot open", &self.posterior, e))?;
        let _claim = (!self.dry_run).then(|| Claim::take(&self.posterior)).transpose()?;
        if self.what.drop {
            return self.drop_model(globals);
        }
        if !self.dry_run {
            // What a program that was killed has left of an old model.
            Posterior::sweep(&self.posterior)?;
        }
        let folder = || self.posterior.display().to_string();
        let posterior = Posterior::load(&self.posterior)?;
        let replay = Replay::of(&posterior).context(folder)?;
        let prior = self.prior.as_deref().map(Prior::load).transpose()?;
        let engine = globals.engine()?;
        let data = self.open()?;
        let wanted = self.wanted(&data)?;
        let opened = Data { train: &data.train, validation: data.validation.as_ref() };
        let rest = replay.without(opened, &wanted, engine.threads())?;
        let adapter = replay.adapter(prior, &rest.train, &engine)?;
        let mut report = Report::new(&self.posterior, &posterior, &replay, &rest)?;
        report.outside = files(&data, &rest.places);
        let backend = engine.open()?.name();
        if !replay.is_of_device(&backend) {
            let device = &replay.record().device;
            report.notes.push(format!("it was made on {device}; {backend} rounds in another way"));
        }
        if self.dry_run {
            report.dry_run = true;
            globals.print(&report)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !rest.is_untouched() || self.what.verify {
            self.replay(globals, adapter, &posterior, &rest, &mut report)?;
        }
        if !self.what.verify {
            self.finish(&rest, &mut report)?;
        }
        if self.delete_files {
            report.deleted = delete(&report.outside)?;
            report.outside.clear();
        }
        report.seconds = started.elapsed().as_secs_f64();
        globals.print(&report)?;
        let is_well = report.ending != Some(Ending::Diverged) && report.differences.is_empty();
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Makes the model again; then puts it in the old one's place, or compares the two.
    fn replay(
        &self,
        globals: &Globals,
        adapter: Adapter,
        old: &Posterior,
        rest: &Rest,
        report: &mut Report,
    ) -> Result<()> {
        let adapter = adapter.with_checkpoints(self.checkpoints(FORGETTING));
        let options = JobOptions { budget: self.budget.budget(), ..JobOptions::default() };
        let mut monitor = Monitor::new(globals)?;
        let job = Job::start(adapter, rest.train.clone(), rest.validation.clone(), options)?;
        monitor.follow(&job);
        let Adapted { posterior, ending, notice, ran_on, .. } = job.join().map_err(|e| {
            e.hint("the old model is untouched; to be rid of it all the same, use --drop")
        })?;
        if ending == Ending::Stopped {
            return Err(Error::new(Kind::Cancelled, "stopped: the model is still the old one")
                .hint("the same command goes on from here"));
        }
        report.made(ending, notice, ran_on);
        if self.what.verify {
            report.verified(posterior.differences(&self.posterior, old.precision())?);
            return self.checkpoints(FORGETTING).remove();
        }
        // While the old model is still there: what follows it is repeated by the same command.
        self.remove_checkpoints(report)?;
        posterior.save_as(&self.posterior, old.precision())
    }

    /// Removes what is left of the way here, and says what the model is made from.
    fn finish(&self, rest: &Rest, report: &mut Report) -> Result<()> {
        self.remove_checkpoints(report)?;
        self.checkpoints(FORGETTING).remove()?;
        let path = self.certificate();
        Certificate::of(&self.posterior, rest)?.save(&path)?;
        report.finished(&self.posterior, path)
    }

    fn checkpoints(&self, name: &str) -> Checkpoints {
        Checkpoints { path: self.posterior.join(name), existing: Existing::Supersede }
    }

    /// Removes those of an adaptation that did not come to its end: it may have had the examples.
    fn remove_checkpoints(&self, report: &mut Report) -> Result<()> {
        let checkpoints = self.checkpoints(CHECKPOINTS);
        report.checkpoints_removed |= checkpoints.exist()?;
        checkpoints.remove()
    }

    /// Deletes the model, whatever state it is in.
    fn drop_model(&self, globals: &Globals) -> Result<ExitCode> {
        let backbones = Posterior::withdraw(&self.posterior)?;
        for name in [CHECKPOINTS, FORGETTING] {
            self.checkpoints(name).remove()?;
        }
        let certificate = self.certificate();
        if certificate.exists() {
            std::fs::remove_file(&certificate)
                .map_err(|e| Error::io("cannot remove", &certificate, e))?;
        }
        globals.print(&report::Dropped { posterior: self.posterior.clone(), backbones })?;
        Ok(ExitCode::SUCCESS)
    }

    fn open(&self) -> Result<Opened> {
        let data = self.data.as_deref();
        let data = data.ok_or_else(|| Error::internal("the command line asks for data"))?;
        let is_listed = |path: &&Path| !path.is_dir() || path.join("labels.csv").is_file();
        let listed = [Some(data), self.val.as_deref()].into_iter().flatten().find(is_listed);
        if let Some(path) = listed.filter(|_| self.delete_files) {
            let message = format!("{} is no plain folder of images", path.display());
            return Err(Error::unsupported(message).hint(
                "--delete-files changes no .npz and no labels.csv: take the examples out of it, \
                 and forget with --missing",
            ));
        }
        let train = Dataset::open(data)?;
        Ok(Opened { train, validation: self.val.as_deref().map(Dataset::open).transpose()? })
    }

    /// What is to be forgotten, by places in the data.
    fn wanted(&self, data: &Opened) -> Result<Wanted> {
        let What { hash, missing, .. } = &self.what;
        let mut wanted = Wanted { hashes: hash.clone(), missing: *missing, ..Wanted::default() };
        let paths = Paths::of(&data.train);
        let held_out = data.validation.as_ref().map(Paths::of).unwrap_or_default();
        for name in &self.what.examples {
            let number = name.to_str().and_then(|name| name.parse().ok());
            if let (Some(number), true) = (number, data.train.path(0).is_none()) {
                wanted.train.push(number);
                continue;
            }
            let path = name.canonicalize().map_err(|e| {
                let error = Error::io("cannot find", name, e);
                error.hint("for files that are gone already, use --missing")
            })?;
            let (train, held_out) = (paths.inside(&path), held_out.inside(&path));
            if train.is_empty() && held_out.is_empty() {
                let message = format!("{} is none of the examples", name.display());
                return Err(Error::invalid(message).hint(match data.train.path(0) {
                    Some(_) => "expected an image of --data or --val, or a folder of such",
                    None => "expected the number of an example of --data, counted from 0",
                }));
            }
            wanted.train.extend(train);
            wanted.validation.extend(held_out);
        }
        Ok(wanted)
    }

    fn certificate(&self) -> PathBuf {
        self.certificate.clone().unwrap_or_else(|| report::beside(&self.posterior))
    }
}

/// The files of the examples at these places.
fn files(data: &Opened, places: &Wanted) -> Vec<PathBuf> {
    let of = |data: &Dataset, at: &[usize]| -> Vec<PathBuf> {
        at.iter().flat_map(|&at| data.files(at)).map(Path::to_path_buf).collect()
    };
    let mut files = of(&data.train, &places.train);
    files.extend(data.validation.iter().flat_map(|held| of(held, &places.validation)));
    files.sort();
    files.dedup();
    files
}

/// Deletes files, and folders that are empty then; how many files.
fn delete(files: &[PathBuf]) -> Result<usize> {
    for file in files {
        std::fs::remove_file(file).map_err(|e| Error::io("cannot remove", file, e))?;
        // What is not empty has something else in it.
        let _ = file.parent().map(std::fs::remove_dir);
    }
    Ok(files.len())
}

/// The files of a data set, as they are called whatever way leads to them.
#[derive(Default)]
struct Paths(Vec<(PathBuf, usize)>);

impl Paths {
    fn of(data: &Dataset) -> Self {
        let paths = (0..data.len()).filter_map(|at| {
            let path = data.path(at)?;
            Some((path.canonicalize().unwrap_or_else(|_| path.to_path_buf()), at))
        });
        Paths(paths.collect())
    }

    /// The examples that are `path` or lie in it.
    fn inside(&self, path: &Path) -> Vec<usize> {
        self.0.iter().filter(|(file, _)| file.starts_with(path)).map(|(_, at)| *at).collect()
    }
}
