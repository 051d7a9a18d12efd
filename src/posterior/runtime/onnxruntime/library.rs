//! The library of ONNX Runtime, and its environment: a process has one of each.
//!
//! The binding keeps the first library that it has opened, and its environment can be made once.
//! So both are kept here, and a second library is an error, not the first one again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::caught;
use crate::error::{Error, Result};

/// What this process has opened.
static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

struct Opened {
    library: PathBuf,
    environment: Option<Environment>,
}

/// The environment of `library`.
///
/// # Errors
/// When there is no such library, it is no ONNX Runtime or too old, or this process has opened
/// another.
pub(super) fn environment(library: &Path) -> Result<Environment> {
    let library = located(library)?;
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*opened {
        Some(first) if first.library != library => {
            let message = format!("this process has opened {} before", first.library.display());
            return Err(Error::unsupported(message).hint("a process opens one ONNX Runtime"));
        }
        Some(Opened { environment: Some(environment), .. }) => return Ok(environment.clone()),
        _ => {}
    }
    // Without a library that is known to open, the binding looks for one by itself, and panics.
    let builder = ort::init_from(&library).map_err(|error| {
        Error::unsupported(format!("cannot open ONNX Runtime: {error}"))
            .caused_by(error)
            .hint(format!("expected the library of version 1.{} or later", ort::MINOR_VERSION))
    })?;
    let opened = opened.insert(Opened { library, environment: None });
    let environment = caught("starting ONNX Runtime", || {
        let builder = builder.with_name("priorfit").with_telemetry(false);
        let environment = builder.with_logger(Arc::new(forward)).build()?;
        environment.set_log_level(LogLevel::Warning);
        Ok(environment)
    })?;
    opened.environment = Some(environment.clone());
    Ok(environment)
}

/// The file itself where there is one; else a name that the system's loader may know.
fn located(library: &Path) -> Result<PathBuf> {
    if library.is_file() {
        return library.canonicalize().map_err(|error| Error::io("cannot open", library, error));
    }
    match library.components().count() {
        1 if !library.is_dir() => Ok(library.to_path_buf()),
        _ => Err(Error::unsupported(format!("there is no library {}", library.display()))
            .hint("expected the file of ONNX Runtime, such as libonnxruntime.so")),
    }
}

/// What ONNX Runtime logs goes where everything goes.
fn forward(level: LogLevel, _category: &str, _id: &str, place: &str, message: &str) {
    let level = match level {
        LogLevel::Fatal | LogLevel::Error => log::Level::Error,
        LogLevel::Warning => log::Level::Warn,
        LogLevel::Info => log::Level::Debug,
        LogLevel::Verbose => log::Level::Trace,
    };
    log::log!(level, "ONNX Runtime: {message} ({place})");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("libonnxruntime.so");
        std::fs::write(&text, "text").expect("written");
        let missing = folder.path().join("libmissing.so");
        for (library, expected) in [
            (text.as_path(), "cannot open ONNX Runtime"),
            (missing.as_path(), "there is no library"),
            (folder.path(), "there is no library"),
            (Path::new("libno-such-library-anywhere.so"), "cannot open ONNX Runtime"),
        ] {
            let error = environment(library).map(|_| ()).expect_err("no library");
            assert!(error.to_string().contains(expected), "{}: {error}", library.display());
        }
    }
}
