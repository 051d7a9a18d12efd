//! Memory of the processor backend, and the one place where a dispatch's operands and results are
//! taken from it.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::plan::BufferId;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats that start on a cache line. The cells let a run write residents while it reads others.
pub(super) struct Aligned {
    lines: Vec<UnsafeCell<Line>>,
    len: usize,
}

impl Aligned {
    pub(super) fn zeros(len: usize) -> Self {
        let mut lines = Vec::with_capacity(len.div_ceil(16));
        prefer_large_pages(&mut lines);
        lines.extend((0..len.div_ceil(16)).map(|_| UnsafeCell::new(Line([0.0; 16]))));
        Aligned { lines, len }
    }

    pub(super) fn from_slice(data: &[f32]) -> Self {
        let mut aligned = Self::zeros(data.len());
        aligned.copy_from_slice(data);
        aligned
    }

    /// Makes room for `len` elements; what it held may be lost.
    pub(super) fn grow(&mut self, len: usize) {
        if len > self.len {
            // Given back first, so that old and new are never held at once.
            self.lines = Vec::new();
            *self = Self::zeros(len);
        }
    }
}

/// Bytes from which on large pages are asked for: several of the usual 2 MiB.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

/// Asks the system for large pages behind memory that nothing was written to yet. Convolutions walk
/// over channels, which are planes apart: with small pages each is a page of its own, and more of
/// them are in use than a processor keeps addresses of.
#[cfg(target_os = "linux")]
fn prefer_large_pages<T>(memory: &mut Vec<T>) {
    use rustix::mm::{Advice, madvise};
    use rustix::param::page_size;
    let memory = memory.spare_capacity_mut();
    let (start, len) = (memory.as_mut_ptr().cast::<u8>(), size_of_val(memory));
    if len < LARGE {
        return;
    }
    // Whole pages within the memory.
    let skipped = start.align_offset(page_size()).min(len);
    let whole = (len - skipped) / page_size() * page_size();
    // SAFETY: a hint on pages that belong to this memory alone, which changes no content. A system
    // that knows no large pages refuses it, and nothing is lost.
    let _ = unsafe { madvise(start.add(skipped).cast(), whole, Advice::LinuxHugepage) };
}

/// Other systems choose pages themselves.
#[cfg(not(target_os = "linux"))]
fn prefer_large_pages<T>(_memory: &mut Vec<T>) {}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the lines hold at least `len` initialised floats.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Where a buffer is.
#[derive(Clone, Copy)]
pub(super) enum Location {
    /// In the arena.
    Arena { start: usize, len: usize },
    /// A resident or a constant.
    Resident { index: usize },
}

/// All memory of one run, by buffer.
///
/// The plan's check proves that the results of a dispatch overlap neither each other nor its
/// operands, an update's own parameter and moments excepted, which it takes as results only.
pub(super) struct Memory<'a> {
    arena: *mut f32,
    arena_len: usize,
    residents: *mut Aligned,
    locations: &'a [Location],
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<'a> Memory<'a> {
    pub(super) fn new(
        arena: &'a mut Aligned,
        residents: &'a mut [Aligned],
        locations: &'a [Location],
    ) -> Self {
        let (arena_len, arena) = (arena.len(), arena.as_mut_ptr());
        let residents = residents.as_mut_ptr();
        Memory { arena, arena_len, residents, locations, lifetime: PhantomData }
    }

    fn pointer(&self, buffer: BufferId) -> (*mut f32, usize) {
        match self.locations[buffer.index()] {
            Location::Arena { start, len } => {
                assert!(start + len <= self.arena_len, "a buffer lies in the arena");
                // SAFETY: inside the arena by the assertion.
                (unsafe { self.arena.add(start) }, len)
            }
            Location::Resident { index } => {
                // SAFETY: locations are made with the resident they name; the reference to the
                // vector's header ends here, and headers are not written during a run.
                let resident = unsafe { &*self.residents.add(index) };
                (UnsafeCell::raw_get(resident.lines.as_ptr()).cast(), resident.len)
            }
        }
    }

    /// An operand of the present dispatch.
    pub(super) fn read(&self, buffer: BufferId) -> &[f32] {
        let (pointer, len) = self.pointer(buffer);
        // SAFETY: initialised memory that no result of this dispatch overlaps (see the type).
        unsafe { std::slice::from_raw_parts(pointer, len) }
    }

    /// A result of the present dispatch.
    ///
    /// # Safety
    /// Called once for each result of a dispatch, and the slice is dropped before the next one.
    #[expect(clippy::mut_from_ref, reason = "results are disjoint by the plan's check")]
    pub(super) unsafe fn write(&self, buffer: BufferId) -> &mut [f32] {
        let (pointer, len) = self.pointer(buffer);
        // SAFETY: disjoint from everything else in use by the caller's contract and the check.
        unsafe { std::slice::from_raw_parts_mut(pointer, len) }
    }
}
