//! Colours and spaces.

use egui::{Color32, Context, CornerRadius, Stroke, ThemePreference, Visuals, vec2};

pub(super) const PAGE: Color32 = Color32::from_rgb(0x12, 0x15, 0x1a);
pub(super) const CARD: Color32 = Color32::from_rgb(0x1b, 0x1f, 0x27);
pub(super) const WELL: Color32 = Color32::from_rgb(0x0c, 0x0e, 0x12);
pub(super) const LINE: Color32 = Color32::from_rgb(0x2c, 0x32, 0x3d);
pub(super) const TEXT: Color32 = Color32::from_rgb(0xe8, 0xeb, 0xf0);
pub(super) const WEAK: Color32 = Color32::from_rgb(0x9a, 0xa4, 0xb2);
pub(super) const ACCENT: Color32 = Color32::from_rgb(0x45, 0xb8, 0xac);
pub(super) const SECOND: Color32 = Color32::from_rgb(0x6b, 0x8e, 0xc9);
pub(super) const WARN: Color32 = Color32::from_rgb(0xe3, 0xae, 0x52);
pub(super) const ERROR: Color32 = Color32::from_rgb(0xec, 0x74, 0x78);

/// Sets them. Pictures are bright ink on dark paper, so the window is dark too.
pub(crate) fn apply(ctx: &Context) {
    ctx.set_theme(ThemePreference::Dark);
    ctx.all_styles_mut(|style| {
        let mut visuals = Visuals::dark();
        visuals.panel_fill = PAGE;
        visuals.window_fill = CARD;
        visuals.extreme_bg_color = WELL;
        visuals.override_text_color = None;
        visuals.selection.bg_fill = ACCENT.gamma_multiply(0.45);
        visuals.selection.stroke = Stroke::new(1.0, TEXT);
        visuals.disabled_alpha = 0.4;
        let widgets = &mut visuals.widgets;
        let states = [
            (&mut widgets.inactive, Color32::from_rgb(0x2a, 0x30, 0x3b), TEXT),
            (&mut widgets.hovered, Color32::from_rgb(0x36, 0x3e, 0x4c), TEXT),
            (&mut widgets.active, ACCENT.gamma_multiply(0.6), TEXT),
        ];
        for (state, fill, text) in states {
            state.weak_bg_fill = fill;
            state.bg_fill = fill;
            state.fg_stroke = Stroke::new(1.0, text);
            state.corner_radius = CornerRadius::same(5);
            state.expansion = 0.0;
        }
        widgets.noninteractive.fg_stroke = Stroke::new(1.0, TEXT);
        widgets.noninteractive.bg_stroke = Stroke::new(1.0, LINE);
        style.visuals = visuals;
        style.spacing.button_padding = vec2(10.0, 5.0);
        style.spacing.interact_size.y = 26.0;
        style.interaction.selectable_labels = false;
    });
}
