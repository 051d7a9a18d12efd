//! Buffers on a device: residents, constants, slots and scratch.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, mpsc};

use super::context::Context;
use super::lower::{Limits, factor_shards};
use super::slots::padded;
use crate::error::{Error, Result};
use crate::graph::Leaf;

/// How a resident's elements lie in its buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One buffer, in order.
    Whole,
    /// A prior's factor `[rank, len]`: by shards of the parameter, in each shard its part of every
    /// column, padded to whole vectors; in half precision two elements to a word.
    Factor { rank: usize, half: bool, shards: Vec<Range<usize>> },
}

impl Form {
    /// The form of a factor `[rank, len / rank]`.
    pub(super) fn factor(len: usize, rank: usize, limits: &Limits) -> Self {
        let shards = factor_shards(len / rank.max(1), rank, limits);
        Form::Factor { rank, half: limits.half_factor, shards }
    }

    /// Elements of each buffer.
    pub(super) fn lens(&self, len: usize) -> Vec<usize> {
        match self {
            Form::Whole => vec![padded(len)],
            Form::Factor { rank, half, shards } => {
                let pack = if *half { 2 } else { 1 };
                let column = |shard: &Range<usize>| shard.len().next_multiple_of(4) / pack;
                shards.iter().map(|shard| padded(rank * column(shard))).collect()
            }
        }
    }
}

/// A tensor that stays on the device.
pub(super) struct Resident {
    pub len: usize,
    pub form: Form,
    pub buffers: Vec<wgpu::Buffer>,
}

/// All buffers of a backend.
pub(super) struct Memory {
    context: Arc<Context>,
    pub residents: Vec<Resident>,
    by_leaf: HashMap<Leaf, usize>,
    pub slots: Vec<wgpu::Buffer>,
    pub scratch: Option<wgpu::Buffer>,
    /// Counts the times slots or scratch were replaced.
    pub generation: u64,
}

impl Memory {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Memory {
            context,
            residents: Vec::new(),
            by_leaf: HashMap::new(),
            slots: Vec::new(),
            scratch: None,
            generation: 0,
        }
    }

    fn buffer(&self, label: &str, len: usize) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::UNIFORM | Usage::COPY_SRC | Usage::COPY_DST;
        let size = 4 * len as u64;
        let most = self.context.limits.max_buffer_size;
        if size > most {
            let message = format!(
                "'{label}' needs a buffer of {size} bytes; '{}' offers at most {most}",
                self.context.info.name
            );
            return Err(Error::new(crate::error::Kind::Device, message));
        }
        self.context.scoped("reserving memory", || {
            self.context.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// The resident of a leaf, made if it is new.
    pub(super) fn resident(&mut self, leaf: &Leaf, len: usize, form: Form) -> Result<usize> {
        if let Some(&index) = self.by_leaf.get(leaf) {
            let known = &self.residents[index];
            if known.len != len {
                let message = format!("'{}' has {} elements, not {len}", leaf.name, known.len);
                return Err(Error::mismatch(message));
            }
            if known.form != form && form != Form::Whole {
                return Err(Error::internal(format!("'{}' is used in two forms", leaf.name)));
            }
            return Ok(index);
        }
        let index = self.unnamed(&leaf.name, len, form)?;
        self.by_leaf.insert(leaf.clone(), index);
        Ok(index)
    }

    fn unnamed(&mut self, label: &str, len: usize, form: Form) -> Result<usize> {
        let lens = form.lens(len);
        let buffers = lens.iter().map(|&len| self.buffer(label, len)).collect::<Result<_>>()?;
        self.residents.push(Resident { len, form, buffers });
        Ok(self.residents.len() - 1)
    }

    /// A constant.
    pub(super) fn constant(&mut self, data: &[u8]) -> Result<usize> {
        let index = self.unnamed("constant", data.len() / 4, Form::Whole)?;
        self.context.scoped("writing a constant", || {
            self.context.queue.write_buffer(&self.residents[index].buffers[0], 0, data);
        })?;
        Ok(index)
    }

    /// Where a leaf is.
    pub(super) fn index(&self, leaf: &Leaf) -> Result<usize> {
        let index = self.by_leaf.get(leaf).copied();
        index.ok_or_else(|| Error::internal(format!("no plan has a resident '{}'", leaf.name)))
    }

    /// Makes every slot and the scratch at least so long.
    pub(super) fn grow(&mut self, slots: &[usize], scratch: usize) -> Result<()> {
        for (slot, &len) in slots.iter().enumerate() {
            let known = self.slots.get(slot).map_or(0, |buffer| buffer.size() as usize / 4);
            if known >= len {
                continue;
            }
            // Given back first, so that old and new are never held at once.
            if let Some(old) = self.slots.get(slot) {
                old.destroy();
            }
            let buffer = self.buffer("working memory", len)?;
            match self.slots.get_mut(slot) {
                Some(old) => *old = buffer,
                None => self.slots.push(buffer),
            }
            self.generation += 1;
        }
        let known = self.scratch.as_ref().map_or(0, |buffer| buffer.size() as usize / 4);
        if known < scratch {
            if let Some(old) = self.scratch.take() {
                old.destroy();
            }
            self.scratch = Some(self.buffer("scratch", padded(scratch))?);
            self.generation += 1;
        }
        Ok(())
    }

    /// Writes a resident.
    pub(super) fn set(&self, leaf: &Leaf, data: &[f32]) -> Result<()> {
        let resident = &self.residents[self.index(leaf)?];
        if resident.len != data.len() {
            let message = format!("'{}': {} elements for {}", leaf.name, data.len(), resident.len);
            return Err(Error::mismatch(message));
        }
        let doing = format!("writing '{}'", leaf.name);
        match &resident.form {
            Form::Whole => self.context.scoped(&doing, || {
                self.context.queue.write_buffer(
                    &resident.buffers[0],
                    0,
                    bytemuck::cast_slice(data),
                );
            }),
            Form::Factor { rank, half, shards } => {
                for (shard, buffer) in shards.iter().zip(&resident.buffers) {
                    let bytes = pack(data, *rank, *half, shard);
                    self.context.scoped(&doing, || {
                        self.context.queue.write_buffer(buffer, 0, &bytes);
                    })?;
                }
                Ok(())
            }
        }
    }

    /// Reads a resident.
    pub(super) fn get(&self, leaf: &Leaf) -> Result<Vec<f32>> {
        let resident = &self.residents[self.index(leaf)?];
        let doing = format!("reading '{}'", leaf.name);
        let read = |buffer: &wgpu::Buffer, len: usize| {
            self.context.read(&doing, &[(buffer, 0, 4 * len as u64)])
        };
        match &resident.form {
            Form::Whole => {
                let bytes = read(&resident.buffers[0], resident.len)?;
                Ok(bytemuck::pod_collect_to_vec(&bytes))
            }
            Form::Factor { rank, half, shards } => {
                let mut data = vec![0.0; resident.len];
                for (shard, buffer) in shards.iter().zip(&resident.buffers) {
                    let bytes = read(buffer, buffer.size() as usize / 4)?;
                    unpack(&bytes, *rank, *half, shard, &mut data);
                }
                Ok(data)
            }
        }
    }

    /// Whether there is a resident of this leaf.
    pub(super) fn knows(&self, leaf: &Leaf) -> bool {
        self.by_leaf.contains_key(leaf)
    }

    /// Bytes of the slots and the scratch.
    pub(super) fn working(&self) -> (Vec<usize>, usize) {
        let size = |buffer: &wgpu::Buffer| buffer.size() as usize;
        (self.slots.iter().map(size).collect(), self.scratch.as_ref().map_or(0, size))
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> usize {
        let residents = self.residents.iter().flat_map(|resident| &resident.buffers);
        let all = residents.chain(&self.slots).chain(&self.scratch);
        all.map(|buffer| buffer.size() as usize).sum()
    }
}

/// The bytes of a shard of a factor `[rank, len]`.
fn pack(data: &[f32], rank: usize, half: bool, shard: &Range<usize>) -> Vec<u8> {
    let len = data.len() / rank.max(1);
    let column_len = shard.len().next_multiple_of(4);
    let mut bytes = Vec::with_capacity(rank * column_len * 4);
    for k in 0..rank {
        let column = &data[k * len..][shard.clone()];
        let padding = std::iter::repeat_n(0.0, column_len - shard.len());
        for value in column.iter().copied().chain(padding) {
            match half {
                true => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                false => bytes.extend(value.to_le_bytes()),
            }
        }
    }
    bytes
}

/// The inverse of [`pack`], into `data`.
fn unpack(bytes: &[u8], rank: usize, half: bool, shard: &Range<usize>, data: &mut [f32]) {
    let len = data.len() / rank.max(1);
    let column_len = shard.len().next_multiple_of(4);
    let width = if half { 2 } else { 4 };
    for k in 0..rank {
        let column = bytes[k * column_len * width..].chunks_exact(width);
        for (target, bytes) in data[k * len..][shard.clone()].iter_mut().zip(column) {
            *target = match *bytes {
                [a, b] => half::f16::from_le_bytes([a, b]).to_f32(),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                _ => 0.0,
            };
        }
    }
}

impl Context {
    /// The bytes of pieces of buffers (offset and length), one after the other.
    ///
    /// # Errors
    /// When the device fails before it has them.
    pub(super) fn read(
        &self,
        doing: &str,
        pieces: &[(&wgpu::Buffer, u64, u64)],
    ) -> Result<Vec<u8>> {
        let size: u64 = pieces.iter().map(|&(.., len)| len).sum();
        if size == 0 {
            return Ok(Vec::new());
        }
        let staging = self.staging(doing, size)?;
        let index = self.scoped(doing, || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let mut at = 0;
            for &(buffer, offset, len) in pieces {
                encoder.copy_buffer_to_buffer(buffer, offset, &staging, at, len);
                at += len;
            }
            self.queue.submit([encoder.finish()])
        })?;
        let answer = self.map(&staging);
        self.fetch(doing, &staging, &answer, index)
    }

    /// A buffer for reading back.
    pub(super) fn staging(&self, doing: &str, size: u64) -> Result<wgpu::Buffer> {
        self.scoped(doing, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("staging"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    /// Asks for a staging buffer's contents.
    pub(super) fn map(&self, staging: &wgpu::Buffer) -> Answer {
        let (sender, answer) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // Nobody may be waiting any more.
            let _ = sender.send(result);
        });
        answer
    }

    /// Waits for a staging buffer's contents and returns them; the buffer is free again.
    pub(super) fn fetch(
        &self,
        doing: &str,
        staging: &wgpu::Buffer,
        answer: &Answer,
        index: wgpu::SubmissionIndex,
    ) -> Result<Vec<u8>> {
        self.wait(doing, index)?;
        match answer.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.loss(doing, &error.to_string())),
            Err(_) => return Err(self.loss(doing, "it gave no answer")),
        }
        let bytes = match staging.get_mapped_range(..) {
            Ok(view) => view.to_vec(),
            Err(error) => return Err(self.loss(doing, &error.to_string())),
        };
        staging.unmap();
        Ok(bytes)
    }

    /// Waits until a submission is done.
    ///
    /// # Errors
    /// When the device is lost, or does not answer for minutes.
    pub(super) fn wait(&self, doing: &str, index: wgpu::SubmissionIndex) -> Result<()> {
        let poll = wgpu::PollType::Wait {
            submission_index: Some(index),
            timeout: Some(super::ANSWER_TIMEOUT),
        };
        let polled = self.device.poll(poll);
        self.check(doing)?;
        polled.map(|_| ()).map_err(|error| self.loss(doing, &error.to_string()))
    }
}

/// Whether a staging buffer could be mapped.
pub(super) type Answer = mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>;
