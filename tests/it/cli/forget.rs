//! `forget`: what is left of a model, of files and of processes that were killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use priorfit::data::Dataset;
use priorfit::posterior::Posterior;
use priorfit::rng::{Key, Stream};

use super::crash::{Place, by_name, contents, ended_well, is_killed_after, store};
use super::*;

/// Kills of a command that forgets; more of them with `PRIORFIT_KILLS`.
const KILLS: usize = 6;

/// Folders of shaded images in three classes, some of each.
fn photos(path: &Path) {
    for (class, shade) in [("ant", 10), ("bee", 90), ("cat", 170)] {
        fs::create_dir_all(path.join(class)).expect("a folder");
        for number in 0..6u8 {
            let pixel = |x: u32, y: u32| image::Rgb([shade + 9 * number, x as u8, (y * 3) as u8]);
            let image = image::RgbImage::from_fn(32, 32, pixel);
            image.save(path.join(class).join(format!("{number}.png"))).expect("an image");
        }
    }
}

/// The same without some.
fn photos_without(path: &Path, gone: &[&str]) {
    photos(path);
    for name in gone {
        fs::remove_file(path.join(name)).expect("removed");
        let _ = fs::remove_dir(path.join(name).parent().expect("a folder"));
    }
}

/// Adapts with everything that is derived from the examples: statistics, steps, strengths.
fn adapt(train: &Path, out: &Path) {
    let backbone = file(BACKBONE);
    let args = ["adapt", "--backbone", &backbone, "--train", text(train), "--out", text(out)];
    succeeds(&[&args[..], &["--epochs", "1", "--batch", "5", "--flip"]].concat(), &[]);
}

fn same(a: &Path, b: &Path) -> bool {
    by_name(&contents(a)) == by_name(&contents(b))
}

/// What somebody altered is not what the record makes; then the model is deleted.
fn what_is_altered_is_noticed_and_what_is_dropped_is_gone(verify: &[&str], out: &Path) {
    let description = out.join("posterior.json");
    let words = fs::read_to_string(&description).expect("a description");
    let mut words: Value = serde_json::from_str(&words).expect("JSON");
    words["temperature"] = 9.5.into();
    fs::write(&description, words.to_string()).expect("written");
    let (report, output) = json(verify);
    assert_eq!((output.status.code(), &report["verified"]), (Some(1), &false.into()));
    assert_eq!(report["differences"], serde_json::json!(["posterior.json"]));

    let dropped = succeeds(&["forget", "--posterior", text(out), "--drop"], &["backbones"]);
    assert_eq!(dropped["backbones"].as_array().map(Vec::len), Some(1));
    let left = contents(out);
    assert_eq!(left.len(), 1, "{:?}", left.keys());
}

#[test]
fn images_are_forgotten_with_all_that_came_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (data, out, certificate) = (at("photos"), at("out"), at("out.forgotten.json"));
    photos(&data);
    adapt(&data, &out);
    let calibrate = ["calibrate", "--posterior", text(&out), "--data"];
    fails(&[&calibrate[..], &[text(&data)]].concat(), &["20"]);
    fs::create_dir(out.join("checkpoints")).expect("a folder");
    fs::write(out.join("checkpoints/position-0.safetensors"), "of another run").expect("a file");
    let before = contents(&out);
    let command = ["forget", "--posterior", text(&out), "--data", text(&data)];
    let (one, all_cats) = (data.join("ant/3.png"), data.join("cat"));
    let named = ["--examples", text(&one), text(&all_cats)];
    let dry = [&command[..], &named, &["--dry-run"]].concat();
    let report = succeeds(&dry, &["hashes", "left"]);
    assert_eq!((&report["forgotten"]["train"], &report["dry_run"]), (&7.into(), &true.into()));
    assert_eq!(report["names_dropped"], serde_json::json!(["cat"]));
    assert_eq!(report["outside"].as_array().map(Vec::len), Some(7));
    assert!(contents(&out) == before && !certificate.exists(), "nothing is done");

    let report = succeeds(&[&command[..], &named].concat(), &["before", "after", "seconds"]);
    assert_eq!(report["checkpoints_removed"], true);
    let gone: Vec<String> = (0..6).map(|number| format!("cat/{number}.png")).collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).chain(["ant/3.png"]).collect();
    photos_without(&at("never"), &gone);
    adapt(&at("never"), &at("expected"));
    assert!(same(&out, &at("expected")), "the bits of a run that never had them");
    assert!(one.exists() && all_cats.exists(), "what is the user's stays");
    let hashes = report["hashes"].as_array().expect("a list");
    let written = fs::read_to_string(&certificate).expect("a certificate");
    for hash in hashes.iter().filter_map(Value::as_str) {
        assert!(hash.len() == 64 && !written.contains(hash), "{written}");
    }
    let parsed: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(
        (&parsed["forgotten"]["train"], &parsed["made_from"]["train"]),
        (&7.into(), &11.into())
    );
    assert_eq!(parsed["files"], report["after"]);
    assert!(
        report["before"]
            .as_object()
            .expect("files")
            .keys()
            .all(|name| { !name.starts_with("draws-") || !written.contains(name.as_str()) })
    );

    // Asked again it has nothing to do but to delete the files.
    let again = [&command[..], &named, &["--delete-files"]].concat();
    let report = succeeds(&again, &["deleted"]);
    assert_eq!((&report["forgotten"]["train"], &report["deleted"]), (&0.into(), &7.into()));
    assert!(!one.exists() && !all_cats.exists() && data.join("ant").exists());
    let verify = ["forget", "--posterior", text(&out), "--data", text(&data), "--verify"];
    assert_eq!(succeeds(&verify, &[])["verified"], true);
    assert!(same(&out, &at("expected")), "looking changes nothing");

    what_is_altered_is_noticed_and_what_is_dropped_is_gone(&verify, &out);
    assert!(!certificate.exists(), "it tells of a model that is no more");
}

#[test]
fn files_that_are_gone_are_forgotten_and_a_calibration_goes_with_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (data, out) = (at("photos"), at("out"));
    photos(&data);
    // Twenty examples are held out: those of two folders.
    let held = at("held");
    photos(&held);
    for class in ["ant", "bee"] {
        fs::copy(data.join(class).join("0.png"), held.join(class).join("x.png")).expect("copied");
    }
    adapt(&data, &out);
    succeeds(&["calibrate", "--posterior", text(&out), "--data", text(&held)], &[]);
    fs::remove_file(data.join("bee/2.png")).expect("removed");
    let command = ["forget", "--posterior", text(&out), "--data", text(&data)];
    let gone = data.join("bee/2.png");
    fails(&[&command[..], &["--examples", text(&gone)]].concat(), &["bee/2.png", "--missing"]);
    let there = data.join("bee/1.png");
    fails(&[&command[..], &["--examples", text(&there)]].concat(), &["1 of the 18", "--missing"]);
    let report = succeeds(&[&command[..], &["--missing"]].concat(), &["certificate"]);
    assert_eq!(report["calibration_dropped"], true);
    assert_eq!(report["forgotten"]["train"], 1);
    adapt(&data, &at("expected"));
    assert!(same(&out, &at("expected")));
}

/// A folder of images with a number each, but for one of them.
fn table(path: &Path, gone: Option<usize>) {
    fs::create_dir_all(path).expect("a folder");
    let mut rows = "file,shade\n".to_string();
    for number in (0..12).filter(|&number| Some(number) != gone) {
        let image = image::RgbImage::from_pixel(32, 32, image::Rgb([20 * number as u8; 3]));
        image.save(path.join(format!("{number}.png"))).expect("an image");
        rows += &format!("{number}.png,{}.5\n", number * 3);
    }
    fs::write(path.join("labels.csv"), rows).expect("a table");
}

/// The same with masks, of which the last alone has class 2.
fn masked(path: &Path, gone: Option<usize>) {
    for part in ["images", "masks"] {
        fs::create_dir_all(path.join(part)).expect("a folder");
    }
    for number in (0..7).filter(|&number| Some(number) != gone) {
        let pixel = |x: u32, y: u32| image::Rgb([(40 * (x / 16)) as u8, number as u8, y as u8]);
        let image = image::RgbImage::from_fn(32, 32, pixel);
        image.save(path.join(format!("images/{number}.png"))).expect("an image");
        let class = |x: u32, _: u32| image::Luma([if number == 6 { 2 } else { (x / 16) as u8 }]);
        let mask = image::GrayImage::from_fn(32, 32, class);
        mask.save(path.join(format!("masks/{number}.png"))).expect("a mask");
    }
}

/// Forgets one example of a folder that `make` makes; the command's report.
fn forgets_one(folder: &Path, make: fn(&Path, Option<usize>), gone: usize, file: &str) -> Value {
    let at = |name: &str| folder.join(name);
    let (data, out, never) = (at("data"), at("out"), at("never"));
    make(&data, None);
    make(&never, Some(gone));
    adapt(&data, &out);
    let (path, expected) = (data.join(file), at("expected"));
    let command = ["forget", "--posterior", text(&out), "--data", text(&data)];
    let report = succeeds(&[&command[..], &["--examples", text(&path)]].concat(), &["task"]);
    adapt(&never, &expected);
    assert!(same(&out, &expected), "the bits of a run that never had it");
    report
}

#[test]
fn a_number_of_a_table_is_forgotten_to_the_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = forgets_one(folder.path(), table, 4, "4.png");
    assert_eq!(report["outside"].as_array().map(Vec::len), Some(1), "{report}");
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let image = data.join("5.png");
    let command = ["forget", "--posterior", text(&out), "--data", text(&data), "--examples"];
    let deleting = [&command[..], &[text(&image), "--delete-files"]].concat();
    fails(&deleting, &["no plain folder", "--missing"]);
    assert!(image.exists());
}

#[test]
fn a_mask_is_forgotten_to_the_bit_with_the_class_that_it_alone_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = forgets_one(folder.path(), masked, 6, "images/6.png");
    assert_eq!(report["names_dropped"], serde_json::json!(["2"]));
    assert_eq!(report["outside"].as_array().map(Vec::len), Some(2), "an image and its mask");
}

#[test]
fn what_cannot_be_is_an_error_and_the_model_stays() {
    let (folder, train) = workplace();
    let out = folder.path().join("out");
    adapt(&train, &out);
    let before = contents(&out);
    let command = ["forget", "--posterior", text(&out), "--data", text(&train)];
    let wrong = |more: &[&str], says: &[&str]| {
        fails(&[&command[..], more].concat(), says);
        assert!(contents(&out) == before, "{more:?}");
    };
    wrong(&["--examples", "12"], &["no example 12 among 12", "counted from 0"]);
    wrong(&["--examples", "nowhere.png"], &["nowhere.png"]);
    wrong(&["--examples", text(&out)], &["is none of the examples"]);
    wrong(&["--hash", "00000000"], &["no example of the model has the hash"]);
    wrong(&["--examples", "0", "--val", text(&train)], &["without held-out examples", "--val"]);
    let evens = ["0", "2", "4", "6", "8", "10"];
    wrong(&[&["--examples"][..], &evens].concat(), &["class \"0\" has no examples"]);
    wrong(&["--examples", "0", "--delete-files"], &["no plain folder of images"]);
    let other = folder.path().join("other.npz");
    labelled(&other, Some(&[1; EXAMPLES]));
    let on_other = ["forget", "--posterior", text(&out), "--data", text(&other), "--examples", "0"];
    fails(&on_other, &["6 of the 12 examples"]);
    let nowhere = folder.path().join("nowhere");
    fails(&["forget", "--posterior", text(&nowhere), "--drop"], &["nowhere"]);
    assert!(!nowhere.exists());
    let usage = priorfit(&command);
    assert_eq!(usage.status.code(), Some(2), "it must be said what");
    let both = priorfit(&[&command[..], &["--verify", "--missing"]].concat());
    assert_eq!(both.status.code(), Some(2));
    let masks = ["forget", "--posterior", text(&train), "--drop"];
    fails(&masks, &["train.npz"]);
}

/// The files of a model, without what stands beside it for a while.
fn model(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let [description, backbone, draws] = Posterior::files_in(folder).expect("a model");
    let file = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("a file"))
    };
    [description, backbone, draws].into_iter().map(file).collect()
}

#[test]
fn a_command_that_is_killed_while_it_forgets_leaves_the_old_model_or_the_new() {
    let place = Place::new();
    let options = ["--no-gate", "--steps", "12", "--posterior", "sghmc", "--draws", "4"];
    ended_well(&place.command("whole", &options).output().expect("the program starts"));
    let whole = model(&place.out("whole"));
    let everything = Dataset::open(&place.train).expect("the examples");
    let rest: Vec<usize> = (0..everything.len()).filter(|at| ![3, 17].contains(at)).collect();
    let digits = place.folder.path().join("all.npz");
    fs::copy(&place.train, &digits).expect("copied");
    store(&place.train, &everything.subset(&rest).expect("a subset"));
    ended_well(&place.command("never", &options).output().expect("the program starts"));
    let never = model(&place.out("never"));

    let forget = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_priorfit"));
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        command.args(["forget", "--posterior", text(out), "--data", text(&digits), "--quiet"]);
        command.args([
            "--prior",
            &file("models/demo/prior.safetensors"),
            "--val",
            text(&place.val),
        ]);
        command.args(["--device", "cpu", "--threads", "2", "--examples", "3", "17"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let copy = |to: &Path| {
        fs::create_dir(to).expect("a folder");
        for (name, bytes) in &whole {
            fs::write(to.join(name), bytes).expect("a file");
        }
    };
    let undisturbed = place.out("undisturbed");
    copy(&undisturbed);
    let started = Instant::now();
    ended_well(&forget(&undisturbed).output().expect("the program starts"));
    let took = started.elapsed();
    assert!(model(&undisturbed) == never, "the bits of a run that never had them");

    let asked = std::env::var("PRIORFIT_KILLS").ok().and_then(|text| text.parse().ok());
    let kills: usize = asked.unwrap_or(KILLS);
    let (mut used, mut round) = (0, 0);
    while used < kills {
        let out = place.out(&format!("out-{round}"));
        copy(&out);
        let mut random = Key::new(43, Stream::Probe).at(round);
        loop {
            let mut run = forget(&out).spawn().expect("the program starts");
            let share = f64::from(random.bits()) / f64::from(u32::MAX);
            let life = if used < kills { took.mul_f64(share) } else { Duration::from_secs(120) };
            let is_killed = is_killed_after(&mut run, life);
            let output = run.wait_with_output().expect("it ends");
            let found = model(&out);
            assert!(found == whole || found == never, "round {round}, after {life:?}");
            Posterior::load(&out).expect("it can be used");
            if !is_killed {
                ended_well(&output);
                break;
            }
            used += 1;
        }
        assert!(model(&out) == never, "round {round}");
        assert_eq!(contents(&out).len(), 3, "and nothing beside it: {:?}", contents(&out).keys());
        round += 1;
    }
}
