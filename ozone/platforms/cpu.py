"""The CPU platform: facts from /proc, /sys and the scheduler. Nothing here loads the native library."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path

from ozone.config.platform import PlatformFacts
from ozone.errors import ConfigError
from ozone.platforms.cgroup import cpu_quota, memory_limits, read

_AVX2 = {"avx2", "fma", "f16c"}
_AVX512 = (
    _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vbmi"} | {"avx512_bf16", "avx512_vnni"}
)
_AMX = _AVX512 | {"amx_tile", "amx_bf16", "amx_int8"}

# Instruction sets that kernels are built for, least first, and the CPU flags that each needs.
ISAS: Mapping[str, frozenset[str]] = {
    "portable": frozenset(),
    "avx2": frozenset(_AVX2),
    "avx512": frozenset(_AVX512),
    "amx": frozenset(_AMX),
}


def detect(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> PlatformFacts:
    """The facts of this machine. `ConfigError` where ``OZONE_ISA`` names an instruction set it lacks.

    `root` stands for ``/`` and `environment` for the process's, so that tests can show another machine.
    `native` and `kernels` are left for the native room to fill in.
    """
    environment = os.environ if environment is None else environment
    cpuinfo = read(root / "proc/cpuinfo") or ""
    memory, available = memory_bytes(root)
    return PlatformFacts(
        name="cpu",
        cpu_model=_field(cpuinfo, "model name") or platform.machine() or "unknown",
        isa=choose_isa((_field(cpuinfo, "flags") or "").split(), environment.get("OZONE_ISA", "")),
        num_cores=num_cores(root),
        memory_bytes=memory,
        available_bytes=available,
    )


def fingerprint(root: Path = Path("/")) -> str:
    """What code that is made for this very CPU (``-march=native``) depends on: its model and flags."""
    cpuinfo = read(root / "proc/cpuinfo") or platform.machine()
    told = [_field(cpuinfo, "model name"), *sorted((_field(cpuinfo, "flags") or "").split())]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def choose_isa(flags: Collection[str], forced: str = "") -> str:
    """The best instruction set that a CPU with these flags has, or `forced` if it has that one."""
    possible = [name for name, needs in ISAS.items() if needs <= set(flags)]
    if not forced:
        return possible[-1]
    name = forced.strip().lower()
    if name not in ISAS:
        raise ConfigError(
            f"OZONE_ISA={forced}: there is no such instruction set; known are {', '.join(ISAS)}"
        )
    if name not in possible:
        lacking = ", ".join(sorted(ISAS[name] - set(flags)))
        raise ConfigError(f"OZONE_ISA={forced}: this CPU lacks {lacking}; it has {', '.join(possible)}")
    return name


def num_cores(root: Path = Path("/")) -> int:
    """Cores that affinity and cgroup quota leave to this process, rounded down, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """Memory that this process may use and the part of it that is free now, in bytes."""
    meminfo = read(root / "proc/meminfo") or ""
    total = _kibibytes(meminfo, "MemTotal")
    available = _kibibytes(meminfo, "MemAvailable") or _kibibytes(meminfo, "MemFree")
    if total == 0:
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            total = 0
        available = total
    for limit, used in memory_limits(root):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


def _field(cpuinfo: str, name: str) -> str | None:
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _kibibytes(meminfo: str, name: str) -> int:
    words = (_field(meminfo, name) or "").split()
    return int(words[0]) * 1024 if words and words[0].isdecimal() else 0
