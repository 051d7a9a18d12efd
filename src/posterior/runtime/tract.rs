//! The network on tract.

use super::foreign::Foreign;
use super::{Frame, Output, Runtime};
use crate::error::{Error, Result};
use crate::onnx::Runner;
use crate::prior::Weights;

/// A network on tract.
pub(super) struct Tract {
    frame: Frame,
    network: Foreign,
    runner: Runner,
}

impl Tract {
    pub(super) fn new(network: Foreign, frame: Frame) -> Result<Self> {
        let runner = Runner::new(network.model.clone(), network.open.clone())?;
        Ok(Tract { frame, network, runner })
    }
}

impl Runtime for Tract {
    fn name(&self) -> String {
        "tract".to_string()
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        for (number, weight) in self.network.given(weights)? {
            self.runner.set(number, &weight)?;
        }
        Ok(())
    }

    fn run(&mut self, images: &[f32], output: Output, rows: &mut Vec<f32>) -> Result<()> {
        let input = &self.frame.preprocess;
        let mut outputs = self.runner.run([input.channels, input.height, input.width], images)?;
        let wanted = self.network.place(output)?;
        match wanted < outputs.len() {
            true => rows.append(&mut outputs[wanted]),
            false => return Err(Error::internal("a network has the outputs it was given")),
        }
        Ok(())
    }

    fn weight_bytes(&self) -> usize {
        self.runner.weight_bytes()
    }
}
