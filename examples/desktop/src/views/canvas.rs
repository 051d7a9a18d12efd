//! The sheet that is drawn on.

use egui::{Color32, Event, PointerButton, Pos2, Rect, Sense, Shape, Stroke, Ui, vec2};

use super::theme::{LINE, WELL};
use super::{Screen, button, card, weak};
use crate::picture::SIDE;

/// Width of the card, and of the sheet in it.
pub(super) const WIDTH: f32 = 312.0;
const SHEET: f32 = 282.0;
/// Width of the pen's stroke, as a part of the sheet.
const PEN: f32 = 0.055;

pub(super) fn show(screen: &mut Screen, ui: &mut Ui) {
    card(ui, "Draw", "", |ui| {
        sheet(screen, ui);
        ui.horizontal(|ui| {
            let is_drawn = !screen.session.drawing().is_empty();
            let Screen { controls, .. } = screen;
            if button(ui, controls, ("take-back", "Undo stroke"), is_drawn).clicked() {
                screen.session.draw(crate::Drawing::take_back);
                screen.session.drawn();
            }
            if button(ui, &mut screen.controls, ("clear", "Clear"), is_drawn).clicked() {
                screen.session.draw(crate::Drawing::clear);
                screen.session.drawn();
            }
            seen(screen, ui);
        });
    });
}

fn sheet(screen: &mut Screen, ui: &mut Ui) {
    let (response, painter) = ui.allocate_painter(vec2(SHEET, SHEET), Sense::drag());
    screen.controls.note("sheet", &response);
    let rect = response.rect;
    take_pen(screen, ui, rect);
    painter.rect_filled(rect, 6, WELL);
    painter.rect_stroke(rect, 6, Stroke::new(1.0, LINE), egui::StrokeKind::Inside);
    let place = |at: &[f32; 2]| rect.min + vec2(at[0], at[1]) * SHEET;
    let width = PEN * SHEET;
    for stroke in screen.session.drawing().strokes() {
        let points: Vec<Pos2> = stroke.iter().map(place).collect();
        let ends = [points.first(), points.last()];
        for &end in ends.into_iter().flatten() {
            painter.circle_filled(end, width / 2.0, Color32::WHITE);
        }
        painter.add(Shape::line(points, Stroke::new(width, Color32::WHITE)));
    }
}

/// Follows the pen from event to event: a frame that takes long loses none of its way.
fn take_pen(screen: &mut Screen, ui: &Ui, rect: Rect) {
    let events = ui.input(|input| input.events.clone());
    let on_sheet = |at: Pos2| [(at.x - rect.left()) / SHEET, (at.y - rect.top()) / SHEET];
    for event in events {
        match event {
            Event::PointerButton { pos, button: PointerButton::Primary, pressed: true, .. }
                if rect.contains(pos) =>
            {
                screen.is_pen_down = true;
                screen.session.draw(|drawing| drawing.begin(on_sheet(pos)));
            }
            Event::PointerMoved(pos) if screen.is_pen_down => {
                screen.session.draw(|drawing| drawing.extend(on_sheet(pos)));
            }
            Event::PointerButton { button: PointerButton::Primary, pressed: false, .. }
                if screen.is_pen_down =>
            {
                screen.is_pen_down = false;
                screen.session.drawn();
            }
            _ => {}
        }
    }
}

/// The drawing as the backbone sees it.
fn seen(screen: &Screen, ui: &mut Ui) {
    let Some(picture) = screen.session.picture() else {
        return weak(ui, "with the mouse");
    };
    ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
        let side = 32.0;
        let (response, painter) = ui.allocate_painter(vec2(side, side), Sense::hover());
        let pixel = side / SIDE as f32;
        for (i, &shade) in picture.pixels().iter().enumerate() {
            let at = vec2((i % SIDE) as f32, (i / SIDE) as f32) * pixel;
            let square = Rect::from_min_size(response.rect.min + at, vec2(pixel, pixel));
            painter.rect_filled(square, 0, Color32::from_gray(shade));
        }
        response.on_hover_text("as the network sees it");
    });
}
