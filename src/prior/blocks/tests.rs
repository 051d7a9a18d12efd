use super::*;
use crate::error::Kind;
use crate::prior::tests::{F32, close, header, small, vector, weights};
use crate::prior::{VERSION_BLOCKS, Weights};
use crate::rng::{Key, Stream};
use crate::tensor::{contiguous, tensor};

/// "a": three weights, "b": two, "c": one; two directions, or of "c" in a block of its own three.
fn parts() -> Vec<Parameter> {
    let part = |name: &str, mean: &[f32], var: &[f32], rows: &[f32]| {
        let dev = tensor(&[rows.len() / mean.len(), mean.len()], rows.to_vec()).expect("rows");
        Parameter::new(name, vector(mean), vector(var), Some(dev))
    };
    vec![
        part("a", &[1.0, 0.0, -1.0], &[0.5, 1.0, 0.2], &[0.5, 1.0, -0.5, 0.2, 0.0, 0.7]),
        part("b", &[0.5, 0.5], &[0.3, 0.6], &[1.0, -0.4, 0.6, 0.3]),
        part("c", &[2.0], &[0.4], &[0.9, -0.8]),
    ]
}

fn in_blocks(blocks: Called) -> Header {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let mut header = header(2, 0.1);
    header.set_blocks(blocks.iter().map(|(c, n)| (c.to_string(), names(n))).collect());
    header
}

fn blocked() -> Prior {
    Prior::new(in_blocks(&[("x", &["a", "c"]), ("y", &["b"])]), parts()).expect("valid")
}

fn theta() -> Weights {
    weights(&[("a", &[0.4, 1.0, 0.3]), ("b", &[-0.5, 1.0]), ("c", &[1.0])])
}

/// The block of each of the six weights.
const BLOCK_OF: [usize; 6] = [0, 0, 0, 1, 1, 0];

/// The covariance of `blocked`, written out.
fn dense() -> [[f64; 6]; 6] {
    let (mut d, mut rows) = (Vec::new(), [Vec::new(), Vec::new()]);
    for part in &parts() {
        d.extend(part.var.iter().map(|&v| 0.5 * f64::from(v) + f64::from(0.1f32)));
        for (k, row) in crate::prior::density::rows(part).enumerate() {
            rows[k].extend(row.iter().map(|&q| f64::from(q) / 2f64.sqrt()));
        }
    }
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let product = if BLOCK_OF[i] == BLOCK_OF[j] {
                rows.iter().map(|row| row[i] * row[j]).sum()
            } else {
                0.0
            };
            product + if i == j { d[i] } else { 0.0 }
        })
    })
}

fn flat(weights: &Weights) -> Vec<f64> {
    weights.values().flat_map(|w| contiguous(w).to_vec()).map(f64::from).collect()
}

#[test]
fn densities_are_those_of_the_dense_covariance() {
    let (prior, theta) = (blocked(), theta());
    let factor = Cholesky::new(dense().concat(), 6).expect("definite");
    let means: Weights =
        prior.parameters().iter().map(|p| (p.name.clone(), p.mean.clone())).collect();
    let x: Vec<f64> = flat(&theta).iter().zip(flat(&means)).map(|(t, m)| t - m).collect();
    let solved = factor.solve(&x);
    let form: f64 = x.iter().zip(&solved).map(|(x, s)| x * s).sum();
    close(prior.quadratic(&theta, 1.0).expect("finite"), form, F32);
    close(prior.logdet(1.0).expect("finite"), factor.logdet(), F32);
    let log_density = -0.5 * (6.0 * std::f64::consts::TAU.ln() + factor.logdet() + form);
    close(prior.log_density_normalized(&theta, 1.0).expect("finite"), log_density, F32);
    let gradient = prior.gradient(&theta, 1.0).expect("finite");
    for (found, expected) in flat(&gradient).iter().zip(&solved) {
        close(*found, *expected, F32);
    }
    // What is dropped counts: the same parts without blocks are another Gaussian.
    let whole = Prior::new(header(2, 0.1), parts()).expect("valid");
    let distance = whole.quadratic(&theta, 1.0).expect("finite") - form;
    assert!(distance.abs() > 0.1, "{distance}");
}

/// T19 with blocks.
#[test]
fn draws_have_the_blocks_covariance() {
    const DRAWS: u64 = 20_000;
    let (prior, key, dense) = (blocked(), Key::new(12, Stream::Draw), dense());
    let mean: Vec<f64> = vec![1.0, 0.0, -1.0, 0.5, 0.5, 2.0];
    let mut found = [[0.0; 6]; 6];
    for draw in 0..DRAWS {
        let x = flat(&prior.sample(&key, draw, 1.0).expect("a draw"));
        for i in 0..6 {
            for j in 0..6 {
                found[i][j] += (x[i] - mean[i]) * (x[j] - mean[j]) / DRAWS as f64;
            }
        }
    }
    for i in 0..6 {
        for j in 0..6 {
            // Five standard errors; Var[xy] is at most 2 Var[x] Var[y].
            let bound = 5.0 * (2.0 * dense[i][i] * dense[j][j] / DRAWS as f64).sqrt();
            let error = (found[i][j] - dense[i][j]).abs();
            assert!(error < bound, "{i}, {j}: {} is not {}", found[i][j], dense[i][j]);
        }
    }
}

#[test]
fn one_block_is_the_prior_without_blocks_bit_for_bit() {
    let (one, whole) = (in_blocks(&[("all", &["a", "b", "c"])]), header(2, 0.1));
    let [one, whole] = [one, whole].map(|header| Prior::new(header, parts()).expect("valid"));
    let (theta, key) = (theta(), Key::new(3, Stream::Draw));
    let numbers = |prior: &Prior| {
        let quadratic = prior.quadratic(&theta, 2.0).expect("finite");
        (quadratic.to_bits(), prior.logdet(2.0).expect("finite").to_bits())
    };
    assert_eq!(numbers(&one), numbers(&whole));
    let gradient = |prior: &Prior| prior.gradient(&theta, 2.0).expect("finite");
    assert_eq!(gradient(&one), gradient(&whole));
    let sample = |prior: &Prior| prior.sample(&key, 4, 2.0).expect("a draw");
    assert_eq!(sample(&one), sample(&whole));
    let inverse = |prior: &Prior| prior.capacitance_inverse(0).expect("definite");
    assert_eq!(inverse(&one), inverse(&whole));
}

#[test]
fn files_of_blocks_have_their_own_version_and_come_back_as_they_were() {
    let bytes = blocked().to_bytes().expect("fits");
    let back = Prior::from_bytes(&bytes).expect("a prior");
    assert_eq!((back.header().version, back.blocks()), (VERSION_BLOCKS, 2));
    assert_eq!(back.to_bytes().expect("fits"), bytes);
    // Files of priors without blocks are those of version 1, byte for byte.
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let plain = text(small().to_bytes().expect("fits"));
    assert!(plain.contains("\\\"version\\\":1") && !plain.contains("blocks"), "{plain}");
    assert!(text(bytes).contains("\\\"version\\\":2"));
}

/// Blocks by what they are called.
type Called<'a> = &'a [(&'a str, &'a [&'a str])];

#[test]
fn impossible_blocks_are_refused_by_name() {
    let cases: [(Called, &str); 5] = [
        (&[("x", &["a", "c"]), ("y", &["d"])], "block 'y' names 'd', no parameter"),
        (&[("x", &["a", "c"]), ("y", &["b", "a"])], "parameter 'a' is in two blocks"),
        (&[("x", &["a"]), ("y", &["b"])], "parameter 'c' is in no block"),
        (&[("x", &["a", "b", "c"]), ("y", &[])], "block 'y' has no parameter"),
        (&[], "a prior of version 2 has 0 blocks"),
    ];
    for (blocks, expected) in cases {
        let mut header = in_blocks(blocks);
        header.version = VERSION_BLOCKS;
        let error = Prior::new(header, parts()).expect_err(expected);
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let error = Prior::new(Header { rank: 3, ..in_blocks(&[("x", &["a", "b", "c"])]) }, parts());
    let error = error.expect_err("two rows").to_string();
    assert!(error.starts_with("the deviations have 2 rows at most; expected rank 3"), "{error}");
    let error = blocked().block_diagonal(Grouping::Layer).expect_err("again").to_string();
    assert!(error.starts_with("the prior has blocks already"), "{error}");
    assert!(blocked().capacitance_inverse(2).is_err());
}

/// A block keeps the directions that its own variance asks for, and every weight its variance.
#[test]
fn each_block_is_compressed_by_what_it_explains() {
    let mut normals = Key::new(8, Stream::Probe).at(0);
    let mut normal = || normals.normal();
    let (rank, len) = (6, 40);
    // "flat" varies along all directions alike, "thin" along one.
    let axis: Vec<f32> = (0..len).map(|_| normal()).collect();
    let flat: Vec<f32> = (0..rank * len).map(|_| normal()).collect();
    let mut thin = Vec::new();
    for _ in 0..rank {
        let along = normal();
        thin.extend(axis.iter().map(|a| along * a + 0.001 * normal()));
    }
    let part = |name: &str, rows: &[f32]| {
        let dev = tensor(&[rank, len], rows.to_vec()).expect("rows");
        Parameter::new(name, vector(&vec![0.0; len]), vector(&vec![0.5; len]), Some(dev))
    };
    let mut header = header(rank, 1e-3);
    let own = |name: &str| (name.to_string(), vec![name.to_string()]);
    header.set_blocks(["flat", "thin"].map(own).into());
    let prior = Prior::new(header, vec![part("flat", &flat), part("thin", &thin)]).expect("valid");
    let few = prior.compress(0.95).expect("a prior");
    let ranks = ["flat", "thin"].map(|name| few.rank_of(name).expect("known"));
    assert_eq!((ranks[1], few.rank()), (2, ranks[0]));
    assert!(ranks[0] > 3, "{ranks:?}");
    let notes = &few.header().notes;
    assert!(
        notes.starts_with(&format!("2 to {} of 6 principal directions, ", ranks[0])),
        "{notes}"
    );
    let again = Prior::from_bytes(&few.to_bytes().expect("fits")).expect("ranks that differ");
    assert_eq!(again.rank_of("thin").expect("known"), 2);
    let [a, b] = [&few, &prior].map(|prior| prior.diagonal().expect("a prior"));
    assert!(a.header().blocks.is_empty());
    for (a, b) in a.parameters().iter().zip(b.parameters()) {
        for (&a, &b) in a.var().iter().zip(b.var()) {
            close(f64::from(a), f64::from(b), 10.0 * F32);
        }
    }
    // The marginal of one block has that block's rank alone.
    let thin = again.restrict(["thin"]).expect("known");
    assert_eq!((thin.rank(), thin.blocks()), (2, 1));
}

#[test]
fn names_make_blocks_and_small_tensors_join_their_like() {
    let resnet = [
        ("bn1.weight", 16),
        ("conv1.weight", 432),
        ("layer1.0.bn1.bias", 16),
        ("layer1.0.bn1.weight", 16),
        ("layer1.0.conv1.weight", 2304),
        ("layer1.0.conv2.weight", 2304),
        ("layer2.0.bn1.weight", 2000),
        ("layer2.0.conv1.weight", 9216),
    ];
    let called = |grouping: Grouping| -> Vec<String> {
        let blocks = grouping.blocks(&resnet, 5);
        let names: usize = blocks.values().map(Vec::len).sum();
        assert_eq!(names, resnet.len(), "{grouping:?} gives every parameter one block");
        blocks.into_keys().collect()
    };
    assert_eq!(called(Grouping::Whole), ["*"]);
    assert_eq!(called(Grouping::Stage), ["*", "layer1.0", "layer2.0"]);
    let layers = ["*", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.bn1", "layer2.0.conv1"];
    assert_eq!(called(Grouping::Layer), layers);
    assert_eq!(
        called(Grouping::Tensor),
        layers.map(|name| match name {
            "*" => name.to_string(),
            layer => format!("{layer}.weight"),
        })
    );
    let names: Vec<String> = (0..3000).map(|i| format!("part{}.{i}.weight", i % 7)).collect();
    let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 5000)).collect();
    // Of rank 512, 16 capacitance matrices are as many as are accepted.
    for (rank, most) in [(5, MAX_BLOCKS), (512, 16), (MAX_RANK, 4)] {
        let blocks = Grouping::Tensor.blocks(&many, rank).len();
        assert!((1..=most).contains(&blocks), "{blocks} of rank {rank}");
    }
}
