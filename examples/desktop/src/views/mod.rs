//! What the window shows: a function for each panel, which shows the session and calls it.

mod adaptation;
mod canvas;
mod classes;
mod models;
mod prediction;
mod theme;

use std::collections::HashMap;

use egui::{Align, Color32, Frame, Key, Layout, Panel, RichText, TextureHandle, Ui};

pub(crate) use self::theme::apply;
use self::theme::{CARD, ERROR, LINE, TEXT, WEAK};
use crate::controls::Controls;
use crate::frames::Frames;
use crate::session::Session;

/// Space around cards.
const GAP: f32 = 12.0;
/// Height of the row of cards at the top.
const TOP_HEIGHT: f32 = 382.0;
/// Width of the list of classes.
const CLASSES_WIDTH: f32 = 424.0;

/// All there is to show, and what the user has entered.
pub(crate) struct Screen {
    pub(crate) session: Session,
    pub(crate) frames: Frames,
    pub(crate) controls: Controls,
    /// Where it is drawn and where adapted.
    pub(crate) device: String,
    pub(crate) fields: Fields,
    /// The pictures of examples, by their number.
    textures: HashMap<u64, TextureHandle>,
    /// Whether the pen is down.
    is_pen_down: bool,
}

/// What is entered.
pub(crate) struct Fields {
    /// The class that files are added to.
    pub(crate) class: usize,
    class_name: String,
    file: String,
    export: String,
}

impl Screen {
    pub(crate) fn new(session: Session, device: String) -> Self {
        let export = "adapted".to_string();
        let fields = Fields { class: 0, class_name: String::new(), file: String::new(), export };
        Screen {
            session,
            frames: Frames::default(),
            controls: Controls::default(),
            device,
            fields,
            textures: HashMap::new(),
            is_pen_down: false,
        }
    }

    /// Everything.
    pub(crate) fn show(&mut self, ui: &mut Ui) {
        self.controls.clear();
        self.take_files(ui);
        let bar = Frame::new().fill(CARD).inner_margin(egui::Margin::symmetric(16, 10));
        Panel::top("title").frame(bar).show(ui, |ui| self.title(ui));
        Panel::bottom("notice").frame(bar).show(ui, |ui| self.notice(ui));
        let page = Frame::new().inner_margin(GAP);
        egui::CentralPanel::no_frame().frame(page).show(ui, |ui| {
            ui.spacing_mut().item_spacing = egui::vec2(GAP, GAP);
            let height = ui.available_height();
            ui.horizontal_top(|ui| {
                column(ui, CLASSES_WIDTH, height, |ui| classes::show(self, ui));
                let rest = ui.available_width();
                column(ui, rest, height, |ui| self.right(ui, height));
            });
        });
        self.take_keys(ui);
    }

    fn right(&mut self, ui: &mut Ui, height: f32) {
        let width = ui.available_width();
        ui.horizontal_top(|ui| {
            let canvas = canvas::WIDTH;
            column(ui, canvas, TOP_HEIGHT, |ui| canvas::show(self, ui));
            let rest = ui.available_width();
            column(ui, rest, TOP_HEIGHT, |ui| prediction::show(self, ui));
        });
        let height = height - TOP_HEIGHT - GAP;
        ui.horizontal_top(|ui| {
            let models = models::WIDTH;
            column(ui, width - models - GAP, height, |ui| adaptation::show(self, ui));
            column(ui, models, height, |ui| models::show(self, ui));
        });
    }

    fn title(&self, ui: &mut Ui) {
        ui.horizontal(|ui| {
            ui.label(RichText::new("priorfit").size(18.0).strong().color(TEXT));
            ui.label(RichText::new("learns what you draw, on this machine").color(WEAK));
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let recent = self.frames.recent().as_secs_f32();
                let rate = if recent > 0.0 { 1.0 / recent } else { 0.0 };
                ui.label(RichText::new(format!("{rate:.0} frames/s")).color(WEAK));
                ui.label(RichText::new(&self.device).color(WEAK));
            });
        });
    }

    fn notice(&self, ui: &mut Ui) {
        let hint = "Draw a digit and press its key, or add samples; then adapt.";
        let (text, colour) = match self.session.notice() {
            Some(notice) => (&notice.text[..], if notice.is_error { ERROR } else { TEXT }),
            None => (hint, WEAK),
        };
        ui.add(egui::Label::new(RichText::new(text).color(colour)).truncate());
    }

    /// Files that were dropped on the window go to the class that is chosen: not every system tells
    /// where they were dropped.
    fn take_files(&mut self, ui: &Ui) {
        let dropped = ui.input(|input| input.raw.dropped_files.clone());
        let paths: Vec<_> = dropped.iter().map(|file| file.path().to_path_buf()).collect();
        if !paths.is_empty() {
            self.session.add_files(self.fields.class, paths);
        }
    }

    /// The first letter of a class adds the drawing to it.
    fn take_keys(&mut self, ui: &Ui) {
        if ui.ctx().egui_wants_keyboard_input() {
            return;
        }
        let typed: Vec<String> = ui.input(|input| {
            let text = |event: &egui::Event| match event {
                egui::Event::Text(text) => Some(text.clone()),
                _ => None,
            };
            input.events.iter().filter_map(text).collect()
        });
        for text in typed {
            let classes = self.session.examples.classes();
            if let Some(class) = classes.iter().position(|class| class.name.starts_with(&text)) {
                self.session.add_drawing(class);
            }
        }
        if ui.input(|input| input.key_pressed(Key::Backspace)) {
            self.session.draw(crate::Drawing::take_back);
            self.session.drawn();
        }
    }
}

/// A part of the window of this size.
fn column<R>(ui: &mut Ui, width: f32, height: f32, add: impl FnOnce(&mut Ui) -> R) {
    let size = egui::vec2(width, height);
    ui.allocate_ui_with_layout(size, Layout::top_down(Align::Min), |ui| {
        ui.set_min_size(size);
        add(ui)
    });
}

/// A card with a heading that fills the space there is; `note` stands at the heading's right.
fn card(ui: &mut Ui, heading: &str, note: &str, add: impl FnOnce(&mut Ui)) {
    let frame = Frame::new()
        .fill(CARD)
        .stroke(egui::Stroke::new(1.0, LINE))
        .corner_radius(8)
        .inner_margin(14.0);
    let size = ui.available_size() - frame.total_margin().sum();
    frame.show(ui, |ui| {
        ui.set_min_size(size);
        ui.set_max_size(size);
        ui.spacing_mut().item_spacing = egui::vec2(8.0, 8.0);
        ui.horizontal(|ui| {
            ui.label(RichText::new(heading).size(15.0).strong().color(TEXT));
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                ui.label(RichText::new(note).color(WEAK));
            });
        });
        add(ui);
    });
}

/// A quiet line of text.
fn weak(ui: &mut Ui, text: impl Into<String>) {
    coloured(ui, text, WEAK);
}

fn coloured(ui: &mut Ui, text: impl Into<String>, colour: Color32) {
    ui.add(egui::Label::new(RichText::new(text.into()).color(colour)).wrap());
}

/// A button that programs find by `name`.
fn button(
    ui: &mut Ui,
    controls: &mut Controls,
    (name, text): (&str, &str),
    is_enabled: bool,
) -> egui::Response {
    let response = ui.add_enabled(is_enabled, egui::Button::new(text));
    controls.note(name, &response);
    response
}

/// A field that programs find by `name`.
fn field(
    ui: &mut Ui,
    controls: &mut Controls,
    (name, hint): (&str, &'static str),
    text: &mut String,
    width: f32,
) -> egui::Response {
    let edit = egui::TextEdit::singleline(text).hint_text(hint).desired_width(width);
    let response = ui.add(edit);
    controls.note(name, &response);
    response
}
