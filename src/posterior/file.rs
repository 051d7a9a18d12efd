//! A posterior on disk: a folder of three files.
//!
//! - `posterior.json`: the [`Description`].
//! - `backbone.onnx`: the network up to its features, with the weights before adaptation.
//! - `draws.safetensors`: tensors `<draw>/<parameter>`, draws numbered from 0; every draw MUST hold
//!   the same parameters with the same shapes, all finite.
//!
//! All three are on the disk before the first takes its place, the description last: a folder
//! without it is no posterior, and a folder that had one keeps it until the new one is complete.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Description, Posterior, VERSION};
use crate::atomic_file;
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::prior::Weights;
use crate::task::{HEAD_BIAS, HEAD_WEIGHT};
use crate::tensor::{Tensor, contiguous, tensor};

const DESCRIPTION: &str = "posterior.json";
const BACKBONE: &str = "backbone.onnx";
const DRAWS: &str = "draws.safetensors";
/// Most draws of one posterior.
const DRAWS_MAX: usize = 10_000;

impl Posterior {
    /// Writes the posterior into `folder`, which is made if it does not exist.
    ///
    /// # Errors
    /// Names the file that cannot be written; what was there before is still there.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let backbone = self.model.to_bytes()?;
        let draws = self.draw_bytes()?;
        let json = self.description_bytes()?;
        let is_new = !folder.exists();
        std::fs::create_dir_all(folder).map_err(|e| Error::io("cannot make", folder, e))?;
        let paths = [BACKBONE, DRAWS, DESCRIPTION].map(|name| folder.join(name));
        let [first, second, last] = &paths;
        let written =
            atomic_file::write_all(&[(first, &backbone), (second, &draws), (last, &json)]);
        if written.is_err() && is_new {
            // It is empty; the failure that led here is what the caller needs to hear about.
            let _ = std::fs::remove_dir(folder);
        }
        written
    }

    /// Writes the description anew into the folder that this posterior was read from.
    ///
    /// # Errors
    /// As for [`Posterior::save`].
    pub fn save_description(&self, folder: &Path) -> Result<()> {
        let json = self.description_bytes()?;
        atomic_file::write_all(&[(&folder.join(DESCRIPTION), &json)])
    }

    /// Reads a posterior.
    ///
    /// # Errors
    /// Names the file and tensor that are missing, malformed, or do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        let json = read(&path)?;
        let description: Description = serde_json::from_slice(&json).map_err(|e| {
            let message = format!("{}: not the description of a posterior: {e}", path.display());
            Error::malformed(message).caused_by(e)
        })?;
        if description.version != VERSION {
            let message = format!("{} has version {}", path.display(), description.version);
            return Err(Error::unsupported(message).hint(format!("expected version {VERSION}")));
        }
        let backbone = folder.join(BACKBONE);
        let model = Model::load(&backbone)?;
        if model.fingerprint() != description.backbone {
            let message = format!("{} is not the backbone that was adapted", backbone.display());
            return Err(Error::mismatch(message)
                .hint(format!("its weights do not have the fingerprint in {}", path.display())));
        }
        let path = folder.join(DRAWS);
        let draws = parse_draws(&read(&path)?).context(|| path.display().to_string())?;
        let classes = description.classes.len();
        check_draws(&model, &draws, classes).context(|| path.display().to_string())?;
        let in_description = || folder.join(DESCRIPTION).display().to_string();
        Posterior::new(description, Arc::new(model), draws).context(in_description)
    }

    fn description_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(&self.description)
            .map_err(|e| Error::internal("a description is always JSON").caused_by(e))
    }

    fn draw_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        for (number, draw) in self.draws.iter().enumerate() {
            for (name, weight) in draw {
                let bytes = contiguous(weight).iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.insert(format!("{number}/{name}"), (weight.shape().to_vec(), bytes));
            }
        }
        let failed = |e| Error::internal("the draws are valid tensors").caused_by(e);
        let views = tensors
            .iter()
            .map(|(name, (shape, bytes))| {
                TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        safetensors::serialize(views, None).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("cannot read", path, e))
}

fn parse_draws(bytes: &[u8]) -> Result<Vec<Weights>> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| Error::malformed(format!("not a safetensors file: {e}")).caused_by(e))?;
    let mut draws: BTreeMap<usize, Weights> = BTreeMap::new();
    for (name, view) in file.tensors() {
        let (number, param) = name
            .split_once('/')
            .and_then(|(number, param)| Some((number.parse::<usize>().ok()?, param)))
            .filter(|&(number, _)| number < DRAWS_MAX)
            .ok_or_else(|| {
                let message = format!("tensor '{name}' belongs to no draw");
                Error::malformed(message).hint("expected '<draw>/<parameter>'")
            })?;
        let weight = parse_weight(&view).context(|| format!("tensor '{name}'"))?;
        draws.entry(number).or_default().insert(param.to_string(), weight);
    }
    if !draws.keys().copied().eq(0..draws.len()) || draws.is_empty() {
        return Err(Error::malformed("the draws are not numbered from 0 without gaps"));
    }
    Ok(draws.into_values().collect())
}

fn parse_weight(view: &TensorView<'_>) -> Result<Tensor> {
    if view.dtype() != Dtype::F32 {
        return Err(Error::malformed(format!("holds {:?}; expected F32", view.dtype())));
    }
    let (chunks, _) = view.data().as_chunks::<4>();
    let data: Vec<f32> = chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    if let Some(at) = data.iter().position(|x| !x.is_finite()) {
        return Err(Error::malformed(format!("element {at} is {}", data[at])));
    }
    tensor(view.shape(), data)
}

/// Every draw has the same parameters: the backbone's, with its shapes, and a head's.
fn check_draws(model: &Model, draws: &[Weights], classes: usize) -> Result<()> {
    let shapes = |draw: &Weights| -> Vec<(String, Vec<usize>)> {
        draw.iter().map(|(name, w)| (name.clone(), w.shape().to_vec())).collect()
    };
    let first = shapes(&draws[0]);
    if let Some(number) = draws.iter().position(|draw| shapes(draw) != first) {
        return Err(Error::malformed(format!("draw {number} has other tensors than draw 0")));
    }
    for name in [HEAD_WEIGHT, HEAD_BIAS] {
        let rows = draws[0].get(name).and_then(|w| w.shape().first().copied());
        if rows != Some(classes) {
            let message = format!("the draws have no '{name}' for {classes} classes");
            return Err(Error::mismatch(message));
        }
    }
    for (name, weight) in model.weights() {
        let Some(drawn) = draws[0].get(name) else {
            return Err(Error::mismatch(format!("the draws lack the parameter '{name}'")));
        };
        if drawn.shape() != weight.shape() {
            let message = format!("parameter '{name}' has shape {:?}", drawn.shape());
            return Err(Error::mismatch(message)
                .hint(format!("the backbone's has shape {:?}", weight.shape())));
        }
    }
    Ok(())
}
