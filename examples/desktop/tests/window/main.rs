//! Drives the real window as a user does, with a mouse and a keyboard, on a display in memory.
//!
//! It needs Linux, Xvfb and a Vulkan driver, in software if need be, and is skipped with the reason
//! where one is missing, unless `PRIORFIT_REQUIRE_GPU` is set. A user's own display is never used.

#![cfg(target_os = "linux")]

mod display;
mod program;

use std::time::Duration;

use priorfit::onnx::Model;
use priorfit::posterior::{About, Posterior};
use priorfit_desktop::Material;
use serde_json::Value;

use self::display::Display;
use self::program::Program;

/// How long the middle one of the window's frames may take while it adapts: relative to those
/// without a job, and in milliseconds beside that. A processor that draws in software takes 130 ms
/// of the 250 that it has for a frame, so what a job takes of them is asked, and not how smooth
/// that is; 253 ms were seen with a job and without.
const MEDIAN_MAX: (f64, f64) = (1.75, 20.0);
/// The longest frame in milliseconds: what a user takes for a window that hangs is longer. 1340
/// were seen, when the job compiles its kernels.
const WORST_MAX: f64 = 4_000.0;

/// A reason to skip, which is a failure where nothing may be skipped.
fn skip(reason: &str) {
    let is_required = std::env::var_os("PRIORFIT_REQUIRE_GPU").is_some();
    assert!(!is_required, "{reason}");
    println!("skipped: {reason}");
}

#[test]
fn a_user_teaches_the_window() {
    if priorfit::backend::gpu::adapters().is_empty() {
        return skip("there is no GPU, not even in software");
    }
    let Some(display) = Display::start() else {
        return skip("there is no Xvfb to show a window on");
    };
    let mut program = Program::start(display);
    program.wait("the window", |state| state["alone"]["count"].as_u64() >= Some(30));
    teaches(&mut program);
    adapts(&mut program);
    predicts(&mut program);
    goes_back_and_forth(&mut program);
    takes_a_picture(&mut program);
    cancels(&mut program);
    exports(&mut program);
    keeps_its_rate(&program.state());
    program.close();
}

/// Examples come by buttons, by keys and by hand, and go by a click.
fn teaches(program: &mut Program) {
    program.click("samples");
    program.wait("samples", |state| (0..10).all(|class| count(state, class) == 10));
    let state = program.state();
    let mut controls = state["controls"].as_object().expect("controls").keys();
    let shown = controls.find(|name| name.starts_with("example-")).expect("examples are shown");
    program.click(shown);
    program.wait("one less", |state| all(state) == 99);
    program.click("put-back");
    program.wait("it again", |state| (0..10).all(|class| count(state, class) == 10));
    draw_one(program);
    program.press("1");
    program
        .wait("the drawing as an example", |state| count(state, 1) == 11 && state["strokes"] == 0);
    draw_one(program);
    program.click("add-1");
    program.wait("another", |state| count(state, 1) == 12);
    assert_eq!(program.state()["prediction"], Value::Null, "the backbone knows no classes");
}

/// An adaptation can be held, and ends in a model.
fn adapts(program: &mut Program) {
    program.click("adapt");
    program.wait("the curve", |state| state["curve"].as_u64() > Some(3));
    program.click("pause");
    program.wait("the pause", |state| state["job"]["status"]["held"] == "paused");
    let held = program.state()["job"]["progress"].clone();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(program.state()["job"]["progress"], held, "a held job makes no step");
    program.click("pause");
    program.wait("a model", |state| models(state) == 1 && state["is_busy"] == false);
    let state = program.state();
    assert_eq!(state["current"], 0);
    let ran_on = state["models"][0]["ran_on"].as_str().unwrap_or_default();
    let device = state["device"].as_str().unwrap_or_default();
    assert!(!device.is_empty() && ran_on.contains(device), "on the window's device: {ran_on}");
}

/// A drawing is predicted, with its uncertainty.
fn predicts(program: &mut Program) {
    draw_one(program);
    program.wait("a prediction", |state| state["prediction"].is_object());
    let prediction = program.state()["prediction"].clone();
    let classes = prediction["classes"].as_array().expect("classes");
    let sum: f64 = classes.iter().filter_map(|class| class[1].as_f64()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{prediction}");
    let best = prediction["class"].as_u64().expect("a class") as usize;
    assert_eq!(classes[best][0], "1", "{prediction}");
    assert!(prediction["entropy"].as_f64() > Some(0.0), "{prediction}");
    assert!(prediction["is_unfamiliar"].is_boolean(), "it was calibrated: {prediction}");
}

fn goes_back_and_forth(program: &mut Program) {
    program.click("undo");
    program
        .wait("the backbone", |state| state["current"].is_null() && state["prediction"].is_null());
    program.click("redo");
    program
        .wait("the model again", |state| state["current"] == 0 && state["prediction"].is_object());
}

/// An adaptation that is cancelled leaves the model that was there.
fn cancels(program: &mut Program) {
    program.click("adapt");
    program.wait("a step", |state| state["job"]["progress"].is_object());
    program.click("cancel");
    program.wait("the end", |state| state["is_busy"] == false);
    let state = program.state();
    assert_eq!((models(&state), &state["current"]), (1, &Value::from(0)));
    assert_eq!(state["notice"]["text"], "Cancelled");
}

/// Both files are written where a user says, and priorfit opens them.
fn exports(program: &mut Program) {
    program.click("export-path");
    program.select_all();
    "mine".chars().for_each(|key| program.press(&key.to_string()));
    program.click("export-onnx");
    program.wait("the ONNX file", |state| written(state) == 1);
    program.click("export-delta");
    program.wait("the delta", |state| written(state) == 2);
    let model = Model::load(&program.folder().join("mine.onnx")).expect("a model");
    let about = About::of(&model).expect("it says so").expect("what it is");
    let backbone = Material::bundled().expect("the bundled files").model;
    assert_eq!(about.backbone, backbone.fingerprint());
    let delta = program.folder().join("mine.safetensors");
    let posterior = Posterior::load_delta(&delta, backbone).expect("a delta");
    assert_eq!(posterior.task().names().len(), 10);
    program.click("export-onnx");
    program.wait("a refusal", |state| state["notice"]["is_error"] == true);
}

/// Frames came all the while.
fn keeps_its_rate(state: &Value) {
    let (alone, beside) = (&state["alone"], &state["beside"]);
    println!("frames without a job: {alone}\nframes beside a job:   {beside}");
    assert!(beside["count"].as_u64() > Some(50), "{beside}");
    let median = |times: &Value| times["median"].as_f64().unwrap_or(f64::INFINITY);
    let (share, rest) = MEDIAN_MAX;
    assert!(median(beside) < share * median(alone) + rest, "{alone}, {beside}");
    assert!(beside["worst"].as_f64() < Some(WORST_MAX), "{beside}");
}

/// F12 stores what the window shows.
fn takes_a_picture(program: &mut Program) {
    program.press("F12");
    let path = program.folder().join("window.png");
    program.wait("a picture", |_| path.is_file());
    // It is written in one go, but not in no time.
    std::thread::sleep(Duration::from_millis(500));
    let file = std::fs::File::open(&path).expect("the picture");
    let decoder = png::Decoder::new(std::io::BufReader::new(file));
    let mut reader = decoder.read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("its size")];
    reader.next_frame(&mut pixels).expect("its pixels");
    let shades = pixels.iter().collect::<std::collections::HashSet<_>>().len();
    assert!(reader.info().width >= 1000 && shades > 50, "there is something on it: {shades}");
    if let Some(keep) = std::env::var_os("PRIORFIT_KEEP_SCREENSHOT") {
        std::fs::copy(&path, keep).expect("kept");
    }
}

/// An upright line with a small hook, as many write a one.
fn draw_one(program: &mut Program) {
    program.draw("sheet", &[[0.40, 0.30], [0.52, 0.12], [0.52, 0.50], [0.52, 0.88]]);
    program.wait("a stroke", |state| state["strokes"] == 1);
}

fn count(state: &Value, class: usize) -> u64 {
    state["examples"][class][1].as_u64().unwrap_or(0)
}

fn all(state: &Value) -> u64 {
    (0..10).map(|class| count(state, class)).sum()
}

fn models(state: &Value) -> usize {
    state["models"].as_array().map_or(0, Vec::len)
}

fn written(state: &Value) -> usize {
    state["exported"].as_array().map_or(0, Vec::len)
}
