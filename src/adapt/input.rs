//! How images become a network's input, as far as somebody says; the rest is what the model's file
//! and the data suggest.

use serde::{Deserialize, Serialize};

use crate::data::{Dataset, IMAGENET, Preprocess, Resize, Statistics, TargetKind};
use crate::error::{Error, Result};
use crate::onnx::{Dim, Model};
use crate::threads::Threads;

/// Channels where the file leaves them open.
const CHANNELS: usize = 3;

/// What is said of a network's input; the default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputSettings {
    /// Height and width in pixels; needed only where the file leaves them open. With masks the
    /// default is the size of the first image.
    pub size: Option<[usize; 2]>,
    /// What happens to images of another size. The default crops the largest centred part, and
    /// with masks stretches the whole image.
    pub resize: Option<Resize>,
    /// What is taken out of the numbers.
    pub normalise: Normalise,
}

/// Mean and standard deviation of the channels that are taken out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Those of the data that is adapted to.
    #[default]
    Dataset,
    /// Those that most backbones trained on ImageNet expect.
    Imagenet,
    /// None: numbers stay as they are.
    None,
    /// These; a single value stands for all channels.
    Given(Statistics),
}

impl InputSettings {
    /// The preprocessing for `model`; statistics, if they are to be measured, are those of `data`.
    ///
    /// # Errors
    /// When the model takes no images, its input's size is not known, the settings do not fit it,
    /// or the data cannot be read.
    pub fn resolve(&self, model: &Model, data: &Dataset, threads: &Threads) -> Result<Preprocess> {
        let has_masks = data.target_kind() == Some(TargetKind::Mask);
        // A model of masks takes images of any size; the data's own loses nothing.
        let default = if has_masks { data.size(0).ok() } else { None };
        let [channels, height, width] = self.extents(model, default)?;
        let default = if has_masks { Resize::Stretch } else { Resize::CentreCrop { part: 1.0 } };
        let resize = self.resize.unwrap_or(default);
        let plain = Preprocess { resize, ..Preprocess::new(channels, height, width) };
        let statistics = match &self.normalise {
            Normalise::Dataset => plain.statistics(data, threads)?,
            Normalise::None => Statistics::identity(channels),
            Normalise::Imagenet => {
                let [mean, std] = IMAGENET.map(|values| values.to_vec());
                Statistics { mean, std }
            }
            Normalise::Given(Statistics { mean, std }) => Statistics {
                mean: for_each_channel(mean, channels),
                std: for_each_channel(std, channels),
            },
        };
        let preprocess = plain.normalised(statistics);
        preprocess.check()?;
        Ok(preprocess)
    }

    /// Channels, height and width of the model's input; `default` where neither settings nor file
    /// fix the size.
    fn extents(&self, model: &Model, default: Option<[usize; 2]>) -> Result<[usize; 3]> {
        let dims = model.inputs().first().and_then(|input| input.dims.as_deref());
        let Some([_, channels, height, width]) = dims else {
            return Err(Error::unsupported("the model's input is not [N, C, H, W]")
                .hint("only networks on images can be adapted"));
        };
        let side = |dim: &Dim, axis: usize| {
            let of = |size: [usize; 2]| size[axis];
            self.size.map(of).or(dim.fixed()).or(default.map(of)).ok_or_else(|| {
                Error::invalid("the file does not fix the size of its images")
                    .hint("give it with --image-size")
            })
        };
        Ok([channels.fixed().unwrap_or(CHANNELS), side(height, 0)?, side(width, 1)?])
    }
}

/// One value stands for all channels.
fn for_each_channel(values: &[f32], channels: usize) -> Vec<f32> {
    match values {
        [value] => vec![*value; channels],
        _ => values.to_vec(),
    }
}
