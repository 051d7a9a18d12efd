//! Folders of posteriors that are not what they should be: one clear error each, nothing lost.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use priorfit::atomic_file::name_by_content;
use priorfit::data::{Dataset, Preprocess};
use priorfit::error::Kind;
use priorfit::onnx::Model;
use priorfit::posterior::{Description, DrawPrecision, Posterior, VERSION};
use priorfit::prior::Weights;
use priorfit::rng::{Key, Stream};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT, Task};
use priorfit::tensor::{Tensor, contiguous, tensor};
use priorfit::threads::Threads;
use safetensors::tensor::{Dtype, TensorView};

use crate::support::repository;

fn posterior() -> Posterior {
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let mut draw: Weights = model.weights().map(|(n, w)| (n.to_string(), w.clone())).collect();
    let zeros = |shape: &[usize]| tensor(shape, vec![0.0; shape.iter().product()]).expect("zeros");
    draw.insert(HEAD_WEIGHT.to_string(), zeros(&[2, 64]));
    draw.insert(HEAD_BIAS.to_string(), zeros(&[2]));
    let description = Description {
        version: VERSION,
        backbone: model.fingerprint(),
        task: Task::Classification { classes: vec!["a".to_string(), "b".to_string()] },
        preprocess: Preprocess::new(1, 16, 16),
        temperature: 1.0,
        provenance: serde_json::Value::Null,
        calibration: None,
    };
    Posterior::new(description, Arc::new(model), vec![draw]).expect("a posterior")
}

/// The file of a folder whose name begins like this.
fn file_of(folder: &Path, stem: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut names = entries.map(|entry| entry.path());
    let is_wanted = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(stem))
    };
    names.find(is_wanted).expect("a file of that name")
}

/// The names of all files of a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Saves a sound posterior, spoils one file, and gives the error of loading it. The name is that of
/// the spoilt content, as a hostile program would choose it.
fn error_after(stem: &str, spoil: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    posterior().save(folder.path()).expect("saved");
    let path = file_of(folder.path(), stem);
    spoil(&path);
    if stem != "posterior.json" {
        let extension = path.extension().and_then(|e| e.to_str()).expect("an extension");
        let new = name_by_content(stem, &std::fs::read(&path).expect("spoilt"), extension);
        let old = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let description = folder.path().join("posterior.json");
        let json = std::fs::read_to_string(&description).expect("json").replace(old, &new);
        std::fs::write(&description, json).expect("written");
        std::fs::rename(&path, folder.path().join(new)).expect("renamed");
    }
    let error = Posterior::load(folder.path()).err().expect("an error").to_string();
    assert!(error.contains(stem), "the error names {stem}: {error}");
    error
}

/// Rewrites the draws with `change` applied to each tensor; `None` drops it.
fn rewrite(
    path: &Path,
    change: impl Fn(&str, Vec<usize>, Vec<u8>) -> Option<(Vec<usize>, Vec<u8>)>,
) {
    let bytes = std::fs::read(path).expect("the draws");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
    let changed: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| {
            let (shape, data) = change(&name, view.shape().to_vec(), view.data().to_vec())?;
            Some((name, shape, data))
        })
        .collect();
    let views = changed.iter().map(|(name, shape, data)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), data).expect("a tensor"))
    });
    let metadata = Some(HashMap::from([("draws".to_string(), "1".to_string())]));
    std::fs::write(path, safetensors::serialize(views, metadata).expect("bytes")).expect("written");
}

/// Three draws of a head that differ, and of a backbone that differ in its first layer.
fn several() -> Posterior {
    let one = posterior();
    let mut normals = Key::new(4, Stream::Probe).at(0);
    let mut draw = |changed: &[&str]| {
        let mut draw = one.draws()[0].clone();
        for &name in changed {
            let spread = if name == HEAD_BIAS { 1e-7 } else { 0.01 };
            let weight = draw.get_mut(name).expect("a weight");
            *weight = weight.mapv(|x| x + spread * normals.normal()).into_shared();
        }
        draw
    };
    let first = one.draws()[0].keys().find(|name| !name.starts_with("priorfit")).expect("a weight");
    let changed = [first.as_str(), HEAD_WEIGHT, HEAD_BIAS];
    let draws = vec![draw(&changed), draw(&changed), draw(&changed)];
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    Posterior::new(one.description().clone(), Arc::new(model), draws).expect("a posterior")
}

/// The bytes of the draws that `posterior` is saved with, and what loads from them.
fn saved(posterior: &Posterior, precision: DrawPrecision) -> (u64, Posterior) {
    let folder = tempfile::tempdir().expect("a folder");
    posterior.save_as(folder.path(), precision).expect("saved");
    let bytes = std::fs::metadata(file_of(folder.path(), "draws")).expect("a file").len();
    (bytes, Posterior::load(folder.path()).expect("loaded"))
}

#[test]
fn draws_come_back_within_the_stated_error() {
    let before = several();
    for (precision, of_delta, of_largest) in
        [(DrawPrecision::F32, 0.0, 0.0), (DrawPrecision::F16, 2f64.powi(-11), 2f64.powi(-39))]
    {
        let (_, after) = saved(&before, precision);
        assert_eq!(after.draws().len(), 3);
        for name in before.draws()[0].keys() {
            let mean = |i: usize| {
                let of = |draw: &Weights| f64::from(contiguous(&draw[name])[i]);
                before.draws().iter().map(of).sum::<f64>() / 3.0
            };
            let deltas = |draw: &Weights| -> Vec<f64> {
                let elements = contiguous(&draw[name]).to_vec();
                elements.iter().enumerate().map(|(i, &x)| f64::from(x) - mean(i)).collect()
            };
            let all: Vec<Vec<f64>> = before.draws().iter().map(deltas).collect();
            let largest = all.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
            for (draw, deltas) in all.iter().enumerate() {
                let [got, want] =
                    [&after, &before].map(|p| contiguous(&p.draws()[draw][name]).to_vec());
                for ((got, want), delta) in got.iter().zip(want).zip(deltas) {
                    let delta = delta.abs();
                    // Two roundings in single precision, the second of a sum.
                    let rounding = 2f64.powi(-23) * (f64::from(want).abs() + delta);
                    let room = rounding + of_delta * delta + of_largest * largest;
                    let off = (f64::from(*got) - f64::from(want)).abs();
                    assert!(off <= room, "{precision:?}, {name}: {got}, not {want}");
                }
            }
        }
    }
}

#[test]
fn weights_that_draws_share_take_no_space() {
    let (one, _) = saved(&posterior(), DrawPrecision::F32);
    // A head of 2 · 64 + 2 zeros, and the file's header.
    assert!(one < 4 * 130 + 500, "{one} bytes of a backbone that did not move");
    let before = several();
    let changed: u64 = {
        let draws = before.draws();
        let differ = draws[0].iter().filter(|(name, w)| draws[1][*name] != **w);
        differ.map(|(_, w)| w.len() as u64).sum()
    };
    let (single, after) = saved(&before, DrawPrecision::F32);
    let (half, _) = saved(&before, DrawPrecision::F16);
    let header = 2000;
    assert!(single < (4 + 3 * 4) * changed + header, "{single} bytes for {changed} weights");
    assert!(half < (4 + 3 * 2) * changed + header, "{half} bytes for {changed} weights");
    // In memory too.
    let same = |name: &str| after.draws()[0][name].as_ptr() == after.draws()[2][name].as_ptr();
    let shared = after.draws()[0].keys().filter(|name| same(name)).count();
    assert_eq!(shared, after.draws()[0].len() - 3);
}

#[test]
fn a_wrong_number_of_draws_is_refused() {
    for (count, tensor, part) in [
        ("0", "0/priorfit.head.bias", "no number of draws"),
        ("99999999", "0/priorfit.head.bias", "no number of draws"),
        ("many", "0/priorfit.head.bias", "no number of draws"),
        ("2", "2/priorfit.head.bias", "belongs to no draw"),
        ("2", "1/nothing", "belongs to no draw"),
        ("2", "stray", "belongs to no draw"),
        ("2", "base/nothing", "the backbone has no 'nothing'"),
    ] {
        let error = error_after("draws", |path| {
            let bytes = std::fs::read(path).expect("the draws");
            let file = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
            let zeros = [0u8; 8];
            let stray = TensorView::new(Dtype::F32, vec![2], &zeros).expect("a tensor");
            let views = file.tensors().into_iter().chain([(tensor.to_string(), stray)]);
            let metadata = Some(HashMap::from([("draws".to_string(), count.to_string())]));
            let bytes = safetensors::serialize(views, metadata).expect("bytes");
            std::fs::write(path, bytes).expect("written");
        });
        assert!(error.contains(part), "{count}, {tensor}: {error}");
    }
}

#[test]
fn a_missing_or_foreign_description_is_named() {
    let missing = error_after("posterior.json", |path| std::fs::remove_file(path).expect("gone"));
    assert!(missing.contains("cannot read"), "{missing}");
    let garbage = error_after("posterior.json", |path| {
        std::fs::write(path, b"{\"version\": 1, \"extra\": []}").expect("written");
    });
    assert!(garbage.contains("not the description of a posterior"), "{garbage}");
    let newer = error_after("posterior.json", |path| {
        let json = std::fs::read_to_string(path).expect("json");
        std::fs::write(path, json.replace("\"version\": 3", "\"version\": 9")).expect("written");
    });
    assert!(newer.contains("version 9") && newer.contains("expected version 3"), "{newer}");
}

/// What was stored before there were calibrations has none; one that makes no sense is refused.
#[test]
fn a_calibration_may_be_missing_but_not_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    posterior().save(folder.path()).expect("saved");
    let json = std::fs::read_to_string(folder.path().join("posterior.json")).expect("json");
    assert!(!json.contains("calibration"), "{json}");
    let loaded = Posterior::load(folder.path()).expect("loaded");
    assert_eq!(loaded.description().calibration, None);
    let calibrated = |temperature: &str| {
        let rest = r#""temperature_examples": 9, "threshold_examples": 9, "abstention": null,
            "sets": {"coverage": 0.9, "probability_min": 0.1},
            "familiarity": {"score": "entropy", "false_alarms": 0.05, "highest": null}"#;
        let fields = format!(r#"{{"calibration": {{"temperature": {temperature}, {rest}}},"#);
        error_after("posterior.json", |path| {
            std::fs::write(path, json.replacen('{', &fields, 1)).expect("written");
        })
    };
    let zero = calibrated("0");
    assert!(zero.contains("the calibration's temperature is 0"), "{zero}");
    let text = calibrated("\"warm\"");
    assert!(text.contains("not the description of a posterior"), "{text}");
}

#[test]
fn spoilt_draws_are_named() {
    let truncated = error_after("draws", |path| {
        let bytes = std::fs::read(path).expect("the draws");
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
    });
    assert!(truncated.contains("not a safetensors file"), "{truncated}");
    let nan = error_after("draws", |path| {
        rewrite(path, |name, shape, mut data| {
            if name.ends_with(HEAD_BIAS) {
                data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            }
            Some((shape, data))
        });
    });
    assert!(nan.contains(HEAD_BIAS) && nan.contains("NaN"), "{nan}");
    let reshaped = error_after("draws", |path| {
        rewrite(path, |name, shape, data| {
            let shape = if name.ends_with(HEAD_BIAS) { vec![1, shape[0]] } else { shape };
            Some((shape, data))
        });
    });
    assert!(reshaped.contains(HEAD_BIAS), "{reshaped}");
    let headless = error_after("draws", |path| {
        rewrite(path, |name, shape, data| (!name.ends_with(HEAD_WEIGHT)).then_some((shape, data)));
    });
    assert!(headless.contains(HEAD_WEIGHT), "{headless}");
}

#[test]
fn a_head_of_another_number_of_classes_is_refused() {
    let error = error_after("draws", |path| {
        rewrite(path, |name, shape, data| match name.ends_with(HEAD_BIAS) {
            true => Some((vec![3], [0u8; 12].to_vec())),
            false => Some((shape, data)),
        });
    });
    assert!(error.contains("2 outputs"), "{error}");
}

#[test]
fn a_save_that_fails_midway_leaves_every_file_of_the_old_posterior() {
    let folder = tempfile::tempdir().expect("a folder");
    several().save(folder.path()).expect("saved");
    let before = names(folder.path());
    // A folder in the way of the second file stands for a disk that is full by then.
    let other = tempfile::tempdir().expect("a folder");
    posterior().save(other.path()).expect("saved");
    let draws = file_of(other.path(), "draws");
    let in_the_way = folder.path().join(draws.file_name().expect("a name"));
    std::fs::create_dir(&in_the_way).expect("in the way");
    let error = posterior().save(folder.path()).expect_err("no room").to_string();
    assert!(error.contains("draws-"), "{error}");
    std::fs::remove_dir(&in_the_way).expect("gone");
    assert_eq!(names(folder.path()), before, "no leftovers");
    assert_eq!(Posterior::load(folder.path()).expect("the old one").draws().len(), 3);
}

/// Each state that a killed program can leave a folder in holds the old set or the new one, and the
/// next that saves leaves nothing of it.
#[test]
fn a_folder_holds_one_whole_set_at_every_moment() {
    let [old, new] = [several(), posterior()].map(|posterior| {
        let folder = tempfile::tempdir().expect("a folder");
        posterior.save(folder.path()).expect("saved");
        folder
    });
    let copy = |from: &Path, to: &Path| {
        for name in names(from) {
            std::fs::copy(from.join(&name), to.join(&name)).expect("copied");
        }
    };
    let draws = |folder: &Path| Posterior::load(folder).expect("a whole set").draws().len();
    let files = [file_of(new.path(), "backbone"), file_of(new.path(), "draws")];
    let description = new.path().join("posterior.json");
    let steps: Vec<&PathBuf> = files.iter().chain([&description]).collect();
    for done in 0..=steps.len() {
        let folder = tempfile::tempdir().expect("a folder");
        copy(old.path(), folder.path());
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        for path in &steps[..done] {
            std::fs::copy(path, folder.path().join(name(path))).expect("copied");
        }
        for path in &steps[done..] {
            let sibling = folder.path().join(format!(".{}.99-{done}.tmp", name(path)));
            std::fs::write(sibling, b"half of it").expect("written");
        }
        assert_eq!(draws(folder.path()), if done < steps.len() { 3 } else { 1 });
        std::fs::write(folder.path().join("notes.txt"), b"mine").expect("written");
        std::fs::write(folder.path().join("backbone.onnx"), b"mine").expect("written");
        posterior().save(folder.path()).expect("saved");
        let mut expected = names(new.path());
        expected.extend(["backbone.onnx", "notes.txt"].map(str::to_string));
        expected.sort();
        assert_eq!(names(folder.path()), expected, "after {done} steps");
        assert_eq!(draws(folder.path()), 1);
    }
}

/// Saves two posteriors in turn until it is killed; a test of its own process, see below.
#[test]
#[ignore = "runs until it is killed"]
fn saver() {
    let folder = std::env::var("PRIORFIT_SAVE_INTO").expect("a folder");
    let [one, other] = [several(), posterior()];
    loop {
        for posterior in [&one, &other] {
            posterior.save(Path::new(&folder)).expect("saved");
        }
    }
}

#[test]
fn a_program_that_is_killed_while_it_saves_leaves_a_whole_set() {
    let folder = tempfile::tempdir().expect("a folder");
    posterior().save(folder.path()).expect("saved");
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["posteriors::saver", "--exact", "--ignored"])
            .env("PRIORFIT_SAVE_INTO", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Read while the other writes, too.
        let until = Instant::now() + Duration::from_millis(150 + 17 * round);
        while Instant::now() < until {
            seen.insert(Posterior::load(folder.path()).expect("a whole set").draws().len());
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        seen.insert(Posterior::load(folder.path()).expect("a whole set").draws().len());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 3], "both sets were there");
    posterior().save(folder.path()).expect("saved");
    assert_eq!(names(folder.path()).len(), 3, "{:?}", names(folder.path()));
}

#[test]
fn content_that_was_altered_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for stem in ["backbone", "draws"] {
        posterior().save(folder.path()).expect("saved");
        let path = file_of(folder.path(), stem);
        let mut bytes = std::fs::read(&path).expect("a file");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let error = Posterior::load(folder.path()).map(|_| ()).expect_err("altered").to_string();
        assert!(error.contains(stem) && error.contains("other content"), "{error}");
    }
}

#[test]
fn a_description_names_no_file_elsewhere() {
    for name in ["../draws-0123456789abcdef.safetensors", "/etc/passwd", "draws.safetensors", ""] {
        let error = error_after("posterior.json", |path| {
            let draws = file_of(path.parent().expect("its folder"), "draws");
            let draws = draws.file_name().and_then(|name| name.to_str()).expect("a name");
            let json = std::fs::read_to_string(path).expect("json").replace(draws, name);
            std::fs::write(path, json).expect("written");
        });
        assert!(error.contains("expected draws-<hash>.safetensors"), "{error}");
    }
}

/// What version 2 wrote: files without a hash, and no list of them.
#[test]
fn folders_of_fixed_names_are_read_calibrated_and_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    several().save(folder.path()).expect("saved");
    let draws = Posterior::load(folder.path()).expect("read").draws().to_vec();
    for (stem, name) in [("backbone", "backbone.onnx"), ("draws", "draws.safetensors")] {
        std::fs::rename(file_of(folder.path(), stem), folder.path().join(name)).expect("renamed");
    }
    let path = folder.path().join("posterior.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("json")).expect("json");
    json["version"] = 2.into();
    json.as_object_mut().expect("fields").remove("files");
    std::fs::write(&path, json.to_string()).expect("written");
    let old = Posterior::load(folder.path()).expect("read");
    assert_eq!(old.draws(), draws);
    old.save_description(folder.path()).expect("written");
    let again: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("json")).expect("json");
    assert_eq!(again, json, "it stays of version 2");
    assert_eq!(names(folder.path()), ["backbone.onnx", "draws.safetensors", "posterior.json"]);
    old.save(folder.path()).expect("saved");
    assert_eq!(names(folder.path()).len(), 3);
    assert!(!folder.path().join("backbone.onnx").exists(), "the old set is gone");
    assert_eq!(Posterior::load(folder.path()).expect("read").draws().len(), 3);
}

#[test]
fn a_description_is_not_written_over_another_model() {
    let folder = tempfile::tempdir().expect("a folder");
    several().save(folder.path()).expect("saved");
    let loaded = Posterior::load(folder.path()).expect("read");
    loaded.save_description(folder.path()).expect("its own");
    posterior().save(folder.path()).expect("saved");
    let error = loaded.save_description(folder.path()).expect_err("another's").to_string();
    assert!(error.contains("another model by now"), "{error}");
}

/// A file of what differs goes onto the backbone it came from, and no other.
#[test]
fn a_delta_and_the_backbone_are_the_posterior() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("delta.safetensors");
    let model = |name: &str| Arc::new(Model::load(&repository(name)).expect("a network"));
    let backbone = model("models/demo/backbone.onnx");
    let before = several();
    let all: usize = backbone.weights().map(|(_, weight)| 4 * weight.len()).sum();
    // A mean is off by half a unit of the last place of its shift, a draw by as much of its
    // distance from the mean, which is at most twice the farthest draw's.
    let half = 3.0 * 2f32.powi(-11);
    for (precision, of_shift) in [(DrawPrecision::F32, 0.0), (DrawPrecision::F16, half)] {
        before.save_delta(&path, precision).expect("saved");
        assert!(std::fs::metadata(&path).expect("a file").len() < all as u64 / 4);
        let after = Posterior::load_delta(&path, Arc::clone(&backbone)).expect("read");
        assert_eq!(after.description(), before.description());
        for name in before.draws()[0].keys() {
            let zero = before.draws()[0][name].mapv(|_| 0.0).into_shared();
            let own = backbone.weight(name).unwrap_or(&zero);
            let distance = |a: &Tensor, b: &Tensor| {
                a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()))
            };
            let moved = before.draws().iter().map(|draw| distance(&draw[name], own));
            let moved = moved.fold(0.0, f32::max);
            for (draw, old) in after.draws().iter().zip(before.draws()) {
                let room = of_shift * moved + 4.0 * f32::EPSILON * distance(&old[name], &zero);
                let off = distance(&draw[name], &old[name]);
                assert!(off <= room, "{precision:?}, {name}: off by {off}, room {room}");
            }
        }
    }
    let other = model("models/golden/mobilenetv2_folded.onnx");
    let error = Posterior::load_delta(&path, other).map(|_| ()).expect_err("another's").to_string();
    assert!(error.contains("not the backbone that was adapted"), "{error}");
    before.save(folder.path()).expect("saved");
    let draws = file_of(folder.path(), "draws");
    let error = Posterior::load_delta(&draws, backbone).map(|_| ()).expect_err("no delta");
    assert!(error.to_string().contains("export --delta"), "{error}");
}

#[test]
fn a_backbone_of_another_posterior_is_refused() {
    let error = error_after("backbone", |path| {
        let other = repository("models/golden/mobilenetv2_folded.onnx");
        std::fs::copy(other, path).expect("copied");
    });
    assert!(error.contains("not the backbone that was adapted"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_no_posterior() {
    let sound = posterior();
    let mut draw = sound.draws()[0].clone();
    draw.insert(HEAD_BIAS.to_string(), tensor(&[2], vec![0.0, f32::NAN]).expect("a tensor"));
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let outcome = Posterior::new(sound.description().clone(), Arc::new(model), vec![draw]);
    let error = outcome.err().expect("refused");
    assert_eq!(error.kind(), Kind::Diverged);
    assert!(error.to_string().contains(HEAD_BIAS), "{error}");
}

#[test]
fn no_examples_give_no_predictions() {
    let digits = Dataset::open(&repository("models/demo/digits.npz")).expect("the digits");
    let none = digits.subset(&[]).expect("an empty subset");
    let threads = Arc::new(Threads::new(1));
    let p = posterior().predict(&none, &threads, &mut |_| true).expect("no predictions");
    assert_eq!(p.dim(), (0, 2));
}
