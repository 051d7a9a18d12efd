use super::*;
use crate::prior::Weights;

/// A fit of the bundled backbone to the bundled digits, and its checkpoint.
fn keeper(path: &Path, settings: &SourceSettings) -> Keeper {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let model = Arc::new(Model::load(&demo.join("backbone.onnx")).expect("the backbone"));
    let data = Dataset::open(&demo.join("digits.npz")).expect("the digits");
    let to = Checkpoints { path, resume: true };
    Keeper::new(&to, &model, &data, &Preprocess::new(1, 16, 16), settings).expect("a keeper")
}

fn leaves(keeper: &Keeper) -> Vec<Leaf> {
    let leaf = |kind, name: &str| Leaf { kind, name: name.to_string() };
    let weights = keeper.model.weights().map(|(name, _)| name);
    let momentum = |name: &str| leaf(LeafKind::State, &format!("momentum/{name}"));
    weights.flat_map(|name| [leaf(LeafKind::Param, name), momentum(name)]).collect()
}

/// A state and moments of two snapshots that a fit could have.
fn state(keeper: &Keeper) -> (Shadow, Moments) {
    let len = |leaf: &Leaf| {
        let name = leaf.name.trim_start_matches("momentum/");
        keeper.model.weight(name).map_or(0, |w| w.len())
    };
    let value = |leaf: Leaf| {
        let values = (0..len(&leaf)).map(|i| 0.001 * i as f32).collect();
        (leaf, values)
    };
    let values = leaves(keeper).into_iter().map(value).collect();
    let mut moments = Moments::new(3).expect("a rank");
    let weights: Weights =
        keeper.model.weights().map(|(name, w)| (name.to_string(), w.clone())).collect();
    moments.collect(&weights).expect("a snapshot");
    let moved = weights.into_iter().map(|(name, w)| (name, w.mapv(|x| 1.1 * x).into_shared()));
    moments.collect(&moved.collect()).expect("a snapshot");
    (Shadow { done: 12, epochs: 0, values }, moments)
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint");
    let keeper = keeper(&path, &SourceSettings::default());
    assert!(keeper.read(&leaves(&keeper), 3).expect("nothing is wrong").is_none());
    let (shadow, moments) = state(&keeper);
    keeper.write(&shadow, 14, &moments).expect("written");
    let found = keeper.read(&leaves(&keeper), 3).expect("readable").expect("there");
    assert_eq!((found.resumed.shadow.done, found.next), (12, 14));
    assert!(found.resumed.shadow.values == shadow.values);
    assert_eq!(found.moments.count(), 2);
    for (a, b) in found.moments.running().iter().zip(moments.running()) {
        assert_eq!((&a.name, &a.mean, &a.m2), (&b.name, &b.mean, &b.m2));
        assert_eq!(a.deviations, b.deviations);
    }
    let unwanted = Checkpoints { path: &path, resume: false };
    unwanted.remove().expect("removed");
    unwanted.remove().expect("there is nothing to remove");
}

#[test]
fn a_checkpoint_of_another_fit_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint");
    let first = keeper(&path, &SourceSettings::default());
    let (shadow, moments) = state(&first);
    first.write(&shadow, 12, &moments).expect("written");
    let other = keeper(&path, &SourceSettings { seed: 5, epochs: 7, ..SourceSettings::default() });
    let error = other.read(&leaves(&other), 3).err().expect("another fit").to_string();
    for part in ["settings.seed is 0 there and 5 here", "settings.epochs is 5 there and 7 here"] {
        assert!(error.contains(part), "{error}");
    }
    let unwanted = Checkpoints { path: &path, resume: false };
    let data = Dataset::from_files(vec![path.clone()]).expect("a list");
    let (model, preprocess) = (Arc::clone(&first.model), Preprocess::new(1, 16, 16));
    let refused = Keeper::new(&unwanted, &model, &data, &preprocess, &SourceSettings::default());
    let error = refused.err().expect("it would be lost").to_string();
    assert!(error.contains("--resume") && error.contains("checkpoint"), "{error}");
}

/// Cut anywhere, changed anywhere: an error or another valid checkpoint, never a panic.
#[test]
fn a_damaged_checkpoint_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint");
    let keeper = keeper(&path, &SourceSettings::default());
    let (shadow, moments) = state(&keeper);
    keeper.write(&shadow, 12, &moments).expect("written");
    let bytes = std::fs::read(&path).expect("bytes");
    let leaves = leaves(&keeper);
    for len in [0, 7, 8, 200, bytes.len() / 2, bytes.len() - 1] {
        assert!(keeper.parse(&bytes[..len], &leaves, 3).is_err(), "{len} bytes");
    }
    // Fewer deviations than the fit keeps, one leaf too few, one too many.
    assert!(keeper.parse(&bytes, &leaves, 1).is_err());
    assert!(keeper.parse(&bytes, &leaves[1..], 3).is_err());
    let more = Leaf { kind: LeafKind::State, name: "more".to_string() };
    assert!(keeper.parse(&bytes, &[&leaves[..], &[more]].concat(), 3).is_err());
    let mut nan = bytes.clone();
    let end = nan.len() - 4;
    nan[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(keeper.parse(&nan, &leaves, 3).is_err());
}
