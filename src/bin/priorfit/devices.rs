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
    gpus: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    backend: String,
    kind: String,
    driver: String,
    hardware: bool,
    /// What it lacks, or nothing.
    lacks: Option<String>,
    /// Kernels that were compared with the plain ones and are used.
    variants: Vec<String>,
    /// Kernels that are not, and why.
    dropped: Vec<String>,
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
fn gpus() -> Vec<Row> {
    use priorfit::backend::gpu::{Device, Options, adapters};
    let describe = |adapter: priorfit::backend::gpu::Adapter| {
        let options = Options { half_factor: true, ..Options::default() };
        let opened = Device::open(&adapter, options);
        let (lacks, variants) = match opened {
            Ok(device) => (None, device.variants().to_vec()),
            Err(error) => (Some(error.to_string()), Vec::new()),
        };
        let (used, dropped): (Vec<_>, Vec<_>) = variants.into_iter().partition(|v| v.used);
        let (info, limits) = (adapter.info(), adapter.limits());
        Row {
            backend: format!("{:?}", info.backend),
            kind: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            hardware: adapter.is_hardware(),
            lacks,
            variants: used.into_iter().map(|v| v.name.to_string()).collect(),
            dropped: dropped
                .into_iter()
                .map(|v| format!("{}: {}", v.name, v.reason.unwrap_or_default()))
                .collect(),
            max_buffer_mb: limits.max_buffer_size >> 20,
            max_binding_mb: limits.max_storage_buffer_binding_size >> 20,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            subgroups: adapter.has_subgroups(),
            cooperative_matrix: adapter.has_cooperative_matrix(),
            name: info.name,
        }
    };
    adapters().into_iter().map(describe).collect()
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<Row> {
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
                None => {
                    let kernels = [&["plain".to_string()], &gpu.variants[..]].concat().join(", ");
                    writeln!(f, "  qualifies; kernels: {kernels}")?;
                    gpu.dropped.iter().try_for_each(|text| writeln!(f, "  without {text}"))?;
                }
                Some(lacks) => writeln!(f, "  does not qualify: {lacks}")?,
            }
        }
        match self.gpus.is_empty() {
            true => writeln!(f, "no GPU was found"),
            false => Ok(()),
        }
    }
}
