//! The classes and their examples.

use egui::{Align, Color32, ColorImage, Layout, RichText, Sense, TextureOptions, Ui, vec2};

use super::theme::{ACCENT, LINE, WEAK};
use super::{Screen, button, card, field};
use crate::examples::Example;
use crate::picture::SIDE;

/// Side of an example.
const THUMB: f32 = 36.0;
/// Examples of a class that are shown, the newest.
const SHOWN: usize = 7;
/// How many handwritten digits a click adds to each class.
const SAMPLES: usize = 10;

pub(super) fn show(screen: &mut Screen, ui: &mut Ui) {
    let count = screen.session.examples.len();
    let note = if count == 1 { "1 example".to_string() } else { format!("{count} examples") };
    card(ui, "Classes", &note, |ui| {
        tools(screen, ui);
        let rest = ui.available_height() - 78.0;
        egui::ScrollArea::vertical().max_height(rest).auto_shrink([false, false]).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 5.0;
            for class in 0..screen.session.examples.classes().len() {
                row(screen, ui, class);
            }
        });
        more(screen, ui);
    });
    forget_textures(screen);
}

fn tools(screen: &mut Screen, ui: &mut Ui) {
    ui.horizontal(|ui| {
        let text = format!("Add {SAMPLES} samples of each");
        let samples = button(ui, &mut screen.controls, ("samples", &text), true)
            .on_hover_text("Handwritten digits that the backbone and its prior have not seen");
        if samples.clicked() {
            screen.session.add_samples(SAMPLES);
        }
        let has_removed = screen.session.examples.has_removed();
        if button(ui, &mut screen.controls, ("put-back", "Put back"), has_removed)
            .on_hover_text("The example that was removed last")
            .clicked()
        {
            screen.session.examples.put_back();
        }
    });
}

fn row(screen: &mut Screen, ui: &mut Ui, class: usize) {
    let (name, count) = {
        let class = &screen.session.examples.classes()[class];
        (class.name.clone(), class.examples.len())
    };
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 5.0;
        let is_chosen = screen.fields.class == class;
        let label = egui::Button::selectable(is_chosen, RichText::new(&name).strong())
            .truncate()
            .min_size(vec2(34.0, THUMB));
        let chosen = ui.add_sized(vec2(34.0, THUMB), label).on_hover_text("Files go to this class");
        screen.controls.note(format!("class-{name}"), &chosen);
        if chosen.clicked() {
            screen.fields.class = class;
        }
        let is_drawn = !screen.session.drawing().is_empty();
        let add = ui
            .add_enabled(is_drawn, egui::Button::new("+").min_size(vec2(THUMB, THUMB)))
            .on_hover_text(format!("Add the drawing to {name} (or press its key)"));
        screen.controls.note(format!("add-{name}"), &add);
        if add.clicked() {
            screen.session.add_drawing(class);
        }
        for place in count.saturating_sub(SHOWN)..count {
            thumbnail(screen, ui, class, place);
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            ui.label(RichText::new(format!("{count}")).color(WEAK));
        });
    });
}

/// An example, which a click removes.
fn thumbnail(screen: &mut Screen, ui: &mut Ui, class: usize, place: usize) {
    let examples = &screen.session.examples.classes()[class].examples;
    let Some(Example { number, picture }) = examples.get(place).cloned() else { return };
    let texture = screen.textures.entry(number).or_insert_with(|| {
        let image = ColorImage::from_gray([SIDE, SIDE], picture.pixels());
        ui.ctx().load_texture(format!("example {number}"), image, TextureOptions::LINEAR)
    });
    let image = egui::Image::from_texture((texture.id(), vec2(THUMB, THUMB)))
        .corner_radius(4)
        .sense(Sense::click());
    let response = ui.add(image).on_hover_text("Click to remove");
    let colour = if response.hovered() { ACCENT } else { LINE };
    let stroke = egui::Stroke::new(1.0, colour);
    ui.painter().rect_stroke(response.rect, 4, stroke, egui::StrokeKind::Inside);
    if response.hovered() {
        ui.painter().rect_filled(response.rect, 4, Color32::from_black_alpha(90));
    }
    screen.controls.note(format!("example-{number}"), &response);
    if response.clicked() {
        screen.session.examples.remove(number);
    }
}

/// More classes and files.
fn more(screen: &mut Screen, ui: &mut Ui) {
    let Screen { session, controls, fields, .. } = screen;
    let names: Vec<&str> = session.examples.classes().iter().map(|c| &c.name[..]).collect();
    let chosen = names.get(fields.class).map_or(String::new(), |name| (*name).to_string());
    ui.horizontal(|ui| {
        field(ui, controls, ("file", "image file, or drop some here"), &mut fields.file, 226.0);
        let is_given = !fields.file.trim().is_empty();
        let text = format!("Add to {chosen}");
        if button(ui, controls, ("add-file", &text), is_given).clicked() {
            let path = std::path::PathBuf::from(fields.file.trim());
            session.add_files(fields.class, vec![path]);
            fields.file.clear();
        }
    });
    ui.horizontal(|ui| {
        field(ui, controls, ("class-name", "another class"), &mut fields.class_name, 226.0);
        let is_given = !fields.class_name.trim().is_empty();
        let is_added = button(ui, controls, ("add-class", "Add class"), is_given).clicked();
        if is_added && session.add_class(&fields.class_name) {
            fields.class = session.examples.classes().len() - 1;
            fields.class_name.clear();
        }
    });
}

/// Frees the textures of examples that are gone.
fn forget_textures(screen: &mut Screen) {
    let examples = &screen.session.examples;
    if screen.textures.len() > examples.len() {
        let known: std::collections::HashSet<u64> = examples
            .classes()
            .iter()
            .flat_map(|class| class.examples.iter().map(|example| example.number))
            .collect();
        screen.textures.retain(|number, _| known.contains(number));
    }
}
