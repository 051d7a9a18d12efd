//! Adapts on the device that a host draws with: a rendering loop goes on while a thread adapts.
//!
//! Run with `cargo run --release --example shared_device`. The loop draws into a texture, so no
//! window is needed; a GPU is, in software if need be.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use priorfit::Result;
use priorfit::adapt::{Adapted, Adapter, Control, Phase, Settings};
use priorfit::backend::Engine;
use priorfit::backend::gpu::{Options, requirements, wgpu};
use priorfit::data::{Dataset, Preprocess, Statistics};
use priorfit::onnx::Model;
use priorfit::prior::Prior;
use priorfit::threads::Threads;

/// Between two frames of the host.
const FRAME: Duration = Duration::from_millis(33);

fn main() {
    let Some((device, queue)) = pollster::block_on(host_device()) else {
        println!("there is no GPU to share; this example needs one, in software if need be");
        return;
    };
    // A third of a frame at a time, half of the time: the rest is the host's.
    let options = Options { budget: FRAME / 3, duty: 0.5, ..Options::default() };
    let threads = Arc::new(Threads::available());
    let engine = Engine::shared(device.clone(), queue.clone(), options, threads);
    let job = std::thread::spawn(move || adapt(&engine));

    let mut times = Vec::new();
    while !job.is_finished() {
        let start = Instant::now();
        draw_frame(&device, &queue, times.len());
        times.push(start.elapsed());
        std::thread::sleep(FRAME.saturating_sub(start.elapsed()));
    }
    match job.join().expect("the thread does not panic") {
        Ok(adapted) => println!("adapted on {}", adapted.ran_on),
        Err(error) => println!("error: {error}"),
    }
    times.sort();
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
    println!("{} frames, drawn in {:?} (median), {:?} (99 %)", times.len(), at(0.5), at(0.99));
}

/// The host's own device: what it needs itself, and what adapting can use beside.
async fn host_device() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.ok()?;
    let (required_features, required_limits) = requirements(&adapter);
    let descriptor =
        wgpu::DeviceDescriptor { required_features, required_limits, ..Default::default() };
    adapter.request_device(&descriptor).await.ok()
}

/// Draws one frame, here a colour that changes, and waits until it could be shown.
fn draw_frame(device: &wgpu::Device, queue: &wgpu::Queue, number: usize) {
    let size = wgpu::Extent3d { width: 640, height: 480, depth_or_array_layers: 1 };
    let texture = device.create_texture(&wgpu::TextureDescriptor {
        label: Some("frame"),
        size,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba8Unorm,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
        view_formats: &[],
    });
    let view = texture.create_view(&Default::default());
    let mut encoder = device.create_command_encoder(&Default::default());
    let shade = (number % 60) as f64 / 60.0;
    let colour = wgpu::Color { r: shade, g: 0.5, b: 1.0 - shade, a: 1.0 };
    encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
        label: Some("frame"),
        color_attachments: &[Some(wgpu::RenderPassColorAttachment {
            view: &view,
            depth_slice: None,
            resolve_target: None,
            ops: wgpu::Operations {
                load: wgpu::LoadOp::Clear(colour),
                store: wgpu::StoreOp::Store,
            },
        })],
        ..Default::default()
    });
    let index = queue.submit([encoder.finish()]);
    let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
    device.poll(wait).expect("a frame is drawn");
}

/// Adapts the bundled backbone to ten handwritten digits of each class.
fn adapt(engine: &Engine) -> Result<Adapted> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let model = Arc::new(Model::load(&files.join("backbone.onnx"))?.cut_at_features(None)?);
    let prior = Prior::load(&files.join("prior.safetensors"))?;
    let (train, _) = Dataset::open(&files.join("digits.npz"))?.few(7, 10)?;
    let input =
        Preprocess::new(1, 16, 16).normalised(Statistics { mean: vec![0.31], std: vec![0.37] });
    Adapter::new(model, input, engine)
        .with_prior(prior)?
        .with_settings(Settings { steps: 20, ..Settings::default() })?
        .fit(&train, None, &mut |progress| {
            if progress.phase == Phase::Train {
                println!("step {} of {}: loss {:?}", progress.step, progress.steps, progress.loss);
            }
            Control::Continue
        })
}
