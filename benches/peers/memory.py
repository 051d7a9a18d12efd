"""The most memory that this process has held."""

import resource
import sys
from pathlib import Path


def peak_rss_mb():
    """The peak in MiB. The kernel's own figure first: that of `getrusage` may be a parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
