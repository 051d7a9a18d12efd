//! Damaged files: whatever is done to a file, loading it ends soon, in little memory, without a
//! panic, in an error or in something sound.
//!
//! Damage is counted, not drawn: a failure names the file and the number that repeats it. More of
//! it: `PRIORFIT_HOSTILE=10000 cargo test --release --test it hostile`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::prior::{Foreign, ForeignSettings, Header, Parameter, Prior, Weights};
use priorfit::rng::{Key, Sequence, Stream};
use priorfit::tensor::tensor;
use prost::Message;
use tract_onnx::pb::ModelProto;

use crate::support::memory::peak_of;
use crate::support::repository;

/// Damaged copies of each file, for each kind of damage.
const ROUNDS: u64 = 1000;
/// The longest a file may take; a sound one takes a hundredth of it.
const TIME_MAX: Duration = Duration::from_secs(5);
/// The most memory a model may take: what the importer allows one tensor to ask for (2²⁸
/// elements), a few times over.
const MODEL_BYTES_MAX: usize = 4 << 30;
/// The most memory a foreign prior may take: values of a pickle that never ends.
const FOREIGN_BYTES_MAX: usize = 128 << 20;
/// The most memory a prior may take: its own few kilobytes, and a buffer to read them.
const PRIOR_BYTES_MAX: usize = 4 << 20;

fn rounds() -> u64 {
    std::env::var("PRIORFIT_HOSTILE").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Below `bound`, which is not 0.
fn below(random: &mut Sequence, bound: usize) -> usize {
    random.bits() as usize % bound
}

/// `bytes` with one to four pieces changed, cut out, doubled or cut off.
fn damaged(bytes: &[u8], round: u64) -> Vec<u8> {
    let mut random = Key::new(17, Stream::Probe).at(round);
    let mut bytes = bytes.to_vec();
    for _ in 0..=below(&mut random, 4) {
        if bytes.is_empty() {
            break;
        }
        let at = structural(&bytes, &mut random);
        let end = (at + 1 + below(&mut random, 16)).min(bytes.len());
        match below(&mut random, 16) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            3..6 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][below(&mut random, 6)],
            6..9 => {
                bytes[at] = bytes[at].wrapping_add(if random.bits() & 1 == 0 { 1 } else { 255 })
            }
            9 => bytes[at..end].fill(0xff),
            _ => bytes[at] ^= 1 << below(&mut random, 8),
        }
    }
    bytes
}

/// A position, more often than not beside text, where files keep their structure.
fn structural(bytes: &[u8], random: &mut Sequence) -> usize {
    const TRIES: usize = 32;
    let mut at = below(random, bytes.len());
    for _ in 0..TRIES {
        let near = &bytes[at..(at + 8).min(bytes.len())];
        if near.iter().filter(|byte| byte.is_ascii_lowercase() || **byte == b'_').count() >= 3 {
            // The lengths and tags that say what the text is stand before it.
            return at.saturating_sub(below(random, 16));
        }
        at = below(random, bytes.len());
    }
    at
}

/// A well-formed file that says something absurd: one to three numbers, names or ops replaced.
fn absurd(model: &ModelProto, round: u64) -> Vec<u8> {
    const NUMBERS: [i64; 12] =
        [0, 1, -1, 2, 3, 7, -2, 1 << 20, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
    let mut random = Key::new(18, Stream::Probe).at(round);
    let mut model = model.clone();
    let graph = model.graph.as_mut().expect("a graph");
    for _ in 0..=below(&mut random, 3) {
        let number = NUMBERS[below(&mut random, NUMBERS.len())];
        let nodes = graph.node.len();
        let other = graph.node[below(&mut random, nodes)].clone();
        let node = &mut graph.node[below(&mut random, nodes)];
        let initialisers = graph.initializer.len();
        let initialiser = &mut graph.initializer[below(&mut random, initialisers)];
        match below(&mut random, 8) {
            0 => node.op_type = other.op_type,
            1 => node.attribute = other.attribute,
            2 => node.input = other.input,
            3 => drop(node.input.pop()),
            4 | 5 => {
                for attribute in &mut node.attribute {
                    attribute.i = number;
                    set_any(&mut attribute.ints, &mut random, number);
                }
            }
            6 => set_any(&mut initialiser.dims, &mut random, number),
            _ => set_integer(graph, &mut random, number),
        }
    }
    model.encode_to_vec()
}

fn set_any(numbers: &mut [i64], random: &mut Sequence, number: i64) {
    if !numbers.is_empty() {
        numbers[below(random, numbers.len())] = number;
    }
}

/// Replaces one element of a constant that holds integers: a shape, an axis, an index.
fn set_integer(graph: &mut tract_onnx::pb::GraphProto, random: &mut Sequence, number: i64) {
    const INT64: i32 = 7;
    let mut integers: Vec<_> = graph
        .initializer
        .iter_mut()
        .filter(|tensor| tensor.data_type == INT64 && tensor.raw_data.len() >= 8)
        .collect();
    if integers.is_empty() {
        return;
    }
    let which = below(random, integers.len());
    let data = &mut integers[which].raw_data;
    let at = 8 * below(random, data.len() / 8);
    data[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// Whether a model came to a plan.
fn plan(bytes: &[u8], shape: &[usize]) -> priorfit::Result<usize> {
    let model = Model::from_bytes(bytes, None)?.cut_at_features(None)?;
    Ok(Plan::compile(&model.graph(shape)?)?.dispatches().len())
}

/// Whether a file loads.
type Load = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Whether `bytes` load, and the memory it took; or why a promise is broken.
fn attempt(bytes: Vec<u8>, load: &Load) -> Result<(bool, usize), &'static str> {
    let (send, receive) = mpsc::channel();
    let load = Arc::clone(load);
    // A thread of its own, so that the test can go on when it does not.
    std::thread::spawn(move || {
        let (result, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| load(&bytes))));
        // Nobody listens any more after the time is up.
        let _ = send.send((result.ok(), peak));
    });
    match receive.recv_timeout(TIME_MAX) {
        Ok((Some(loaded), peak)) => Ok((loaded, peak)),
        Ok((None, _)) => Err("panicked"),
        Err(_) => Err("takes too long"),
    }
}

/// Loads the damaged copies; fails with all that break a promise, and unless some copies are
/// refused and some are not.
fn survive(name: &str, bytes_max: usize, damage: impl Fn(u64) -> Vec<u8>, load: &Load) {
    let mut wrong = Vec::new();
    let (mut sound, rounds) = (0, rounds());
    for round in 0..rounds {
        match attempt(damage(round), load) {
            Err(broken) => wrong.push(format!("{name}, round {round}: {broken}")),
            Ok((_, peak)) if peak > bytes_max => {
                wrong.push(format!("{name}, round {round}: {peak} bytes"));
            }
            Ok((loaded, _)) => sound += u64::from(loaded),
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(0 < sound && sound < rounds, "{name}: {sound} of {rounds} damaged files were sound");
}

fn damage_model(file: &str, shape: &'static [usize]) {
    let bytes = std::fs::read(repository(&format!("models/golden/{file}"))).expect("a model");
    assert!(plan(&bytes, shape).expect("the whole file is sound") > 0);
    let load: Load = Arc::new(move |bytes| plan(bytes, shape).is_ok());
    survive(file, MODEL_BYTES_MAX, |round| damaged(&bytes, round), &load);
    let model = ModelProto::decode(&bytes[..]).expect("a sound file");
    survive(&format!("absurd {file}"), MODEL_BYTES_MAX, |round| absurd(&model, round), &load);
}

#[test]
fn a_damaged_convolutional_network_is_refused_or_sound() {
    damage_model("resnet_basic_folded.onnx", &[2, 3, 64, 64]);
}

#[test]
fn a_damaged_transformer_is_refused_or_sound() {
    damage_model("vit_default.onnx", &[2, 3, 32, 32]);
}

/// Two parameters of rank 3.
fn prior() -> Prior {
    let fill = |shape: &[usize], offset: f32| {
        let values = (0..shape.iter().product()).map(|i| offset + 0.1 * (i as f32).sin());
        tensor(shape, values.collect()).expect("a tensor of its shape")
    };
    let parameter = |name: &str, shape: &[usize]| {
        let dev = fill(&[&[3], shape].concat(), 0.0);
        Parameter::new(name, fill(shape, 0.0), fill(shape, 1.0), Some(dev))
    };
    let header = Header { rank: 3, ..Header::new("0".repeat(64), 1e-6) };
    Prior::new(header, vec![parameter("a.weight", &[4, 3, 2]), parameter("b", &[5])])
        .expect("a sound prior")
}

#[test]
fn a_damaged_prior_is_refused_or_sound() {
    let bytes = prior().to_bytes().expect("a file");
    let load: Load = Arc::new(|bytes| {
        let Ok(prior) = Prior::from_bytes(bytes) else { return false };
        let weights: Weights =
            prior.parameters().iter().map(|p| (p.name().to_string(), p.mean().clone())).collect();
        let at_mean = prior.quadratic(&weights, 1.0);
        at_mean.is_ok_and(|form| form == 0.0) || prior.capacitance_inverse(0).is_err()
    });
    assert!(load(&bytes), "the whole file is sound");
    survive("prior", PRIOR_BYTES_MAX, |round| damaged(&bytes, round), &load);
    for len in 0..bytes.len() {
        assert!(Prior::from_bytes(&bytes[..len]).is_err(), "cut off after {len} bytes");
    }
}

/// The files of a foreign prior, one of them damaged.
fn damage_foreign(files: &'static [&'static str], which: usize) {
    let read = |file: &str| {
        std::fs::read(repository(&format!("models/foreign/{file}"))).expect("a fixture")
    };
    let sound: Vec<Vec<u8>> = files.iter().map(|file| read(file)).collect();
    let model = Model::from_bytes(&read("backbone.onnx"), None).expect("a model");
    let weights: Weights = model.weights().map(|(n, w)| (n.to_string(), w.clone())).collect();
    let fingerprint = model.fingerprint();
    let bytes = sound[which].clone();
    let load: Load = Arc::new(move |damaged| {
        let mut named: Vec<(&str, &[u8])> =
            files.iter().copied().zip(sound.iter().map(Vec::as_slice)).collect();
        named[which].1 = damaged;
        let attach =
            |foreign: Foreign| foreign.attach(&weights, &fingerprint, &ForeignSettings::default());
        Foreign::from_bytes(&named).and_then(attach).is_ok()
    });
    assert!(load(&bytes), "the whole files are sound");
    survive(files[which], FOREIGN_BYTES_MAX, |round| damaged(&bytes, round), &load);
}

#[test]
fn a_damaged_foreign_prior_is_refused_or_sound() {
    const FILES: [&str; 4] =
        ["reference_model.pt", "legacy_mean.pt", "protocol4_variance.pt", "strided_covmat.pt"];
    (0..FILES.len()).for_each(|which| damage_foreign(&FILES, which));
    const LEGACY: [&str; 3] = ["legacy_model.pt", "legacy_mean.pt", "reference_variance.pt"];
    damage_foreign(&LEGACY, 0);
    damage_foreign(&["swag.pt"], 0);
}
