//! The network on ONNX Runtime, whose library is the host's: opened while the program runs.
//!
//! One session serves all draws. What they share are its constants; the weights that differ are
//! inputs, which it reads where the posterior has them.

mod library;
mod providers;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ort::logging::LogLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use self::library::environment;
pub(super) use self::providers::providers;
use super::foreign::Foreign;
use super::{Frame, OrtSettings, Output, Runtime};
use crate::error::{Context, Error, Kind, Result};
use crate::onnx::Model;
use crate::prior::Weights;
use crate::tensor::{Tensor, contiguous, tensor};

/// A network on ONNX Runtime.
pub(super) struct Ort {
    frame: Frame,
    provider: String,
    network: Foreign,
    session: Session,
    /// The present values of the open weights: the draw's own elements.
    given: Vec<Tensor>,
    /// The number of examples that the file takes, if it is one.
    baked: Option<usize>,
}

impl Ort {
    pub(super) fn new(network: Foreign, frame: Frame, settings: &OrtSettings) -> Result<Self> {
        let environment = environment(&settings.library)?;
        let (name, provider) = match &settings.provider {
            None => (providers::CPU, None),
            Some(provider) => (provider.name.as_str(), providers::dispatch(provider)?),
        };
        let bytes = network.model.to_bytes_with_inputs(&network.open)?;
        let session = caught("opening the network with ONNX Runtime", || {
            let builder = Session::builder(&environment)?
                .with_log_level(LogLevel::Warning)?
                .with_intra_threads(frame.threads.count())?
                // What DirectML asks for.
                .with_memory_pattern(name != providers::DIRECTML)?;
            let mut builder = match provider {
                None => builder,
                Some(provider) => builder.with_execution_providers([provider])?,
            };
            builder.commit_from_memory(&bytes)
        });
        let session = session.context(|| format!("provider '{name}'"))?;
        let own = |name: &String| network.model.weight(name).cloned();
        let given = network.open.iter().filter_map(own).collect();
        let dims = network.model.inputs().first().and_then(|port| port.dims.as_ref());
        let baked = dims.and_then(|dims| dims.first()?.fixed());
        Ok(Ort { frame, provider: name.to_string(), network, session, given, baked })
    }

    /// An output of a batch of `shape`, which the session takes.
    fn pass(&mut self, shape: [usize; 4], images: &[f32], output: Output) -> Result<Vec<f32>> {
        let place = self.network.place(output)?;
        let input = self.network.model.inputs().first().map_or("", |port| port.name.as_str());
        let (open, given, session) = (&self.network.open, &self.given, &mut self.session);
        // A weight that lies in memory in another order is laid out for the time of the run.
        let given: Vec<(&[usize], Cow<'_, [f32]>)> =
            given.iter().map(|weight| (weight.shape(), contiguous(weight))).collect();
        caught("running the network with ONNX Runtime", || {
            let images = TensorRef::from_array_view((shape, images))?;
            let mut inputs = vec![(input, SessionInputValue::from(images))];
            for (name, (shape, elements)) in open.iter().zip(&given) {
                let weight = TensorRef::from_array_view((*shape, &**elements))?;
                inputs.push((name.as_str(), SessionInputValue::from(weight)));
            }
            let outputs = session.run(inputs)?;
            match outputs.values().nth(place) {
                Some(value) => Ok(value.try_extract_tensor::<f32>()?.1.to_vec()),
                None => Err(ort::Error::new("an output is missing")),
            }
        })
    }
}

impl Runtime for Ort {
    fn name(&self) -> String {
        format!("ort ({})", self.provider)
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        for (number, weight) in self.network.given(weights)? {
            self.given[number] = weight;
        }
        Ok(())
    }

    fn run(&mut self, images: &[f32], output: Output, rows: &mut Vec<f32>) -> Result<()> {
        let input = &self.frame.preprocess;
        let (image, len) = ([input.channels, input.height, input.width], input.image_len());
        let count = images.len() / len.max(1);
        let batch = self.baked.unwrap_or(count).max(1);
        for images in images.chunks(batch * len) {
            let mut images = Cow::Borrowed(images);
            let wanted = images.len() / len;
            if wanted < batch {
                images.to_mut().resize(batch * len, 0.0);
            }
            let [channels, height, width] = image;
            let mut found = self.pass([batch, channels, height, width], &images, output)?;
            found.truncate(found.len() / batch * wanted);
            rows.append(&mut found);
        }
        Ok(())
    }

    fn weight_bytes(&self) -> usize {
        let is_open = |name: &str| self.network.open.iter().any(|open| open == name);
        let constants = self.network.model.weights().filter(|(name, _)| !is_open(name));
        constants.map(|(_, weight)| weight.len() * size_of::<f32>()).sum()
    }
}

/// The outputs of `model` on the processor.
pub(super) fn reference(library: &Path, model: &Model, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let environment = environment(library)?;
    let bytes = model.to_bytes()?;
    let inputs: Vec<(&[usize], Cow<'_, [f32]>)> =
        inputs.iter().map(|input| (input.shape(), contiguous(input))).collect();
    let found = caught("running the model with ONNX Runtime", || {
        let mut session = Session::builder(&environment)?.commit_from_memory(&bytes)?;
        let mut named = Vec::new();
        for (port, (shape, elements)) in model.inputs().iter().zip(&inputs) {
            let input = TensorRef::from_array_view((*shape, &**elements))?;
            named.push((port.name.as_str(), SessionInputValue::from(input)));
        }
        let outputs = session.run(named)?;
        let mut found = Vec::new();
        for value in outputs.values() {
            let (shape, elements) = value.try_extract_tensor::<f32>()?;
            let shape: Vec<usize> = shape.iter().map(|&extent| extent as usize).collect();
            found.push((shape, elements.to_vec()));
        }
        Ok(found)
    })?;
    found.into_iter().map(|(shape, elements)| tensor(&shape, elements)).collect()
}

/// What `work` does in ONNX Runtime; its errors and even the panics of the binding become ours.
fn caught<T>(doing: &str, work: impl FnOnce() -> ort::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            Err(Error::new(Kind::Device, format!("{doing}: {error}")).caused_by(error))
        }
        Err(_) => Err(Error::new(Kind::Device, format!("{doing}: it gave up"))),
    }
}
