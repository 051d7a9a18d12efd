//! What the model in use makes of the drawing.

use egui::{Align2, Color32, FontId, Rect, Sense, Ui, pos2, vec2};

use super::theme::{ACCENT, LINE, SECOND, TEXT, WARN, WEAK, WELL};
use super::{Screen, card, coloured, weak};
use crate::worker::Forecast;

pub(super) fn show(screen: &mut Screen, ui: &mut Ui) {
    let is_drawn = !screen.session.drawing().is_empty();
    let note = match screen.session.current() {
        Some(index) => format!("model {}", index + 1),
        None => "no model yet".to_string(),
    };
    card(ui, "Prediction", &note, |ui| match screen.session.prediction() {
        Some(forecast) => {
            bars(ui, forecast);
            summary(ui, forecast);
        }
        None if screen.session.current().is_none() => weak(
            ui,
            "The backbone has learned letters and knows none of these classes. Give it examples \
             of two or more, and adapt it.",
        ),
        None if is_drawn => weak(ui, "…"),
        None => weak(ui, "Draw something to see what the model makes of it."),
    });
}

/// The probability of each class.
fn bars(ui: &mut Ui, forecast: &Forecast) {
    let rows = forecast.classes.len();
    let height = ((ui.available_height() - 92.0) / rows as f32).clamp(10.0, 24.0);
    let size = vec2(ui.available_width(), height * rows as f32);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let area = response.rect;
    let (names, numbers) = (34.0, 52.0);
    let font = FontId::proportional((height * 0.62).clamp(9.0, 14.0));
    for (row, (name, probability)) in forecast.classes.iter().enumerate() {
        let middle = area.top() + (row as f32 + 0.5) * height;
        let is_best = row == forecast.class;
        let colour = if is_best { TEXT } else { WEAK };
        let name: String = name.chars().take(4).collect();
        let right = pos2(area.left() + names - 12.0, middle);
        painter.text(right, Align2::RIGHT_CENTER, name, font.clone(), colour);
        let from = pos2(area.left() + names, middle - height * 0.32);
        let to = pos2(area.right() - numbers, middle + height * 0.32);
        let track = Rect::from_two_pos(from, to);
        painter.rect_filled(track, 3, WELL);
        let width = track.width() * (*probability as f32).clamp(0.0, 1.0);
        let bar = Rect::from_min_size(track.min, vec2(width, track.height()));
        painter.rect_filled(bar, 3, if is_best { ACCENT } else { SECOND });
        let text = format!("{:.1} %", probability * 100.0);
        painter.text(pos2(area.right(), middle), Align2::RIGHT_CENTER, text, font.clone(), colour);
    }
}

/// How sure it is, in words and numbers.
fn summary(ui: &mut Ui, forecast: &Forecast) {
    let guess = (forecast.classes.len().max(2) as f64).ln();
    ui.horizontal(|ui| {
        meter(ui, "entropy", forecast.entropy, guess);
        meter(ui, "disagreement of draws", forecast.disagreement, guess);
    });
    let (text, colour): (String, Color32) = match forecast.is_unfamiliar {
        None => (
            format!("What is unfamiliar is known from {} examples on.", crate::HELD_OUT_FROM),
            WEAK,
        ),
        Some(true) => ("Unfamiliar: unlike the examples that were held out.".to_string(), WARN),
        Some(false) => {
            let set = forecast.set.join(", ");
            (format!("Familiar; 9 times in 10 the class is among: {set}."), WEAK)
        }
    };
    coloured(ui, text, colour);
}

/// A number of nats beside that of a pure guess.
fn meter(ui: &mut Ui, name: &str, nats: f64, guess: f64) {
    let size = vec2((ui.available_width() - 8.0).min(170.0), 30.0);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let area = response.rect;
    let font = FontId::proportional(12.0);
    painter.text(area.left_top(), Align2::LEFT_TOP, name, font.clone(), WEAK);
    let text = format!("{nats:.2}");
    painter.text(area.right_top(), Align2::RIGHT_TOP, text, font, TEXT);
    let track = Rect::from_min_max(pos2(area.left(), area.bottom() - 8.0), area.right_bottom());
    painter.rect_filled(track, 3, LINE);
    let share = (nats / guess).clamp(0.0, 1.0) as f32;
    let bar = Rect::from_min_size(track.min, vec2(track.width() * share, track.height()));
    painter.rect_filled(bar, 3, WARN);
    response.on_hover_text(format!("nats; a guess among all classes has {guess:.2}"));
}
