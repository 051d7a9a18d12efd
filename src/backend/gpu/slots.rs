//! Working memory on a device: slots that values share over time.
//!
//! A device forbids reading and writing one buffer in a single dispatch, so values do not share an
//! arena but whole slots: two values share one if they are never alive together, which a result and
//! its operands always are. Largest first, each value takes the first slot that is free for its
//! whole life; so no slot has to grow, and slots come out sorted by size.

use crate::plan::{Life, Plan};

/// Elements that every buffer's length is a multiple of: the largest uniform that a small value may
/// be bound as, and more than any alignment of a binding.
pub(super) const GRANULE: usize = 256;

/// Which slot each buffer of a plan is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// Slot of each buffer; none for residents, constants and unused buffers.
    pub of_buffer: Vec<Option<usize>>,
    /// Elements of each slot, largest first.
    pub lens: Vec<usize>,
}

impl Slots {
    /// Assigns all buffers of a plan that its arena holds.
    pub(super) fn assign(plan: &Plan) -> Self {
        let lives = plan.lives();
        let mut order: Vec<usize> = (0..lives.len()).filter(|&b| lives[b].is_some()).collect();
        order.sort_by_key(|&buffer| std::cmp::Reverse(plan.buffers()[buffer].len));
        let mut slots = Slots { of_buffer: vec![None; lives.len()], lens: Vec::new() };
        let mut occupants: Vec<Vec<Life>> = Vec::new();
        for buffer in order {
            let Some(life) = lives[buffer] else { continue };
            let is_free = |lives: &Vec<Life>| !lives.iter().any(|other| other.overlaps(&life));
            let slot = match occupants.iter().position(is_free) {
                Some(slot) => slot,
                None => {
                    occupants.push(Vec::new());
                    slots.lens.push(padded(plan.buffers()[buffer].len));
                    occupants.len() - 1
                }
            };
            occupants[slot].push(life);
            slots.of_buffer[buffer] = Some(slot);
        }
        slots
    }
}

/// The length of the device's buffer for `len` elements.
pub(super) fn padded(len: usize) -> usize {
    len.max(1).next_multiple_of(GRANULE)
}
