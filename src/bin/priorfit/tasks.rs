//! What is to be learned: options, and words for it.

use std::path::Path;

use clap::{Args, ValueEnum};
use priorfit::data::{Dataset, TargetKind};
use priorfit::error::{Context, Error, Result};
use priorfit::task::Task;

/// What the examples' targets mean.
#[derive(Args)]
pub struct TaskArgs {
    /// What to learn; by default what the data look like
    #[arg(long, value_enum)]
    task: Option<Kind>,
    /// The number of pixels of masks that count for nothing [default: 255]
    #[arg(long, value_name = "CLASS")]
    ignore: Option<u8>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// One class for each image
    Classify,
    /// Any number of labels for each image
    Multilabel,
    /// One or more numbers for each image
    Regress,
    /// A class for each pixel
    Segment,
}

impl TaskArgs {
    /// The examples at `path`, with targets of the kind that is wanted.
    ///
    /// # Errors
    /// When they have no targets, or others.
    pub fn open(&self, path: &Path) -> Result<Dataset> {
        let data = Dataset::open(path)?;
        let wanted = self.task.map(|kind| match kind {
            Kind::Classify => TargetKind::Class,
            Kind::Multilabel => TargetKind::Labels,
            Kind::Regress => TargetKind::Numbers,
            Kind::Segment => TargetKind::Mask,
        });
        let data = wanted.map_or(Ok(data.clone()), |kind| data.read_as(kind));
        let data = match self.ignore {
            Some(class) => data.and_then(|data| data.with_ignored(class)),
            None => data,
        };
        data.context(|| path.display().to_string())
    }
}

impl TaskArgs {
    /// Checks that nothing is said of targets where `cause` looks at none.
    ///
    /// # Errors
    /// When something is.
    pub fn check_none(&self, cause: &str) -> Result<()> {
        match (self.task, self.ignore) {
            (None, None) => Ok(()),
            _ => Err(Error::invalid(format!("--task and --ignore have no meaning with {cause}"))
                .hint("leave them out")),
        }
    }
}

/// What is learned, such as "3 classes".
pub fn describe(task: &Task) -> String {
    let count = task.outputs();
    let what = match task {
        Task::Classification { .. } => "classes",
        Task::MultiLabel { .. } => "labels",
        Task::Regression { .. } => "numbers",
        Task::Segmentation { .. } => "classes of pixels",
    };
    match count {
        1 => format!("1 {}", what.replacen("classes", "class", 1).trim_end_matches('s')),
        _ => format!("{count} {what}"),
    }
}
