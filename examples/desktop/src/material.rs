//! What the program carries: a backbone that knows letters, its prior, and digits.

use std::io::Cursor;
use std::sync::Arc;

use priorfit::data::{Dataset, Preprocess, Resize, Statistics};
use priorfit::onnx::Model;
use priorfit::prior::Prior;
use priorfit::{Error, Result};
use serde::Deserialize;

use crate::picture::{Picture, SIDE};

const BACKBONE: &[u8] = include_bytes!("../../../models/demo/backbone.onnx");
const PRIOR: &[u8] = include_bytes!("../../../models/demo/prior.safetensors");
const DIGITS: &[u8] = include_bytes!("../../../models/demo/digits.npz");
const PREPROCESS: &[u8] = include_bytes!("../../../models/demo/preprocess.json");

/// The bundled files, read.
pub struct Material {
    /// The backbone, cut at its features.
    pub model: Arc<Model>,
    /// Its prior.
    pub prior: Prior,
    /// How pictures become its input.
    pub preprocess: Preprocess,
    /// Handwritten digits, which neither has seen.
    pub digits: Dataset,
}

/// `preprocess.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    mean: Vec<f32>,
    std: Vec<f32>,
    height: usize,
    width: usize,
    channels: usize,
}

impl Material {
    /// Reads the bundled files.
    ///
    /// # Errors
    /// None that a user could cause.
    pub fn bundled() -> Result<Self> {
        let stored: Stored = serde_json::from_slice(PREPROCESS)
            .map_err(|e| Error::internal("the preprocessing is JSON").caused_by(e))?;
        let Stored { mean, std, height, width, channels } = stored;
        if [channels, height, width] != [1, SIDE, SIDE] {
            return Err(Error::internal("the backbone takes pictures of another size"));
        }
        let plain = Preprocess::new(channels, height, width);
        Ok(Material {
            model: Arc::new(Model::from_bytes(BACKBONE, None)?.cut_at_features(None)?),
            prior: Prior::from_bytes(PRIOR)?,
            preprocess: Preprocess { resize: Resize::Stretch, ..plain }
                .normalised(Statistics { mean, std }),
            digits: Dataset::from_npz(Cursor::new(DIGITS))?,
        })
    }

    /// So many of the digits of each class, with their classes; other ones for each `seed`.
    ///
    /// # Errors
    /// When `per_class` is 0.
    pub fn samples(&self, seed: u64, per_class: usize) -> Result<Vec<(usize, Picture)>> {
        let (few, _) = self.digits.few(seed, per_class)?;
        let labels = few.labels(&(0..few.len()).collect::<Vec<_>>())?;
        let picture =
            |(index, label)| Ok((label, Picture::of_example(&few, index, Resize::Stretch)?));
        labels.into_iter().enumerate().map(picture).collect()
    }
}
