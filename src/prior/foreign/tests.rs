use super::names::pair;
use super::pickle::{Pickle, Value};
use super::*;
use crate::error::Kind;
use crate::prior::tests::BACKBONE;
use crate::rng::{Key, Stream};

/// A pickle's beginning and end around `body`.
fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn number(number: i64) -> Vec<u8> {
    [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
}

fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), parts.concat(), b"t".to_vec()].concat()
}

/// The instructions that make a tensor in storage 0, which has `stored` elements.
fn rebuilt(stored: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let numbers = |n: &[i64]| tuple(&n.iter().map(|&n| number(n)).collect::<Vec<_>>());
    let float = b"ctorch\nFloatStorage\n".to_vec();
    let id = [text("storage"), float, text("0"), text("cpu"), number(stored)];
    let storage = [tuple(&id), b"Q".to_vec()].concat();
    let parts = [storage, number(offset), numbers(shape), numbers(strides), b"\x89N".to_vec()];
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), tuple(&parts), b"R".to_vec()].concat()
}

/// A file of the older format with an object and the elements of storage 0.
fn file(object: &[u8], elements: &[f32]) -> Vec<u8> {
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let heads = [pickle(magic), pickle(&number(1001)), pickle(b"}"), pickle(object)];
    let keys = pickle(&[b"]".to_vec(), text("0"), b"a".to_vec()].concat());
    let mut bytes = [heads.concat(), keys].concat();
    bytes.extend((elements.len() as i64).to_le_bytes());
    elements.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    bytes
}

/// A file that holds one tensor.
fn tensor_file(shape: &[i64], elements: &[f32]) -> Vec<u8> {
    let strides: Vec<i64> =
        (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
    file(&rebuilt(elements.len() as i64, 0, shape, &strides), elements)
}

/// A state dict with one weight `w`.
fn model_file(elements: &[f32]) -> Vec<u8> {
    let len = elements.len() as i64;
    let entry = [text("w"), rebuilt(len, 0, &[len], &[1]), b"s".to_vec()];
    file(&[b"}".to_vec(), entry.concat()].concat(), elements)
}

/// The elements of a file with one tensor.
fn read_tensor(bytes: &[u8]) -> Result<Vec<f64>> {
    let mut torch = TorchFile::open(Box::new(Cursor::new(bytes)))?;
    let Content::Tensor(tensor) = Content::of(torch.pickle())? else {
        return Err(Error::malformed("no tensor"));
    };
    let mut elements = Vec::new();
    torch.read(&tensor, |x| elements.push(x))?;
    Ok(elements)
}

fn refusal<T>(result: Result<T>, says: &str) {
    let error = result.err().unwrap_or_else(|| panic!("expected '{says}'"));
    assert!(error.to_string().contains(says), "'{says}' is not in: {error}");
}

#[test]
fn names_that_could_do_harm_are_refused_by_name() {
    let call = |global: &str| {
        let (module, name) = global.rsplit_once('.').expect("a module");
        let argument = tuple(&[text("echo harm")]);
        let new = [text(module), text(name), b"\x93".to_vec(), argument.clone(), b"R".to_vec()];
        let old = [format!("c{module}\n{name}\n").into_bytes(), argument, b"R".to_vec()];
        [pickle(&old.concat()), pickle(&new.concat())]
    };
    let harmful = [
        "os.system",
        "builtins.eval",
        "posix.system",
        "torch.load",
        "torch._utils._rebuild_tensor",
    ];
    for global in harmful {
        for bytes in call(global) {
            refusal(Pickle::run(&bytes), &format!("the name {global} is not allowed"));
        }
    }
    let kind = Pickle::run(&call("os.system")[0]).expect_err("refused").kind();
    assert_eq!(kind, Kind::Unsupported);
}

#[test]
fn opcodes_that_torch_does_not_write_are_refused_by_number() {
    let known = b"\x80\x95.N\x88\x89GKMJ\x8aU\x8cTXqr\x94hj}])(t\x85\x86\x87aesuc\x93QRb";
    for op in (0..=255u8).filter(|op| !known.contains(op)) {
        refusal(Pickle::run(&[0x80, 2, op]), &format!("opcode {op:#04x}"));
    }
    refusal(Pickle::run(b"\x80\x02(ios\nsystem\n."), "opcode 0x69 (INST) is not allowed");
    refusal(Pickle::run(b"\x80\x06."), "protocol 6 of pickle; expected 5 at most");
}

#[test]
fn programs_that_make_no_sense_are_refused() {
    let cases: [(&[u8], &str); 14] = [
        (b"", "cut short"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x02.", "its stack is empty"),
        (b"\x80\x02(.", "its stack is empty"),
        (b"\x80\x02N(\x85.", "its stack is empty"),
        (b"\x80\x02t.", "its stack is empty"),
        (b"\x80\x02h\x00.", "it reads place 0 of its memo, which is empty"),
        (b"\x80\x02NNa.", "it appends to what is no list"),
        (b"\x80\x02NNNs.", "it sets an entry of what is no dict"),
        (b"\x80\x02}(Nu.", "a key without a value"),
        (b"\x80\x02NQ.", "a persistent id that does not say"),
        (b"\x80\x02NNR.", "it calls what is no known name"),
        (b"\x80\x02NNb.", "it sets attributes of what is no dict"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "cut short"),
    ];
    for (bytes, says) in cases {
        refusal(Pickle::run(bytes), says);
    }
    refusal(Pickle::run(&pickle(b"ctorch._utils\n_rebuild_tensor_v2\n)R")), "unknown arguments of");
    refusal(Pickle::run(&pickle(b"ctorch\nFloatStorage\n)R")), "unknown arguments of torch.");
    refusal(Pickle::run(b"\x80\x02cnever ends"), "a name without an end");
    refusal(Pickle::run(&pickle(&[b'('; 2000])), "marks are open at once");
    refusal(Pickle::run(&pickle(&[b'N'; 1 << 19])), "it holds over 262144 values");
    let fetches = [b"Nq\x00".to_vec(), b"h\x00".repeat(1 << 20)].concat();
    refusal(Pickle::run(&pickle(&fetches)), "its stack overflows");
}

/// What makes a machine that builds trees recurse for ever, or fill the memory.
#[test]
fn bombs_cost_what_their_bytes_cost() {
    let nested = [vec![b']'; 100_000], vec![b'a'; 99_999]].concat();
    let itself = b"]q\x00h\x00a".to_vec();
    // Each tuple holds the one before twice: 2^200 leaves.
    let doubled = [b"Nq\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(200)].concat();
    // A dict with a dict that holds both.
    let circle = [b"}q\x00".to_vec(), text("a"), b"}q\x01".to_vec(), text("b"), b"h\x00s".to_vec()];
    let circle = [circle.concat(), text("c"), b"h\x01ss".to_vec()].concat();
    for body in [nested, itself, doubled, circle] {
        let (pickle, len) = Pickle::run(&pickle(&body)).expect("no harm in it");
        assert_eq!(len, body.len() + 3);
        refusal(Content::of(&pickle), "it holds no tensor");
    }
}

/// What would be copied by each of many short instructions.
#[test]
fn large_values_are_not_copied() {
    let id = |key: &str| {
        let float = b"ctorch\nFloatStorage\n".to_vec();
        let parts = [text("storage"), float, text(key), text("cpu"), number(1)];
        pickle(&[tuple(&parts), b"Q".to_vec()].concat())
    };
    Pickle::run(&id(&"1".repeat(64))).expect("a name");
    refusal(Pickle::run(&id(&"1".repeat(65))), "a persistent id that does not say");
    for global in ["collections\nOrderedDict", "torch\nSize"] {
        let list = [b"(".to_vec(), b"N".repeat(9), b"t".to_vec()].concat();
        let call = [format!("c{global}\n").into_bytes(), list, b"\x85R".to_vec()].concat();
        let says = format!("unknown arguments of {}", global.replace('\n', "."));
        refusal(Pickle::run(&pickle(&call)), &says);
    }
}

#[test]
fn integers_keep_their_sign() {
    for (body, expected) in [
        (&b"K\xff"[..], 255),
        (b"M\xff\xff", 65535),
        (b"J\xff\xff\xff\xff", -1),
        (b"\x8a\x00", 0),
        (b"\x8a\x01\xff", -1),
        (b"\x8a\x02\xff\x00", 255),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01", 1 << 64),
    ] {
        let (pickle, _) = Pickle::run(&pickle(body)).expect("a number");
        let Value::Int(number) = pickle.get(pickle.root()) else { panic!("no number") };
        assert_eq!(*number, expected);
    }
    refusal(Pickle::run(&pickle(&[b"\x8a\x11", &[0; 17][..]].concat())), "an integer of 17 bytes");
}

#[test]
fn tensors_are_read_along_their_strides() {
    let elements: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let read = |offset, shape: &[i64], strides: &[i64]| {
        read_tensor(&file(&rebuilt(12, offset, shape, strides), &elements)).expect("inside")
    };
    assert_eq!(read(0, &[12], &[1]), (0..12).map(f64::from).collect::<Vec<_>>());
    assert_eq!(read(1, &[2, 3], &[4, 1]), [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]);
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(read(11, &[], &[]), [11.0]);
    assert!(read(99, &[0, 4], &[4, 1]).is_empty());
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    let reach = |stored, offset, shape: &[i64], strides: &[i64]| {
        read_tensor(&file(&rebuilt(stored, offset, shape, strides), &[0.0; 4]))
    };
    refusal(reach(4, 1, &[4], &[1]), "does not fit its storage of 4 elements");
    refusal(reach(4, 0, &[2, 2], &[3, 1]), "does not fit its storage");
    // One element, a million times.
    refusal(reach(4, 0, &[1 << 20], &[0]), "does not fit its storage");
    refusal(reach(4, 0, &[1 << 40, 1 << 40], &[1, 1]), "too many elements");
    refusal(reach(4, i64::MAX, &[2], &[i64::MAX]), "does not fit its storage");
    // A storage of another length than the file's.
    refusal(reach(1 << 50, 0, &[1 << 50], &[1]), "tensors claim far more elements");
    refusal(reach(8, 0, &[4], &[1]), "the file does not hold '0'");
    refusal(reach(-1, 0, &[4], &[1]), "a persistent id that does not say");
    refusal(reach(4, 0, &[1; 9], &[1; 9]), "unknown arguments of torch._utils._rebuild_tensor_v2");
}

#[test]
fn files_of_big_endian_machines_are_refused() {
    let bytes = tensor_file(&[1], &[1.0]);
    let place = bytes.windows(4).position(|w| w == b"\x80\x02}.").expect("the machine") + 3;
    for (order, sound) in [(0x88, true), (0x89, false)] {
        let fact = [text("little_endian"), vec![order], b"s".to_vec()].concat();
        let bytes = [&bytes[..place], &fact, &bytes[place..]].concat();
        match sound {
            true => assert_eq!(read_tensor(&bytes).expect("sound"), [1.0]),
            false => refusal(read_tensor(&bytes), "its numbers are big-endian"),
        }
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let bytes = tensor_file(&[3], &[1.0, 2.0, 3.0]);
    assert_eq!(read_tensor(&bytes).expect("whole"), [1.0, 2.0, 3.0]);
    for len in 0..bytes.len() {
        read_tensor(&bytes[..len]).expect_err("cut short");
    }
}

/// Files of `count` weights with these deviations, all of variance `var`.
fn reference(rows: &[Vec<f32>], var: &[f32]) -> Result<Foreign> {
    let mean: Vec<f32> = (0..var.len()).map(|i| 1.0 + i as f32).collect();
    let shape = [rows.len() as i64, var.len() as i64];
    Foreign::from_bytes(&[
        ("x_covmat.pt", &tensor_file(&shape, &rows.concat())),
        ("x_mean.pt", &tensor_file(&shape[1..], &mean)),
        ("x_model.pt", &model_file(&mean)),
        ("x_variance.pt", &tensor_file(&shape[1..], var)),
    ])
}

fn attach(foreign: Foreign, scaling: Option<Scaling>) -> Result<(Prior, ForeignReport)> {
    let mean: Vec<f32> = foreign.moments.parts[0].mean.clone();
    let weights = Weights::from([("w".to_string(), tensor(&[mean.len()], mean)?)]);
    foreign.attach(&weights, BACKBONE, &ForeignSettings { scaling, ..ForeignSettings::default() })
}

/// The last `kept` deviations from the running mean of `taken` independent snapshots of 400
/// weights, and the variances, as a SWAG run leaves them.
fn swag_run(taken: usize, kept: usize) -> (Vec<Vec<f32>>, Vec<f32>) {
    const WEIGHTS: usize = 400;
    let (mut rows, mut mean, mut m2) = (Vec::new(), vec![0.0; WEIGHTS], vec![0.0; WEIGHTS]);
    for t in 0..taken {
        let mut random = Key::new(3, Stream::Probe).at(t as u64);
        let mut row = Vec::new();
        for i in 0..WEIGHTS {
            let w = f64::from(random.normal()) * 0.01 * (1 + i % 3) as f64;
            let before = w - mean[i];
            mean[i] += before / (t + 1) as f64;
            m2[i] += before * (w - mean[i]);
            row.push((w - mean[i]) as f32);
        }
        rows.push(row);
    }
    (rows.split_off(taken - kept), m2.into_iter().map(|m2| (m2 / taken as f64) as f32).collect())
}

/// T20: the scaling is told from the numbers alone, and both give the same prior.
#[test]
fn raw_and_normalised_deviations_are_told_apart() {
    for kept in [5, 10, 20] {
        for taken in [kept, 3 * kept] {
            let (rows, var) = swag_run(taken, kept);
            let scale = ((kept - 1) as f32).sqrt().recip();
            let scaled: Vec<Vec<f32>> =
                rows.iter().map(|row| row.iter().map(|q| q * scale).collect()).collect();
            let import = |rows| attach(reference(rows, &var).expect("sound"), None).expect("clear");
            let (raw, raw_report) = import(&rows);
            let (normalised, normalised_report) = import(&scaled);
            let scaling = |report: &ForeignReport| report.deviations.clone().expect("some").scaling;
            assert_eq!(scaling(&raw_report), Scaling::Raw, "{kept} of {taken}");
            assert_eq!(scaling(&normalised_report), Scaling::Normalised, "{kept} of {taken}");
            let zero = usize::from(kept == taken);
            assert_eq!(raw_report.deviations.expect("some").zero, zero);
            assert_eq!((raw.rank(), normalised.rank()), (kept - zero, kept - zero));
            let logdets = [&raw, &normalised].map(|prior| prior.logdet(1.0).expect("positive"));
            assert!((logdets[0] - logdets[1]).abs() < 1e-3, "{logdets:?}");
            let told = attach(reference(&rows, &var).expect("sound"), Some(Scaling::Normalised));
            assert!(told.expect("as told").0.logdet(1.0).expect("positive") > logdets[0] + 1.0);
        }
    }
}

/// A matrix without columns has as many rows as it likes.
#[test]
fn more_rows_than_a_prior_can_have_are_refused() {
    let says = "there are 4611686018427387904 deviations; expected 1024 at most";
    refusal(deviations::settle(&mut [], 1 << 62, None), says);
}

#[test]
fn a_scaling_that_does_not_show_is_asked_for() {
    let (rows, var) = swag_run(5, 5);
    for factor in [0.5, 0.1, 4.0] {
        let rows: Vec<Vec<f32>> =
            rows.iter().map(|row| row.iter().map(|q| q * factor).collect()).collect();
        let foreign = || reference(&rows, &var).expect("sound");
        let unclear = attach(foreign(), None);
        let clear = factor == 0.5;
        assert_eq!(unclear.is_ok(), clear, "half of raw is what normalised is, of five");
        if !clear {
            refusal(unclear, "does not show: their squares over the variances are");
        }
        attach(foreign(), Some(Scaling::Raw)).expect("told");
    }
    // Every variance is the reference's least one.
    let clamped = attach(reference(&rows, &[1e-6; 400]).expect("sound"), None);
    refusal(clamped, "are no variance to compare with; expected 3.396 if raw, 0.849");
}

/// QᵀQ/(K-1) does not change when rows of zero are dropped.
#[test]
fn zero_rows_are_dropped_without_changing_the_covariance() {
    let rows = [vec![0.0; 2], vec![0.5, 1.0], vec![1.0, 0.0], vec![1.5, 2.25]];
    let covariance = |prior: &Prior| {
        let dev = prior.parameters()[0].dev().expect("low rank").clone();
        let column = |j: usize| dev.iter().skip(j).step_by(2).map(|&q| f64::from(q)).collect();
        let (a, b): (Vec<f64>, Vec<f64>) = (column(0), column(1));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        [dot(&a, &a), dot(&a, &b), dot(&b, &b)].map(|x| x / (prior.rank() as f64 - 1.0))
    };
    let import = |rows: &[Vec<f32>]| {
        attach(reference(rows, &[1.25, 2.1875]).expect("sound"), Some(Scaling::Raw))
    };
    // T12 of the snapshots (0,0), (1,2), (2,1), (3,4).
    let expected = [1.1666667, 1.2916667, 2.0208333];
    let zero = vec![vec![0.0; 2]; 2];
    let cases = [(rows.to_vec(), 3, 1.0), ([rows[1..].to_vec(), zero].concat(), 3, 3.0 / 4.0)];
    for (rows, rank, factor) in cases {
        let (prior, report) = import(&rows).expect("sound");
        assert_eq!((prior.rank(), report.rank), (rank, rank));
        for (found, expected) in covariance(&prior).into_iter().zip(expected) {
            assert!((found - factor * expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }
    let (two, _) = import(&rows[..2]).expect("sound");
    assert_eq!((two.rank(), covariance(&two)), (2, [0.25, 0.5, 1.0]));
    let (none, report) = import(&vec![vec![0.0; 2]; 3]).expect("diagonal");
    assert_eq!((none.rank(), report.notes.len()), (0, 1));
    refusal(import(&rows[1..2]), "there is one deviation, which has no covariance");
}

#[test]
fn files_of_several_networks_are_refused() {
    let vector = |len: usize| tensor_file(&[len as i64], &vec![1.0; len]);
    let (three, four) = (vector(3), vector(4));
    let (model, matrix) = (model_file(&[1.0; 3]), tensor_file(&[2, 4], &[1.0; 8]));
    type Named<'a> = (&'a str, &'a [u8]);
    let cases: [(&[Named], &str); 9] = [
        (&[], "no file is called *_model.pt; expected *_model.pt, *_mean.pt"),
        (&[("model.pt", &model)], "no file is called *_mean.pt"),
        (&[("model.pt", &model), ("mean.pt", &three)], "no file is called *_variance.pt"),
        (
            &[("model.pt", &model), ("mean.pt", &four), ("variance.pt", &four)],
            "mean.pt: it has 4 numbers, the model 3 weights; use the four files of one prior",
        ),
        (
            &[("model.pt", &model), ("mean.pt", &three), ("variance.pt", &four)],
            "variance.pt: its tensor has shape [4]; expected [3]",
        ),
        (
            &[
                ("model.pt", &model),
                ("mean.pt", &three),
                ("variance.pt", &three),
                ("covmat.pt", &matrix),
            ],
            "covmat.pt: its tensor has shape [2,4]; expected [K,3]",
        ),
        (
            &[("model.pt", &three), ("mean.pt", &three), ("variance.pt", &three)],
            "model.pt: it holds one tensor; expected a state dict",
        ),
        (&[("a_mean.pt", &three), ("b_mean.pt", &three)], "no file is called *_model.pt"),
        (
            &[("model.pt", &model), ("a_mean.pt", &three), ("b_mean.pt", &three)],
            "both a_mean.pt and b_mean.pt end in 'mean'",
        ),
    ];
    for (files, says) in cases {
        refusal(Foreign::from_bytes(files), says);
    }
    let other: &[(&str, &[u8])] =
        &[("model.pt", &model), ("mean.pt", &three), ("variance.pt", &three), ("x.pt", &three)];
    refusal(Foreign::from_bytes(other), "x.pt is none of the files of a prior");
    refusal(Foreign::from_bytes(&[("x.pt", b"PK\x03\x04")]), "x.pt: not a readable archive");
    refusal(Foreign::from_bytes(&[("x.pt", b"\x93NUMPY")]), "x.pt: not a file of torch.save");
}

fn part(name: &str, shape: &[usize], mean: &[f32]) -> Part {
    let (mean, shape) = (mean.to_vec(), Shape::from(shape));
    Part { name: name.into(), shape, model: None, var: mean.clone(), dev: mean.clone(), mean }
}

fn weights(entries: &[(&str, &[usize], &[f32])]) -> Weights {
    let one = |&(name, shape, values): &(&str, &[usize], &[f32])| {
        (name.to_string(), tensor(shape, values.to_vec()).expect("of its shape"))
    };
    entries.iter().map(one).collect()
}

#[test]
fn weights_find_their_parts_by_name_or_by_value() {
    let matrix = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let turned = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
    let parts = [
        part("module.a.weight", &[2, 3], &matrix),
        part("module.a.bias", &[2], &[7.0, 8.0]),
        part("module.b.weight", &[2, 3], &[9.0; 6]),
        part("module.b.bias", &[2], &[7.5, 8.5]),
    ];
    let backbone = weights(&[
        ("a.bias", &[2], &[7.0, 8.1]),
        ("b.weight", &[2, 3], &[9.1; 6]),
        ("onnx::MatMul_7", &[3, 2], &turned),
    ]);
    let pairs = pair(&parts, &backbone).expect("all are there");
    let found: Vec<_> = pairs.iter().map(|p| (p.name, p.part, p.by_value, p.transposed)).collect();
    let expected = [
        ("a.bias", 1, false, false),
        ("b.weight", 2, false, false),
        ("onnx::MatMul_7", 0, true, true),
    ];
    assert_eq!(found, expected);
    let mut parts = parts;
    let parameter = parameter(&mut parts[0], &pairs[2], 1).expect("a matrix");
    assert_eq!(parameter.mean().iter().copied().collect::<Vec<_>>(), turned);
    assert_eq!(parameter.dev().expect("one row").shape(), [1, 3, 2]);
    // The other way round: the backbone has the prefix.
    let wrapped = weights(&[("net.module.a.bias", &[2], &[0.0; 2])]);
    assert_eq!(pair(&parts, &wrapped).expect("by name")[0].part, 1);
}

#[test]
fn weights_without_a_part_are_listed_with_what_is_left() {
    let parts = [part("a.weight", &[2], &[1.0, 2.0]), part("bn.weight", &[2], &[3.0, 4.0])];
    let backbone = weights(&[
        ("a.weight", &[2], &[1.0, 2.0]),
        ("a.weight_bias", &[2], &[0.5, 0.5]),
        ("bn.weight", &[3], &[0.0; 3]),
    ]);
    let error = pair(&parts, &backbone).expect_err("folded").to_string();
    let expected = "2 of the backbone's 3 weights are not in the files: 'a.weight_bias' [2], \
                    'bn.weight' [3]; 1 of theirs are left over: 'bn.weight' [2]; use the network";
    assert!(error.starts_with(expected), "{error}");
    // Equal values in two places tell nothing.
    let twins = [part("x", &[2], &[1.0, 1.0]), part("y", &[2], &[1.0, 1.0])];
    refusal(pair(&twins, &weights(&[("val_1", &[2], &[1.0, 1.0])])), "1 of the backbone's 1");
}

#[test]
fn a_gap_among_the_matched_is_told_and_a_head_is_not() {
    let parts = ["a", "b", "head"].map(|name| part(name, &[2], &[1.0, 2.0]));
    let note = |names: &[&str]| {
        let entries: Vec<_> = names.iter().map(|&name| (name, &[2][..], &[1.0, 2.0][..])).collect();
        let weights = weights(&entries);
        gap_note(&parts, &pair(&parts, &weights).expect("by name"))
    };
    assert_eq!(note(&["a", "b"]), None);
    let gap = note(&["b"]).expect("a gap");
    assert!(gap.starts_with("1 parameters in the midst of the files") && gap.contains("'a'"));
}

#[test]
fn weights_far_from_the_mean_are_of_another_network() {
    let far = |mean: &[f32], model: &[f32], backbone: &[f32]| {
        let mut part = part("w", &[2, 2], mean);
        part.model = Some(model.to_vec());
        let moments = Moments { parts: vec![part], ..Moments::default() };
        let foreign = Foreign { layout: Layout::Reference, moments };
        let weights = weights(&[("w", &[2, 2], backbone)]);
        foreign.attach(&weights, BACKBONE, &ForeignSettings::default())
    };
    let (mean, other) = ([1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 2.0, 0.0]);
    let (_, report) = far(&mean, &mean, &mean).expect("the same");
    assert_eq!((report.model_distance, report.backbone_distance), (Some(0.0), 0.0));
    refusal(far(&mean, &other, &mean), "the model's weights are not those the mean is of");
    refusal(far(&mean, &mean, &other), "the backbone's weights are not those the prior is of");
    refusal(far(&mean, &mean, &other), "relative distance is 0.949; expected 0.5 at most");
    refusal(far(&[0.0; 4], &mean, &mean), "relative distance is inf");
    refusal(far(&[f32::NAN; 4], &mean, &mean), "relative distance is NaN");
}
