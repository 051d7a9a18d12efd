//! A window that adapts a backbone to what its user draws, on the device that it is drawn with.
//!
//! ```text
//! drawing, picture ---> examples ---> session <---> worker (predicts, calibrates, exports)
//!                                     |     |
//!                        priorfit's job     views (one function a panel) <--- app (the window)
//! ```
//!
//! [`Session`] is all of the program but its window, and is tested without one. The views show it
//! and call it; nothing in them waits for a computation.

mod app;
mod controls;
mod curve;
mod drawing;
mod examples;
mod frames;
mod material;
mod options;
mod picture;
mod report;
mod session;
mod views;
mod worker;

pub use app::run;
pub use curve::{Curve, Point, Segment};
pub use drawing::Drawing;
pub use examples::{CLASSES_MAX, Class, EXAMPLES_MAX, Example, Examples};
pub use frames::{Frames, Times};
pub use material::Material;
pub use options::{Options, Where};
pub use picture::{Picture, SIDE};
pub use report::Report;
pub use session::{About, Activity, File, HELD_OUT_FROM, Notice, Session, Version};
pub use worker::{Forecast, Wake};
