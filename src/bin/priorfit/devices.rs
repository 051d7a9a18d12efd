//! `devices`: what there is to run on.

use std::fmt;
use std::process::ExitCode;

use clap::Args;
use priorfit::error::Result;
use serde::Serialize;

use crate::globals::Globals;

/// List the GPUs of this machine, their limits, and whether they qualify
#[derive(Args)]
#[command(after_long_help = "\
`--device auto` takes the first hardware GPU that qualifies, or else the processor; `--device gpu`
takes one in software too if there is no other; any part of a name chooses that GPU.")]
pub struct Devices {}

#[derive(Serialize)]
struct Report {
    threads: usize,
    gpus: Vec<Gpu>,
}

#[derive(Serialize)]
struct Gpu {
    name: String,
    backend: String,
    kind: String,
    driver: String,
    hardware: bool,
    /// What it lacks, or nothing.
    lacks: Option<String>,
    max_buffer_mb: u64,
    max_binding_mb: u64,
    storage_buffers: u32,
    workgroup_memory: u32,
    subgroups: bool,
    cooperative_matrix: bool,
}

impl Devices {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        globals.print(&Report { threads: globals.threads().count(), gpus: gpus() })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(feature = "gpu")]
fn gpus() -> Vec<Gpu> {
    use priorfit::backend::gpu::{adapters, wgpu::Features};
    let describe = |adapter: priorfit::backend::gpu::Adapter| {
        let (info, limits, features) = (adapter.info(), adapter.limits(), adapter.features());
        Gpu {
            backend: format!("{:?}", info.backend),
            kind: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            hardware: adapter.is_hardware(),
            lacks: adapter.qualifies().err().map(|error| error.to_string()),
            max_buffer_mb: limits.max_buffer_size >> 20,
            max_binding_mb: limits.max_storage_buffer_binding_size >> 20,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            subgroups: features.contains(Features::SUBGROUP),
            cooperative_matrix: features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            name: info.name,
        }
    };
    adapters().into_iter().map(describe).collect()
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<Gpu> {
    Vec::new()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cpu: {} threads", self.threads)?;
        for gpu in &self.gpus {
            let kind = if gpu.hardware { "hardware" } else { "software" };
            writeln!(f, "{} ({}, {kind}, {})", gpu.name, gpu.backend, gpu.driver)?;
            writeln!(
                f,
                "  buffers up to {} MiB, {} MiB bound at once, {} in a stage; {} bytes shared",
                gpu.max_buffer_mb, gpu.max_binding_mb, gpu.storage_buffers, gpu.workgroup_memory
            )?;
            let has = |name: &str, has: bool| format!("{} {name}", if has { "has" } else { "no" });
            writeln!(
                f,
                "  {}, {}",
                has("subgroups", gpu.subgroups),
                has("cooperative matrices", gpu.cooperative_matrix)
            )?;
            match &gpu.lacks {
                None => writeln!(f, "  qualifies: all kernels run on it")?,
                Some(lacks) => writeln!(f, "  does not qualify: {lacks}")?,
            }
        }
        match self.gpus.is_empty() {
            true => writeln!(f, "no GPU was found"),
            false => Ok(()),
        }
    }
}
