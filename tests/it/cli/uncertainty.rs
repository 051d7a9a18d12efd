//! Calibration, early exit, foreign images and the report, on the bundled digits.

use super::*;

const DIGITS: &str = "models/demo/digits.npz";

/// A posterior of digits in `out` of a temporary folder: the linear probe, which is quick.
fn digits() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let adapt = ["adapt", "--backbone", &file("models/demo/backbone.onnx"), "--prior", "none"];
    let few = ["--train", &file(DIGITS), "--steps", "1", "--out", text(&out)];
    let given = ["--strength", "1", "--head-variance", "1", "--no-gate"];
    succeeds(&[&adapt[..], &few, &given].concat(), &["history"]);
    (folder, out)
}

fn number(report: &Value, key: &str) -> f64 {
    report.pointer(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {key}: {report}"))
}

#[test]
fn a_calibration_is_stored_used_and_left_out() {
    let (folder, out) = digits();
    let (data, posterior) = (file(DIGITS), ["--posterior", text(&out)]);
    fn with<'a>(args: &[&'a str], posterior: &[&'a str]) -> Vec<&'a str> {
        [args, posterior].concat()
    }
    let calibrate = with(&["calibrate", "--data", &data], &posterior);
    let risk = [&calibrate[..], &["--coverage", "0.95", "--risk", "0.05"]].concat();
    let fitted = succeeds(&risk, &["temperature", "sets", "abstention", "familiarity"]);
    assert_eq!(number(&fitted, "/sets/coverage"), 0.95);
    assert_eq!(number(&fitted, "/abstention/target/risk"), 0.05);

    let predicted = succeeds(&with(&["predict", "--settle", &data], &posterior), &["classes"]);
    let first = &predicted["predictions"][0];
    for key in ["set", "abstains", "unfamiliar", "mutual_information"] {
        assert!(first.get(key).is_some(), "no '{key}': {first}");
    }
    assert_eq!(first["draws"], 1);
    let evaluate = with(&["evaluate", "--data", &data], &posterior);
    let evaluated = succeeds(&evaluate, &["selective", "calibrated"]);
    assert_eq!(number(&evaluated, "/calibrated/temperature"), number(&fitted, "/temperature"));
    let plain = succeeds(&[&evaluate[..], &["--uncalibrated"]].concat(), &["selective"]);
    assert!(plain["calibrated"].is_null());
    assert_eq!(plain["accuracy"], evaluated["accuracy"]);
    assert_ne!(plain["nll"], evaluated["nll"]);

    let before = fs::read(out.join("posterior.json")).expect("the description");
    fails(&[&calibrate[..], &["--risk", "0.00001"]].concat(), &["no threshold promises"]);
    fails(&[&calibrate[..], &["--coverage", "1.5"]].concat(), &["coverage", "1.5"]);
    let few = folder.path().join("few.npz");
    examples(&few);
    fails(&with(&["calibrate", "--data", text(&few)], &posterior), &["few.npz", "12 held-out"]);
    assert_eq!(fs::read(out.join("posterior.json")).expect("the description"), before);
}

/// The elements of a well-formed page, whose names close in the order in which they open.
fn elements(page: &str) -> Vec<&str> {
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    for tag in page.split('<').skip(2) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{name} closes what is open"),
            None => {
                let name = tag.split([' ', '/']).next().expect("a tag has a name");
                seen.push(name);
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    seen
}

#[test]
fn the_report_is_one_well_formed_page_that_runs_nothing() {
    let (folder, out) = digits();
    // Names of classes are text of strangers.
    let description = out.join("posterior.json");
    let json = fs::read_to_string(&description).expect("the description");
    let mut json: Value = serde_json::from_str(&json).expect("json");
    json["classes"][3] = Value::from("<script>alert(\"&\")</script>");
    fs::write(&description, json.to_string()).expect("written");
    let (page, foreign) = (folder.path().join("page.html"), folder.path().join("foreign.npz"));
    labelled(&foreign, None);
    let data = file(DIGITS);
    let calibrate = ["calibrate", "--data", &data, "--answer", "0.8", "--posterior", text(&out)];
    succeeds(&calibrate, &[]);
    let evaluate =
        ["evaluate", "--posterior", text(&out), "--data", &data, "--ood", text(&foreign)];
    let report = [&evaluate[..], &["--report", text(&page)]].concat();
    let evaluated = succeeds(&report, &["ood"]);
    assert!(number(&evaluated, "/ood/entropy/auroc") >= 0.0);
    assert_eq!(number(&evaluated, "/ood/count"), EXAMPLES as f64);
    let html = fs::read_to_string(&page).expect("a page");
    let elements = elements(&html);
    let count = |name: &str| elements.iter().filter(|element| **element == name).count();
    assert_eq!(count("script") + count("link"), 0);
    assert!(html.contains("&lt;script&gt;alert(&quot;&amp;&quot;)"));
    // Reliability, confidence, risk, foreign images, confusion, loss, penalty.
    assert_eq!(count("svg"), 7);
    assert!(count("img") >= 24 && html.contains("src=\"data:image/png;base64,iVBOR"));
    for number in ["\"NaN", ",NaN", " NaN", "\"inf", ",inf", "-inf"] {
        assert!(!html.contains(number), "{number}");
    }
    let nowhere = [&evaluate[..], &["--report", text(folder.path())]].concat();
    fails(&nowhere, &["expected a file"]);
}
