//! A small pool of threads for data-parallel kernels.
//!
//! One [`Threads::run`] hands out task numbers `0..tasks` to the pool and to the calling thread and
//! returns when all are done. A run completes as soon as its *tasks* are done: a worker that the
//! operating system has put aside holds nobody up unless it is inside a task. Idle workers spin for
//! a few microseconds, then sleep, so the pool stays out of the host program's way. A run allocates
//! nothing.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{JoinHandle, Thread};

/// The body of a run: called with the task's number and the number of the worker that runs it.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// How often an idle thread looks for work before it sleeps (roughly 20 µs).
const SPINS: usize = 4_000;

/// The task number of an epoch that hands out no tasks.
const CLOSED: u64 = 0xFFFF_FFFF;

/// A pool of worker threads; the caller of [`Threads::run`] is worker 0.
pub struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    /// Serialises runs of threads that share a pool.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Shared {
    /// Epoch in the high half, next unclaimed task in the low half.
    ticket: AtomicU64,
    tasks: AtomicUsize,
    done: AtomicUsize,
    /// The body's fat pointer in two words; valid while a task of the ticket's epoch is unfinished.
    body: [AtomicUsize; 2],
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
    caller: Mutex<Option<Thread>>,
}

impl Threads {
    /// A pool of `count` threads in all, the caller's included; at least one.
    pub fn new(count: usize) -> Self {
        Self::with_start(count, || ())
    }

    /// The same, with something that each thread of its own does first, such as to lower its
    /// priority; the caller's thread does not.
    pub fn with_start(count: usize, start: impl Fn() + Send + Sync + 'static) -> Self {
        let (shared, start) = (Arc::new(Shared::default()), Arc::new(start));
        let handles = (1..count.max(1))
            .filter_map(|worker| {
                let (shared, start) = (Arc::clone(&shared), Arc::clone(&start));
                let name = format!("priorfit-{worker}");
                let work = move || {
                    start();
                    shared.work(worker);
                };
                std::thread::Builder::new().name(name).spawn(work).ok()
            })
            .collect();
        Threads { shared, handles, turn: Mutex::new(()) }
    }

    /// A pool with one thread for each processor the program may use.
    pub fn available() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Number of threads that take part in a run, the caller's included.
    pub fn count(&self) -> usize {
        self.handles.len() + 1
    }

    /// Calls `body(task, worker)` once for every task in `0..tasks`, in no order, and waits.
    /// Worker numbers are below [`Threads::count`], and no two tasks run at once on one worker.
    ///
    /// # Panics
    /// When a task panics, after all claimed tasks have ended.
    pub fn run(&self, tasks: usize, body: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.handles.is_empty() {
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        assert!(tasks < u32::MAX as usize, "a run has fewer than 2^32 tasks");
        let turn = self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.shared.start(tasks, &body);
        self.shared.claim_all(0);
        self.shared.wait(tasks);
        drop(turn);
        if self.shared.panicked.swap(false, Ordering::AcqRel) {
            resume_unwind(Box::new("a kernel task panicked"));
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        drop(self.shared.sleepers.lock());
        self.shared.wake.notify_all();
        for handle in self.handles.drain(..) {
            // A worker catches the panics of its tasks, so it has none of its own to report.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn start(&self, tasks: usize, body: &Body<'_>) {
        // SAFETY: a fat pointer is two words; it is only read back as the same type.
        let words: [usize; 2] = unsafe { std::mem::transmute(std::ptr::from_ref(body)) };
        *self.caller.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some(std::thread::current());
        // Close the old epoch first, so that a late worker cannot claim under it with the new task
        // count.
        let old = self.ticket.load(Ordering::Relaxed) >> 32;
        self.ticket.store(old << 32 | CLOSED, Ordering::SeqCst);
        self.done.store(0, Ordering::Relaxed);
        self.tasks.store(tasks, Ordering::SeqCst);
        self.body[0].store(words[0], Ordering::Relaxed);
        self.body[1].store(words[1], Ordering::Relaxed);
        let epoch = old.wrapping_add(1) & CLOSED;
        self.ticket.store(epoch << 32, Ordering::SeqCst);
        let sleepers = *self.sleepers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if sleepers > 0 {
            self.wake.notify_all();
        }
    }

    /// Claims and runs tasks until the current epoch has none left.
    fn claim_all(&self, worker: usize) {
        loop {
            let ticket = self.ticket.load(Ordering::Acquire);
            let task = (ticket & CLOSED) as usize;
            let tasks = self.tasks.load(Ordering::Acquire);
            let words =
                [self.body[0].load(Ordering::Acquire), self.body[1].load(Ordering::Acquire)];
            if task >= tasks {
                return;
            }
            let claim = self.ticket.compare_exchange_weak(
                ticket,
                ticket + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if claim.is_err() {
                continue;
            }
            // SAFETY: the claim succeeded, so `ticket`'s epoch was current when it was made; its
            // body was stored before the epoch began and is replaced only after all its tasks,
            // this one included, are done. The caller keeps the body alive until then.
            let body: &Body<'_> =
                unsafe { &*std::mem::transmute::<[usize; 2], *const Body<'_>>(words) };
            if catch_unwind(AssertUnwindSafe(|| body(task, worker))).is_err() {
                self.panicked.store(true, Ordering::Release);
            }
            if self.done.fetch_add(1, Ordering::AcqRel) + 1 == tasks && worker != 0 {
                let caller = self.caller.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                caller.as_ref().map(Thread::unpark);
            }
        }
    }

    /// Waits until all tasks of the current run are done.
    fn wait(&self, tasks: usize) {
        for _ in 0..SPINS {
            if self.done.load(Ordering::Acquire) == tasks {
                return;
            }
            std::hint::spin_loop();
        }
        while self.done.load(Ordering::Acquire) < tasks {
            std::thread::park();
        }
    }

    /// The life of a worker: look for a new epoch, help, sleep.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        while !self.stop.load(Ordering::Acquire) {
            self.claim_all(worker);
            let epoch = self.ticket.load(Ordering::Acquire) >> 32;
            if epoch != seen {
                seen = epoch;
                continue;
            }
            if !self.spin_for_new(seen) {
                self.sleep(seen);
            }
        }
    }

    fn spin_for_new(&self, seen: u64) -> bool {
        (0..SPINS).any(|_| {
            std::hint::spin_loop();
            self.ticket.load(Ordering::Acquire) >> 32 != seen
        })
    }

    fn sleep(&self, seen: u64) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *sleepers += 1;
        while self.ticket.load(Ordering::SeqCst) >> 32 == seen && !self.stop.load(Ordering::Acquire)
        {
            sleepers = self.wake.wait(sleepers).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *sleepers -= 1;
    }
}

/// A mutable slice that tasks write at disjoint places.
///
/// Kernels split their output by task number; the borrow checker cannot see that the parts are
/// disjoint, so each kernel states it where it calls [`Parts::part`].
pub struct Parts<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: `Parts` only hands out parts under the contract of `Parts::part`.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above; a shared `Parts` gives access to elements only through `part`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Splits `slice` for the tasks of one run.
    pub fn new(slice: &'a mut [T]) -> Self {
        let (pointer, len) = (slice.as_mut_ptr(), slice.len());
        Parts { pointer, len, lifetime: std::marker::PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other live part overlaps these elements.
    ///
    /// # Panics
    /// When the part reaches past the end of the slice.
    pub unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part lies inside its slice");
        // SAFETY: in bounds by the assertion, disjoint by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }

    /// The address of an element, if there is one, to be told to the processor.
    pub fn hint(&self, index: usize) -> *const T {
        self.pointer.wrapping_add(index)
    }

    /// Where the elements `start..start + len` are, for tasks that write some of them.
    ///
    /// # Panics
    /// When they reach past the end of the slice.
    pub fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "a part lies inside its slice");
        self.pointer.wrapping_add(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        let threads = Threads::new(4);
        for tasks in [0, 1, 2, 3, 7, 64, 1000] {
            for _ in 0..50 {
                let mut hits = vec![0u8; tasks];
                let parts = Parts::new(&mut hits);
                // SAFETY: each task takes its own element.
                threads.run(tasks, |task, _| unsafe { parts.part(task, 1)[0] += 1 });
                assert!(hits.iter().all(|&hit| hit == 1));
            }
        }
    }

    #[test]
    fn a_panicking_task_reaches_the_caller_and_the_pool_survives() {
        let threads = Threads::new(3);
        let run = || threads.run(10, |task, _| assert!(task != 5, "task five fails on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        let count = AtomicUsize::new(0);
        threads.run(10, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
