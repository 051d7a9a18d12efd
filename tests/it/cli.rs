//! The command line: each command on a tiny network, its JSON, and what bad input leads to.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::repository;

mod crash;
mod engines;
mod forget;
mod tasks;
mod uncertainty;

/// A network of features, and one that ends in a classifier.
const BACKBONE: &str = "models/golden/mobilenetv2_folded.onnx";
const CLASSIFIER: &str = "models/golden/resnet_basic_classifier.onnx";
const EXAMPLES: usize = 12;

fn priorfit(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_priorfit"));
    // Mesa's drivers complain on standard error without one.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command.args(args).args(["--threads", "2"]).output().expect("the program starts")
}

/// Runs with `--json` and reads what it printed, whatever its exit status.
fn json(args: &[&str]) -> (Value, Output) {
    let output = priorfit(&[args, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{errors}"));
    (value, output)
}

/// The JSON of a run that succeeds and says nothing else, but how far it is if it takes long.
fn succeeds(args: &[&str], keys: &[&str]) -> Value {
    let (value, output) = json(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_silent = errors.lines().all(|line| line.ends_with("s left]"));
    assert!(output.status.success() && is_silent, "{args:?}: {errors}");
    for key in keys {
        assert!(value.get(key).is_some(), "{args:?} has no '{key}'");
    }
    value
}

/// Asserts that a run fails with one line that names what is wrong.
fn fails(args: &[&str], says: &[&str]) {
    let output = priorfit(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
    assert!(output.stdout.is_empty(), "{args:?} printed a result");
    let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {errors}");
    assert!(!errors.contains("panicked"), "{args:?}: {errors}");
    for part in says {
        assert!(lines[0].contains(part), "{args:?}: '{part}' is not in {}", lines[0]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn file(path: &str) -> String {
    text(&repository(path)).to_string()
}

/// An array of an `.npz`: type, shape, elements.
fn npy(dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let extents: String = shape.iter().map(|extent| format!("{extent},")).collect();
    let header = format!("{{'descr':'{dtype}','fortran_order':False,'shape':({extents})}}");
    let header = format!("{header:117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Dark and bright 32x32 images in two classes.
fn examples(path: &Path) {
    let y: Vec<u8> = (0..EXAMPLES).map(|i| (i % 2) as u8).collect();
    labelled(path, Some(&y));
}

/// The same images with other labels, or none.
fn labelled(path: &Path, y: Option<&[u8]>) {
    let pixel = |i: usize| (i / (32 * 32 * 3) % 2 * 120 + i * 31 % 97) as u8;
    let x: Vec<u8> = (0..EXAMPLES * 32 * 32 * 3).map(pixel).collect();
    let x = ("x.npy", npy("|u1", &[EXAMPLES, 32, 32, 3], &x));
    let y = y.map(|y| ("y.npy", npy("|u1", &[EXAMPLES], y)));
    let mut archive = zip::ZipWriter::new(fs::File::create(path).expect("a new file"));
    for (name, bytes) in [Some(x), y].into_iter().flatten() {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(name, options).expect("an entry");
        archive.write_all(&bytes).expect("its content");
    }
    archive.finish().expect("an archive");
}

/// Two folders of one-coloured images, named after their class.
fn folder(path: &Path) {
    for (class, shade) in [("dark", 20), ("light", 200)] {
        fs::create_dir_all(path.join(class)).expect("a folder");
        for number in 0..3 {
            let pixels = image::RgbImage::from_pixel(40, 36, image::Rgb([shade + number; 3]));
            pixels.save(path.join(class).join(format!("{number}.png"))).expect("an image");
        }
    }
}

/// A folder with `train.npz`.
fn workplace() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = folder.path().join("train.npz");
    examples(&train);
    (folder, train)
}

#[test]
fn inspect_lists_parameters_and_says_whether_it_can_be_adapted() {
    let keys = ["inputs", "outputs", "params", "ops", "notes", "adaptable", "fingerprint"];
    let report = succeeds(&["inspect", &file(CLASSIFIER)], &keys);
    assert_eq!(report["adaptable"], true);
    let params = report["params"].as_array().expect("a list");
    let trainable = params.iter().filter(|p| p["trainable"] == true);
    assert!(trainable.clone().count() > 20 && trainable.clone().all(|p| p["reason"].is_null()));
    assert!(params.iter().filter(|p| p["trainable"] == false).all(|p| p["reason"].is_string()));
    let text = priorfit(&["inspect", &file(CLASSIFIER)]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("This network can be adapted."));
}

#[test]
fn verify_agrees_with_tract_and_with_differences() {
    for model in ["vit_default", "mobilenetv2_bn", "convnext_legacy"] {
        let model = file(&format!("models/golden/{model}.onnx"));
        let report = succeeds(&["verify", &model, "--seed", "3"], &["importable", "params"]);
        assert_eq!((&report["ok"], &report["error"]), (&Value::Bool(true), &Value::Null));
        assert!(report["forward_rel_err"].as_f64().is_some_and(|e| e <= 1e-4), "{report}");
        assert!(report["gradient_rel_err"].as_f64().is_some_and(|e| e <= 1e-3), "{report}");
    }
}

#[test]
fn verify_reports_what_it_cannot_do_as_json_and_as_failure() {
    let (folder, train) = workplace();
    let (report, output) = json(&["verify", text(&train)]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&report["importable"], &report["ok"]), (&Value::Bool(false), &Value::Bool(false)));
    assert!(report["error"].as_str().is_some_and(|error| error.contains("train.npz")));
    let (report, output) = json(&["verify", &file(BACKBONE), "--input-shape", "1,1,32,32"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        report["error"].as_str().is_some_and(|error| error.contains("mobilenetv2")),
        "{report}"
    );
    drop(folder);
}

#[test]
fn a_prior_is_fitted_adapted_under_evaluated_and_predicts() {
    let (folder, train) = workplace();
    let at = |name: &str| folder.path().join(name);
    let (prior, out, train) = (at("prior.safetensors"), at("out"), text(&train));
    let backbone = file(BACKBONE);
    let source = ["--backbone", &backbone, "--data", train, "--out", text(&prior)];
    let few = ["--epochs", "3", "--snapshots", "3", "--rank", "2", "--batch", "6", "--lr", "0.001"];
    let fit = [&["prior", "fit"][..], &source, &few].concat();
    let fitted = succeeds(&fit, &["header", "overall", "peak_rss_mb"]);
    assert_eq!(fitted["header"]["rank"], 2);
    let shown = succeeds(&["prior", "show", text(&prior)], &["header", "overall", "parameters"]);
    assert_eq!(shown["header"], fitted["header"]);

    let target = ["--train", train, "--val", train, "--out", text(&out), "--steps", "4"];
    for kind in ["learned", "diagonal", "isotropic", "none"] {
        let priors = ["--prior", text(&prior), "--prior", kind];
        let adapt = [&["adapt", "--backbone", &backbone][..], &priors, &target].concat();
        let report = succeeds(&adapt, &["probe", "adapted", "history", "seconds"]);
        assert_eq!(report["settings"]["prior"], kind);
        assert_eq!(report["ending"], "completed");
    }
    let evaluated = succeeds(
        &["evaluate", "--posterior", text(&out), "--data", train],
        &["accuracy", "nll", "ece", "brier", "confusion", "classes", "names"],
    );
    assert_eq!(evaluated["count"], EXAMPLES);
    let predicted = succeeds(&["predict", "--posterior", text(&out), train], &["classes"]);
    let predictions = predicted["predictions"].as_array().expect("a list");
    assert_eq!(predictions.len(), EXAMPLES);
    for key in ["path", "class", "probability", "entropy"] {
        assert!(predictions[0].get(key).is_some(), "no '{key}'");
    }
}

#[test]
fn a_fit_is_resumed_and_a_posterior_is_the_next_prior() {
    let (folder, train) = workplace();
    let at = |name: &str| folder.path().join(name);
    let (prior, out, next) = (at("prior.safetensors"), at("out"), at("next.safetensors"));
    let (backbone, train) = (file(BACKBONE), text(&train));
    let source = ["prior", "fit", "--backbone", &backbone, "--data", train, "--out", text(&prior)];
    let few = ["--epochs", "3", "--snapshots", "6", "--rank", "auto", "--batch", "6"];
    let slow = ["--lr", "0.001", "--memory-cap", "2G"];
    let fitted = succeeds(&[&source[..], &few, &slow].concat(), &["header"]);
    let notes = fitted["header"]["notes"].as_str().expect("notes");
    assert!(notes.contains("of 5 principal directions"), "{notes}");
    let checkpoints = at("prior.safetensors.checkpoints");
    assert!(!checkpoints.exists(), "a fit that is done needs none");
    fs::create_dir(&checkpoints).expect("a folder");
    fs::write(checkpoints.join("position-1.safetensors"), "junk").expect("a file");
    // Damage costs steps, never the run.
    let again = succeeds(&[&source[..], &few, &slow].concat(), &["header"]);
    assert_eq!(again["header"], fitted["header"]);
    assert!(!checkpoints.exists(), "they are not needed any more");
    let before = fs::read(&prior).expect("the prior");
    let diverging = ["--lr", "1e30", "--clip", "none", "--checkpoint-every", "0s"];
    fails(&[&source[..], &few, &diverging].concat(), &["lower the learning rate"]);
    assert!(!checkpoints.exists(), "nothing is in the way of a lower rate");
    assert!(fs::read(&prior).expect("the prior") == before);

    let adapt = ["adapt", "--backbone", &backbone, "--train", train, "--steps", "2"];
    let under = ["--prior", text(&prior), "--out", text(&out)];
    succeeds(&[&adapt[..], &under].concat(), &[]);
    let from = ["prior", "from-posterior", "--posterior", text(&out), "--out", text(&next)];
    fails(&from, &["one draw", "--prior"]);
    let kept = ["--prior", text(&prior), "--scale", "0.5"];
    let made = succeeds(&[&from[..], &kept].concat(), &["out", "draws", "header", "overall"]);
    assert_eq!(made["header"]["backbone"], fitted["header"]["backbone"]);
    let again = ["--prior", text(&next), "--strength", "1", "--out", text(&out)];
    succeeds(&[&adapt[..], &again].concat(), &[]);
}

#[test]
fn an_adapted_model_is_exported_and_undone() {
    let (folder, train) = workplace();
    let at = |name: &str| folder.path().join(name);
    let (backbone, out) = (file(CLASSIFIER), at("out"));
    let few = ["--steps", "2", "--posterior", "ensemble", "--draws", "2", "--strength", "1"];
    let adapt = ["adapt", "--backbone", &backbone, "--train", text(&train), "--out", text(&out)];
    succeeds(&[&adapt[..], &few, &["--no-gate"]].concat(), &[]);
    let export = ["export", "--posterior", text(&out)];
    let (net, before, delta) = (at("net.onnx"), at("before.onnx"), at("delta.safetensors"));
    let write = |more: &[&str]| succeeds(&[&export[..], more].concat(), &["onnx", "draws"]);
    fails(&[&export[..], &["--out", text(&net)]].concat(), &["2 draws", "--weights each"]);
    let each = write(&["--out", text(&net), "--weights", "each"]);
    assert_eq!(each["onnx"].as_array().map(Vec::len), Some(2));
    write(&["--out", text(&net), "--weights", "mean", "--external-data"]);
    // Whoever reads ONNX reads these; here it is ourselves.
    for name in ["net.onnx", "net-0.onnx", "net-1.onnx"] {
        let report = succeeds(&["verify", text(&at(name))], &["ok"]);
        assert_eq!(report["ok"], true, "{name}: {report}");
    }
    write(&["--out", text(&before), "--weights", "backbone"]);
    let inspect =
        |path: &str| succeeds(&["inspect", path], &["fingerprint"])["fingerprint"].clone();
    let posterior = fs::read(out.join("posterior.json")).expect("a description");
    let posterior: Value = serde_json::from_slice(&posterior).expect("JSON");
    assert_eq!(inspect(text(&before)), posterior["backbone"]);
    write(&["--delta", text(&delta)]);
    let again = at("again");
    let on = ["export", "--delta", text(&delta), "--folder", text(&again), "--backbone"];
    succeeds(&[&on[..], &[&backbone]].concat(), &["folder"]);
    let predicted = [&out, &again]
        .map(|folder| succeeds(&["predict", "--posterior", text(folder), text(&train)], &[]));
    for number in 0..EXAMPLES {
        // Draws are stored as differences, which are rounded each time.
        let probability = |report: &Value| report["predictions"][number]["probability"].as_f64();
        let [old, new] = [0, 1].map(|at| probability(&predicted[at]).expect("a probability"));
        assert!((old - new).abs() < 1e-5, "{old}, {new}");
    }
    let other = file(BACKBONE);
    fails(&[&on[..], &[&other]].concat(), &["delta.safetensors", "not the backbone"]);
}

#[test]
fn a_prior_is_fitted_without_labels() {
    let (folder, train) = workplace();
    let (backbone, out) = (file(BACKBONE), folder.path().join("prior.safetensors"));
    let source = ["--backbone", &backbone, "--data", text(&train), "--out", text(&out)];
    let how = ["--objective", "simclr", "--batch", "6", "--epochs", "2", "--snapshots", "3"];
    let fit = [&["prior", "fit"][..], &source, &how, &["--lr", "0.001", "--flip"]].concat();
    let fitted = succeeds(&fit, &["header", "overall"]);
    assert_eq!(fitted["header"]["learned"]["method"], "SWAG, SimCLR");
    fails(&[&fit[..], &["--temperature", "0"]].concat(), &["temperature of the contrast is 0"]);
    fails(&[&fit[..], &["--jitter", "9"]].concat(), &["jitter of colours is 9"]);
}

#[test]
fn a_run_keeps_within_its_memory_cap_or_does_not_start() {
    let (folder, train) = workplace();
    let (backbone, out) = (file(BACKBONE), folder.path().join("out"));
    let adapt = ["adapt", "--backbone", &backbone, "--train", text(&train), "--out", text(&out)];
    let few = ["--steps", "2", "--posterior", "sgld", "--draws", "1", "--temperature", "0.1"];
    let adapt = [&adapt[..], &few].concat();
    let free = succeeds(&adapt, &["memory"]);
    assert_eq!(free["memory"]["micro_batch"], EXAMPLES);
    let bytes = free["memory"]["bytes"].as_u64().expect("a number");
    let cap = format!("{}K", bytes / 1024 / 2);
    let capped = succeeds(&[&adapt[..], &["--memory-cap", &cap]].concat(), &["memory"]);
    assert!(capped["memory"]["bytes"].as_u64().expect("a number") <= bytes / 2, "{capped}");
    fails(&[&adapt[..], &["--memory-cap", "9K"]].concat(), &["the memory cap is 9216 bytes"]);
    fails(&[&adapt[..], &["--clip", "1"]].concat(), &["clipping a sampler's gradient"]);
}

#[test]
fn folders_work_and_a_classifier_is_cut_off_with_a_note() {
    let (temporary, _) = workplace();
    let (images, out) = (temporary.path().join("images"), temporary.path().join("out"));
    folder(&images);
    let classifier = file(CLASSIFIER);
    let target = ["--train", text(&images), "--out", text(&out), "--steps", "2", "--flip"];
    let args = [&["adapt", "--backbone", &classifier][..], &target].concat();
    let output = priorfit(&args);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && notes.contains("note: "), "{notes}");
    let image = images.join("dark/0.png");
    let args = ["predict", "--posterior", text(&out), text(&image), text(&images)];
    let report = succeeds(&args, &["predictions"]);
    assert_eq!(report["predictions"].as_array().map(Vec::len), Some(7));
    assert_eq!(report["classes"], serde_json::json!(["dark", "light"]));
}

#[test]
fn devices_tells_of_every_variant_whether_it_is_used_or_why_not() {
    let report = succeeds(&["devices"], &["threads", "gpus"]);
    for gpu in report["gpus"].as_array().expect("a list") {
        if !gpu["lacks"].is_null() {
            continue;
        }
        let lists = ["variants", "dropped"].map(|list| gpu[list].as_array().expect("a list"));
        let told: Vec<&str> = lists.into_iter().flatten().filter_map(Value::as_str).collect();
        for variant in ["subgroups", "factors in half precision", "cooperative matrices"] {
            let count = told.iter().filter(|text| text.starts_with(variant)).count();
            assert_eq!(count, 1, "{variant}: {told:?}");
        }
    }
}

#[test]
fn bench_has_the_promised_numbers() {
    let keys = [
        "step_ms",
        "forward_ms",
        "backward_ms",
        "prior_update_ms",
        "peak_rss_mb",
        "planned_bytes",
        "first_step_ms",
        "params",
        "gflops",
    ];
    let model = file(BACKBONE);
    let bench = ["bench", &model, "--batch", "2", "--repeats", "3"];
    for options in [&["--prior-rank", "2", "--clip"][..], &["--no-prior", "--profile"]] {
        let report = succeeds(&[&bench[..], options].concat(), &keys);
        for key in ["step_ms", "forward_ms", "backward_ms", "planned_bytes", "gflops"] {
            assert!(report[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {report}");
        }
        assert_eq!(report.get("profile").is_some(), options.contains(&"--profile"));
    }
}

#[test]
fn a_profile_says_how_far_kernels_are_from_what_the_machine_can_do() {
    let model = file(BACKBONE);
    let bench = ["bench", &model, "--batch", "2", "--repeats", "3", "--device", "cpu"];
    let rows = |detail| {
        let report = succeeds(&[&bench[..], &[detail]].concat(), &["profile"]);
        let roof = &report["profile"]["roof"];
        for key in ["gflops", "gb_per_s"] {
            assert!(roof[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {roof}");
        }
        report["profile"]["rows"].as_array().expect("rows").clone()
    };
    let (kinds, shapes) = (rows("--profile"), rows("--profile=shapes"));
    let sum = |rows: &[Value], key: &str| -> f64 {
        rows.iter().map(|row| row[key].as_f64().expect("a number")).sum()
    };
    assert!(kinds.len() < shapes.len());
    assert_eq!(sum(&kinds, "count"), sum(&shapes, "count"));
    for rows in [&kinds, &shapes] {
        assert!(rows.is_sorted_by(|a, b| a["ms"].as_f64() >= b["ms"].as_f64()));
        assert!(sum(rows, "least_ms") > 0.0);
        assert!(rows.iter().any(|row| row["bound"] == "memory"));
    }
    assert!(shapes.iter().any(|row| row["kernel"].as_str().is_some_and(|k| k.contains("3x3"))));
}

#[test]
fn bench_keeps_to_a_memory_cap_or_says_what_it_takes() {
    let model = file(BACKBONE);
    let bench = ["bench", &model, "--batch", "16", "--repeats", "1", "--no-prior"];
    let keys = ["planned_bytes", "recomputes"];
    let plain = succeeds(&bench, &keys);
    assert_eq!(plain["recomputes"], false);
    let cap = plain["planned_bytes"].as_u64().expect("bytes") - 1;
    let capped = succeeds(&[&bench[..], &["--memory-cap", &cap.to_string()]].concat(), &keys);
    assert_eq!(capped["recomputes"], true);
    let least = capped["planned_bytes"].as_u64().expect("bytes");
    assert!(least <= cap, "{least} of {cap}");
    let less = (least - 1).to_string();
    fails(&[&bench[..], &["--memory-cap", &less]].concat(), &["memory cap", &least.to_string()]);
}

#[test]
fn bad_input_is_one_error_that_names_the_file_and_nothing_is_written() {
    let (folder, train) = workplace();
    let at = |name: &str| folder.path().join(name);
    let (junk, out, train) = (at("junk.onnx"), at("out"), text(&train));
    fs::write(&junk, "no ONNX at all").expect("a file");
    fs::write(at("junk.safetensors"), [7; 30]).expect("a file");
    let (junk, prior) = (text(&junk), at("junk.safetensors"));
    let (backbone, new) = (file(BACKBONE), at("new.safetensors"));
    for command in ["inspect", "bench"] {
        fails(&[command, junk], &["junk.onnx"]);
        fails(&[command, "/nowhere/at/all.onnx"], &["/nowhere/at/all.onnx"]);
    }
    fails(&["prior", "show", text(&prior)], &["junk.safetensors"]);
    let target = ["--train", train, "--out", text(&out)];
    let adapt = |args: &[&str], says: &[&str]| {
        fails(&[&["adapt"][..], args, &target].concat(), says);
        assert!(!out.exists(), "{args:?} wrote a posterior");
    };
    adapt(&["--backbone", junk], &["junk.onnx"]);
    adapt(&["--backbone", &backbone, "--prior", text(&prior)], &["junk.safetensors"]);
    adapt(&["--backbone", &backbone, "--prior", "learned"], &["learned prior", "--prior"]);
    adapt(&["--backbone", &backbone, "--val", junk], &["junk.onnx"]);
    adapt(&["--backbone", &backbone, "--image-size", "31"], &["mobilenetv2", "31"]);
    adapt(&["--backbone", &backbone, "--lr", "0"], &["learning rate is 0"]);
    adapt(&["--backbone", &backbone, "--freeze", "nothing*"], &["nothing*"]);
    adapt(&["--backbone", &backbone, "--features", "nowhere"], &["nowhere", "mobilenetv2"]);
    let fit = ["prior", "fit", "--backbone", &backbone, "--data"];
    fails(&[&fit[..], &[junk, "--out", text(&new)]].concat(), &["junk.onnx"]);
    fails(&[&fit[..], &[train, "--rank", "1", "--out", text(&new)]].concat(), &["deviations"]);
    assert!(!new.exists());
    let posterior = ["--posterior", text(folder.path())];
    fails(&[&["predict"][..], &posterior, &[train]].concat(), &["posterior.json"]);
    fails(&[&["evaluate"][..], &posterior, &["--data", train]].concat(), &["posterior.json"]);
}

#[test]
fn examples_that_cannot_train_a_classifier_are_named_before_the_work() {
    let (folder, train) = workplace();
    let at = |name: &str| folder.path().join(name);
    let (bare, gap, same) = (at("bare.npz"), at("gap.npz"), at("same.npz"));
    labelled(&bare, None);
    labelled(&gap, Some(&[0, 2].repeat(EXAMPLES / 2)));
    labelled(&same, Some(&[0; EXAMPLES]));
    let (backbone, out, new) = (file(BACKBONE), at("out"), at("new.safetensors"));
    for (data, says) in [(&bare, "no labels"), (&gap, "\"1\""), (&same, "1 class")] {
        let name = data.file_name().and_then(|name| name.to_str()).expect("a name");
        let adapt = ["adapt", "--backbone", &backbone, "--out", text(&out), "--train"];
        fails(&[&adapt[..], &[text(data)]].concat(), &[name, says]);
        let fit = ["prior", "fit", "--backbone", &backbone, "--out", text(&new), "--data"];
        fails(&[&fit[..], &[text(data)]].concat(), &[name, says]);
    }
    let adapt = ["adapt", "--backbone", &backbone, "--out", text(&out), "--train", text(&train)];
    fails(&[&adapt[..], &["--val", text(&bare)]].concat(), &["bare.npz", "no labels"]);
    let diverging =
        ["--steps", "1", "--lr", "1e38", "--clip", "none", "--prior", "none", "--no-gate"];
    assert!(!out.exists() && !new.exists());
    // What there is before it diverges is kept.
    let output = priorfit(&[&adapt[..], &diverging].concat());
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("lower --lr") && told.contains("are kept"), "{told}");
    let (out, data) = (text(&out), text(&train));
    succeeds(&["evaluate", "--posterior", out, "--data", data], &["accuracy"]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let model = file(BACKBONE);
    let wrong = [["--batch", "0"], ["--classes", "0"], ["--classes", "9999999999"]];
    for option in wrong.into_iter().chain([["--prior-rank", "99999999"]]) {
        let output = priorfit(&[&["bench", &model][..], &option].concat());
        assert_eq!(output.status.code(), Some(2), "{option:?}");
    }
    let (folder, train) = workplace();
    let out = folder.path().join("new.safetensors");
    let fit = ["prior", "fit", "--backbone", &model, "--data", text(&train), "--out", text(&out)];
    for (option, says) in [
        (["--epochs", "0"], "epochs is 0"),
        (["--epochs", "9999999999999999999"], "lower the epochs"),
        (["--snapshots", "1"], "snapshots is 1"),
        (["--cycles", "0"], "cycles is 0"),
        (["--cycles", "21"], "cycles is 21"),
        (["--cycles", "3"], "a divisor of the number of snapshots, 20"),
        (["--lr", "nan"], "learning rate is NaN"),
        (["--epsilon", "inf"], "epsilon is inf"),
        (["--momentum", "1"], "momentum is 1"),
        (["--batch", "0"], "batch size is 0"),
    ] {
        fails(&[&fit[..], &option].concat(), &[says]);
    }
    fails(&["demo", "--shots", "2000", "--seeds", "1", "--steps", "1"], &["2000", "--shots"]);
}

#[test]
fn a_result_that_cannot_be_written_is_known_before_the_work() {
    let (folder, train) = workplace();
    let backbone = file(BACKBONE);
    let before = fs::read(&train).expect("the data");
    let args = ["--backbone", &backbone, "--train", text(&train), "--out", text(&train)];
    fails(&[&["adapt"][..], &args].concat(), &["train.npz", "a folder"]);
    let args = ["--backbone", &backbone, "--data", text(&train), "--out", text(folder.path())];
    fails(&[&["prior", "fit"][..], &args].concat(), &["a file"]);
    assert_eq!(fs::read(&train).expect("the data"), before);
}

#[test]
fn the_demo_compares_six_methods_on_what_the_program_carries() {
    let args = ["demo", "--shots", "2", "--seeds", "1", "--steps", "1", "--variance", "0.01"];
    let report = succeeds(&args, &["seconds", "choice", "peak_rss_mb"]);
    let rows = report["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 6);
    for row in rows {
        // A linear probe of two examples a class is far better than the tenth that chance gives.
        assert!(row["accuracy"]["mean"].as_f64().is_some_and(|a| a > 0.5), "{row}");
    }
}

#[test]
fn a_run_whose_time_is_up_saves_the_last_good_state() {
    let (folder, train) = workplace();
    let (backbone, out) = (file(BACKBONE), folder.path().join("out"));
    let adapt = ["adapt", "--backbone", &backbone, "--train", text(&train), "--out", text(&out)];
    let endless = ["--steps", "100000000", "--strength", "1", "--no-gate"];
    let budget = ["--time-budget", "4s", "--duty-cycle", "0.9", "--low-priority"];
    let (report, output) = json(&[&adapt[..], &endless, &budget].concat());
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(
        (&report["ending"], &report["stopped_by"]),
        (&"stopped".into(), &"wall_time".into())
    );
    succeeds(&["predict", "--posterior", text(&out), text(&train)], &["predictions"]);
    fails(&[&adapt[..], &["--duty-cycle", "0"]].concat(), &["the duty cycle is 0"]);
    let output = priorfit(&[&adapt[..], &["--time-budget", "soon"]].concat());
    assert_eq!(output.status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_last_good_state_and_exits_with_130() {
    let (folder, train) = workplace();
    let out = folder.path().join("out");
    let mut run = Command::new(env!("CARGO_BIN_EXE_priorfit"))
        .args(["adapt", "--backbone", &file(BACKBONE), "--train", text(&train)])
        .args(["--out", text(&out), "--steps", "100000000", "--json", "--threads", "1"])
        .args(["--strength", "1", "--no-gate"])
        // The step's plan is logged when training begins.
        .env("RUST_LOG", "priorfit::adapt=debug")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut log = BufReader::new(run.stderr.take().expect("its standard error")).lines();
    let begins = |line: &std::io::Result<String>| {
        line.as_ref().is_ok_and(|line| line.contains("training step of"))
    };
    assert!(log.any(|line| begins(&line)), "training begins");
    let rest = std::thread::spawn(move || log.count());
    let signal = Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    assert!(signal.expect("a signal").success());
    let output = run.wait_with_output().expect("the program ends");
    rest.join().expect("the log ends");
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a result");
    assert_eq!(report["ending"], "stopped");
    succeeds(&["predict", "--posterior", text(&out), text(&train)], &["predictions"]);
}
