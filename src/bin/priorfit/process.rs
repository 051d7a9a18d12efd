//! What the operating system says about this process.

/// The most memory the process has held at once, in MiB, where the system tells.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// The same for people.
pub fn peak_rss_text(peak: Option<f64>) -> String {
    peak.map_or("unknown".to_string(), |mb| format!("{mb:.0} MiB"))
}
