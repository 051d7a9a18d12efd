//! What the compiler does to a graph, seen in the plan it makes.

use super::*;
use crate::graph::{Binary, Conv2d, LeafKind, MatMul, Slice, Unary, ValueId};
use crate::tensor::Shape;

const CONV: Conv2d = Conv2d {
    batch: 2,
    in_channels: 3,
    out_channels: 4,
    groups: 1,
    input: [6, 6],
    output: [6, 6],
    kernel: [3, 3],
    stride: [1, 1],
    pad: [1, 1],
    dilation: [1, 1],
};

fn conv(graph: &mut Graph, x: ValueId) -> ValueId {
    let w = graph.param("w", &CONV.filter_shape()).expect("a leaf");
    graph.conv2d(x, w, CONV).expect("a node")
}

fn names(plan: &Plan) -> Vec<&'static str> {
    plan.dispatches().iter().map(|d| d.kernel.name()).collect()
}

#[test]
fn bias_residual_and_activation_ride_on_the_convolution() {
    let mut g = Graph::new();
    let x = g.input("x", &CONV.input_shape()).expect("a leaf");
    let y = conv(&mut g, x);
    let bias = g.param("b", &[1, 4, 1, 1].into()).expect("a leaf");
    let bias = g.broadcast(bias, &CONV.output_shape()).expect("a node");
    let residual = g.input("r", &CONV.output_shape()).expect("a leaf");
    let y = g.add(y, bias).expect("a node");
    let y = g.add(y, residual).expect("a node");
    let y = g.unary(Unary::Relu, y).expect("a node");
    g.set_output("y", y);
    let plan = Plan::compile(&g).expect("a plan");
    assert_eq!(names(&plan), ["conv2d"]);
    let dispatch = &plan.dispatches()[0];
    assert_eq!((dispatch.reads.len(), dispatch.writes.len()), (4, 1));
    let epilogue = dispatch.kernel.epilogue().expect("an epilogue");
    assert_eq!((epilogue.tape.operations(), epilogue.replaces), (3, Some(0)));
}

/// A convolution, and a bias that is made after it from a softmax of `logits` of the same graph.
fn with_late_bias(logits: impl Fn(&mut Graph, ValueId) -> ValueId) -> Plan {
    let mut g = Graph::new();
    let x = g.input("x", &CONV.input_shape()).expect("a leaf");
    let y = conv(&mut g, x);
    let bias = logits(&mut g, y);
    let bias = g.softmax(bias).expect("a node");
    // Costly enough to be stored.
    let bias = (0..4).fold(bias, |b, _| g.unary(Unary::Erf, b).expect("a node"));
    g.set_output("bias", bias);
    let bias = g.reshape(bias, &[1, 4, 1, 1].into()).expect("a node");
    let bias = g.broadcast(bias, &CONV.output_shape()).expect("a node");
    let y = g.add(y, bias).expect("a node");
    g.set_output("y", y);
    Plan::compile(&g).expect("a plan")
}

#[test]
fn a_bias_that_is_made_after_its_convolution_is_moved_before_it() {
    let plan = with_late_bias(|g, _| g.param("b", &[1, 4].into()).expect("a leaf"));
    assert_eq!(names(&plan), ["softmax", "map", "conv2d"]);
    assert!(plan.dispatches()[2].kernel.epilogue().is_some());
}

#[test]
fn a_bias_that_is_made_of_its_convolution_stays_after_it() {
    let plan = with_late_bias(|g, y| {
        let pixel = Slice { axis: 0, start: 0, end: 4, step: 1 };
        let y = g.reshape(y, &[288].into()).expect("a node");
        let y = g.slice(y, pixel).expect("a node");
        g.reshape(y, &[1, 4].into()).expect("a node")
    });
    assert_eq!(names(&plan).first(), Some(&"conv2d"));
    assert!(plan.dispatches()[0].kernel.epilogue().is_none());
}

#[test]
fn a_product_that_is_read_again_is_kept_beside_its_epilogue() {
    let mut g = Graph::new();
    let x = g.input("x", &CONV.input_shape()).expect("a leaf");
    let y = conv(&mut g, x);
    let gate = g.unary(Unary::Sigmoid, y).expect("a node");
    let z = g.mul(y, gate).expect("a node");
    g.set_output("y", y);
    g.set_output("z", z);
    let plan = Plan::compile(&g).expect("a plan");
    assert_eq!(names(&plan), ["conv2d"]);
    assert_eq!(plan.dispatches()[0].writes.len(), 2);
    assert_eq!(plan.dispatches()[0].kernel.epilogue().expect("an epilogue").replaces, None);
}

#[test]
fn a_chain_is_one_map_and_a_reduction_computes_its_operand() {
    let mut g = Graph::new();
    let x = g.input("x", &[40, 30].into()).expect("a leaf");
    let mut y = x;
    for _ in 0..5 {
        y = g.unary(Unary::Tanh, y).expect("a node");
        y = g.add(y, x).expect("a node");
    }
    g.set_output("y", y);
    let square = g.mul(x, x).expect("a node");
    let sum = g.sum(square, &[1]).expect("a node");
    g.set_output("sum", sum);
    let plan = Plan::compile(&g).expect("a plan");
    assert_eq!(names(&plan), ["map", "reduce"]);
}

#[test]
fn dead_nodes_are_not_run() {
    let mut g = Graph::new();
    let x = g.input("x", &[4].into()).expect("a leaf");
    let y = g.unary(Unary::Neg, x).expect("a node");
    let unused = g.unary(Unary::Exp, x).expect("a node");
    let _ = g.softmax(unused).expect("a node");
    g.set_output("y", y);
    assert_eq!(names(&Plan::compile(&g).expect("a plan")), ["map"]);
}

#[test]
fn memory_is_used_again_once_its_value_is_dead() {
    let mut g = Graph::new();
    let shape: Shape = [64, 64].into();
    let w = g.param("w", &shape).expect("a leaf");
    let mut x = g.input("x", &shape).expect("a leaf");
    for _ in 0..10 {
        x = g.matmul(x, w, MatMul::default()).expect("a node");
    }
    g.set_output("y", x);
    let plan = Plan::compile(&g).expect("a plan");
    assert_eq!(plan.arena_len(), 2 * 64 * 64, "two buffers take turns");
}

#[test]
fn state_is_written_in_place_or_copied_when_it_is_still_read() {
    let mut g = Graph::new();
    let s = g.state("s", &[8].into()).expect("a leaf");
    let x = g.input("x", &[8].into()).expect("a leaf");
    let next = g.softmax(x).expect("a node");
    g.set_next(s, next);
    let plan = Plan::compile(&g).expect("a plan");
    assert_eq!(names(&plan), ["softmax"]);
    let place = &plan.buffers()[plan.dispatches()[0].writes[0].index()].place;
    assert!(matches!(place, Place::Resident(leaf) if leaf.kind == LeafKind::State));

    let later = g.add(next, s).expect("a node");
    g.set_output("y", later);
    let plan = Plan::compile(&g).expect("a plan");
    assert_eq!(names(&plan), ["softmax", "map", "map"], "softmax, y, then the copy");
    assert_eq!(plan.dispatches()[2].origin, "copy");
}

#[test]
fn a_cheap_value_is_computed_again_and_a_costly_one_is_stored() {
    let build = |f: Unary| {
        let mut g = Graph::new();
        let x = g.input("x", &[100].into()).expect("a leaf");
        let mut y = x;
        for _ in 0..4 {
            y = g.unary(f, y).expect("a node");
        }
        let a = g.binary(Binary::Max, y, x).expect("a node");
        let b = g.binary(Binary::Min, y, x).expect("a node");
        g.set_output("a", a);
        g.set_output("b", b);
        Plan::compile(&g).expect("a plan").dispatches().len()
    };
    assert_eq!(build(Unary::Neg), 2, "each reader negates for itself");
    assert_eq!(build(Unary::Erf), 3, "four error functions are worth storing");
}

#[test]
fn a_tampered_plan_does_not_check() {
    let mut g = Graph::new();
    let x = g.input("x", &[16].into()).expect("a leaf");
    let y = g.softmax(x).expect("a node");
    let z = g.softmax(y).expect("a node");
    g.set_output("z", z);
    let sound = Plan::compile(&g).expect("a plan");
    let broken = |tamper: fn(&mut Plan)| {
        let mut plan = sound.clone();
        tamper(&mut plan);
        check::check(&plan).expect_err("a broken plan").to_string()
    };
    let overlap = broken(|plan| {
        let first = plan.buffers[0].place.clone();
        plan.buffers.iter_mut().for_each(|buffer| buffer.place = first.clone());
    });
    assert!(overlap.contains("does not hold its value"), "{overlap}");
    let outside = broken(|plan| plan.buffers[1].place = Place::Arena(1000));
    assert!(outside.contains("leaves the arena"), "{outside}");
    let early = broken(|plan| plan.dispatches.swap(0, 1));
    assert!(early.contains("does not hold its value"), "{early}");
    let wrong = broken(|plan| plan.buffers[1].len = 8);
    assert!(wrong.contains("geometry"), "{wrong}");
}
