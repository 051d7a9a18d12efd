//! An adapted network as ONNX, for any program that runs ONNX.
//!
//! The file is the backbone's own: its graph, names, metadata and operator sets, with the adapted
//! weights and, after the features, the head. Outputs, by task:
//!
//! | task | outputs |
//! |---|---|
//! | classes | `logits` `[N, C]`, `probabilities` `[N, C]` |
//! | labels | `logits` `[N, C]`, `probabilities` `[N, C]`, each by itself |
//! | numbers | `numbers` `[N, D]`, in the data's units |
//! | masks | `logits` `[N, C, H, W]`, `probabilities` `[N, C, H, W]` |
//!
//! Logits are divided by the temperature already. The metadata `priorfit` is the JSON of
//! [`About`]: what the outputs mean, and how images become the input. A single file has the
//! weights of one draw, or the mean of all; what [`Posterior::predict`] gives is the mean over the
//! draws of `probabilities`, and so of one file for each draw.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::mean;
use super::{Calibration, Posterior};
use crate::data::Preprocess;
use crate::error::{Context, Error, Result};
use crate::onnx::{Appended, Dim, Layer, Linear, Model};
use crate::prior::Weights;
use crate::task::{FEATURES, HEAD_BIAS, HEAD_WEIGHT, LOGITS, Standard, Task, interpolation};
use crate::tensor::{Shape, Tensor, tensor};

/// The metadata that says what an exported file is.
pub const METADATA: &str = "priorfit";
/// Name of the output of probabilities.
pub const PROBABILITIES: &str = "probabilities";
/// Name of the output of numbers.
pub const NUMBERS: &str = "numbers";

/// The version of [`About`].
const ABOUT_VERSION: u32 = 1;

/// The weights of one exported network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exported {
    /// The mean of the draws' weights: one network, which is not the average of their predictions.
    Mean,
    /// Those of one draw, counted from 0.
    Draw(usize),
}

/// Which files are written, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// One file for each draw, instead of one with the mean of their weights.
    pub each: bool,
    /// The elements of large tensors in a second file beside each. Files beyond 2 GiB need it.
    pub external_data: bool,
}

/// What an exported file says of itself; its metadata [`METADATA`], as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Of this description: 1.
    pub version: u32,
    /// SHA-256 of the backbone's weights before adaptation.
    pub backbone: String,
    /// What is predicted, with the names of the outputs' columns.
    pub task: Task,
    /// How images become the input.
    pub preprocess: Preprocess,
    /// What logits have been divided by.
    pub temperature: f64,
    /// Whose weights they are.
    pub weights: Exported,
    /// How many draws the posterior has.
    pub draws: usize,
    /// What held-out examples taught of the average over all draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

impl About {
    /// What `model` says of itself; nothing where it was not exported from here.
    ///
    /// # Errors
    /// When it says something else than this.
    pub fn of(model: &Model) -> Result<Option<Self>> {
        let parse = |text| serde_json::from_str(text).map_err(|e| Error::malformed(e.to_string()));
        let about = model.metadata(METADATA).map(parse).transpose();
        about.context(|| format!("the metadata '{METADATA}'"))
    }
}

impl Posterior {
    /// The adapted network with its head, as an ONNX model; see the outputs in the documentation of
    /// [`About`]'s module.
    ///
    /// # Errors
    /// When there is no such draw, or the backbone cannot be imported.
    pub fn to_model(&self, weights: Exported) -> Result<Model> {
        let about = About {
            version: ABOUT_VERSION,
            backbone: self.description.backbone.clone(),
            task: self.task(),
            preprocess: self.description.preprocess.clone(),
            temperature: self.temperature(),
            weights,
            draws: self.draws.len(),
            calibration: self.description.calibration.clone(),
        };
        let json = serde_json::to_string(&about)
            .map_err(|e| Error::internal("a description is always JSON").caused_by(e))?;
        let draw = match weights {
            Exported::Mean => self.mean_weights()?,
            Exported::Draw(number) => self.draws.get(number).cloned().ok_or_else(|| {
                let count = self.draws.len();
                Error::invalid(format!("there is no draw {number}")).hint(format!("of {count}"))
            })?,
        };
        let model = self.moved(&draw)?;
        let layers = self.layers(&draw)?;
        Ok(model.extended(&layers)?.with_metadata(METADATA, json))
    }

    /// Writes the adapted network: to `path` its mean, or beside `path` one file for each draw,
    /// whose names end in the draw's number (`net.onnx`: `net-0.onnx`, `net-1.onnx`, ..).
    /// Each file takes its place whole or not at all. Gives the ONNX files.
    ///
    /// # Errors
    /// Those of [`Posterior::to_model`], and when a file cannot be written.
    pub fn export(&self, path: &Path, settings: ExportSettings) -> Result<Vec<PathBuf>> {
        let external = settings.external_data;
        if !settings.each {
            self.to_model(Exported::Mean)?.save(path, external)?;
            return Ok(vec![path.to_path_buf()]);
        }
        let mut paths = Vec::new();
        for number in 0..self.draws.len() {
            let path = numbered(path, number);
            self.to_model(Exported::Draw(number))?.save(&path, external)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// The mean of the draws; a single draw is its own, to the last bit.
    fn mean_weights(&self) -> Result<Weights> {
        let of = |name: &String| {
            let weights: Vec<&Tensor> = self.draws.iter().filter_map(|d| d.get(name)).collect();
            Ok((name.clone(), mean(&weights)?))
        };
        match &self.draws[..] {
            [draw] => Ok(draw.clone()),
            draws => draws[0].keys().map(of).collect(),
        }
    }

    /// The backbone with the weights of a draw.
    pub(super) fn moved(&self, draw: &Weights) -> Result<Model> {
        let own = draw.iter().filter(|(name, _)| self.model.weight(name).is_some());
        let model = self.model.with_weights(own.map(|(name, weight)| (name.as_str(), weight)))?;
        let Preprocess { height, width, .. } = self.description.preprocess;
        match self.description.task.is_dense() {
            true => model.with_image_size([height, width]),
            false => Ok(model),
        }
    }

    /// The shape of the backbone's output.
    fn features(&self) -> Result<Shape> {
        let Preprocess { channels, height, width, .. } = self.description.preprocess;
        let dims = self.model.inputs().first().and_then(|input| input.dims.as_ref());
        let batch = match dims.and_then(|dims| dims.first()) {
            Some(Dim::Fixed(batch)) => *batch,
            _ => 1,
        };
        let graph = self.model.graph(&[batch, channels, height, width])?;
        let output = graph.outputs().first().map(|&(_, value)| graph.shape(value).clone());
        output.ok_or_else(|| Error::unsupported("the model has no output"))
    }

    /// What follows the features, for the head of a draw.
    fn layers(&self, draw: &Weights) -> Result<Vec<Appended>> {
        let task = self.task();
        let count = task.outputs();
        let factor = (1.0 / self.temperature()) as f32;
        let mut layers = self.head_layers(draw, factor)?;
        let Preprocess { height, width, .. } = self.description.preprocess;
        let (extents, last) = match &task {
            Task::Regression { standard, .. } => {
                layers.push(shown(restoring(standard)?, NUMBERS, &[count]));
                return Ok(layers);
            }
            Task::MultiLabel { .. } => (vec![count], Layer::Sigmoid),
            Task::Classification { .. } => (vec![count], Layer::Softmax),
            Task::Segmentation { .. } => (vec![count, height, width], Layer::PixelSoftmax),
        };
        if let Some(head) = layers.last_mut() {
            head.output = Some((LOGITS, extents.clone()));
        }
        layers.push(shown(last, PROBABILITIES, &extents));
        Ok(layers)
    }

    /// What follows the features for raw outputs as [`Network`](super::Network) has them, with the
    /// head of a draw; flat features are an output, too.
    pub(super) fn raw_layers(&self, draw: &Weights) -> Result<Vec<Appended>> {
        let mut layers = self.head_layers(draw, 1.0)?;
        let count = self.task().outputs();
        let Preprocess { height, width, .. } = self.description.preprocess;
        if self.task().is_dense() {
            layers.push(shown(Layer::ChannelsLast, LOGITS, &[height, width, count]));
            return Ok(layers);
        }
        if layers.len() == 1 {
            // The features are the backbone's output, which this gives a name.
            layers.insert(0, Appended { layer: Layer::Flatten, output: None });
        }
        if let [.., before, head] = &mut layers[..] {
            let features = draw.get(HEAD_WEIGHT).map_or(0, |w| w.len() / count.max(1));
            before.output = Some((FEATURES, vec![features]));
            head.output = Some((LOGITS, vec![count]));
        }
        Ok(layers)
    }

    /// From the features to the head's outputs, times `factor`; all without a name.
    fn head_layers(&self, draw: &Weights, factor: f32) -> Result<Vec<Appended>> {
        let part = |name: &'static str| {
            let weight = draw.get(name).cloned();
            let missing = || Error::internal(format!("a draw has a '{name}'"));
            weight.map(|weight| (name, weight)).ok_or_else(missing)
        };
        let linear = Linear { weight: part(HEAD_WEIGHT)?, bias: part(HEAD_BIAS)?, factor };
        let features = self.features()?;
        let layers = match (&features[..], self.task().is_dense()) {
            (&[_, _, h, w], true) => {
                let Preprocess { height, width, .. } = self.description.preprocess;
                let maps = interpolation([h, w], [height, width])?;
                vec![Layer::Pointwise(linear), Layer::Resample(maps)]
            }
            ([_, _, _, _], false) => vec![Layer::Mean(vec![2, 3]), Layer::Dense(linear)],
            ([_, _, _], false) => vec![Layer::Mean(vec![1]), Layer::Dense(linear)],
            _ => vec![Layer::Dense(linear)],
        };
        Ok(layers.into_iter().map(|layer| Appended { layer, output: None }).collect())
    }
}

/// A layer whose result is an output.
fn shown(layer: Layer, name: &'static str, extents: &[usize]) -> Appended {
    Appended { layer, output: Some((name, extents.to_vec())) }
}

/// From standardised numbers to the data's units.
fn restoring(standard: &[Standard]) -> Result<Layer> {
    let of = |value: fn(&Standard) -> f64| {
        tensor(&[standard.len()], standard.iter().map(|s| value(s) as f32).collect())
    };
    Ok(Layer::Affine { scale: of(|s| s.std)?, shift: of(|s| s.mean)? })
}

/// `folder/name-7.onnx` of `folder/name.onnx`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
    path.with_file_name(format!("{stem}-{number}{}", extension.unwrap_or_default()))
}
