//! Labels, numbers and masks through all commands.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{BACKBONE, fails, file, succeeds, text};

/// Enough to calibrate with.
const EXAMPLES: usize = 24;

/// A folder of one-coloured images with a table of targets.
fn table(path: &Path, rows: impl Fn(usize) -> String) {
    fs::create_dir_all(path).expect("a folder");
    let mut table = "file,a,b\n".to_string();
    for number in 0..EXAMPLES {
        let shade = (number * 10) as u8;
        let pixels = image::RgbImage::from_pixel(36, 36, image::Rgb([shade, 255 - shade, 9]));
        pixels.save(path.join(format!("{number}.png"))).expect("an image");
        table += &format!("{number}.png,{}\n", rows(number));
    }
    let columns = table.lines().nth(1).map_or(0, |row| row.split(',').count());
    let table = if columns == 2 { table.replacen("file,a,b", "file,labels", 1) } else { table };
    fs::write(path.join("labels.csv"), table).expect("a table");
}

/// Adapts to `data`, held out, too, and measures.
fn learns(data: &Path, more: &[&str], keys: &[&str]) -> PathBuf {
    let out = data.with_extension("out");
    let backbone = file(BACKBONE);
    let args = ["adapt", "--backbone", &backbone, "--train", text(data), "--out", text(&out)];
    let few = [
        "--val",
        text(data),
        "--epochs",
        "2",
        "--strength",
        "1",
        "--head-variance",
        "1",
        "--no-gate",
    ];
    let report = succeeds(&[&args[..], &few, more].concat(), &["task", "probe", "adapted"]);
    assert!(report["adapted"]["nll"].as_f64().is_some_and(f64::is_finite), "{report}");
    succeeds(&["evaluate", "--posterior", text(&out), "--data", text(data)], keys);
    out
}

/// Measures with foreign images and a page, before and after a calibration.
fn is_reported(out: &Path, data: &Path, foreign: &Path) -> [Value; 2] {
    let page = out.join("report.html");
    let evaluate = ["evaluate", "--posterior", text(out), "--data", text(data), "--report"];
    let args = [&evaluate[..], &[text(&page), "--ood", text(foreign)]].concat();
    let before = succeeds(&args, &["entropy", "mutual_information", "ood", "calibrated"]);
    assert!(before["ood"]["entropy"]["auroc"].as_f64().is_some_and(|a| (0.0..=1.0).contains(&a)));
    assert!(before["calibrated"].is_null());
    let calibrate = ["calibrate", "--posterior", text(out), "--data", text(data)];
    fails(&[&calibrate[..], &["--answer", "0.5"]].concat(), &["abstaining is known of classes"]);
    succeeds(&calibrate, &["temperature", "familiarity"]);
    let after = succeeds(&args, &["calibrated"]);
    assert!(after["ood"]["detected"].is_number(), "{after}");
    let alarms = after["calibrated"]["false_alarms"].as_f64().expect("a share");
    assert!((0.0..=1.0).contains(&alarms));
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.matches("<svg").count() >= 3 && html.matches("<img").count() >= 12, "{page:?}");
    for (open, close) in [("<div", "</div>"), ("<table", "</table>"), ("<tr>", "</tr>")] {
        assert_eq!(html.matches(open).count(), html.matches(close).count(), "{open}");
    }
    assert!(!html.contains("NaN") && !html.contains("inf\""), "no number is missing");
    let predict = ["predict", "--posterior", text(out), text(foreign), "--settle"];
    let masks = out.join("masks");
    let args = [&predict[..], &["--out", text(&masks)]].concat();
    let is_masks = data.join("masks").exists();
    fails(if is_masks { &args } else { &predict }, &["--settle is for classes"]);
    [before, after]
}

#[test]
fn labels_and_numbers_go_through_all_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let (tags, sizes) = (folder.path().join("tags"), folder.path().join("sizes"));
    table(&sizes, |n| format!("{},{}", n * 10, n % 3));
    table(&tags, |n| ["dark", "dark;odd", "bright", "bright;odd"][n / 12 * 2 + n % 2].to_string());
    let out = learns(&tags, &[], &["mean_average_precision", "micro_f1", "nll", "ece", "labels"]);
    let [before, _] = is_reported(&out, &tags, &sizes);
    assert!(before["selective"]["aurc"].is_number(), "{before}");
    let images = ["predict", "--posterior", text(&out), text(&tags)];
    let report = succeeds(&images, &["labels", "predictions"]);
    assert_eq!(report["labels"], serde_json::json!(["bright", "dark", "odd"]));
    assert_eq!(report["predictions"][0]["probabilities"].as_array().map(Vec::len), Some(3));
    let out = learns(&sizes, &["--task", "regress"], &["r2", "nll", "coverage_90", "outputs"]);
    let args = ["evaluate", "--posterior", text(&out), "--data", text(&sizes)];
    let args = [&args[..], &["--ood", text(&tags)]].concat();
    fails(&args, &["a single draw is equally sure of all numbers"]);
    let several = ["--task", "regress", "--posterior", "ensemble", "--draws", "2"];
    let out = learns(&sizes, &several, &["outputs"]);
    let [_, after] = is_reported(&out, &sizes, &tags);
    assert!(after["calibrated"]["coverage"].as_f64().is_some_and(|c| c > 0.7), "{after}");
    let report = succeeds(&["predict", "--posterior", text(&out), text(&sizes)], &["outputs"]);
    assert_eq!(report["outputs"], serde_json::json!(["a", "b"]));
    let [mean, low] = ["means/1", "intervals/1/0"]
        .map(|at| report.pointer(&format!("/predictions/0/{at}")).and_then(Value::as_f64));
    assert!(low.zip(mean).is_some_and(|(low, mean)| low < mean), "{report}");
    assert!(report["predictions"][0]["deviations"][1].as_f64().is_some_and(|d| d > 0.0));
    // What one posterior predicts, the data of another do not have.
    let args = ["evaluate", "--posterior", text(&out), "--data", text(&tags)];
    fails(&args, &["tags", "(bright, dark, odd)", "\"a\""]);
    let args = ["predict", "--posterior", text(&out), text(&sizes), "--out", text(&tags)];
    fails(&args, &["--out is for masks"]);
}

#[test]
fn masks_go_through_all_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("street");
    fs::create_dir_all(data.join("images")).expect("a folder");
    fs::create_dir_all(data.join("masks")).expect("a folder");
    for number in 0..EXAMPLES as u32 {
        let is_road = |y: u32| y >= 8 + number / 2;
        let pixels = image::RgbImage::from_fn(32, 24, |_, y| match is_road(y) {
            true => image::Rgb([40, 40, 50]),
            false => image::Rgb([120, 180, 255]),
        });
        let mask = image::GrayImage::from_fn(32, 24, |x, y| match x {
            0 => image::Luma([255]),
            _ => image::Luma([u8::from(is_road(y))]),
        });
        pixels.save(data.join(format!("images/{number}.png"))).expect("an image");
        mask.save(data.join(format!("masks/{number}.png"))).expect("a mask");
    }
    fs::write(data.join("classes.txt"), "sky\nroad\n").expect("names");
    let out = learns(&data, &["--flip"], &["mean_iou", "pixel_accuracy", "nll", "classes"]);
    let images = data.join("images");
    let [before, after] = is_reported(&out, &data, &images);
    assert!(before["selective"]["aurc"].is_number(), "{before}");
    assert!(after["nll"].as_f64() <= before["nll"].as_f64().map(|nll| nll + 0.02), "{after}");
    // Its backbone learns a prior from masks, in which the head has no part.
    let prior = folder.path().join("p.safetensors");
    let fit = ["prior", "fit", "--backbone", &file(BACKBONE), "--data", text(&data)];
    let few = ["--out", text(&prior), "--epochs", "2", "--snapshots", "2", "--batch", "12"];
    let fitted = succeeds(&[&fit[..], &few].concat(), &["header"]);
    assert_eq!(fitted["header"]["num_data"], EXAMPLES);
    let args = [&fit[..], &few, &["--objective", "simclr", "--task", "segment"]].concat();
    fails(&args, &["--task and --ignore have no meaning with --objective simclr"]);
    learns(&data, &["--prior", text(&prior)], &["mean_iou"]);
    let masks = folder.path().join("predicted");
    let predict = ["predict", "--posterior", text(&out), text(&images)];
    fails(&predict, &["give --out"]);
    let args = [&predict[..], &["--out", text(&masks), "--entropy"]].concat();
    let report = succeeds(&args, &["out", "classes", "predictions"]);
    assert_eq!(report["predictions"][3]["shares"].as_array().map(Vec::len), Some(2));
    for name in ["3.png", "3.entropy.png"] {
        let written = image::open(masks.join(name)).expect("an image");
        assert_eq!((written.width(), written.height()), (32, 24));
    }
    fs::remove_file(data.join("masks/2.png")).expect("removed");
    let args = ["evaluate", "--posterior", text(&out), "--data", text(&data)];
    fails(&args, &["images/2.png has no mask"]);
}
