//! Adapts the bundled backbone in the background, as a program without an async runtime does.
//!
//! Run with `cargo run --release --example job`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use priorfit::adapt::{Adapter, Settings};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::job::{Budget, Conditions, Job, JobOptions, Power, Status};
use priorfit::onnx::Model;
use priorfit::prior::Prior;
use priorfit::threads::Threads;

fn main() -> priorfit::Result<()> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let model = Arc::new(Model::load(&files.join("backbone.onnx"))?.cut_at_features(None)?);
    let (train, _) = Dataset::open(&files.join("digits.npz"))?.few(7, 5)?;
    let input =
        Preprocess::new(1, 16, 16).normalised(Statistics { mean: vec![0.31], std: vec![0.37] });
    let adapter = Adapter::new(model, input, Arc::new(Threads::available()))
        .with_prior(Prior::load(&files.join("prior.safetensors"))?)?
        .with_settings(Settings { steps: 30, ..Settings::default() })?;

    // Half of the time of one processor, and less on a battery; here it never is on one.
    let options = JobOptions {
        budget: Budget { threads: Some(1), duty_cycle: 0.5, ..Budget::default() },
        host: Some(Arc::new(|| Conditions { power: Some(Power::Mains), ..Conditions::default() })),
        ..JobOptions::default()
    };
    let job = Job::start(adapter, train, None, options)?;

    // The caller is free: a program would draw its window here, and look now and then.
    job.handle().pause();
    job.handle().resume();
    while !job.handle().wait(Duration::from_millis(200)) {
        let snapshot = job.handle().snapshot();
        if let (Status::Running, Some(p)) = (snapshot.status, snapshot.progress) {
            println!("{:?}: {} of {}", p.phase, p.step, p.steps);
        }
    }
    let adapted = job.join()?;
    println!("{:?} after {} epochs", adapted.ending, adapted.history.len());
    Ok(())
}
