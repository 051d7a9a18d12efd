//! Engines that predict, on the command line.

use serde_json::Value;

use super::{BACKBONE, EXAMPLES, fails, file, priorfit, succeeds, text, workplace};
use crate::support::onnx_runtime;

/// How far a probability may be from our own engine's.
const NEAR: f64 = 1e-4;

fn probabilities(report: &Value) -> Vec<f64> {
    let predictions = report["predictions"].as_array().expect("a list");
    predictions.iter().filter_map(|one| one["probability"].as_f64()).collect()
}

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

#[test]
fn an_engine_is_named_or_races_and_the_report_says_how_it_fared() {
    let (folder, train) = workplace();
    let (out, backbone) = (folder.path().join("out"), file(BACKBONE));
    let train = text(&train);
    let adapt = ["adapt", "--backbone", &backbone, "--train", train, "--out", text(&out)];
    let quick = ["--steps", "2", "--strength", "1", "--head-variance", "1", "--no-gate"];
    succeeds(&[&adapt[..], &quick].concat(), &["adapted"]);
    let predict = ["predict", "--posterior", text(&out), train];

    let own = succeeds(&predict, &["predictions"]);
    assert!(own.get("race").is_none(), "so few images are not worth a race: {own}");
    assert_eq!(succeeds(&with(&predict, &["--engine", "own"]), &[]), own);
    for (engine, entrants) in [("tract", 1), ("auto", 2)] {
        let report = succeeds(&with(&predict, &["--engine", engine]), &["race", "predictions"]);
        let race = &report["race"];
        assert!(race["entrants"].as_array().is_some_and(|all| all.len() >= entrants), "{race}");
        let tract = race["entrants"].as_array().expect("a list");
        let tract = tract.iter().find(|one| one["engine"] == "tract").expect("tract took part");
        assert!(tract["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{race}");
        assert!(tract["deviation"].as_f64().is_some_and(|off| off < NEAR), "{race}");
        let [expected, found] = [&own, &report].map(probabilities);
        assert_eq!(found.len(), EXAMPLES);
        let off = found.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(off <= NEAR, "{engine} is off by {off:e}");
    }
    let shown = priorfit(&with(&predict, &["--engine", "auto"]));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("\nengine   ") && shown.contains(" tract: "), "{shown}");
    let evaluate = ["evaluate", "--posterior", text(&out), "--data", train];
    let report = succeeds(&[&evaluate[..], &["--engine", "tract"]].concat(), &["accuracy"]);
    assert_eq!(report["race"]["engine"], "tract");

    let nowhere = ["--engine", "ort", "--ort-library", "nowhere/libonnxruntime.so"];
    fails(&with(&predict, &nowhere), &["nowhere/libonnxruntime.so"]);
    fails(&with(&predict, &["--engine", "own", "--ort-provider", "cpu"]), &["--engine ort"]);
    if let Some(library) = onnx_runtime::library() {
        let ort = ["--engine", "ort", "--ort-library", text(&library)];
        let report =
            succeeds(&[&with(&predict, &ort)[..], &["--ort-provider", "all"]].concat(), &["race"]);
        assert_eq!(report["race"]["engine"], "ort (cpu)");
        let cuda = [&with(&predict, &ort)[..], &["--ort-provider", "nonsense"]].concat();
        fails(&cuda, &["no provider 'nonsense'", "it has cpu"]);
    }
}
