//! What a model forgets: it ends with the bits of one that never had the examples.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, Array4, Axis};
use priorfit::adapt::{
    Adapted, Adapter, Control, Data, Forget, InputSettings, PosteriorKind, PosteriorSettings,
    PriorKind, Recipe, Replay, Rest, Settings,
};
use priorfit::data::{Dataset, Preprocess, TargetKind};
use priorfit::error::Result;
use priorfit::posterior::{DrawPrecision, Posterior};
use priorfit::prior::Prior;
use tempfile::TempDir;

use crate::adapt::{Fixture, fixture};

/// Arrays to take examples from.
struct Source {
    images: Array4<u8>,
    labels: Vec<usize>,
}

impl Source {
    /// The first digits of each class.
    fn new(fixture: &Fixture, per_class: usize) -> Self {
        let (few, _) = fixture.few(per_class);
        let plain = Preprocess { scale: 1.0, ..Preprocess::new(1, 16, 16) };
        let all: Vec<usize> = (0..few.len()).collect();
        let mut x = vec![0.0; few.len() * 256];
        few.fill(&all, &plain, None, &mut x, &fixture.threads).expect("images");
        let x = x.into_iter().map(|x| x as u8).collect();
        let images = Array4::from_shape_vec((few.len(), 16, 16, 1), x).expect("images");
        Source { images, labels: few.labels(&all).expect("labels") }
    }

    /// Those in `rows`, as if no other had ever been there: classes are those that have examples.
    fn classes(&self, rows: &[usize]) -> Dataset {
        let labels: Vec<usize> = rows.iter().map(|&row| self.labels[row]).collect();
        let used: Vec<usize> = (0..10).filter(|class| labels.contains(class)).collect();
        let place = |label: &usize| used.iter().position(|class| class == label).expect("used");
        let labels: Vec<usize> = labels.iter().map(place).collect();
        let names = used.iter().map(|class| format!("digit {class}")).collect();
        let images = self.images.select(Axis(0), rows);
        Dataset::from_images_u8(images.view(), Some(&labels), names).expect("data")
    }

    /// The same with two numbers to learn.
    fn numbers(&self, rows: &[usize]) -> Dataset {
        let number = |(row, column): (usize, usize)| (self.labels[rows[row]] * (column + 1)) as f32;
        let values = Array2::from_shape_fn((rows.len(), 2), number);
        let names = vec!["once".to_string(), "twice".to_string()];
        let data = self.classes(rows);
        data.with_rows(TargetKind::Numbers, values.view(), names).expect("numbers")
    }
}

/// What every run here says of its input and its steps.
fn recipe() -> Recipe {
    let input = InputSettings { size: Some([16, 16]), ..InputSettings::default() };
    Recipe { input: Some(input), epochs: Some(2), ..Recipe::default() }
}

/// Everything by default, but short.
fn settings() -> Settings {
    let prior = PriorKind::Isotropic;
    Settings { prior, batch_size: 8, probe_steps: 50, seed: 5, ..Settings::default() }
}

/// A chain whose strength is cross-validated.
fn sampler() -> Settings {
    let kind = PosteriorSettings::of(PosteriorKind::Sghmc);
    let posterior = PosteriorSettings { draws: Some(3), chains: 1, ..kind };
    Settings { posterior, clip: None, gate: false, ..settings() }
}

/// A model, made as a program makes it.
fn adapt(
    fixture: &Fixture,
    settings: &Settings,
    prior: Option<Prior>,
    train: &Dataset,
    held: Option<&Dataset>,
) -> Adapted {
    let recipe = recipe();
    let input = recipe.input.as_ref().expect("an input");
    let preprocess = input.resolve(&fixture.model, train, &fixture.threads).expect("an input");
    let steps = recipe.steps(0, train.len(), settings.batch_size);
    let mut adapter = Adapter::new(Arc::clone(&fixture.model), preprocess, &fixture.threads);
    if let Some(prior) = prior {
        adapter = adapter.with_prior(prior).expect("a prior");
    }
    let adapter = adapter.with_settings(Settings { steps, ..settings.clone() }).expect("settings");
    let adapter = adapter.with_recipe(recipe);
    adapter.fit(train, held, &mut |_| Control::Continue).expect("a run")
}

/// The files of a folder by their names.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, fs::read(entry.path()).expect("a file"))
    };
    entries.map(file).collect()
}

/// A model in a folder of its own.
fn stored(adapted: &Adapted, precision: DrawPrecision) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    adapted.posterior.save_as(folder.path(), precision).expect("saved");
    folder
}

/// The examples that are left.
fn rest(folder: &Path, data: Data<'_>, forget: &Forget, fixture: &Fixture) -> Result<Rest> {
    let posterior = Posterior::load(folder)?;
    Replay::of(&posterior)?.without(data, forget, &fixture.threads)
}

/// Forgets, in the folder.
fn forget(
    folder: &Path,
    prior: Option<Prior>,
    data: Data<'_>,
    forget: &Forget,
    fixture: &Fixture,
) -> Rest {
    let posterior = Posterior::load(folder).expect("a model");
    let replay = Replay::of(&posterior).expect("a record");
    let rest = replay.without(data, forget, &fixture.threads).expect("a rest");
    let adapter = replay.adapter(prior, &rest.train, &fixture.threads).expect("an adapter");
    let go_on = &mut |_| Control::Continue;
    let adapted = adapter.fit(&rest.train, rest.validation.as_ref(), go_on).expect("a run");
    adapted.posterior.save_as(folder, posterior.precision()).expect("saved");
    rest
}

fn train(train: &Dataset) -> Data<'_> {
    Data { train, validation: None }
}

fn all(source: &Source) -> Vec<usize> {
    (0..source.labels.len()).collect()
}

/// All rows but these.
fn but(source: &Source, gone: &[usize]) -> Vec<usize> {
    all(source).into_iter().filter(|row| !gone.contains(row)).collect()
}

/// Asserts that forgetting `gone` leaves the files of a run that never had them, and nothing else.
fn forgets(settings: &Settings, precision: DrawPrecision, gone: &[usize]) {
    let fixture = fixture();
    let source = Source::new(&fixture, 3);
    let everything = source.classes(&all(&source));
    let folder = stored(&adapt(&fixture, settings, None, &everything, None), precision);
    let before = files(folder.path());
    let wanted = Forget { train: gone.to_vec(), ..Forget::default() };
    let rest = forget(folder.path(), None, train(&everything), &wanted, &fixture);
    assert_eq!(rest.train_forgotten.len(), gone.len());
    let never = source.classes(&but(&source, gone));
    let expected = stored(&adapt(&fixture, settings, None, &never, None), precision);
    let (after, expected) = (files(folder.path()), files(expected.path()));
    assert_eq!(after.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(after == expected, "the bits of a run that never had them");
    let learned = |name: &&String| name.starts_with("draws-") || *name == "posterior.json";
    for name in before.keys().filter(learned) {
        assert_ne!(after.get(name), before.get(name), "{name} of the old model is there");
    }
    for hash in &rest.train_forgotten {
        let has = |bytes: &Vec<u8>| bytes.windows(hash.len()).any(|part| part == hash.as_bytes());
        assert!(before.values().any(has) && !after.values().any(has), "its hash is gone, too");
    }
}

#[test]
fn a_cross_validated_model_forgets_to_the_bit() {
    forgets(&settings(), DrawPrecision::F32, &[2, 3, 17]);
}

#[test]
fn a_chain_forgets_to_the_bit_in_half_precision() {
    forgets(&sampler(), DrawPrecision::F16, &[0, 29]);
}

#[test]
fn a_class_whose_examples_all_go_was_never_there() {
    let fixture = fixture();
    let source = Source::new(&fixture, 3);
    let sevens: Vec<usize> = (0..30).filter(|&row| source.labels[row] == 7).collect();
    assert_eq!(sevens.len(), 3);
    forgets(&settings(), DrawPrecision::F32, &sevens);
}

#[test]
fn numbers_with_held_out_ones_and_a_prior_are_forgotten_to_the_bit() {
    let fixture = fixture();
    let source = Source::new(&fixture, 3);
    let settings = Settings { prior: PriorKind::Learned, ..settings() };
    let prior = || Some(fixture.prior());
    let run = |gone: &[usize]| {
        let rows = but(&source, gone);
        let (held, own): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row % 3 == 1);
        (source.numbers(&own), source.numbers(&held))
    };
    let (own, held) = run(&[]);
    let folder =
        stored(&adapt(&fixture, &settings, prior(), &own, Some(&held)), DrawPrecision::F32);
    let data = Data { train: &own, validation: Some(&held) };
    // Rows 0, 5 and 4 of the source.
    let wanted = Forget { train: vec![0, 3], validation: vec![1], ..Forget::default() };
    let rest = forget(folder.path(), prior(), data, &wanted, &fixture);
    assert_eq!((rest.train_forgotten.len(), rest.validation_forgotten.len()), (2, 1));
    let (own, held) = run(&[0, 5, 4]);
    let expected =
        stored(&adapt(&fixture, &settings, prior(), &own, Some(&held)), DrawPrecision::F32);
    assert!(files(folder.path()) == files(expected.path()));
}

/// In whatever order the data come, and with whatever else; found by hash, with its copies.
#[test]
fn examples_are_found_among_others_and_copies_go_together() {
    let fixture = fixture();
    let source = Source::new(&fixture, 3);
    // The last is the first again.
    let rows: Vec<usize> = (0..12).chain([0]).collect();
    let made_from = source.classes(&rows);
    let settings = Settings { strength: Some(1.0), head_variance: Some(1.0), ..settings() };
    let settings = Settings { gate: false, ..settings };
    let folder = stored(&adapt(&fixture, &settings, None, &made_from, None), DrawPrecision::F32);
    let posterior = Posterior::load(folder.path()).expect("a model");
    let record = Replay::of(&posterior).expect("a record").record().clone();
    assert_eq!(record.train[0], record.train[12]);
    let mixed: Vec<usize> = [13, 0].into_iter().chain((0..14).rev()).collect();
    let mixed = source.classes(&mixed);
    let hashes = vec![record.train[0][..12].to_uppercase()];
    let wanted = Forget { hashes, ..Forget::default() };
    let rest = forget(folder.path(), None, train(&mixed), &wanted, &fixture);
    assert_eq!((rest.train_forgotten.len(), rest.others), (2, 3));
    let never = source.classes(&(1..12).collect::<Vec<_>>());
    let expected = stored(&adapt(&fixture, &settings, None, &never, None), DrawPrecision::F32);
    assert!(files(folder.path()) == files(expected.path()));
    // Asked again, there is nothing to do where the image is known, and an error where it is not.
    let named = Forget { train: vec![1], ..Forget::default() };
    let again = self::rest(folder.path(), train(&mixed), &named, &fixture).expect("nothing to do");
    assert!(again.is_untouched());
    let error = self::rest(folder.path(), train(&mixed), &wanted, &fixture).expect_err("gone");
    assert!(error.to_string().contains("no example of the model has the hash"), "{error}");
}

#[test]
fn what_is_gone_already_is_forgotten_if_that_is_asked_for() {
    let fixture = fixture();
    let source = Source::new(&fixture, 2);
    let settings = Settings { strength: Some(1.0), head_variance: Some(1.0), ..settings() };
    let settings = Settings { gate: false, ..settings };
    let everything = source.classes(&all(&source));
    let folder = stored(&adapt(&fixture, &settings, None, &everything, None), DrawPrecision::F32);
    let left = source.classes(&but(&source, &[4, 11]));
    let error = rest(folder.path(), train(&left), &Forget::default(), &fixture);
    let error = error.expect_err("two are gone").to_string();
    assert!(error.contains("2 of the 20 examples") && error.contains("--missing"), "{error}");
    let wanted = Forget { missing: true, ..Forget::default() };
    forget(folder.path(), None, train(&left), &wanted, &fixture);
    let expected = stored(&adapt(&fixture, &settings, None, &left, None), DrawPrecision::F32);
    assert!(files(folder.path()) == files(expected.path()));
}

#[test]
fn what_cannot_be_forgotten_is_an_error_and_changes_nothing() {
    let fixture = fixture();
    let source = Source::new(&fixture, 2);
    let settings = Settings { strength: Some(1.0), head_variance: Some(1.0), ..settings() };
    let settings = Settings { gate: false, ..settings };
    let data = source.classes(&all(&source));
    let folder = stored(&adapt(&fixture, &settings, None, &data, None), DrawPrecision::F32);
    let before = files(folder.path());
    let fails = |data: Data<'_>, wanted: Forget, says: &str| {
        let error = rest(folder.path(), data, &wanted, &fixture).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    };
    let places = |train: &[usize]| Forget { train: train.to_vec(), ..Forget::default() };
    let hash = |hash: &str| Forget { hashes: vec![hash.into()], ..Forget::default() };
    fails(train(&data), places(&[20]), "no example 20 among 20");
    fails(train(&data), places(&all(&source)), "nothing would be left");
    let ones = source.labels.iter().position(|&label| label == 1).expect("a one");
    let all_but = |class: usize| {
        let other = |&row: &usize| source.labels[row] != class;
        (0..20).filter(other).collect::<Vec<_>>()
    };
    fails(train(&data), places(&all_but(1)), "the examples are of 1 class");
    fails(train(&data), hash("ab"), "is no hash of an example");
    fails(train(&data), hash(&"0".repeat(64)), "no example of the model has the hash");
    let mut changed = Source { images: source.images.clone(), labels: source.labels.clone() };
    changed.images[[ones, 3, 3, 0]] ^= 1;
    fails(train(&changed.classes(&all(&source))), places(&[0]), "1 of the 20 examples");
    let held = Data { train: &data, validation: Some(&data) };
    fails(held, places(&[0]), "without held-out examples");
    fails(train(&source.numbers(&all(&source))), places(&[0]), "cannot be read as one class");
    let posterior = Posterior::load(folder.path()).expect("a model");
    let replay = Replay::of(&posterior).expect("a record");
    let error = replay.adapter(Some(fixture.prior()), &data, &fixture.threads).err();
    assert!(error.expect("no prior").to_string().contains("without a stored prior"));
    assert!(files(folder.path()) == before);
}

#[test]
fn a_model_without_a_record_says_so_and_can_be_withdrawn() {
    let fixture = fixture();
    let (few, _) = fixture.few(1);
    let settings = Settings { steps: 1, prior: PriorKind::Isotropic, ..Settings::fixed() };
    let adapted = fixture.fit(&few, settings);
    assert!(Replay::of(&adapted.probe).is_err(), "the probe is another network");
    let folder = stored(&adapted, DrawPrecision::F32);
    let description = folder.path().join("posterior.json");
    let json = fs::read_to_string(&description).expect("a description");
    let mut json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    json["provenance"]["record"]["version"] = 9.into();
    fs::write(&description, json.to_string()).expect("written");
    let replay = |path: &Path| Replay::of(&Posterior::load(path)?).map(|_| ());
    let error = replay(folder.path()).expect_err("another version").to_string();
    assert!(error.contains("version 9"), "{error}");
    json["provenance"].as_object_mut().expect("an object").remove("record");
    fs::write(&description, json.to_string()).expect("written");
    let error = replay(folder.path()).expect_err("no record").to_string();
    assert!(error.contains("no record"), "{error}");
    // Even damaged it goes, and the network before it stays.
    fs::write(&description, "{").expect("written");
    fs::write(folder.path().join("mine.txt"), "mine").expect("written");
    let kept = Posterior::withdraw(folder.path()).expect("withdrawn");
    let left: Vec<String> = files(folder.path()).into_keys().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].starts_with("backbone-") && kept[0].ends_with(&left[0]), "{left:?}");
    let before = priorfit::onnx::Model::load(&kept[0]).expect("a network");
    assert_eq!(before.fingerprint(), fixture.model.fingerprint());
    let error = Posterior::withdraw(folder.path()).expect_err("it is gone").to_string();
    assert!(error.contains("holds no adapted model"), "{error}");
}
