//! Sums over all elements of a parameter: as good as those of double precision, on every backend.

use std::sync::Arc;

use priorfit::Result;
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::graph::{
    Graph, Hyper, Leaf, LeafKind, Method, PriorTerm, Reduction, Update, ValueId,
};
use priorfit::plan::Plan;
use priorfit::tensor::Shape;
use priorfit::threads::Threads;

use crate::support::gpu::on_gpu;
use crate::support::normal;

/// Largest relative error of the penalty's sums at a million elements and twenty columns.
const PRECISION: f64 = 1e-5;
const LEN: usize = 1_000_000;
const RANK: usize = 20;
/// Elements whose sums a backend rounds to single precision before it adds them up.
const BLOCK: usize = 4096;
/// A term that all others of its block vanish beside.
const HUGE: f32 = 67_108_864.0;

/// x, d⁻¹ and W of a parameter.
struct Weights {
    x: Vec<f32>,
    precision: Vec<f32>,
    factor: Vec<f32>,
}

impl Weights {
    fn ordinary() -> Self {
        let noise = |lane: u64, len: usize| normal(&[len].into(), lane);
        Weights {
            x: noise(0, LEN),
            precision: noise(1, LEN).iter().map(|d| 0.1 + d.abs()).collect(),
            factor: noise(2, RANK * LEN),
        }
    }

    /// Squares from 2^-20 to 2^20, and in every block a huge term of each sign among the small ones
    /// of each column. All products are numbers of single precision.
    fn adversarial() -> Self {
        let x: Vec<f32> = (0..LEN).map(|i| 2f32.powi((i % 21) as i32 - 10)).collect();
        let mut factor: Vec<f32> = normal(&[RANK * LEN].into(), 2);
        for (column, elements) in factor.chunks_exact_mut(LEN).enumerate() {
            for (element, x) in elements.iter_mut().zip(&x) {
                *element = (1.0 + element.abs()) / x;
            }
            for block in elements.chunks_exact_mut(BLOCK).enumerate() {
                let (number, block) = block;
                let [plus, minus] =
                    [column + 17, 3000 - column].map(|at| (at, number * BLOCK + at));
                block[plus.0] = HUGE / x[plus.1];
                block[minus.0] = -HUGE / x[minus.1];
            }
        }
        Weights { x, precision: vec![1.0; LEN], factor }
    }

    /// Wᵀd⁻¹x and xᵀd⁻¹x.
    fn expected(&self) -> Vec<f64> {
        let scaled: Vec<f64> = self
            .x
            .iter()
            .zip(&self.precision)
            .map(|(&x, &d)| f64::from(x) * f64::from(d))
            .collect();
        let dot = |a: &[f32]| a.iter().zip(&scaled).map(|(&a, b)| f64::from(a) * b).sum::<f64>();
        let columns = self.factor.chunks_exact(LEN).map(dot);
        columns.chain(std::iter::once(dot(&self.x))).collect()
    }

    /// The sums of an update that moves nothing.
    fn sums(&self, backend: &mut dyn Backend) -> Vec<f32> {
        let graph = update().expect("a graph");
        let plan = backend.load(Plan::compile(&graph).expect("a plan")).expect("a loaded plan");
        let leaf = |kind, name: &str| Leaf { kind, name: name.to_string() };
        let set = |backend: &mut dyn Backend, kind, name: &str, data: &[f32]| {
            backend.set(&leaf(kind, name), data).expect("a resident");
        };
        set(backend, LeafKind::Param, "theta", &self.x);
        set(backend, LeafKind::State, "precision", &self.precision);
        set(backend, LeafKind::State, "factor", &self.factor);
        for name in ["m", "mean"] {
            set(backend, LeafKind::State, name, &vec![0.0; LEN]);
        }
        let inputs = [("grad", LEN), ("hyper", Hyper::COUNT), ("scale", 1), ("solution", RANK)];
        for (input, len) in inputs {
            backend.write(plan, input, &vec![0.0; len]).expect("an input");
        }
        backend.run(plan).expect("a step");
        backend.get(&leaf(LeafKind::State, "sums")).expect("the sums")
    }
}

fn update() -> Result<Graph> {
    let mut g = Graph::new();
    let shape: Shape = [LEN].into();
    let theta = g.param("theta", &shape)?;
    let moment = g.state("m", &shape)?;
    let operands: Vec<ValueId> = vec![
        theta,
        g.input("grad", &shape)?,
        g.input("hyper", &[Hyper::COUNT].into())?,
        g.input("scale", &[1].into())?,
        moment,
        g.state("mean", &shape)?,
        g.state("precision", &shape)?,
        g.state("factor", &[RANK, LEN].into())?,
        g.input("solution", &[RANK].into())?,
    ];
    let sums = g.state("sums", &[RANK + 1].into())?;
    let prior = PriorTerm::LowRank { rank: RANK };
    let results = g.update(Update { method: Method::Sgd { nesterov: false }, prior }, &operands)?;
    for (leaf, next) in [theta, moment, sums].into_iter().zip(results) {
        g.set_next(leaf, next);
    }
    Ok(g)
}

fn worst(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let error = |(&got, want): (&f32, &f64)| ((f64::from(got) - want) / want).abs();
    got.iter().zip(expected).map(error).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

#[test]
fn the_penaltys_sums_are_those_of_double_precision() {
    for (scene, weights) in
        [("ordinary", Weights::ordinary()), ("adversarial", Weights::adversarial())]
    {
        let expected = weights.expected();
        let check = |backend: &mut dyn Backend| {
            let got = weights.sums(backend);
            let projections = worst(&got[..RANK], &expected[..RANK]);
            let quadratic = worst(&got[RANK..], &expected[RANK..]);
            let name = backend.name();
            assert!(projections < PRECISION, "{scene}, projections on {name}: {projections:.1e}");
            assert!(quadratic < PRECISION, "{scene}, quadratic on {name}: {quadratic:.1e}");
        };
        check(&mut Cpu::new(Arc::new(Threads::new(2))));
        on_gpu(|gpu| check(gpu));
    }
}

#[test]
fn a_reduction_on_a_gpu_keeps_small_terms_among_huge_ones() {
    // So many rows that none is cut: the sum of each part is rounded.
    let (rows, columns) = (300, 10_000);
    let mut data: Vec<f32> = normal(&[rows * columns].into(), 5).iter().map(|x| x.abs()).collect();
    for row in data.chunks_exact_mut(columns) {
        for at in (0..columns - 500).step_by(1000) {
            (row[at], row[at + 499]) = (HUGE, -HUGE);
        }
    }
    let sum = |row: &[f32]| row.iter().map(|&x| f64::from(x)).sum::<f64>();
    let expected: Vec<f64> = data.chunks_exact(columns).map(sum).collect();
    let mut g = Graph::new();
    let x = g.input("x", &[rows, columns].into()).expect("a leaf");
    let y = g.reduce(Reduction::Sum, x, &[1]).expect("sums");
    g.set_output("y", y);
    on_gpu(|gpu| {
        let plan = gpu.load(Plan::compile(&g).expect("a plan")).expect("a loaded plan");
        gpu.write(plan, "x", &data).expect("an input");
        gpu.run(plan).expect("a run");
        let mut got = vec![f32::NAN; rows];
        gpu.read(plan, "y", &mut got).expect("the sums");
        let error = worst(&got, &expected);
        assert!(error < PRECISION, "{error:.1e}");
    });
}
