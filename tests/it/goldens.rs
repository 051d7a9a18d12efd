//! Whole networks of twelve families against PyTorch: outputs, and gradients by parameter name.

use std::sync::Arc;

use priorfit::autodiff::vjp;
use priorfit::backend::Backend;
use priorfit::backend::cpu::Cpu;
use priorfit::graph::LeafKind;
use priorfit::onnx::Model;
use priorfit::plan::Plan;
use priorfit::tensor::contiguous;
use priorfit::threads::Threads;

use crate::support::gpu::gpu;
use crate::support::{
    FORWARD, GRADIENT, golden_names, relative_error_above, repository, resident, tensors,
};

/// Share of the largest gradient below which a difference is rounding.
const ROUNDING: f64 = 1e-4;

/// Checks one golden network on a backend, as it is in the file or with scales folded into filters
/// as for training; what is wrong, if anything.
fn check(name: &str, folds: bool, backend: &mut dyn Backend) -> Result<(f64, f64), String> {
    let model = Model::load(&repository(&format!("models/golden/{name}.onnx")))
        .map_err(|e| e.to_string())?;
    let golden = tensors(&format!("models/golden/{name}.safetensors"));
    let input = &golden["input"];
    let mut graph = model.graph(input.shape()).map_err(|e| e.to_string())?;
    if folds {
        graph = graph.fold_scales().map_err(|e| e.to_string())?;
    }
    let (output_name, output) = graph.outputs()[0].clone();
    let shape = graph.shape(output).clone();
    let projection = graph.input("projection", &shape).map_err(|e| e.to_string())?;
    let params: Vec<_> = model
        .weights()
        .map(|(name, _)| (name.to_string(), graph.leaf(LeafKind::Param, name)))
        .collect();
    let wrt: Vec<_> = params.iter().filter_map(|(_, leaf)| *leaf).collect();
    let cts = vjp(&mut graph, &[(output, projection)], &wrt).map_err(|e| e.to_string())?;
    let names: Vec<&String> =
        params.iter().filter(|(_, leaf)| leaf.is_some()).map(|(name, _)| name).collect();
    for (name, ct) in names.iter().zip(&cts) {
        if let Some(ct) = ct {
            graph.set_output(&format!("grad/{name}"), *ct);
        }
    }
    let plan = Plan::compile(&graph).map_err(|e| e.to_string())?;
    let plan = backend.load(plan).map_err(|e| e.to_string())?;
    for (name, weight) in model.weights() {
        if graph.leaf(LeafKind::Param, name).is_some() {
            let _ = backend.set(&resident(LeafKind::Param, name), &contiguous(weight));
        }
    }
    let port = model.inputs()[0].name.clone();
    backend.write(plan, &port, &contiguous(input)).map_err(|e| e.to_string())?;
    backend
        .write(plan, "projection", &contiguous(&golden["projection"]))
        .map_err(|e| e.to_string())?;
    backend.run(plan).map_err(|e| e.to_string())?;
    // A gradient that is zero by symmetry is zero only to the rounding of the others.
    let largest = golden.iter().filter(|(key, _)| key.starts_with("grad/"));
    let largest = largest.flat_map(|(_, g)| g.iter()).fold(0.0f32, |m, g| m.max(g.abs()));
    let floor = f64::from(largest) * ROUNDING;
    let mut compare = |port: &str, key: &str| -> Result<f64, String> {
        let expected = golden.get(key).ok_or_else(|| format!("no golden '{key}'"))?;
        let mut got = vec![0.0; expected.len()];
        backend.read(plan, port, &mut got).map_err(|e| format!("{key}: {e}"))?;
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        Ok(relative_error_above(&got, &expected, floor))
    };
    let forward = compare(&output_name, &format!("output/{output_name}"))?;
    let mut worst = 0.0f64;
    for key in golden.keys().filter(|key| key.starts_with("grad/")) {
        let error = compare(key, key)?;
        if error > GRADIENT {
            return Err(format!("{key}: relative error {error:.1e}"));
        }
        worst = worst.max(error);
    }
    let known = golden.keys().filter(|key| key.starts_with("grad/")).count();
    if known != names.len() {
        return Err(format!("{known} golden gradients, but the parameters {names:?}"));
    }
    if forward > FORWARD {
        return Err(format!("output: relative error {forward:.1e}"));
    }
    Ok((forward, worst))
}

#[test]
fn every_golden_network_agrees_with_pytorch() {
    let names = golden_names();
    assert!(names.len() >= 24, "two files or more for each of twelve families");
    // All networks share names of weights, so each has a backend of its own.
    let mut failures = Vec::new();
    let mut judge = |name: &str, folds, backend: &mut dyn Backend| {
        let what = format!("{name}{} on {}", if folds { ", folded" } else { "" }, backend.name());
        match check(name, folds, backend) {
            Ok((forward, gradient)) => {
                println!("{what}: forward {forward:.1e}, gradients {gradient:.1e}");
            }
            Err(error) => failures.push(format!("{what}: {error}")),
        }
    };
    for name in &names {
        for folds in [false, true] {
            judge(name, folds, &mut Cpu::new(Arc::new(Threads::new(2))));
        }
        if let Some(mut gpu) = gpu() {
            judge(name, true, &mut *gpu);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
