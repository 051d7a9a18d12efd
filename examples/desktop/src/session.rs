//! The program without its window: examples, the job, adapted models, predictions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use priorfit::adapt::{Adapted, Adapter, Ending, PosteriorKind, PosteriorSettings, Settings};
use priorfit::backend::Engine;
use priorfit::data::Dataset;
use priorfit::error::Kind;
use priorfit::job::{Budget, Host, Job, JobOptions, Snapshot, Status};
use priorfit::posterior::{Calibration, Posterior};
use priorfit::{Error, Result};
use serde::Serialize;

use crate::curve::Curve;
use crate::drawing::Drawing;
use crate::examples::Examples;
use crate::material::Material;
use crate::picture::Picture;
use crate::worker::{Forecast, Reply, Request, Wake, Worker};

/// From so many examples on a third is held out, to calibrate on: fewer promise nothing.
pub const HELD_OUT_FROM: usize = 60;
const HELD_OUT: f64 = 1.0 / 3.0;
/// How long a closing window waits for a job.
const PATIENCE: Duration = Duration::from_secs(2);
/// Networks of an adapted model, whose disagreement tells how far its weights are known.
const DRAWS: usize = 3;

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum File {
    /// The adapted network as ONNX.
    Onnx,
    /// What differs from the backbone.
    Delta,
}

impl File {
    /// The file that a user means by `name`, with its ending if that has none.
    pub fn path(self, name: &str) -> PathBuf {
        let path = PathBuf::from(name.trim());
        let ending = match self {
            File::Onnx => "onnx",
            File::Delta => "safetensors",
        };
        if path.extension().is_some() { path } else { path.with_extension(ending) }
    }
}

/// What the program is at.
#[derive(Clone, Debug)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// Adapting; how far it has come.
    Adapting(Snapshot),
    /// Calibrating what was adapted.
    Calibrating,
}

/// What the user is told.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    /// One line.
    pub text: String,
    /// Whether it is bad news.
    pub is_error: bool,
}

/// What is known of an adapted model.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Counted from 1.
    pub number: usize,
    /// Number of examples it has learned from.
    pub examples: usize,
    /// Examples that its calibration rests on.
    pub held_out: usize,
    /// The accuracy that cross-validation found, if there was any.
    pub accuracy: Option<f64>,
    /// Where it was adapted.
    pub ran_on: String,
}

/// An adapted model.
pub struct Version {
    /// What is known of it.
    pub about: About,
    posterior: Arc<Posterior>,
}

/// All of the program but its window.
pub struct Session {
    /// What can be taught.
    pub examples: Examples,
    material: Material,
    engine: Engine,
    steps: usize,
    wake: Wake,
    worker: Worker,
    drawing: Drawing,
    samples: u64,
    job: Option<Job>,
    /// What is to become a version when it is calibrated.
    pending: Option<Version>,
    held_out: Option<Dataset>,
    taught: usize,
    curve: Curve,
    versions: Vec<Version>,
    current: Option<usize>,
    prediction: Option<Forecast>,
    /// The newest prediction that is wanted, and the one that is being made.
    wanted: u64,
    asked: Option<u64>,
    exported: Vec<PathBuf>,
    notice: Option<Notice>,
}

impl Session {
    /// A session that adapts on `engine` with so many steps; `wake` is called when there is news.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn new(material: Material, engine: Engine, steps: usize, wake: Wake) -> Result<Self> {
        Ok(Session {
            examples: Examples::digits(),
            material,
            engine,
            steps,
            worker: Worker::start(Arc::clone(&wake))?,
            wake,
            drawing: Drawing::default(),
            samples: 0,
            job: None,
            pending: None,
            held_out: None,
            taught: 0,
            curve: Curve::default(),
            versions: Vec::new(),
            current: None,
            prediction: None,
            wanted: 0,
            asked: None,
            exported: Vec::new(),
            notice: None,
        })
    }

    /// Looks for news of the job and the worker. Never waits.
    pub fn tick(&mut self) {
        if let Some(job) = self.job.take() {
            let snapshot = job.handle().snapshot();
            snapshot.progress.into_iter().for_each(|progress| self.curve.push(progress));
            match job.handle().wait(Duration::ZERO) {
                true => self.finish(job.join()),
                false => self.job = Some(job),
            }
        }
        for reply in self.worker.replies() {
            self.take(reply);
        }
    }

    fn take(&mut self, reply: Reply) {
        match reply {
            Reply::Calibrated(outcome) => self.calibrated(outcome),
            Reply::Read(class, pictures) => self.add_read(class, pictures),
            Reply::Predicted(ticket, outcome) => self.predicted(ticket, outcome),
            Reply::Exported(Ok(path)) => {
                self.say(format!("Wrote {}", path.display()));
                self.exported.push(path);
            }
            Reply::Exported(Err(error)) => self.complain(&error),
            Reply::Failed(error) => {
                self.asked = None;
                self.pending.take().into_iter().for_each(|version| self.store(version));
                self.complain(&error);
            }
        }
    }

    /// What the program is at.
    pub fn activity(&self) -> Activity {
        match (&self.job, &self.pending) {
            (Some(job), _) => Activity::Adapting(job.handle().snapshot()),
            (None, Some(_)) => Activity::Calibrating,
            (None, None) => Activity::Idle,
        }
    }

    /// Whether it adapts or calibrates.
    pub fn is_busy(&self) -> bool {
        self.job.is_some() || self.pending.is_some()
    }

    /// The curve of the last adaptation.
    pub fn curve(&self) -> &Curve {
        &self.curve
    }

    /// What the user was told last.
    pub fn notice(&self) -> Option<&Notice> {
        self.notice.as_ref()
    }

    fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: false });
    }

    /// Tells the user of an error.
    pub fn complain(&mut self, error: &Error) {
        self.notice = Some(Notice { text: error.to_string(), is_error: true });
    }

    /// Tells the user of an error, if there is one.
    fn told<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome.map_err(|error| self.complain(&error)).ok()
    }
}

/// Drawing and teaching.
impl Session {
    /// What is drawn.
    pub fn drawing(&self) -> &Drawing {
        &self.drawing
    }

    /// Changes the drawing; what is predicted of it follows when [`Session::drawn`] is called.
    pub fn draw(&mut self, change: impl FnOnce(&mut Drawing)) {
        change(&mut self.drawing);
    }

    /// The pen was lifted.
    pub fn drawn(&mut self) {
        self.predict();
    }

    /// The drawing as the backbone will see it.
    pub fn picture(&self) -> Option<Picture> {
        Picture::of_drawing(&self.drawing).ok().flatten()
    }

    /// Adds the drawing to a class, and takes a new sheet.
    pub fn add_drawing(&mut self, class: usize) {
        let Some(picture) = self.picture() else {
            return self.complain(&Error::invalid("nothing is drawn yet"));
        };
        let added = self.examples.add(class, picture);
        if self.told(added).is_some() {
            self.drawing.clear();
            self.say(format!("Added to {}", self.examples.classes()[class].name));
            self.predict();
        }
    }

    /// Adds image files to a class, when they are read; those that cannot be are told of.
    pub fn add_files(&mut self, class: usize, paths: Vec<PathBuf>) {
        let asked = self.worker.ask(Request::Read { class, paths });
        self.told(asked);
    }

    fn add_read(&mut self, class: usize, pictures: Vec<Result<Picture>>) {
        let (count, mut added) = (pictures.len(), 0);
        let mut failed = None;
        for picture in pictures {
            match picture.and_then(|picture| self.examples.add(class, picture)) {
                Ok(()) => added += 1,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return self.complain(&error.context(format!("added {added} of {count}")));
        }
        let name = self.examples.classes().get(class).map(|class| class.name.clone());
        self.say(format!("Added {added} to {}", name.unwrap_or_default()));
    }

    /// Adds so many of the bundled digits to each class; other ones each time.
    pub fn add_samples(&mut self, per_class: usize) {
        let samples = self.material.samples(self.samples, per_class);
        let Some(samples) = self.told(samples) else { return };
        self.samples += 1;
        let add = |(class, picture)| self.examples.add(class, picture);
        let added: Result<()> = samples.into_iter().try_for_each(add);
        if self.told(added).is_some() {
            self.say(format!("Added {per_class} handwritten digits to each class"));
        }
    }

    /// Adds a class; whether there is one now.
    pub fn add_class(&mut self, name: &str) -> bool {
        let added = self.examples.add_class(name);
        self.told(added).is_some()
    }
}

/// Adapting.
impl Session {
    /// Starts to adapt to the examples, unless it is under way. `host` tells the job how frames do.
    pub fn adapt(&mut self, host: Option<Arc<dyn Host>>) {
        if self.is_busy() {
            return;
        }
        let started = self.start(host);
        if self.told(started).is_some() {
            self.curve = Curve::default();
            self.notice = None;
        }
    }

    fn start(&mut self, host: Option<Arc<dyn Host>>) -> Result<()> {
        let all = self.examples.dataset()?;
        let (train, held_out) = match all.len() >= HELD_OUT_FROM {
            true => all.split(0, HELD_OUT).map(|(train, rest)| (train, Some(rest)))?,
            false => (all, None),
        };
        let posterior = PosteriorSettings {
            draws: Some(DRAWS),
            ..PosteriorSettings::of(PosteriorKind::Ensemble)
        };
        let settings = Settings { steps: self.steps, posterior, ..Settings::default() };
        let preprocess = self.material.preprocess.clone();
        let adapter = Adapter::new(Arc::clone(&self.material.model), preprocess, &self.engine)
            .with_prior(self.material.prior.clone())?
            .with_settings(settings)?;
        // Half of the processors are left to the window and to others.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let wake = Arc::clone(&self.wake);
        let options = JobOptions {
            budget: Budget { threads: Some(processors.div_ceil(2)), ..Budget::default() },
            host,
            on_progress: Some(Box::new(move |snapshot| {
                // The window draws while a job is under way, unless it is hidden.
                if snapshot.status == Status::Ended {
                    wake();
                }
            })),
            ..JobOptions::default()
        };
        self.taught = train.len();
        self.held_out = held_out;
        self.job = Some(Job::start(adapter, train, None, options)?);
        Ok(())
    }

    /// Lets the job wait, or go on.
    pub fn pause(&mut self, is_paused: bool) {
        if let Some(job) = &self.job {
            match is_paused {
                true => job.handle().pause(),
                false => job.handle().resume(),
            }
        }
    }

    /// Ends the job after the step in hand; what it had is dropped, and models stay as they are.
    pub fn cancel(&mut self) {
        if let Some(job) = &self.job {
            job.handle().cancel();
        }
    }

    /// Cancels the job and waits for the step in hand, but not for long: a device is not to be
    /// taken away under it.
    pub fn close(&mut self) {
        if let Some(job) = self.job.take() {
            job.handle().cancel();
            if !job.handle().wait(PATIENCE) {
                log::warn!("the job's last step takes long; it is left to itself");
            }
        }
    }

    /// The job has ended.
    fn finish(&mut self, outcome: Result<Adapted>) {
        let adapted = match outcome {
            Ok(adapted) if adapted.ending == Ending::Stopped => return self.say("Cancelled"),
            Err(error) if error.kind() == Kind::Cancelled => return self.say("Cancelled"),
            Err(error) => return self.complain(&error),
            Ok(adapted) => adapted,
        };
        let held_out = self.held_out.take();
        let notice = adapted.notice.map(|text| Notice { text, is_error: true });
        let about = About {
            number: self.versions.len() + 1,
            examples: self.taught,
            held_out: held_out.as_ref().map_or(0, Dataset::len),
            accuracy: adapted.choice.as_ref().map(|choice| choice.kept().held_out.score),
            ran_on: adapted.ran_on,
        };
        let version = Version { about, posterior: Arc::new(adapted.posterior) };
        match held_out {
            None => self.store(version),
            Some(held_out) => self.calibrate(version, held_out),
        }
        self.notice = notice.or(self.notice.take());
    }

    fn calibrate(&mut self, version: Version, held_out: Dataset) {
        let posterior = Arc::clone(&version.posterior);
        match self.worker.ask(Request::Calibrate { posterior, held_out }) {
            Ok(()) => self.pending = Some(version),
            Err(error) => {
                self.store(version);
                self.complain(&error);
            }
        }
    }

    fn calibrated(&mut self, outcome: Result<Calibration>) {
        let Some(version) = self.pending.take() else { return };
        let Version { about, posterior } = version;
        // The worker has given its own back.
        let alone = Arc::try_unwrap(posterior);
        let (posterior, error) = match (alone, outcome) {
            (Ok(posterior), Ok(calibration)) => {
                let calibrated = posterior.with_calibration(Some(calibration));
                let Some(posterior) = self.told(calibrated) else { return };
                (Arc::new(posterior), None)
            }
            (Ok(posterior), Err(error)) => (Arc::new(posterior), Some(error)),
            (Err(shared), outcome) => (shared, outcome.err()),
        };
        self.store(Version { about, posterior });
        error.iter().for_each(|error| self.complain(error));
    }

    fn store(&mut self, version: Version) {
        let About { number, examples, .. } = version.about;
        self.say(format!("Model {number} has learned {examples} examples"));
        self.versions.push(version);
        self.select(Some(self.versions.len() - 1));
    }
}

/// Models and what they predict.
impl Session {
    /// The adapted models, oldest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The one in use; none is the backbone as it was.
    pub fn current(&self) -> Option<usize> {
        self.current
    }

    /// Uses another model, or with none the backbone, which knows no classes.
    pub fn select(&mut self, index: Option<usize>) {
        self.current = index.filter(|&index| index < self.versions.len());
        self.predict();
    }

    /// Goes back to the model before, or to the backbone.
    pub fn undo(&mut self) {
        if let Some(index) = self.current {
            self.select(index.checked_sub(1));
            self.say(match self.current {
                Some(index) => format!("Back to model {}", index + 1),
                None => "Back to the backbone as it was".to_string(),
            });
        }
    }

    /// Whether there is a model after the one in use.
    pub fn can_redo(&self) -> bool {
        self.current.map_or(0, |index| index + 1) < self.versions.len()
    }

    /// Goes forward again.
    pub fn redo(&mut self) {
        if self.can_redo() {
            self.select(Some(self.current.map_or(0, |index| index + 1)));
            self.say(format!("Model {} again", self.current.map_or(0, |index| index + 1)));
        }
    }

    /// What the model in use predicts of the drawing; none without either.
    pub fn prediction(&self) -> Option<&Forecast> {
        self.prediction.as_ref()
    }

    /// Writes the model in use to a file that is not there yet.
    pub fn export(&mut self, file: File, path: &Path) {
        let Some(version) = self.current.map(|index| &self.versions[index]) else {
            return self.complain(&Error::invalid("there is no adapted model to export yet"));
        };
        if path.as_os_str().is_empty() {
            return self.complain(&Error::invalid("the file to export to has no name"));
        }
        let posterior = Arc::clone(&version.posterior);
        let asked = self.worker.ask(Request::Export { posterior, file, path: path.to_path_buf() });
        self.told(asked);
    }

    /// The files that were written.
    pub fn exported(&self) -> &[PathBuf] {
        &self.exported
    }

    /// Wants the drawing predicted anew. One prediction is made at a time: a hand that draws fast
    /// leaves no queue behind it.
    fn predict(&mut self) {
        self.wanted += 1;
        if self.drawing.is_empty() || self.current.is_none() {
            self.prediction = None;
        } else if self.asked.is_none() {
            self.ask_prediction();
        }
    }

    fn ask_prediction(&mut self) {
        let version = self.current.map(|index| &self.versions[index]);
        let (Some(version), Some(picture)) = (version, self.picture()) else { return };
        let posterior = Arc::clone(&version.posterior);
        let ticket = self.wanted;
        let asked = self.worker.ask(Request::Predict { ticket, posterior, picture });
        self.asked = self.told(asked).map(|()| ticket);
    }

    fn predicted(&mut self, ticket: u64, outcome: Result<Forecast>) {
        self.asked = None;
        if ticket != self.wanted {
            return self.ask_prediction();
        }
        self.prediction = self.told(outcome);
    }
}
