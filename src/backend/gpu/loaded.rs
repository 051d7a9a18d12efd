//! A plan on a device: its launches, where their bindings are, and how its outputs come back.

use std::ops::Range;

use super::context::Context;
use super::first::FirstWorkgroup;
use super::launch::{Access, Binding, Bound, Launch, grid};
use super::lower::{Limits, lower};
use super::memory::{Answer, Form, Memory};
use super::pace::{Load, Portion, Reached};
use super::pipelines::{Pipeline, Pipelines};
use super::slots::{Slots, padded};
use crate::error::{Context as _, Error, Result};
use crate::graph::Leaf;
use crate::graph::{PriorTerm, Stage, Update};
use crate::kernel::Kernel;
use crate::plan::{BufferId, Dispatch, Place, Plan, Port};
use crate::tensor::contiguous;

/// Bytes that a uniform's start is a multiple of: the largest alignment a device may ask for.
const UNIFORM_ALIGN: usize = 256;

/// A launch, the dispatch it belongs to, and the work it is.
struct Step {
    launch: Launch,
    dispatch: usize,
    stage: Stage,
    work: f64,
}

/// Where a buffer of the plan is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Location {
    /// In a slot.
    Slot(usize),
    /// A resident or a constant.
    Resident(usize),
    /// Nowhere: nothing uses it.
    Unused,
}

/// What a plan needs of a device, known without one.
pub(super) struct Needs {
    slots: Slots,
    steps: Vec<Step>,
    /// Elements of scratch.
    scratch: usize,
    /// The form of each resident.
    forms: Vec<Form>,
}

impl Needs {
    /// Lowers a plan.
    ///
    /// # Errors
    /// When a dispatch needs more than the device binds; the error names its node.
    pub(super) fn of(plan: &Plan, limits: &Limits) -> Result<Self> {
        let mut needs = Needs {
            slots: Slots::assign(plan),
            steps: Vec::new(),
            scratch: 0,
            forms: forms(plan, limits),
        };
        for (index, dispatch) in plan.dispatches().iter().enumerate() {
            needs
                .dispatch(plan, index, dispatch, limits)
                .context(|| format!("planning node '{}' for the device", dispatch.origin))?;
        }
        Ok(needs)
    }

    fn dispatch(
        &mut self,
        plan: &Plan,
        index: usize,
        dispatch: &Dispatch,
        limits: &Limits,
    ) -> Result<()> {
        let launches = lower(&dispatch.kernel, limits)?;
        let share = dispatch.kernel.flops() as f64 / launches.len().max(1) as f64;
        for launch in launches {
            let mut bound = 0;
            for binding in &launch.bindings {
                let len = bound_len(plan, dispatch, binding);
                if len > limits.binding {
                    return Err(too_large(dispatch, len, limits));
                }
                bound += len;
            }
            if launch.scratch_len > limits.binding {
                return Err(too_large(dispatch, launch.scratch_len, limits));
            }
            self.scratch = self.scratch.max(launch.scratch_len);
            let work = share + 8.0 * bound as f64;
            self.steps.push(Step { launch, dispatch: index, stage: dispatch.stage, work });
        }
        Ok(())
    }

    /// Bytes of working memory in each slot, and of scratch.
    pub(super) fn working(&self) -> (Vec<usize>, usize) {
        let slots = self.slots.lens.iter().map(|len| 4 * len).collect();
        let scratch = if self.scratch > 0 { 4 * padded(self.scratch) } else { 0 };
        (slots, scratch)
    }

    /// Bytes that this plan alone takes: constants, tables, uniforms, and outputs on their way.
    pub(super) fn own_bytes(&self, plan: &Plan) -> usize {
        let buffers = plan.buffers().iter();
        let constants = buffers.filter(|buffer| matches!(buffer.place, Place::Constant(_)));
        let constants: usize = constants.map(|buffer| padded(buffer.len)).sum();
        let tables: usize = self.steps.iter().flat_map(|s| &s.launch.bindings).map(table_len).sum();
        let outputs: usize = plan.outputs().iter().map(|port| port.shape.len()).sum();
        4 * (constants + tables + outputs) + self.params_len() + FirstWorkgroup::BYTES
    }

    /// The plan's residents with their bytes.
    pub(super) fn residents<'a>(
        &'a self,
        plan: &'a Plan,
    ) -> impl Iterator<Item = (&'a Leaf, usize)> {
        plan.buffers().iter().zip(&self.forms).filter_map(|(buffer, form)| match &buffer.place {
            Place::Resident(leaf) => Some((leaf, 4 * form.lens(buffer.len).iter().sum::<usize>())),
            _ => None,
        })
    }

    fn params_len(&self) -> usize {
        let bindings = self.steps.iter().flat_map(|step| &step.launch.bindings);
        let len = |binding: &Binding| match &binding.bound {
            Bound::Params(bytes) => bytes.len().next_multiple_of(UNIFORM_ALIGN),
            _ => 0,
        };
        bindings.map(len).sum::<usize>().max(UNIFORM_ALIGN)
    }
}

/// The error of a binding of `len` elements.
fn too_large(dispatch: &Dispatch, len: usize, limits: &Limits) -> Error {
    let (needed, offered) = (4 * len, 4 * limits.binding);
    let kernel = dispatch.kernel.name();
    Error::unsupported(format!(
        "'{kernel}' binds {needed} bytes at once; the device offers {offered}"
    ))
    .hint("use a smaller batch or smaller images, or another device")
}

fn table_len(binding: &Binding) -> usize {
    match &binding.bound {
        Bound::Table(table) => padded(table.len()),
        _ => 0,
    }
}

/// The operand that a binding of a dispatch is, or its result.
fn buffer_of(dispatch: &Dispatch, bound: &Bound) -> Option<BufferId> {
    match bound {
        Bound::Operand(operand) | Bound::Shard(operand, _) => dispatch.reads.get(*operand).copied(),
        Bound::Result(result) => dispatch.writes.get(*result).copied(),
        _ => None,
    }
}

/// Elements that a binding covers.
fn bound_len(plan: &Plan, dispatch: &Dispatch, binding: &Binding) -> usize {
    match (&binding.bound, binding.window) {
        // Shards are made to fit.
        (Bound::Shard(..) | Bound::Params(_) | Bound::Scratch, _) => 0,
        (Bound::Table(table), _) => table.len(),
        (_, Some((_, len))) => len,
        (bound, None) => {
            buffer_of(dispatch, bound).map_or(0, |buffer| plan.buffers()[buffer.index()].len)
        }
    }
}

/// The form of each of the plan's buffers.
fn forms(plan: &Plan, limits: &Limits) -> Vec<Form> {
    let mut forms = vec![Form::Whole; plan.buffers().len()];
    for dispatch in plan.dispatches() {
        if let Kernel::Update { update, rank, .. } = &dispatch.kernel
            && let Update { method, prior: PriorTerm::LowRank { .. } } = update
            && let Some(factor) = dispatch.reads.get(4 + method.moments().len() + 2)
        {
            let len = plan.buffers()[factor.index()].len;
            forms[factor.index()] = Form::factor(len, *rank, limits);
        }
    }
    forms
}

/// A plan that was given its memory.
pub(super) struct Loaded {
    pub plan: Plan,
    steps: Vec<Step>,
    locations: Vec<Location>,
    slots: Slots,
    scratch: usize,
    /// All launches' uniforms.
    params: wgpu::Buffer,
    /// Where each launch's uniforms start, in order of its bindings.
    params_at: Vec<u64>,
    /// Residents that hold the launches' tables, in order.
    tables: Vec<usize>,
    first_workgroup: FirstWorkgroup,
    bound: Option<Ready>,
    outputs: Outputs,
}

/// Pipelines and bind groups, valid for one generation of the memory.
struct Ready {
    generation: u64,
    groups: Vec<(Pipeline, wgpu::BindGroup)>,
}

/// The outputs of the last run on their way to the host.
struct Outputs {
    staging: Option<wgpu::Buffer>,
    /// Where each output starts, in bytes.
    starts: Vec<u64>,
    pending: Option<(Answer, wgpu::SubmissionIndex)>,
    values: Vec<u8>,
}

impl Loaded {
    /// Gives a plan its memory and has its pipelines built.
    pub(super) fn new(
        plan: Plan,
        needs: Needs,
        context: &Context,
        memory: &mut Memory,
        pipelines: &Pipelines,
    ) -> Result<Self> {
        let Needs { slots, steps, scratch, forms } = needs;
        pipelines.request(steps.iter().map(|step| &step.launch.program));
        let mut locations = Vec::new();
        for (index, (buffer, form)) in plan.buffers().iter().zip(forms).enumerate() {
            locations.push(match &buffer.place {
                Place::Arena(_) => slots.of_buffer[index].map_or(Location::Unused, Location::Slot),
                Place::Resident(leaf) => {
                    Location::Resident(memory.resident(leaf, buffer.len, form)?)
                }
                Place::Constant(tensor) => {
                    let data = contiguous(tensor);
                    Location::Resident(memory.constant(bytemuck::cast_slice(&data))?)
                }
            });
        }
        memory.grow(&slots.lens, scratch)?;
        let (params, params_at) = upload_params(context, &steps)?;
        let mut tables = Vec::new();
        for binding in steps.iter().flat_map(|step| &step.launch.bindings) {
            if let Bound::Table(table) = &binding.bound {
                tables.push(memory.constant(bytemuck::cast_slice(table))?);
            }
        }
        let mut starts = Vec::new();
        let mut size = 0;
        for port in plan.outputs() {
            starts.push(size);
            size += 4 * port.shape.len() as u64;
        }
        let staging = match size {
            0 => None,
            size => Some(context.staging("reserving memory", size)?),
        };
        let outputs = Outputs { staging, starts, pending: None, values: Vec::new() };
        Ok(Loaded {
            plan,
            steps,
            locations,
            slots,
            scratch,
            params,
            params_at,
            tables,
            first_workgroup: FirstWorkgroup::new(context)?,
            bound: None,
            outputs,
        })
    }

    /// Bytes that this plan alone holds on the device.
    pub(super) fn bytes(&self) -> usize {
        let staging = self.outputs.staging.as_ref().map_or(0, |buffer| buffer.size());
        (self.params.size() + staging) as usize + FirstWorkgroup::BYTES
    }

    /// Where a port's values are.
    pub(super) fn port<'m>(&self, memory: &'m Memory, port: &Port) -> Result<&'m wgpu::Buffer> {
        self.buffer(memory, port.buffer)
            .ok_or_else(|| Error::internal(format!("the port '{}' has no memory", port.name)))
    }

    fn buffer<'m>(&self, memory: &'m Memory, buffer: BufferId) -> Option<&'m wgpu::Buffer> {
        match self.locations[buffer.index()] {
            Location::Slot(slot) => memory.slots.get(slot),
            Location::Resident(index) => memory.residents[index].buffers.first(),
            Location::Unused => None,
        }
    }

    /// Makes the bind groups, unless they are made for this memory.
    pub(super) fn prepare(
        &mut self,
        context: &Context,
        memory: &mut Memory,
        pipelines: &Pipelines,
        limits: &Limits,
    ) -> Result<()> {
        memory.grow(&self.slots.lens, self.scratch)?;
        if self.bound.as_ref().is_some_and(|ready| ready.generation == memory.generation) {
            return Ok(());
        }
        let mut groups = Vec::with_capacity(self.steps.len());
        let (mut params, mut tables) = (self.params_at.iter(), self.tables.iter());
        for step in &self.steps {
            let pipeline = pipelines.get(&step.launch.program)?;
            let dispatch = &self.plan.dispatches()[step.dispatch];
            let mut entries = Vec::with_capacity(step.launch.bindings.len());
            for binding in &step.launch.bindings {
                let resource = match &binding.bound {
                    Bound::Params(bytes) => {
                        let offset = params.next().copied().unwrap_or(0);
                        piece(&self.params, offset, bytes.len() as u64)
                    }
                    Bound::Table(_) => {
                        let index = tables.next().copied().unwrap_or(0);
                        memory.residents[index].buffers.first().map(whole)
                    }
                    Bound::Scratch => {
                        memory.scratch.as_ref().and_then(|buffer| bindable(buffer, limits))
                    }
                    Bound::Shard(operand, shard) => {
                        self.shard(memory, dispatch, *operand, *shard).map(whole)
                    }
                    bound => buffer_of(dispatch, bound).and_then(|id| {
                        let len = self.plan.buffers()[id.index()].len;
                        windowed(self.buffer(memory, id)?, len, binding)
                    }),
                };
                let resource = resource.ok_or_else(|| {
                    Error::internal(format!("'{}' binds nothing", step.launch.program.shader))
                })?;
                entries.push(wgpu::BindGroupEntry { binding: binding.at, resource });
            }
            let group = context.scoped("binding memory", || {
                context.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(step.launch.program.shader),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            })?;
            groups.push((pipeline, group));
        }
        self.bound = Some(Ready { generation: memory.generation, groups });
        Ok(())
    }

    fn shard<'m>(
        &self,
        memory: &'m Memory,
        dispatch: &Dispatch,
        operand: usize,
        shard: usize,
    ) -> Option<&'m wgpu::Buffer> {
        match self.locations[dispatch.reads.get(operand)?.index()] {
            Location::Resident(index) => memory.residents[index].buffers.get(shard),
            _ => None,
        }
    }

    /// Number of launches.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// What there is to know of a launch; nothing behind the last.
    pub(super) fn load(&self, launch: usize) -> Option<Load> {
        self.steps.get(launch).map(|step| Load {
            stage: step.stage,
            work: step.work,
            workgroups: step.launch.workgroups,
        })
    }

    /// Whether the stage that launch `begun` is of is over where `to` is reached.
    pub(super) fn is_stage_over(&self, begun: usize, to: Reached) -> bool {
        let stage = |launch: usize| self.steps.get(launch).map(|step| step.stage);
        to.launch == self.len() || to.workgroup == 0 && stage(to.launch) != stage(begun)
    }

    /// The dispatches of whole stages' launches, each once.
    pub(super) fn dispatches(&self, launches: Range<usize>) -> impl Iterator<Item = usize> {
        let mut last = None;
        let numbers = self.steps[launches].iter().map(|step| step.dispatch);
        numbers.filter(move |&number| last.replace(number) != Some(number))
    }

    /// Records a portion of the launches into a pass.
    pub(super) fn record(
        &self,
        context: &Context,
        pass: &mut wgpu::ComputePass<'_>,
        portion: &Portion,
    ) {
        let Some(ready) = &self.bound else { return };
        let (from, to) = (portion.from, portion.to);
        let last = if to.workgroup > 0 { to.launch + 1 } else { to.launch };
        self.first_workgroup.set(&context.queue, from.workgroup);
        self.first_workgroup.bind(pass, from.workgroup > 0);
        for number in from.launch..last {
            let (launch, (pipeline, group)) = (&self.steps[number].launch, &ready.groups[number]);
            let first = if number == from.launch { from.workgroup } else { 0 };
            let end = if number == to.launch { to.workgroup } else { launch.workgroups };
            let limit = context.limits.max_compute_workgroups_per_dimension;
            let [x, y, z] = grid(end - first, limit);
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(x, y, z);
            if first > 0 {
                self.first_workgroup.bind(pass, false);
            }
        }
    }

    /// Records the copies of the outputs to where the host can read them.
    pub(super) fn record_outputs(&mut self, memory: &Memory, encoder: &mut wgpu::CommandEncoder) {
        self.outputs.values.clear();
        let Some(staging) = &self.outputs.staging else { return };
        if self.outputs.pending.take().is_some() {
            staging.unmap();
        }
        for (port, &start) in self.plan.outputs().iter().zip(&self.outputs.starts) {
            let len = 4 * port.shape.len() as u64;
            if let Some(buffer) = self.buffer(memory, port.buffer)
                && len > 0
            {
                encoder.copy_buffer_to_buffer(buffer, 0, staging, start, len);
            }
        }
    }

    /// Asks for the outputs, which `index` brings.
    pub(super) fn expect_outputs(&mut self, context: &Context, index: wgpu::SubmissionIndex) {
        if let Some(staging) = &self.outputs.staging {
            self.outputs.pending = Some((context.map(staging), index));
        }
    }

    /// An output of the last run; waits until it is there.
    pub(super) fn output(&mut self, context: &Context, name: &str) -> Result<&[u8]> {
        if let (Some((answer, index)), Some(staging)) =
            (self.outputs.pending.take(), &self.outputs.staging)
        {
            self.outputs.values = context.fetch("running a step", staging, &answer, index)?;
        }
        let ports = self.plan.outputs().iter().zip(&self.outputs.starts);
        let (port, &start) = ports
            .into_iter()
            .find(|(port, _)| port.name == name)
            .ok_or_else(|| Error::internal(format!("the plan has no output '{name}'")))?;
        let (start, len) = (start as usize, 4 * port.shape.len());
        self.outputs
            .values
            .get(start..start + len)
            .ok_or_else(|| Error::internal(format!("'{name}' is read before the plan ran")))
    }
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BindingResource<'_> {
    buffer.as_entire_binding()
}

fn piece(buffer: &wgpu::Buffer, offset: u64, len: u64) -> Option<wgpu::BindingResource<'_>> {
    let size = std::num::NonZeroU64::new(len);
    size.map(|size| {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: Some(size) })
    })
}

/// As much of a buffer as a device binds at a time.
fn bindable<'m>(buffer: &'m wgpu::Buffer, limits: &Limits) -> Option<wgpu::BindingResource<'m>> {
    piece(buffer, 0, buffer.size().min(4 * limits.binding as u64))
}

/// The window of a binding, or all `len` elements of a value: not the slot's, which may be longer
/// than a device binds.
fn windowed<'m>(
    buffer: &'m wgpu::Buffer,
    len: usize,
    binding: &Binding,
) -> Option<wgpu::BindingResource<'m>> {
    // Whole vectors, for shaders that read four elements at a time.
    let whole_vectors = |len: usize| 4 * len.max(1).next_multiple_of(4) as u64;
    match (binding.window, binding.access) {
        (Some((start, len)), Access::Read | Access::Write) => {
            piece(buffer, 4 * start as u64, whole_vectors(len))
        }
        // A shader declares a uniform longer than a small value is; the padding is there to read.
        (_, Access::Uniform) => piece(buffer, 0, 4 * super::slots::GRANULE as u64),
        (None, _) => piece(buffer, 0, whole_vectors(len)),
    }
}

/// One buffer with the uniforms of all launches.
fn upload_params(context: &Context, steps: &[Step]) -> Result<(wgpu::Buffer, Vec<u64>)> {
    let mut bytes = Vec::new();
    let mut starts = Vec::new();
    for binding in steps.iter().flat_map(|step| &step.launch.bindings) {
        if let Bound::Params(params) = &binding.bound {
            starts.push(bytes.len() as u64);
            bytes.extend_from_slice(params);
            bytes.resize(bytes.len().next_multiple_of(UNIFORM_ALIGN), 0);
        }
    }
    let buffer = context.scoped("writing uniforms", || {
        let buffer = context.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: bytes.len().max(UNIFORM_ALIGN) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        context.queue.write_buffer(&buffer, 0, &bytes);
        buffer
    })?;
    Ok((buffer, starts))
}
