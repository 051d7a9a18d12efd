//! Engines that predict: whichever does, the prediction is the same, and the fastest is chosen of
//! those of which this holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use priorfit::backend::Engine;
use priorfit::data::Preprocess;
use priorfit::error::{Error, Kind, Result};
use priorfit::posterior::{
    Entrant, Frame, OrtSettings, Output, Posterior, Provider, Race, Runtime, RuntimeChoice,
    ort_providers,
};
use priorfit::prior::Weights;
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT};
use priorfit::threads::Threads;

use crate::support::adapted::{golden, images, input_of, posterior, predicted, tasks};
use crate::support::{FORWARD, onnx_runtime, relative_error};

fn engine() -> Engine {
    Engine::cpu(Arc::new(Threads::new(2)))
}

/// The other engines of this build, and ONNX Runtime where there is one.
fn others() -> Vec<RuntimeChoice> {
    let ort = onnx_runtime::library()
        .map(|library| RuntimeChoice::Ort(OrtSettings { library, provider: None }));
    [Some(RuntimeChoice::Tract), ort].into_iter().flatten().collect()
}

/// A posterior of a golden network, without its last layers, for one of the four tasks.
fn adapted(name: &str, task: usize, draws: u64) -> Posterior {
    let task = tasks()[task].clone();
    let (model, input) = match task.is_dense() {
        true => (golden(name).cut_at_map(None).expect("a map"), Preprocess::new(3, 40, 72)),
        false => {
            let model = golden(name);
            let input = input_of(&model);
            (model, input)
        }
    };
    // Of three images the last is a batch of its own.
    posterior(model, task, input, draws).with_forward_batch(2)
}

/// The same with draws that differ in the head alone.
fn with_heads(posterior: Posterior) -> Posterior {
    let first = posterior.draws()[0].clone();
    let of_head = |name: &str| name == HEAD_WEIGHT || name == HEAD_BIAS;
    let moved = |draw: &Weights| -> Weights {
        let head = draw.iter().filter(|(name, _)| of_head(name));
        let mut moved = first.clone();
        moved.extend(head.map(|(name, weight)| (name.clone(), weight.clone())));
        moved
    };
    let draws = posterior.draws().iter().map(moved).collect();
    let model = Arc::new(posterior.backbone().clone());
    Posterior::new(posterior.description().clone(), model, draws).expect("a posterior")
}

fn agrees(what: &str, found: &[f64], expected: &[f64]) {
    let found: Vec<f32> = found.iter().map(|&x| x as f32).collect();
    let error = relative_error(&found, expected);
    assert!(error <= FORWARD, "{what} is off by {error:e}");
}

/// Batch normalisation, folded and not, tokens, maps and masks; with one draw all weights are
/// constants, with three they are inputs.
#[test]
fn every_engine_predicts_the_same_for_every_task() {
    let networks = [
        ("resnet_basic_bn", 0),
        ("mobilenetv2_legacy", 1),
        ("vit_default", 2),
        ("convnext_default", 0),
        ("resnet_basic_classifier", 3),
    ];
    for (name, task) in networks {
        for draws in [1, 3] {
            let own = adapted(name, task, draws);
            let (_, data) = images(&own.description().preprocess);
            let expected = predicted(&own, &data);
            for choice in others() {
                let runtime = own.open(&choice, engine()).expect("it opens");
                let what = format!("{name} with {draws} draws on {}", runtime.name());
                let other = adapted(name, task, draws).with_runtime(runtime);
                agrees(&what, &predicted(&other, &data), &expected);
                // And again, with what is in place by now.
                agrees(&what, &predicted(&other, &data), &expected);
            }
        }
    }
}

/// A runtime like `inner`, which is watched, errs by a share, fails, or has a fast clock.
struct Odd {
    inner: Box<dyn Runtime>,
    name: &'static str,
    seen: Arc<Seen>,
    error: f32,
    fails: bool,
    /// What a run takes back of the time that has passed, in milliseconds.
    clock: Option<(Arc<AtomicU64>, u64)>,
}

/// What a runtime was asked for.
#[derive(Default)]
struct Seen {
    features: AtomicUsize,
    logits: AtomicUsize,
    /// The most bytes of weights that it held.
    bytes: AtomicUsize,
}

impl Odd {
    fn new(inner: Box<dyn Runtime>) -> Self {
        let seen = Arc::default();
        Odd { inner, name: "odd", seen, error: 0.0, fails: false, clock: None }
    }
}

impl Runtime for Odd {
    fn name(&self) -> String {
        self.name.to_string()
    }

    fn frame(&self) -> &Frame {
        self.inner.frame()
    }

    fn frame_mut(&mut self) -> &mut Frame {
        self.inner.frame_mut()
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        self.inner.set_weights(weights)
    }

    fn run(&mut self, images: &[f32], output: Output, rows: &mut Vec<f32>) -> Result<()> {
        let passes = match output {
            Output::Features => &self.seen.features,
            Output::Logits => &self.seen.logits,
        };
        passes.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            return Err(Error::new(Kind::Device, "out of memory"));
        }
        if let Some((clock, gain)) = &self.clock {
            clock.fetch_sub(*gain, Ordering::Relaxed);
        }
        let start = rows.len();
        self.inner.run(images, output, rows)?;
        rows[start..].iter_mut().for_each(|x| *x *= 1.0 + self.error);
        self.seen.bytes.fetch_max(self.inner.weight_bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn weight_bytes(&self) -> usize {
        self.inner.weight_bytes()
    }
}

/// Draws that differ in the head alone are predicted by one pass, on every engine.
#[test]
fn features_that_draws_share_are_computed_once() {
    let own = with_heads(adapted("resnet_basic_folded", 0, 5));
    let (_, data) = images(&own.description().preprocess);
    let expected = predicted_classes(&own, &data);
    for choice in [vec![RuntimeChoice::Own], others()].concat() {
        let odd = Odd::new(own.open(&choice, engine()).expect("it opens"));
        let seen = Arc::clone(&odd.seen);
        let other = with_heads(adapted("resnet_basic_folded", 0, 5)).with_runtime(Box::new(odd));
        agrees(&format!("{choice:?}"), &predicted_classes(&other, &data), &expected);
        let passes = [&seen.features, &seen.logits].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(passes, [1, 0], "{choice:?}: passes for features and logits");
    }
}

fn predicted_classes(posterior: &Posterior, data: &priorfit::data::Dataset) -> Vec<f64> {
    let found = posterior.predict(data, engine(), &mut |_| true).expect("predictions");
    found.iter().copied().collect()
}

/// However many draws there are, an engine holds the backbone once; tract for each of two sizes of
/// batches. What only the head changes of leaves all else constant.
#[test]
fn draws_share_the_memory_of_the_backbone() {
    const NETWORK: &str = "mobilenetv2_bn";
    let weights = |posterior: &Posterior| -> usize {
        4 * posterior.draws()[0].values().map(|weight| weight.len()).sum::<usize>()
    };
    for choice in [vec![RuntimeChoice::Own], others()].concat() {
        let held = |posterior: Posterior| {
            let odd = Odd::new(posterior.open(&choice, engine()).expect("it opens"));
            let seen = Arc::clone(&odd.seen);
            let (_, data) = images(&posterior.description().preprocess);
            predicted(&posterior.with_runtime(Box::new(odd)), &data);
            seen.bytes.load(Ordering::Relaxed)
        };
        let own = weights(&adapted(NETWORK, 0, 1));
        let [two, six] = [2, 6].map(|draws| held(adapted(NETWORK, 0, draws)));
        assert_eq!(two, six, "{choice:?}: two draws and six");
        assert!(six <= own, "{choice:?}: {six} bytes for weights of {own}");
        let [two, six] = [2, 6].map(|draws| held(with_heads(adapted(NETWORK, 0, draws))));
        assert_eq!(two, six, "{choice:?}: two heads and six");
        assert!((1..=2 * own).contains(&six), "{choice:?}: {six} bytes for weights of {own}");
    }
}

/// An engine is opened for draws, and says so when it is given others.
#[test]
fn weights_of_another_posterior_are_refused() {
    let one = adapted("resnet_basic_folded", 0, 1);
    let mut other = one.draws()[0].clone();
    let name = other.keys().next().expect("a weight").clone();
    other.insert(name.clone(), other[&name].mapv(|x| x + 1.0).into_shared());
    for choice in others() {
        let mut runtime = one.open(&choice, engine()).expect("it opens");
        runtime.set_weights(&one.draws()[0]).expect("its own");
        let refused = runtime.set_weights(&other).expect_err("another's");
        assert!(refused.to_string().contains(&name), "{refused}");
    }
}

/// A race on two images, each look at whose clock takes a second.
fn race(
    posterior: Posterior,
    entrants: Vec<Entrant<'_>>,
    clock: &AtomicU64,
) -> Result<(Posterior, Race)> {
    let (_, data) = images(&posterior.description().preprocess);
    let mut now = || Duration::from_millis(clock.fetch_add(1000, Ordering::Relaxed));
    posterior.race(entrants, &data, engine(), &mut now, &mut |_| true)
}

/// tract, with so much of an error, or failing.
fn odd<'a>(error: f32, fails: bool) -> Entrant<'a> {
    Entrant::new("odd", move |posterior: &Posterior| {
        let inner = posterior.open(&RuntimeChoice::Tract, engine())?;
        Ok(Box::new(Odd { error, fails, ..Odd::new(inner) }) as Box<dyn Runtime>)
    })
}

#[test]
fn an_engine_that_disagrees_or_fails_is_reported_and_never_used() {
    let clock = AtomicU64::new(0);
    let own = || adapted("resnet_basic_folded", 0, 3);
    let closed = Entrant::new("closed", |_: &Posterior| Err(Error::unsupported("not today")));
    let all = vec![
        odd(0.1, false),
        odd(f32::NAN, false),
        odd(0.0, true),
        closed,
        Entrant::of(RuntimeChoice::Own, &engine()),
    ];
    let (chosen, race_of_all) = race(own(), all, &clock).expect("our own is left");
    assert_eq!(chosen.runtime_name(), None);
    assert!(race_of_all.engine.starts_with("own"), "{race_of_all}");
    assert_eq!((race_of_all.examples, race_of_all.draws), (2, 2));
    let reasons = ["differ by 1.0e-1", "differ by inf", "out of memory", "not today"];
    for (ran, reason) in race_of_all.entrants.iter().zip(reasons) {
        let refused = ran.refused.as_deref().expect("it is out");
        assert!(refused.contains(reason), "{}: {refused}", ran.engine);
        assert_eq!(ran.seconds, None);
    }
    // Without ours, nobody is left.
    let refused = race(own(), vec![odd(0.1, false), odd(0.0, true)], &clock).map(|_| ());
    let refused = refused.expect_err("none qualifies").to_string();
    assert!(refused.contains("differ by") && refused.contains("out of memory"), "{refused}");
}

/// Time decides among those that agree; where it does not, our own engine is kept.
#[test]
fn the_fastest_that_agrees_is_chosen() {
    let clock = Arc::new(AtomicU64::new(1 << 20));
    let own = || adapted("resnet_basic_folded", 0, 1);
    let (_, data) = images(&own().description().preprocess);
    let expected = predicted(&own(), &data);
    let entrants = |given_back: u64| {
        let clock = Some((Arc::clone(&clock), given_back));
        let fast = Entrant::new("fast", move |posterior: &Posterior| {
            let odd = Odd::new(posterior.open(&RuntimeChoice::Tract, engine())?);
            Ok(Box::new(Odd { name: "fast", clock, ..odd }) as Box<dyn Runtime>)
        });
        vec![fast, Entrant::of(RuntimeChoice::Own, &engine())]
    };
    let (chosen, ran) = race(own(), entrants(500), &clock).expect("a race");
    assert_eq!(ran.engine, "fast", "{ran}");
    assert_eq!(ran.entrants[0].seconds, Some(0.5));
    assert_eq!(ran.entrants[1].seconds, Some(1.0));
    assert!(ran.entrants[0].deviation.is_some_and(|off| off <= 1e-4), "{ran}");
    assert_eq!(chosen.runtime_name().as_deref(), Some("fast"));
    agrees("the chosen engine", &predicted(&chosen, &data), &expected);
    let (chosen, ran) = race(own(), entrants(50), &clock).expect("a race");
    assert_eq!(chosen.runtime_name(), None, "{ran}: a gain of a twentieth");
}

#[test]
fn a_race_is_worth_it_where_much_is_to_be_predicted() {
    let own = adapted("resnet_basic_folded", 0, 3);
    let (_, data) = images(&own.description().preprocess);
    assert!(!own.is_worth_a_race(&data, 2));
    let many = data.subset(&vec![0; 1000]).expect("a thousand");
    assert!(own.is_worth_a_race(&many, 2));
}

/// Where there is no ONNX Runtime to open, an error says what is missing.
#[test]
fn a_library_that_is_missing_is_an_error() {
    let own = adapted("resnet_basic_folded", 0, 1);
    let library = PathBuf::from("nowhere/libonnxruntime.so");
    let choice = RuntimeChoice::Ort(OrtSettings { library: library.clone(), provider: None });
    let refused = own.open(&choice, engine()).map(|_| ()).expect_err("no library");
    let expected = if cfg!(feature = "ort") { "there is no library" } else { "feature `ort`" };
    for refused in [refused, ort_providers(&library).expect_err("no library")] {
        let refused = refused.to_string();
        assert!(refused.contains(expected) && refused.contains("nowhere"), "{refused}");
    }
}

/// Providers are those that the library has; others are refused with the names of those.
#[test]
fn providers_are_what_the_library_has() {
    let Some(library) = onnx_runtime::library() else { return };
    let names = ort_providers(&library).expect("a library");
    assert!(names.contains(&"cpu"), "{names:?}");
    let own = adapted("resnet_basic_folded", 0, 1);
    let with = |text: &str| {
        let provider: Option<Provider> = Some(text.parse().expect("a provider"));
        let library = library.clone();
        own.open(&RuntimeChoice::Ort(OrtSettings { library, provider }), engine())
    };
    assert_eq!(with("CPU").expect("the processor").name(), "ort (cpu)");
    for (text, expected) in [
        ("cpu:a=1", "no options"),
        ("azure", "has no provider 'azure'; it has cpu"),
        ("nonsense", "it has cpu"),
    ] {
        let refused = with(text).map(|_| ()).expect_err("none such").to_string();
        assert!(refused.contains(expected), "{text}: {refused}");
    }
    // A process opens one.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("libonnxruntime.so");
    std::fs::write(&copy, "another").expect("written");
    let refused = ort_providers(&copy).expect_err("a second library").to_string();
    assert!(refused.contains("this process has opened"), "{refused}");
}
