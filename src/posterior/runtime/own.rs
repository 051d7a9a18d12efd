//! Our own engine: plans on a backend.

use std::collections::HashSet;

use super::{Frame, Output, Runtime};
use crate::error::{Error, Result};
use crate::graph::LeafKind;
use crate::plan::{Place, Plan};
use crate::posterior::Network;
use crate::prior::Weights;
use crate::task::{FEATURES, LOGITS};

impl Runtime for Network {
    fn name(&self) -> String {
        format!("own ({})", self.residents().name())
    }

    fn frame(&self) -> &Frame {
        Network::frame(self)
    }

    fn frame_mut(&mut self) -> &mut Frame {
        Network::frame_mut(self)
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        Network::set_weights(self, weights)
    }

    fn run(&mut self, images: &[f32], output: Output, rows: &mut Vec<f32>) -> Result<()> {
        let input = self.input_name().to_string();
        let count = images.len() / self.preprocess().image_len().max(1);
        let plan = self.forward(count)?;
        let name = match output {
            Output::Features => FEATURES,
            Output::Logits => LOGITS,
        };
        let len = count * output_width(self.residents().plan(plan), name)?;
        let backend = self.backend();
        backend.write(plan, &input, images)?;
        backend.run(plan)?;
        let start = rows.len();
        rows.resize(start + len, 0.0);
        backend.read(plan, name, &mut rows[start..])
    }

    fn fall_back(&mut self, error: Error, weights: &Weights) -> Result<()> {
        Network::fall_back(self, error, weights)
    }

    fn weight_bytes(&self) -> usize {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for plan in self.forward_plans() {
            for buffer in self.residents().plan(plan).buffers() {
                if let Place::Resident(leaf) = &buffer.place
                    && leaf.kind == LeafKind::Param
                    && seen.insert(leaf.clone())
                {
                    bytes += buffer.len * size_of::<f32>();
                }
            }
        }
        bytes
    }
}

/// Numbers of each row of an output.
fn output_width(plan: &Plan, output: &str) -> Result<usize> {
    let port = plan.outputs().iter().find(|port| port.name == output);
    let port = port.ok_or_else(|| Error::internal(format!("no output '{output}'")))?;
    Ok(port.shape.iter().skip(1).product())
}
