//! The window.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui_wgpu::{RenderState, WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use egui::{ColorImage, Context, Key, Ui};
use priorfit::backend::Engine;
use priorfit::backend::gpu::{self, requirements, wgpu};
use priorfit::threads::Threads;
use priorfit::{Error, Result};

use crate::material::Material;
use crate::options::{Options, Where};
use crate::report::{Report, Reporter};
use crate::session::Session;
use crate::views::{self, Screen};

const TITLE: &str = "priorfit desktop";
const SIZE: [f32; 2] = [1180.0, 780.0];
const SIZE_MIN: [f32; 2] = [1080.0, 700.0];
/// The largest texture that egui makes, and sides that a window may have.
const TEXTURE_SIDE: u32 = 8192;
/// Time from one frame to the next at least, where the screen does not wait for its own pace.
const FRAME_MIN: Duration = Duration::from_millis(8);
/// How long the job may hold the device at a time: a third of a frame; and its share of the time.
const HOLD: Duration = Duration::from_millis(5);
const DUTY: f64 = 0.5;
/// Where a processor stands in for a GPU, and a frame takes a tenth of a second by itself: frames
/// come so that half of the time is left to the job, which holds the device accordingly.
const FRAME_MIN_IN_SOFTWARE: Duration = Duration::from_millis(250);
const HOLD_IN_SOFTWARE: Duration = Duration::from_millis(60);
/// How often a window that is still looks whether its report is to be written.
const LOOK: Duration = Duration::from_millis(50);

/// Opens the window, and returns when it is closed.
///
/// # Errors
/// When there is no display or no GPU, in software if need be.
pub fn run(options: Options) -> Result<()> {
    let native = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title(TITLE)
            .with_inner_size(SIZE)
            .with_min_inner_size(SIZE_MIN),
        wgpu_options: WgpuConfiguration { wgpu_setup: device(), ..Default::default() },
        ..Default::default()
    };
    let create = move |creation: &eframe::CreationContext<'_>| {
        let window = Window::new(creation, &options)?;
        Ok(Box::new(window) as Box<dyn eframe::App>)
    };
    eframe::run_native(TITLE, native, Box::new(create)).map_err(|e| {
        // The message alone: what a window system's error holds may not leave its thread.
        Error::unsupported(format!("no window: {e}"))
            .hint("a display is needed, and a GPU with Vulkan, Metal or DirectX 12")
    })
}

/// A device with what a window needs, and what adapting can use beside.
fn device() -> WgpuSetup {
    let setup = WgpuSetupCreateNew::without_display_handle();
    WgpuSetup::CreateNew(WgpuSetupCreateNew {
        device_descriptor: Arc::new(|adapter| {
            let (required_features, limits) = requirements(adapter);
            let side = TEXTURE_SIDE.min(adapter.limits().max_texture_dimension_2d);
            wgpu::DeviceDescriptor {
                label: Some(TITLE),
                required_features,
                required_limits: wgpu::Limits { max_texture_dimension_2d: side, ..limits },
                ..Default::default()
            }
        }),
        ..setup
    })
}

struct Window {
    screen: Screen,
    reporter: Option<Reporter>,
    screenshot: PathBuf,
    opened: Instant,
    frame_min: Duration,
}

impl Window {
    fn new(creation: &eframe::CreationContext<'_>, options: &Options) -> Result<Self> {
        views::apply(&creation.egui_ctx);
        let state = creation.wgpu_render_state.as_ref();
        let state = state.ok_or_else(|| Error::unsupported("the window has no wgpu device"))?;
        let name = state.adapter.get_info().name;
        let frame_min = if in_software(state) { FRAME_MIN_IN_SOFTWARE } else { FRAME_MIN };
        let (engine, device) = match options.device {
            Where::Window => (shared(state), name),
            Where::Cpu => {
                (Engine::cpu(Arc::new(Threads::available())), "adapts on the processor".into())
            }
        };
        let ctx = creation.egui_ctx.clone();
        let wake = Arc::new(move || ctx.request_repaint());
        let session = Session::new(Material::bundled()?, engine, options.steps as usize, wake)?;
        Ok(Window {
            screen: Screen::new(session, device),
            reporter: options.report.as_deref().map(Reporter::new),
            screenshot: options.screenshot.clone(),
            opened: Instant::now(),
            frame_min,
        })
    }

    fn report(&mut self, is_last: bool) {
        let now = self.opened.elapsed();
        let Some(reporter) = self.reporter.as_mut().filter(|r| is_last || r.is_due(now)) else {
            return;
        };
        let Screen { session, frames, device, controls, .. } = &self.screen;
        let report = Report::of(session, frames, (device, controls));
        if let Err(error) = reporter.write(&report, now) {
            self.reporter = None;
            self.screen.session.complain(&error);
        }
    }
}

fn in_software(state: &RenderState) -> bool {
    state.adapter.get_info().device_type == wgpu::DeviceType::Cpu
}

/// The window's own device: work is cut so that no frame waits long for it.
fn shared(state: &RenderState) -> Engine {
    let budget = if in_software(state) { HOLD_IN_SOFTWARE } else { HOLD };
    let options = gpu::Options { budget, duty: DUTY, ..gpu::Options::default() };
    let threads = Arc::new(Threads::available());
    Engine::shared(state.device.clone(), state.queue.clone(), options, threads)
}

impl eframe::App for Window {
    /// Also called while the window is hidden, so that a job that ends is noticed.
    fn logic(&mut self, _ctx: &Context, _frame: &mut eframe::Frame) {
        self.screen.session.tick();
    }

    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        let is_busy = self.screen.session.is_busy();
        let is_followed = self.screen.frames.begin(self.opened.elapsed(), is_busy);
        self.screen.show(ui);
        if ui.input(|input| input.key_pressed(Key::F12)) {
            let path = self.screenshot.clone();
            ui.ctx().request_screenshot(move |image| store(&path, &image));
        }
        self.report(false);
        if is_followed {
            ui.ctx().request_repaint_after(self.frame_min);
        } else if self.reporter.is_some() {
            ui.ctx().request_repaint_after(LOOK);
        }
    }

    fn on_exit(&mut self) {
        self.screen.session.close();
        self.report(true);
    }
}

/// Stores a picture of the window.
fn store(path: &Path, image: &ColorImage) {
    match encode(image).and_then(|bytes| Ok(std::fs::write(path, bytes)?)) {
        Ok(()) => log::info!("wrote {}", path.display()),
        Err(error) => log::error!("cannot write {}: {error}", path.display()),
    }
}

fn encode(image: &ColorImage) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
    let [width, height] = image.size.map(u32::try_from);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width?, height?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let rgb: Vec<u8> = image.pixels.iter().flat_map(|p| [p.r(), p.g(), p.b()]).collect();
    encoder.write_header()?.write_image_data(&rgb)?;
    Ok(bytes)
}
