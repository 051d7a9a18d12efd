//! Compiled pipelines that outlive the program, where a driver hands them out (Vulkan).

use sha2::{Digest, Sha256};

use super::context::Context;
use crate::error::{Error, Result};

/// Compiled pipelines of a device, for the host to keep and to give to the next run.
///
/// Their bytes are a driver's own and go back to it unread, so a host must not take them from where
/// others can write. A checksum finds what was damaged, and a key what belongs to another GPU; both
/// are ignored, and the pipelines compiled anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledPipelines {
    key: String,
    data: Vec<u8>,
}

const MAGIC: &[u8] = b"priorfit pipelines 1\n";
/// Bytes of a SHA-256 sum.
const SUM: usize = 32;

impl CompiledPipelines {
    /// The bytes to keep: a mark, a checksum, the length of the GPU's key, the key, the driver's.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = (self.key.len() as u32).to_le_bytes().to_vec();
        body.extend_from_slice(self.key.as_bytes());
        body.extend_from_slice(&self.data);
        [MAGIC, &Sha256::digest(&body)[..], &body].concat()
    }

    /// What [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    /// When the bytes are not such, or damaged.
    ///
    /// # Safety
    /// The bytes come from `to_bytes`: a driver may do anything with forged ones.
    pub unsafe fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = |what: &str| Error::malformed(format!("compiled pipelines: {what}"));
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("the mark is missing"))?;
        let (sum, body) = rest.split_at_checked(SUM).ok_or_else(|| wrong("too short"))?;
        if Sha256::digest(body)[..] != *sum {
            return Err(wrong("the checksum differs"));
        }
        let (len, rest) = body.split_first_chunk().ok_or_else(|| wrong("too short"))?;
        let len = u32::from_le_bytes(*len) as usize;
        let (key, data) = rest.split_at_checked(len).ok_or_else(|| wrong("too short"))?;
        let key = String::from_utf8_lossy(key).into_owned();
        Ok(CompiledPipelines { key, data: data.to_vec() })
    }

    /// The driver's cache on a device, with what was kept of it; none where there is no such thing.
    pub(super) fn open(context: &Context, kept: Option<&Self>) -> Option<wgpu::PipelineCache> {
        let key = key(context)?;
        let data = kept.filter(|kept| kept.key == key).map(|kept| &kept.data[..]);
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("priorfit"), data, fallback: true };
        let opened = context.scoped("opening the cache of pipelines", || {
            // SAFETY: the data come from `collect`, by the contract of `from_bytes`, on a GPU of
            // the same key.
            unsafe { context.device.create_pipeline_cache(&descriptor) }
        });
        // A cache saves time and nothing else.
        opened.inspect_err(|error| log::info!("{error}; pipelines are compiled anew")).ok()
    }

    /// What a device's cache holds now.
    pub(super) fn collect(context: &Context, cache: &wgpu::PipelineCache) -> Option<Self> {
        Some(CompiledPipelines { key: key(context)?, data: cache.get_data()? })
    }
}

/// What tells GPUs apart, for a device that has a cache.
fn key(context: &Context) -> Option<String> {
    let has = context.device.features().contains(wgpu::Features::PIPELINE_CACHE);
    has.then(|| wgpu::util::pipeline_cache_key(&context.info)).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::gpu::{Device, Options, adapters};

    #[test]
    fn compiled_pipelines_survive_and_damage_to_them_is_found() {
        let Some(adapter) = adapters().into_iter().find(|adapter| adapter.qualifies().is_ok())
        else {
            return;
        };
        let device = Device::open(&adapter, Options::default()).expect("a device");
        let Some(compiled) = device.compiled_pipelines() else { return };
        let bytes = compiled.to_bytes();
        // SAFETY: the bytes come from `to_bytes`.
        let again = unsafe { CompiledPipelines::from_bytes(&bytes) }.expect("they are whole");
        assert_eq!(again, compiled);
        let options = Options { compiled_pipelines: Some(Arc::new(again)), ..Options::default() };
        let device = Device::open(&adapter, options).expect("a device");
        assert!(!device.variants().is_empty(), "it is as good as another");
        for at in [0, 25, 60, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            // SAFETY: damaged bytes are refused before a driver sees them.
            let refused = unsafe { CompiledPipelines::from_bytes(&damaged) };
            assert!(refused.is_err(), "byte {at}");
        }
        // SAFETY: as above.
        assert!(unsafe { CompiledPipelines::from_bytes(&bytes[..30]) }.is_err());
    }
}
