//! Adapts the bundled backbone to twenty handwritten digits of each class and predicts the rest.
//!
//! Run with `cargo run --release --example adapt`.

use std::path::Path;
use std::sync::Arc;

use priorfit::adapt::{Adapter, Control, Settings, score};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::onnx::Model;
use priorfit::posterior::Posterior;
use priorfit::prior::Prior;
use priorfit::threads::Threads;

fn main() -> priorfit::Result<()> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let threads = Arc::new(Threads::available());

    // What was learned elsewhere: a backbone that ends in features, and a prior over its weights.
    let model = Arc::new(Model::load(&files.join("backbone.onnx"))?.cut_at_features(None)?);
    let prior = Prior::load(&files.join("prior.safetensors"))?;

    // The user's own examples. Twenty of each class are labelled, the rest is for checking.
    let digits = Dataset::open(&files.join("digits.npz"))?;
    let (train, rest) = digits.few(7, 20)?;
    let input = Preprocess::new(1, 16, 16);
    let statistics = Statistics { mean: vec![0.31], std: vec![0.37] };

    let settings = Settings { steps: 60, ..Settings::default() };
    let adapter = Adapter::new(model, input.normalised(statistics), Arc::clone(&threads))
        .with_prior(prior)?
        .with_settings(settings)?;
    let adapted = adapter.fit(&train, None, &mut |progress| {
        // A host would draw a progress bar here; returning `Control::Stop` ends the run.
        assert!(progress.step <= progress.steps);
        Control::Continue
    })?;

    // Predictions at the start and the end of training, on digits neither has seen.
    let labels = rest.labels(&(0..rest.len()).collect::<Vec<_>>())?;
    for (name, posterior) in [("probe", &adapted.probe), ("adapted", &adapted.posterior)] {
        let report = score(&posterior.predict(&rest, &threads, &mut |_| true)?, &labels)?;
        println!("{name}: accuracy {:.3}, NLL {:.3}", report.accuracy, report.nll.mean);
    }

    // The adapted model is a folder that predicts on its own.
    let folder = std::env::temp_dir().join("priorfit-example");
    adapted.posterior.save(&folder)?;
    let loaded = Posterior::load(&folder)?;
    println!("saved {} classes to {}", loaded.description().task.outputs(), folder.display());
    Ok(())
}
