//! What a prior says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the file format of priors whose weights all vary together.
pub const VERSION: u32 = 1;

/// The version of the file format of priors in blocks.
pub const VERSION_BLOCKS: u32 = 2;

/// The covariance that the tensors of a file stand for, up to the strength λ.
pub const CONVENTION: &str = "var/2 + dev^T dev / (2 (rank - 1)) + eps";

/// The largest accepted number of deviations: the capacitance matrix has its square of elements.
pub const MAX_RANK: usize = 1024;

/// Where a prior comes from and how its tensors are to be read.
///
/// Fields stand in the order of their names, which makes their JSON canonical.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// SHA-256 of the weights of the backbone it was learned around, as 64 lower-case hex digits.
    pub backbone: String,
    /// The blocks by what they are called, each with the names of its parameters: weights of
    /// different blocks do not vary together. Empty, and absent from the file, without blocks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, Vec<String>>,
    /// [`CONVENTION`]
    pub convention: String,
    /// ε, the variance that every weight has at least.
    pub eps: f32,
    /// How it was learned.
    pub learned: Learned,
    /// Anything a reader should know.
    pub notes: String,
    /// Number of examples of the source task.
    pub num_data: u64,
    /// K, the number of stored deviations, of blocks the largest; 0 for a diagonal prior.
    pub rank: usize,
    /// [`VERSION`] or, with blocks, [`VERSION_BLOCKS`]
    pub version: u32,
}

/// How a prior was learned. What is not known is empty or absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    /// Passes over the source data while snapshots were taken.
    pub epochs: Option<f32>,
    /// Learning rate while snapshots were taken.
    pub learning_rate: Option<f32>,
    /// Name of the method, such as `SWAG`.
    pub method: String,
    /// Name of the schedule of the learning rate.
    pub schedule: String,
    /// Number of weight vectors the moments were taken of.
    pub snapshots: u64,
}

impl Header {
    /// The header of a prior for the backbone with this fingerprint, with nothing more known.
    pub fn new(backbone: impl Into<String>, eps: f32) -> Self {
        Header {
            backbone: backbone.into(),
            blocks: BTreeMap::new(),
            convention: CONVENTION.to_string(),
            eps,
            learned: Learned::default(),
            notes: String::new(),
            num_data: 0,
            rank: 0,
            version: VERSION,
        }
    }

    /// Puts the blocks, or takes them away, and the version with them.
    pub(super) fn set_blocks(&mut self, blocks: BTreeMap<String, Vec<String>>) {
        self.version = if blocks.is_empty() { VERSION } else { VERSION_BLOCKS };
        self.blocks = blocks;
    }

    /// The header of the same prior with no low rank.
    pub(super) fn diagonal(&self) -> Self {
        let mut header = Header { rank: 0, ..self.clone() };
        header.set_blocks(BTreeMap::new());
        header
    }

    /// The canonical JSON of the header.
    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::internal("a header is always JSON").caused_by(e))
    }

    /// Reads a header, refusing other versions before looking at the fields.
    pub(super) fn from_json(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Probe {
            version: u32,
        }
        let malformed = |e: serde_json::Error| {
            Error::malformed(format!("metadata 'priorfit' is not a prior's header: {e}"))
                .caused_by(e)
        };
        let Probe { version } = serde_json::from_str(json).map_err(malformed)?;
        check_version(version)?;
        serde_json::from_str(json).map_err(malformed)
    }

    pub(super) fn check(&self) -> Result<()> {
        check_version(self.version)?;
        let Header { backbone, blocks, convention, eps, rank, learned, version, .. } = self;
        if blocks.is_empty() != (*version == VERSION) || (*rank == 0 && !blocks.is_empty()) {
            let message = format!("a prior of version {version} has {} blocks", blocks.len());
            let hint = format!(
                "expected none in version {VERSION}, and some in version {VERSION_BLOCKS}, whose \
                 rank is above 0"
            );
            return Err(Error::malformed(message).hint(hint));
        }
        if convention != CONVENTION {
            let message = format!("the prior follows the convention '{convention}'");
            let expected = format!("expected '{CONVENTION}'; import it as a foreign prior");
            return Err(Error::unsupported(message).hint(expected));
        }
        if !is_fingerprint(backbone) {
            let message = format!("backbone '{backbone}' is not a fingerprint");
            return Err(Error::malformed(message).hint("expected 64 lower-case hex digits"));
        }
        if !eps.is_finite() || *eps < 0.0 {
            return Err(Error::malformed(format!("eps is {eps}; expected a number of at least 0")));
        }
        if *rank == 1 {
            let reason = "one deviation has no covariance, its divisor rank - 1 is 0";
            return Err(Error::malformed(format!("rank is 1; expected 0 or at least 2: {reason}")));
        }
        if *rank > MAX_RANK {
            return Err(Error::unsupported(format!("rank is {rank}; expected {MAX_RANK} at most")));
        }
        if [learned.epochs, learned.learning_rate].into_iter().flatten().any(|x| !x.is_finite()) {
            return Err(Error::malformed("the learning rate or the epochs are not finite"));
        }
        Ok(())
    }
}

fn check_version(version: u32) -> Result<()> {
    if matches!(version, VERSION | VERSION_BLOCKS) {
        return Ok(());
    }
    let expected = format!("expected version {VERSION} or {VERSION_BLOCKS}");
    let message = format!("the prior file has version {version}; {expected}");
    Err(Error::unsupported(message).hint("write it again with a matching priorfit"))
}

/// 64 lower-case hex digits.
fn is_fingerprint(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
