//! Which kernels the processor can run.

use std::sync::OnceLock;

use super::dots::PackRowsFn;
use super::pack::PackFn;
use super::planes::{PadFn, RowsFn};
use super::portable;
use super::taps::{CorrelateFn, FilterFn};
use super::tile::TileFn;
use super::winograd::Winograd;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// The kernels of one instruction set.
#[derive(Debug)]
pub(crate) struct Isa {
    /// For reports and tests.
    pub name: &'static str,
    /// Elements of one register.
    pub lanes: usize,
    /// Columns of a full tile: two registers.
    pub columns: usize,
    /// Packs blocks of operands.
    pub pack: PackFn,
    /// Packs rows of neighbours in k.
    pub pack_rows: PackRowsFn,
    /// Filters a padded plane.
    pub filter: FilterFn,
    /// Correlates two padded planes.
    pub correlate: CorrelateFn,
    /// Pads a plane.
    pub pad: PadFn,
    /// Copies parts of rows.
    pub copy_rows: RowsFn,
    /// The transforms of minimal filtering.
    pub winograd: Winograd,
    /// `tiles[rows - 1][registers - 1]`
    pub tiles: &'static [[TileFn; 2]],
}

impl Isa {
    /// The fastest set that this processor has.
    pub fn best() -> &'static Isa {
        static BEST: OnceLock<&'static Isa> = OnceLock::new();
        BEST.get_or_init(|| Self::available().last().expect("the portable set is always there"))
    }

    /// All sets that this processor has, the fastest last.
    pub fn available() -> impl DoubleEndedIterator<Item = &'static Isa> {
        let mut sets: [Option<&'static Isa>; 3] = [Some(&portable::ISA), None, None];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets[1] = Some(&avx2::ISA);
            }
            if is_x86_feature_detected!("avx512f") {
                sets[2] = Some(&avx512::ISA);
            }
        }
        sets.into_iter().flatten()
    }

    /// Most rows of a tile.
    pub fn rows(&self) -> usize {
        self.tiles.len()
    }
}
