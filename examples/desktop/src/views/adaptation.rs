//! The job and its curve.

use egui::{Align2, FontId, Pos2, Rect, Sense, Shape, Stroke, Ui, pos2, vec2};
use priorfit::adapt::{Phase, Progress};
use priorfit::job::{Hold, Status};

use super::theme::{ACCENT, LINE, SECOND, WEAK, WELL};
use super::{Screen, button, card, weak};
use crate::curve::{Curve, Point};
use crate::session::Activity;

pub(super) fn show(screen: &mut Screen, ui: &mut Ui) {
    let activity = screen.session.activity();
    let note = match &activity {
        Activity::Idle => String::new(),
        Activity::Calibrating => "calibrating".to_string(),
        Activity::Adapting(snapshot) => status(snapshot.status).to_string(),
    };
    card(ui, "Adaptation", &note, |ui| {
        ui.horizontal(|ui| buttons(screen, ui, &activity));
        let progress = match &activity {
            Activity::Adapting(snapshot) => snapshot.progress,
            Activity::Idle | Activity::Calibrating => None,
        };
        bar(ui, progress, screen.session.is_busy());
        plot(ui, screen.session.curve());
    });
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Held(Hold::Paused) => "paused",
        Status::Held(Hold::Battery | Hold::Heat) => "waiting",
        Status::Stopping => "stopping",
        Status::Ended => "done",
    }
}

fn buttons(screen: &mut Screen, ui: &mut Ui, activity: &Activity) {
    let Screen { session, controls, frames, .. } = screen;
    let can_start = !session.is_busy() && session.examples.is_trainable();
    if button(ui, controls, ("adapt", "Adapt"), can_start).clicked() {
        session.adapt(Some(frames.host()));
    }
    let (is_going, is_paused) = match activity {
        Activity::Adapting(snapshot) => {
            (snapshot.stopped_by.is_none(), snapshot.status == Status::Held(Hold::Paused))
        }
        Activity::Idle | Activity::Calibrating => (false, false),
    };
    let text = if is_paused { "Resume" } else { "Pause" };
    if button(ui, controls, ("pause", text), is_going).clicked() {
        session.pause(!is_paused);
    }
    if button(ui, controls, ("cancel", "Cancel"), is_going).clicked() {
        session.cancel();
    }
    if !session.is_busy() && !session.examples.is_trainable() {
        weak(ui, "needs examples of two classes");
    }
}

/// How far the phase has come.
fn bar(ui: &mut Ui, progress: Option<Progress>, is_busy: bool) {
    let (share, text) = match progress {
        Some(Progress { phase, step, steps, .. }) => {
            let share = step as f32 / steps.max(1) as f32;
            (share, format!("{}, {step} of {steps}", name(phase)))
        }
        None if is_busy => (0.0, "making ready".to_string()),
        None => (0.0, String::new()),
    };
    let size = vec2(ui.available_width(), 18.0);
    let (response, painter) = ui.allocate_painter(size, Sense::hover());
    let area = response.rect;
    painter.rect_filled(area, 4, WELL);
    let done = Rect::from_min_size(area.min, vec2(area.width() * share, area.height()));
    painter.rect_filled(done, 4, ACCENT.gamma_multiply(0.5));
    let at = area.left_center() + vec2(8.0, 0.0);
    painter.text(at, Align2::LEFT_CENTER, text, FontId::proportional(12.0), WEAK);
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Features => "reading features",
        Phase::Probe => "linear probe",
        Phase::Train => "all weights under the prior",
        Phase::Validate => "predicting",
    }
}

/// The loss of each step, the probe's in another colour than training's.
fn plot(ui: &mut Ui, curve: &Curve) {
    let (response, painter) = ui.allocate_painter(ui.available_size(), Sense::hover());
    let area = response.rect;
    painter.rect_filled(area, 6, WELL);
    painter.rect_stroke(area, 6, Stroke::new(1.0, LINE), egui::StrokeKind::Inside);
    let font = FontId::proportional(11.0);
    let Some(last) = curve.points().last() else {
        let text = "the loss of each step";
        painter.text(area.center(), Align2::CENTER_CENTER, text, font, WEAK);
        return;
    };
    let highest = curve.points().map(|point| point.loss).fold(1e-6, f32::max);
    let inner = Rect::from_min_max(area.min + vec2(44.0, 12.0), area.max - vec2(12.0, 22.0));
    for line in 0..=2 {
        let share = line as f32 / 2.0;
        let y = inner.bottom() - share * inner.height();
        painter.hline(inner.x_range(), y, Stroke::new(1.0, LINE));
        let text = format!("{:.2}", share * highest);
        painter.text(pos2(inner.left() - 6.0, y), Align2::RIGHT_CENTER, text, font.clone(), WEAK);
    }
    let at = |point: &Point| {
        let x = point.step as f32 / last.step.max(1) as f32;
        let y = point.loss / highest;
        pos2(inner.left() + x * inner.width(), inner.bottom() - y * inner.height())
    };
    for segment in curve.segments() {
        let points: Vec<Pos2> = segment.points.iter().map(at).collect();
        painter.add(Shape::line(points, Stroke::new(1.5, colour(segment.phase))));
    }
    let below = pos2(inner.right(), area.bottom() - 5.0);
    let text = format!("{} steps, loss {:.3}", last.step, last.loss);
    painter.text(below, Align2::RIGHT_BOTTOM, text, font.clone(), WEAK);
    let mut legend = pos2(inner.left(), area.bottom() - 5.0);
    for (phase, text) in [(Phase::Probe, "probe"), (Phase::Train, "all weights")] {
        let ink = colour(phase);
        let drawn = painter.text(legend, Align2::LEFT_BOTTOM, text, font.clone(), ink);
        legend.x = drawn.right() + 14.0;
    }
}

fn colour(phase: Phase) -> egui::Color32 {
    if phase == Phase::Train { ACCENT } else { SECOND }
}
