//! Engines: where plans run, and where they go on when a device fails.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
#[cfg(feature = "gpu")]
use std::sync::{Mutex, PoisonError};

use super::Backend;
use super::cpu::Cpu;
#[cfg(feature = "gpu")]
use super::gpu;
use crate::error::{Error, Kind, Result};
use crate::threads::Threads;

/// A machine to run on, as a user names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first hardware GPU that qualifies, or else the processor. Never a GPU in software.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The first GPU that qualifies; one in software if there is no other.
    Gpu,
    /// The GPU whose name contains this text, in any case.
    Named(String),
}

impl FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Choice::Auto,
            "cpu" => Choice::Cpu,
            "gpu" => Choice::Gpu,
            name => Choice::Named(name.to_string()),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Auto => "auto",
            Choice::Cpu => "cpu",
            Choice::Gpu => "gpu",
            Choice::Named(name) => name,
        })
    }
}

/// Opens backends on one machine, and on the next when that fails.
#[derive(Clone)]
pub struct Engine {
    threads: Arc<Threads>,
    device: Device,
}

#[derive(Clone)]
enum Device {
    Cpu,
    /// A GPU, which may be opened anew so many times.
    #[cfg(feature = "gpu")]
    Gpu(Arc<Gpu>, u32),
}

/// A GPU with the device that is open on it: backends that follow each other share its pipelines.
#[cfg(feature = "gpu")]
struct Gpu {
    source: Source,
    options: gpu::Options,
    open: Mutex<Option<gpu::Device>>,
}

/// Where a device comes from.
#[cfg(feature = "gpu")]
#[derive(Clone)]
enum Source {
    /// Our own, on an adapter.
    Adapter(Arc<gpu::Adapter>),
    /// A host's.
    Host(gpu::wgpu::Device, gpu::wgpu::Queue),
}

#[cfg(feature = "gpu")]
impl Gpu {
    fn new(source: Source, options: gpu::Options) -> Arc<Self> {
        Arc::new(Gpu { source, options, open: Mutex::new(None) })
    }

    /// The open device, or a new one if there is none or it is lost.
    fn device(&self) -> Result<gpu::Device> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.as_ref().filter(|device| !device.is_lost()) {
            return Ok(device.clone());
        }
        let options = self.options.clone();
        let device = match &self.source {
            Source::Adapter(adapter) => gpu::Device::open(adapter, options)?,
            Source::Host(device, queue) => {
                gpu::Device::shared(device.clone(), queue.clone(), options)?
            }
        };
        *open = Some(device.clone());
        Ok(device)
    }
}

/// Times that a device is opened anew before the processor takes over.
#[cfg(feature = "gpu")]
const REOPENINGS: u32 = 1;

impl Engine {
    /// The processor.
    pub fn cpu(threads: Arc<Threads>) -> Self {
        Engine { threads, device: Device::Cpu }
    }

    /// A device of our own on `adapter`.
    #[cfg(feature = "gpu")]
    pub fn gpu(adapter: gpu::Adapter, options: gpu::Options, threads: Arc<Threads>) -> Self {
        let gpu = Gpu::new(Source::Adapter(Arc::new(adapter)), options);
        Engine { threads, device: Device::Gpu(gpu, REOPENINGS) }
    }

    /// A host's device; see [`gpu::requirements`] for what it should have.
    #[cfg(feature = "gpu")]
    pub fn shared(
        device: gpu::wgpu::Device,
        queue: gpu::wgpu::Queue,
        options: gpu::Options,
        threads: Arc<Threads>,
    ) -> Self {
        // A host that lost its device makes the next, not we.
        let gpu = Gpu::new(Source::Host(device, queue), options);
        Engine { threads, device: Device::Gpu(gpu, 0) }
    }

    /// The machine that `choice` names, with default options.
    ///
    /// # Errors
    /// When it names a GPU and there is none such; the error lists those there are.
    pub fn choose(choice: &Choice, threads: Arc<Threads>) -> Result<Self> {
        #[cfg(feature = "gpu")]
        return Self::choose_with(choice, gpu::Options::default(), threads);
        #[cfg(not(feature = "gpu"))]
        match choice {
            Choice::Auto | Choice::Cpu => Ok(Engine::cpu(threads)),
            Choice::Gpu | Choice::Named(_) => {
                Err(Error::unsupported("this build has no GPU backend")
                    .hint("build it with the feature `gpu`, or use --device cpu"))
            }
        }
    }

    /// [`Engine::choose`] with options for a GPU.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "gpu")]
    pub fn choose_with(
        choice: &Choice,
        options: gpu::Options,
        threads: Arc<Threads>,
    ) -> Result<Self> {
        if *choice == Choice::Cpu {
            return Ok(Engine::cpu(threads));
        }
        let adapters = gpu::adapters();
        let wanted = |adapter: &&gpu::Adapter| match choice {
            Choice::Named(name) => {
                adapter.info().name.to_lowercase().contains(&name.to_lowercase())
            }
            Choice::Gpu => adapter.qualifies().is_ok(),
            Choice::Auto | Choice::Cpu => adapter.is_hardware() && adapter.qualifies().is_ok(),
        };
        let found = adapters.iter().position(|adapter| wanted(&adapter));
        match (found, choice) {
            (Some(index), _) => {
                let adapter = adapters.into_iter().nth(index);
                let adapter = adapter.ok_or_else(|| Error::internal("an index of the list"))?;
                Ok(Engine::gpu(adapter, options, threads))
            }
            (None, Choice::Auto) => Ok(Engine::cpu(threads)),
            (None, _) => Err(no_adapter(choice, &adapters)),
        }
    }

    /// The threads of the processor.
    pub fn threads(&self) -> &Arc<Threads> {
        &self.threads
    }

    /// The same device with other threads for what the processor does.
    pub fn with_threads(&self, threads: Arc<Threads>) -> Self {
        Engine { threads, device: self.device.clone() }
    }

    /// Whether its device can fail.
    pub fn can_fail(&self) -> bool {
        !matches!(self.device, Device::Cpu)
    }

    /// A new, empty backend.
    ///
    /// # Errors
    /// Of kind [`Kind::Device`] when the device cannot be had.
    pub fn open(&self) -> Result<Box<dyn Backend>> {
        match &self.device {
            Device::Cpu => Ok(Box::new(Cpu::new(Arc::clone(&self.threads)))),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu, _) => Ok(Box::new(gpu::Gpu::new(&gpu.device()?))),
        }
    }

    /// Where to go on after `error`: a device of our own is opened anew once, and then the
    /// processor takes over.
    ///
    /// # Errors
    /// `error` itself, when it is not the device's or there is nowhere to go.
    pub fn after(&self, error: Error) -> Result<Self> {
        let next = match &self.device {
            _ if error.kind() != Kind::Device => None,
            Device::Cpu => None,
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu, reopenings) if *reopenings > 0 => {
                log::warn!("{error}; going on with a new device");
                let gpu = Gpu::new(gpu.source.clone(), gpu.options.clone());
                Some(Device::Gpu(gpu, reopenings - 1))
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(..) => {
                log::warn!("{error}; going on with the processor");
                Some(Device::Cpu)
            }
        };
        next.map(|device| Engine { threads: Arc::clone(&self.threads), device }).ok_or(error)
    }
}

impl From<Arc<Threads>> for Engine {
    fn from(threads: Arc<Threads>) -> Self {
        Engine::cpu(threads)
    }
}

impl From<&Arc<Threads>> for Engine {
    fn from(threads: &Arc<Threads>) -> Self {
        Engine::cpu(Arc::clone(threads))
    }
}

impl From<&Engine> for Engine {
    fn from(engine: &Engine) -> Self {
        engine.clone()
    }
}

#[cfg(feature = "gpu")]
fn no_adapter(choice: &Choice, adapters: &[gpu::Adapter]) -> Error {
    let names: Vec<String> = adapters.iter().map(|a| format!("'{}'", a.info().name)).collect();
    let message = match (choice, &names[..]) {
        (_, []) => "no GPU was found".to_string(),
        (Choice::Named(name), names) => {
            format!("no GPU is called '{name}'; there are {}", names.join(", "))
        }
        (_, names) => format!("no GPU qualifies of {}", names.join(", ")),
    };
    Error::new(Kind::Device, message)
        .hint("`priorfit devices` lists them with what they lack; --device cpu always works")
}
