//! The number of the workgroup that a launch begins with, as `shaders/shared/grid.wgsl` reads it.

use super::context::Context;
use crate::error::Result;

/// The largest alignment that a device may ask of a uniform's start.
const ALIGN: u64 = 256;

/// The bind group of the number: 0, then what [`FirstWorkgroup::set`] was told.
pub(super) struct FirstWorkgroup {
    buffer: wgpu::Buffer,
    group: wgpu::BindGroup,
}

impl FirstWorkgroup {
    /// Its group in every pipeline.
    pub(super) const GROUP: u32 = 1;
    /// Bytes that it takes.
    pub(super) const BYTES: usize = 2 * ALIGN as usize;

    /// The layout of the group.
    pub(super) fn layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("first workgroup"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: true,
                    min_binding_size: None,
                },
                count: None,
            }],
        })
    }

    /// Launches begin at 0.
    ///
    /// # Errors
    /// When the device is out of memory or lost.
    pub(super) fn new(context: &Context) -> Result<Self> {
        context.scoped("reserving memory", || {
            let device = &context.device;
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("first workgroup"),
                size: Self::BYTES as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let number = wgpu::BufferBinding {
                buffer: &buffer,
                offset: 0,
                size: std::num::NonZeroU64::new(size_of::<u32>() as u64),
            };
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("first workgroup"),
                layout: &Self::layout(device),
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(number),
                }],
            });
            FirstWorkgroup { buffer, group }
        })
    }

    /// What the first launch of the next submission begins with.
    pub(super) fn set(&self, queue: &wgpu::Queue, workgroup: usize) {
        if workgroup > 0 {
            queue.write_buffer(&self.buffer, ALIGN, &(workgroup as u32).to_le_bytes());
        }
    }

    /// Binds the number that was set, or 0.
    pub(super) fn bind(&self, pass: &mut wgpu::ComputePass<'_>, is_set: bool) {
        let offset = if is_set { ALIGN as u32 } else { 0 };
        pass.set_bind_group(Self::GROUP, &self.group, &[offset]);
    }
}
