//! The program without its window, on the processor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use priorfit::backend::Engine;
use priorfit::job::{Hold, Status};
use priorfit::onnx::Model;
use priorfit::posterior::{About, Posterior};
use priorfit::threads::Threads;
use priorfit_desktop::{Activity, File, HELD_OUT_FROM, Material, Session};

const PATIENCE: Duration = Duration::from_secs(300);

fn session() -> Session {
    let engine = Engine::cpu(Arc::new(Threads::available()));
    let material = Material::bundled().expect("the bundled files");
    Session::new(material, engine, 10, Arc::new(|| ())).expect("a session")
}

/// Ticks until something holds.
fn wait(session: &mut Session, what: &str, is_so: impl Fn(&Session) -> bool) {
    let started = Instant::now();
    while !is_so(session) {
        assert!(started.elapsed() < PATIENCE, "waited for {what}: {:?}", session.notice());
        std::thread::sleep(Duration::from_millis(5));
        session.tick();
    }
}

fn draw(session: &mut Session, points: &[[f32; 2]]) {
    session.draw(|drawing| {
        drawing.clear();
        drawing.begin(points[0]);
        points[1..].iter().for_each(|&to| drawing.extend(to));
    });
    session.drawn();
}

fn text(session: &Session) -> String {
    session.notice().map_or(String::new(), |notice| notice.text.clone())
}

const ONE: [[f32; 2]; 3] = [[0.4, 0.3], [0.5, 0.1], [0.5, 0.9]];

#[test]
fn a_session_teaches_predicts_undoes_and_exports() {
    let mut session = session();
    session.adapt(None);
    assert!(text(&session).contains("fewer than two classes"), "{}", text(&session));
    session.add_samples(7);
    assert!(session.examples.len() == 70 && session.examples.len() >= HELD_OUT_FROM);
    draw(&mut session, &ONE);
    session.tick();
    assert!(session.prediction().is_none(), "the backbone knows no classes");

    session.adapt(None);
    wait(&mut session, "a model", |s| s.versions().len() == 1);
    assert!(!session.curve().is_empty());
    let about = &session.versions()[0].about;
    assert_eq!(about.examples + about.held_out, 70);
    assert!(about.accuracy.is_some_and(|accuracy| accuracy > 0.6), "{about:?}");
    wait(&mut session, "a prediction", |s| s.prediction().is_some());
    let forecast = session.prediction().expect("there is one");
    let sum: f64 = forecast.classes.iter().map(|(_, p)| p).sum();
    assert!((sum - 1.0).abs() < 1e-9 && forecast.classes.len() == 10);
    assert_eq!(forecast.classes[forecast.class].0, "1", "{forecast:?}");
    // Networks that would predict worse than the linear probe give way to one.
    assert!(forecast.entropy > 0.0 && forecast.disagreement >= 0.0);
    assert!(forecast.is_unfamiliar.is_some(), "it was calibrated");

    let folder = tempfile::tempdir().expect("a folder");
    exports(&mut session, folder.path());
    session.undo();
    assert!(session.current().is_none() && session.prediction().is_none());
    session.export(File::Onnx, &folder.path().join("none.onnx"));
    assert!(text(&session).contains("no adapted model"), "{}", text(&session));
    session.undo();
    session.redo();
    session.redo();
    assert_eq!(session.current(), Some(0));
    wait(&mut session, "the prediction again", |s| s.prediction().is_some());
}

/// Both files are what they should be, and neither takes the place of another.
fn exports(session: &mut Session, folder: &Path) {
    let mut written = 0;
    for file in [File::Onnx, File::Delta] {
        let path = file.path(&folder.join("mine").display().to_string());
        session.export(file, &path);
        written += 1;
        wait(session, "a file", |s| s.exported().len() == written);
        let before = std::fs::read(&path).expect("it is there");
        session.export(file, &path);
        wait(session, "a refusal", |s| text(s).contains("already"));
        assert_eq!(std::fs::read(&path).expect("it still is"), before);
    }
    let model = Model::load(&folder.join("mine.onnx")).expect("a model");
    let about = About::of(&model).expect("it says so").expect("what it is");
    let backbone = Material::bundled().expect("the bundled files").model;
    assert_eq!(about.backbone, backbone.fingerprint());
    let delta = Posterior::load_delta(&folder.join("mine.safetensors"), backbone);
    assert_eq!(delta.expect("a delta").task().names().len(), 10);
}

#[test]
fn a_job_is_paused_resumed_and_cancelled() {
    let mut session = session();
    session.add_samples(3);
    session.adapt(None);
    session.pause(true);
    let is_held = |s: &Session| match s.activity() {
        Activity::Adapting(snapshot) => snapshot.status == Status::Held(Hold::Paused),
        Activity::Idle | Activity::Calibrating => false,
    };
    wait(&mut session, "the pause", is_held);
    session.adapt(None);
    assert!(is_held(&session), "one job at a time");
    session.pause(false);
    wait(&mut session, "the end of the pause", |s| !is_held(s));
    session.cancel();
    wait(&mut session, "the end", |s| !s.is_busy());
    assert!(session.versions().is_empty() || text(&session) != "Cancelled");
    assert_eq!(session.examples.len(), 30, "nothing that was taught is lost");
}

#[test]
fn a_hand_that_draws_fast_gets_the_last_prediction() {
    let mut session = session();
    session.add_samples(2);
    session.adapt(None);
    wait(&mut session, "a model", |s| s.versions().len() == 1);
    assert_eq!(session.versions()[0].about.held_out, 0);
    for i in 0..20 {
        draw(&mut session, &[[0.1, 0.1 + 0.04 * i as f32], [0.9, 0.9]]);
    }
    draw(&mut session, &ONE);
    wait(&mut session, "a prediction", |s| s.prediction().is_some());
    let fast = session.prediction().map(|p| p.classes.clone());
    draw(&mut session, &ONE);
    std::thread::sleep(Duration::from_millis(500));
    session.tick();
    assert_eq!(session.prediction().map(|p| p.classes.clone()), fast);
    assert_eq!(session.prediction().and_then(|p| p.is_unfamiliar), None, "too few examples");
    session.draw(priorfit_desktop::Drawing::clear);
    session.drawn();
    assert!(session.prediction().is_none());
}

#[test]
fn files_are_added_or_told_of() {
    let mut session = session();
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.png");
    std::fs::write(&bad, [0; 10]).expect("written");
    session.add_files(2, vec![bad, PathBuf::from("none.png")]);
    wait(&mut session, "the bad news", |s| text(s).contains("added 0 of 2"));
    assert!(session.examples.is_empty());
    session.add_drawing(2);
    assert!(text(&session).contains("nothing is drawn"));
    assert!(session.add_class("ä") && !session.add_class("ä"));
}
