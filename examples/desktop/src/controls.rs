//! Where the window's controls are, for programs that drive it.

use std::collections::BTreeMap;

use egui::Response;
use serde::Serialize;

/// The controls of a frame, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Controls(BTreeMap<String, Control>);

/// Where a control is, in pixels of the window, and whether it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Control {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
    is_enabled: bool,
}

impl Controls {
    /// A new frame begins.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// A control of this frame.
    pub(crate) fn note(&mut self, name: impl Into<String>, response: &Response) {
        let rect = response.interact_rect * response.ctx.pixels_per_point();
        if rect.is_positive() {
            let (x, y, width, height) = (rect.left(), rect.top(), rect.width(), rect.height());
            let is_enabled = response.enabled();
            self.0.insert(name.into(), Control { x, y, width, height, is_enabled });
        }
    }
}
