//! The text forms of a whole training step, to be read: `tests/it/golden/step.txt`.
//!
//! `PRIORFIT_UPDATE_GOLDEN=1 cargo test --release texts` writes the file anew.

use priorfit::graph::{Graph, PriorTerm, Unary};
use priorfit::plan::Plan;
use priorfit::step::{Group, Recipe, Trainable, train_step};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT, LOSS, cross_entropy, linear_head};
use priorfit::update::Optimizer;

use crate::support::repository;

/// A dense layer with ReLU as backbone, a head, clipping, and a low-rank prior.
fn step() -> Graph {
    let mut g = Graph::new();
    g.set_origin("dense");
    let x = g.input("image", &[4, 6].into()).expect("a leaf");
    let w = g.param("dense.weight", &[6, 5].into()).expect("a leaf");
    let y = g.matmul(x, w, Default::default()).expect("a node");
    let y = g.unary(Unary::Relu, y).expect("a node");
    let logits = linear_head(&mut g, y, 3).expect("a head");
    let loss = cross_entropy(&mut g, logits).expect("a loss");
    g.set_output(LOSS, loss);
    let trainable =
        |name: &str, group, prior| Trainable { name: name.to_string(), group, block: 0, prior };
    let isotropic = PriorTerm::Isotropic { centred: false };
    let trainable = vec![
        trainable("dense.weight", Group::Backbone, PriorTerm::LowRank { rank: 2 }),
        trainable(HEAD_WEIGHT, Group::Head, isotropic),
        trainable(HEAD_BIAS, Group::Head, isotropic),
    ];
    let method = Optimizer::default().method();
    train_step(g, &Recipe { trainable, method, clip: true }).expect("a step")
}

#[test]
fn a_step_reads_as_the_golden_text() {
    let graph = step();
    let plan = Plan::compile(&graph).expect("a plan");
    let text = format!("# The graph\n\n{graph}\n# The plan\n\n{plan}");
    let path = repository("tests/it/golden/step.txt");
    if std::env::var_os("PRIORFIT_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden text");
    assert!(text == golden, "the text of a step has changed; it is now:\n{text}");
}
