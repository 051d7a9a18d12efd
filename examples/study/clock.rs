//! Seconds that a thread computed for, which other programs on the machine do not lengthen.

/// When something began.
#[derive(Clone, Copy, Debug)]
pub struct Started(f64);

impl Started {
    /// Now.
    pub fn now() -> Self {
        Started(now())
    }

    /// Seconds of the processor that this thread has had since.
    pub fn seconds(self) -> f64 {
        now() - self.0
    }
}

#[cfg(unix)]
fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Where threads have no clock of their own, that of the wall.
#[cfg(not(unix))]
fn now() -> f64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_secs_f64()
}
