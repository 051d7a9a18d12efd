//! The one error type of the crate.
//!
//! An [`Error`] is a diagnostic: it names what failed, the offending thing (file, node, tensor,
//! with its shape), what was expected, and what to do about it. Callers branch on [`Kind`] only;
//! everything else is for reading. The grammar of a message is
//! `context: what failed: offending thing; expected ...; hint`.

use std::fmt;
use std::path::Path;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may want to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A file or buffer is not what its format demands (truncated, hostile, inconsistent).
    Malformed,
    /// A valid request that this version cannot carry out (an operator, a file version).
    Unsupported,
    /// Two valid things that do not belong together (prior and backbone, shapes, labels).
    Mismatch,
    /// A setting or argument out of its range.
    InvalidArgument,
    /// Reading or writing failed in the operating system.
    Io,
    /// Somebody else is writing to the same place; later it may be free.
    Busy,
    /// A device failed or was lost; the same work may succeed on another.
    Device,
    /// Training produced a value that is not finite.
    Diverged,
    /// The caller asked for the work to stop.
    Cancelled,
    /// A promise between this crate's own parts was broken: a bug here, never the user's fault.
    Internal,
}

/// An opaque error with a [`Kind`], a message, and the contexts it passed through.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    contexts: Vec<String>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` starts in lower case and has no trailing stop.
    #[cold]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(Inner { kind, message, contexts: Vec::new(), hint: None, source: None }))
    }

    /// A [`Kind::Malformed`] error.
    #[cold]
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// A [`Kind::Unsupported`] error.
    #[cold]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// A [`Kind::Mismatch`] error.
    #[cold]
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(Kind::Mismatch, message)
    }

    /// A [`Kind::InvalidArgument`] error.
    #[cold]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// A [`Kind::Internal`] error: state which promise was broken.
    #[cold]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// A [`Kind::Io`] error that names the file and what was being done to it.
    #[cold]
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        let mut error = Self::new(Kind::Io, format!("{doing} {}: {source}", path.display()));
        error.0.source = Some(Box::new(source));
        error
    }

    /// Adds the outer scene (a file, a node) in front of the message.
    #[cold]
    #[must_use]
    pub fn context(mut self, scene: impl Into<String>) -> Self {
        self.0.contexts.push(scene.into());
        self
    }

    /// Says what the user can do about it; the innermost hint is kept.
    #[cold]
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Keeps the underlying cause for [`std::error::Error::source`].
    #[cold]
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(cause.into());
        self
    }

    /// What a caller may branch on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

/// Adds a scene to a failed [`Result`] without building the text when it succeeded.
pub trait Context<T> {
    /// Like [`Error::context`], evaluated only on failure.
    fn context<S: Into<String>>(self, scene: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, scene: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.context(scene()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for scene in self.0.contexts.iter().rev() {
            write!(f, "{scene}: ")?;
        }
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}
