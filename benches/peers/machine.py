"""What the report says of the machine and of the versions that were compared."""

import os
import platform
import subprocess
from pathlib import Path

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON", "neon": "NEON"}


def machine(priorfit):
    return {
        "processor": processor(), "cores": cores(), "hardware_threads": os.cpu_count(),
        "memory_gib": memory_gib(), "vectors": vectors(), "system": platform.system(),
        "priorfit": version_of(priorfit),
    }


def cpuinfo(*names):
    """All values of the first of these fields that /proc/cpuinfo has, if there is such a file."""
    path = Path("/proc/cpuinfo")
    pairs = [line.partition(":") for line in path.read_text().splitlines()] \
        if path.exists() else []
    for name in names:
        values = [value.strip() for field, _, value in pairs if field.strip() == name]
        if values:
            return values
    return []


def processor():
    names = cpuinfo("model name", "Hardware")
    return names[0] if names else platform.processor() or platform.machine()


def cores():
    """Physical cores where the system tells them apart, otherwise hardware threads."""
    sockets, identifiers = cpuinfo("physical id"), cpuinfo("core id")
    return len(set(zip(sockets, identifiers))) or os.cpu_count()


def memory_gib():
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def vectors():
    """The widest instructions there are, as the system names them."""
    flags = set(" ".join(cpuinfo("flags", "Features")[:1]).split())
    if platform.machine() in ("arm64", "aarch64"):
        flags.add("neon")
    return next((name for flag, name in VECTORS.items() if flag in flags), "unknown")


def version_of(priorfit):
    try:
        done = subprocess.run([str(priorfit), "--version"], capture_output=True, text=True)
    except OSError:
        return "not found"
    return done.stdout.strip().removeprefix("priorfit ") or "unknown"
