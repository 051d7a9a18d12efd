//! What takes longer than a frame and is no adaptation, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use priorfit::data::Dataset;
use priorfit::posterior::{
    Calibration, CalibrationSettings, DrawPrecision, EarlyExit, ExportSettings, Posterior,
};
use priorfit::threads::Threads;
use priorfit::{Error, Result};
use serde::Serialize;

use crate::examples::EXAMPLES_MAX;
use crate::picture::Picture;
use crate::session::File;

/// Has the window look for news; may be called from any thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The largest share of familiar pictures that are called unfamiliar. A smaller one cannot be
/// promised of so few examples.
const FALSE_ALARMS: f64 = 0.1;

/// Files that are read at a time; a class takes no more examples either.
const FILES_MAX: usize = EXAMPLES_MAX;

pub(crate) enum Request {
    Read { class: usize, paths: Vec<PathBuf> },
    Calibrate { posterior: Arc<Posterior>, held_out: Dataset },
    Predict { ticket: u64, posterior: Arc<Posterior>, picture: Picture },
    Export { posterior: Arc<Posterior>, file: File, path: PathBuf },
}

pub(crate) enum Reply {
    Read(usize, Vec<Result<Picture>>),
    Calibrated(Result<Calibration>),
    Predicted(u64, Result<Forecast>),
    Exported(Result<PathBuf>),
    /// It failed for a reason that is a bug.
    Failed(Error),
}

/// What is predicted of a drawing.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// Each class with its probability.
    pub classes: Vec<(String, f64)>,
    /// The likeliest class, as an index.
    pub class: usize,
    /// The entropy of the probabilities, in nats.
    pub entropy: f64,
    /// What knowing the weights would take of it: how far the draws disagree.
    pub disagreement: f64,
    /// Whether it is unlike the examples that were held out; none where none were.
    pub is_unfamiliar: Option<bool>,
    /// The classes that hold the right one as often as was promised; empty where none was.
    pub set: Vec<String>,
}

/// The thread's two ends.
pub(crate) struct Worker {
    requests: Sender<Request>,
    replies: Receiver<Reply>,
}

impl Worker {
    /// Starts the thread, which ends with this.
    pub(crate) fn start(wake: Wake) -> Result<Self> {
        let (requests, inbox) = channel::<Request>();
        let (outbox, replies) = channel();
        let work = move || {
            let threads = Arc::new(Threads::new(1));
            for request in inbox {
                let done = catch_unwind(AssertUnwindSafe(|| answer(request, &threads)));
                let bug = |_| Reply::Failed(Error::internal("the worker panicked"));
                if outbox.send(done.unwrap_or_else(bug)).is_err() {
                    return;
                }
                wake();
            }
        };
        thread::Builder::new()
            .name("worker".to_string())
            .spawn(work)
            .map_err(|e| Error::internal("no thread for the worker").caused_by(e))?;
        Ok(Worker { requests, replies })
    }

    /// Asks for something; the answer is among the replies, later.
    pub(crate) fn ask(&self, request: Request) -> Result<()> {
        self.requests.send(request).map_err(|_| Error::internal("the worker has ended"))
    }

    /// What was answered since the last call.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        self.replies.try_iter().collect()
    }
}

fn answer(request: Request, threads: &Arc<Threads>) -> Reply {
    match request {
        Request::Read { class, paths } => {
            let paths = paths.iter().take(FILES_MAX);
            Reply::Read(class, paths.map(|path| Picture::of_file(path)).collect())
        }
        Request::Calibrate { posterior, held_out } => {
            let settings = CalibrationSettings { false_alarms: FALSE_ALARMS, ..Default::default() };
            let keep_on = &mut |_| true;
            Reply::Calibrated(posterior.calibrate(&held_out, threads, &settings, keep_on))
        }
        Request::Predict { ticket, posterior, picture } => {
            Reply::Predicted(ticket, predict(&posterior, &picture, threads))
        }
        Request::Export { posterior, file, path } => {
            let done = export(&posterior, file, &path);
            Reply::Exported(done.map(|()| path.canonicalize().unwrap_or(path)))
        }
    }
}

fn predict(posterior: &Posterior, picture: &Picture, threads: &Arc<Threads>) -> Result<Forecast> {
    let data = picture.to_dataset()?;
    let predictions = posterior.predictions(&data, threads, EarlyExit::Never, &mut |_| true)?;
    let task = &posterior.description().task;
    let names = task.names();
    let calibration = posterior.description().calibration.as_ref();
    let verdict = calibration.map(|calibration| calibration.verdict(&predictions, 0));
    let probabilities = predictions.probabilities.row(0);
    let set = verdict.as_ref().map_or(&[][..], |verdict| &verdict.set);
    Ok(Forecast {
        classes: names.iter().cloned().zip(probabilities.iter().copied()).collect(),
        class: predictions.class(0),
        entropy: predictions.entropy[0],
        disagreement: predictions.mutual_information[0],
        is_unfamiliar: verdict.as_ref().map(|verdict| verdict.unfamiliar),
        set: set.iter().map(|&class| names[class].clone()).collect(),
    })
}

/// Writes the file, unless there is one of this name.
fn export(posterior: &Posterior, file: File, path: &Path) -> Result<()> {
    if path.exists() {
        let message = format!("there is a file {} already", path.display());
        return Err(Error::invalid(message).hint("give another name"));
    }
    match file {
        File::Onnx => {
            let settings = ExportSettings { each: false, external_data: false };
            posterior.export(path, settings).map(|_| ())
        }
        File::Delta => posterior.save_delta(path, DrawPrecision::F16),
    }
}
