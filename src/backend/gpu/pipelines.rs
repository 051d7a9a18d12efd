//! Pipelines, built by threads of their own while the caller goes on.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::cache::CompiledPipelines;
use super::context::Context;
use super::first::FirstWorkgroup;
use super::launch::{Access, Program};
use super::shader;
use crate::error::{Error, Kind, Result};

/// Threads that build pipelines.
const BUILDERS: usize = 2;

/// Is told how many of the pipelines that were asked for are built, from a building thread.
pub type OnPipelines = Arc<dyn Fn(usize, usize) + Send + Sync>;

/// A pipeline with the layout of its bindings.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines by program, shared by all backends on a device.
#[derive(Clone)]
pub(super) struct Pipelines {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<Context>,
    on_pipelines: Option<OnPipelines>,
    cache: Option<wgpu::PipelineCache>,
    state: Mutex<State>,
    built: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<Arc<Program>>,
    /// What was built, or why it could not be.
    done: HashMap<Arc<Program>, std::result::Result<Pipeline, String>>,
    wanted: usize,
    builders: usize,
}

impl Pipelines {
    pub(super) fn new(
        context: Arc<Context>,
        on_pipelines: Option<OnPipelines>,
        cache: Option<wgpu::PipelineCache>,
    ) -> Self {
        let (state, built) = (Mutex::default(), Condvar::new());
        Pipelines { shared: Arc::new(Shared { context, on_pipelines, cache, state, built }) }
    }

    /// What the driver compiled so far.
    pub(super) fn compiled(&self) -> Option<CompiledPipelines> {
        CompiledPipelines::collect(&self.shared.context, self.shared.cache.as_ref()?)
    }

    /// Has these programs built, unless they are.
    pub(super) fn request<'a>(&self, programs: impl Iterator<Item = &'a Arc<Program>>) {
        let mut state = self.shared.lock();
        for program in programs {
            if !state.done.contains_key(program) && !state.queue.contains(program) {
                state.queue.push(Arc::clone(program));
                state.wanted += 1;
            }
        }
        while state.builders < BUILDERS.min(state.queue.len()) {
            state.builders += 1;
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name("priorfit-pipelines".to_string());
            if builder.spawn(move || shared.build_all()).is_err() {
                state.builders -= 1;
                break;
            }
        }
        let stranded = state.builders == 0;
        drop(state);
        // Where no thread can be had, the caller builds.
        if stranded {
            self.shared.build_all();
        }
    }

    /// The pipeline of a program that was requested, when it is built.
    ///
    /// # Errors
    /// When the device rejects a pipeline.
    pub(super) fn get(&self, program: &Arc<Program>) -> Result<Pipeline> {
        let mut state = self.shared.lock();
        loop {
            if let Some(result) = state.done.get(program) {
                return result.clone().map_err(|reason| Error::new(Kind::Device, reason));
            }
            if state.builders == 0 {
                return Err(Error::internal(format!("'{}' was not requested", program.shader)));
            }
            state = self.shared.built.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds what is queued until nothing is.
    fn build_all(&self) {
        loop {
            let mut state = self.lock();
            let Some(program) = state.queue.pop() else {
                state.builders = state.builders.saturating_sub(1);
                self.built.notify_all();
                return;
            };
            drop(state);
            // A panic in a driver's compiler must not leave those who wait for its pipeline.
            let result = catch_unwind(AssertUnwindSafe(|| {
                build(&self.context, &program, self.cache.as_ref())
            }));
            let result = match result {
                Ok(built) => built.map_err(|error| error.to_string()),
                Err(_) => Err(format!("building '{}' panicked", program.shader)),
            };
            let mut state = self.lock();
            state.done.insert(program, result);
            let (done, wanted) = (state.done.len(), state.wanted);
            self.built.notify_all();
            drop(state);
            log::debug!("{done} of {wanted} pipelines are built");
            if let Some(on_pipelines) = &self.on_pipelines {
                // Nor must a panic in the host's callback.
                let _ = catch_unwind(AssertUnwindSafe(|| on_pipelines(done, wanted)));
            }
        }
    }
}

fn build(
    context: &Context,
    program: &Program,
    cache: Option<&wgpu::PipelineCache>,
) -> Result<Pipeline> {
    let source = shader::assemble(program.shader, &program.variant)?;
    let doing = format!("building '{}'", program.shader);
    context.scoped(&doing, || {
        let device = &context.device;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(program.shader),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let entries: Vec<_> = program.layout.iter().map(|&entry| layout_entry(entry)).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(program.shader),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(program.shader),
            bind_group_layouts: &[Some(&layout), Some(&FirstWorkgroup::layout(device))],
            immediate_size: 0,
        });
        let constants: Vec<(&str, f64)> =
            program.overrides.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(program.shader),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(program.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache,
        });
        Pipeline { pipeline, layout }
    })
}

fn layout_entry((binding, access): (u32, Access)) -> wgpu::BindGroupLayoutEntry {
    let ty = match access {
        Access::Uniform => wgpu::BufferBindingType::Uniform,
        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
        Access::Write => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
