//! The adapted models: back, forward, out.

use egui::Ui;

use super::{Screen, button, card, field};
use crate::controls::Controls;
use crate::session::{About, File};

/// Width of the card.
pub(super) const WIDTH: f32 = 264.0;

pub(super) fn show(screen: &mut Screen, ui: &mut Ui) {
    card(ui, "Models", "", |ui| {
        ui.horizontal(|ui| {
            let Screen { session, controls, .. } = screen;
            if button(ui, controls, ("undo", "Undo"), session.current().is_some())
                .on_hover_text("Back to the model before, or to the backbone as it was")
                .clicked()
            {
                session.undo();
            }
            if button(ui, controls, ("redo", "Redo"), session.can_redo()).clicked() {
                session.redo();
            }
        });
        let rest = ui.available_height() - 74.0;
        egui::ScrollArea::vertical().max_height(rest).auto_shrink([false, false]).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 4.0;
            list(screen, ui);
        });
        export(screen, ui);
    });
}

/// The backbone and every model; a click takes it into use.
fn list(screen: &mut Screen, ui: &mut Ui) {
    let Screen { session, controls, .. } = screen;
    let mut wanted = None;
    let current = session.current();
    if entry(ui, controls, (0, "Backbone"), current.is_none()) {
        wanted = Some(None);
    }
    for (index, version) in session.versions().iter().enumerate() {
        let text = describe(&version.about);
        if entry(ui, controls, (index + 1, &text), current == Some(index)) {
            wanted = Some(Some(index));
        }
    }
    if let Some(wanted) = wanted {
        session.select(wanted);
    }
}

/// A line of the list; whether it was clicked.
fn entry(
    ui: &mut Ui,
    controls: &mut Controls,
    (number, text): (usize, &str),
    is_current: bool,
) -> bool {
    let label = egui::Button::selectable(is_current, text).truncate();
    let response = ui.add_sized([ui.available_width(), 24.0], label);
    controls.note(format!("model-{number}"), &response);
    response.clicked()
}

fn describe(about: &About) -> String {
    let accuracy = about.accuracy.map_or(String::new(), |a| format!(", {:.0} % right", a * 100.0));
    format!("{}: {} examples{accuracy}", about.number, about.examples)
}

fn export(screen: &mut Screen, ui: &mut Ui) {
    let Screen { session, controls, fields, .. } = screen;
    let width = ui.available_width() - 8.0;
    field(ui, controls, ("export-path", "file to export to"), &mut fields.export, width);
    ui.horizontal(|ui| {
        let is_ready = session.current().is_some() && !fields.export.trim().is_empty();
        for (name, text, file) in [
            ("export-onnx", "Export ONNX", File::Onnx),
            ("export-delta", "Export delta", File::Delta),
        ] {
            let hint = format!("writes {}", file.path(&fields.export).display());
            if button(ui, controls, (name, text), is_ready).on_hover_text(hint).clicked() {
                session.export(file, &file.path(&fields.export));
            }
        }
    });
}
