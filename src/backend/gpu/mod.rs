//! Running plans on any GPU, through wgpu.
//!
//! A dispatch of a plan becomes one or more launches of shaders in `shaders/` (`lower`, which
//! needs no device); weights and prior stay on the device; a step is one submission, or several
//! where it would hold the device too long. Outputs are copied to where the host can read them and
//! fetched when they are asked for, so a caller that has something to do in between does not wait.
//!
//! A host may lend its own device ([`Device::shared`]), told by [`requirements`] what to ask for
//! when it makes one. [`wgpu`] is exported here because both must use the same version of it.

mod cache;
mod code;
mod context;
mod first;
mod launch;
mod loaded;
mod lower;
mod memory;
mod pace;
mod params;
mod pipelines;
mod qualify;
mod shader;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub use wgpu;

pub use self::cache::CompiledPipelines;
use self::context::Context;
pub use self::context::{Adapter, adapters, requirements};
use self::loaded::{Loaded, Needs};
use self::lower::Limits;
use self::memory::Memory;
use self::pace::{Pace, Portion, Reached};
pub use self::pipelines::OnPipelines;
use self::pipelines::Pipelines;
pub use self::qualify::Variant;
use super::{Backend, PlanId};
use crate::error::{Error, Result};
use crate::graph::Leaf;
use crate::plan::{Plan, Port};

/// How long a device may take for a submission before it counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// How a device is used.
#[derive(Clone)]
pub struct Options {
    /// About how long a submission may hold the device.
    pub budget: Duration,
    /// The share of the time that the device works for us, above 0 and at most 1.
    pub duty: f64,
    /// Whether the prior's factor columns are stored in half precision, if the device qualifies:
    /// half the memory and traffic of the largest tensors, for a relative error of 2⁻¹¹ in each of
    /// their elements.
    pub half_factor: bool,
    /// Whether products use a device's own small matrices (cooperative matrices), if it multiplies
    /// 8 × 8 of them in single precision and they qualify. wgpu calls them experimental and does
    /// not vouch for the absence of undefined behaviour in its own code for them; a host that wants
    /// none of that sets this to false. A shared device has them if its host made it so.
    pub cooperative_matrices: bool,
    /// Most bytes of a buffer that are bound at a time; what the device allows if none.
    pub binding_limit: Option<u64>,
    /// What [`Device::compiled_pipelines`] gave an earlier run.
    pub compiled_pipelines: Option<Arc<CompiledPipelines>>,
    /// Is told of the pipelines that are built.
    pub on_pipelines: Option<OnPipelines>,
    /// Is given every device of our own when it is opened, for a host's labels and tools.
    pub on_device: Option<OnDevice>,
}

/// Is given a device when it is opened.
pub type OnDevice = Arc<dyn Fn(&wgpu::Device) + Send + Sync>;

impl Default for Options {
    fn default() -> Self {
        Options {
            budget: Duration::from_millis(50),
            duty: 1.0,
            half_factor: false,
            cooperative_matrices: true,
            binding_limit: None,
            compiled_pipelines: None,
            on_pipelines: None,
            on_device: None,
        }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        if !(self.duty > 0.0 && self.duty <= 1.0) {
            let message = format!("duty cycle {}; expected above 0 and at most 1", self.duty);
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

/// A device with its pipelines, which any number of backends share one after the other.
#[derive(Clone)]
pub struct Device {
    context: Arc<Context>,
    options: Options,
    limits: Limits,
    variants: Vec<Variant>,
    pipelines: Pipelines,
}

impl Device {
    /// A device of our own.
    ///
    /// # Errors
    /// When the adapter lacks a needed limit or gives no device.
    pub fn open(adapter: &Adapter, options: Options) -> Result<Self> {
        let is_experiment = options.cooperative_matrices && adapter.has_cooperative_matrix();
        let reason = match Self::open_once(adapter, options.clone()) {
            Ok(device) if is_experiment && device.is_lost() => "the device was lost".to_string(),
            Err(error) if is_experiment => error.to_string(),
            opened => return opened,
        };
        // An experiment that a driver does not survive is not made again.
        let name = qualify::MATRICES;
        log::warn!("'{}' runs without {name}: {reason}", adapter.info().name);
        let options = Options { cooperative_matrices: false, ..options };
        let mut device = Self::open_once(adapter, options)?;
        device.variants.push(Variant { name, used: false, reason: Some(reason) });
        Ok(device)
    }

    fn open_once(adapter: &Adapter, options: Options) -> Result<Self> {
        let context = Context::open(&adapter.inner, options.cooperative_matrices)?;
        if let Some(on_device) = &options.on_device {
            on_device(&context.device);
        }
        Self::new(context, options)
    }

    /// A host's device. Its error callbacks are left alone, and it stays usable for everything
    /// else; [`Options::budget`] says how long it is held at a time.
    ///
    /// # Errors
    /// When the device was made with less than a needed limit.
    pub fn shared(device: wgpu::Device, queue: wgpu::Queue, options: Options) -> Result<Self> {
        Self::new(Context::shared(device, queue)?, options)
    }

    fn new(context: Arc<Context>, options: Options) -> Result<Self> {
        options.check()?;
        let device = &context.limits;
        let binding = device.max_storage_buffer_binding_size.min(device.max_buffer_size);
        let binding = options.binding_limit.map_or(binding, |limit| binding.min(limit));
        let limits = Limits {
            binding: (binding / 4) as usize,
            align: (device.min_storage_buffer_offset_alignment / 4).max(1) as usize,
            half_factor: false,
            subgroups: false,
            cooperative: false,
        };
        let (limits, variants) = qualify::variants(&context, limits, &options);
        Ok(Device { variants, ..Self::bare(context, limits, options) })
    }

    /// A device whose kernels `limits` choose.
    fn bare(context: Arc<Context>, limits: Limits, options: Options) -> Self {
        let kept = options.compiled_pipelines.as_deref();
        let cache = CompiledPipelines::open(&context, kept);
        let pipelines = Pipelines::new(Arc::clone(&context), options.on_pipelines.clone(), cache);
        Device { context, options, limits, variants: Vec::new(), pipelines }
    }

    /// The pipelines compiled so far, to keep for the next run; none where a driver keeps them
    /// itself.
    pub fn compiled_pipelines(&self) -> Option<CompiledPipelines> {
        self.pipelines.compiled()
    }

    /// Whether it is known to be lost.
    pub fn is_lost(&self) -> bool {
        // A device tells of its loss when it is asked for anything.
        let _ = self.context.device.poll(wgpu::PollType::Poll);
        self.context.check("").is_err()
    }

    /// The variants of kernels that depend on the device, and whether they are used.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }
}

/// The GPU backend.
pub struct Gpu {
    context: Arc<Context>,
    limits: Limits,
    pipelines: Pipelines,
    memory: Memory,
    plans: Vec<Loaded>,
    pace: Pace,
}

impl Gpu {
    /// An empty backend on a device.
    pub fn new(device: &Device) -> Self {
        Gpu {
            context: Arc::clone(&device.context),
            limits: device.limits,
            pipelines: device.pipelines.clone(),
            memory: Memory::new(Arc::clone(&device.context)),
            plans: Vec::new(),
            pace: Pace::new(
                device.options.budget,
                device.options.duty,
                device.context.limits.max_compute_workgroups_per_dimension,
            ),
        }
    }

    fn loaded(&self, plan: PlanId) -> &Loaded {
        &self.plans[plan.0]
    }

    /// Submits a plan's launches, cut to the budget. With an observer every stage is waited for
    /// before it is told of the stage's dispatches.
    fn submit(&mut self, plan: PlanId, mut observe: Option<&mut dyn FnMut(usize)>) -> Result<()> {
        let Gpu { context, plans, memory, pipelines, limits, .. } = self;
        plans[plan.0].prepare(context, memory, pipelines, limits)?;
        let count = self.loaded(plan).len();
        let (mut from, mut observed) = (Reached::default(), 0);
        loop {
            let loaded = self.loaded(plan);
            let portion = self.pace.portion(from, observe.is_some(), |at| loaded.load(at));
            let to = portion.to;
            let is_last = to.launch == count;
            let index = self.submit_portion(plan, &portion, is_last)?;
            self.pace.submitted(&self.context, index.clone(), portion.work)?;
            if is_last {
                self.plans[plan.0].expect_outputs(&self.context, index);
            }
            if let Some(observe) = &mut observe
                && self.loaded(plan).is_stage_over(observed, to)
            {
                self.pace.finish(&self.context)?;
                let dispatches = self.loaded(plan).dispatches(observed..to.launch);
                dispatches.for_each(&mut *observe);
                observed = to.launch;
            }
            if is_last {
                return Ok(());
            }
            from = to;
        }
    }

    fn submit_portion(
        &mut self,
        plan: PlanId,
        portion: &Portion,
        with_outputs: bool,
    ) -> Result<wgpu::SubmissionIndex> {
        let Gpu { context, plans, memory, .. } = self;
        let loaded = &mut plans[plan.0];
        let context = &**context;
        context.scoped("running a step", || {
            let mut encoder = context.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                loaded.record(context, &mut pass, portion);
            }
            if with_outputs {
                loaded.record_outputs(memory, &mut encoder);
            }
            context.queue.submit([encoder.finish()])
        })
    }
}

fn port<'a>(ports: &'a [Port], name: &str, len: usize) -> Result<&'a Port> {
    let port = ports.iter().find(|port| port.name == name);
    let port = port.ok_or_else(|| Error::internal(format!("the plan has no port '{name}'")))?;
    if port.shape.len() != len {
        let message = format!("'{name}': {len} elements for {}", port.shape.len());
        return Err(Error::mismatch(message));
    }
    Ok(port)
}

impl Backend for Gpu {
    fn name(&self) -> String {
        let info = &self.context.info;
        format!("{} ({:?})", info.name, info.backend)
    }

    fn load(&mut self, plan: Plan) -> Result<PlanId> {
        let needs = Needs::of(&plan, &self.limits)?;
        let loaded = Loaded::new(plan, needs, &self.context, &mut self.memory, &self.pipelines)?;
        self.plans.push(loaded);
        Ok(PlanId(self.plans.len() - 1))
    }

    fn plan(&self, id: PlanId) -> &Plan {
        &self.loaded(id).plan
    }

    fn set(&mut self, leaf: &Leaf, data: &[f32]) -> Result<()> {
        self.memory.set(leaf, data)
    }

    fn get(&self, leaf: &Leaf) -> Result<Vec<f32>> {
        self.memory.get(leaf)
    }

    fn write(&mut self, plan: PlanId, input: &str, data: &[f32]) -> Result<()> {
        let loaded = &self.plans[plan.0];
        let port = port(loaded.plan.inputs(), input, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let buffer = loaded.port(&self.memory, port)?;
        self.context.scoped("writing an input", || {
            self.context.queue.write_buffer(buffer, 0, bytemuck::cast_slice(data));
        })
    }

    fn run(&mut self, plan: PlanId) -> Result<()> {
        self.submit(plan, None)
    }

    fn run_observed(&mut self, plan: PlanId, observe: &mut dyn FnMut(usize)) -> Result<()> {
        self.submit(plan, Some(observe))
    }

    fn read(&mut self, plan: PlanId, output: &str, data: &mut [f32]) -> Result<()> {
        let loaded = &mut self.plans[plan.0];
        port(loaded.plan.outputs(), output, data.len())?;
        let bytes = loaded.output(&self.context, output)?;
        for (target, source) in data.iter_mut().zip(bytes.chunks_exact(4)) {
            *target = f32::from_le_bytes([source[0], source[1], source[2], source[3]]);
        }
        self.pace.settled();
        Ok(())
    }

    fn bytes_with(&self, plans: &[&Plan]) -> Result<usize> {
        let (mut slots, mut scratch) = self.memory.working();
        let mut more = 0;
        let mut new: HashSet<&Leaf> = HashSet::new();
        let needs: Vec<Needs> =
            plans.iter().map(|plan| Needs::of(plan, &self.limits)).collect::<Result<_>>()?;
        for (plan, needs) in plans.iter().zip(&needs) {
            let (wanted, wanted_scratch) = needs.working();
            slots.resize(slots.len().max(wanted.len()), 0);
            slots.iter_mut().zip(wanted).for_each(|(slot, wanted)| *slot = wanted.max(*slot));
            scratch = scratch.max(wanted_scratch);
            more += needs.own_bytes(plan);
        }
        for (leaf, bytes) in plans.iter().zip(&needs).flat_map(|(plan, n)| n.residents(plan)) {
            if !self.memory.knows(leaf) && new.insert(leaf) {
                more += bytes;
            }
        }
        let (old_slots, old_scratch) = self.memory.working();
        let old = old_slots.iter().sum::<usize>() + old_scratch;
        Ok(self.bytes() - old + slots.iter().sum::<usize>() + scratch + more)
    }

    fn bytes(&self) -> usize {
        self.memory.bytes() + self.plans.iter().map(Loaded::bytes).sum::<usize>()
    }
}
