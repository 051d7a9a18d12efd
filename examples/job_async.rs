//! The same as `examples/job.rs` with `async`: any executor will do, here one of a few lines.
//!
//! Run with `cargo run --release --example job_async`.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use priorfit::adapt::{Adapter, Settings};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::job::{Job, JobOptions};
use priorfit::onnx::Model;
use priorfit::prior::Prior;
use priorfit::threads::Threads;

async fn adapt() -> priorfit::Result<()> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let model = Arc::new(Model::load(&files.join("backbone.onnx"))?.cut_at_features(None)?);
    let (train, _) = Dataset::open(&files.join("digits.npz"))?.few(7, 5)?;
    let input =
        Preprocess::new(1, 16, 16).normalised(Statistics { mean: vec![0.31], std: vec![0.37] });
    let adapter = Adapter::new(model, input, Arc::new(Threads::available()))
        .with_prior(Prior::load(&files.join("prior.safetensors"))?)?
        .with_settings(Settings { steps: 30, ..Settings::default() })?;
    let job = Job::start(adapter, train, None, JobOptions::default())?;

    // An update is the newest snapshot, so a slow reader misses some and is never late.
    let mut updates = job.handle().updates();
    while let Some(snapshot) = updates.next_update().await {
        if let Some(p) = snapshot.progress.filter(|p| p.step % 10 == 0) {
            println!("{:?}: {} of {}", p.phase, p.step, p.steps);
        }
    }
    let adapted = job.await?;
    println!("{:?} after {} epochs", adapted.ending, adapted.history.len());
    Ok(())
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one future to its end on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn main() -> priorfit::Result<()> {
    block_on(adapt())
}
