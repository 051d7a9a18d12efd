//! Adaptation from end to end on the bundled backbone and digits.

use std::path::Path;
use std::sync::Arc;

use priorfit::adapt::{
    Adapted, Adapter, Control, DECAY_VARIANCE, Ending, PriorKind, Settings, score,
};
use priorfit::adapt::{Phase, SourceSettings, fit_prior};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::error::Kind;
use priorfit::onnx::Model;
use priorfit::posterior::Posterior;
use priorfit::prior::{DrawsFit, Grouping, Header, Prior, Weights};
use priorfit::rng::{Key, Stream};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT};
use priorfit::tensor::contiguous;
use priorfit::threads::Threads;
use priorfit::update::Optimizer;

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use crate::support::repository;

pub struct Fixture {
    pub model: Arc<Model>,
    pub digits: Dataset,
    pub threads: Arc<Threads>,
}

pub fn fixture() -> Fixture {
    let open = |name: &str| repository("models/demo").join(name);
    Fixture {
        model: Arc::new(Model::load(&open("backbone.onnx")).expect("the backbone")),
        digits: Dataset::open(&open("digits.npz")).expect("the digits"),
        threads: Arc::new(Threads::new(2)),
    }
}

pub fn input() -> Preprocess {
    let statistics = Statistics { mean: vec![0.31], std: vec![0.37] };
    Preprocess::new(1, 16, 16).normalised(statistics)
}

impl Fixture {
    pub fn few(&self, per_class: usize) -> (Dataset, Dataset) {
        self.digits.few(3, per_class).expect("enough of each class")
    }

    pub fn adapter(&self, settings: Settings) -> Adapter {
        Adapter::new(Arc::clone(&self.model), input(), Arc::clone(&self.threads))
            .with_settings(settings)
            .expect("sound settings")
    }

    pub fn fit(&self, train: &Dataset, settings: Settings) -> Adapted {
        self.adapter(settings).fit(train, None, &mut |_| Control::Continue).expect("a run")
    }

    pub fn prior(&self) -> Prior {
        let weights = self.weights();
        Prior::from_backbone(&weights, 1e-3, &self.model.fingerprint()).expect("a prior")
    }

    fn weights(&self) -> Weights {
        self.model.weights().map(|(name, w)| (name.to_string(), w.clone())).collect()
    }

    pub fn accuracy(&self, posterior: &Posterior, data: &Dataset) -> f64 {
        let p = posterior.predict(data, &self.threads, &mut |_| true).expect("predictions");
        let labels = data.labels(&(0..data.len()).collect::<Vec<_>>()).expect("labels");
        score(&p, &labels).expect("a score").accuracy
    }
}

/// Nothing is chosen: the run has these steps exactly.
fn isotropic(steps: usize) -> Settings {
    Settings { prior: PriorKind::Isotropic, steps, ..Settings::fixed() }
}

/// Largest distance of the backbone's weights from the file's.
fn moved(fixture: &Fixture, adapted: &Adapted) -> f32 {
    let draw = &adapted.posterior.draws()[0];
    fixture.model.weights().fold(0.0, |m, (name, before)| {
        draw[name].iter().zip(before).fold(m, |m: f32, (a, b)| m.max((a - b).abs()))
    })
}

#[test]
fn few_labels_make_a_good_classifier_of_digits() {
    let fixture = fixture();
    let (train, rest) = fixture.few(10);
    let adapted = fixture.fit(&train, isotropic(40));
    assert_eq!(adapted.ending, Ending::Completed);
    let (probe, map) =
        (fixture.accuracy(&adapted.probe, &rest), fixture.accuracy(&adapted.posterior, &rest));
    assert!(probe > 0.9 && map > 0.9, "probe {probe}, adapted {map}");
    let (first, last) = (&adapted.history[0], &adapted.history[adapted.history.len() - 1]);
    assert!(last.loss < first.loss, "the loss falls from {} to {}", first.loss, last.loss);
}

#[test]
fn one_example_of_each_class_is_enough_to_run() {
    let fixture = fixture();
    let (train, rest) = fixture.few(1);
    let adapted = fixture.fit(&train, Settings { batch_size: 4, ..isotropic(6) });
    assert!(fixture.accuracy(&adapted.posterior, &rest) > 0.3, "better than chance by far");
}

#[test]
fn a_saved_posterior_predicts_the_same_bits() {
    let fixture = fixture();
    let (train, rest) = fixture.few(2);
    let adapted = fixture.fit(&train, isotropic(4));
    let folder = tempfile::tempdir().expect("a folder");
    adapted.posterior.save(folder.path()).expect("saved");
    let loaded = Posterior::load(folder.path()).expect("loaded");
    let predict = |p: &Posterior| p.predict(&rest, &fixture.threads, &mut |_| true).expect("p");
    assert_eq!(predict(&adapted.posterior), predict(&loaded));
    // A second save replaces the first; a folder that cannot be made loses nothing.
    loaded.save(folder.path()).expect("saved again");
    let error = loaded.save(&folder.path().join("posterior.json")).expect_err("not a folder");
    assert_eq!(error.kind(), Kind::Io);
    assert!(Posterior::load(folder.path()).is_ok());
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let fixture = fixture();
    let (train, _) = fixture.few(3);
    let run = |seed| {
        let adapted = fixture.fit(&train, Settings { seed, batch_size: 8, ..isotropic(5) });
        let draw = &adapted.posterior.draws()[0];
        draw.values().flat_map(|w| contiguous(w).to_vec()).collect::<Vec<f32>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// T5: λ → 0 holds the weights at the mean, λ → ∞ is no prior.
#[test]
fn strength_reaches_from_the_mean_to_no_prior() {
    let fixture = fixture();
    let (train, _) = fixture.few(3);
    let run = |prior, strength| {
        let settings = Settings { prior, strength: Some(strength), ..isotropic(10) };
        moved(&fixture, &fixture.fit(&train, settings))
    };
    let tight = run(PriorKind::Isotropic, 1e-9);
    let loose = run(PriorKind::Isotropic, 1e12);
    let none = run(PriorKind::None, 1.0);
    assert!(tight < 1e-6, "held at the mean, moved by {tight}");
    assert!((loose - none).abs() < 1e-3 * none, "without force: {loose}, without prior: {none}");
    assert!(none > 1e-3, "training moves the weights");
}

/// The update in closed form: without a prior a step of rate r leads to x, and under weight decay
/// to x/(1 + r/(λN)). A run starts at the backbone's weights, whatever a stored prior's mean is.
#[test]
fn weight_decay_divides_what_a_step_leads_to() {
    let fixture = fixture();
    let (train, _) = fixture.few(2);
    let (rate, strength) = (0.05, 0.3);
    let settings = |prior| Settings {
        prior,
        strength: Some(strength),
        optimizer: Optimizer::Sgd { momentum: 0.0 },
        learning_rate: rate,
        batch_size: train.len(),
        clip: None,
        ..isotropic(1)
    };
    let free = fixture.fit(&train, settings(PriorKind::None));
    let backbone = fixture.weights();
    let shifted = backbone.iter().map(|(name, w)| (name.clone(), (w + 0.1f32).into_shared()));
    let shifted = Prior::from_backbone(&shifted.collect(), 1.0, &fixture.model.fingerprint());
    let adapter = fixture.adapter(settings(PriorKind::WeightDecay));
    let adapter = adapter.with_prior(shifted.expect("a prior")).expect("of this backbone");
    let decayed = adapter.fit(&train, None, &mut |_| Control::Continue).expect("a run");
    let divisor = 1.0 + f64::from(rate) / (strength * train.len() as f64);
    for name in backbone.keys() {
        let (free, decayed) =
            (&free.posterior.draws()[0][name], &decayed.posterior.draws()[0][name]);
        for (&free, &found) in free.iter().zip(decayed) {
            let expected = f64::from(free) / divisor;
            // A few roundings of f32.
            let error = (f64::from(found) - expected).abs();
            assert!(error <= 1e-6 * (1.0 + expected.abs()), "{name}: {found}, not {expected}");
        }
    }
}

/// Where nothing can be held out, weight decay has a variance of its own.
#[test]
fn weight_decay_is_cross_validated_on_a_path_of_its_own() {
    let fixture = fixture();
    let settings = Settings { prior: PriorKind::WeightDecay, steps: 16, ..Settings::default() };
    let (one_each, _) = fixture.few(1);
    let usual = Settings { gate: false, ..settings.clone() };
    let given = Settings { strength: Some(DECAY_VARIANCE), ..usual.clone() };
    let weights = |settings| fixture.fit(&one_each, settings).posterior.draws()[0].clone();
    assert!(weights(usual) == weights(given));
    let choice = fixture.fit(&fixture.few(5).0, settings).choice.expect("enough to hold out");
    let strengths: Vec<_> = choice.candidates.iter().map(|c| c.strength).collect();
    assert_eq!(strengths, [None, Some(1.0), Some(10.0), Some(100.0), Some(1000.0)]);
}

/// T7: twice the same data halves the weight of the prior.
#[test]
fn the_prior_counts_once_whatever_the_number_of_examples() {
    let fixture = fixture();
    let (train, _) = fixture.few(2);
    let all: Vec<usize> = (0..train.len()).collect();
    let twice = train.subset(&[all.clone(), all].concat()).expect("a subset");
    let run = |data: &Dataset, strength| {
        let adapted = fixture.fit(
            data,
            Settings {
                strength: Some(strength),
                head_variance: Some(strength),
                batch_size: data.len(),
                clip: None,
                steps: 10,
                ..isotropic(10)
            },
        );
        moved(&fixture, &adapted)
    };
    let (once, doubled) = (run(&train, 1.0), run(&twice, 0.5));
    assert!((once - doubled).abs() < 0.02 * once, "{once} and {doubled}");
}

#[test]
fn frozen_parameters_do_not_move_and_unused_patterns_are_errors() {
    let fixture = fixture();
    let (train, _) = fixture.few(2);
    let all = Settings { freeze: vec!["*".to_string()], ..isotropic(4) };
    assert_eq!(moved(&fixture, &fixture.fit(&train, all)), 0.0);
    let typo = Settings { freeze: vec!["no.such.*".to_string()], ..isotropic(4) };
    let result = fixture.adapter(typo).fit(&train, None, &mut |_| Control::Continue);
    let error = result.err().expect("an error").to_string();
    assert!(error.contains("'no.such.*' freezes no parameter"), "{error}");
}

#[test]
fn a_stopped_run_keeps_its_last_state() {
    let fixture = fixture();
    let (train, rest) = fixture.few(3);
    let mut steps = 0;
    let adapted = fixture
        .adapter(isotropic(1000))
        .fit(&train, None, &mut |progress| {
            if progress.phase == Phase::Train {
                steps = progress.step;
            }
            if steps == 3 { Control::Stop } else { Control::Continue }
        })
        .expect("a stopped run is a result");
    assert_eq!((adapted.ending, steps), (Ending::Stopped, 3));
    assert!(fixture.accuracy(&adapted.posterior, &rest) > 0.5);
}

#[test]
fn validation_is_scored_after_each_epoch() {
    let fixture = fixture();
    let (train, rest) = fixture.few(3);
    let settings = Settings { batch_size: 16, ..isotropic(4) };
    let adapted = fixture
        .adapter(settings)
        .fit(&train, Some(&rest), &mut |_| Control::Continue)
        .expect("a run");
    assert_eq!(adapted.history.len(), 2, "30 examples in batches of 16 are two steps an epoch");
    assert!(adapted.history.iter().all(|e| e.validation.is_some_and(|v| v.score > 0.5)));
}

#[test]
fn a_learned_prior_is_fitted_saved_and_used() {
    let fixture = fixture();
    let (source, _) = fixture.few(5);
    let settings = SourceSettings {
        epochs: 3,
        burn_in: 0,
        snapshots: 6,
        rank: 3,
        learning_rate: 0.005,
        batch_size: 16,
        ..SourceSettings::default()
    };
    let prior =
        fit_prior(&fixture.model, &source, &input(), &settings, &fixture.threads, &mut |_| {
            Control::Continue
        })
        .expect("a prior");
    assert_eq!((prior.rank(), prior.header().learned.snapshots), (3, 6));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("prior.safetensors");
    prior.save(&path).expect("saved");
    let prior = Prior::load(&path).expect("loaded");
    let (train, rest) = fixture.few(3);
    for kind in [PriorKind::Learned, PriorKind::Diagonal, PriorKind::Isotropic] {
        let adapter = Adapter::new(Arc::clone(&fixture.model), input(), fixture.threads.clone())
            .with_prior(prior.clone())
            .and_then(|a| a.with_settings(Settings { prior: kind, steps: 6, ..isotropic(6) }))
            .expect("an adapter");
        let adapted = adapter.fit(&train, None, &mut |_| Control::Continue).expect("a run");
        let accuracy = fixture.accuracy(&adapted.posterior, &rest);
        assert!(accuracy > 0.7, "{kind:?}: {accuracy}");
        assert!(adapted.history.iter().all(|e| e.penalty >= 0.0), "{kind:?}: penalties");
    }
}

/// A network without weights: it flattens the image.
fn weightless() -> Model {
    let extents = [1, 1, 16, 16].map(|extent| Dimension {
        value: Some(dimension::Value::DimValue(extent)),
        ..Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto { dim: extents.to_vec() }),
    };
    let kind =
        TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    let port = |name: &str, kind| ValueInfoProto {
        name: name.to_string(),
        r#type: kind,
        ..ValueInfoProto::default()
    };
    let node = NodeProto {
        op_type: "Flatten".to_string(),
        input: vec!["image".to_string()],
        output: vec!["features".to_string()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        input: vec![port("image", Some(kind))],
        output: vec![port("features", None)],
        node: vec![node],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() };
    let proto = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![opset],
        ..ModelProto::default()
    };
    Model::from_bytes(&proto.encode_to_vec(), None).expect("a sound file")
}

#[test]
fn a_backbone_without_weights_trains_a_head_alone() {
    let fixture = Fixture { model: Arc::new(weightless()), ..fixture() };
    let (train, rest) = fixture.few(5);
    let adapted = fixture.fit(&train, isotropic(5));
    assert!(fixture.accuracy(&adapted.posterior, &rest) > 0.5, "pixels alone tell digits apart");
}

#[test]
fn a_prior_of_another_backbone_is_refused() {
    let fixture = fixture();
    let other = Model::load(&repository("models/golden/resnet_basic_folded.onnx")).expect("a file");
    let adapter = Adapter::new(Arc::new(other), input(), Arc::clone(&fixture.threads));
    let error = adapter.with_prior(fixture.prior()).err().expect("an error");
    assert_eq!(error.kind(), Kind::Mismatch);
}

#[test]
fn unusable_data_and_settings_are_named() {
    let fixture = fixture();
    let (train, _) = fixture.few(2);
    let fit = |settings: Settings, data: &Dataset| {
        let adapter = Adapter::new(Arc::clone(&fixture.model), input(), fixture.threads.clone())
            .with_settings(settings)?;
        adapter.fit(data, None, &mut |_| Control::Continue).map(|_| ())
    };
    let cases = [
        (Settings { strength: Some(0.0), ..isotropic(1) }, "strength is 0"),
        (Settings { batch_size: 0, ..isotropic(1) }, "batch size is 0"),
        (Settings { learning_rate: f32::NAN, ..isotropic(1) }, "learning rate is NaN"),
        (Settings { prior: PriorKind::Learned, ..isotropic(1) }, "none is given"),
    ];
    for (settings, part) in cases {
        let error = fit(settings, &train).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    // Under a prior even such a rate stays finite: its step is proximal.
    let prior = PriorKind::None;
    let huge = Settings { learning_rate: 1e30, clip: None, prior, ..isotropic(20) };
    let diverged = fixture.fit(&train, huge);
    assert_eq!(diverged.ending, Ending::Diverged);
    let notice = diverged.notice.expect("a reason");
    assert!(notice.contains("--lr") && notice.contains("are kept"), "{notice}");
    assert!(diverged.posterior.draws() == diverged.probe.draws());
    let digit = Path::new("digit.png");
    let unlabelled = Dataset::from_files(vec![digit.to_path_buf()]).expect("a list");
    let error = fit(isotropic(1), &unlabelled).expect_err("no labels").to_string();
    assert!(error.contains("no labels"), "{error}");
}

/// Under any cap a run makes the same updates within it, or says what the least is.
#[test]
fn a_memory_cap_is_kept_or_refused_with_what_is_needed() {
    // Gradients summed in another order, through a few steps.
    const ANOTHER_ORDER: f32 = 1e-3;
    let fixture = fixture();
    let (train, rest) = fixture.few(3);
    let run = |memory_cap| {
        let settings = Settings { batch_size: 16, memory_cap, ..isotropic(4) };
        let adapter = fixture.adapter(settings);
        adapter.fit(&train, Some(&rest), &mut |_| Control::Continue)
    };
    let free = run(None).expect("a run");
    assert_eq!((free.memory.micro_batch, free.memory.recomputes), (16, false));
    let (mut bytes, mut ways) = (free.memory.bytes, Vec::new());
    let error = loop {
        match run(Some(bytes as u64 - 1)) {
            Err(error) => break error,
            Ok(adapted) => {
                assert!(adapted.memory.bytes < bytes, "{:?}", adapted.memory);
                bytes = adapted.memory.bytes;
                ways.push((adapted.memory.micro_batch, adapted.memory.recomputes));
                let draw = &adapted.posterior.draws()[0];
                for (name, weight) in &free.posterior.draws()[0] {
                    let off = weight.iter().zip(&draw[name]).map(|(a, b)| (a - b).abs());
                    let off = off.fold(0.0, f32::max);
                    assert!(off < ANOTHER_ORDER, "{:?}: {name} is off by {off}", adapted.memory);
                }
                let [a, b] = [&free, &adapted].map(|run| run.history[1].loss);
                assert!((a - b).abs() < ANOTHER_ORDER * a, "loss {b}, not {a}");
            }
        }
    };
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let text = error.to_string();
    assert!(
        text.contains(&format!("{} bytes", bytes - 1)) && text.contains("--memory-cap"),
        "{text}"
    );
    assert!(text.contains(&format!("takes {bytes}")), "{text}: the least is {bytes}");
    assert!(ways.iter().any(|&(micro, _)| micro < 16), "{ways:?}");
    assert!(run(Some(bytes as u64)).is_ok(), "the number in the message is enough");
}

/// A learned prior of the backbone's weights and of what a little noise makes of them.
fn noisy(fixture: &Fixture, blocks: Grouping) -> Prior {
    let mut normals = Key::new(6, Stream::Probe).at(0);
    let mut draw = || -> Weights {
        let mut shift = |w: &f32| w + 0.02 * normals.normal();
        fixture.weights().into_iter().map(|(n, w)| (n, w.map(&mut shift).into_shared())).collect()
    };
    let draws: Vec<Weights> = (0..5).map(|_| draw()).collect();
    let fit = DrawsFit { blocks, ..DrawsFit::default() };
    let header = Header::new(fixture.model.fingerprint(), 1e-6);
    Prior::from_draws(&draws, header, fit).expect("a prior")
}

/// Blocks change where a run ends, and freezing some does not mix the others' up: the penalty that
/// the run reports is that of the prior's own formulas.
#[test]
fn a_prior_of_blocks_is_trained_under_with_parts_frozen_or_none() {
    let fixture = fixture();
    let (train, _) = fixture.few(4);
    let whole = noisy(&fixture, Grouping::Whole);
    let blocks = noisy(&fixture, Grouping::Tensor);
    assert!(blocks.blocks() > 2, "{}", blocks.blocks());
    let first = blocks.parameters()[0].name().to_string();
    for freeze in [vec![], vec![first]] {
        let settings = Settings {
            prior: PriorKind::Learned,
            steps: 12,
            freeze: freeze.clone(),
            ..Settings::fixed()
        };
        let run = |prior: &Prior| {
            let adapter = fixture
                .adapter(isotropic(1))
                .with_prior(prior.clone())
                .and_then(|adapter| adapter.with_settings(settings.clone()))
                .expect("the same backbone");
            let mut last = None;
            let adapted = adapter
                .fit(&train, None, &mut |p| {
                    last = p.penalty.map(f64::from).or(last);
                    Control::Continue
                })
                .expect("a run");
            (adapted.posterior.draws()[0].clone(), last.expect("a penalty"))
        };
        let ((of_whole, _), (of_blocks, penalty)) = (run(&whole), run(&blocks));
        // Rates are near 0 at the end of a cosine, so the last step hardly moves the weights.
        let names = fixture.model.weights().map(|(name, _)| name);
        let moving = blocks.restrict(names.filter(|name| !freeze.iter().any(|f| f == name)));
        let form = moving.expect("known names").quadratic(&of_blocks, 1.0).expect("finite");
        let head: f64 = [HEAD_WEIGHT, HEAD_BIAS]
            .iter()
            .flat_map(|name| of_blocks[*name].iter())
            .map(|&x| f64::from(x).powi(2))
            .sum();
        let expected = (form + head) / (2.0 * train.len() as f64);
        assert!((penalty / expected - 1.0).abs() < 0.02, "{penalty} is not {expected}");
        let differs = of_whole.iter().any(|(name, weight)| *weight != of_blocks[name]);
        assert!(differs, "blocks are another prior");
    }
}
