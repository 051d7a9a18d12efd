//! Backbones from files: what all commands do with them first.

use std::path::Path;
use std::sync::Arc;

use priorfit::data::Preprocess;
use priorfit::error::{Context, Error, Result};
use priorfit::onnx::Model;

/// Batch where the file leaves it open: more than one, so that mixing of examples would show.
const BATCH: usize = 2;
/// Channels where the file leaves them open.
const CHANNELS: usize = 3;
/// Height and width where the file leaves them open.
const SIDE: usize = 224;

/// The file up to its features; see [`Model::cut_at_features`].
///
/// # Errors
/// Those of [`Model::load`] and of cutting, with the file's name.
pub fn load(path: &Path, features: Option<&str>) -> Result<Arc<Model>> {
    let model = Model::load(path)?.cut_at_features(features);
    Ok(Arc::new(model.context(|| path.display().to_string())?))
}

/// The file up to its last feature map; see [`Model::cut_at_map`].
///
/// # Errors
/// Those of [`load`].
pub fn load_map(path: &Path, features: Option<&str>) -> Result<Arc<Model>> {
    let model = Model::load(path)?.cut_at_map(features);
    Ok(Arc::new(model.context(|| path.display().to_string())?))
}

/// Checks that the model can be imported for such images, before any work on them.
///
/// # Errors
/// Those of [`Model::graph`], with the file's name.
pub fn check_import(path: &Path, model: &Model, input: &Preprocess) -> Result<()> {
    let graph = model.graph(&[1, input.channels, input.height, input.width]);
    graph.map(|_| ()).context(|| path.display().to_string())
}

/// A shape for the model's input: what the file fixes, and defaults where it leaves them open.
///
/// # Errors
/// When the file does not say how many dimensions there are.
pub fn default_shape(model: &Model) -> Result<Vec<usize>> {
    let dims = model.inputs().first().and_then(|input| input.dims.as_ref()).ok_or_else(|| {
        Error::unsupported("the file does not state the shape of its input")
            .hint("give it with --input-shape N,C,H,W")
    })?;
    let default = |axis| [BATCH, CHANNELS].get(axis).copied().unwrap_or(SIDE);
    Ok(dims.iter().enumerate().map(|(axis, dim)| dim.fixed().unwrap_or(default(axis))).collect())
}
