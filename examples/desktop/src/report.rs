//! The window's state as JSON, for programs that drive it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use priorfit::job::Snapshot;
use priorfit::{Error, Result};
use serde::Serialize;

use crate::controls::Controls;
use crate::frames::{Frames, Times};
use crate::session::{About, Activity, Notice, Session};
use crate::worker::Forecast;

/// Time between two reports at least.
const EVERY: Duration = Duration::from_millis(100);

/// What the window shows.
#[derive(Debug, Serialize)]
pub struct Report {
    device: String,
    examples: Vec<(String, usize)>,
    strokes: usize,
    is_busy: bool,
    job: Option<Snapshot>,
    curve: usize,
    models: Vec<About>,
    current: Option<usize>,
    prediction: Option<Forecast>,
    exported: Vec<PathBuf>,
    notice: Option<Notice>,
    /// The window's frames without a job beside them, and with one.
    alone: Times,
    beside: Times,
    controls: Controls,
}

impl Report {
    pub(crate) fn of(session: &Session, frames: &Frames, at: (&str, &Controls)) -> Self {
        let (device, controls) = at;
        let job = match session.activity() {
            Activity::Adapting(snapshot) => Some(snapshot),
            Activity::Idle | Activity::Calibrating => None,
        };
        let of = |class: &crate::Class| (class.name.clone(), class.examples.len());
        Report {
            device: device.to_string(),
            examples: session.examples.classes().iter().map(of).collect(),
            strokes: session.drawing().strokes().len(),
            is_busy: session.is_busy(),
            job,
            curve: session.curve().len(),
            models: session.versions().iter().map(|version| version.about.clone()).collect(),
            current: session.current(),
            prediction: session.prediction().cloned(),
            exported: session.exported().to_vec(),
            notice: session.notice().cloned(),
            alone: frames.alone(),
            beside: frames.beside(),
            controls: controls.clone(),
        }
    }
}

/// Keeps a file up to date.
pub(crate) struct Reporter {
    path: PathBuf,
    written: Vec<u8>,
    at: Option<Duration>,
}

impl Reporter {
    pub(crate) fn new(path: &Path) -> Self {
        Reporter { path: path.to_path_buf(), written: Vec::new(), at: None }
    }

    /// Whether it is time for another report.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.at.is_none_or(|at| now.saturating_sub(at) >= EVERY)
    }

    /// Replaces the file, if there is something new.
    pub(crate) fn write(&mut self, report: &Report, now: Duration) -> Result<()> {
        self.at = Some(now);
        let bytes = serde_json::to_vec_pretty(report)
            .map_err(|e| Error::internal("a report is JSON").caused_by(e))?;
        if bytes != self.written {
            // Whole or not at all, but not synced: who reads it does so while the window is there.
            let new = self.path.with_extension("new");
            std::fs::write(&new, &bytes)
                .and_then(|()| std::fs::rename(&new, &self.path))
                .map_err(|e| Error::io("cannot write", &self.path, e))?;
            self.written = bytes;
        }
        Ok(())
    }
}
