//! A device: adapters to choose from, one opened or shared by a host, and its failures as errors.
//!
//! Every call that can fail runs in error scopes, so the host's own error callbacks never hear of
//! this crate and are never replaced. Only a device of our own gets a callback, for its loss.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{DeviceType, ErrorFilter, Features};

use crate::error::{Error, Kind, Result};

/// Features that are used where an adapter has them.
const OPTIONAL: Features = Features::SUBGROUP.union(Features::PIPELINE_CACHE);

/// A device and its queue.
pub(super) struct Context {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub limits: wgpu::Limits,
    pub info: wgpu::AdapterInfo,
    /// Whether it multiplies matrices of 8 × 8 single-precision numbers by itself.
    pub small_matrices: bool,
    /// Why the device was lost, if it was and told us.
    lost: Arc<Mutex<Option<String>>>,
}

/// What a host should ask for when it makes a device that it will share.
///
/// The features that this crate uses where the adapter has them, and the adapter's own limits for
/// buffers and workgroups. A device with fewer works too, as long as it has the defaults.
pub fn requirements(adapter: &wgpu::Adapter) -> (Features, wgpu::Limits) {
    let offered = adapter.limits();
    let limits = wgpu::Limits {
        max_buffer_size: offered.max_buffer_size,
        max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
        ..wgpu::Limits::default()
    };
    (adapter.features() & OPTIONAL, limits.or_worse_values_from(&offered))
}

/// What the kernels cannot do without.
pub(super) fn check_limits(limits: &wgpu::Limits, name: &str) -> Result<()> {
    let needed = [
        ("storage buffers in a stage", 8, limits.max_storage_buffers_per_shader_stage),
        ("uniform buffers in a stage", 5, limits.max_uniform_buffers_per_shader_stage),
        ("invocations in a workgroup", 256, limits.max_compute_invocations_per_workgroup),
        ("threads along a workgroup's first axis", 256, limits.max_compute_workgroup_size_x),
        ("bytes of workgroup memory", 16_384, limits.max_compute_workgroup_storage_size),
    ];
    match needed.iter().find(|(_, needed, offered)| offered < needed) {
        None => Ok(()),
        Some((what, needed, offered)) => {
            let message = format!("'{name}' offers {offered} {what}; expected at least {needed}");
            Err(Error::new(Kind::Device, message).hint("choose another device, or --device cpu"))
        }
    }
}

/// Whether an adapter multiplies matrices of 8 × 8 single-precision numbers by itself.
fn has_small_matrices(adapter: &wgpu::Adapter) -> bool {
    use wgpu::CooperativeScalarType::F32;
    let fits = |p: &wgpu::CooperativeMatrixProperties| {
        [p.m_size, p.n_size, p.k_size] == [8; 3] && p.ab_type == F32 && p.cr_type == F32
    };
    let offered = adapter.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    offered && adapter.cooperative_matrix_properties().iter().any(fits)
}

impl Context {
    /// Opens a device of our own on an adapter.
    ///
    /// # Errors
    /// When the adapter lacks a needed limit or gives no device.
    ///
    /// With `experiments` it has cooperative matrices, if the adapter multiplies 8 × 8 of them in
    /// single precision.
    pub(super) fn open(adapter: &wgpu::Adapter, experiments: bool) -> Result<Arc<Self>> {
        let info = adapter.get_info();
        let (mut features, limits) = requirements(adapter);
        check_limits(&limits, &info.name)?;
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        let small_matrices = experiments && has_small_matrices(adapter);
        if small_matrices {
            features |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: the token admits that wgpu's own code for the feature may have faults, and
            // gives nothing else. The one shader that uses it keeps to what the specification
            // defines: uniform control flow, and places within workgroup memory for all operands;
            // and it is used where its results were compared with those of a plain shader.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("priorfit"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features,
            ..wgpu::DeviceDescriptor::default()
        };
        let opened = pollster::block_on(adapter.request_device(&descriptor));
        let (device, queue) = opened.map_err(|error| {
            Error::new(Kind::Device, format!("'{}' gives no device: {error}", info.name))
                .hint("choose another device, or --device cpu")
                .caused_by(error)
        })?;
        let lost = Arc::new(Mutex::new(None));
        let record = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            let text = format!("{reason:?}: {message}");
            *record.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        });
        Ok(Arc::new(Context { device, queue, limits, info, small_matrices, lost }))
    }

    /// Uses a host's device.
    ///
    /// # Errors
    /// When the device was made with less than a needed limit.
    pub(super) fn shared(device: wgpu::Device, queue: wgpu::Queue) -> Result<Arc<Self>> {
        let (limits, info) = (device.limits(), device.adapter_info());
        check_limits(&limits, &info.name)?;
        // A device does not tell of which matrices its feature is; on Metal it is always of these.
        let has_feature = device.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let small_matrices = has_feature && info.backend == wgpu::Backend::Metal;
        let lost = Arc::default();
        Ok(Arc::new(Context { device, queue, limits, info, small_matrices, lost }))
    }

    /// Runs `work`; a failure on the device becomes an error that says what was being done.
    ///
    /// # Errors
    /// When the device reports one, or is lost.
    pub(super) fn scoped<T>(&self, doing: &str, work: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(ErrorFilter::Internal);
        let validation = self.device.push_error_scope(ErrorFilter::Validation);
        let value = work();
        // The futures are ready: native devices report before the calls return.
        let errors = [wait(validation.pop()), wait(internal.pop()), wait(memory.pop())];
        self.check(doing)?;
        match errors.into_iter().flatten().next() {
            None => Ok(value),
            Some(error) => Err(self.failure(doing, error)),
        }
    }

    fn failure(&self, doing: &str, error: wgpu::Error) -> Error {
        let name = &self.info.name;
        let new = |what: &str| Error::new(Kind::Device, format!("{doing} on '{name}': {what}"));
        match &error {
            wgpu::Error::OutOfMemory { .. } => new("the device is out of memory")
                .hint("use a smaller batch or --memory-cap, or another device"),
            other => new(&other.to_string()).caused_by(error),
        }
    }

    /// Fails when the device is known to be lost.
    ///
    /// # Errors
    /// Says why it was lost.
    pub(super) fn check(&self, doing: &str) -> Result<()> {
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(reason) => Err(self.lost_error(doing, reason)),
        }
    }

    /// The error of a device that is lost, which is kept in mind.
    pub(super) fn loss(&self, doing: &str, reason: &str) -> Error {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert_with(|| reason.to_string());
        self.lost_error(doing, reason)
    }

    fn lost_error(&self, doing: &str, reason: &str) -> Error {
        let message = format!("{doing}: the device '{}' was lost ({reason})", self.info.name);
        Error::new(Kind::Device, message)
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    pollster::block_on(future)
}

/// An adapter that plans can run on.
pub struct Adapter {
    pub(super) inner: wgpu::Adapter,
}

impl Adapter {
    /// What the driver says of it.
    pub fn info(&self) -> wgpu::AdapterInfo {
        self.inner.get_info()
    }

    /// Its limits.
    pub fn limits(&self) -> wgpu::Limits {
        self.inner.limits()
    }

    /// Whether it adds up within subgroups.
    pub fn has_subgroups(&self) -> bool {
        self.inner.features().contains(Features::SUBGROUP)
    }

    /// Whether it multiplies small matrices of single precision by itself.
    pub fn has_cooperative_matrix(&self) -> bool {
        has_small_matrices(&self.inner)
    }

    /// Whether it is hardware, and not a program that plays a GPU on the processor.
    pub fn is_hardware(&self) -> bool {
        !matches!(self.info().device_type, DeviceType::Cpu | DeviceType::Other)
    }

    /// Whether the kernels can run on it, or what it lacks.
    ///
    /// # Errors
    /// Names the limit that is too low.
    pub fn qualifies(&self) -> Result<()> {
        check_limits(&self.limits(), &self.info().name)
    }
}

/// All adapters of this machine, hardware first, the most capable first.
pub fn adapters() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let found = wait(instance.enumerate_adapters(wgpu::Backends::all()));
    let mut adapters: Vec<Adapter> = found.into_iter().map(|inner| Adapter { inner }).collect();
    let rank = |adapter: &Adapter| match adapter.info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    };
    adapters.sort_by_key(rank);
    adapters
}
